//! What can be wrong with a user's input, in the user's terms: which file, which tensor or field, what was found, what
//! was expected.

use std::path::PathBuf;

/// A conversion's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong on the host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not of the format its place calls for.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A field of a JSON file is missing or has an impossible value.
    #[error("{}: field `{field}`: found {found}, expected {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, dotted if nested.
        field: String,
        /// What stands there (`nothing` if absent).
        found: String,
        /// What must.
        expected: String,
    },
    /// A tensor is missing, extra, misshapen, of a wrong type, or holds a value that cannot be quantized.
    #[error("{}: tensor `{tensor}`: found {found}, expected {expected}", path.display())]
    Tensor {
        /// The file that holds it or should.
        path: PathBuf,
        /// Its name in the checkpoint.
        tensor: String,
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
    },
    /// The checkpoint is of no family known here.
    #[error("{}: unknown model family: {found}; known: {known}", path.display())]
    Family {
        /// The file that names the family, or the weights if none does.
        path: PathBuf,
        /// What names it.
        found: String,
        /// The families that could be converted.
        known: String,
    },
    /// A `.thumb` file that the runtime refuses.
    #[error("{}: {source}", path.display())]
    Blob {
        /// The file.
        path: PathBuf,
        /// The runtime's reason.
        source: thumbformer::BlobError,
    },
    /// No memory plan can be made.
    #[error(transparent)]
    Plan(#[from] thumbformer::plan::PlanError),
    /// The runtime cannot go on.
    #[error(transparent)]
    Session(#[from] thumbformer::SessionError),
    /// A session's snapshot cannot be taken or used.
    #[error(transparent)]
    Snapshot(#[from] thumbformer::SnapshotError),
    /// A token cannot be sampled.
    #[error(transparent)]
    Sampling(#[from] thumbformer::decode::SamplingError),
    /// A beam search cannot be made.
    #[error(transparent)]
    Beam(#[from] thumbformer::decode::BeamError),
    /// A grammar cannot be used.
    #[error(transparent)]
    Grammar(#[from] thumbformer::decode::GrammarError),
    /// A grammar cannot be met.
    #[error(transparent)]
    Constraint(#[from] thumbformer::decode::ConstraintError),
    /// A text cannot be tokenized.
    #[error("tokenizing: {0}")]
    Encode(thumbformer::tokenizer::EncodeError),
    /// A blob cannot be written to wherever it goes.
    #[error("writing the blob: {0}")]
    Write(std::io::Error),
    /// Standard output cannot be written.
    #[error("standard output: {0}")]
    Output(std::io::Error),
    /// A step of training cannot be computed.
    #[cfg(feature = "train")]
    #[error("training: {0}")]
    Autograd(#[from] candle_core::Error),
    /// What was asked for contradicts itself, the model, or what is on disk.
    #[error("{0}")]
    Usage(String),
}

impl From<thumbformer::tokenizer::EncodeError> for Error {
    fn from(error: thumbformer::tokenizer::EncodeError) -> Self {
        Error::Encode(error)
    }
}

impl Error {
    /// An [`Error::Io`] for `path`, shaped for `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }

    /// An [`Error::Format`].
    pub fn format(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Error::Format { path: path.into(), problem: problem.into() }
    }
}
