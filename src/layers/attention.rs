//! Grouped-query self-attention: projections, rotary embedding, the paged cache.

use candle_core::{Result, Tensor};

use super::linear::Linear;
use super::paged::{HeadShape, PagedBatch, Projected};
use super::rotary::Rotation;
use crate::adapter::segments::Segments;
use crate::kv_cache::storage::LayerKv;

/// One layer's attention.
#[derive(Debug)]
pub struct SelfAttention {
    /// `hidden → num_heads * head_dim`.
    pub q_proj: Linear,
    /// `hidden → num_kv_heads * head_dim`.
    pub k_proj: Linear,
    /// As `k_proj`.
    pub v_proj: Linear,
    /// `num_heads * head_dim → hidden`.
    pub o_proj: Linear,
    /// The heads.
    pub heads: HeadShape,
}

impl SelfAttention {
    /// `x` is `rows x hidden`, and so is the result; the rows' keys and values go into `cache`.
    ///
    /// # Errors
    /// Where shapes disagree or the device fails.
    pub fn forward(
        &self,
        x: &Tensor,
        rotation: &Rotation<'_>,
        batch: &PagedBatch<'_>,
        segments: &Segments,
        cache: &LayerKv,
    ) -> Result<Tensor> {
        let q = &self.q_proj.forward(x, segments)?;
        let k = &self.k_proj.forward(x, segments)?;
        let v = &self.v_proj.forward(x, segments)?;
        let mixed = batch.attend(Projected { q, k, v }, rotation, cache, self.heads)?;
        self.o_proj.forward(&mixed, segments)
    }
}
