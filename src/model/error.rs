//! Every way in which reading a model can fail.

use std::path::PathBuf;

/// Why a checkpoint cannot be read, or is refused.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file system said no.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// A file is larger than its kind may be.
    #[error("{} is {size} bytes, the limit for it is {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The largest size accepted.
        limit: u64,
    },
    /// A link of a checkpoint leads out of its directory.
    #[error(
        "{} is a link to a file outside the checkpoint's directory; copy the file instead",
        path.display()
    )]
    LeavesDirectory {
        /// The link.
        path: PathBuf,
    },
    /// Weights of a pickle, which runs code when read.
    #[error("{} holds pickled weights, which can run code when read; convert them to safetensors", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A file is not valid JSON.
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where the parser stopped.
        source: serde_json::Error,
    },
    /// A field that has no default is absent.
    #[error("the configuration has no {0:?}")]
    MissingField(&'static str),
    /// A field's value is of the wrong type or out of range.
    #[error("the configuration's {field:?} is {value}, expected {expected}")]
    InvalidField {
        /// The field.
        field: String,
        /// What it holds.
        value: String,
        /// What it may hold.
        expected: String,
    },
    /// Something this server does not do.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// The path holds no model this server reads.
    #[error("{} {reason}", path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A whole-model checkpoint of the SORSA reference library.
    #[error(
        "{} is an un-merged SORSA checkpoint of the reference library: serve it with `sorsa serve \
         CHECKPOINT --base BASE`, where BASE is the model it was trained from", path.display()
    )]
    SorsaCheckpoint {
        /// The directory.
        path: PathBuf,
    },
    /// A weight file breaks its format.
    #[error("{} is not a valid {format} file: {reason}", path.display())]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// What it should have been.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The index of a sharded checkpoint breaks its format.
    #[error("{}: {reason}", path.display())]
    InvalidIndex {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor the configuration calls for is absent.
    #[error("the weights have no tensor {0:?}")]
    MissingTensor(String),
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name:?} has shape {found:?}, the configuration says {expected:?}")]
    TensorShape {
        /// The tensor.
        name: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in a type this server does not read.
    #[error("tensor {name:?} has type {dtype}, which is not supported")]
    TensorType {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A NaN or an infinity in a tensor.
    #[error("tensor {name:?} holds a value that is not finite, at element {element}")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Its position in row-major order.
        element: usize,
    },
    /// A tensor cannot be rounded to a few bits.
    #[error("tensor {name:?} cannot be quantised: {reason}")]
    Quantize {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor does not fit the type asked for.
    #[error("tensor {name:?} holds values beyond the range of {dtype}")]
    TensorRange {
        /// The tensor.
        name: String,
        /// The type asked for.
        dtype: &'static str,
    },
    /// Tensors that no part of the model uses.
    #[error("{count} tensors in the weights belong to no part of the model, among them {names:?}")]
    UnusedTensors {
        /// How many.
        count: usize,
        /// The first of them.
        names: Vec<String>,
    },
    /// Tied embeddings, but an output head of its own.
    #[error(
        "the configuration ties the output head to the embedding, yet the weights hold a \
         different \"lm_head.weight\""
    )]
    UntiedHead,
    /// The system gives no thread to load with.
    #[error("cannot start a thread to load the model with: {0}")]
    Thread(std::io::Error),
    /// The tensor library or the device failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl ModelError {
    /// An [`ModelError::Io`] about `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// An [`ModelError::NotAModel`] about `path`.
    pub(crate) fn not_a_model(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::NotAModel { path: path.into(), reason: reason.into() }
    }
}
