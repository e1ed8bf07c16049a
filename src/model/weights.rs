//! A model's tensors by their Hugging Face names, whatever file holds them.
//!
//! [`Weights`] is what is on disk; a [`WeightLoader`] takes tensors out for a part of a model and keeps
//! account of them: at the end, a tensor nobody asked for is an error, because a model that ignores
//! part of its checkpoint computes something else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;

use super::digests::StoredTensor;
use super::error::ModelError;
use super::finite::first_not_finite;
use super::gguf::GgufFile;
use super::safetensors_file::SafetensorsFiles;
use super::stored_file::{StoredBytes, StoredFile};
use crate::layers::backend::Backend;
use crate::layers::packed_weight::{Bits, GgmlBlocks, PackedWeight};

/// Tensors that some exporters add and that hold nothing the configuration does not say.
const DERIVED_SUFFIX: &str = ".rotary_emb.inv_freq";
/// How many names an error lists.
const NAMES_SHOWN: usize = 5;

/// The tensors of one checkpoint.
#[derive(Debug)]
pub struct Weights(Source);

#[derive(Debug)]
enum Source {
    Safetensors(SafetensorsFiles),
    Gguf(GgufFile),
}

impl Weights {
    /// Opens the safetensors files of a Hugging Face directory; reads headers only.
    ///
    /// # Errors
    /// Where there are none, where one is malformed or lies elsewhere, and where the directory is
    /// an un-merged SORSA checkpoint of the reference library.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        let files = SafetensorsFiles::open(directory)?;
        if files.names().any(|name| name.contains(".sorsa_")) {
            return Err(ModelError::SorsaCheckpoint { path: directory.to_owned() });
        }
        Ok(Self(Source::Safetensors(files)))
    }

    /// The weights of opened safetensors files.
    pub(super) fn from_safetensors(files: SafetensorsFiles) -> Self {
        Self(Source::Safetensors(files))
    }

    /// The weights of an opened GGUF file, dequantised tensor by tensor as they are asked for.
    #[must_use]
    pub fn from_gguf(file: GgufFile) -> Self {
        Self(Source::Gguf(file))
    }

    /// All tensors' names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.0 {
            Source::Safetensors(files) => files.names().map(str::to_owned).collect(),
            Source::Gguf(file) => file.names().map(str::to_owned).collect(),
        };
        names.sort();
        names
    }

    /// The shape of tensor `name`, where there is one.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match &self.0 {
            Source::Safetensors(files) => files.shape(name).map(<[usize]>::to_vec),
            Source::Gguf(file) => file.shape(name),
        }
    }

    /// The type tensor `name` is stored in, where there is one; float32 for whatever a GGUF file
    /// holds, which is what dequantising gives.
    ///
    /// # Errors
    /// Where that type is not read.
    pub fn dtype(&self, name: &str) -> Result<Option<DType>, ModelError> {
        match &self.0 {
            Source::Safetensors(files) => files.dtype(name),
            Source::Gguf(file) => Ok(file.shape(name).map(|_| DType::F32)),
        }
    }

    /// Whether tensor `name` is held in blocks of integers with a scale.
    #[must_use]
    pub fn is_quantized(&self, name: &str) -> bool {
        match &self.0 {
            Source::Safetensors(_) => false,
            Source::Gguf(file) => file.is_quantized(name),
        }
    }

    /// The blocks of tensor `name` of `shape`, row after row in Hugging Face's order, where it has
    /// some of a kind that kernels read and, if asked for, of that many bits.
    ///
    /// # Errors
    /// Where it is of another shape, or cut off.
    pub fn blocks(
        &self,
        name: &str,
        shape: &[usize],
        bits: Option<Bits>,
    ) -> Result<Option<(GgmlBlocks, Vec<u8>)>, ModelError> {
        self.check_shape(name, shape)?;
        match &self.0 {
            Source::Safetensors(_) => Ok(None),
            Source::Gguf(file) => file.blocks(name, bits),
        }
    }

    fn check_shape(&self, name: &str, shape: &[usize]) -> Result<(), ModelError> {
        let missing = || ModelError::MissingTensor(name.to_owned());
        let found = self.shape(name).ok_or_else(missing)?;
        if found != shape {
            let expected = shape.to_vec();
            return Err(ModelError::TensorShape { name: name.to_owned(), expected, found });
        }
        Ok(())
    }

    /// The bytes of tensor `name` as they are stored, little-endian and row-major; `None` where
    /// there is no such tensor, or its file does not hold plain numbers.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<StoredBytes<'_>> {
        match &self.0 {
            Source::Safetensors(files) => files.bytes(name),
            Source::Gguf(_) => None,
        }
    }

    /// Whether tensor `name` is stored as tensor `other_name` of `other` is: the same shape, type
    /// and bytes. Two that are not may still hold equal values.
    ///
    /// # Errors
    /// Where a type is not read, or a file cannot be.
    pub fn stores_alike(
        &self,
        name: &str,
        other: &Self,
        other_name: &str,
    ) -> Result<bool, ModelError> {
        let (Some(ours), Some(theirs)) = (self.bytes(name), other.bytes(other_name)) else {
            return Ok(false);
        };
        Ok(self.shape(name) == other.shape(other_name)
            && self.dtype(name)? == other.dtype(other_name)?
            && ours.equal(theirs)?)
    }

    /// Every tensor as its file holds it, in the order of the names.
    ///
    /// # Errors
    /// Where one lies outside its file.
    pub fn stored_tensors(&self) -> Result<Vec<StoredTensor<'_>>, ModelError> {
        match &self.0 {
            Source::Safetensors(files) => Ok(files.stored_tensors().collect()),
            Source::Gguf(file) => file.stored_tensors().collect(),
        }
    }

    /// The files that hold the tensors.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.0 {
            Source::Safetensors(files) => files.files().map(Path::to_owned).collect(),
            Source::Gguf(file) => vec![file.path().to_owned()],
        }
    }

    /// Elements of all tensors together, for a progress bar.
    #[must_use]
    pub fn total_elements(&self) -> u64 {
        let elements = |name: &String| self.shape(name).map_or(0, |dims| elements(&dims));
        self.names().iter().map(elements).sum()
    }

    /// Tensor `name` of `shape` as `dtype` on `device`.
    ///
    /// # Errors
    /// Where it is absent, of another shape, stored in a type that is not read, not finite, or
    /// beyond the range of `dtype`.
    pub fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor, ModelError> {
        self.check_shape(name, shape)?;
        let missing = || ModelError::MissingTensor(name.to_owned());
        let stored = match &self.0 {
            Source::Safetensors(files) => files.tensor(name)?.ok_or_else(missing)?,
            Source::Gguf(file) => file.tensor(name)?.ok_or_else(missing)?,
        };
        Ok(checked(name, stored, 0, dtype)?.to_device(device)?)
    }

    /// Matrix `name` of `shape`, packed in bfloat16 for `backend`. Its rows are read a few at a time:
    /// a piece is packed while the cache holds it, and nothing else is held twice.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn packed(
        &self,
        name: &str,
        shape: (usize, usize),
        backend: Backend,
    ) -> Result<PackedWeight, ModelError> {
        let dims = [shape.0, shape.1];
        if let Source::Gguf(_) = &self.0 {
            let whole = self.tensor(name, &dims, DType::BF16, &Device::Cpu)?;
            return Ok(PackedWeight::bf16(&whole, backend)?);
        }
        self.check_shape(name, &dims)?;
        PackedWeight::bf16_by_rows(shape, backend, |rows| {
            let stored = self.rows(name, rows.start, rows.len())?;
            checked(name, stored, rows.start * shape.1, DType::BF16)
        })
    }

    /// Refuses tensors whose names are not in `used`.
    ///
    /// # Errors
    /// [`ModelError::UnusedTensors`] where there are some.
    pub(super) fn ensure_used(&self, used: &BTreeSet<String>) -> Result<(), ModelError> {
        let mut unused = self.names();
        unused.retain(|name| !used.contains(name) && !is_derived(name));
        let count = unused.len();
        if count == 0 {
            return Ok(());
        }
        unused.truncate(NAMES_SHOWN);
        Err(ModelError::UnusedTensors { count, names: unused })
    }

    /// Rows `start..start + count` of matrix `name` as they are stored, on the CPU; of a GGUF file
    /// dequantised, for which all of it is.
    ///
    /// # Errors
    /// Where it has no such rows, or is stored in a type that is not read.
    pub fn rows(&self, name: &str, start: usize, count: usize) -> Result<Tensor, ModelError> {
        let rows = match &self.0 {
            Source::Safetensors(files) => files.rows(name, start, count)?,
            Source::Gguf(file) => {
                let whole = file.tensor(name)?;
                whole.map(|whole| whole.narrow(0, start, count)).transpose()?
            }
        };
        rows.ok_or_else(|| ModelError::MissingTensor(name.to_owned()))
    }
}

/// Values of tensor `name` from element `first` on, as `dtype`: all of them finite.
fn checked(name: &str, stored: Tensor, first: usize, dtype: DType) -> Result<Tensor, ModelError> {
    if let Some(element) = first_not_finite(&stored)? {
        return Err(ModelError::NotFinite { name: name.to_owned(), element: first + element });
    }
    let converted = stored.to_dtype(dtype)?;
    if !widens(stored.dtype(), dtype) && first_not_finite(&converted)?.is_some() {
        let dtype = dtype.as_str();
        return Err(ModelError::TensorRange { name: name.to_owned(), dtype });
    }
    Ok(converted)
}

/// True for the name of a tensor that holds nothing the configuration does not say.
pub(super) fn is_derived(name: &str) -> bool {
    name.ends_with(DERIVED_SUFFIX)
}

/// Maps a whole file, to read its header: the formats' readers ask for all of it.
#[allow(unsafe_code)]
pub(super) fn map(file: &StoredFile) -> Result<Mmap, ModelError> {
    // SAFETY: the mapping is private and read-only, and every read through it is bounds-checked
    // against its length. What remains is a file that another process truncates or rewrites while
    // its header is read; a model directory is not to be written to while it is opened, and the
    // mapping is dropped when the header is read. Tensors are not read through it.
    unsafe { Mmap::map(file.handle()) }.map_err(ModelError::io(file.path()))
}

/// Number of elements; 0 where a hostile shape overflows.
pub(super) fn elements(dims: &[usize]) -> u64 {
    let product = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim as u64));
    product.unwrap_or(0)
}

/// True where every finite value of `from` stays one in `to`.
fn widens(from: DType, to: DType) -> bool {
    from == to || to == DType::F64 || (to == DType::F32 && from != DType::F64)
}

/// Takes the tensors of a model's part out of [`Weights`] and keeps account of them.
pub struct WeightLoader<'a> {
    weights: &'a Weights,
    used: BTreeSet<String>,
    device: &'a Device,
    progress: &'a dyn Fn(u64),
}

impl<'a> WeightLoader<'a> {
    /// A loader onto `device`; `progress` is told the elements of each tensor as it arrives.
    pub fn new(weights: &'a Weights, device: &'a Device, progress: &'a dyn Fn(u64)) -> Self {
        Self { weights, used: BTreeSet::new(), device, progress }
    }

    /// Where tensors go.
    #[must_use]
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// See [`Weights::dtype`].
    ///
    /// # Errors
    /// As there.
    pub fn stored(&self, name: &str) -> Result<Option<DType>, ModelError> {
        self.weights.dtype(name)
    }

    /// See [`Weights::tensor`].
    ///
    /// # Errors
    /// As there.
    pub fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Tensor, ModelError> {
        let tensor = self.weights.tensor(name, shape, dtype, self.device)?;
        self.used.insert(name.to_owned());
        (self.progress)(elements(shape));
        Ok(tensor)
    }

    /// See [`Weights::packed`].
    ///
    /// # Errors
    /// As there.
    pub fn packed(
        &mut self,
        name: &str,
        shape: (usize, usize),
        backend: Backend,
    ) -> Result<PackedWeight, ModelError> {
        let packed = self.weights.packed(name, shape, backend)?;
        self.used.insert(name.to_owned());
        (self.progress)(elements(&[shape.0, shape.1]));
        Ok(packed)
    }

    /// See [`Weights::is_quantized`].
    #[must_use]
    pub fn is_quantized(&self, name: &str) -> bool {
        self.weights.is_quantized(name)
    }

    /// See [`Weights::blocks`].
    ///
    /// # Errors
    /// As there.
    pub fn blocks(
        &mut self,
        name: &str,
        shape: &[usize],
        bits: Option<Bits>,
    ) -> Result<Option<(GgmlBlocks, Vec<u8>)>, ModelError> {
        let blocks = self.weights.blocks(name, shape, bits)?;
        if blocks.is_some() {
            self.used.insert(name.to_owned());
            (self.progress)(elements(shape));
        }
        Ok(blocks)
    }

    /// Accepts tensor `name`, should there be one, only where it equals tensor `original`.
    ///
    /// # Errors
    /// [`ModelError::UntiedHead`] where it does not.
    pub fn expect_copy(&mut self, name: &str, original: &str) -> Result<(), ModelError> {
        let Some(shape) = self.weights.shape(name) else { return Ok(()) };
        if self.weights.shape(original).as_ref() != Some(&shape) {
            return Err(ModelError::UntiedHead);
        }
        let load = |name| self.weights.tensor(name, &shape, DType::F32, &Device::Cpu);
        let differing = load(name)?.ne(&load(original)?)?.to_dtype(DType::F32)?.max_all()?;
        if differing.to_scalar::<f32>()? != 0.0 {
            return Err(ModelError::UntiedHead);
        }
        self.used.insert(name.to_owned());
        Ok(())
    }

    /// Ends the loading: the names of the tensors that were taken, for `Weights::ensure_used`.
    #[must_use]
    pub fn finish(self) -> BTreeSet<String> {
        self.used
    }
}
