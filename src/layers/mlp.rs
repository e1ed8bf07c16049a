//! The gated feed-forward block (SwiGLU, arXiv 2002.05202): `down(silu(gate(x)) · up(x))`.

use candle_core::{Result, Tensor};

use super::backend::{Backend, CpuSlice};
use super::buffer::{buffer, recycle};
use super::linear::Linear;
use crate::adapter::segments::Segments;

/// Three projections and what lies between them.
#[derive(Debug)]
pub struct Mlp {
    /// `hidden → intermediate`, through the activation.
    pub gate_proj: Linear,
    /// `hidden → intermediate`.
    pub up_proj: Linear,
    /// `intermediate → hidden`.
    pub down_proj: Linear,
    /// How the product is computed.
    pub backend: Backend,
}

impl Mlp {
    /// The block's output for `x` on top of `residual`, which must be nobody else's; all three are
    /// `rows x hidden`.
    ///
    /// # Errors
    /// Where shapes disagree or the device fails.
    pub fn forward_add(&self, x: &Tensor, segments: &Segments, residual: Tensor) -> Result<Tensor> {
        let layers = [&self.gate_proj, &self.up_proj];
        let [gate, up] = Linear::forward_all(layers, x, segments)?;
        let inner = match self.backend {
            Backend::Candle => (gate.silu()? * up)?,
            Backend::Cpu(kernels) => {
                let mut out = buffer(gate.elem_count());
                let (gate_slice, up_slice) = (CpuSlice::new(&gate)?, CpuSlice::new(&up)?);
                kernels.silu_mul(gate_slice.f32()?, up_slice.f32()?, &mut out);
                let inner = Tensor::from_vec(out, gate.shape(), gate.device())?;
                drop((gate_slice, up_slice));
                [gate, up].into_iter().for_each(recycle);
                inner
            }
        };
        let sum = self.down_proj.forward_add(&inner, segments, residual)?;
        recycle(inner);
        Ok(sum)
    }
}
