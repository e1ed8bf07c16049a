//! Random tiny Llamas on disk, adapters for them, and a driver that feeds them chunk by chunk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sorsa::adapter::delta::{AdapterId, LowRankDelta, LowRankFactors, ModuleSpec};
use sorsa::adapter::segments::Segments;
use sorsa::kv_cache::BlockId;
use sorsa::kv_cache::storage::KvCache;
use sorsa::layers::backend::Backend;
use sorsa::model::builder::LoadOptions;
use sorsa::model::checkpoint::Checkpoint;
use sorsa::model::config::ModelConfig;
use sorsa::model::contract::{CausalLm, ForwardInput, ForwardOutput, SequenceSpan};
use sorsa::model::llama::LlamaForCausalLm;

/// Tokens per cache block: small and odd, so that contexts straddle blocks.
const BLOCK_SIZE: usize = 3;

/// A tiny model's configuration and random weights.
pub struct TinyLlama {
    pub config_json: Value,
    pub config: ModelConfig,
    pub tensors: BTreeMap<String, Tensor>,
}

impl TinyLlama {
    /// The smallest Llama, its configuration changed as `patch` says, its weights drawn by `seed`.
    pub fn new(patch: &Value, seed: u64) -> Self {
        let mut config_json = json!({
            "model_type": "llama", "hidden_size": 24, "intermediate_size": 20,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 31, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": false, "rope_theta": 100.0,
        });
        for (key, value) in patch.as_object().unwrap() {
            config_json[key] = value.clone();
        }
        let config = ModelConfig::from_json(&config_json).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let tensors = shapes(&config).into_iter().map(|(name, dims)| {
            let (mean, spread) = match name.as_str() {
                norm if norm.ends_with("norm.weight") => (1.0, 0.2),
                bias if bias.ends_with(".bias") => (0.0, 0.3),
                embedding if embedding.contains("embed") => (0.0, 0.5),
                _ => (0.0, 1.5 / (dims[1] as f32).sqrt()),
            };
            let tensor = uniform(&mut random, &dims, mean, spread);
            (name, tensor)
        });
        let tensors = tensors.collect();
        Self { config_json, config, tensors }
    }

    /// Writes a Hugging Face directory.
    pub fn write(&self, directory: &Path) {
        let config = serde_json::to_vec(&self.config_json).unwrap();
        std::fs::write(directory.join("config.json"), config).unwrap();
        let tensors: std::collections::HashMap<_, _> = self.tensors.clone().into_iter().collect();
        candle_core::safetensors::save(&tensors, directory.join("model.safetensors")).unwrap();
    }

    /// Writes and loads it, its weights held in `dtype`.
    pub fn load(&self, dtype: DType, backend: Backend) -> LlamaForCausalLm {
        let directory = tempfile::tempdir().unwrap();
        self.write(directory.path());
        load(directory.path(), dtype, backend)
    }

    /// An adapter with factors of rank `1 + index % 3` on the modules `touches` picks by index.
    pub fn adapter(
        modules: &[ModuleSpec],
        seed: u64,
        touches: impl Fn(usize) -> bool,
    ) -> Arc<LowRankDelta> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let factors = modules.iter().enumerate().map(|(index, module)| {
            let rank = 1 + index % 3;
            let down = uniform(&mut random, &[rank, module.in_features], 0.0, 0.3);
            let up = uniform(&mut random, &[module.out_features, rank], 0.0, 0.3);
            touches(index).then_some(LowRankFactors { down, up })
        });
        let mut id = [0; 32];
        id[..8].copy_from_slice(&seed.to_le_bytes());
        Arc::new(LowRankDelta::new(AdapterId(id), factors.collect()))
    }
}

/// Loads the model in `directory`.
pub fn load(directory: &Path, dtype: DType, backend: Backend) -> LlamaForCausalLm {
    let checkpoint = Checkpoint::open(directory).unwrap();
    let options = LoadOptions { backend, ..LoadOptions::new(dtype, Device::Cpu) };
    LlamaForCausalLm::load(&checkpoint.config, &checkpoint.weights, options, &mut |_| {}).unwrap()
}

/// The path on this project's kernels.
pub fn fast() -> Backend {
    Backend::for_device(&Device::Cpu)
}

fn uniform(random: &mut ChaCha8Rng, dims: &[usize], mean: f32, spread: f32) -> Tensor {
    let len = dims.iter().product();
    let values = (0..len).map(|_| mean + random.random_range(-spread..spread));
    Tensor::from_vec(values.collect::<Vec<f32>>(), dims, &Device::Cpu).unwrap()
}

/// Every tensor that `config` calls for.
fn shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let q = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    if !config.tie_word_embeddings {
        shapes.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
    }
    for layer in 0..config.num_hidden_layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            shapes.push((format!("model.layers.{layer}.{norm}.weight"), vec![hidden]));
        }
        for (module, out, width, bias) in [
            ("self_attn.q_proj", q, hidden, config.attention_bias),
            ("self_attn.k_proj", kv, hidden, config.attention_bias),
            ("self_attn.v_proj", kv, hidden, config.attention_bias),
            ("self_attn.o_proj", hidden, q, config.attention_bias),
            ("mlp.gate_proj", inner, hidden, config.mlp_bias),
            ("mlp.up_proj", inner, hidden, config.mlp_bias),
            ("mlp.down_proj", hidden, inner, config.mlp_bias),
        ] {
            shapes.push((format!("model.layers.{layer}.{module}.weight"), vec![out, width]));
            if bias {
                shapes.push((format!("model.layers.{layer}.{module}.bias"), vec![out]));
            }
        }
    }
    shapes
}

/// A sequence being fed to a model.
pub struct Sequence {
    pub ids: Vec<u32>,
    pub delta: Option<Arc<LowRankDelta>>,
    /// The logits after each token fed so far.
    pub logits: Vec<Vec<f32>>,
    /// The hidden states of the same tokens.
    pub hidden_states: Vec<Vec<f32>>,
    blocks: Vec<BlockId>,
}

/// A model with a cache, and sequences in it.
pub struct Driver<'a> {
    model: &'a LlamaForCausalLm,
    cache: KvCache,
    pub sequences: Vec<Sequence>,
}

impl<'a> Driver<'a> {
    /// Gives every sequence blocks, scattered over the pool.
    pub fn new(
        model: &'a LlamaForCausalLm,
        sequences: impl IntoIterator<Item = (Vec<u32>, Option<Arc<LowRankDelta>>)>,
    ) -> Self {
        Self::with_cache(model, model.activation_dtype(), sequences)
    }

    /// The same with keys and values of `dtype`.
    pub fn with_cache(
        model: &'a LlamaForCausalLm,
        dtype: DType,
        sequences: impl IntoIterator<Item = (Vec<u32>, Option<Arc<LowRankDelta>>)>,
    ) -> Self {
        let sequences: Vec<_> = sequences.into_iter().collect();
        let count = |ids: &Vec<u32>| ids.len().div_ceil(BLOCK_SIZE);
        let total: usize = sequences.iter().map(|(ids, _)| count(ids)).sum();
        let cache =
            KvCache::new(model.config().kv_shape(), total + 1, BLOCK_SIZE, dtype, &Device::Cpu);
        // Every other block first, then the rest: tables jump about.
        let mut free =
            (0..=total as u32).rev().step_by(2).chain((0..total as u32).rev().step_by(2));
        let place = |(ids, delta): (Vec<u32>, _)| {
            let blocks = free.by_ref().take(count(&ids)).map(BlockId).collect();
            Sequence { ids, delta, logits: Vec::new(), hidden_states: Vec::new(), blocks }
        };
        let sequences = sequences.into_iter().map(place).collect();
        Self { model, cache: cache.unwrap(), sequences }
    }

    /// One forward pass over the next tokens of some sequences: `(sequence, tokens)` each.
    pub fn step(&mut self, chunks: &[(usize, usize)]) {
        let (mut ids, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        let mut spans = Vec::new();
        for &(index, tokens) in chunks {
            let sequence = &self.sequences[index];
            let done = sequence.logits.len();
            let start = ids.len();
            for position in done..done + tokens {
                let block = sequence.blocks[position / BLOCK_SIZE].0;
                ids.push(sequence.ids[position]);
                positions.push(position as u32);
                slots.push(block * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32);
            }
            spans.push(SequenceSpan {
                rows: start..ids.len(),
                context_len: done + tokens,
                block_table: &sequence.blocks,
            });
        }
        let delta = |index: usize| self.sequences[index].delta.as_ref();
        let segments = Segments::from_runs(chunks.iter().map(|&(index, n)| (n, delta(index))));
        let rows: Vec<u32> = (0..ids.len() as u32).collect();
        let input = ForwardInput {
            input_ids: &ids,
            positions: &positions,
            slot_mapping: &slots,
            sequences: &spans,
            segments: &segments,
            logit_rows: &rows,
            logit_segments: &segments,
            hidden_rows: &rows,
        };
        let ForwardOutput { logits, hidden_states } =
            self.model.forward(&input, &mut self.cache).unwrap();
        let rows = |tensor: Tensor| tensor.to_vec2::<f32>().unwrap().into_iter();
        let (mut logits, mut hidden_states) = (rows(logits), rows(hidden_states));
        for &(index, tokens) in chunks {
            let sequence = &mut self.sequences[index];
            sequence.logits.extend(logits.by_ref().take(tokens));
            sequence.hidden_states.extend(hidden_states.by_ref().take(tokens));
        }
    }
}

/// The logits after each token of one sequence, fed in chunks of at most `chunk`.
pub fn run_alone(
    model: &LlamaForCausalLm,
    ids: &[u32],
    delta: Option<Arc<LowRankDelta>>,
    chunk: usize,
) -> Vec<Vec<f32>> {
    let mut driver = Driver::new(model, [(ids.to_vec(), delta)]);
    for part in ids.chunks(chunk) {
        driver.step(&[(0, part.len())]);
    }
    driver.sequences.remove(0).logits
}
