//! Layers out of a checkpoint's tensors: what every family's loading has in common.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use candle_core::{DType, Device, Tensor};

use super::config::ModelConfig;
use super::error::ModelError;
use super::weights::{WeightLoader, Weights};
use crate::adapter::delta::{FactorDType, ModuleSpec};
use crate::layers::backend::Backend;
use crate::layers::embedding::Embedding;
use crate::layers::linear::Linear;
use crate::layers::packed_weight::{Bits, PackedWeight};
use crate::layers::rms_norm::RmsNorm;
use crate::layers::rotary::{RotaryEmbedding, inverse_frequencies};

/// The most cosines and sines computed at load: 1 GiB of them.
const MAX_ROTARY_ELEMENTS: usize = 1 << 28;
/// The module that [`Use::Head`] is about.
const HEAD: &str = "lm_head";

/// What a weight is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Layer,
    /// The output head, whose errors are the logits'.
    Head,
}

/// Which weights a CPU holds quantised, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// Those that a GGUF file holds quantised, as it does. Kinds of blocks that no kernel reads are
    /// rounded to 8 bits.
    AsStored,
    /// Every linear layer's, in this many bits; the output head's in 8. What a GGUF file holds in as
    /// many is taken over as it is.
    Bits(Bits),
}

/// Where and how a model is to run.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Dtype in which linear weights and the embedding are held; norms and, on a CPU, biases stay
    /// float32.
    pub dtype: DType,
    /// On a CPU, hold a weight that is stored in a narrower type than `dtype` as it is stored: the
    /// same values in less memory.
    pub keep_stored: bool,
    /// On a CPU, hold weights quantised. `dtype` is then that of the others, and of factors.
    pub quantization: Option<Quantization>,
    /// How factors of adapters are held where weights are packed.
    pub factors: FactorDType,
    /// Where.
    pub device: Device,
    /// How layers compute; [`Backend::for_device`] unless a test wants otherwise.
    pub backend: Backend,
    /// Positions to prepare for, where fewer than the configuration's.
    pub max_positions: Option<usize>,
    /// Threads that read and pack weights.
    pub parallelism: NonZeroUsize,
}

impl LoadOptions {
    /// Weights of `dtype` on `device`, computed in the fastest way it has, loaded by a thread per core.
    #[must_use]
    pub fn new(dtype: DType, device: Device) -> Self {
        let backend = Backend::for_device(&device);
        Self {
            dtype,
            keep_stored: false,
            quantization: None,
            factors: FactorDType::default(),
            device,
            backend,
            max_positions: None,
            parallelism: available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// Takes a part of a checkpoint apart into layers and numbers the linear modules as it goes.
pub struct Builder<'a> {
    config: &'a ModelConfig,
    options: &'a LoadOptions,
    loader: WeightLoader<'a>,
    /// Modules in the parts before.
    first_module: usize,
    modules: Vec<ModuleSpec>,
}

/// What a part took: its linear modules in the order in which they were built, and its tensors' names.
pub struct Taken {
    /// The modules.
    pub modules: Vec<ModuleSpec>,
    /// The names.
    pub tensors: BTreeSet<String>,
}

impl<'a> Builder<'a> {
    /// A builder of a part of what `config` describes, behind parts of `first_module` linear modules;
    /// `progress` is told the elements of each tensor.
    pub fn new(
        config: &'a ModelConfig,
        weights: &'a Weights,
        options: &'a LoadOptions,
        first_module: usize,
        progress: &'a dyn Fn(u64),
    ) -> Self {
        let loader = WeightLoader::new(weights, &options.device, progress);
        Self { config, options, loader, first_module, modules: Vec::new() }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &'a ModelConfig {
        self.config
    }

    /// How the layers compute.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.options.backend
    }

    /// A weight of `rows x columns`, in the dtype asked for.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn weight(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Tensor, ModelError> {
        let dtype = self.held_as(name)?;
        self.loader.tensor(name, &[rows, columns], dtype)
    }

    /// The token embedding `name` and, where the configuration ties it, the output head that
    /// shares its weight. A copy of it under the head's own name is accepted, anything else there
    /// is not.
    ///
    /// # Errors
    /// [`ModelError::UntiedHead`] for the latter; else as [`Weights::tensor`].
    pub fn embedding(
        &mut self,
        name: &str,
        (vocab, hidden): (usize, usize),
    ) -> Result<(Embedding, Option<Linear>), ModelError> {
        let backend = self.options.backend;
        if !self.config.tie_word_embeddings {
            // Rows of it are read, never all of it: only a file's own blocks make it smaller.
            return Ok(match self.stored_blocks(name, (vocab, hidden), None)? {
                Some(table) => (Embedding::packed(table), None),
                None => (Embedding::new(self.weight(name, vocab, hidden)?), None),
            });
        }
        self.loader.expect_copy("lm_head.weight", name)?;
        if let Some(table) = self.packed(name, (vocab, hidden), Use::Head)? {
            let head = Linear::packed(table.clone(), None, None, backend)?;
            return Ok((Embedding::packed(table), Some(head)));
        }
        let table = self.weight(name, vocab, hidden)?;
        let head = Linear::new(table.clone(), None, None, backend)?;
        Ok((Embedding::new(table), Some(head)))
    }

    /// Ends the part.
    #[must_use]
    pub fn finish(self) -> Taken {
        Taken { modules: self.modules, tensors: self.loader.finish() }
    }

    /// The next module: its weight `out x in` and, where it has one, its bias.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn linear(
        &mut self,
        path: String,
        (out_features, in_features): (usize, usize),
        has_bias: bool,
    ) -> Result<Linear, ModelError> {
        let LoadOptions { dtype, backend, .. } = *self.options;
        let (name, shape) = (format!("{path}.weight"), (out_features, in_features));
        let own = if path == HEAD { Use::Head } else { Use::Layer };
        let packed = self.packed(&name, shape, own)?;
        let plain = match packed {
            Some(_) => None,
            None => Some(self.weight(&name, out_features, in_features)?),
        };
        let bias = has_bias.then(|| {
            let dtype = backend.activation_dtype(dtype);
            self.loader.tensor(&format!("{path}.bias"), &[out_features], dtype)
        });
        let bias = bias.transpose()?;
        let module = self.first_module + self.modules.len();
        self.modules.push(ModuleSpec { path, in_features, out_features });
        match (packed, plain) {
            (Some(weight), _) => Ok(Linear::packed(weight, bias, Some(module), backend)?),
            (None, Some(weight)) => Ok(Linear::new(weight, bias, Some(module), backend)?),
            (None, None) => Err(ModelError::MissingTensor(name)),
        }
    }

    /// Weight `name` in the form of the CPU's kernels, where it is to have one.
    fn packed(
        &mut self,
        name: &str,
        shape: (usize, usize),
        own: Use,
    ) -> Result<Option<PackedWeight>, ModelError> {
        let LoadOptions { dtype, backend, .. } = *self.options;
        let bits = match self.options.quantization {
            Some(Quantization::Bits(_)) if own == Use::Head => Some(Bits::Eight),
            Some(Quantization::Bits(bits)) => Some(bits),
            Some(Quantization::AsStored) | None => None,
        };
        if let Some(stored) = self.stored_blocks(name, shape, bits)? {
            return Ok(Some(stored));
        }
        match bits {
            Some(bits) => Ok(Some(self.rounded(name, shape, bits)?)),
            None if backend.packs(dtype) => Ok(Some(self.loader.packed(name, shape, backend)?)),
            None => Ok(None),
        }
    }

    fn rounded(
        &mut self,
        name: &str,
        shape: (usize, usize),
        bits: Bits,
    ) -> Result<PackedWeight, ModelError> {
        let weight = self.loader.tensor(name, &[shape.0, shape.1], DType::F32)?;
        let rounded = PackedWeight::quantize(&weight, bits, self.options.backend);
        rounded.map_err(|error| {
            // A backtrace may follow the first line.
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            ModelError::Quantize { name: name.to_owned(), reason }
        })
    }

    /// Weight `name` by the blocks of its file, where it has some, quantisation is asked for, and
    /// they have the number of bits asked for.
    fn stored_blocks(
        &mut self,
        name: &str,
        shape: (usize, usize),
        bits: Option<Bits>,
    ) -> Result<Option<PackedWeight>, ModelError> {
        if self.options.quantization.is_none() || !self.loader.is_quantized(name) {
            return Ok(None);
        }
        let backend = self.options.backend;
        if let Some((kind, bytes)) = self.loader.blocks(name, &[shape.0, shape.1], bits)? {
            return Ok(Some(PackedWeight::from_ggml(kind, &bytes, shape, backend)?));
        }
        match bits {
            None => Ok(Some(self.rounded(name, shape, Bits::Eight)?)),
            Some(_) => Ok(None),
        }
    }

    /// The type to hold weight `name` in.
    fn held_as(&self, name: &str) -> Result<DType, ModelError> {
        let LoadOptions { dtype, keep_stored, backend, .. } = *self.options;
        let stored =
            if keep_stored && !backend.is_candle() { self.loader.stored(name)? } else { None };
        Ok(stored.filter(|it| it.size_in_bytes() < dtype.size_in_bytes()).unwrap_or(dtype))
    }

    /// A norm over the residual stream.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn rms_norm(&mut self, path: &str) -> Result<RmsNorm, ModelError> {
        let shape = [self.config.hidden_size];
        let weight = self.loader.tensor(&format!("{path}.weight"), &shape, DType::F32)?;
        Ok(RmsNorm::new(weight, self.config.rms_norm_eps, self.options.backend))
    }

    /// The rotary tables.
    ///
    /// # Errors
    /// Where the device cannot hold them.
    pub fn rotary(&self) -> Result<RotaryEmbedding, ModelError> {
        let (config, options) = (self.config, self.options);
        let trained = config.max_position_embeddings;
        let positions = options.max_positions.map_or(trained, |max| max.min(trained));
        if positions.saturating_mul(config.head_dim) > MAX_ROTARY_ELEMENTS {
            let text = format!("a rotary table of {positions} positions");
            return Err(ModelError::Unsupported(text));
        }
        let (theta, scaling) = (config.rope_theta, config.rope_scaling);
        let frequencies = inverse_frequencies(config.head_dim, theta, scaling);
        let (device, backend) = (&options.device, options.backend);
        Ok(RotaryEmbedding::new(&frequencies, positions, device, backend)?)
    }
}
