//! The prompt format: what a model was trained to see around a user's text.
//!
//! It comes from a chat template, from role tokens that are known by their names, or from the user. On the device it is
//! ids before and after the text. A format that cannot be split so (because tokens reach across the text's borders) is
//! noticed by trying texts, and refused.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, context};
use thumbformer::tokenizer::{EncodeOptions, Prefix, Tokenizer};

use super::draft::{Draft, Prompt};
use super::host;
use crate::{Error, Result};

/// Stands for the user's text in a format.
const PLACEHOLDER: &str = "{prompt}";

/// Stands for the user's text while a template is rendered: nothing that a template would contain or change.
const MARK: &str = "Xq7Zprompt9Kv";

/// Steps a template may take.
const FUEL: u64 = 1_000_000;

/// Names of tokens that open a request and its answer, where there is no chat template.
const ROLES: [(&str, &str); 6] = [
    ("<|request|>", "<|call|>"),
    ("<|user|>", "<|assistant|>"),
    ("<|prompt|>", "<|answer|>"),
    ("<|question|>", "<|answer|>"),
    ("<|instruction|>", "<|response|>"),
    ("<|source|>", "<|target|>"),
];

/// Most tokens that a format is tried with.
const MAX_TOKEN_TRIALS: usize = 4096;

/// Texts that a format must hold for: they begin and end in all the ways that matter to pre-tokenizers.
const TRIALS: [&str; 12] = [
    "hello",
    "Hello, world!",
    "turn on 3 lights",
    "42",
    "(why?)",
    "'tis so",
    "\"quoted\"",
    "é",
    "日本語。",
    "🙂",
    "two\nlines",
    "# a title",
];

/// The format of two role tokens, if the tokenizer has a known pair.
pub(super) fn role_format(draft: &Draft) -> Option<String> {
    let is_role = |name: &str| draft.names.get(name).is_some_and(|id| draft.added.iter().any(|(added, _)| added == id));
    let (request, answer) = ROLES.into_iter().find(|(request, answer)| is_role(request) && is_role(answer))?;
    Some(format!("{request}{PLACEHOLDER}{answer}"))
}

/// The format of a chat template for a single message.
///
/// # Errors
/// A sentence that says why there is none.
pub(super) fn template_format(template: &str, bos: &str, eos: &str) -> Result<String, String> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    // As transformers renders them.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| error.to_string())?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |problem: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, problem))
    });
    let rendered = environment.render_str(
        template,
        context! {
            messages => [context! { role => "user", content => MARK }],
            add_generation_prompt => true,
            bos_token => bos,
            eos_token => eos,
        },
    );
    let rendered = rendered.map_err(|error| format!("it cannot be rendered: {error}"))?;
    let mut parts = rendered.split(MARK);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(start), Some(end), None) if !rendered.contains(PLACEHOLDER) => Ok(format!("{start}{PLACEHOLDER}{end}")),
        _ => Err("it does not hold the message once".into()),
    }
}

/// Texts that a format is tried with: [`TRIALS`] and tokens, several thousand at most.
fn trials<'a>(tokenizer: &Tokenizer<'a>) -> impl Iterator<Item = &'a str> {
    let every = tokenizer.vocab() as usize / MAX_TOKEN_TRIALS + 1;
    let tokenizer = *tokenizer;
    let tokens = (0..tokenizer.vocab()).step_by(every).filter(move |&id| !tokenizer.is_special(id));
    let texts = tokens.filter_map(move |id| std::str::from_utf8(tokenizer.token_bytes(id)).ok());
    // Formats are for texts without white space around them.
    TRIALS.into_iter().chain(texts.filter(|text| !text.is_empty() && text.trim() == *text))
}

/// Splits a format into ids. `section` is the draft without a prompt format.
///
/// # Errors
/// The format has no single `{prompt}`, or tokens reach across the text's borders.
pub(super) fn split_format(section: &[u8], path: &Path, format: &str) -> Result<Prompt> {
    let tokenizer = Tokenizer::new(section, u32::MAX).map_err(|error| Error::format(path, error.to_string()))?;
    let mut parts = format.split(PLACEHOLDER);
    let (Some(start), Some(end), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Error::Usage(format!("prompt format {format:?}: expected {PLACEHOLDER} once")));
    };
    let plain = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    let ids = |text: &str, continues: bool| {
        host::encode(&tokenizer, text, EncodeOptions { continues, ..plain })
            .map_err(|error| Error::Usage(format!("prompt format {format:?}: {error}")))
    };
    let whole = |text: &str| ids(&format!("{start}{text}{end}"), false);
    let mut candidates = vec![(start, false), (start, true)];
    // The space that ends the start may be the one that the tokenizer puts before a text.
    if let Some(start) = start.strip_suffix(' ').filter(|_| tokenizer.header().prefix != Prefix::Never) {
        candidates.push((start, false));
    }
    for (start, continues) in candidates {
        let prompt = Prompt { start: ids(start, false)?, end: ids(end, true)?, continues };
        let holds = |text: &str| -> Result<bool> {
            // Characters that a character-level tokenizer does not know say nothing about the format.
            let Ok(text_ids) = ids(text, continues) else { return Ok(true) };
            Ok([prompt.start.as_slice(), &text_ids, &prompt.end].concat() == whole(text)?)
        };
        let mut failures = trials(&tokenizer).map(holds).filter(|holds| !matches!(holds, Ok(true)));
        match failures.next() {
            None => return Ok(prompt),
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) => {}
        }
    }
    Err(Error::Usage(format!("prompt format {format:?}: tokens reach across the text's borders")))
}
