//! A model's tensors written as safetensors, a few at a time, in as many shards as a limit asks for.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use super::tensor_sink::TensorSink;
use crate::model::weights::Weights;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// How much of a tensor is copied at a time: what lies between stays in the cache.
const COPIED_BYTES: usize = 1 << 19;

/// A type that weights can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightType {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// Single precision.
    F32,
}

impl WeightType {
    /// The type that holds values of `dtype`: itself, or float32 for what is never written.
    #[must_use]
    pub fn holding(dtype: DType) -> Self {
        match dtype {
            DType::BF16 => Self::Bf16,
            DType::F16 => Self::F16,
            _ => Self::F32,
        }
    }

    /// The tensor library's name for it.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
        }
    }

    /// `config.json`'s name for it.
    #[must_use]
    pub fn config_name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }

    /// Finite values rounded to this type, little-endian.
    ///
    /// # Errors
    /// Where one is not finite, or beyond the type's range.
    pub fn rounded(self, values: &[f32]) -> anyhow::Result<Vec<u8>> {
        // No branch per value, so that the loops are vector code.
        let finite = |all: bool, value: &f32| all & value.is_finite();
        let (bytes, all_finite) = match self {
            Self::Bf16 => {
                let rounded: Vec<bf16> =
                    values.iter().map(|value| bf16::from_f32(*value)).collect();
                let finite = rounded.iter().fold(true, |all, value| all & value.is_finite());
                (le_bytes(&rounded, bf16::to_le_bytes), finite)
            }
            Self::F16 => {
                let rounded: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
                let finite = rounded.iter().fold(true, |all, value| all & value.is_finite());
                (le_bytes(&rounded, f16::to_le_bytes), finite)
            }
            Self::F32 => (le_bytes(values, f32::to_le_bytes), values.iter().fold(true, finite)),
        };
        anyhow::ensure!(all_finite, "a value is beyond the range of {}", self.config_name());
        Ok(bytes)
    }

    fn stored(self) -> Dtype {
        match self {
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
            Self::F32 => Dtype::F32,
        }
    }
}

/// A tensor to be written, known before its values are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The type it is written in.
    pub dtype: WeightType,
}

impl PlannedTensor {
    /// Every tensor of `weights`, in the type that `dtype` gives for its name.
    ///
    /// # Errors
    /// Where `dtype` fails.
    pub fn all(
        weights: &Weights,
        dtype: impl Fn(&str) -> anyhow::Result<WeightType>,
    ) -> anyhow::Result<Vec<Self>> {
        let planned = |name: String| {
            let shape = weights.shape(&name).unwrap_or_default();
            Ok(Self { dtype: dtype(&name)?, name, shape })
        };
        weights.names().into_iter().map(planned).collect()
    }

    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.dtype().size_in_bytes()
    }
}

/// Writes a planned tensor's bytes, little-endian and row-major.
pub type Produce<'a> =
    dyn Fn(&PlannedTensor, &mut TensorSink<'_>) -> anyhow::Result<()> + Sync + 'a;

/// Writes a tensor of `weights`, converted where it is stored in another type.
///
/// # Errors
/// Where it cannot be read or written, or is beyond the range of the type.
pub fn write_stored(
    weights: &Weights,
    tensor: &PlannedTensor,
    sink: &mut TensorSink<'_>,
) -> anyhow::Result<()> {
    let dtype = tensor.dtype.dtype();
    if weights.dtype(&tensor.name)? == Some(dtype)
        && let Some(mut bytes) = weights.bytes(&tensor.name)
    {
        let mut buffer = vec![0; tensor.bytes().min(COPIED_BYTES)];
        loop {
            match bytes.read(&mut buffer)? {
                0 => return Ok(()),
                count => sink.write(&buffer[..count])?,
            }
        }
    }
    let values = weights.tensor(&tensor.name, &tensor.shape, dtype, &Device::Cpu)?;
    sink.write(&tensor_bytes(&values)?)
}

/// The values of a tensor of one of the three types, little-endian and row-major.
///
/// # Errors
/// Where it is of another.
fn tensor_bytes(tensor: &Tensor) -> anyhow::Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::BF16 => le_bytes(&flat.to_vec1()?, bf16::to_le_bytes),
        DType::F16 => le_bytes(&flat.to_vec1()?, f16::to_le_bytes),
        DType::F32 => le_bytes(&flat.to_vec1()?, f32::to_le_bytes),
        other => anyhow::bail!("a tensor of {other:?} cannot be written"),
    })
}

fn le_bytes<T: Copy, const N: usize>(values: &[T], bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    let mut all = vec![0; values.len() * N];
    for (place, value) in all.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *place = bytes(*value);
    }
    all
}

/// Writes the tensors into `directory`: one file, or shards of at most `max_shard_bytes` under an
/// index. A tensor larger than that has a shard of its own.
///
/// # Errors
/// Where a tensor cannot be produced or a file not be written.
pub fn write_tensors(
    directory: &Path,
    tensors: &[PlannedTensor],
    max_shard_bytes: usize,
    produce: &Produce<'_>,
) -> anyhow::Result<()> {
    let shards = shards(tensors, max_shard_bytes);
    if let [single] = shards.as_slice() {
        return write_file(&directory.join(SINGLE), single, produce);
    }
    let mut weight_map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        write_file(&directory.join(&name), shard, produce)?;
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), Value::from(&*name))));
    }
    let total: usize = tensors.iter().map(PlannedTensor::bytes).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let path = directory.join(INDEX);
    fs::write(&path, format!("{index:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The tensors in runs of at most `limit` bytes; at least one run.
fn shards(tensors: &[PlannedTensor], limit: usize) -> Vec<&[PlannedTensor]> {
    let (mut shards, mut start, mut size) = (Vec::new(), 0, 0_usize);
    for (i, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.bytes();
        if i > start && size.saturating_add(bytes) > limit {
            shards.push(&tensors[start..i]);
            (start, size) = (i, 0);
        }
        size = size.saturating_add(bytes);
    }
    shards.push(&tensors[start..]);
    shards
}

/// Tensors are produced and written by all threads at once, each at its own place in the file.
fn write_file(path: &Path, tensors: &[PlannedTensor], produce: &Produce<'_>) -> anyhow::Result<()> {
    let (header, places) = layout(tensors)?;
    let failed = || format!("cannot write {}", path.display());
    let mut file = File::create_new(path).with_context(failed)?;
    file.write_all(&header).with_context(failed)?;
    let write = |(tensor, place): (&PlannedTensor, u64)| -> anyhow::Result<()> {
        let context = || format!("tensor {:?}", tensor.name);
        let mut sink = TensorSink::new(&file, header.len() as u64 + place, tensor.bytes());
        produce(tensor, &mut sink).and_then(|()| sink.finish()).with_context(context)
    };
    places.into_par_iter().try_for_each(write).with_context(failed)
}

/// A tensor and where its bytes begin in the file.
type Placed<'a> = (&'a PlannedTensor, u64);

/// The header of a file, and where each tensor lies behind it: wide types first, so that all are
/// aligned. Format: <https://github.com/huggingface/safetensors>.
fn layout(tensors: &[PlannedTensor]) -> anyhow::Result<(Vec<u8>, Vec<Placed<'_>>)> {
    let mut ordered: Vec<&PlannedTensor> = tensors.iter().collect();
    ordered.sort_by_key(|tensor| (Reverse(tensor.dtype.dtype().size_in_bytes()), &tensor.name));
    let mut entries = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let (mut places, mut end) = (Vec::with_capacity(ordered.len()), 0);
    for tensor in ordered {
        let start = end;
        end += tensor.bytes();
        let (dtype, shape) = (tensor.dtype.stored(), &tensor.shape);
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        entries.insert(tensor.name.clone(), entry);
        places.push((tensor, start as u64));
    }
    let mut json = serde_json::to_vec(&entries)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
    Ok((header, places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_keep_the_order_and_the_limit() {
        let tensor = |i: usize| PlannedTensor {
            name: i.to_string(),
            shape: vec![i],
            dtype: WeightType::Bf16,
        };
        let tensors: Vec<_> = [3, 2, 9, 1, 1, 4].map(tensor).into();
        let lengths = |limit| shards(&tensors, limit).iter().map(|s| s.len()).collect::<Vec<_>>();
        assert_eq!(lengths(usize::MAX), [6]);
        assert_eq!(lengths(10), [2, 1, 2, 1]);
        assert_eq!(lengths(0), [1; 6]);
        assert_eq!(shards(&[], 10), [&[] as &[PlannedTensor]]);
        assert_eq!(shards(&tensors, 10).concat(), tensors);
    }
}
