//! The safetensors files of one directory: one file, or shards under an index.
//!
//! It checks names, bounds and types; which tensors a model needs is not known here.
//! Format: <https://github.com/huggingface/safetensors>.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytemuck::Pod;
use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::digests::StoredTensor;
use super::disk::{JSON_LIMIT_BYTES, is_there, read_json};
use super::error::ModelError;
use super::stored_file::{StoredBytes, StoredFile};
use super::weights::map;
use crate::adapter::outline::Outline;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Length of a header's own length field.
const HEADER_LENGTH_BYTES: usize = 8;
/// The most shards an index may name.
const MAX_SHARDS: usize = 4096;

/// One file.
#[derive(Debug)]
struct Shard {
    file: StoredFile,
    /// Where tensor data begins.
    data_start: u64,
}

impl Shard {
    /// A tensor of this file whose values are stored as `T`, or `count` of its rows from `first`
    /// on.
    fn tensor<T: WithDType + Pod>(
        &self,
        info: &TensorInfo,
        rows: Option<(usize, usize)>,
    ) -> Result<Tensor, ModelError> {
        let mut shape = info.shape.clone();
        let mut start = info.data_offsets.0;
        if let Some((first, count)) = rows {
            let all = shape.first_mut().filter(|all| first <= **all && count <= **all - first);
            *all.ok_or_else(|| candle_core::Error::msg("bug: rows beyond a tensor's"))? = count;
            start += first * shape[1..].iter().product::<usize>() * size_of::<T>();
        }
        let count = shape.iter().product();
        let values: Vec<T> = self.file.values(self.data_start + start as u64, count)?;
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

/// All tensors of a directory, by name.
#[derive(Debug)]
pub(super) struct SafetensorsFiles {
    shards: Vec<Arc<Shard>>,
    tensors: BTreeMap<String, (usize, TensorInfo)>,
}

impl SafetensorsFiles {
    /// Opens the weights in `directory`; reads headers only.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        let mut files = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        let single = directory.join(SINGLE);
        let index = directory.join(INDEX);
        if is_there(&single)? {
            files.add(&single)?;
        } else if is_there(&index)? {
            files.add_indexed(directory, &index)?;
        } else {
            return Err(no_weights(directory));
        }
        Ok(files)
    }

    /// The tensors' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of tensor `name`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|(_, info)| info.shape.as_slice())
    }

    /// The type tensor `name` is stored in; `None` where there is none.
    pub fn dtype(&self, name: &str) -> Result<Option<DType>, ModelError> {
        let Some((_, info)) = self.tensors.get(name) else { return Ok(None) };
        match info.dtype {
            Dtype::F32 => Ok(Some(DType::F32)),
            Dtype::F16 => Ok(Some(DType::F16)),
            Dtype::BF16 => Ok(Some(DType::BF16)),
            Dtype::F64 => Ok(Some(DType::F64)),
            other => {
                let dtype = format!("{other:?}");
                Err(ModelError::TensorType { name: name.to_owned(), dtype })
            }
        }
    }

    /// The bytes of tensor `name`, little-endian and row-major.
    pub fn bytes(&self, name: &str) -> Option<StoredBytes<'_>> {
        let (shard, info) = self.tensors.get(name)?;
        let shard = &self.shards[*shard];
        let (start, end) = info.data_offsets;
        let place = |offset: usize| shard.data_start + offset as u64;
        Some(shard.file.reader(place(start)..place(end)))
    }

    /// Every tensor, in the order of the names.
    pub fn stored_tensors(&self) -> impl Iterator<Item = StoredTensor<'_>> {
        self.tensors.iter().filter_map(|(name, (_, info))| {
            let (dtype, shape) = (format!("{:?}", info.dtype), info.shape.clone());
            Some(StoredTensor { name: name.clone(), dtype, shape, bytes: self.bytes(name)? })
        })
    }

    /// Where the shards lie.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.file.path())
    }

    /// Tensor `name` on the CPU, as stored; `None` where there is none.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        self.part(name, None)
    }

    /// Rows `start..start + count` of matrix `name`, likewise.
    pub fn rows(
        &self,
        name: &str,
        start: usize,
        count: usize,
    ) -> Result<Option<Tensor>, ModelError> {
        self.part(name, Some((start, count)))
    }

    fn part(&self, name: &str, rows: Option<(usize, usize)>) -> Result<Option<Tensor>, ModelError> {
        let dtype = self.dtype(name)?;
        let Some((dtype, (shard, info))) = dtype.zip(self.tensors.get(name)) else {
            return Ok(None);
        };
        let shard = &self.shards[*shard];
        Ok(Some(match dtype {
            DType::BF16 => shard.tensor::<bf16>(info, rows)?,
            DType::F16 => shard.tensor::<f16>(info, rows)?,
            DType::F64 => shard.tensor::<f64>(info, rows)?,
            _ => shard.tensor::<f32>(info, rows)?,
        }))
    }

    /// The same files seen under other names: each tensor under what `rename` makes of its name,
    /// and none for which it gives `None`.
    pub fn view(&self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let renamed =
            |(name, entry): (&String, &(usize, TensorInfo))| Some((rename(name)?, entry.clone()));
        let tensors = self.tensors.iter().filter_map(renamed).collect();
        Self { shards: self.shards.clone(), tensors }
    }

    /// Lets tensor `original` be found under `name` too.
    pub fn alias(&mut self, name: &str, original: &str) {
        if let Some(entry) = self.tensors.get(original).cloned() {
            self.tensors.insert(name.to_owned(), entry);
        }
    }

    fn add_indexed(&mut self, directory: &Path, path: &Path) -> Result<(), ModelError> {
        let invalid = |reason| ModelError::InvalidIndex { path: path.to_owned(), reason };
        let index = read_json(path, JSON_LIMIT_BYTES)?;
        let map = index.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| invalid("it has no \"weight_map\"".to_owned()))?;
        let files: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
        if files.is_empty() || files.len() > MAX_SHARDS {
            let count = files.len();
            return Err(invalid(format!("it names {count} shards, expected 1 to {MAX_SHARDS}")));
        }
        let mut shard_of = BTreeMap::new();
        for file in files {
            if Path::new(file).file_name().is_none_or(|name| name != file) {
                return Err(invalid(format!("the shard {file:?} lies outside the directory")));
            }
            shard_of.insert(file, self.shards.len());
            self.add(&directory.join(file))?;
        }
        for (name, file) in map {
            let shard = file.as_str().and_then(|file| shard_of.get(file));
            let holds = self.tensors.get(name).map(|(shard, _)| shard);
            if shard.is_none() || shard != holds {
                return Err(invalid(format!("tensor {name:?} is not in {file}")));
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path) -> Result<(), ModelError> {
        let file = StoredFile::open(path)?;
        let map = map(&file)?;
        let invalid = |reason| ModelError::InvalidFile {
            path: path.to_owned(),
            format: "safetensors",
            reason,
        };
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| invalid(error.to_string()))?;
        let outline = Outline::parse(&map[HEADER_LENGTH_BYTES..][..header]);
        let repeated = outline.map_err(|error| invalid(error.to_string()))?.repeated();
        if let Some(name) = repeated {
            return Err(invalid(format!("tensor {name:?} is in its header twice")));
        }
        for (name, info) in metadata.tensors() {
            let entry = (self.shards.len(), info.clone());
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(invalid(format!("tensor {name:?} is in another shard too")));
            }
        }
        let data_start = (HEADER_LENGTH_BYTES + header) as u64;
        self.shards.push(Arc::new(Shard { file, data_start }));
        Ok(())
    }
}

/// Says what the directory holds instead of safetensors, if that can be told.
fn no_weights(directory: &Path) -> ModelError {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    // What the trainer was told is a pickle too, and no weights.
    let weights =
        |path: &std::path::PathBuf| is_pickle(path) && !path.ends_with("training_args.bin");
    let pickled = entries.map(|entry| entry.path()).filter(weights).min();
    pickled.map_or_else(
        || ModelError::not_a_model(directory, format!("holds neither {SINGLE} nor {INDEX}")),
        |path| ModelError::Pickle { path },
    )
}

/// True for the extensions of PyTorch's pickled files.
pub(super) fn is_pickle(path: &Path) -> bool {
    let extension = path.extension().and_then(std::ffi::OsStr::to_str);
    matches!(extension, Some("bin" | "pt" | "pth" | "ckpt"))
}
