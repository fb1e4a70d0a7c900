//! Normalizers as steps for the device, and their packing.
//!
//! What happens to each character by itself is worked out here for every character there is, and written as rules. The
//! properties of characters come from the crates that `tokenizers` itself uses, at the Unicode version it uses.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use rayon::prelude::*;
use thumbformer::tokenizer::{MapRule, StepKind};
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;
use unicode_normalization_alignments::char::{canonical_combining_class, compose, is_combining_mark};

use super::clusters;

/// What becomes of a character, whatever stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mapping {
    /// Canonical decomposition.
    Nfd,
    /// Compatibility decomposition.
    Nfkd,
    /// Lower case.
    Lowercase,
    /// Combining marks go.
    StripMarks,
    /// Marks that take no space go.
    StripNonspacing,
    /// BERT's `clean_text`: controls go, white space is a space.
    Clean,
    /// BERT's `handle_chinese_chars`: spaces around ideographs.
    Ideographs,
    /// White space is a space.
    Spaces,
    /// Spaces around punctuation, as BERT knows it.
    Punctuation,
}

impl Mapping {
    fn apply(self, c: char, out: &mut String) {
        let keep_unless = |out: &mut String, goes: bool| {
            if !goes {
                out.push(c);
            }
        };
        let around = |out: &mut String, apart: bool| {
            if apart {
                out.extend([' ', c, ' ']);
            } else {
                out.push(c);
            }
        };
        match self {
            Mapping::Nfd => out.extend(c.to_string().nfd().map(|(c, _)| c)),
            Mapping::Nfkd => out.extend(c.to_string().nfkd().map(|(c, _)| c)),
            Mapping::Lowercase => out.extend(c.to_lowercase()),
            Mapping::StripMarks => keep_unless(out, is_combining_mark(c)),
            Mapping::StripNonspacing => keep_unless(out, c.is_mark_nonspacing()),
            Mapping::Clean => match c {
                '\t' | '\n' | '\r' => out.push(' '),
                '\0' | '\u{FFFD}' => {}
                c if c.is_other() => {}
                c if c.is_whitespace() => out.push(' '),
                c => out.push(c),
            },
            Mapping::Ideographs => around(out, is_ideograph(c)),
            Mapping::Spaces => out.push(if c.is_whitespace() { ' ' } else { c }),
            Mapping::Punctuation => around(out, c.is_ascii_punctuation() || c.is_punctuation()),
        }
    }
}

/// BERT's "Chinese characters": the CJK Unified Ideographs and their extensions and compatibility forms.
fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{4E00}'..='\u{9FFF}' | '\u{3400}'..='\u{4DBF}' | '\u{20000}'..='\u{2A6DF}' | '\u{2A700}'..='\u{2B73F}'
        | '\u{2B740}'..='\u{2B81F}' | '\u{2B920}'..='\u{2CEAF}' | '\u{F900}'..='\u{FAFF}' | '\u{2F800}'..='\u{2FA1F}')
}

/// A step that rewrites a whole text: see `thumbformer::tokenizer::StepKind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Map(Vec<Mapping>),
    Canonical {
        compose: bool,
    },
    /// SentencePiece's table, as its library applies it.
    Charsmap(Vec<u8>),
    /// The same as Hugging Face applies it.
    Clusters(Vec<u8>),
    /// A string, or runs of so many and more.
    Replace {
        from: String,
        to: String,
        at_least: u32,
    },
    Strip {
        start: bool,
        end: bool,
    },
    Words,
    Prepend(String),
}

/// Steps in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Program(Vec<Step>);

impl Program {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a step. Mappings in a row are one step.
    pub(super) fn push(&mut self, step: Step) {
        match (self.0.last_mut(), step) {
            (Some(Step::Map(before)), Step::Map(mappings)) => before.extend(mappings),
            (_, step) => self.0.push(step),
        }
    }

    pub(super) fn map(&mut self, mappings: &[Mapping]) {
        if !mappings.is_empty() {
            self.push(Step::Map(mappings.to_vec()));
        }
    }

    /// Adds all steps of another program.
    pub(super) fn append(&mut self, other: Program) {
        other.0.into_iter().for_each(|step| self.push(step));
    }

    /// The table for the device.
    pub(super) fn pack(&self) -> Vec<u8> {
        let mut table = Vec::new();
        for step in &self.0 {
            let (kind, mut data) = step.pack();
            data.resize(data.len().next_multiple_of(4), 0);
            words(&mut table, [kind as u32, data.len() as u32]);
            table.append(&mut data);
        }
        table
    }
}

impl Step {
    fn pack(&self) -> (StepKind, Vec<u8>) {
        let mut data = Vec::new();
        let kind = match self {
            Step::Map(mappings) => {
                data.extend_from_slice(&map_data(mappings));
                StepKind::Map
            }
            Step::Canonical { compose } => {
                let classes = property(canonical_combining_class);
                words(&mut data, [classes.len() as u32]);
                words(&mut data, classes);
                if *compose {
                    words(&mut data, COMPOSITIONS.iter().flatten().copied());
                }
                StepKind::Canonical
            }
            Step::Charsmap(charsmap) => {
                data.extend_from_slice(charsmap);
                StepKind::Charsmap
            }
            Step::Clusters(charsmap) => {
                let classes = &*clusters::CLASSES;
                words(&mut data, [classes.len() as u32]);
                words(&mut data, classes.iter().copied());
                data.extend_from_slice(charsmap);
                StepKind::Clusters
            }
            Step::Replace { from, to, at_least } => {
                words(&mut data, [from.len() as u32, to.len() as u32, *at_least]);
                data.extend_from_slice(from.as_bytes());
                data.extend_from_slice(to.as_bytes());
                StepKind::Replace
            }
            Step::Strip { start, end } => {
                words(&mut data, [u32::from(*start) | u32::from(*end) << 1]);
                StepKind::Strip
            }
            Step::Words => StepKind::Words,
            Step::Prepend(prefix) => {
                words(&mut data, [prefix.len() as u32]);
                data.extend_from_slice(prefix.as_bytes());
                StepKind::Prepend
            }
        };
        (kind, data)
    }
}

fn words(data: &mut Vec<u8>, words: impl IntoIterator<Item = u32>) {
    words.into_iter().for_each(|word| data.extend_from_slice(&word.to_le_bytes()));
}

/// A property of characters as the device reads it: an entry wherever the value changes.
pub(super) fn property(value: impl Fn(char) -> u8) -> Vec<u32> {
    let mut entries = Vec::new();
    let mut last = 0;
    for c in '\0'..=char::MAX {
        let value = value(c);
        if value != last {
            entries.push(c as u32 | u32::from(value) << 24);
            last = value;
        }
    }
    entries
}

/// The characters of words, as `\w` in regular expressions.
pub(super) fn word_chars() -> Vec<u32> {
    let pattern = regex_syntax::parse(r"\w").ok();
    let ranges = match pattern.as_ref().map(regex_syntax::hir::Hir::kind) {
        Some(regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class))) => class.ranges(),
        _ => &[],
    };
    property(|c| {
        let at = ranges.partition_point(|range| range.end() < c);
        u8::from(ranges.get(at).is_some_and(|range| range.start() <= c))
    })
}

/// All canonical compositions but those of Hangul: the two characters, ascending, and what they compose to.
static COMPOSITIONS: LazyLock<Vec<[u32; 3]>> = LazyLock::new(|| {
    let mut compositions = Vec::new();
    for c in ('\0'..=char::MAX).filter(|c| !('\u{AC00}'..='\u{D7A3}').contains(c)) {
        let mut parts: Vec<char> = c.to_string().nfd().map(|(c, _)| c).collect();
        let Some(second) = parts.pop() else { continue };
        let first = parts.into_iter().map(Some).reduce(|first, second| compose(first?, second?)).flatten();
        if let Some(first) = first.filter(|&first| compose(first, second) == Some(c)) {
            compositions.push([first as u32, second as u32, c as u32]);
        }
    }
    compositions.sort_unstable();
    compositions
});

/// The data of a map. Going through all characters takes a while, so each list of mappings is worked out once.
fn map_data(mappings: &[Mapping]) -> Arc<[u8]> {
    type Known = HashMap<Vec<Mapping>, Arc<[u8]>>;
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    // A poisoned lock guards a map that is whole all the same.
    let known = || KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(data) = known().get(mappings) {
        return data.clone();
    }
    let data: Arc<[u8]> = pack_map(mappings).into();
    known().insert(mappings.to_vec(), data.clone());
    data
}

/// A rule without its first character.
type Rule = (MapRule, u32);

const KEEP: Rule = (MapRule::Keep, 0);

fn pack_map(mappings: &[Mapping]) -> Vec<u8> {
    let code_points: Vec<Option<char>> = (0..=char::MAX as u32).map(char::from_u32).collect();
    let mapped: Vec<Option<String>> = code_points
        .par_iter()
        .map(|c| {
            let c = (*c)?;
            let (mut text, mut next) = (String::from(c), String::new());
            for mapping in mappings {
                next.clear();
                text.chars().for_each(|c| mapping.apply(c, &mut next));
                std::mem::swap(&mut text, &mut next);
            }
            (text.chars().ne([c])).then_some(text)
        })
        .collect();
    let mut strings = Strings::default();
    let rules: Vec<Rule> = (0..).zip(&mapped).map(|(code, text)| rule(code, text.as_deref(), &mut strings)).collect();

    let mut packed = Vec::new();
    let mut last = KEEP;
    let mut at = 0;
    while let Some(&rule) = rules.get(at) {
        // Upper and lower case often alternate.
        let alternates = |from: usize| rules.get(from + 1) == Some(&KEEP) && rules.get(from + 2) == Some(&rule);
        let (rule, end) = if rule.0 == MapRule::Shift && alternates(at) {
            let pairs = (0..).take_while(|pair| alternates(at + 2 * pair)).count();
            ((MapRule::ShiftOdd, rule.1), at + 2 * pairs + 1)
        } else {
            (rule, at + 1)
        };
        if rule != last || rule.0 == MapRule::ShiftOdd {
            words(&mut packed, [at as u32 | (rule.0 as u32) << 24, rule.1]);
        }
        (last, at) = (rule, end);
    }
    let mut data = Vec::new();
    words(&mut data, [packed.len() as u32 / 8]);
    data.append(&mut packed);
    data.append(&mut strings.bytes);
    data
}

/// The rule that makes `text` of a character; `None` is the character itself.
fn rule(code: u32, text: Option<&str>, strings: &mut Strings) -> Rule {
    let (Some(text), Some(c)) = (text, char::from_u32(code)) else { return KEEP };
    let mut chars = text.chars();
    match (chars.next(), chars.next(), chars.next(), chars.next()) {
        (Some(other), None, ..) if other != ' ' => (MapRule::Shift, (other as u32).wrapping_sub(code)),
        (Some(' '), Some(inner), Some(' '), None) if inner == c => (MapRule::Spaced, 0),
        _ if ('\u{AC00}'..='\u{D7A3}').contains(&c) && text.chars().eq(c.to_string().nfd().map(|(c, _)| c)) => {
            (MapRule::Hangul, 0)
        }
        _ => (MapRule::Text, strings.offset(text) | (text.len() as u32) << 24),
    }
}

/// Strings, each stored once.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    offsets: HashMap<String, u32>,
}

impl Strings {
    fn offset(&mut self, text: &str) -> u32 {
        let end = self.bytes.len() as u32;
        *self.offsets.entry(text.to_owned()).or_insert_with(|| {
            self.bytes.extend_from_slice(text.as_bytes());
            end
        })
    }
}
