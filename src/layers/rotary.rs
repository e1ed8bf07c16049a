//! Rotary position embedding (RoFormer, arXiv 2104.09864), in Hugging Face's order: dimension `i`
//! of a head is paired with `i + head_dim / 2`.

use std::f64::consts::PI;

use candle_core::{D, DType, Device, Result, Tensor, bail};

use super::backend::{Backend, CpuSlice};
use crate::kernels::{self, RotaryTables};

/// How the frequencies are stretched for contexts longer than the model was first trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3's: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Original context over this is the shortest wavelength divided in full.
        low_freq_factor: f64,
        /// Original context over this is the longest wavelength kept.
        high_freq_factor: f64,
        /// Context the model was first trained on.
        original_max_position_embeddings: f64,
    },
}

/// The `head_dim / 2` angles per position, scaled.
#[must_use]
pub fn inverse_frequencies(head_dim: usize, theta: f64, scaling: RopeScaling) -> Vec<f32> {
    let plain = (0..head_dim / 2).map(|i| {
        let exponent = (2 * i) as f64 / head_dim as f64;
        // Rounded to float32 before it is scaled, as the reference implementation does.
        f64::from(theta.powf(-exponent) as f32)
    });
    plain.map(|frequency| scale(frequency, scaling) as f32).collect()
}

fn scale(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: context,
        } => {
            let turns = context * frequency / (2.0 * PI);
            let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }
}

/// Tables of cosines and sines by position.
#[derive(Debug)]
pub struct RotaryEmbedding {
    head_dim: usize,
    /// `max_positions x head_dim / 2`, float32.
    cos: Tensor,
    /// As `cos`.
    sin: Tensor,
    backend: Backend,
}

/// The rotation of each row of one batch.
#[derive(Debug)]
pub struct Rotation<'a> {
    embedding: &'a RotaryEmbedding,
    positions: &'a [u32],
    /// Cosines and sines of the rows, `rows x 1 x head_dim / 2`; the CPU path reads the tables.
    gathered: Option<(Tensor, Tensor)>,
}

impl RotaryEmbedding {
    /// Tables for positions `0 .. max_positions`, from [`inverse_frequencies`].
    ///
    /// # Errors
    /// Where the device cannot hold them.
    pub fn new(
        frequencies: &[f32],
        max_positions: usize,
        device: &Device,
        backend: Backend,
    ) -> Result<Self> {
        let half = frequencies.len();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..max_positions {
            for frequency in frequencies {
                // The product in float32, as the reference implementation has it: at far positions
                // its rounding is part of what the model was trained with.
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        Ok(Self {
            head_dim: 2 * half,
            cos: Tensor::from_vec(cos, (max_positions, half), device)?,
            sin: Tensor::from_vec(sin, (max_positions, half), device)?,
            backend,
        })
    }

    /// How many positions the tables hold.
    #[must_use]
    pub fn max_positions(&self) -> usize {
        self.cos.dims()[0]
    }

    /// The rotation of rows at `positions`.
    ///
    /// # Errors
    /// Where a position lies beyond the tables.
    pub fn at<'a>(&'a self, positions: &'a [u32]) -> Result<Rotation<'a>> {
        let limit = self.max_positions();
        if let Some(position) = positions.iter().find(|position| **position as usize >= limit) {
            bail!("position {position} lies beyond the rotary table of {limit}")
        }
        let gathered = match self.backend {
            Backend::Candle => {
                let index = Tensor::new(positions, self.cos.device())?;
                let rows = |table: &Tensor| table.index_select(&index, 0)?.unsqueeze(1);
                Some((rows(&self.cos)?, rows(&self.sin)?))
            }
            Backend::Cpu(_) => None,
        };
        Ok(Rotation { embedding: self, positions, gathered })
    }
}

impl Rotation<'_> {
    /// Rotates every head of `x`, `rows x (heads * head_dim)`, with candle's operations.
    ///
    /// # Errors
    /// Where shapes disagree or the device fails.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let head_dim = self.embedding.head_dim;
        if rows != self.positions.len() || width % head_dim != 0 {
            bail!("rotary embedding of {:?} with heads of {head_dim}", x.shape())
        }
        let Some((cos, sin)) = &self.gathered else {
            bail!("bug: candle's rotary embedding without its rows")
        };
        let dtype = x.dtype();
        let heads = x.reshape((rows, width / head_dim, head_dim))?.to_dtype(DType::F32)?;
        let first = heads.narrow(D::Minus1, 0, head_dim / 2)?;
        let second = heads.narrow(D::Minus1, head_dim / 2, head_dim / 2)?;
        let turned = Tensor::cat(
            &[
                (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?,
                (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?,
            ],
            D::Minus1,
        )?;
        turned.reshape((rows, width))?.to_dtype(dtype)
    }

    /// For the CPU path, which rotates within its kernels.
    pub(super) fn tables(&self) -> Result<CpuTables<'_>> {
        let RotaryEmbedding { head_dim, cos, sin, .. } = self.embedding;
        let (cos, sin) = (CpuSlice::new(cos)?, CpuSlice::new(sin)?);
        Ok(CpuTables { cos, sin, head_dim: *head_dim, positions: self.positions })
    }
}

/// The tables of a [`Rotation`], borrowed.
pub(super) struct CpuTables<'a> {
    cos: CpuSlice<'a>,
    sin: CpuSlice<'a>,
    head_dim: usize,
    positions: &'a [u32],
}

impl CpuTables<'_> {
    /// As the kernels take it.
    pub fn rotation(&self) -> Result<kernels::Rotation<'_>> {
        let (cos, sin) = (self.cos.f32()?, self.sin.f32()?);
        let tables = RotaryTables { cos, sin, head_dim: self.head_dim };
        Ok(kernels::Rotation { tables, positions: self.positions })
    }
}
