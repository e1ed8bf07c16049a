//! Grouped-query self-attention: projections, rotary embedding, the paged cache.

use candle_core::{Result, Tensor};

use super::buffer::recycle;
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
    /// What the heads make of `x`, `rows x hidden`: the input of `o_proj`. The rows' keys and values
    /// go into `cache`.
    ///
    /// # Errors
    /// Where shapes disagree or the device fails.
    pub fn attend(
        &self,
        x: &Tensor,
        rotation: &Rotation<'_>,
        batch: &PagedBatch<'_>,
        segments: &Segments,
        cache: &LayerKv,
    ) -> Result<Tensor> {
        let layers = [&self.q_proj, &self.k_proj, &self.v_proj];
        let [q, k, v] = Linear::forward_all(layers, x, segments)?;
        let projected = Projected { q: &q, k: &k, v: &v };
        let mixed = batch.attend(projected, rotation, cache, self.heads)?;
        [q, k, v].into_iter().for_each(recycle);
        Ok(mixed)
    }
}
