//! The classes that borders of grapheme clusters depend on, read off the crate that `tokenizers` cuts clusters with.
//!
//! The crate keeps its classes to itself, but each shows in what clusters with what.

use std::sync::LazyLock;

use rayon::prelude::*;
use thumbformer::tokenizer::Cluster;
use unicode_segmentation::UnicodeSegmentation;

use super::normalizer::property;

/// The property for the device, see `thumbformer::tokenizer::Property`.
pub(super) static CLASSES: LazyLock<Vec<u32>> = LazyLock::new(|| {
    // Beyond the first planes and the tags of plane 14, no characters are assigned.
    let code_points: Vec<u32> = (0..0x4_0000).chain(0xE_0000..0xE_1000).collect();
    let class = |&code: &u32| (code, char::from_u32(code).map_or(Cluster::Other, class));
    let classes: std::collections::HashMap<u32, Cluster> = code_points.par_iter().map(class).collect();
    property(|c| classes.get(&(c as u32)).copied().unwrap_or(Cluster::Other) as u8)
});

/// A character's class.
fn class(c: char) -> Cluster {
    const CONSONANT: char = '\u{915}';
    const LINKER: char = '\u{94D}';
    const JOINER: char = '\u{200D}';
    const MARK: char = '\u{301}';
    const PICTOGRAPH: char = '\u{A9}';
    let one = |text: &[char]| text.iter().collect::<String>().graphemes(true).count() == 1;
    match c {
        '\r' => Cluster::Cr,
        '\n' => Cluster::Lf,
        JOINER => Cluster::Zwj,
        _ if !one(&[c, MARK]) => Cluster::Control,
        _ if one(&['a', c]) => {
            if !one(&[PICTOGRAPH, c, JOINER, PICTOGRAPH]) {
                Cluster::SpacingMark
            } else if one(&[CONSONANT, c, CONSONANT]) {
                Cluster::Linker
            } else if one(&[CONSONANT, LINKER, c, CONSONANT]) {
                Cluster::Extend
            } else {
                Cluster::ExtendApart
            }
        }
        _ if one(&[c, 'a']) => Cluster::Prepend,
        _ if one(&[c, '\u{1F1E6}']) => Cluster::Regional,
        _ if one(&[c, '\u{1100}']) => Cluster::HangulL,
        '\u{AC00}'..='\u{D7A3}' => Cluster::Syllable,
        _ if one(&[c, '\u{1161}']) => Cluster::HangulV,
        _ if one(&[c, '\u{11A8}']) => Cluster::HangulT,
        _ if one(&[c, JOINER, PICTOGRAPH]) => Cluster::Pictograph,
        _ if one(&[c, LINKER, CONSONANT]) => Cluster::Consonant,
        _ => Cluster::Other,
    }
}
