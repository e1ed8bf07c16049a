//! How layers compute: with candle's operations, or on a CPU with the project's kernels.

use std::ops::Range;

use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, bail,
};
use half::bf16;

use crate::adapter::delta::LowRankDelta;
use crate::kernels::{Kernels, Weights};

/// The path that layers take, chosen at load.
#[derive(Debug, Clone, Copy)]
pub enum Backend {
    /// Candle's own operations, on any device.
    Candle,
    /// The project's kernels: activations in float32 whatever the weights, and each row's result
    /// bit-identical whatever else is in its batch.
    Cpu(Kernels),
}

impl Backend {
    /// The faster path of `device`.
    #[must_use]
    pub fn for_device(device: &Device) -> Self {
        if device.is_cpu() { Self::Cpu(Kernels::best()) } else { Self::Candle }
    }

    /// True for [`Backend::Candle`].
    #[must_use]
    pub fn is_candle(self) -> bool {
        matches!(self, Self::Candle)
    }

    /// Whether weights of `dtype` are held packed: on a CPU, bfloat16 is computed in bfloat16.
    #[must_use]
    pub fn packs(self, dtype: DType) -> bool {
        dtype == DType::BF16 && !self.is_candle()
    }

    /// `delta` in the form that layers with weights of `dtype` on `device` take.
    ///
    /// # Errors
    /// Where the device fails, or a factor overflows the type it is held in.
    pub fn prepare(
        self,
        delta: &LowRankDelta,
        dtype: DType,
        device: &Device,
    ) -> Result<LowRankDelta> {
        match self {
            Self::Cpu(kernels) if self.packs(dtype) => delta.pack(kernels),
            _ => delta.to(device, self.activation_dtype(dtype)),
        }
    }

    /// The dtype of activations, biases, and cached keys and values, for weights of `weights`.
    #[must_use]
    pub fn activation_dtype(self, weights: DType) -> DType {
        match self {
            Self::Candle => weights,
            Self::Cpu(_) => DType::F32,
        }
    }
}

/// A contiguous CPU tensor's elements, borrowed.
pub(super) struct CpuSlice<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> CpuSlice<'a> {
    /// Borrows `tensor`.
    pub fn new(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        Ok(Self { storage, range: contiguous(layout)? })
    }

    /// Float32 elements.
    pub fn f32(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => Ok(&data[self.range.clone()]),
            other => {
                bail!("{:?} on {:?} where the CPU path has float32", other.dtype(), other.device())
            }
        }
    }

    /// Bfloat16 elements.
    pub fn bf16(&self) -> Result<&[bf16]> {
        match &*self.storage {
            Storage::Cpu(CpuStorage::BF16(data)) => Ok(&data[self.range.clone()]),
            other => bail!("{:?} where bfloat16 is packed", other.dtype()),
        }
    }

    /// The elements of a weight, of any dtype the kernels read.
    pub fn weights(&self) -> Result<Weights<'_>> {
        let range = self.range.clone();
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => Ok(Weights::F32(&data[range])),
            Storage::Cpu(CpuStorage::BF16(data)) => Ok(Weights::Bf16(&data[range])),
            Storage::Cpu(CpuStorage::F16(data)) => Ok(Weights::F16(&data[range])),
            other => bail!("the CPU path has no {:?} weights", other.dtype()),
        }
    }
}

/// Lends the elements of a contiguous float32 CPU tensor to `write`. Every tensor that shares its
/// storage sees the change.
pub(super) fn write_in_place(tensor: &Tensor, write: impl Fn(&mut [f32])) -> Result<()> {
    tensor.inplace_op1(&InPlace(write))
}

struct InPlace<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "write-in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let range = contiguous(layout)?;
        match storage {
            CpuStorage::F32(data) => (self.0)(&mut data[range]),
            other => {
                let dtype = candle_core::backend::BackendStorage::dtype(other);
                bail!("a {dtype:?} tensor where the CPU path has float32")
            }
        }
        Ok(())
    }
}

fn contiguous(layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => {
            bail!("a strided tensor of {:?} where the CPU path has contiguous ones", layout.shape())
        }
    }
}
