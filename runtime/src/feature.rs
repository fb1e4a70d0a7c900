//! What a model needs that not every build has: parts of this crate behind Cargo features.
//!
//! A host has them all. Firmware leaves out what its model does without, and a build script asks the model which ones that
//! are: [`Model::needs`](crate::Model::needs).

/// A Cargo feature that some models need, and are refused without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `portable`.
    Portable,
    /// `classic`.
    Classic,
    /// `shaping`.
    Shaping,
    /// `cross`.
    Cross,
    /// `encoder`.
    Encoder,
    /// `normalizers`.
    Normalizers,
    /// `unigram`.
    Unigram,
    /// `wordpiece`.
    WordPiece,
}

impl Feature {
    /// All of them; what needs less comes behind what includes it.
    pub const ALL: [Feature; 8] = [
        Feature::Portable,
        Feature::Classic,
        Feature::Shaping,
        Feature::Cross,
        Feature::Encoder,
        Feature::Normalizers,
        Feature::Unigram,
        Feature::WordPiece,
    ];

    /// Its name in `Cargo.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Feature::Portable => "portable",
            Feature::Classic => "classic",
            Feature::Shaping => "shaping",
            Feature::Cross => "cross",
            Feature::Encoder => "encoder",
            Feature::Normalizers => "normalizers",
            Feature::Unigram => "unigram",
            Feature::WordPiece => "wordpiece",
        }
    }

    /// Whether this build has it. Where no assembly could do without them, the portable kernels are always there.
    pub const fn is_on(self) -> bool {
        match self {
            Feature::Portable => crate::kernel::PORTABLE,
            Feature::Classic => cfg!(feature = "classic"),
            Feature::Shaping => cfg!(feature = "shaping"),
            Feature::Cross => cfg!(feature = "cross"),
            Feature::Encoder => cfg!(feature = "encoder"),
            Feature::Normalizers => cfg!(feature = "normalizers"),
            Feature::Unigram => cfg!(feature = "unigram"),
            Feature::WordPiece => cfg!(feature = "wordpiece"),
        }
    }
}
