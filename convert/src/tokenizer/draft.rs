//! A tokenizer as its files describe it, and its packing into a blob's section.
//!
//! The runtime merges a pair of symbols if their bytes together are a token's, at that token's priority (see
//! `thumbformer::tokenizer` for why that equals a list of merges). What this needs is worked out here: which tokens
//! merging can produce, and in what order.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use thumbformer::tokenizer::{
    AddedFlags, Digits, Header, Invalid, Kind, MAX_TOKEN_LEN, Missing, PairPart, Prefix, Split, Strip, Table, Tokenizer,
};

use super::normalizer::{Program, word_chars};
use crate::{Error, Result};

/// Most ids without a token: beyond this, a file is broken rather than sparse.
const MAX_HOLES: usize = 1 << 16;

/// One token.
#[derive(Clone, Debug, Default)]
pub(super) struct Token {
    /// What it adds to a text.
    pub(super) bytes: Vec<u8>,
    /// It can come out of plain text: as a single symbol, by merging, or as a whole word.
    pub(super) plain: bool,
}

/// Where merge priorities come from.
#[derive(Clone, Debug)]
pub(super) enum Merges {
    /// Left, right and merged token of each merge, first merge first.
    Pairs(Vec<[u32; 3]>),
    /// A score for each token; the pair that makes the token of the highest score merges first (SentencePiece).
    Scores(Vec<f32>),
}

/// How much less a character outside the vocabulary counts than the least probable token, in both libraries.
pub(super) const UNKNOWN_PENALTY: f64 = 10.0;

/// What a unigram model has beside its vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Scores {
    /// By id.
    pub(super) scores: Vec<f64>,
    /// Score of a character outside the vocabulary.
    pub(super) unknown: f64,
    /// Scores of paths are f32 in the library.
    pub(super) single_sums: bool,
    /// Byte tokens are found in texts by their names.
    pub(super) named_bytes: bool,
}

/// A tokenizer, not packed yet.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) kind: Kind,
    pub(super) split: Split,
    pub(super) digits: Digits,
    pub(super) prefix: Prefix,
    pub(super) missing: Missing,
    pub(super) invalid: Invalid,
    pub(super) strip: Strip,
    pub(super) collapse: bool,
    /// What text goes through before normalized added tokens are looked for, and after.
    pub(super) normalizer: Program,
    pub(super) pre_tokenizer: Program,
    /// Of a unigram model.
    pub(super) scores: Option<Scores>,
    /// Of WordPiece: what tokens inside of words begin with, the longest known word, and whether decoding leaves out
    /// spaces before punctuation.
    pub(super) continuation: String,
    pub(super) max_word_chars: u32,
    pub(super) cleanup: bool,
    /// By id.
    pub(super) tokens: Vec<Token>,
    pub(super) merges: Merges,
    /// A word that is a token is that token, whether merging could produce it or not.
    pub(super) whole_words: bool,
    /// Ids of added tokens and their flags.
    pub(super) added: Vec<(u32, AddedFlags)>,
    pub(super) special: BTreeSet<u32>,
    /// Ids before and after every text.
    pub(super) template: [Vec<u32>; 2],
    /// What the encoding of two texts consists of, and the segment of each part; empty if nobody says.
    pub(super) pair: Vec<(PairPart, u8)>,
    /// Ids that begin a prompt where a template does not.
    pub(super) begin: Vec<u32>,
    pub(super) prompt: Option<Prompt>,
    pub(super) unknown: Option<u32>,
    pub(super) first_byte: Option<u32>,
    pub(super) bos: Option<u32>,
    /// Stands for a token that a model is to fill in.
    pub(super) mask: Option<u32>,
    pub(super) eos: Option<u32>,
    /// Ids by the names that the files use.
    pub(super) names: HashMap<String, u32>,
    /// Things the user should know.
    pub(super) notes: Vec<String>,
}

/// What is put around a user's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) start: Vec<u32>,
    pub(super) end: Vec<u32>,
    /// The text gets no leading space of the tokenizer's own.
    pub(super) continues: bool,
}

impl Prompt {
    /// Puts what begins every text before the format, unless that spells it out.
    pub(super) fn after(mut self, template: &[u32]) -> Self {
        if !self.start.starts_with(template) {
            self.start.splice(..0, template.iter().copied());
        }
        self
    }
}

impl Draft {
    /// A tokenizer of a kind that does nothing in particular yet.
    pub(super) fn new(kind: Kind, tokens: Vec<Token>) -> Self {
        Draft {
            kind,
            split: Split::None,
            digits: Digits::Joined,
            prefix: Prefix::Never,
            missing: Missing::Drop,
            invalid: Invalid::Lossy,
            strip: Strip::None,
            collapse: false,
            normalizer: Program::default(),
            pre_tokenizer: Program::default(),
            scores: None,
            continuation: String::new(),
            max_word_chars: 0,
            cleanup: false,
            tokens,
            merges: Merges::Pairs(Vec::new()),
            whole_words: false,
            added: Vec::new(),
            special: BTreeSet::new(),
            template: Default::default(),
            pair: Vec::new(),
            begin: Vec::new(),
            prompt: None,
            unknown: None,
            first_byte: None,
            bos: None,
            mask: None,
            eos: None,
            names: HashMap::new(),
            notes: Vec::new(),
        }
    }

    /// Packs the section. `path` is for errors.
    pub(super) fn pack(&self, path: &Path) -> Result<Vec<u8>> {
        let refuse = |problem: String| Error::format(path, problem);
        if let Some((id, token)) = self.tokens.iter().enumerate().find(|(_, token)| token.bytes.len() > MAX_TOKEN_LEN) {
            let len = token.bytes.len();
            return Err(refuse(format!("token {id}: found {len} bytes, expected at most {MAX_TOKEN_LEN}")));
        }
        let ranks = self.ranks();
        let merges = match self.kind {
            Kind::WordPiece | Kind::Unigram => self.sorted(|_, token| token.plain),
            _ => self.sorted(|id, token| ranks.contains_key(&id) || self.is_symbol(token)),
        };
        let words = if self.whole_words {
            self.sorted(|id, token| token.plain && !ranks.contains_key(&id) && !self.is_symbol(token))
        } else {
            Vec::new()
        };
        for pair in merges.windows(2).chain(words.windows(2)) {
            if let [a, b] = pair
                && self.bytes(*a) == self.bytes(*b)
            {
                let spelled = String::from_utf8_lossy(self.bytes(*a));
                return Err(refuse(format!("tokens {a} and {b} are both {spelled:?}, expected different tokens")));
            }
        }
        let rank_table = rank_table(&ranks, &merges);
        let (raw, normalized) = (self.added_class(false), self.added_class(true));
        let added = [raw.as_slice(), &normalized].concat();
        // Where nothing is looked for between them, both programs are one.
        let (mut normalizer, mut pre_tokenizer) = (self.normalizer.clone(), self.pre_tokenizer.clone());
        if normalized.is_empty() {
            normalizer.append(std::mem::take(&mut pre_tokenizer));
        }
        let (normalizer, pre_tokenizer) = (normalizer.pack(), pre_tokenizer.pack());
        let single_word = added.iter().any(|(_, flags)| flags.0 & AddedFlags::SINGLE_WORD != 0);
        let word_chars = if single_word { word_chars() } else { Vec::new() };
        let scores = self.scores.as_ref();
        let wide_scores = scores.is_some_and(|scores| scores.scores.iter().any(|&s| f64::from(s as f32) != s));
        let pair: Option<Vec<u32>> = self.pair.iter().map(|(part, segment)| part.write(*segment)).collect();
        let pair = pair.ok_or_else(|| refuse("a pair has ids beyond any vocabulary".into()))?;
        let prompt = self.prompt.clone().unwrap_or_default();
        let [template_start, template_end] = &self.template;
        let affixes = [template_start, template_end, &prompt.start, &prompt.end];
        let count = |len: usize, what: &str| {
            u32::try_from(len).map_err(|_| refuse(format!("found {len} {what}, expected fewer")))
        };
        let short = |ids: &[u32]| {
            let problem = || refuse(format!("found {} ids beside a text, expected at most 65535", ids.len()));
            u16::try_from(ids.len()).map_err(|_| problem())
        };
        let header = Header {
            kind: self.kind,
            split: self.split,
            digits: self.digits,
            prefix: self.prefix,
            missing: self.missing,
            invalid: self.invalid,
            strip: self.strip,
            collapse: self.collapse,
            prompt: self.prompt.is_some(),
            prompt_continues: prompt.continues,
            vocab: count(self.tokens.len(), "tokens")?,
            bytes: count(self.tokens.iter().map(|token| token.bytes.len()).sum(), "bytes of tokens")?,
            merges: count(merges.len(), "merges")?,
            ranks: !rank_table.is_empty(),
            words: count(words.len(), "words")?,
            added_raw: count(raw.len(), "added tokens")?,
            added_normalized: count(normalized.len(), "added tokens")?,
            special: count(self.special.len(), "special tokens")?,
            affixes: [short(affixes[0])?, short(affixes[1])?, short(affixes[2])?, short(affixes[3])?],
            unknown: self.unknown,
            first_byte: self.first_byte,
            bos: self.bos,
            eos: self.eos,
            pair: count(pair.len(), "parts of a pair")?,
            wide_scores,
            single_sums: scores.is_some_and(|scores| scores.single_sums),
            named_bytes: scores.is_some_and(|scores| scores.named_bytes),
            cleanup: self.cleanup,
            normalizer: count(normalizer.len(), "bytes of normalizers")?,
            pre_tokenizer: count(pre_tokenizer.len(), "bytes of pre-tokenizers")?,
            word_chars: count(word_chars.len(), "ranges of characters")?,
            continuation: count(self.continuation.len(), "bytes of a prefix")?,
            max_word_chars: self.max_word_chars,
            unknown_score: scores.map_or(0.0, |scores| scores.unknown),
        };
        let too_many = || refuse(format!("found {} added tokens, expected at most 65535", added.len()));
        let mut section = header.write().ok_or_else(too_many)?.to_vec();
        for table in Table::ALL {
            let (_, width) = header.table(table);
            let mut put =
                |ids: &[u32]| ids.iter().for_each(|id| section.extend(&id.to_le_bytes()[..usize::from(width)]));
            match table {
                Table::Offsets => {
                    let ends = self.tokens.iter().scan(0, |end, token| {
                        *end += token.bytes.len() as u32;
                        Some(*end)
                    });
                    put(&std::iter::once(0).chain(ends).collect::<Vec<u32>>());
                }
                Table::Merges => put(&merges),
                Table::Ranks => put(&rank_table),
                Table::Words => put(&words),
                Table::Added => put(&added.iter().map(|(id, _)| *id).collect::<Vec<u32>>()),
                Table::Special => put(&self.special.iter().copied().collect::<Vec<u32>>()),
                Table::TemplateStart => put(affixes[0]),
                Table::TemplateEnd => put(affixes[1]),
                Table::PromptStart => put(affixes[2]),
                Table::PromptEnd => put(affixes[3]),
                Table::Pair => put(&pair),
                Table::WordChars => put(&word_chars),
                Table::Scores => {
                    // Tokens that were added later are no part of the model.
                    let scores = scores.map_or(&[][..], |scores| &scores.scores).iter().copied();
                    for score in scores.chain(std::iter::repeat(0.0)).take(self.scored()) {
                        match wide_scores {
                            true => section.extend(score.to_le_bytes()),
                            false => section.extend((score as f32).to_le_bytes()),
                        }
                    }
                }
                Table::Normalizer => section.extend(&normalizer),
                Table::PreTokenizer => section.extend(&pre_tokenizer),
                Table::Continuation => section.extend(self.continuation.as_bytes()),
                Table::AddedFlags => section.extend(added.iter().map(|(_, flags)| flags.0)),
                Table::Bytes => self.tokens.iter().for_each(|token| section.extend(&token.bytes)),
            }
        }
        // The device's own check: what it would refuse is refused here.
        match Tokenizer::new(&section, header.vocab) {
            Ok(_) => Ok(section),
            Err(error) => Err(refuse(error.to_string())),
        }
    }

    /// Ids of tokens that are chosen and have bytes, sorted by them.
    fn sorted(&self, choose: impl Fn(u32, &Token) -> bool) -> Vec<u32> {
        let chosen = (0..).zip(&self.tokens).filter(|&(id, token)| !token.bytes.is_empty() && choose(id, token));
        let mut ids: Vec<u32> = chosen.map(|(id, _)| id).collect();
        ids.sort_by_key(|&id| self.bytes(id));
        ids
    }

    /// Added tokens of a class, sorted by their bytes.
    fn added_class(&self, normalized: bool) -> Vec<(u32, AddedFlags)> {
        let is_normalized = |flags: AddedFlags| flags.0 & AddedFlags::NORMALIZED != 0;
        let of_class = self.added.iter().filter(|(_, flags)| is_normalized(*flags) == normalized);
        let mut class: Vec<(u32, AddedFlags)> = of_class.copied().collect();
        class.sort_by_key(|&(id, _)| self.bytes(id));
        class
    }

    /// Number of scores.
    fn scored(&self) -> usize {
        if self.kind == Kind::Unigram { self.tokens.len() } else { 0 }
    }

    /// Added tokens that are looked for in normalized text.
    pub(super) fn normalized(&self) -> impl Iterator<Item = u32> {
        self.added.iter().filter(|(_, flags)| flags.0 & AddedFlags::NORMALIZED != 0).map(|&(id, _)| id)
    }

    /// Ids that begin every prompt.
    pub(super) fn beginning(&self) -> &[u32] {
        if self.begin.is_empty() { &self.template[0] } else { &self.begin }
    }

    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        self.tokens.get(id as usize).map_or(&[], |token| &token.bytes)
    }

    /// The token is one symbol of plain text.
    fn is_symbol(&self, token: &Token) -> bool {
        token.plain && !token.bytes.is_empty() && self.symbol_len(&token.bytes) == token.bytes.len()
    }

    /// Length of the symbol that `bytes` begin with.
    fn symbol_len(&self, bytes: &[u8]) -> usize {
        match self.kind {
            Kind::ByteBpe => bytes.len().min(1),
            _ => bytes.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next()).map_or(1, char::len_utf8),
        }
    }

    /// Priorities of the tokens that merging can produce: that of the last merge when the token's own text is merged.
    fn ranks(&self) -> HashMap<u32, u32> {
        let plain = || (0..).zip(&self.tokens).filter(|(_, token)| token.plain && !token.bytes.is_empty());
        let by_bytes: HashMap<&[u8], u32> = plain().map(|(id, token)| (token.bytes.as_slice(), id)).collect();
        match &self.merges {
            Merges::Pairs(pairs) => {
                // A pair that is listed twice has its last place, as in a dictionary that is filled from the list.
                let ranks: HashMap<(u32, u32), (u32, u32)> = pairs
                    .iter()
                    .zip(0..)
                    .map(|(&[left, right, merged], rank)| ((left, right), (rank, merged)))
                    .collect();
                let merge = |left: &Symbol<'_>, right: &Symbol<'_>| ranks.get(&(left.id?, right.id?)).copied();
                let merged: BTreeSet<u32> = pairs.iter().map(|&[.., merged]| merged).collect();
                merged.into_iter().filter_map(|id| Some((id, self.rank(id, &by_bytes, merge)?))).collect()
            }
            Merges::Scores(scores) => {
                let score = |id: u32| scores.get(id as usize).copied().unwrap_or(0.0);
                let mut descending: Vec<f32> = plain().map(|(id, _)| score(id)).collect();
                descending.sort_unstable_by(|a, b| b.total_cmp(a));
                descending.dedup();
                let rank = |id| descending.partition_point(|&other| other.total_cmp(&score(id)).is_gt()) as u32;
                let merge = |left: &Symbol<'_>, right: &Symbol<'_>| {
                    let both = left.bytes.len() + right.bytes.len();
                    let id = *by_bytes.get(left.text.get(..both)?)?;
                    Some((rank(id), id))
                };
                plain().filter_map(|(id, _)| Some((id, self.rank(id, &by_bytes, merge)?))).collect()
            }
        }
    }

    /// Merges a token's own text by the book; the priority of the last merge if the token comes out of it.
    fn rank(
        &self,
        token: u32,
        by_bytes: &HashMap<&[u8], u32>,
        merge: impl Fn(&Symbol<'_>, &Symbol<'_>) -> Option<(u32, u32)>,
    ) -> Option<u32> {
        let mut text = self.tokens.get(token as usize).filter(|token| token.plain)?.bytes.as_slice();
        let mut symbols = Vec::new();
        while !text.is_empty() {
            let bytes = text.get(..self.symbol_len(text))?;
            symbols.push(Symbol { id: by_bytes.get(bytes).copied(), bytes, text });
            text = text.get(bytes.len()..)?;
        }
        let mut last = None;
        loop {
            let pairs = symbols.windows(2).enumerate();
            let merges =
                pairs.filter_map(|(at, pair)| merge(pair.first()?, pair.get(1)?).map(|(rank, id)| (rank, at, id)));
            let Some((rank, at, id)) = merges.min() else { break };
            let right = symbols.remove(at + 1);
            let left = symbols.get_mut(at)?;
            *left =
                Symbol { id: Some(id), bytes: left.text.get(..left.bytes.len() + right.bytes.len())?, text: left.text };
            last = Some((id, rank));
        }
        last.filter(|&(id, _)| symbols.len() == 1 && id == token).map(|(_, rank)| rank)
    }
}

/// A priority for each entry of the merge table; empty if ids are in that order already.
fn rank_table(ranks: &HashMap<u32, u32>, merges: &[u32]) -> Vec<u32> {
    let mut by_rank: Vec<(u32, u32)> = ranks.iter().map(|(&id, &rank)| (rank, id)).collect();
    by_rank.sort_unstable();
    if by_rank.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1) {
        return Vec::new();
    }
    by_rank.dedup_by_key(|(rank, _)| *rank);
    let dense: HashMap<u32, u32> = by_rank.into_iter().map(|(rank, _)| rank).zip(0..).collect();
    let rank_of = |id| ranks.get(id).and_then(|rank| dense.get(rank)).copied();
    // Single symbols are never merged into, so theirs is any.
    merges.iter().map(|id| rank_of(id).unwrap_or(0)).collect()
}

/// A part of a token's text while it is merged.
struct Symbol<'t> {
    id: Option<u32>,
    bytes: &'t [u8],
    /// The token's text from this symbol on.
    text: &'t [u8],
}

/// A table of tokens by id, built entry by entry.
#[derive(Default)]
pub(super) struct TokenTable {
    tokens: Vec<Option<Token>>,
    count: usize,
}

impl TokenTable {
    /// Puts a token in its place.
    ///
    /// # Errors
    /// What stands there already, or an id far beyond the number of tokens; `field` names the entry.
    pub(super) fn insert(&mut self, path: &Path, field: impl Fn() -> String, id: u32, token: Token) -> Result<()> {
        let index = id as usize;
        let error = |found: String, expected: &str| Error::Field {
            path: path.into(),
            field: field(),
            found,
            expected: expected.into(),
        };
        if index >= self.count + MAX_HOLES || id >= thumbformer::arch::MAX_VOCAB {
            return Err(error(format!("id {id}"), "ids near the number of tokens"));
        }
        if index >= self.tokens.len() {
            self.tokens.resize(index + 1, None);
        }
        if let Some(there) = &self.tokens[index] {
            let there = String::from_utf8_lossy(&there.bytes);
            return Err(error(format!("id {id}, which is {there:?} already"), "an id of its own"));
        }
        self.count += 1;
        self.tokens[index] = Some(token);
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<Token> {
        self.tokens.into_iter().map(Option::unwrap_or_default).collect()
    }
}
