//! Gemma 1, 2 and 3 (the text models): LLaMA with a scaled embedding, norms whose weights are stored minus one, and since
//! the second also norms of what attention and MLP put out, capped scores, and layers that see a window only.

use serde_json::Value;
use thumbformer::arch::{Activation, HeadNorm};

use super::llama::Draft;
use super::{Family, Names, activation, rope, sliding_window, windows};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FIRST: Family = Family { name: "gemma", classes: &["GemmaForCausalLM", "GemmaModel"], recipe: first };
pub(super) const SECOND: Family =
    Family { name: "gemma2", classes: &["Gemma2ForCausalLM", "Gemma2Model"], recipe: second };
pub(super) const THIRD: Family =
    Family { name: "gemma3_text", classes: &["Gemma3ForCausalLM", "Gemma3TextModel"], recipe: third };

fn first(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let own = ["attention_bias", "hidden_activation", "rms_norm_eps", "use_bidirectional_attention"];
    let mut draft = Draft::read(names, config, &own, rope::Variant::default())?;
    common(&mut draft, names, config)?;
    draft.arch.activation = match config.string("hidden_act")? {
        // What the first releases called so was the approximation.
        None | Some("gelu") => Activation::GeluTanh,
        Some(_) => activation(config, "hidden_act", Activation::GeluTanh)?,
    };
    if !matches!(config.string("hidden_activation")?, None | Some("gelu_pytorch_tanh")) {
        return Err(config.error("hidden_activation", "null or gelu_pytorch_tanh: hidden_act is what counts"));
    }
    draft.assemble(FIRST.name, names, config)
}

/// Fields of the second and third.
const LATER: [&str; 12] = [
    // Repeated by layer_types.
    "_sliding_window_pattern",
    "attention_bias",
    "attn_logit_softcapping",
    // A setting of the cache.
    "cache_implementation",
    "final_logit_softcapping",
    "hidden_activation",
    "layer_types",
    "query_pre_attn_scalar",
    "rms_norm_eps",
    "sliding_window",
    "sliding_window_pattern",
    "use_bidirectional_attention",
];

fn second(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let mut draft = Draft::read(names, config, &LATER, rope::Variant::default())?;
    later(&mut draft, names, config, 2)?;
    draft.arch.score_cap = cap(config, "attn_logit_softcapping", Some(50.0))?;
    draft.arch.logit_cap = cap(config, "final_logit_softcapping", Some(30.0))?;
    draft.assemble(SECOND.name, names, config)
}

fn third(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let own = [&LATER[..], &["rope_local_base_freq"]].concat();
    // Layers with a window rotate faster. transformers 5 has an object for each kind of layer, earlier files a second base.
    let kinds = config.object("rope_parameters")?.filter(|found| found.get("rope_theta").is_none());
    let field = |name: &str| config.get(name).cloned();
    let kind = |name: &str, theta: Option<Value>, default: f64, scaling: Option<Value>| {
        let fields = kinds.as_ref().and_then(|kinds| kinds.get(name));
        let inside = fields.is_some_and(|fields| fields.get("rope_theta").is_some());
        let theta = if inside { None } else { theta.or(Some(default.into())) };
        let scaling = scaling.filter(|_| fields.is_none());
        config.made_of(&[("rope_parameters", fields.cloned()), ("rope_theta", theta), ("rope_scaling", scaling)])
    };
    let every = kind("full_attention", field("rope_theta"), 1e6, field("rope_scaling"));
    let near = kind("sliding_attention", field("rope_local_base_freq"), 1e4, None);
    let variant = rope::Variant::default();
    let read = |head_dim: u32, context: u32, notes: &mut Vec<String>| {
        rope::Rope::read(&every, head_dim, context, variant, notes).map(Some)
    };
    let mut draft = Draft::with_rope(names, config, &own, read)?;
    later(&mut draft, names, config, config.integer("sliding_window_pattern")?.unwrap_or(6))?;
    draft.arch.head_norm = HeadNorm::Rms;
    draft.arch.score_cap = cap(config, "attn_logit_softcapping", None)?;
    draft.arch.logit_cap = cap(config, "final_logit_softcapping", None)?;
    if draft.arch.window > 0 {
        let (head_dim, context) = (draft.arch.head_dim, draft.arch.context);
        draft.arch.window_rope = true;
        draft.window_rope = Some(rope::Rope::read(&near, head_dim, context, variant, &mut draft.notes)?);
    }
    draft.assemble(THIRD.name, names, config)
}

/// What all three have.
fn common(draft: &mut Draft, names: &Names<'_>, config: &Config) -> Result<()> {
    if config.boolean("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(config.error(
            "use_bidirectional_attention",
            "false: with true the model continues no text but is an encoder, as EmbeddingGemma is, whose windows reach \
             to both sides and whose vectors go through further layers; neither is computed",
        ));
    }
    draft.tie_by_default(names, config)?;
    let bias = config.boolean("attention_bias")?.unwrap_or(false);
    draft.arch.biases.qkv = bias;
    draft.arch.biases.attention_out = bias;
    draft.arch.norm_eps = config.number("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    draft.arch.embedding_scale = f64::from(draft.arch.dim).sqrt() as f32;
    draft.layout.norm_offset = 1.0;
    Ok(())
}

/// What the second and third have. Every `every`th layer sees all positions, unless the configuration lists the layers.
fn later(draft: &mut Draft, names: &Names<'_>, config: &Config, every: u32) -> Result<()> {
    common(draft, names, config)?;
    draft.arch.activation = activation(config, "hidden_activation", Activation::GeluTanh)?;
    draft.arch.output_norms = true;
    let scalar = config.number("query_pre_attn_scalar")?.unwrap_or(256.0);
    if scalar as f32 <= 0.0 {
        return Err(config.error("query_pre_attn_scalar", "a positive number"));
    }
    draft.arch.attention_scale = scalar.sqrt().recip() as f32;
    if let Some(window) = sliding_window(config, Some(4096))? {
        let layers = windows::Layers::but_every(every);
        if !windows::apply(&mut draft.arch, config, window, layers)? {
            let pattern = "full_attention in every so-many-th layer behind the first ones, or at most 64 layers";
            return Err(config.error("layer_types", pattern));
        }
    }
    Ok(())
}

/// A cap, or 0 for none: `null` says that there is none, `default` holds where the configuration says nothing.
fn cap(config: &Config, field: &str, default: Option<f64>) -> Result<f32> {
    let cap = config.number(field)?.or(default.filter(|_| !config.names(field)));
    match cap {
        Some(cap) if cap as f32 <= 0.0 => Err(config.error(field, "a positive number or null")),
        cap => Ok(cap.unwrap_or(0.0) as f32),
    }
}
