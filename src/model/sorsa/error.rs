//! Every way in which a reference checkpoint can fail to load, one variant each.

use std::path::PathBuf;

use crate::adapter::{AdapterError, WITHOUT_INITIAL};
use crate::model::error::ModelError;

/// Why a directory is no un-merged SORSA checkpoint, or not one that can be used.
///
/// After an error nothing of it remains: a load gives a whole checkpoint or none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SorsaError {
    /// The directory holds something else.
    #[error("{} is no un-merged SORSA checkpoint: {reason}", path.display())]
    NotSorsa {
        /// The path.
        path: PathBuf,
        /// What it is instead, as far as its tensors tell.
        reason: &'static str,
    },
    /// Trained factors alone: without weights, and without the initial factors.
    #[error("{} is no un-merged SORSA checkpoint: {}", path.display(), WITHOUT_INITIAL)]
    NoInitial {
        /// The path.
        path: PathBuf,
    },
    /// Factors beside a configuration that says nothing of them: their scale is unknown.
    #[error(
        "the weights hold SORSA factors, yet config.json has model_type {model_type}, so that \
         their scale (alpha over rank) is unknown; restore the checkpoint's own config.json"
    )]
    ForeignConfig {
        /// The model type, as JSON.
        model_type: String,
    },
    /// A tensor without the prefix that the library's wrapper puts before every name.
    #[error("tensor {name:?} does not begin with \"model.\", as all of a SORSA checkpoint's do")]
    Unprefixed {
        /// The tensor.
        name: String,
    },
    /// A tensor named as a factor is, and that is none.
    #[error("tensor {name:?} is no factor of SORSA: sorsa_A, sorsa_S and sorsa_B are")]
    UnknownFactor {
        /// The tensor.
        name: String,
    },
    /// A module that lacks its weight or one of its factors.
    #[error("{module} has SORSA factors, but no {tensor}")]
    Incomplete {
        /// The module.
        module: String,
        /// What is missing.
        tensor: &'static str,
    },
    /// A weight or factor that does not fit its module.
    #[error("{module} has a {tensor} of shape {found:?}, expected {expected}")]
    Shape {
        /// The module.
        module: String,
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that fits, in words.
        expected: String,
    },
    /// Factors of no directions, or of more than their weight has.
    #[error("{module} has rank {rank}; a weight of {out_features} x {in_features} has 1 to {most}")]
    Rank {
        /// The module.
        module: String,
        /// The rank by the tensors.
        rank: usize,
        /// Rows of the weight.
        out_features: usize,
        /// Columns of the weight.
        in_features: usize,
        /// The highest rank.
        most: usize,
    },
    /// A NaN or an infinity in a factor.
    #[error("tensor {name:?} holds a value that is not finite")]
    NotFinite {
        /// The tensor.
        name: String,
    },
    /// A factor pair of a module that the model does not have.
    #[error("{module} has SORSA factors and is no linear module of the base model")]
    UnknownModule {
        /// The module.
        module: String,
    },
    /// Another checkpoint's residual is not this one's.
    #[error(
        "its factors belong to other residual weights: tensor {name:?} {difference}; only \
         checkpoints that training started from one initial checkpoint can be served together"
    )]
    OtherResidual {
        /// The first tensor that differs, in the order of the names.
        name: String,
        /// How.
        difference: &'static str,
    },
    /// A weight that is no residual: adding the principal part counts the update twice.
    #[error(
        "the weight of {module} is no residual: what its factors would add is in it already, as \
         after merge() and save_pretrained() without removing them; save the checkpoint un-merged, \
         or the merged model without its factors"
    )]
    AppliedTwice {
        /// The module.
        module: String,
    },
    /// The base given is another model than the one the checkpoint was trained from.
    #[error(
        "the base model is not the one this checkpoint was trained from: its weight of {module} \
         is off by {percent} % of its size"
    )]
    OtherBase {
        /// The module.
        module: String,
        /// The difference that no principal part explains, relative to the base's weight.
        percent: u32,
    },
    /// The base given has other values where training changed nothing.
    #[error(
        "the base model is not {base:?}, which this checkpoint was trained from: tensor {name:?}, \
         which training leaves alone, {difference}; give the model it was trained from, or say \
         --allow-base-mismatch to take no more than the configuration and the tokenizer from this one"
    )]
    OtherTensor {
        /// The first tensor that differs, in the order of the names.
        name: String,
        /// How.
        difference: &'static str,
        /// The base by the checkpoint's account.
        base: String,
    },
    /// Its files cannot be read as a model's.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its factors cannot be used.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
}

impl From<candle_core::Error> for SorsaError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}
