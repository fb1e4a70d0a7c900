//! WordPiece (Schuster and Nakajima, 2012; BERT): a word is cut into the longest tokens, from the left.
//!
//! Tokens that continue a word begin with a mark of their own, `##` usually. A word that cannot be cut so is unknown as a
//! whole, and so is one that is too long.

use super::encode::{EncodeError, Symbols};
use super::header::Table;

/// Encodes a word.
pub(super) fn encode(word: &[u8], symbols: &mut Symbols<'_, '_, '_>) -> Result<(), EncodeError> {
    let section = symbols.section;
    let continuation = section.bytes(Table::Continuation);
    let start = symbols.output.len;
    let mut rest = word;
    while !rest.is_empty() {
        let inside = rest.len() < word.len();
        let (range, skip) = if inside { (section.continuing, continuation.len()) } else { (section.all(), 0) };
        let mut longest = None;
        section.prefixes(range, skip, rest, |len, id| longest = Some((len, id)));
        let Some((len, id)) = longest else {
            symbols.output.len = start;
            return symbols.unknown();
        };
        symbols.known(id)?;
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(())
}
