//! Tokenizers that run on the device.

/// stub
#[derive(Clone, Copy, Debug)]
pub struct Tokenizer<'a>(&'a [u8]);

/// stub
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TokenizerError;

impl core::fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "stub")
    }
}

impl<'a> Tokenizer<'a> {
    /// stub
    pub fn new(b: &'a [u8], _vocab: u32) -> Result<Self, TokenizerError> {
        Ok(Self(b))
    }
}
