//! What a server's weights, configuration and texts come from: one model, or a SORSA checkpoint
//! beside the model it was trained from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Device};

use super::base_check::{OnMismatch, base_digest};
use crate::adapter::base::BaseDigest;
use crate::adapter::check::check;
use crate::adapter::delta::{FactorDType, LowRankDelta, ModuleSpec};
use crate::adapter::directory::AdapterDir;
use crate::adapter::file::{self, AdapterKind, Limits};
use crate::adapter::registry::Source;
use crate::config::{AdapterDTypeArg, DTypeArg, QuantizeArg, ServeArgs};
use crate::kernels::Kernels;
use crate::layers::backend::Backend;
use crate::layers::packed_weight::Bits;
use crate::model::builder::{LoadOptions, Quantization};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::sorsa::{SorsaCheckpoint, SorsaError, lineage};
use crate::model::weights::Weights;

/// An opened model.
#[derive(Debug)]
pub struct ModelSource {
    /// The model with the tokenizer, the chat template and the sampling defaults.
    pub model: Checkpoint,
    /// The digest of the dense weights.
    pub digest: BaseDigest,
    on_mismatch: OnMismatch,
    residual: Option<Arc<Residual>>,
}

/// Reads adapters for what is served; outlives the model's files, unless adapters need them.
#[derive(Debug)]
pub struct AdapterReader {
    digest: BaseDigest,
    on_mismatch: OnMismatch,
    residual: Option<Arc<Residual>>,
}

/// An adapter relative to what is served, float32 on the CPU.
#[derive(Debug)]
pub struct ServedAdapter {
    /// Its weights.
    pub delta: LowRankDelta,
    /// How it was trained, in a word.
    pub kind: &'static str,
    /// Its rank as trained.
    pub rank: usize,
    /// Whether the delta is a difference of which most may cancel.
    pub is_difference: bool,
}

/// A checkpoint whose weights are served in place of the model's own.
#[derive(Debug)]
struct Residual {
    checkpoint: SorsaCheckpoint,
    config: ModelConfig,
}

impl ModelSource {
    /// Opens what the arguments name.
    ///
    /// # Errors
    /// Where it cannot be read, or is not what the arguments take it for.
    pub fn open(args: &ServeArgs) -> anyhow::Result<Self> {
        let Some(base) = &args.base else {
            return Self::new(args, open_model(&args.model)?, None);
        };
        let checkpoint = SorsaCheckpoint::open(&args.model).with_context(|| {
            let (model, base) = (args.model.display(), base.display());
            format!(
                "--base {base} is for un-merged SORSA checkpoints, and {model} cannot be served so"
            )
        })?;
        let model = open_model(base)?;
        let residual = Residual::new(checkpoint, &model, on_mismatch(args))
            .with_context(|| format!("{} with --base {}", args.model.display(), base.display()))?;
        Self::new(args, model, Some(residual))
    }

    fn new(
        args: &ServeArgs,
        model: Checkpoint,
        residual: Option<Residual>,
    ) -> anyhow::Result<Self> {
        let weights = residual.as_ref().map_or(&model.weights, |own| &own.checkpoint.weights);
        let digest = base_digest(weights)?;
        tracing::info!(%digest, "base model");
        let residual = residual.map(Arc::new);
        Ok(Self { model, digest, on_mismatch: on_mismatch(args), residual })
    }

    /// The configuration of what is served.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        self.residual.as_ref().map_or(&self.model.config, |residual| &residual.config)
    }

    /// The dense weights.
    #[must_use]
    pub fn weights(&self) -> &Weights {
        self.residual.as_ref().map_or(&self.model.weights, |residual| &residual.checkpoint.weights)
    }

    /// How the weights are to be held. A residual is computed in float32 unless something else is
    /// asked for: its factors hold most of each weight, and rounding them, or the sum, to bfloat16
    /// costs much of what training changed. With its factors beside it, it keeps the types it is
    /// stored in.
    ///
    /// # Errors
    /// Where this machine lacks the instructions asked for, or no kernel takes adapters so.
    pub fn load_options(&self, args: &ServeArgs, device: &Device) -> anyhow::Result<LoadOptions> {
        let residual = self.residual.is_some();
        let quantization = self.quantization(args, device);
        // Factors beside quantised weights are fast in bfloat16, and good enough unless they hold
        // most of each weight.
        let own = match quantization {
            Some(_) => Some(DType::BF16),
            None => self.config().dtype,
        };
        let own = own.filter(|_| !residual).unwrap_or(DType::F32);
        let keep_stored = residual && args.merge.is_none() && args.dtype == DTypeArg::Auto;
        let mut options = LoadOptions::new(args.dtype.resolve(own), device.clone());
        if let Some(level) = &args.engine.cpu {
            ensure!(device.is_cpu(), "--cpu {level} says how a CPU computes");
            options.backend = Backend::Cpu(Kernels::new(level.parse()?)?);
        }
        if args.adapters.adapter_dtype == AdapterDTypeArg::Q8 {
            options.factors = FactorDType::Q8;
            ensure!(
                options.backend.packs(options.dtype),
                "--adapter-dtype q8 goes with weights in bfloat16 or quantised on a CPU, not with {} \
                 on {}: give --dtype bf16",
                options.dtype.as_str(),
                if device.is_cpu() { "a CPU" } else { "a GPU" }
            );
        }
        let parallelism = args.load_parallelism.or(args.engine.threads);
        let parallelism = parallelism.unwrap_or(options.parallelism);
        Ok(LoadOptions { keep_stored, quantization, parallelism, ..options })
    }

    /// Which weights are to be held quantised.
    fn quantization(&self, args: &ServeArgs, device: &Device) -> Option<Quantization> {
        let weights = self.weights();
        match args.quantize {
            QuantizeArg::Q8 => Some(Quantization::Bits(Bits::Eight)),
            QuantizeArg::Q4 => Some(Quantization::Bits(Bits::Four)),
            QuantizeArg::None => None,
            QuantizeArg::Auto => {
                let floats = args.dtype != DTypeArg::Auto || args.merge.is_some();
                let quantized = weights.names().iter().any(|name| weights.is_quantized(name));
                (device.is_cpu() && quantized && !floats).then_some(Quantization::AsStored)
            }
        }
    }

    /// The checkpoint's own factors, float32 on the CPU; `None` for an ordinary model.
    ///
    /// # Errors
    /// Where they cannot be used.
    pub fn own_delta(&self, modules: &[ModuleSpec]) -> anyhow::Result<Option<LowRankDelta>> {
        let delta = |residual: &Arc<Residual>| residual.checkpoint.delta(modules);
        Ok(self.residual.as_ref().map(delta).transpose()?)
    }

    /// What reads adapters for it.
    #[must_use]
    pub fn adapters(&self) -> AdapterReader {
        let (digest, on_mismatch) = (self.digest, self.on_mismatch);
        AdapterReader { digest, on_mismatch, residual: self.residual.clone() }
    }
}

impl AdapterReader {
    /// The adapter at `source`, relative to the weights that are served.
    ///
    /// # Errors
    /// Where it cannot be used, or is relative to other weights.
    pub fn read(&self, source: &Source, modules: &[ModuleSpec]) -> anyhow::Result<ServedAdapter> {
        if let (Source::Directory { path }, Some(residual)) = (source, &self.residual) {
            return residual.adapter(path, modules);
        }
        let (dir, path) = self.open(source)?;
        let loaded = file::load_from(dir, modules)?;
        self.on_mismatch.check_adapter(&path, &loaded, || Ok(self.digest))?;
        let kind = match loaded.kind {
            AdapterKind::Sorsa => "sorsa",
            AdapterKind::Lora => "lora",
        };
        let (rank, is_difference) = (loaded.rank, loaded.is_difference);
        Ok(ServedAdapter { delta: loaded.delta, kind, rank, is_difference })
    }

    /// Finds what is wrong with the adapter at `source` without reading its weights. What is found
    /// wrong cannot be read; the rest may be.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, source: &Source, modules: &[ModuleSpec]) -> anyhow::Result<()> {
        if self.residual.is_some() {
            // Whole checkpoints come from the command line, and are read at the start.
            return Ok(());
        }
        let base = check(self.open(source)?.0, modules)?;
        self.on_mismatch.check_recorded(&base, self.digest)?;
        Ok(())
    }

    fn open(&self, source: &Source) -> anyhow::Result<(AdapterDir, PathBuf)> {
        let max_bytes = Limits::default().max_bytes;
        match source {
            _ if self.residual.is_some() => {
                bail!("beside the residual of a SORSA checkpoint adapters come from --adapter only")
            }
            Source::Directory { path } => Ok((AdapterDir::open(path, max_bytes)?, path.clone())),
            Source::Beneath { root, path } => {
                Ok((AdapterDir::beneath(root, path, max_bytes)?, root.join(path)))
            }
            Source::Remote { .. } => bail!("bug: an adapter is read where it was fetched to"),
        }
    }
}

impl Residual {
    fn new(
        checkpoint: SorsaCheckpoint,
        base: &Checkpoint,
        on_mismatch: OnMismatch,
    ) -> Result<Self, SorsaError> {
        let lineage = lineage::check(&checkpoint, &base.weights)?;
        tracing::info!(
            rank = checkpoint.max_rank(),
            modules = checkpoint.modules().len(),
            unexplained = lineage.unexplained,
            "SORSA checkpoint: its residual is the dense weight"
        );
        if lineage.unexplained > lineage::ROUNDING {
            tracing::warn!(
                unexplained = lineage.unexplained,
                "the base's weights are not exactly those that the checkpoint was trained from; only \
                 its tokenizer, chat template and configuration are used"
            );
        }
        on_mismatch.check_checkpoint(&checkpoint, &base.weights)?;
        let config = checkpoint.model_config(&base.config)?;
        Ok(Self { checkpoint, config })
    }

    fn adapter(&self, path: &Path, modules: &[ModuleSpec]) -> anyhow::Result<ServedAdapter> {
        if path.join("adapter_config.json").exists() || path.join("init.safetensors").exists() {
            bail!(
                "an adapter directory is relative to the base model's own weights, and the weights \
                 served here are the residual of a SORSA checkpoint; serve the base model with \
                 this adapter instead"
            );
        }
        let other = SorsaCheckpoint::open(path)?;
        self.checkpoint.check_same_residual(&other)?;
        // Beside its residual a checkpoint's factors are no difference of two parts: they are
        // served as they are, which is the reference's own arithmetic.
        let (delta, rank) = (other.delta(modules)?, other.max_rank());
        Ok(ServedAdapter { delta, kind: "sorsa", rank, is_difference: false })
    }
}

fn on_mismatch(args: &ServeArgs) -> OnMismatch {
    OnMismatch::new(args.allow_base_mismatch)
}

fn open_model(path: &Path) -> anyhow::Result<Checkpoint> {
    Checkpoint::open(path).with_context(|| format!("cannot open the model {}", path.display()))
}
