//! `thumbformer inspect MODEL.thumb`: everything the head knows.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use thumbformer::Model;
use thumbformer::arch::{Arch, Kind};
use thumbformer::blob::header::VERSION;
use thumbformer::blob::{Placed, placement};

use super::convert::{
    BoardFit, Ram, architecture, boards, group, print_boards, print_ram, ram, tensor_name, tokenizer as describe,
};
use super::model::is_blob;
use super::{bytes, count, print_json, say};
use crate::tokenizer::piece;
use crate::{Error, Result, mapped};

/// Show what a .thumb file holds and what it needs
#[derive(Args, Debug)]
pub struct Arguments {
    /// The .thumb file
    pub model: PathBuf,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    bytes: u64,
    checksum: String,
    layout: &'static str,
    group: u32,
    architecture: Architecture,
    /// Of an encoder-decoder, whose decoder is the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoder: Option<Architecture>,
    parameters: u64,
    start_token: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    second_token: Option<u32>,
    mask_token: Option<u32>,
    end_tokens: Vec<u32>,
    tokenizer_bytes: u64,
    tokenizer: Option<String>,
    prompt_format: Option<(Vec<u32>, Vec<u32>)>,
    ram: Vec<Ram>,
    boards: Vec<BoardFit>,
    tensors: Vec<TensorRow>,
    /// Of the encoder of an encoder-decoder.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    encoder_tensors: Vec<TensorRow>,
}

#[derive(Serialize)]
struct Architecture {
    summary: String,
    vocab: u32,
    dim: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    hidden: u32,
    context: u32,
    norm: String,
    norm_eps: f32,
    head_norm: String,
    wiring: String,
    embedding_scale: f32,
    causal: bool,
    post_norm: bool,
    normed_residual: bool,
    final_norm: bool,
    embedding_norm: bool,
    token_types: u32,
    head_transform: bool,
    headless: bool,
    position: String,
    rotary_dim: u32,
    activation: String,
    gated: bool,
    norm_bias: bool,
    qkv_bias: bool,
    attention_out_bias: bool,
    mlp_bias: bool,
    head_bias: bool,
    tied_head: bool,
    attention_scale: f32,
    score_cap: f32,
    logit_cap: f32,
    window: u32,
    window_from: u32,
    global_every: u32,
    window_list: u64,
    window_rope: bool,
    output_norms: bool,
    cross: bool,
    shared_embedding: bool,
    relative_distance: u32,
}

#[derive(Serialize)]
struct TensorRow {
    #[serde(skip)]
    name: String,
    role: &'static str,
    layer: u32,
    kind: &'static str,
    rows: u32,
    cols: u32,
    offset: u64,
    bytes: u64,
    /// The power of two that all scales share.
    #[serde(skip_serializing_if = "Option::is_none")]
    factor: Option<f32>,
}

impl From<&Arch> for Architecture {
    fn from(a: &Arch) -> Self {
        let lower = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
        Self {
            summary: architecture(a),
            vocab: a.vocab,
            dim: a.dim,
            layers: a.layers,
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
            hidden: a.hidden,
            context: a.context,
            norm: lower(&a.norm),
            norm_eps: a.norm_eps,
            head_norm: lower(&a.head_norm),
            wiring: lower(&a.wiring),
            embedding_scale: a.embedding_scale,
            causal: a.causal,
            post_norm: a.post_norm,
            normed_residual: a.normed_residual,
            final_norm: a.final_norm,
            embedding_norm: a.embedding_norm,
            token_types: a.token_types,
            head_transform: a.head_transform,
            headless: a.headless,
            position: lower(&a.position),
            rotary_dim: a.rotary_dim,
            activation: lower(&a.activation),
            gated: a.gated,
            norm_bias: a.biases.norm,
            qkv_bias: a.biases.qkv,
            attention_out_bias: a.biases.attention_out,
            mlp_bias: a.biases.mlp,
            head_bias: a.biases.head,
            tied_head: a.tied_head,
            attention_scale: a.attention_scale,
            score_cap: a.score_cap,
            logit_cap: a.logit_cap,
            window: a.window,
            window_from: a.window_from,
            global_every: a.global_every,
            window_list: a.window_list.bits(),
            window_rope: a.window_rope,
            output_norms: a.output_norms,
            cross: a.cross,
            shared_embedding: a.shared_embedding,
            relative_distance: a.relative_distance,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The file cannot be read, or is no valid blob.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = &arguments.model;
    std::fs::metadata(path).map_err(Error::io(path))?;
    if !is_blob(path) {
        return Err(Error::format(path, "not a .thumb file; make one with `convert`"));
    }
    let blob = mapped::open(path)?;
    let model = Model::new(&blob).map_err(|source| Error::Blob { path: path.clone(), source })?;
    let header = model.header();
    let source = model.source();
    let parameters = source.map_or(0, |source| source.arch().parameters()) + header.arch.parameters();
    let source_tensors = source.map(|source| tensors(&source, header.source_offset().unwrap_or(0)));
    let report = Report {
        version: VERSION,
        bytes: header.file_len,
        checksum: format!("{:08x}", header.content_crc),
        layout: header.packing.layout.name(),
        group: header.packing.group,
        architecture: (&header.arch).into(),
        encoder: source.map(|source| source.arch().into()),
        parameters,
        start_token: header.special.start,
        second_token: header.special.second,
        mask_token: header.special.mask,
        end_tokens: header.special.end().to_vec(),
        tokenizer_bytes: header.tokenizer_len,
        tokenizer: model.tokenizer().map(describe),
        prompt_format: model.tokenizer().and_then(|t| t.prompt_format()).map(|(a, b)| (a.collect(), b.collect())),
        ram: ram(header, source.as_ref().map(|source| source.header())),
        boards: boards(header, source.as_ref().map(|source| source.header())),
        tensors: tensors(&model, 0),
        encoder_tensors: source_tensors.unwrap_or_default(),
    };
    if arguments.json {
        return print_json(&report);
    }
    report.print(arguments, &model)
}

/// All tensors of a blob that begins at byte `base` of its file.
fn tensors(model: &Model<'_>, base: u64) -> Vec<TensorRow> {
    let header = model.header();
    let row = |placed: Placed| {
        let spec = placed.spec;
        TensorRow {
            name: tensor_name(&spec),
            role: spec.role.name(),
            layer: spec.layer,
            kind: if spec.kind == Kind::Matrix { "int8" } else { "f32" },
            rows: spec.rows,
            cols: spec.cols,
            offset: base + placed.offset,
            bytes: placed.len + placed.scales_len,
            factor: model.matrix(spec.role, spec.layer).map(|m| m.factor()),
        }
    };
    placement(&header.arch, header.packing, header.tokenizer_len).map(row).collect()
}

fn print_tensors(tensors: &[TensorRow]) -> Result<()> {
    for row in tensors {
        let shape = if row.kind == "f32" { row.cols.to_string() } else { format!("{} × {}", row.rows, row.cols) };
        let (name, size) = (&row.name, bytes(row.bytes));
        say!("    {name:<32}{:<6}{shape:>16}{size:>12}  at {}", row.kind, row.offset)?;
    }
    Ok(())
}

impl Report {
    fn print(&self, arguments: &Arguments, model: &Model<'_>) -> Result<()> {
        say!("{}", arguments.model.display())?;
        say!("  format      version {}, {}, checksum {}", self.version, bytes(self.bytes), self.checksum)?;
        say!("  model       {}", self.architecture.summary)?;
        if let Some(encoder) = &self.encoder {
            say!("              {}", encoder.summary)?;
        }
        let all = self.tensors.iter().chain(&self.encoder_tensors);
        let weights: u64 = all.filter(|t| t.kind == "int8").map(|t| t.bytes).sum();
        say!(
            "  weights     {} parameters, {} ({}, {})",
            count(self.parameters),
            bytes(weights),
            self.layout,
            group(self.group)
        )?;
        say!(
            "  attention   scale {}, norm epsilon {:e}",
            self.architecture.attention_scale,
            self.architecture.norm_eps
        )?;
        let tokenizer = self.tokenizer.as_deref().unwrap_or("none: token ids only");
        say!("  tokenizer   {tokenizer}, {}", bytes(self.tokenizer_bytes))?;
        let name = |id: &u32| match model.tokenizer() {
            Some(t) => format!("{id} {}", piece(t, *id)),
            None => id.to_string(),
        };
        let names = |ids: &[u32]| ids.iter().map(name).collect::<Vec<_>>().join(", ");
        let or_none = |text: String| if text.is_empty() { "none".into() } else { text };
        if let Some(mask) = &self.mask_token {
            say!("  mask        {}", name(mask))?;
        }
        let start: Vec<u32> = self.start_token.into_iter().chain(self.second_token).collect();
        say!("  start       {}", or_none(names(&start)))?;
        say!("  end         {}", or_none(names(&self.end_tokens)))?;
        if let Some((before, after)) = &self.prompt_format {
            say!("  prompt      {} · text · {}", names(before), names(after))?;
        }
        print_ram(&self.ram)?;
        print_boards(&self.boards)?;
        say!(
            "  tensors     {}{}",
            self.tensors.len(),
            if arguments.tensors { "" } else { " (list them with --tensors)" }
        )?;
        if arguments.tensors {
            print_tensors(&self.tensors)?;
        }
        if !self.encoder_tensors.is_empty() {
            say!("  encoder's   {}", self.encoder_tensors.len())?;
            if arguments.tensors {
                print_tensors(&self.encoder_tensors)?;
            }
        }
        Ok(())
    }
}
