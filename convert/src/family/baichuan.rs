//! Baichuan 1 and 2 with 7 billion parameters: LLaMA with queries, keys and values in one tensor.
//!
//! Baichuan 2 brings the rows of its head to unit length when it is loaded. No field of the configuration says so: the
//! vocabulary and the class tell the two apart, and `--normalize-head` decides where they do not.

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
    // The larger models put ALiBi in place of RoPE and say it nowhere.
    let large = [("hidden_size", 5120), ("num_hidden_layers", 40), ("num_attention_heads", 40)];
    let large = large.iter().find(|(field, size)| config.get(field).is_some_and(|found| found == size));
    let alibi = config.get("alibi").filter(|found| **found != false).map(|_| "alibi");
    if let Some(field) = alibi.or(large.map(|(field, _)| *field)) {
        return Err(config.error(field, "Baichuan 7B: Baichuan 13B uses ALiBi, which is not supported yet"));
    }
    for field in rope::FIELDS {
        // The models' own code knows no such field.
        if config.get(field).is_some_and(|found| found != 10_000.0) {
            return Err(config.error(field, "nothing: Baichuan 7B rotates with the base 10000"));
        }
    }
    let variant = rope::Variant { fixed_theta: true, ..rope::Variant::default() };
    // Of its generation code.
    let own = ["model_max_length", "rms_norm_eps"];
    let mut draft = Draft::read(names, config, &own, variant)?;
    draft.arch.norm_eps = config.number("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    draft.layout.fused_qkv = Some("self_attn.W_pack");
    let (normalized, why) = match overrides.normalize_head {
        Some(normalized) => (normalized, "as --normalize-head says"),
        None => detect(config, draft.arch.vocab)?,
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

/// Whether this is Baichuan 2, by what differs between the published models.
fn detect(config: &Config, vocab: u32) -> Result<(bool, &'static str)> {
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
