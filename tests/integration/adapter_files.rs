//! Adapters on disk: what the paper's own library trained, random ones, and damaged ones.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};
use sorsa::adapter::delta::{LowRankDelta, LowRankFactors, ModuleSpec};
use sorsa::adapter::file::{AdapterKind, from_bytes};
use sorsa::adapter::sorsa::{SorsaConfig, SorsaFactors, SorsaModule, write_adapter_dir};
use sorsa::adapter::{Limits, LoadedAdapter, load};
use sorsa::layers::merge::merge_into;

use crate::support::shared::shared_reference;

type Tensors = HashMap<String, Tensor>;

const TINY: [&str; 5] = ["all-bf16", "bf16-residual-tied", "bias-alpha", "f32", "sharded-r16"];

/// All tensors of all safetensors files in a directory.
fn checkpoint(dir: &Path) -> Tensors {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .flat_map(|path| candle_core::safetensors::load(path, &Device::Cpu).unwrap())
        .collect()
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Paths of the adapted modules of a reference checkpoint, without its extra `model.`.
fn adapted(checkpoint: &Tensors) -> Vec<String> {
    let path = |name: &String| Some(name.strip_prefix("model.")?.strip_suffix(".sorsa_A")?.into());
    let mut paths: Vec<String> = checkpoint.keys().filter_map(path).collect();
    paths.sort();
    paths
}

fn factors(checkpoint: &Tensors, path: &str) -> SorsaFactors {
    let factor = |role: &str| checkpoint[&format!("model.{path}.sorsa_{role}")].clone();
    SorsaFactors { a: factor("A"), s: factor("S"), b: factor("B") }
}

fn spec(path: &str, factors: &SorsaFactors) -> ModuleSpec {
    let (in_features, out_features) = (factors.a.dims()[1], factors.b.dims()[0]);
    ModuleSpec { path: path.to_owned(), in_features, out_features }
}

/// A matrix in float64, row by row.
fn exact(matrix: &Tensor) -> Vec<Vec<f64>> {
    matrix.to_dtype(DType::F64).unwrap().to_vec2().unwrap()
}

fn product(left: &[Vec<f64>], right: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let columns = right[0].len();
    let entry = |row: &[f64], j: usize| row.iter().zip(right).map(|(l, r)| l * r[j]).sum();
    left.iter().map(|row| (0..columns).map(|j| entry(row, j)).collect()).collect()
}

/// `scale · B diag(S) A` in float64.
fn principal(factors: &SorsaFactors, scale: f64) -> Vec<Vec<f64>> {
    let s: Vec<f64> = factors.s.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
    let scaled = |row: Vec<f64>| row.iter().zip(&s).map(|(b, s)| scale * b * s).collect();
    let b: Vec<Vec<f64>> = exact(&factors.b).into_iter().map(scaled).collect();
    product(&b, &exact(&factors.a))
}

fn combine(left: &[Vec<f64>], right: &[Vec<f64>], sign: f64) -> Vec<Vec<f64>> {
    let row = |(l, r): (&Vec<f64>, &Vec<f64>)| l.iter().zip(r).map(|(l, r)| l + sign * r).collect();
    left.iter().zip(right).map(row).collect()
}

fn delta_of(loaded: &LowRankFactors) -> Vec<Vec<f64>> {
    product(&exact(&loaded.up), &exact(&loaded.down))
}

/// The largest absolute value.
fn largest(matrix: &[Vec<f64>]) -> f64 {
    matrix.iter().flatten().fold(0.0, |largest, value| largest.max(value.abs()))
}

fn assert_close(found: &[Vec<f64>], expected: &[Vec<f64>], tolerance: f64, what: &str) {
    assert_eq!((found.len(), found[0].len()), (expected.len(), expected[0].len()), "{what}");
    let difference = largest(&combine(found, expected, -1.0));
    assert!(difference <= tolerance, "{what}: off by {difference:e}, allowed {tolerance:e}");
}

/// Float32 rounding of a difference of two parts of this size, with some room.
fn float32_noise(size: f64) -> f64 {
    4e-7 * size.max(1e-30)
}

#[test]
fn the_real_adapter_loads_whole_and_exact() {
    let Some(shared) = shared_reference() else { return };
    let dir = shared.join("adapters/gsm8k-r16");
    let read = |file: &str| candle_core::safetensors::load(dir.join(file), &Device::Cpu).unwrap();
    let (trained, initial) = (read("model.safetensors"), read("init.safetensors"));
    let paths = adapted(&trained);
    let modules: Vec<ModuleSpec> =
        paths.iter().map(|path| spec(path, &factors(&trained, path))).collect();
    let adapter = load(&dir, &modules, &Limits::default()).unwrap();
    assert_eq!((adapter.kind, adapter.rank), (AdapterKind::Sorsa, 16));
    assert_eq!((adapter.delta.num_modules(), adapter.delta.max_rank()), (210, 32));
    assert_eq!(adapter.base_model_name.as_deref(), Some("HuggingFaceTB/SmolLM2-135M-Instruct"));
    for index in [0, 103, 209] {
        let path = &paths[index];
        let parts = [&trained, &initial].map(|part| principal(&factors(part, path), 1.0));
        let found = delta_of(adapter.delta.factors(index).unwrap());
        let noise = float32_noise(largest(&parts[0]));
        assert_close(&found, &combine(&parts[0], &parts[1], -1.0), noise, path);
    }
    let directory = tempfile::tempdir().unwrap();
    write_reference(directory.path(), &json_file(&dir.join("config.json")), [&trained, &initial]);
    let converted = load(directory.path(), &modules, &Limits::default()).unwrap();
    assert_eq!(converted.delta.id(), adapter.delta.id());
}

/// Writes the adapter of two checkpoints of the reference library and returns its scale.
fn write_reference(dir: &Path, config: &Value, [trained, initial]: [&Tensors; 2]) -> f64 {
    let rank = config["rank"].as_u64().unwrap() as usize;
    let alpha = config["alpha"].as_f64();
    let modules: Vec<SorsaModule> = adapted(trained)
        .into_iter()
        .map(|path| SorsaModule {
            trained: factors(trained, &path),
            initial: factors(initial, &path),
            path,
        })
        .collect();
    let base_model_name = config["base_model_name_or_path"].as_str().map(str::to_owned);
    let target_modules = target_modules(&config["target_modules"]);
    let config = SorsaConfig { rank, alpha, target_modules, base_model_name, base_digest: None };
    write_adapter_dir(dir, &config, &modules).unwrap();
    alpha.map_or(1.0, |alpha| alpha / rank as f64)
}

/// The reference writes a list, or an object of which the values count.
fn target_modules(value: &Value) -> Vec<String> {
    let names: Vec<&Value> = match value {
        Value::Object(named) => named.values().collect(),
        other => other.as_array().unwrap().iter().collect(),
    };
    names.into_iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn base_plus_delta_is_the_model_that_the_reference_trained() {
    let Some(shared) = shared_reference() else { return };
    for case in TINY {
        let root = shared.join("reference/tiny").join(case);
        let [base, initial, trained] =
            ["base", "init", "trained"].map(|part| checkpoint(&root.join(part)));
        let directory = tempfile::tempdir().unwrap();
        let config = json_file(&root.join("trained/config.json"));
        let scale = write_reference(directory.path(), &config, [&trained, &initial]);
        let paths = adapted(&trained);
        let modules: Vec<ModuleSpec> =
            paths.iter().map(|path| spec(path, &factors(&trained, path))).collect();
        let adapter = load(directory.path(), &modules, &Limits::default()).unwrap();
        assert_eq!(adapter.delta.num_modules(), modules.len(), "{case}");
        assert!(!modules.is_empty(), "{case}");
        for (index, path) in paths.iter().enumerate() {
            let what = format!("{case} {path}");
            let found = delta_of(adapter.delta.factors(index).unwrap());
            let after = principal(&factors(&trained, path), scale);
            let before = principal(&factors(&initial, path), scale);
            let noise = float32_noise(largest(&after) + largest(&before));
            assert_close(&found, &combine(&after, &before, -1.0), noise, &what);

            // The other way to the same weight: the residual that the checkpoint itself keeps.
            let residual = &trained[&format!("model.{path}.weight")];
            let weight = &base[&format!("{path}.weight")];
            let merged = merge_into(
                &weight.to_dtype(DType::F32).unwrap(),
                adapter.delta.factors(index).unwrap(),
            );
            let expected = combine(&exact(residual), &after, 1.0);
            let rounding = match residual.dtype() {
                DType::BF16 => largest(&exact(residual)) / 256.0,
                _ => 4.0 * float32_noise(largest(&expected)),
            };
            // Factors saved in bf16 subtract something else than training took out of the base.
            let factors_rounding = match trained[&format!("model.{path}.sorsa_A")].dtype() {
                DType::BF16 => largest(&before) / 64.0,
                _ => 0.0,
            };
            let allowed = rounding + factors_rounding;
            assert_close(&exact(&merged.unwrap()), &expected, allowed, &what);
        }
    }
}

/// The adapters in the repository, with what is known of them: the id, which holds whatever
/// becomes of the reader, the number of adapted modules and the rank.
const FIXTURES: [(&str, &str, usize, usize); 2] = [
    ("f32", "1287530af477a2844054d3ea67ce572c77ed742adeeddd52e98cd055fdd3308a", 14, 4),
    ("bias-alpha", "1a93d471f7d2e3797f1b0ad05a7815e19d6e62b160c0ff4d3a4dc1a1ba947b86", 8, 1),
];

/// The linear modules of the tiny models: hidden size 64, feed-forward size 96, two layers, and
/// half as many key and value heads as query heads.
fn tiny_modules() -> Vec<ModuleSpec> {
    let shapes = [
        ("self_attn.q_proj", 64, 64),
        ("self_attn.k_proj", 64, 32),
        ("self_attn.v_proj", 64, 32),
        ("self_attn.o_proj", 64, 64),
        ("mlp.gate_proj", 64, 96),
        ("mlp.up_proj", 64, 96),
        ("mlp.down_proj", 96, 64),
    ];
    layers(2, shapes)
}

/// The same modules in each of `count` decoder layers: name, columns, rows.
fn layers(count: usize, shapes: [(&str, usize, usize); 7]) -> Vec<ModuleSpec> {
    let layer = |layer: usize| {
        shapes.map(|(name, in_features, out_features)| ModuleSpec {
            path: format!("model.layers.{layer}.{name}"),
            in_features,
            out_features,
        })
    };
    (0..count).flat_map(layer).collect()
}

#[test]
fn the_adapters_in_the_repository_load_and_keep_their_ids() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny");
    for (case, id, modules, rank) in FIXTURES {
        let dir = fixtures.join(case).join("adapter");
        let adapter = load(&dir, &tiny_modules(), &Limits::default()).unwrap();
        assert_eq!(adapter.delta.id().to_string(), id, "{case}");
        assert_eq!((adapter.delta.num_modules(), adapter.rank), (modules, rank), "{case}");
        let Some(shared) = shared_reference() else { continue };
        let root = shared.join("reference/tiny").join(case);
        let [initial, trained] = ["init", "trained"].map(|part| checkpoint(&root.join(part)));
        let directory = tempfile::tempdir().unwrap();
        let config = json_file(&root.join("trained/config.json"));
        write_reference(directory.path(), &config, [&trained, &initial]);
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let [rebuilt, fixture] = [directory.path(), &dir].map(|dir| fs::read(dir.join(file)));
            assert!(rebuilt.unwrap() == fixture.unwrap(), "{case}/{file}");
        }
    }
}

/// The linear modules of SmolLM2-135M, which the example adapters are for.
fn smollm2_modules() -> Vec<ModuleSpec> {
    let shapes = [
        ("self_attn.q_proj", 576, 576),
        ("self_attn.k_proj", 576, 192),
        ("self_attn.v_proj", 576, 192),
        ("self_attn.o_proj", 576, 576),
        ("mlp.gate_proj", 576, 1536),
        ("mlp.up_proj", 576, 1536),
        ("mlp.down_proj", 1536, 576),
    ];
    layers(30, shapes)
}

#[test]
fn the_example_adapters_load_and_change_something() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/adapters");
    let mut count = 0;
    for dir in fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path()) {
        if dir.is_dir() {
            let adapter = load(&dir, &smollm2_modules(), &Limits::default()).unwrap();
            assert!(!adapter.delta.is_zero().unwrap(), "{}", dir.display());
            count += 1;
        }
    }
    assert!(count > 0, "no example adapter was found");
}

#[test]
fn an_untrained_adapter_is_no_change() {
    let Some(shared) = shared_reference() else { return };
    let root = shared.join("reference/tiny/f32/init");
    let initial = checkpoint(&root);
    let directory = tempfile::tempdir().unwrap();
    write_reference(directory.path(), &json_file(&root.join("config.json")), [&initial, &initial]);
    let paths = adapted(&initial);
    let modules: Vec<ModuleSpec> =
        paths.iter().map(|path| spec(path, &factors(&initial, path))).collect();
    let adapter = load(directory.path(), &modules, &Limits::default()).unwrap();
    for index in 0..modules.len() {
        // Equal parts cancel but for the order in which this test adds them up.
        assert!(largest(&delta_of(adapter.delta.factors(index).unwrap())) < 1e-14);
    }
}

/// The modules of a small model with one more than any adapter below touches.
fn small_modules() -> Vec<ModuleSpec> {
    [("model.layers.0.q_proj", 4, 4), ("model.layers.0.up_proj", 4, 6), ("lm_head", 4, 9)]
        .map(|(path, in_features, out_features)| ModuleSpec {
            path: path.to_owned(),
            in_features,
            out_features,
        })
        .into()
}

fn matrix(rows: usize, columns: usize) -> impl Strategy<Value = Tensor> {
    prop::collection::vec(-1.5_f32..1.5, rows * columns)
        .prop_map(move |values| Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap())
}

fn principal_part(spec: &ModuleSpec, rank: usize) -> impl Strategy<Value = SorsaFactors> + use<> {
    let s = matrix(1, rank).prop_map(|s| s.flatten_all().unwrap());
    (matrix(rank, spec.in_features), s, matrix(spec.out_features, rank))
        .prop_map(|(a, s, b)| SorsaFactors { a, s, b })
}

/// Factors for the first two modules, of ranks of their own.
fn sorsa_modules() -> impl Strategy<Value = Vec<SorsaModule>> {
    let module = |spec: ModuleSpec| {
        (1_usize..5).prop_flat_map(move |rank| {
            let path = spec.path.clone();
            (principal_part(&spec, rank), principal_part(&spec, rank)).prop_map(
                move |(trained, initial)| SorsaModule { path: path.clone(), trained, initial },
            )
        })
    };
    let mut specs = small_modules().into_iter();
    let (first, second) = (specs.next().unwrap(), specs.next().unwrap());
    (module(first), module(second)).prop_map(|(first, second)| vec![first, second])
}

fn in_dtype(factors: &SorsaFactors, dtype: DType) -> SorsaFactors {
    let round = |tensor: &Tensor| tensor.to_dtype(dtype).unwrap();
    SorsaFactors { a: round(&factors.a), s: round(&factors.s), b: round(&factors.b) }
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop::sample::select(vec![DType::F32, DType::F16, DType::BF16])
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(
        modules in sorsa_modules(),
        dtype in dtypes(),
        alpha in prop::option::of(prop::sample::select(vec![0.5, 3.0, 16.0])),
    ) {
        let round = |module: &SorsaModule| SorsaModule {
            path: module.path.clone(),
            trained: in_dtype(&module.trained, dtype),
            initial: in_dtype(&module.initial, dtype),
        };
        let modules: Vec<SorsaModule> = modules.iter().map(round).collect();
        let wide = |module: &SorsaModule| SorsaModule {
            path: module.path.clone(),
            trained: in_dtype(&module.trained, DType::F32),
            initial: in_dtype(&module.initial, DType::F32),
        };
        let widened: Vec<SorsaModule> = modules.iter().rev().map(wide).collect();
        let config = SorsaConfig { rank: 4, alpha, ..SorsaConfig::default() };
        let written = |modules: &[SorsaModule]| {
            let dir = tempfile::tempdir().unwrap();
            write_adapter_dir(dir.path(), &config, modules).unwrap();
            load(dir.path(), &small_modules(), &Limits::default()).unwrap()
        };
        let adapter = written(&modules);
        prop_assert_eq!(adapter.delta.id(), written(&widened).delta.id());
        prop_assert!(adapter.delta.factors(2).is_none());
        let scale = alpha.map_or(1.0, |alpha| alpha / 4.0);
        for (index, module) in modules.iter().enumerate() {
            let after = principal(&module.trained, scale);
            let before = principal(&module.initial, scale);
            let found = delta_of(adapter.delta.factors(index).unwrap());
            // The up factor is rounded once: an error of 2⁻²⁴ in each of 2r terms.
            let noise = 1e-6 * scale * 12.0;
            assert_close(&found, &combine(&after, &before, -1.0), noise, &module.path);
        }
    }

    #[test]
    fn lora_is_its_scaled_product(
        (down, up) in (1_usize..9).prop_flat_map(|rank| (matrix(rank, 4), matrix(6, rank))),
        alpha in 1_u32..40,
        rank_stabilised: bool,
        by_pattern: bool,
        dtype in dtypes(),
    ) {
        let (down, up) = (down.to_dtype(dtype).unwrap(), up.to_dtype(dtype).unwrap());
        let rank = down.dims()[0];
        let mut config = json!({
            "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": rank_stabilised,
            "target_modules": "everything", "bias": "none", "init_lora_weights": true,
        });
        if by_pattern {
            config["r"] = json!(rank + 1);
            config["lora_alpha"] = json!(1000);
            config["rank_pattern"] = json!({"lm_head": 3, "(gate|up)_proj": rank});
            config["alpha_pattern"] = json!({"up_proj": alpha, ".*": 7});
        }
        let name = |role| format!("base_model.model.model.layers.0.up_proj.{role}.weight");
        let tensors = BTreeMap::from([(name("lora_A"), &down), (name("lora_B"), &up)]);
        let weights = safetensors::serialize(tensors, None).unwrap();
        let adapter = from_bytes(config.to_string().as_bytes(), &weights, &small_modules()).unwrap();
        prop_assert_eq!((adapter.kind, adapter.rank), (AdapterKind::Lora, rank));
        let divisor = if rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        let scale = f64::from(alpha) / divisor;
        let plain = product(&exact(&up), &exact(&down));
        let expected: Vec<Vec<f64>> =
            plain.iter().map(|row| row.iter().map(|value| scale * value).collect()).collect();
        let found = delta_of(adapter.delta.factors(1).unwrap());
        assert_close(&found, &expected, 1e-6 * scale * rank as f64, "up_proj");
    }
}

/// A valid adapter's two files.
fn valid(kind: AdapterKind) -> [Vec<u8>; 2] {
    let tensor = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (i as f32).cos()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let (config, tensors) = match kind {
        AdapterKind::Lora => (
            json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"lm_head": 1}}),
            vec![("lora_A", tensor(&[2, 4])), ("lora_B", tensor(&[6, 2]))],
        ),
        AdapterKind::Sorsa => (
            json!({"peft_type": "SORSA", "r": 2, "alpha": 4, "sorsa_version": 1}),
            vec![
                ("sorsa_A", tensor(&[2, 4])),
                ("sorsa_S", tensor(&[2])),
                ("sorsa_B", tensor(&[6, 2])),
                ("sorsa_A_init", tensor(&[2, 4])),
                ("sorsa_S_init", tensor(&[2])),
                ("sorsa_B_init", tensor(&[6, 2])),
            ],
        ),
    };
    let name = |role| format!("base_model.model.model.layers.0.up_proj.{role}.weight");
    let tensors: BTreeMap<String, Tensor> =
        tensors.into_iter().map(|(role, tensor)| (name(role), tensor)).collect();
    [config.to_string().into_bytes(), safetensors::serialize(tensors, None).unwrap()]
}

/// Damage to a file; positions are fractions of its length.
#[derive(Debug, Clone)]
enum Damage {
    Set { at: f64, byte: u8 },
    Flip { at: f64, bit: u8 },
    Truncate { at: f64 },
    Insert { at: f64, bytes: Vec<u8> },
    Repeat { from: f64, to: f64 },
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || 0.0_f64..1.0;
    let digit = prop::sample::select(b"0123456789\"{}[],:AF".to_vec());
    prop_oneof![
        4 => (at(), digit).prop_map(|(at, byte)| Damage::Set { at, byte }),
        4 => (at(), 0_u8..8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        1 => at().prop_map(|at| Damage::Truncate { at }),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Damage::Insert { at, bytes }),
        1 => (at(), at()).prop_map(|(a, b)| Damage::Repeat { from: a.min(b), to: a.max(b) }),
    ]
}

impl Damage {
    fn apply(&self, file: &mut Vec<u8>) {
        let len = file.len();
        let place = |at: f64| ((at * len as f64) as usize).min(len.max(1) - 1);
        match self {
            Damage::Set { at, byte } => {
                file.iter_mut().skip(place(*at)).take(1).for_each(|b| *b = *byte)
            }
            Damage::Flip { at, bit } => {
                file.iter_mut().skip(place(*at)).take(1).for_each(|b| *b ^= 1 << bit);
            }
            Damage::Truncate { at } => file.truncate(place(*at)),
            Damage::Insert { at, bytes } => {
                let at = place(*at);
                file.splice(at..at, bytes.iter().copied());
            }
            Damage::Repeat { from, to } => {
                let (from, to) = (place(*from), place(*to));
                let piece = file[from..to].to_vec();
                file.splice(to..to, piece);
            }
        }
    }
}

fn assert_finite(delta: &LowRankDelta) {
    for factors in (0..small_modules().len()).filter_map(|index| delta.factors(index)) {
        for factor in [&factors.up, &factors.down] {
            let values: Vec<f32> = factor.flatten_all().unwrap().to_vec1().unwrap();
            assert!(values.iter().all(|value| value.is_finite()));
        }
    }
}

fn read_damaged(files: [Vec<u8>; 2]) -> Option<LoadedAdapter> {
    match from_bytes(&files[0], &files[1], &small_modules()) {
        Ok(adapter) => {
            assert_finite(&adapter.delta);
            assert!(adapter.delta.num_modules() > 0);
            Some(adapter)
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 1200 && !message.contains('\n'), "{message}");
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn damaged_files_fail_or_load_finite(
        kind in prop::sample::select(vec![AdapterKind::Lora, AdapterKind::Sorsa]),
        file in 0_usize..4,
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let mut files = valid(kind);
        prop_assert!(read_damaged(files.clone()).is_some());
        // Most of the damage goes where there is most to get wrong.
        let target = &mut files[file.min(1)];
        damages.iter().for_each(|damage| damage.apply(target));
        read_damaged(files);
    }

    #[test]
    fn noise_is_no_adapter(
        config in prop::collection::vec(any::<u8>(), 0..64),
        weights in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let [valid_config, valid_weights] = valid(AdapterKind::Sorsa);
        prop_assert!(read_damaged([config, valid_weights]).is_none());
        prop_assert!(read_damaged([valid_config, weights]).is_none());
    }
}

#[test]
fn every_truncation_is_refused() {
    for kind in [AdapterKind::Lora, AdapterKind::Sorsa] {
        let [config, weights] = valid(kind);
        for len in 0..weights.len() {
            assert!(read_damaged([config.clone(), weights[..len].to_vec()]).is_none(), "{len}");
        }
        for len in 0..config.len() {
            assert!(read_damaged([config[..len].to_vec(), weights.clone()]).is_none(), "{len}");
        }
    }
}
