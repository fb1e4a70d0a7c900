//! From a family's names and configuration to the architecture record: one short file for each family.
//!
//! A family is recognised by its configuration. It turns that into an [`Arch`] and says for every tensor the record
//! calls for which rows of which stored tensors make it up; `Plan::assemble` checks names, types and shapes
//! against the checkpoint. Every tensor must be there, be used or be known as a buffer without meaning, and have exactly
//! the shape the configuration implies: a converter that guesses makes models that are subtly wrong. Values are read
//! later, through the [`Recipe`].
//!
//! What each family's models ask of the record, as far as it shows in the tests' models:
//!
#![doc = include_str!("table.md")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use thumbformer::arch::{Activation, Arch, Kind, Role, TensorSpec};

use crate::checkpoint::{Checkpoint, some_of};
use crate::config::Config;
use crate::recipe::{self, Part, Recipe};
use crate::source::{Overrides, Source};
use crate::{Error, Result};

mod alibi;
mod annotated;
mod baichuan;
mod bart;
mod bert;
mod bloom;
mod distilbert;
mod encoder;
mod falcon;
mod gemma;
mod gpt2;
mod gpt_bigcode;
mod gpt_neox;
mod gptj;
mod llama;
mod mistral;
mod nanogpt;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;
pub(crate) mod sinusoidal;
mod spelling;
mod stablelm;
mod t5;
mod windows;

/// A family with a name in transformers.
struct Family {
    /// Its `model_type`.
    name: &'static str,
    /// The classes that compute it.
    classes: &'static [&'static str],
    recipe: fn(&Names<'_>, &Config, &Overrides) -> Result<Recipe>,
}

/// All of them; nanoGPT and the annotated transformer are recognised by their tensors.
const FAMILIES: [Family; 27] = [
    llama::FAMILY,
    mistral::FAMILY,
    mistral::MINISTRAL_FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    gemma::FIRST,
    gemma::SECOND,
    gemma::THIRD,
    phi::FAMILY,
    phi3::FAMILY,
    stablelm::FAMILY,
    baichuan::FAMILY,
    gpt2::FAMILY,
    gpt_bigcode::FAMILY,
    opt::FAMILY,
    gpt_neox::FAMILY,
    gptj::FAMILY,
    falcon::FAMILY,
    bloom::FAMILY,
    bert::BERT_FAMILY,
    bert::ROBERTA_FAMILY,
    bert::XLM_ROBERTA_FAMILY,
    distilbert::FAMILY,
    t5::T5_FAMILY,
    t5::MT5_FAMILY,
    bart::BART_FAMILY,
    bart::MARIAN_FAMILY,
];

/// Names of all families, as `model_type` and errors spell them.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.name).chain([nanogpt::NAME, annotated::NAME])
}

/// Recognises a checkpoint's family and makes its recipe.
///
/// # Errors
/// An unknown family or no configuration; a field that is missing, impossible, or asks for something unsupported; a
/// tensor that is missing, superfluous, misshapen or of a type that is not read.
pub fn recognise(source: &Source) -> Result<Recipe> {
    let names = Names::of(&source.checkpoint)?;
    let Some(config) = &source.config else {
        // Only these two's names and shapes say enough to name the field that is missing.
        return if nanogpt::recognise(&names) {
            nanogpt::recipe(&names, None)
        } else if annotated::recognise(&names) {
            annotated::recipe(&names, None)
        } else {
            Err(source.no_config())
        };
    };
    let unknown = |found: String| {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        Error::Family {
            path: config.path().into(),
            found,
            known: format!("{}, nanoGPT, the annotated transformer", names.join(", ")),
        }
    };
    let architectures: Vec<&str> = match config.get("architectures") {
        None => Vec::new(),
        Some(list) => {
            let names = list.as_array().and_then(|list| list.iter().map(|name| name.as_str()).collect());
            names.ok_or_else(|| config.error("architectures", "a list of names"))?
        }
    };
    let model_type = config.string("model_type")?;
    let family = FAMILIES.iter().find(|family| match model_type {
        Some(name) => family.name == name,
        None => architectures.iter().any(|name| family.classes.contains(name)),
    });
    let flags = [
        ("--normalize-head", source.overrides.normalize_head.is_some()),
        ("--alibi", source.overrides.alibi.is_some()),
    ];
    if let Some((flag, _)) = flags.iter().find(|(_, given)| *given)
        && family.is_none_or(|family| family.name != baichuan::FAMILY.name)
    {
        return Err(Error::Usage(format!("{flag} is for baichuan only: other families leave no doubt")));
    }
    if let Some(family) = family {
        return match architectures.iter().find(|name| !family.classes.contains(name)) {
            Some(other) => Err(unknown(format!("architecture `{other}`"))),
            None => (family.recipe)(&names, config, &source.overrides),
        };
    }
    if let Some(model_type) = model_type {
        Err(unknown(format!("model_type `{model_type}`")))
    } else if !architectures.is_empty() {
        Err(unknown(format!("architectures {architectures:?}")))
    } else if config.get("n_head").is_some() && nanogpt::recognise(&names) {
        nanogpt::recipe(&names, Some(config))
    } else if annotated::recognise(&names) {
        annotated::recipe(&names, Some(config))
    } else {
        let tensors = some_of(names.stored.keys().map(String::as_str));
        Err(unknown(format!("a configuration without model_type, and tensors {tensors}")))
    }
}

/// A checkpoint's tensors under the names that a family knows: without what wrappers of the model put before them.
struct Names<'a> {
    checkpoint: &'a Checkpoint,
    /// From the family's spelling to the file's.
    stored: BTreeMap<String, &'a str>,
}

impl<'a> Names<'a> {
    /// Strips `torch.compile`'s `_orig_mod.` and `DataParallel`'s leading `module.`.
    fn of(checkpoint: &'a Checkpoint) -> Result<Self> {
        let mut stored = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let mut name = tensor.name.replace("_orig_mod.", "");
            while let Some(rest) = name.strip_prefix("module.") {
                name = rest.to_owned();
            }
            if let Some(other) = stored.insert(name, tensor.name) {
                return Err(Error::Tensor {
                    path: checkpoint.file_of(tensor.name).into(),
                    tensor: tensor.name.into(),
                    found: format!("`{other}` too, which differs by a wrapper's prefix only"),
                    expected: "one of them".into(),
                });
            }
        }
        Ok(Names { checkpoint, stored })
    }

    fn has(&self, name: &str) -> bool {
        self.stored.contains_key(name)
    }

    fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.checkpoint.shape(self.stored.get(name)?)
    }

    /// The first of `prefixes` that any name begins with, else nothing: files of a bare model lack the outer modules'
    /// names.
    fn prefix(&self, prefixes: &[&'static str]) -> &'static str {
        let used = |prefix: &&str| self.stored.keys().any(|name| name.starts_with(prefix));
        prefixes.iter().copied().find(used).unwrap_or("")
    }

    /// Refuses a tensor that is stored again under another name, where such copies have one value in the model: what
    /// differs would get lost.
    fn refuse_other_copy(&self, name: &str, copy: &str) -> Result<()> {
        match (self.stored.get(name), self.stored.get(copy)) {
            (Some(a), Some(b)) if !self.checkpoint.same_values(a, b) => Err(tensor_error(
                self.checkpoint.file_of(b),
                b,
                format!("other values than those of `{a}`"),
                "a copy of it".into(),
            )),
            _ => Ok(()),
        }
    }

    /// A whole matrix, to compute something from.
    fn read(&self, name: &str, rows: u32, cols: u32) -> Result<Vec<f32>> {
        let expected = vec![rows as usize, cols as usize];
        let Some(stored) = self.stored.get(name) else {
            let path = self.checkpoint.path();
            return Err(tensor_error(path, name, "nothing".into(), format!("shape {expected:?}")));
        };
        check(self.checkpoint, stored, &expected)?;
        let mut values = vec![0f32; rows as usize * cols as usize];
        let part = Part::whole(*stored, rows as usize);
        self.checkpoint.read_part(&part, 0..rows as usize, cols as usize, &mut values)?;
        Ok(values)
    }

    /// Whether the head shares the embedding, as transformers decides it: where the configuration says so, unless both
    /// are stored and differ.
    fn head(&self, embedding: &str, head: &str, configured: bool, notes: &mut Vec<String>) -> Head {
        if !configured {
            return Head::Own;
        }
        match (self.stored.get(embedding), self.stored.get(head)) {
            (None, Some(_)) => Head::Only,
            (Some(a), Some(b)) if !self.checkpoint.same_values(a, b) => {
                notes.push(format!(
                    "the configuration ties the head to the embedding, but `{b}` differs from `{a}`: the head is kept"
                ));
                Head::Own
            }
            _ => Head::Tied,
        }
    }
}

/// Where the output matrix comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Head {
    /// A tensor of its own.
    Own,
    /// The token embedding; a stored copy is ignored.
    Tied,
    /// The only one stored: the token embedding is this tensor too.
    Only,
}

impl Head {
    fn is_tied(self) -> bool {
        self != Head::Own
    }

    /// Whether a tensor named `name` is a copy of the embedding under the head's name, `head`.
    fn repeats(self, name: &str, head: &str) -> bool {
        self == Head::Tied && name == head
    }
}

/// Rows of one stored tensor, in a family's spelling.
#[derive(Clone)]
struct Piece {
    name: String,
    first_row: u32,
    rows: u32,
    /// Rows that the whole tensor must have.
    of: u32,
    transposed: bool,
    scale: f32,
    /// Rows are brought to unit length.
    unit_rows: bool,
    /// Added to every value.
    offset: f32,
    /// Rotary pairs are stored as neighbours.
    interleaved: Option<recipe::Interleaved>,
    /// A vector that is stored as a matrix of one row.
    row: bool,
    /// What rows are multiplied by.
    factor: Option<Factor>,
}

/// A stored matrix that turns rows of `inner` columns into as many as the record wants.
#[derive(Clone)]
struct Factor {
    name: String,
    inner: u32,
    /// Stored as `inner × columns`.
    transposed: bool,
}

impl Piece {
    /// A whole tensor of `rows` rows; a vector's elements are its rows.
    fn whole(name: impl Into<String>, rows: u32) -> Self {
        Piece {
            name: name.into(),
            first_row: 0,
            rows,
            of: rows,
            transposed: false,
            scale: 1.0,
            unit_rows: false,
            offset: 0.0,
            interleaved: None,
            row: false,
            factor: None,
        }
    }

    /// `rows` of its rows from `first` on.
    fn rows(&self, first: u32, rows: u32) -> Self {
        Piece { first_row: self.first_row + first, rows, ..self.clone() }
    }
}

/// What a family understood.
struct Plan<'a> {
    family: &'static str,
    arch: Arch,
    /// What the configuration gives: rotary frequencies, slopes.
    computed: Vec<(Role, recipe::Source)>,
    /// Pieces of the tensors that are stored.
    pieces: &'a dyn Fn(TensorSpec) -> Vec<Piece>,
    /// Whether a tensor of that name may be left over.
    ignorable: &'a dyn Fn(&str) -> bool,
    notes: Vec<String>,
}

impl Plan<'_> {
    /// Checks the checkpoint against the plan and makes the recipe.
    fn assemble(self, names: &Names<'_>) -> Result<Recipe> {
        let checkpoint = names.checkpoint;
        let mut used = BTreeSet::new();
        let mut missing = Vec::new();
        let mut parts = Vec::new();
        for spec in self.arch.tensors() {
            let mut of_spec = Vec::new();
            let pieces = (self.pieces)(spec);
            let rows = if spec.kind == Kind::Vector { spec.cols } else { spec.rows };
            if spec.role.is_trained()
                && !self.computed.iter().any(|(role, _)| *role == spec.role)
                && pieces.iter().map(|piece| u64::from(piece.rows)).sum::<u64>() != u64::from(rows)
            {
                let (family, role) = (self.family, spec.role.name());
                return Err(Error::Usage(format!("this version does not know how {family} stores its {role}")));
            }
            for piece in pieces {
                let mut find = |name: &str, shape: Vec<usize>| -> Result<Option<String>> {
                    match names.stored.get_key_value(name) {
                        None => {
                            missing.push((spec.role, name.to_owned(), shape));
                            Ok(None)
                        }
                        Some((name, stored)) => {
                            check(checkpoint, stored, &shape)?;
                            used.insert(name.as_str());
                            Ok(Some((*stored).to_owned()))
                        }
                    }
                };
                let stored = find(&piece.name, shape(spec, &piece))?;
                let factor = match &piece.factor {
                    None => None,
                    Some(Factor { name, inner, transposed }) => {
                        let (rows, cols) = (spec.cols as usize, *inner as usize);
                        let shape = if *transposed { vec![cols, rows] } else { vec![rows, cols] };
                        let part = |name| Part { transposed: *transposed, ..Part::whole(name, rows) };
                        find(name, shape)?.map(part).map(Box::new)
                    }
                };
                if let Some(tensor) = stored {
                    of_spec.push(Part {
                        tensor,
                        first_row: piece.first_row as usize,
                        rows: piece.rows as usize,
                        transposed: if spec.kind == Kind::Matrix { piece.transposed } else { piece.row },
                        interleaved: piece.interleaved,
                        scale: piece.scale,
                        unit_rows: piece.unit_rows,
                        offset: piece.offset,
                        factor,
                    });
                }
            }
            parts.push((spec, of_spec));
        }
        if let Some((role, first, shape)) = missing.first() {
            let found = match missing.len() {
                1 => "nothing".to_owned(),
                _ => format!("nothing; missing: {}", some_of(missing.iter().map(|(_, name, _)| name.as_str()))),
            };
            let hint = if *role == Role::Head { ", or a configuration that ties it to the embedding" } else { "" };
            return Err(tensor_error(checkpoint.path(), first, found, format!("shape {shape:?}{hint}")));
        }
        let left: Vec<&str> = names
            .stored
            .iter()
            .filter(|(name, _)| !used.contains(name.as_str()) && !(self.ignorable)(name))
            .map(|(_, &stored)| stored)
            .collect();
        if let Some(&first) = left.first() {
            return Err(tensor_error(
                checkpoint.file_of(first),
                first,
                format!("tensors beyond those of this architecture: {}", some_of(left.iter().copied())),
                format!("only the tensors of a {} model as configured", self.family),
            ));
        }

        // Sizes are real now: the checkpoint holds tensors of them.
        let tensors = parts
            .into_iter()
            .map(|(spec, parts)| {
                let computed = self.computed.iter().find(|(role, _)| *role == spec.role);
                let source = match (spec.role, computed) {
                    (_, Some((_, source))) => source.clone(),
                    (role, None) if role.is_key_mean() => recipe::Source::Values(vec![0.0; spec.cols as usize]),
                    _ => recipe::Source::Parts(parts),
                };
                recipe::Tensor { spec, source }
            })
            .collect();
        Ok(Recipe { family: self.family, arch: self.arch, tensors, source: None, notes: self.notes })
    }
}

/// The shape that a piece's tensor must be stored in.
fn shape(spec: TensorSpec, piece: &Piece) -> Vec<usize> {
    let (rows, cols) = (piece.of as usize, piece.factor.as_ref().map_or(spec.cols, |factor| factor.inner) as usize);
    match (spec.kind, piece.transposed) {
        (Kind::Vector, _) if piece.row => vec![1, rows],
        (Kind::Vector, _) => vec![rows],
        (Kind::Matrix, false) => vec![rows, cols],
        (Kind::Matrix, true) => vec![cols, rows],
    }
}

/// Checks a stored tensor's shape and type.
fn check(checkpoint: &Checkpoint, stored: &str, expected: &[usize]) -> Result<()> {
    let Some(info) = checkpoint.tensor(stored) else {
        return Err(tensor_error(checkpoint.path(), stored, "nothing".into(), format!("shape {expected:?}")));
    };
    let wrong = |found, expected| Err(tensor_error(checkpoint.file_of(stored), stored, found, expected));
    if info.shape != expected {
        wrong(format!("shape {:?}", info.shape), format!("shape {expected:?}"))
    } else if !info.dtype.is_float() {
        wrong(format!("type {}", info.dtype), "f32, f16, bf16 or f64".into())
    } else {
        Ok(())
    }
}

fn tensor_error(path: &Path, tensor: &str, found: String, expected: String) -> Error {
    Error::Tensor { path: path.into(), tensor: tensor.into(), found, expected }
}

/// Checks the record's ranges, in the configuration's name.
fn validated(arch: Arch, config: &Path) -> Result<Arch> {
    arch.validate().map_err(|error| Error::format(config, error.to_string()))?;
    Ok(arch)
}

/// transformers' name of an activation.
fn activation(config: &Config, field: &str, default: Activation) -> Result<Activation> {
    match config.string(field)? {
        None => Ok(default),
        Some("gelu" | "gelu_python") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("relu") => Ok(Activation::Relu),
        Some(_) => Err(config.error(field, "one of gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, silu, swish, relu")),
    }
}

/// Refuses a switch that is not as everything published has it.
fn fixed(config: &Config, field: &str, value: bool) -> Result<()> {
    match config.boolean(field)? {
        Some(found) if found != value => Err(config.error(field, format!("{value}: the other is not supported"))),
        _ => Ok(()),
    }
}

/// How many positions a query sees, where that is limited. `null` says that it is not; `default` holds where the
/// configuration says nothing.
fn sliding_window(config: &Config, default: Option<u32>) -> Result<Option<u32>> {
    Ok(config.integer("sliding_window")?.or(default.filter(|_| !config.names("sliding_window"))))
}

/// Width of the residual stream, heads, and the width of each, which divides evenly.
fn heads_of(config: &Config, dim_field: &str, heads_field: &str) -> Result<(u32, u32, u32)> {
    let (dim, heads) = (config.required(dim_field)?, config.required(heads_field)?);
    if heads == 0 || dim % heads != 0 {
        return Err(config.error(heads_field, format!("a divisor of {dim_field}, {dim}")));
    }
    Ok((dim, heads, dim / heads))
}

/// `1/√head_dim`, rounded once.
fn inverse_sqrt(head_dim: u32) -> f32 {
    (1.0 / f64::from(head_dim).sqrt()) as f32
}
