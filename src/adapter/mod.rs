//! Adapters: read from disk as hostile input, turned into low-rank deltas, named and versioned.
//!
//! After [`mod@file`] has read a directory, nothing but this module knows what SORSA or LoRA is: the
//! rest of the server sees a [`delta::LowRankDelta`].

pub mod base;
pub mod check;
pub mod compact;
pub mod compacted_cache;
mod config;
pub mod delta;
pub mod directory;
pub mod error;
mod factors;
pub mod file;
pub mod linalg;
mod lora;
mod other_base;
pub(crate) mod outline;
pub mod parts;
pub mod peft;
pub mod principal;
pub mod range_finder;
pub mod registry;
pub mod segments;
pub mod sorsa;
pub mod survey;
mod tensors;

pub use error::{AdapterError, WITHOUT_INITIAL};
pub use file::{Limits, LoadedAdapter, load};
