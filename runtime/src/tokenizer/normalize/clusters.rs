//! A charsmap as Hugging Face's `Precompiled` applies it: to grapheme clusters (UAX 29).
//!
//! A cluster of fewer than six bytes that begins with a string of the map becomes what the shortest such string becomes,
//! all of it. Other clusters are mapped character by character. (SentencePiece itself knows no clusters; the ids of models
//! that were trained with either are those of their own library.)

use super::super::kinds::Cluster;
use super::super::property::Property;
use super::charsmap::Charsmap;
use super::{Out, take_word, take_words};

/// Longest cluster that is mapped as a whole, in bytes.
const MAX_WHOLE: usize = 5;

/// The tables in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clusters<'a> {
    classes: Property<'a>,
    charsmap: Charsmap<'a>,
}

impl<'a> Clusters<'a> {
    pub(super) fn read(data: &'a [u8]) -> Option<Self> {
        let (count, rest) = take_word(data)?;
        let (classes, charsmap) = take_words(rest, count)?;
        Some(Clusters { classes: Property::new(classes), charsmap: Charsmap::read(charsmap)? })
    }

    pub(super) fn is_sound(self) -> bool {
        self.classes.unsound().is_none()
            && self.classes.values_are(|value| Cluster::from_u8(value).is_some())
            && self.charsmap.is_sound()
    }

    pub(super) fn apply(self, text: &str, out: &mut Out<'_>) {
        let mut rest = text;
        while !rest.is_empty() {
            let (cluster, after) = rest.split_at_checked(self.cluster_len(rest)).unwrap_or((rest, ""));
            let whole = if cluster.len() <= MAX_WHOLE { self.charsmap.shortest(cluster) } else { None };
            match whole {
                Some(string) => out.push(string),
                None => {
                    for c in cluster.chars() {
                        match self.charsmap.shortest(c.encode_utf8(&mut [0; 4])) {
                            Some(string) => out.push(string),
                            None => out.push_char(c),
                        }
                    }
                }
            }
            rest = after;
        }
    }

    /// Bytes of the cluster that a text begins with.
    fn cluster_len(self, text: &str) -> usize {
        let mut border = Border::default();
        let end = text.char_indices().find(|&(at, c)| {
            let class = Cluster::from_u8(self.classes.of(c)).unwrap_or(Cluster::Other);
            // Two kinds of syllables share a class: every 28th has no trailing consonant.
            let open = (c as u32).wrapping_sub(0xAC00).is_multiple_of(28);
            border.breaks_before(class, open) && at > 0
        });
        end.map_or(text.len(), |(at, _)| at)
    }
}

/// What the characters of a cluster so far say about its end. A cluster begins with a fresh one.
#[derive(Default)]
struct Border {
    last: Option<Cluster>,
    /// The last character is a syllable without trailing consonant.
    open: bool,
    /// An odd number of regional indicators.
    odd: bool,
    /// A pictograph, with nothing but extensions after it.
    pictograph: bool,
    /// A pictograph with a joiner.
    joined: bool,
    /// A consonant, with nothing but extensions after it; with a linker among them.
    consonant: bool,
    linked: bool,
}

impl Border {
    /// A cluster ends before a character of this class; takes the character in.
    fn breaks_before(&mut self, class: Cluster, open: bool) -> bool {
        use Cluster as C;
        let joins = match (self.last, class) {
            (None, _) => true,
            (Some(C::Cr), C::Lf) => true,
            (Some(C::Cr | C::Lf | C::Control), _) | (_, C::Cr | C::Lf | C::Control) => false,
            (_, C::Extend | C::ExtendApart | C::Linker | C::Zwj | C::SpacingMark) => true,
            (Some(C::Prepend), _) => true,
            (Some(C::HangulL), C::HangulL | C::HangulV | C::Syllable) => true,
            (Some(C::HangulV), C::HangulV | C::HangulT) => true,
            (Some(C::Syllable), C::HangulV) => self.open,
            (Some(C::Syllable | C::HangulT), C::HangulT) => true,
            (Some(C::Zwj), C::Pictograph) => self.joined,
            (Some(_), C::Consonant) => self.linked,
            (Some(C::Regional), C::Regional) => self.odd,
            _ => false,
        };
        let extends = matches!(class, C::Extend | C::Linker | C::Zwj);
        self.joined = self.pictograph && class == C::Zwj;
        self.pictograph = class == C::Pictograph
            || self.pictograph && matches!(class, C::Extend | C::ExtendApart | C::Linker | C::Zwj);
        self.linked = self.consonant && (class == C::Linker || self.linked && extends);
        self.consonant = class == C::Consonant || self.consonant && extends;
        self.odd = class == C::Regional && !self.odd;
        self.open = open;
        self.last = Some(class);
        !joins
    }
}
