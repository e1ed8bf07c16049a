//! The reference library's un-merged checkpoints (arXiv 2409.00055): whole models whose adapted
//! weights are residuals `Wr`, each beside the factors A, S and B of its principal part.
//!
//! [`checkpoint`] reads one, by its tensors and never by its name; [`lineage`] compares one with
//! the model it was trained from. How a principal part becomes a delta is the adapter side's.

pub mod checkpoint;
mod config;
pub mod error;
pub mod lineage;

pub use checkpoint::{AdaptedModule, SorsaCheckpoint};
pub use error::SorsaError;
