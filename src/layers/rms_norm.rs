//! Root-mean-square normalisation (arXiv 1910.07467), computed in float32 whatever comes in.

use candle_core::{D, DType, Result, Tensor};

use super::backend::{Backend, CpuSlice};
use super::buffer::buffer;

/// `x / sqrt(mean(x²) + eps) * weight`, row by row.
#[derive(Debug)]
pub struct RmsNorm {
    /// One factor per column, float32.
    weight: Tensor,
    eps: f64,
    backend: Backend,
}

impl RmsNorm {
    /// A norm over rows as wide as `weight`, which is float32.
    #[must_use]
    pub fn new(weight: Tensor, eps: f64, backend: Backend) -> Self {
        Self { weight, eps, backend }
    }

    /// Normalises each row of `x`, `rows x width`; the result has the dtype of `x`.
    ///
    /// # Errors
    /// Where shapes disagree or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if let Backend::Cpu(kernels) = self.backend {
            let mut out = buffer(x.elem_count());
            let (rows, weight) = (CpuSlice::new(x)?, CpuSlice::new(&self.weight)?);
            kernels.rms_norm(rows.f32()?, weight.f32()?, self.eps as f32, &mut out);
            return Tensor::from_vec(out, x.shape(), x.device());
        }
        let rows = x.to_dtype(DType::F32)?;
        let scale = (rows.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        rows.broadcast_div(&scale)?.broadcast_mul(&self.weight)?.to_dtype(x.dtype())
    }
}
