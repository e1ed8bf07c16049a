//! The arithmetic of a forward pass on a CPU, on plain slices: float32 activations and
//! accumulation, weights in their storage type.
//!
//! The promise of every kernel: an output element is computed by the same sequence of float
//! operations whatever else is in the batch, however a prompt is chunked, whichever threads run
//! and at every [`Level`] but AMX, which adds products in an order of its own and widens quantised
//! weights to bfloat16. So results are equal bit for bit, and the tests hold them to it.
//! [`mod@reference`] has each kernel once more, naively.
//!
//! Not here: tensors, devices, models. Shapes that do not fit their slices are a caller's bug and
//! panic; nothing that a request says can reach these checks.
//!
//! `unsafe` is confined to the instruction sets' files below `x86_64`, to how work and outputs are
//! divided among threads (`pool`, `parallel`, `columns`), and to a declaration in [`heap`]; kernels are
//! written in safe code over `simd::Simd`.

mod addition;
mod attention;
mod attention_tile;
mod columns;
mod direct;
mod factor;
mod ggml_blocks;
pub mod heap;
mod huge_pages;
mod kv_bf16;
mod kv_f32;
mod level;
mod linear;
mod low_rank;
mod packed;
mod packed_rows;
mod paged_kv;
mod panel_product;
mod panels;
mod parallel;
mod pool;
mod portable;
mod project;
mod quantize;
mod quantized_blocks;
mod quantized_panels;
mod quantized_product;
mod quantized_rows;
mod reading;
pub mod reference;
mod rms_norm;
mod rotary;
mod rounded_input;
mod rows;
pub mod scratch;
mod silu;
mod simd;
mod softmax;
#[cfg(target_arch = "x86_64")]
mod tile_product;
#[cfg(target_arch = "x86_64")]
mod tile_rows;
mod weight;
#[cfg(target_arch = "x86_64")]
mod widened_panels;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(test)]
mod attention_tests;
#[cfg(test)]
mod tests;

pub use attention::{AttentionShape, AttentionSpan, Queries};
pub use factor::Factor;
pub use ggml_blocks::GgmlBlocks;
pub use level::{Kernels, Level, UnknownLevel, UnsupportedLevel};
pub use linear::{LinearShape, Weights};
pub use low_rank::LowRankShape;
pub use paged_kv::{NewKv, PagedKv, PagedKvMut, Pool, PoolMut, SlotMapping};
pub use panels::Panels;
pub use pool::{pin_caller, start as start_threads};
pub use project::{Projection, RowsDelta};
pub use quantize::QuantizeError;
pub use quantized_panels::{Bits, QuantizedPanels};
pub use rotary::{RotaryTables, Rotation};
pub use rows::Rows;
pub use weight::Weight;
