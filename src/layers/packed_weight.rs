//! A weight laid out for the CPU's kernels: in bfloat16, or quantised.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::bf16;

use super::backend::{Backend, CpuSlice};
pub use crate::kernels::{Bits, GgmlBlocks};
use crate::kernels::{Kernels, Panels, QuantizedPanels, Weight};

/// An `out_features x in_features` weight for [`Backend::Cpu`]; a clone is the same memory.
#[derive(Debug, Clone)]
pub enum PackedWeight {
    /// In bfloat16.
    Bf16(Arc<Panels>),
    /// In 8 or 4 bits.
    Quantized(Arc<QuantizedPanels>),
}

impl PackedWeight {
    /// Lays out a bfloat16 weight.
    ///
    /// # Errors
    /// Where it is no matrix of that type, or not on the CPU.
    pub fn bf16(weight: &Tensor, backend: Backend) -> Result<Self> {
        let shape = weight.dims2()?;
        let panels = Panels::pack(
            kernels(backend)?,
            CpuSlice::new(weight)?.elements::<half::bf16>()?,
            shape,
        );
        Ok(Self::Bf16(Arc::new(panels)))
    }

    /// Lays out a bfloat16 weight of `out_features x in_features`, some of whose rows `read` gives at a
    /// time, in order.
    ///
    /// # Errors
    /// `read`'s, and where it gives something else.
    pub fn bf16_by_rows<E: From<candle_core::Error>>(
        shape: (usize, usize),
        backend: Backend,
        mut read: impl FnMut(Range<usize>) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Self, E> {
        kernels(backend)?;
        let (out_features, in_features) = shape;
        let mut panels = Panels::zeros(shape);
        let count = panels.rows_at_once();
        for first in (0..out_features).step_by(count) {
            let rows = first..out_features.min(first + count);
            let values = read(rows.clone())?;
            if values.dims() != [rows.len(), in_features] {
                let error = format!("rows {rows:?} are {:?}", values.shape());
                return Err(candle_core::Error::msg(error).into());
            }
            panels.write_rows(first, CpuSlice::new(&values)?.elements()?);
        }
        Ok(Self::Bf16(Arc::new(panels)))
    }

    /// Rounds a float32 weight to `bits`.
    ///
    /// # Errors
    /// Where it is no matrix of that type, not on the CPU, or holds what cannot be rounded.
    pub fn quantize(weight: &Tensor, bits: Bits, backend: Backend) -> Result<Self> {
        let (shape, values) = (weight.dims2()?, CpuSlice::new(weight)?);
        let panels = QuantizedPanels::quantize(kernels(backend)?, values.f32()?, shape, bits);
        Ok(Self::Quantized(Arc::new(panels.map_err(candle_core::Error::wrap)?)))
    }

    /// Takes over the blocks of a GGUF file, whose number must be that of the shape.
    ///
    /// # Errors
    /// Where it is not, or not on the CPU.
    pub fn from_ggml(
        kind: GgmlBlocks,
        bytes: &[u8],
        shape: (usize, usize),
        backend: Backend,
    ) -> Result<Self> {
        let (out_features, in_features) = shape;
        let blocks = out_features * (in_features / kind.values());
        if !in_features.is_multiple_of(kind.values()) || bytes.len() != blocks * kind.bytes() {
            bail!("{} bytes of {kind:?} for {out_features} x {in_features}", bytes.len())
        }
        let panels = QuantizedPanels::from_ggml(kernels(backend)?, kind, bytes, shape);
        Ok(Self::Quantized(Arc::new(panels)))
    }

    /// Columns of the weight.
    #[must_use]
    pub fn in_features(&self) -> usize {
        match self {
            Self::Bf16(panels) => panels.in_features(),
            Self::Quantized(panels) => panels.in_features(),
        }
    }

    /// Rows of the weight.
    #[must_use]
    pub fn out_features(&self) -> usize {
        match self {
            Self::Bf16(panels) => panels.out_features(),
            Self::Quantized(panels) => panels.out_features(),
        }
    }

    /// What the kernels take.
    pub(super) fn weight(&self) -> Weight<'_> {
        match self {
            Self::Bf16(panels) => Weight::Bf16(panels),
            Self::Quantized(panels) => Weight::Quantized(panels),
        }
    }

    /// Rows `ids` of the weight, `ids.len() x in_features`, in `dtype`.
    pub(super) fn rows(&self, ids: &[u32], dtype: DType) -> Result<Tensor> {
        let width = self.in_features();
        let shape = (ids.len(), width);
        match self {
            Self::Bf16(panels) => {
                let mut rows = vec![bf16::ZERO; ids.len() * width];
                for (id, row) in ids.iter().zip(rows.chunks_mut(width)) {
                    panels.read_row(*id as usize, row);
                }
                Tensor::from_vec(rows, shape, &Device::Cpu)?.to_dtype(dtype)
            }
            Self::Quantized(panels) => {
                let mut rows = vec![0.0_f32; ids.len() * width];
                for (id, row) in ids.iter().zip(rows.chunks_mut(width)) {
                    panels.read_row(*id as usize, row);
                }
                Tensor::from_vec(rows, shape, &Device::Cpu)?.to_dtype(dtype)
            }
        }
    }
}

fn kernels(backend: Backend) -> Result<Kernels> {
    match backend {
        Backend::Cpu(kernels) => Ok(kernels),
        Backend::Candle => bail!("bug: candle packs no weights"),
    }
}
