//! The Llama against candle-transformers' and against a naive one in float64; batching, chunking
//! and merging against the plain way.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama as stock;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sorsa::adapter::delta::FactorDType;
use sorsa::adapter::segments::Segments;
use sorsa::kv_cache::BlockId;
use sorsa::kv_cache::storage::KvCache;
use sorsa::layers::backend::Backend;
use sorsa::model::builder::LoadOptions;
use sorsa::model::checkpoint::Checkpoint;
use sorsa::model::contract::{CausalLm, ForwardInput, SequenceSpan};
use sorsa::model::llama::LlamaForCausalLm;

use crate::llama_oracle::Oracle;
use crate::tiny_llama::{Driver, TinyLlama, fast, load, run_alone};

/// Nine activations are rounded one after another in two layers and a head, by 2⁻⁹ each at most;
/// layers amplify that, and the factors of an adapter or the merged weights are rounded too.
const BFLOAT16: f64 = 32.0 / 512.0;

const BACKENDS: [fn() -> Backend; 2] = [|| Backend::Candle, fast];

/// A configuration that candle-transformers computes too.
fn shared_config() -> impl Strategy<Value = Value> {
    // A residual stream of a few numbers may come out all but zero, and its norm then magnifies
    // every rounding: no implementation agrees with another there.
    let wide = |(kv_heads, group, half_width, _): &(usize, usize, usize, usize)| {
        kv_heads * group * 2 * half_width >= 12
    };
    let heads = (1usize..4, 1usize..4, 1usize..6, 1usize..4).prop_filter("too narrow", wide);
    (heads, any::<bool>(), any::<bool>(), 1usize..4).prop_map(
        |((kv_heads, group, half_width, layers), tied, llama3, inner)| {
            let heads = kv_heads * group;
            let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 16});
            json!({
                "hidden_size": heads * 2 * half_width, "num_attention_heads": heads,
                "num_key_value_heads": kv_heads, "num_hidden_layers": layers,
                "intermediate_size": 8 * inner + 1, "tie_word_embeddings": tied,
                "rope_scaling": if llama3 { scaling } else { Value::Null },
            })
        },
    )
}

fn tokens(seed: u64, len: usize) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| random.random_range(0..31)).collect()
}

/// candle-transformers' logits after the prompt and after each further token.
fn stock_logits(tiny: &TinyLlama, ids: &[u32], prompt: usize) -> Vec<Vec<f32>> {
    let config: stock::LlamaConfig = serde_json::from_value(tiny.config_json.clone()).unwrap();
    let config = config.into_config(false);
    let tensors: HashMap<_, _> = tiny.tensors.clone().into_iter().collect();
    let builder = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let model = stock::Llama::load(builder, &config).unwrap();
    let mut cache = stock::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
    let mut logits = Vec::new();
    let mut start = 0;
    for end in prompt..=ids.len() {
        let input = Tensor::new(&ids[start..end], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let out = model.forward(&input, start, &mut cache).unwrap();
        logits.push(out.squeeze(0).unwrap().to_vec1().unwrap());
        start = end;
    }
    logits
}

/// Largest difference, relative to the larger of 1 and the largest value.
fn difference<A, B>(found: &[Vec<A>], expected: &[Vec<B>]) -> f64
where
    A: Copy + Into<f64>,
    B: Copy + Into<f64>,
{
    assert_eq!(found.len(), expected.len());
    let mut worst = 0f64;
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.len(), expected.len());
        let size = expected.iter().fold(1f64, |size, value| size.max((*value).into().abs()));
        for (found, expected) in found.iter().zip(expected) {
            let (found, expected): (f64, f64) = ((*found).into(), (*expected).into());
            let apart = (found - expected).abs() / size;
            // A NaN is no agreement.
            worst = if apart.is_nan() { f64::INFINITY } else { worst.max(apart) };
        }
    }
    worst
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn agrees_with_candle_transformers(
        patch in shared_config(), seed in any::<u64>(), prompt in 1usize..12, decode in 0usize..5,
    ) {
        let tiny = TinyLlama::new(&patch, seed);
        let ids = tokens(seed, prompt + decode);
        let expected = stock_logits(&tiny, &ids, prompt);
        let oracle = Oracle::new(&tiny.config, &tiny.tensors).logits(&ids);
        prop_assert!(difference(&expected, &oracle[prompt - 1..]) < 1e-5, "the oracle itself");
        for backend in BACKENDS {
            let model = tiny.load(DType::F32, backend());
            let mut driver = Driver::new(&model, [(ids.clone(), None)]);
            driver.step(&[(0, prompt)]);
            (0..decode).for_each(|_| driver.step(&[(0, 1)]));
            let found = &driver.sequences[0].logits[prompt - 1..];
            let apart = difference(found, &expected);
            prop_assert!(apart < 1e-5, "{:?}: {apart}", backend());
        }
    }

    #[test]
    fn biases_scaling_and_free_head_widths_agree_with_the_oracle(
        patch in shared_config(), seed in any::<u64>(), attention_bias in any::<bool>(),
        mlp_bias in any::<bool>(), head_dim in 1usize..9, linear in any::<bool>(),
    ) {
        let mut patch = patch;
        patch["attention_bias"] = json!(attention_bias);
        patch["mlp_bias"] = json!(mlp_bias);
        patch["head_dim"] = json!(2 * head_dim);
        if linear {
            patch["rope_scaling"] = json!({"type": "linear", "factor": 2.5});
        }
        let tiny = TinyLlama::new(&patch, seed);
        let ids = tokens(seed, 11);
        let expected = Oracle::new(&tiny.config, &tiny.tensors).logits(&ids);
        for backend in BACKENDS {
            let model = tiny.load(DType::F32, backend());
            let apart = difference(&run_alone(&model, &ids, None, 4), &expected);
            prop_assert!(apart < 1e-5, "{:?}: {apart}", backend());
        }
    }

    #[test]
    fn a_batch_with_adapters_is_bit_for_bit_each_sequence_alone(
        seed in any::<u64>(), lens in prop::collection::vec(1usize..20, 1..7),
        adapters in prop::collection::vec(0usize..4, 7), chunks in prop::collection::vec(1usize..6, 9),
        (dtype, factors) in prop::sample::select(vec![
            (DType::F32, FactorDType::Bf16),
            (DType::BF16, FactorDType::Bf16),
            (DType::BF16, FactorDType::Q8),
            (DType::F16, FactorDType::Bf16),
        ]),
    ) {
        let model = TinyLlama::new(&json!({"attention_bias": true}), seed).load(dtype, fast());
        let adapter = |index: usize| {
            let touches = move |module: usize| index != 2 || module.is_multiple_of(2);
            let delta = || TinyLlama::adapter(model.modules(), index as u64, touches);
            let prepare =
                |delta: Arc<_>| fast().prepare(&delta, dtype, factors, &Device::Cpu).unwrap();
            (index > 0).then(|| Arc::new(prepare(delta())))
        };
        let pool: Vec<_> = (0..4).map(adapter).collect();
        let sequences = lens.iter().zip(&adapters).enumerate().map(|(index, (len, adapter))| {
            (tokens(seed ^ index as u64, *len), pool[*adapter].clone())
        });
        // With bfloat16 weights keys and values are bfloat16 too.
        let cache = model.kv_cache_dtypes()[0];
        let mut driver = Driver::with_cache(&model, cache, sequences);
        let mut round = 0;
        loop {
            let left = driver.sequences.iter().map(|sequence| sequence.ids.len() - sequence.logits.len());
            let step: Vec<_> = left
                .enumerate()
                .map(|(index, left)| (index, left.min(chunks[(index + round) % chunks.len()])))
                .filter(|(index, tokens)| *tokens > 0 && !(index + round).is_multiple_of(4))
                .collect();
            round += 1;
            if !step.is_empty() {
                driver.step(&step);
            } else if driver.sequences.iter().all(|sequence| sequence.ids.len() == sequence.logits.len()) {
                break;
            }
        }
        for sequence in &driver.sequences {
            let whole = (sequence.ids.clone(), sequence.delta.clone());
            let mut alone = Driver::with_cache(&model, cache, [whole]);
            alone.step(&[(0, sequence.ids.len())]);
            let alone = alone.sequences.remove(0);
            let bits = |rows: &[Vec<f32>]| -> Vec<u32> {
                rows.iter().flatten().map(|value| value.to_bits()).collect()
            };
            prop_assert_eq!(bits(&sequence.logits), bits(&alone.logits));
            prop_assert_eq!(bits(&sequence.hidden_states), bits(&alone.hidden_states));
        }
    }

    #[test]
    fn hidden_states_are_what_the_oracles_head_reads(
        patch in shared_config(), seed in any::<u64>(), adapted in any::<bool>(), chunk in 1usize..12,
    ) {
        let tiny = TinyLlama::new(&patch, seed);
        let ids = tokens(seed, 11);
        for backend in BACKENDS {
            let model = tiny.load(DType::F32, backend());
            let mut oracle = Oracle::new(&tiny.config, &tiny.tensors);
            let delta = adapted.then(|| {
                let delta = TinyLlama::adapter(model.modules(), seed, |module| module % 3 != 1);
                for (index, module) in model.modules().iter().enumerate() {
                    if let Some(factors) = delta.factors(index) {
                        oracle.add(&module.path, &factors.up, &factors.down);
                    }
                }
                Arc::new(model.prepare(&delta).unwrap())
            });
            let mut driver = Driver::new(&model, [(ids.clone(), delta)]);
            ids.chunks(chunk).for_each(|part| driver.step(&[(0, part.len())]));
            let found = &driver.sequences[0].hidden_states;
            let apart = difference(found, &oracle.hidden_states(&ids));
            prop_assert!(apart < 1e-5, "{:?}: {apart}", backend());
        }
    }

    #[test]
    fn a_merged_adapter_answers_like_a_batched_one(seed in any::<u64>(), tied in any::<bool>()) {
        let tiny = TinyLlama::new(&json!({"tie_word_embeddings": tied}), seed);
        let ids = tokens(seed, 13);
        for backend in BACKENDS {
            let mut model = tiny.load(DType::F32, backend());
            let delta = TinyLlama::adapter(model.modules(), seed, |module| module % 5 != 3);
            let mut oracle = Oracle::new(&tiny.config, &tiny.tensors);
            for (index, module) in model.modules().iter().enumerate() {
                if let Some(factors) = delta.factors(index) {
                    oracle.add(&module.path, &factors.up, &factors.down);
                }
            }
            let expected = oracle.logits(&ids);
            let base = run_alone(&model, &ids, None, 5);
            prop_assert!(difference(&base, &expected) > 1e-3, "the adapter does nothing");
            let batched = run_alone(&model, &ids, Some(delta.clone()), 5);
            prop_assert!(difference(&batched, &expected) < 2e-5);
            model.merge(&delta).unwrap();
            prop_assert!(difference(&run_alone(&model, &ids, None, 5), &expected) < 2e-5);
        }
    }

    #[test]
    fn narrow_weights_are_widened_exactly(
        seed in any::<u64>(), dtype in prop::sample::select(vec![DType::BF16, DType::F16]),
    ) {
        let mut tiny = TinyLlama::new(&json!({}), seed);
        for (name, tensor) in &mut tiny.tensors {
            if !name.contains("norm") {
                *tensor = tensor.to_dtype(dtype).unwrap();
            }
        }
        let directory = tempfile::tempdir().unwrap();
        tiny.write(directory.path());
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let ids = tokens(seed, 9);
        for tensor in tiny.tensors.values_mut() {
            *tensor = tensor.to_dtype(DType::F32).unwrap();
        }
        let expected = Oracle::new(&tiny.config, &tiny.tensors).logits(&ids);
        for keep_stored in [true, false] {
            let options = LoadOptions::new(DType::F32, Device::Cpu);
            let options = LoadOptions { keep_stored, ..options };
            let (config, weights) = (&checkpoint.config, &checkpoint.weights);
            let model = LlamaForCausalLm::load(config, weights, options, &mut |_| {}).unwrap();
            prop_assert!(difference(&run_alone(&model, &ids, None, 9), &expected) < 1e-5);
        }
    }

    #[test]
    fn bfloat16_arithmetic_is_off_by_its_roundings_alone(
        seed in any::<u64>(), tied in any::<bool>(), bias in any::<bool>(),
    ) {
        let patch = json!({"tie_word_embeddings": tied, "attention_bias": bias});
        let mut tiny = TinyLlama::new(&patch, seed);
        for (name, tensor) in &mut tiny.tensors {
            if !name.contains("norm") && !name.ends_with("bias") {
                *tensor = tensor.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
            }
        }
        let ids = tokens(seed, 13);
        let mut model = tiny.load(DType::BF16, fast());
        let delta = TinyLlama::adapter(model.modules(), seed, |module| module % 5 != 3);
        let mut oracle = Oracle::new(&tiny.config, &tiny.tensors);
        let base = difference(&run_alone(&model, &ids, None, 4), &oracle.logits(&ids));
        for (index, module) in model.modules().iter().enumerate() {
            if let Some(factors) = delta.factors(index) {
                oracle.add(&module.path, &factors.up, &factors.down);
            }
        }
        let expected = oracle.logits(&ids);
        let prepared = Arc::new(model.prepare(&delta).unwrap());
        let batched = difference(&run_alone(&model, &ids, Some(prepared), 5), &expected);
        model.merge(&delta).unwrap();
        let merged = difference(&run_alone(&model, &ids, None, 6), &expected);
        for apart in [base, batched, merged] {
            prop_assert!(apart < BFLOAT16, "{apart}");
        }
    }
}

#[test]
fn a_delta_that_does_not_fit_changes_nothing() {
    let tiny = TinyLlama::new(&json!({}), 1);
    let mut model = tiny.load(DType::F32, fast());
    let ids = tokens(1, 7);
    let before = run_alone(&model, &ids, None, 7);
    let mut modules = model.modules().to_vec();
    modules.last_mut().unwrap().in_features += 1;
    let delta = TinyLlama::adapter(&modules, 1, |_| true);
    let error = model.merge(&delta).unwrap_err().to_string();
    assert!(error.contains("factors of"), "{error}");
    assert_eq!(run_alone(&model, &ids, None, 7), before);
}

#[test]
fn a_batch_that_makes_no_sense_is_an_error() {
    type Change = fn(&mut Batch);
    let changes: [(Change, &str); 11] = [
        (|batch| batch.ids[1] = 31, "token 31"),
        (|batch| batch.positions[1] = 64, "position 64"),
        (|batch| batch.positions.truncate(1), "1 positions"),
        (|batch| batch.slots[1] = 6, "slot 6"),
        (|batch| batch.logit_rows = vec![2], "row 2 of 2"),
        (|batch| batch.rows = 0..1, "cover 1 rows of 2"),
        (|batch| batch.rows = 1..2, "rows 1..2"),
        (|batch| batch.context_len = 1, "context of 1"),
        (|batch| batch.context_len = 4, "1 blocks"),
        (|batch| batch.blocks = vec![BlockId(2)], "block 2"),
        (|batch| batch.dtype = DType::F64, "cache of F64"),
    ];
    for backend in BACKENDS {
        let model = TinyLlama::new(&json!({}), 1).load(DType::F32, backend());
        let logits = Batch::default().run(&model).unwrap();
        assert_eq!(logits.dims(), [1, 31]);
        let none = Batch { logit_rows: Vec::new(), ..Batch::default() };
        assert_eq!(none.run(&model).unwrap().dims(), [0, 31]);
        for (change, expected) in changes {
            let mut batch = Batch::default();
            change(&mut batch);
            let error = batch.run(&model).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}

/// Two tokens of one sequence, in a cache of two blocks of three.
struct Batch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    rows: Range<usize>,
    context_len: usize,
    blocks: Vec<BlockId>,
    logit_rows: Vec<u32>,
    dtype: DType,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            ids: vec![5, 6],
            positions: vec![0, 1],
            slots: vec![3, 4],
            rows: 0..2,
            context_len: 2,
            blocks: vec![BlockId(1)],
            logit_rows: vec![1],
            dtype: DType::F32,
        }
    }
}

impl Batch {
    fn run(&self, model: &LlamaForCausalLm) -> candle_core::Result<Tensor> {
        let shape = model.config().kv_shape();
        let mut cache = KvCache::new(shape, 2, 3, self.dtype, &Device::Cpu)?;
        let span = SequenceSpan {
            rows: self.rows.clone(),
            context_len: self.context_len,
            block_table: &self.blocks,
        };
        let input = ForwardInput {
            input_ids: &self.ids,
            positions: &self.positions,
            slot_mapping: &self.slots,
            sequences: &[span],
            segments: &Segments::none(),
            logit_rows: &self.logit_rows,
            logit_segments: &Segments::none(),
            hidden_rows: &[],
        };
        Ok(model.forward(&input, &mut cache)?.logits)
    }
}

#[test]
fn modules_bear_the_checkpoints_paths() {
    let names = |tied| {
        let tiny = TinyLlama::new(&json!({"tie_word_embeddings": tied}), 1);
        let model = tiny.load(DType::F32, fast());
        for module in model.modules() {
            let weight = &tiny.tensors[&format!("{}.weight", module.path)];
            assert_eq!(weight.dims(), [module.out_features, module.in_features]);
        }
        model.modules().iter().map(|module| module.path.clone()).collect::<Vec<_>>()
    };
    let tied = names(true);
    assert_eq!(tied.len(), 14);
    assert_eq!(tied[0], "model.layers.0.self_attn.q_proj");
    assert_eq!(tied[13], "model.layers.1.mlp.down_proj");
    assert_eq!(names(false).last().unwrap(), "lm_head");
}

/// Checkpoints and logits written by the method's reference library, in float32.
#[test]
fn tiny_reference_models_answer_as_recorded() {
    for name in ["f32", "bias-alpha"] {
        let directory =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny").join(name);
        let recorded = std::fs::read(directory.join("base_logits.json")).unwrap();
        let recorded: Value = serde_json::from_slice(&recorded).unwrap();
        let prompts: Vec<Vec<u32>> = serde_json::from_value(recorded["prompts"].clone()).unwrap();
        let logits: Vec<Vec<f32>> =
            serde_json::from_value(recorded["base_logits"].clone()).unwrap();
        for backend in BACKENDS {
            let model = load(&directory.join("base"), DType::F32, backend());
            for (prompt, expected) in prompts.iter().zip(&logits) {
                let found = run_alone(&model, prompt, None, 16).pop().unwrap();
                let worst =
                    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{name}: {worst}");
            }
        }
    }
}
