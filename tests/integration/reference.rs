//! The real model in float32 against what the reference implementation computed: last-position
//! logits, log-probabilities of the prompt, greedy tokens, for the base and for a real adapter.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device};
use serde_json::Value;
use sorsa::adapter::compact::{Tolerance, compact};
use sorsa::adapter::delta::LowRankDelta;
use sorsa::adapter::file::{Limits, load};
use sorsa::adapter::registry::AdapterVersion;
use sorsa::adapter::segments::Segments;
use sorsa::engine::Engine;
use sorsa::engine::handle::{EngineHandle, QueueShare, channel};
use sorsa::engine::model_runner::ModelRunner;
use sorsa::engine::request::{
    Event, PromptTokens, Request, RequestId, SamplingParams, TenantShare,
};
use sorsa::engine::scheduler::{Scheduler, SchedulerConfig};
use sorsa::kv_cache::BlockId;
use sorsa::kv_cache::block_manager::BlockManager;
use sorsa::kv_cache::storage::KvCache;
use sorsa::layers::packed_weight::Bits;
use sorsa::metrics::Metrics;
use sorsa::model::builder::{LoadOptions, Quantization};
use sorsa::model::checkpoint::Checkpoint;
use sorsa::model::contract::{CausalLm, ForwardInput, SequenceSpan};
use sorsa::model::llama::LlamaForCausalLm;
use sorsa::model::sorsa::{SorsaCheckpoint, lineage};

use crate::support::model;
use crate::support::shared::shared_reference;

const LOGIT_TOLERANCE: f32 = 2e-3;
const LOGPROB_TOLERANCE: f32 = 1e-3;
const BLOCK_SIZE: usize = 16;
const MAX_TOKENS: usize = 64;
const EOS: u32 = 2;
const VOCAB_SIZE: usize = 49_152;

pub struct Reference {
    pub model: LlamaForCausalLm,
    checkpoint: Checkpoint,
}

impl Reference {
    fn load() -> Self {
        Self::load_as(DType::F32)
    }

    /// The model of record, held and computed in `dtype`.
    pub fn load_as(dtype: DType) -> Self {
        let checkpoint = Checkpoint::open(&model::hugging_face()).unwrap();
        let options = LoadOptions::new(dtype, Device::Cpu);
        let model =
            LlamaForCausalLm::load(&checkpoint.config, &checkpoint.weights, options, &mut |_| {});
        Self { model: model.unwrap(), checkpoint }
    }

    fn cache(&self, num_blocks: usize) -> KvCache {
        let shape = self.checkpoint.config.kv_shape();
        let dtype = self.model.kv_cache_dtypes()[0];
        KvCache::new(shape, num_blocks, BLOCK_SIZE, dtype, &Device::Cpu).unwrap()
    }

    /// Logits of every position of one prompt.
    pub fn logits(&self, prompt: &[u32], delta: Option<&Arc<LowRankDelta>>) -> Vec<Vec<f32>> {
        let num_blocks = prompt.len().div_ceil(BLOCK_SIZE);
        let blocks: Vec<_> = (0..num_blocks as u32).map(BlockId).collect();
        let rows: Vec<u32> = (0..prompt.len() as u32).collect();
        let segments = Segments::from_runs([(prompt.len(), delta)]);
        let span =
            SequenceSpan { rows: 0..prompt.len(), context_len: prompt.len(), block_table: &blocks };
        let input = ForwardInput {
            input_ids: prompt,
            positions: &rows,
            slot_mapping: &rows,
            sequences: &[span],
            segments: &segments,
            logit_rows: &rows,
            logit_segments: &segments,
            hidden_rows: &[],
        };
        self.model.forward(&input, &mut self.cache(num_blocks)).unwrap().logits.to_vec2().unwrap()
    }

    /// Hands the model to an engine.
    fn into_engine(self) -> EngineHandle {
        let (handle, submissions) = channel(64);
        let config = SchedulerConfig {
            max_num_seqs: 16,
            max_num_batched_tokens: 256,
            max_model_len: 1024,
            long_prefill_token_threshold: None,
        };
        let num_blocks = 512;
        let cache = self.cache(num_blocks);
        let scheduler = Scheduler::new(config, BlockManager::new(num_blocks, BLOCK_SIZE));
        let runner = ModelRunner::new(Box::new(self.model), cache);
        Engine::new(submissions, scheduler, runner, Metrics::new()).spawn(|| ()).unwrap();
        handle
    }
}

fn log_softmax(logits: &[f32], token: u32) -> f32 {
    let best = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - best).exp()).sum();
    (f64::from(logits[token as usize] - best) - sum.ln()) as f32
}

pub fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn check_logits(reference: &Reference, outputs: &Value, delta: Option<&Arc<LowRankDelta>>) {
    let (mut worst_logit, mut worst_logprob) = (0.0_f32, 0.0_f32);
    for prompt in model::golden("prompts.json")["prompts"].as_array().unwrap() {
        let name = prompt["name"].as_str().unwrap();
        let prompt = ids(&prompt["ids"]);
        let expected = &outputs[name];
        let logits = reference.logits(&prompt, delta);
        let last = logits.last().unwrap();
        let top = ids(&expected["top20"]["ids"]);
        for (token, logit) in top.iter().zip(numbers(&expected["top20"]["logits"])) {
            worst_logit = worst_logit.max((last[*token as usize] - logit).abs());
        }
        let logprobs = numbers(&expected["prompt_logprobs"]);
        assert_eq!(logprobs.len(), prompt.len() - 1, "{name}");
        for (position, logprob) in logprobs.into_iter().enumerate() {
            let actual = log_softmax(&logits[position], prompt[position + 1]);
            worst_logprob = worst_logprob.max((actual - logprob).abs());
        }
        assert!(worst_logit < LOGIT_TOLERANCE, "{name}: logits are {worst_logit} off");
        assert!(worst_logprob < LOGPROB_TOLERANCE, "{name}: logprobs are {worst_logprob} off");
    }
    eprintln!("largest difference: logits {worst_logit:.1e}, logprobs {worst_logprob:.1e}");
}

/// All prompts at once through the engine; a token may differ only where the reference itself was
/// undecided, and nothing after it is compared.
async fn check_greedy(
    engine: &EngineHandle,
    outputs: &Value,
    adapter: Option<Arc<AdapterVersion>>,
) {
    let prompts = model::golden("prompts.json");
    let prompts = prompts["prompts"].as_array().unwrap();
    let share = QueueShare { waiting: Arc::default(), limit: usize::MAX };
    let submit = |prompt: &Value| {
        let request = Request {
            id: RequestId(0),
            arrived: Instant::now(),
            prompt: PromptTokens::new(ids(&prompt["ids"]), VOCAB_SIZE).unwrap(),
            n: 1,
            sampling: SamplingParams {
                temperature: 0.0,
                max_tokens: MAX_TOKENS,
                stop_token_ids: [EOS].into(),
                ..SamplingParams::default()
            },
            logprobs: None,
            prompt_logprobs: None,
            adapter: adapter.clone(),
            tenant: TenantShare::default(),
            cache_owner: String::new(),
            cache_salt: Arc::default(),
            grammar: None,
            num_speculative_tokens: 0,
            pooling: None,
        };
        engine.submit(request, &share).unwrap().remove(0)
    };
    let streams: Vec<_> = prompts.iter().map(submit).collect();
    for (prompt, mut stream) in prompts.iter().zip(streams) {
        let mut tokens = Vec::new();
        while let Some(event) = stream.next().await {
            match event {
                Event::PromptComputed { .. } => {}
                Event::Token { token, .. } => tokens.push(token),
                Event::Finished(_) => break,
                other => panic!("unexpected: {other:?}"),
            }
        }
        let name = prompt["name"].as_str().unwrap();
        let greedy = &outputs[name]["greedy"];
        let expected = ids(&greedy["ids"]);
        let margins = numbers(&greedy["margins"]);
        let differs = (0..expected.len()).find(|&i| tokens.get(i) != Some(&expected[i]));
        match differs {
            Some(i) => assert!(
                margins[i] < LOGIT_TOLERANCE,
                "{name}: token {i} is {:?} instead of {}, at a margin of {}",
                tokens.get(i),
                expected[i],
                margins[i]
            ),
            None => assert_eq!(tokens.len(), expected.len(), "{name}"),
        }
    }
}

#[tokio::test]
async fn the_base_model_is_the_references() {
    let outputs = &model::golden("base.json")["outputs"];
    let reference = Reference::load();
    check_logits(&reference, outputs, None);
    check_greedy(&reference.into_engine(), outputs, None).await;
}

#[tokio::test]
async fn a_real_adapter_as_a_delta_is_the_references() {
    let Some(shared) = shared_reference() else { return };
    let golden = model::golden("gsm8k-r16-delta.json");
    let outputs = &golden["outputs"];
    let reference = Reference::load();
    let path = shared.join("adapters/gsm8k-r16");
    let loaded = load(&path, reference.model.modules(), &Limits::default()).unwrap();
    let modules = reference.model.modules();
    let began = Instant::now();
    let (compacted, report) = compact(&loaded.delta, modules, Tolerance::default()).unwrap();
    println!(
        "compacted in {:?}: {} of {} directions, errors up to {:.1e}",
        began.elapsed(),
        report.directions_after(),
        report.directions_before(),
        report.largest_error()
    );
    assert!(report.largest_error() < 1e-5);
    assert!(report.directions_after() <= report.directions_before());
    check_logits(&reference, outputs, Some(&Arc::new(loaded.delta)));
    let delta = Arc::new(compacted);
    check_logits(&reference, outputs, Some(&delta));
    let version = AdapterVersion::new("gsm8k".into(), delta);
    check_greedy(&reference.into_engine(), outputs, Some(Arc::new(version))).await;
}

/// A whole-model checkpoint as the library saved it: residuals in bfloat16 over the model of record.
fn rebuild(adapter: &Path, base: &Checkpoint, directory: &Path) {
    let load =
        |name: &str| candle_core::safetensors::load(adapter.join(name), &Device::Cpu).unwrap();
    let (initial, mut tensors) = (load("init.safetensors"), load("model.safetensors"));
    for name in base.weights.names() {
        let shape = base.weights.shape(&name).unwrap();
        let weight = base.weights.tensor(&name, &shape, DType::F32, &Device::Cpu).unwrap();
        let path = format!("model.{}", name.strip_suffix(".weight").unwrap());
        let factor = |role: &str| initial.get(&format!("{path}.{role}"));
        let stored = match (factor("sorsa_A"), factor("sorsa_S"), factor("sorsa_B")) {
            (Some(a), Some(s), Some(b)) => {
                let part = b.broadcast_mul(s).unwrap().matmul(a).unwrap();
                (weight - part).unwrap().to_dtype(DType::BF16).unwrap()
            }
            _ => weight,
        };
        tensors.insert(format!("model.{name}"), stored);
    }
    candle_core::safetensors::save(&tensors, directory.join("model.safetensors")).unwrap();
    fs::copy(adapter.join("config.json"), directory.join("config.json")).unwrap();
}

#[tokio::test]
async fn a_real_checkpoint_on_its_residual_is_the_references_unmerged_forward() {
    let Some(shared) = shared_reference() else { return };
    let golden = fs::read(shared.join("reference/smollm2/gsm8k-r16.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let outputs = &golden["outputs"]["unmerged_f32"];
    let base = Checkpoint::open(&model::hugging_face()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    rebuild(&shared.join("adapters/gsm8k-r16"), &base, directory.path());
    let sorsa = SorsaCheckpoint::open(directory.path()).unwrap();
    let found = lineage::check(&sorsa, &base.weights).unwrap();
    assert!(found.unexplained < lineage::ROUNDING, "{found:?}");
    let config = sorsa.model_config(&base.config).unwrap();
    let options = LoadOptions::new(config.dtype.unwrap(), Device::Cpu);
    let options = LoadOptions { keep_stored: true, ..options };
    let model = LlamaForCausalLm::load(&config, &sorsa.weights, options, &mut |_| {}).unwrap();
    let delta = Arc::new(sorsa.delta(model.modules()).unwrap());
    let reference = Reference { model, checkpoint: base };
    check_logits(&reference, outputs, Some(&delta));
    let version = AdapterVersion::new("gsm8k".into(), delta);
    check_greedy(&reference.into_engine(), outputs, Some(Arc::new(version))).await;
}

/// The mean Kullback-Leibler divergence of the next token's distribution from the exact one.
pub fn mean_divergence(exact: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    let log_softmax = |logits: &[f32]| {
        let most = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - most).exp()).sum();
        logits.iter().map(|logit| f64::from(*logit) - most - sum.ln()).collect::<Vec<_>>()
    };
    let divergence = |(exact, found): (&Vec<f32>, &Vec<f32>)| {
        let (exact, found) = (log_softmax(exact), log_softmax(found));
        exact.iter().zip(found).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    };
    exact.iter().zip(found).map(divergence).sum::<f64>() / exact.len() as f64
}

/// What is lost is the rounding of activations where a file's blocks are kept, and that of the
/// weights where they are not.
#[test]
fn quantised_weights_stay_close_to_what_they_stand_for() {
    let prompt = ids(&model::golden("prompts.json")["prompts"][0]["ids"]);
    let logits = |path: &Path, dtype, quantization| {
        let checkpoint = Checkpoint::open(path).unwrap();
        let options = LoadOptions { quantization, ..LoadOptions::new(dtype, Device::Cpu) };
        let model =
            LlamaForCausalLm::load(&checkpoint.config, &checkpoint.weights, options, &mut |_| {});
        Reference { model: model.unwrap(), checkpoint }.logits(&prompt, None)
    };
    let exact = logits(&model::gguf(), DType::F32, None);
    let bits = |bits| Some(Quantization::Bits(bits));
    for (path, quantization, bound) in [
        (model::gguf(), Some(Quantization::AsStored), 0.02),
        (model::gguf(), bits(Bits::Eight), 0.02),
        (model::hugging_face(), bits(Bits::Eight), 0.02),
        (model::gguf(), bits(Bits::Four), 0.02),
        (model::hugging_face(), bits(Bits::Four), 0.2),
    ] {
        let found = mean_divergence(&exact, &logits(&path, DType::BF16, quantization));
        println!("{quantization:?} of {}: {found:.1e}", path.display());
        assert!(found > 0.0 && found < bound, "{quantization:?}: {found}");
    }
}

/// The GGUF itself: the same tensors as its float32 conversion, so the same logits to the bit.
#[test]
fn a_gguf_is_its_own_dequantisation() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("f32");
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_sorsa"))
        .arg("convert")
        .args([&model::gguf(), &target])
        .args(["--dtype", "f32"])
        .status()
        .unwrap();
    assert!(status.success());
    let load = |path: &Path| {
        let checkpoint = Checkpoint::open(path).unwrap();
        let options = LoadOptions::new(DType::F32, Device::Cpu);
        let model =
            LlamaForCausalLm::load(&checkpoint.config, &checkpoint.weights, options, &mut |_| {});
        Reference { model: model.unwrap(), checkpoint }
    };
    let prompt = ids(&model::golden("prompts.json")["prompts"][0]["ids"]);
    let (direct, converted) = (load(&model::gguf()), load(&target));
    assert_eq!(direct.checkpoint.config_json, converted.checkpoint.config_json);
    assert_eq!(direct.logits(&prompt, None), converted.logits(&prompt, None));
}
