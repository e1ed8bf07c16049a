//! `sorsa convert`: a GGUF file as a Hugging Face directory, its weights dequantised and rounded.
//!
//! The directory appears whole or not at all: it is written beside its place and renamed.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Device};
use clap::ValueEnum;
use safetensors::tensor::{Dtype, View};
use serde_json::Value;

use super::gguf_vocab::gguf_vocab;
use crate::model::checkpoint::{Checkpoint, TokenizerSource};
use crate::model::error::ModelError;
use crate::model::weights::Weights;

/// Writes a GGUF model as a Hugging Face directory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The GGUF file to read.
    model: PathBuf,
    /// The directory to write; must be absent or empty.
    directory: PathBuf,
    /// The type the weights are rounded to.
    #[arg(long, value_enum, default_value_t = WeightType::Bf16)]
    dtype: WeightType,
}

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
    /// Candle's, safetensors' and `config.json`'s names for it.
    fn names(self) -> (DType, Dtype, &'static str) {
        match self {
            Self::Bf16 => (DType::BF16, Dtype::BF16, "bfloat16"),
            Self::F16 => (DType::F16, Dtype::F16, "float16"),
            Self::F32 => (DType::F32, Dtype::F32, "float32"),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Where the file is no GGUF model this server reads, the directory is taken, or writing fails.
/// Nothing is left behind.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let TokenizerSource::Gguf(metadata) = checkpoint.tokenizer()? else {
        bail!("{} is a model directory already", args.model.display())
    };
    ensure_vacant(&args.directory)?;
    let tokenizer = gguf_vocab(metadata)?.to_hugging_face()?.files()?;
    let (_, _, dtype_name) = args.dtype.names();
    let mut config = checkpoint.config_json.clone();
    config["torch_dtype"] = dtype_name.into();
    let staging = Staging::new(&args.directory)?;
    staging.write_json("config.json", &config)?;
    staging.write_json("generation_config.json", &checkpoint.generation_config_json)?;
    for (name, bytes) in tokenizer {
        staging.write(name, &bytes)?;
    }
    write_weights(&checkpoint.weights, args.dtype, &staging.path.join("model.safetensors"))?;
    staging.publish(&args.directory)
}

fn ensure_vacant(directory: &Path) -> anyhow::Result<()> {
    match fs::read_dir(directory) {
        Ok(mut entries) => {
            ensure!(entries.next().is_none(), "{} is not empty", directory.display());
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot use {}", directory.display())),
    }
}

/// A directory being written; removed unless it is published.
#[derive(Debug)]
struct Staging {
    path: PathBuf,
}

impl Staging {
    /// Beside `target`, so that one rename publishes it.
    fn new(target: &Path) -> anyhow::Result<Self> {
        let name =
            target.file_name().with_context(|| format!("no name in {}", target.display()))?;
        let name = format!(".{}.{}.partial", name.display(), std::process::id());
        let path = target.with_file_name(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    fn write_json(&self, name: &str, value: &Value) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.write(name, text.as_bytes())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.path.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    fn publish(self, target: &Path) -> anyhow::Result<()> {
        fs::rename(&self.path, target)
            .with_context(|| format!("cannot put {} in its place", target.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Once published it is no longer there, and a failure here has no one to hear of it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Writes every tensor, converting one at a time.
fn write_weights(weights: &Weights, dtype: WeightType, path: &Path) -> anyhow::Result<()> {
    let failure = RefCell::new(None);
    let names = weights.names();
    let tensor = |name: &String| {
        let shape = weights.shape(name).unwrap_or_default();
        (name.clone(), LazyTensor { weights, name: name.clone(), shape, dtype, failure: &failure })
    };
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let written = safetensors::serialize_to_file(names.iter().map(tensor), Some(metadata), path);
    if let Some(error) = failure.take() {
        return Err(error.into());
    }
    let failed = || format!("cannot write {}", path.display());
    written.with_context(failed)?;
    // The writer goes through a temporary file that is its owner's alone; a model need not be.
    let permissions = fs::metadata(path.with_file_name("config.json"))?.permissions();
    fs::set_permissions(path, permissions).with_context(failed)
}

/// A tensor that is dequantised when the writer reaches it.
struct LazyTensor<'a> {
    weights: &'a Weights,
    name: String,
    shape: Vec<usize>,
    dtype: WeightType,
    /// The writer's interface has no place for an error, so the first one waits here.
    failure: &'a RefCell<Option<ModelError>>,
}

impl LazyTensor<'_> {
    fn bytes(&self) -> Result<Vec<u8>, ModelError> {
        let (dtype, _, _) = self.dtype.names();
        let tensor = self.weights.tensor(&self.name, &self.shape, dtype, &Device::Cpu)?;
        let flat = tensor.flatten_all()?;
        Ok(match self.dtype {
            WeightType::Bf16 => le_bytes(flat.to_vec1()?, half::bf16::to_le_bytes),
            WeightType::F16 => le_bytes(flat.to_vec1()?, half::f16::to_le_bytes),
            WeightType::F32 => le_bytes(flat.to_vec1()?, f32::to_le_bytes),
        })
    }
}

fn le_bytes<T, const N: usize>(values: Vec<T>, bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.into_iter().flat_map(bytes).collect()
}

impl View for LazyTensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype.names().1
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.failure.borrow().is_some() {
            return Cow::Borrowed(&[]);
        }
        Cow::Owned(self.bytes().unwrap_or_else(|error| {
            self.failure.replace(Some(error));
            Vec::new()
        }))
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.names().0.size_in_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_directory_is_refused_and_an_empty_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        ensure_vacant(directory.path()).unwrap();
        ensure_vacant(&directory.path().join("absent")).unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(ensure_vacant(directory.path()).unwrap_err().to_string().contains("not empty"));
        assert!(ensure_vacant(&file).is_err());
    }

    #[test]
    fn what_is_not_published_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("a").join("model");
        let parent = || fs::read_dir(directory.path().join("a")).unwrap().count();
        let staging = Staging::new(&target).unwrap();
        staging.write_json("config.json", &Value::Null).unwrap();
        assert_eq!(parent(), 1);
        drop(staging);
        assert_eq!(parent(), 0);
        let staging = Staging::new(&target).unwrap();
        staging.write_json("config.json", &Value::Null).unwrap();
        fs::create_dir(&target).unwrap();
        staging.publish(&target).unwrap();
        assert_eq!((parent(), target.join("config.json").exists()), (1, true));
    }
}
