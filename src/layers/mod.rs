//! The layers that model families are made of, on candle tensors.
//!
//! Each has two paths behind one function: candle's own operations, which run on every device, and
//! on a CPU the project's kernels. Which one runs is a [`backend::Backend`], chosen once, at load. A layer
//! knows neither a checkpoint's names nor who schedules its rows.

pub mod attention;
pub mod backend;
pub mod buffer;
pub mod embedding;
pub mod linear;
pub mod merge;
pub mod mlp;
pub mod packed_weight;
pub mod paged;
pub mod rms_norm;
pub mod rotary;
