//! Tokenizers that are made from the text to train on.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use crate::{Error, Result};

/// The token that ends a text in a vocabulary made here.
pub const END: &str = "<|endoftext|>";

/// The tokenizer.json of byte-level BPE (Sennrich et al., 2016; Radford et al., 2019) with `vocab` tokens: `special` ones
/// first, then the 256 bytes, then merges of pairs that occur at least twice, the most frequent first.
///
/// # Errors
/// The texts have fewer such pairs than are needed, or `vocab` has no room for bytes.
pub fn train_bpe<'t>(texts: impl Iterator<Item = &'t str> + Send, vocab: usize, special: &[&str]) -> Result<String> {
    let least = 256 + special.len();
    if vocab < least {
        let expected = format!("at least {least}, for the 256 bytes and {} special tokens", special.len());
        return Err(Error::Usage(format!("--vocab {vocab}: expected {expected}")));
    }
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocab)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.iter().map(|name| AddedToken::from(*name, true)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    let failed = |error: tokenizers::Error| Error::Usage(format!("training a tokenizer: {error}"));
    tokenizer.train(&mut trainer, texts).map_err(failed)?;
    let found = tokenizer.get_vocab_size(true);
    if found < vocab {
        return Err(Error::Usage(format!(
            "--vocab {vocab}: the text supports {found} tokens at most, no further pair of them occurs twice"
        )));
    }
    tokenizer.to_string(true).map_err(failed)
}

/// The tokenizer.json of the texts' characters, as nanoGPT's character-level data sets have them: ids in the order of
/// code points.
///
/// # Errors
/// A text has U+2581, which stands for the space in such files.
pub fn characters<'t>(texts: impl Iterator<Item = &'t str>) -> Result<String> {
    const SPACE: &str = "\u{2581}";
    let characters: BTreeSet<char> = texts.flat_map(str::chars).collect();
    if characters.contains(&'\u{2581}') {
        return Err(Error::Usage("the text has U+2581, which stands for the space: use --tokenizer bpe".into()));
    }
    let name = |c: &char| if *c == ' ' { SPACE.to_owned() } else { c.to_string() };
    let vocab: serde_json::Map<String, Value> =
        characters.iter().enumerate().map(|(id, c)| (name(c), Value::from(id))).collect();
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": SPACE },
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": SPACE }, "content": " " },
            { "type": "Fuse" },
        ] },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": [],
        },
    });
    serde_json::to_string_pretty(&file).map_err(|e| Error::Usage(e.to_string()))
}
