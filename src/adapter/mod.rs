//! Adapters: read from disk as hostile input, turned into low-rank deltas, named and versioned.
//!
//! After [`file`] has read a directory, nothing but this module knows what SORSA or LoRA is: the
//! rest of the server sees a [`delta::LowRankDelta`].

pub mod delta;
pub mod file;
pub mod lora;
pub mod merge;
pub mod registry;
pub mod segments;
pub mod sorsa;
