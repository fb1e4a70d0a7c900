//! Requests, or sources, and their answers.
//!
//! A text file has `request<TAB>answer` lines, as `thumbformer eval --pairs` reads them. A file whose name ends in
//! `.jsonl` has an object in each line: `{"prompt": …, "completion": …}`, or a conversation,
//! `{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}`.

use std::path::Path;

use serde::Deserialize;
use thumbformer::tokenizer::Tokenizer;

use super::corpus::Counting;
use super::examples::Sequence;
use crate::tokenizer::encode_prompt;
use crate::{Error, Result};

/// Requests with an answer each, in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The line of the file, 1 for the first.
    pub line: usize,
    /// Request and answer.
    pub turns: Vec<(String, String)>,
}

/// A line of a `.jsonl` file.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an object with `prompt` and `completion`, or with `messages`")]
enum Record {
    Pair { prompt: String, completion: String },
    Chat { messages: Vec<Message> },
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// Reads a file of pairs or conversations; empty lines are left out.
///
/// # Errors
/// No pairs, not UTF-8, a line without request or answer, roles that do not alternate.
pub fn read(path: &Path) -> Result<Vec<Conversation>> {
    let documents = super::corpus::read(path)?;
    let mut conversations = Vec::new();
    for document in &documents {
        let is_json = document.path.extension().is_some_and(|extension| extension == "jsonl");
        for (index, text) in document.text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
            let wrong = |problem: String| Error::format(&document.path, format!("line {}: {problem}", index + 1));
            let turns = if is_json { json_turns(text) } else { tab_turns(text) }.map_err(wrong)?;
            if let Some((request, answer)) = turns.iter().find(|(a, b)| a.is_empty() || b.is_empty()) {
                let missing = if answer.is_empty() { "no answer" } else { "no request" };
                return Err(wrong(format!("{missing}: found {request:?} and {answer:?}")));
            }
            conversations.push(Conversation { line: index + 1, turns });
        }
    }
    Ok(conversations)
}

fn tab_turns(line: &str) -> Result<Vec<(String, String)>, String> {
    let (request, answer) = line.split_once('\t').ok_or("no tab, expected request<TAB>answer")?;
    Ok(vec![(request.to_owned(), answer.to_owned())])
}

fn json_turns(line: &str) -> Result<Vec<(String, String)>, String> {
    let messages = match serde_json::from_str(line).map_err(|e| e.to_string())? {
        Record::Pair { prompt, completion } => return Ok(vec![(prompt, completion)]),
        Record::Chat { messages } => messages,
    };
    let (pairs, rest) = messages.as_chunks::<2>();
    let mut turns = Vec::new();
    for [request, answer] in pairs {
        if (request.role.as_str(), answer.role.as_str()) != ("user", "assistant") {
            let (first, second) = (&request.role, &answer.role);
            return Err(format!("roles {first:?} and {second:?}, expected \"user\" and \"assistant\" in turn"));
        }
        turns.push((request.content.clone(), answer.content.clone()));
    }
    match rest {
        [] if !turns.is_empty() => Ok(turns),
        [] => Err("no messages".into()),
        [last] => Err(format!("the last message, of {:?}, has no answer", last.role)),
        _ => Err("an odd number of messages".into()),
    }
}

/// The tokens of a conversation: each request inside the tokenizer's prompt format, each answer with the token `end`.
/// Predictions of answers count 1, those of requests `prompt_weight`.
///
/// # Errors
/// A text cannot be tokenized.
pub fn sequence(
    conversation: &Conversation,
    tokenizer: &Tokenizer<'_>,
    counting: &mut Counting<'_>,
    end: Option<u32>,
    prompt_weight: f32,
) -> Result<Sequence> {
    let (mut ids, mut weights) = (Vec::new(), Vec::new());
    for (request, answer) in &conversation.turns {
        // Without what stands around it, to count what is not known.
        counting.encode(request, false)?;
        ids.extend(encode_prompt(tokenizer, request)?);
        weights.resize(ids.len(), prompt_weight);
        ids.extend(counting.encode(answer, false)?);
        ids.extend(end);
        weights.resize(ids.len(), 1.0);
    }
    // The first token is not predicted.
    weights.remove(0);
    Ok(Sequence { ids, weights })
}
