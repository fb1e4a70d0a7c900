//! Baichuan 1 and 2: LLaMA with queries, keys and values in one tensor; the models with 13 billion parameters have ALiBi in
//! place of RoPE.
//!
//! Baichuan 2 brings the rows of its head to unit length when it is loaded. No field of the configuration says so: the
//! vocabulary and the class tell the two apart, and `--normalize-head` decides where they do not. Nor does any say ALiBi:
//! the sizes and the name of the context tell, and `--alibi` decides.

use super::llama::Draft;
use super::{Family, Head, Names, rope};
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;
use crate::{Error, Result};

/// Baichuan 1 spelled its class differently.
const FIRST: &str = "BaiChuanForCausalLM";
const SECOND: &str = "BaichuanForCausalLM";

pub(super) const FAMILY: Family = Family { name: "baichuan", classes: &[FIRST, SECOND], recipe };

fn recipe(names: &Names<'_>, config: &Config, overrides: &Overrides) -> Result<Recipe> {
    let (alibi, why) = alibi(config, overrides)?;
    for field in rope::FIELDS {
        // The models' own code knows no such field.
        if config.get(field).is_some_and(|found| found != 10_000.0) {
            return Err(config.error(field, "nothing: Baichuan rotates with the base 10000, or not at all"));
        }
    }
    let variant = rope::Variant { fixed_theta: true, ..rope::Variant::default() };
    // The larger models name their context so; else it is of the generation code.
    let own = ["alibi", "model_max_length", "rms_norm_eps", "z_loss_weight"];
    let renamed = config.renamed("model_max_length", "max_position_embeddings");
    let config = if config.get("max_position_embeddings").is_none() { &renamed } else { config };
    let mut draft = Draft::with_rope(names, config, &own, |head_dim, context, notes| {
        if alibi { Ok(None) } else { rope::Rope::read(config, head_dim, context, variant, notes).map(Some) }
    })?;
    draft.arch.norm_eps = config.number("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    draft.layout.fused_qkv = Some("self_attn.W_pack");
    draft.notes.push(format!("positions enter by {}, {why}", if alibi { "ALiBi" } else { "RoPE" }));
    let (normalized, why) = match overrides.normalize_head {
        Some(normalized) => (normalized, "as --normalize-head says"),
        None => detect(config, draft.arch.vocab, alibi)?,
    };
    draft.notes.push(if normalized {
        format!("the head's rows are brought to unit length, {why}")
    } else {
        format!("the head is taken as it is stored, {why}")
    });
    if normalized && draft.layout.head != Head::Own {
        return Err(config.error("tie_word_embeddings", "false: a head with rows of unit length is no embedding"));
    }
    draft.layout.unit_head = normalized;
    draft.assemble(FAMILY.name, names, config)
}

/// Whether positions enter by ALiBi.
fn alibi(config: &Config, overrides: &Overrides) -> Result<(bool, &'static str)> {
    if let Some(alibi) = overrides.alibi {
        return Ok((alibi, "as --alibi says"));
    }
    if let Some(alibi) = config.boolean("alibi")? {
        return Ok((alibi, "as the configuration says"));
    }
    let large = [("hidden_size", 5120), ("num_hidden_layers", 40), ("num_attention_heads", 40)];
    if large.iter().all(|(field, size)| config.get(field).is_some_and(|found| found == size)) {
        return Ok((true, "as its sizes are those of the models with 13 billion parameters"));
    }
    if config.get("max_position_embeddings").is_none() && config.get("model_max_length").is_some() {
        return Ok((true, "as only the models with 13 billion parameters name their context model_max_length alone"));
    }
    Ok((false, "as its sizes are not those of the models with 13 billion parameters (--alibi yes says otherwise)"))
}

/// Whether this is Baichuan 2, by what differs between the published models.
fn detect(config: &Config, vocab: u32, alibi: bool) -> Result<(bool, &'static str)> {
    let class = config.get("architectures").and_then(|list| list.get(0)).and_then(|name| name.as_str());
    let by_class = match class {
        Some(FIRST) => Some(false),
        Some(SECOND) => Some(true),
        _ => None,
    };
    let by_vocab = match vocab {
        64_000 => Some(false),
        125_696 => Some(true),
        _ => None,
    };
    match (by_vocab, by_class) {
        // The first of the larger models had the second's class.
        (Some(false), Some(true)) if alibi => Ok((false, "as the vocabulary is Baichuan 1's")),
        (Some(true), None | Some(true)) => Ok((true, "as the vocabulary is Baichuan 2's")),
        (Some(false), None | Some(false)) => Ok((false, "as the vocabulary is Baichuan 1's")),
        (None, Some(true)) => Ok((true, "as the class is Baichuan 2's")),
        (None, Some(false)) => Ok((false, "as the class is Baichuan 1's")),
        _ => Err(Error::Usage(format!(
            "{}: vocab_size {vocab} and architectures do not tell Baichuan 1 from 2: say --normalize-head yes if the \
             head's rows are to be brought to unit length, as in Baichuan 2, else no",
            config.path().display()
        ))),
    }
}
