//! Grouped-query self-attention: projections, rotary embedding, the paged cache.

use candle_core::{Result, Tensor};

use super::linear::Linear;
use super::paged::{HeadShape, PagedBatch};
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
    /// The layer's output for `x` on top of `residual`, which must be nobody else's; all three are
    /// `rows x hidden`. The rows' keys and values go into `cache`.
    ///
    /// # Errors
    /// Where shapes disagree or the device fails.
    pub fn forward_add(
        &self,
        x: &Tensor,
        rotation: &Rotation<'_>,
        batch: &PagedBatch<'_>,
        segments: &Segments,
        cache: &LayerKv,
        residual: Tensor,
    ) -> Result<Tensor> {
        let layers = [&self.q_proj, &self.k_proj, &self.v_proj];
        let [q, k, v] = Linear::forward_all(layers, x, segments)?;
        let (q, k) = (rotation.apply(q)?, rotation.apply(k)?);
        batch.write(cache, &k, &v)?;
        let mixed = batch.attend(&q, cache, self.heads)?;
        self.o_proj.forward_add(&mixed, segments, residual)
    }
}
