//! How layers compute: with candle's operations, or on a CPU with the project's kernels.

use std::cell::Cell;
use std::ops::Range;

use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, WithDType,
    bail,
};
use half::bf16;

use crate::adapter::delta::{FactorDType, LowRankDelta};
use crate::kernels::{Kernels, Rows, Weights};

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

    /// `delta` in the form that layers with weights of `dtype` on `device` take; `factors` matters
    /// where weights are packed.
    ///
    /// # Errors
    /// Where the device fails, or a factor overflows the type it is held in.
    pub fn prepare(
        self,
        delta: &LowRankDelta,
        dtype: DType,
        factors: FactorDType,
        device: &Device,
    ) -> Result<LowRankDelta> {
        match self {
            Self::Cpu(kernels) if self.packs(dtype) => delta.pack(kernels, factors),
            _ => delta.to(device, self.activation_dtype(dtype)),
        }
    }

    /// The dtype of activations and biases for weights of `weights`.
    #[must_use]
    pub fn activation_dtype(self, weights: DType) -> DType {
        match self {
            Self::Candle => weights,
            Self::Cpu(_) => DType::F32,
        }
    }

    /// The dtypes that cached keys and values may have for weights of `weights`, the usual first.
    #[must_use]
    pub fn kv_cache_dtypes(self, weights: DType) -> Vec<DType> {
        match self {
            Self::Candle => vec![weights],
            Self::Cpu(_) if weights == DType::BF16 => vec![DType::BF16, DType::F32],
            Self::Cpu(_) => vec![DType::F32, DType::BF16],
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

    /// Elements of one of the types that the CPU path computes with.
    pub fn elements<E: CpuElement>(&self) -> Result<&[E]> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(&E::cpu_storage_as_slice(storage)?[self.range.clone()]),
            other => bail!("a tensor on {:?} where the CPU path has its own", other.device()),
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

/// A CPU tensor's float32 rows, borrowed; they may be columns of wider rows.
pub(super) struct CpuRows<'a> {
    storage: StorageRef<'a>,
    start: usize,
    stride: usize,
}

impl<'a> CpuRows<'a> {
    /// Borrows `tensor`, which must be a matrix.
    pub fn new(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let (_, width) = layout.shape().dims2()?;
        let (start, strides) = (layout.start_offset(), layout.stride());
        if width > 1 && strides[1] != 1 {
            bail!("a transposed tensor of {:?} where the CPU path has rows", layout.shape())
        }
        Ok(Self { storage, start, stride: strides[0] })
    }

    /// The rows.
    pub fn rows(&self) -> Result<Rows<'_>> {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => Ok(Rows::new(&data[self.start..], self.stride)),
            other => {
                bail!("{:?} on {:?} where the CPU path has float32", other.dtype(), other.device())
            }
        }
    }
}

/// A type of which the CPU path writes tensors in place.
pub(super) trait CpuElement: WithDType {
    /// The storage's elements, where they are of this type.
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl CpuElement for f32 {
    fn of(storage: &mut CpuStorage) -> Option<&mut [f32]> {
        if let CpuStorage::F32(data) = storage { Some(data) } else { None }
    }
}

impl CpuElement for bf16 {
    fn of(storage: &mut CpuStorage) -> Option<&mut [bf16]> {
        if let CpuStorage::BF16(data) = storage { Some(data) } else { None }
    }
}

/// Lends the elements of a contiguous CPU tensor to `write`. Every tensor that shares its storage
/// sees the change.
pub(super) fn write_in_place<E: CpuElement>(
    tensor: &Tensor,
    write: impl FnOnce(&mut [E]) -> Result<()>,
) -> Result<()> {
    let write = |storage: &mut CpuStorage, layout: &Layout| {
        let range = contiguous(layout)?;
        match E::of(storage) {
            Some(data) => write(&mut data[range]),
            None => bail!("a tensor in place that is not {:?}", E::DTYPE),
        }
    };
    tensor.inplace_op1(&InPlace(Cell::new(Some(write))))
}

/// Runs once; candle lends the operation itself out shared only.
struct InPlace<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut CpuStorage, &Layout) -> Result<()>> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "write-in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        self.0.take().map_or(Ok(()), |write| write(storage, layout))
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
