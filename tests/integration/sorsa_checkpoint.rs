//! Un-merged checkpoints of the paper's own library: served on their residual and merged, against
//! the library's forward pass, and every oddity of theirs that a loader meets.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};
use sorsa::adapter::delta::LowRankDelta;
use sorsa::model::builder::LoadOptions;
use sorsa::model::checkpoint::Checkpoint;
use sorsa::model::contract::CausalLm;
use sorsa::model::llama::LlamaForCausalLm;
use sorsa::model::sorsa::{SorsaCheckpoint, SorsaError, lineage};
use tempfile::TempDir;

use crate::llama_oracle::Oracle;
use crate::support::server::Server;
use crate::support::shared::{reference_grid, shared_reference};
use crate::tiny_llama::run_alone;

const TINY: [&str; 5] = ["all-bf16", "bf16-residual-tied", "bias-alpha", "f32", "sharded-r16"];
/// Of the standard deviation of a prompt's logits.
const TOLERANCE: f32 = 1e-4;
/// The same where a residual was rounded to bfloat16 after the base's logits were recorded.
const BF16_TOLERANCE: f32 = 0.15;
/// Two logits closer than this may swap places.
const GREEDY_MARGIN: f32 = 2e-4;
/// A weight of the fixtures' first layer.
const Q_PROJ: &str = "model.model.layers.0.self_attn.q_proj";

/// A case that lies in the repository.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny").join(name)
}

/// The two cases of the repository, and those of the references that are at hand.
fn cases() -> Vec<PathBuf> {
    let shared = shared_reference().map(|shared| shared.join("reference/tiny"));
    let beside = shared.iter().flat_map(|tiny| TINY.map(|name| tiny.join(name)));
    let here = ["all-bf16", "bf16-residual-tied"].map(fixture).into_iter();
    here.chain(beside).chain(reference_grid()).collect()
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// The largest difference, relative to the standard deviation of what was expected.
fn apart(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let count = expected.len() as f32;
    let mean = expected.iter().sum::<f32>() / count;
    let variance = expected.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / count;
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    worst / variance.sqrt()
}

/// A checkpoint's dense weights as a model that computes in float32, its weights held as they are
/// stored or in float32, and its factors.
fn open(
    checkpoint: &SorsaCheckpoint,
    base: &Path,
    stored: bool,
) -> (LlamaForCausalLm, LowRankDelta) {
    let base = Checkpoint::open(base).unwrap();
    let config = checkpoint.model_config(&base.config).unwrap();
    let options = LoadOptions::new(DType::F32, Device::Cpu);
    let options = LoadOptions { keep_stored: stored, ..options };
    let model = LlamaForCausalLm::load(&config, &checkpoint.weights, options, &mut |_| {}).unwrap();
    let delta = checkpoint.delta(model.modules()).unwrap();
    (model, delta)
}

/// The model with the factors beside the weights, and with them folded in.
fn both_ways(case: &Path, which: &str) -> [(LlamaForCausalLm, Option<Arc<LowRankDelta>>); 2] {
    let checkpoint = SorsaCheckpoint::open(&case.join(which)).unwrap();
    let (residual, delta) = open(&checkpoint, &case.join("base"), true);
    let (mut merged, exact) = open(&checkpoint, &case.join("base"), false);
    merged.merge(&exact).unwrap();
    let delta = residual.prepare(&delta).unwrap();
    [(residual, Some(Arc::new(delta))), (merged, None)]
}

/// The trained model by the oracle, with its rotary frequencies rounded as the record's were where
/// the whole model was cast to bfloat16.
fn oracle(case: &Path, as_recorded: bool) -> Oracle {
    let checkpoint = SorsaCheckpoint::open(&case.join("trained")).unwrap();
    let base = Checkpoint::open(&case.join("base")).unwrap();
    let weights = &checkpoint.weights;
    let tensor = |name: String| {
        let shape = weights.shape(&name).unwrap();
        let tensor = weights.tensor(&name, &shape, DType::F32, &Device::Cpu).unwrap();
        (name, tensor)
    };
    let tensors = weights.names().into_iter().map(tensor).collect();
    let mut oracle = Oracle::new(&checkpoint.model_config(&base.config).unwrap(), &tensors);
    oracle.coarse_frequencies = as_recorded && case.ends_with("all-bf16");
    for module in checkpoint.modules() {
        let part = checkpoint.principal_part(module).unwrap();
        oracle.add(&module.spec.path, &part.up, &part.down);
    }
    oracle
}

#[test]
fn both_ways_of_serving_are_what_the_library_computes_unmerged() {
    for case in cases() {
        let reference = json_file(&case.join("reference.json"));
        let narrow = |logits: &Vec<f64>| logits.iter().map(|&it| it as f32).collect::<Vec<_>>();
        for (way, (model, delta)) in both_ways(&case, "trained").into_iter().enumerate() {
            let mut worst = 0.0_f32;
            for (i, prompt) in reference["prompts"].as_array().unwrap().iter().enumerate() {
                let mut tokens = ids(prompt);
                let last = tokens.len() - 1;
                let greedy = ids(&reference["trained_greedy"][i]);
                tokens.extend(&greedy);
                let logits = run_alone(&model, &tokens, delta.clone(), 7);
                let expected = numbers(&reference["trained_unmerged_logits"][i]);
                if case.ends_with("all-bf16") {
                    // Its record was made with rounded rotary frequencies, which nothing on disk
                    // says: the oracle stands between the record and the server.
                    let recorded = oracle(&case, true).logits(&tokens);
                    worst = worst.max(apart(&narrow(&recorded[last]), &expected));
                    let exact = oracle(&case, false).logits(&tokens);
                    worst = worst.max(apart(&logits[last], &narrow(&exact[last])));
                    check_greedy(&recorded[last..].iter().map(narrow).collect::<Vec<_>>(), &greedy);
                } else {
                    worst = worst.max(apart(&logits[last], &expected));
                    check_greedy(&logits[last..], &greedy);
                }
            }
            println!("{}: way {way}: {worst:.1e}", case.display());
            assert!(worst < TOLERANCE, "{}: way {way}: {worst}", case.display());
        }
    }
}

/// Each recorded token is the likeliest, or all but tied with it.
fn check_greedy(logits: &[Vec<f32>], greedy: &[u32]) {
    for (logits, &token) in logits.iter().zip(greedy) {
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        let behind = best - logits[token as usize];
        assert!(behind < GREEDY_MARGIN, "{token} is {behind} behind the likeliest");
    }
}

#[test]
fn the_initial_checkpoint_is_the_base() {
    for case in cases() {
        let reference = json_file(&case.join("reference.json"));
        let checkpoint = SorsaCheckpoint::open(&case.join("init")).unwrap();
        let adapted = &checkpoint.modules()[0];
        let rounded = checkpoint.weights.dtype(&adapted.weight()).unwrap() == Some(DType::BF16);
        let tolerance = if rounded { BF16_TOLERANCE } else { TOLERANCE };
        for (model, delta) in both_ways(&case, "init") {
            for (i, prompt) in reference["prompts"].as_array().unwrap().iter().enumerate() {
                let logits = run_alone(&model, &ids(prompt), delta.clone(), 64);
                let expected = numbers(&reference["base_logits"][i]);
                let apart = apart(logits.last().unwrap(), &expected);
                println!("{}: {apart:.1e}", case.display());
                assert!(apart < tolerance, "{}: {apart}", case.display());
            }
        }
        let trained = SorsaCheckpoint::open(&case.join("trained")).unwrap();
        trained.check_same_residual(&checkpoint).unwrap();
    }
}

/// A checkpoint in memory, to be changed and written.
struct Written {
    config: Value,
    tensors: HashMap<String, Tensor>,
}

impl Written {
    fn read(directory: &Path) -> Self {
        let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let tensors = files
            .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
            .flat_map(|path| candle_core::safetensors::load(path, &Device::Cpu).unwrap())
            .collect();
        Self { config: json_file(&directory.join("config.json")), tensors }
    }

    /// The trained checkpoint of mixed types and tied embeddings.
    fn trained() -> Self {
        Self::read(&fixture("bf16-residual-tied/trained"))
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.tensors[name].clone()
    }

    fn set(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), self.config.to_string()).unwrap();
        let weights = directory.path().join("model.safetensors");
        candle_core::safetensors::save(&self.tensors, weights).unwrap();
        directory
    }

    fn open(&self) -> Result<SorsaCheckpoint, SorsaError> {
        SorsaCheckpoint::open(self.write().path())
    }

    fn refused(&self) -> SorsaError {
        self.open().expect_err("it must be refused")
    }

    /// Every residual with its principal part added in the type it is stored in, as the library's
    /// `merge()` does.
    fn merge_and_keep_factors(&mut self) {
        let scale = match self.config["alpha"].as_f64() {
            Some(alpha) => alpha / self.config["rank"].as_f64().unwrap(),
            None => 1.0,
        };
        let adapted = self.tensors.keys().filter_map(|name| name.strip_suffix(".sorsa_A"));
        for path in adapted.map(str::to_owned).collect::<Vec<_>>() {
            let wide =
                |role: &str| self.tensor(&format!("{path}.{role}")).to_dtype(DType::F32).unwrap();
            let up = wide("sorsa_B").broadcast_mul(&wide("sorsa_S")).unwrap();
            let part = (up.matmul(&wide("sorsa_A")).unwrap() * scale).unwrap();
            let name = format!("{path}.weight");
            let dtype = self.tensors[&name].dtype();
            let merged = (wide("weight") + part).unwrap().to_dtype(dtype).unwrap();
            self.set(&name, merged);
        }
    }
}

/// A number of this and that tensor that is not 0.
fn nudged(tensor: &Tensor, size: f64) -> Tensor {
    let noise = Tensor::randn(0.0_f32, 1.0, tensor.dims(), &Device::Cpu).unwrap();
    let wide = tensor.to_dtype(DType::F32).unwrap();
    let scale = wide.abs().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
    let noise = (noise * (size * f64::from(scale))).unwrap();
    (wide + noise).unwrap().to_dtype(tensor.dtype()).unwrap()
}

#[test]
fn a_merged_model_that_still_carries_its_factors_is_refused() {
    for case in cases() {
        let base = Checkpoint::open(&case.join("base")).unwrap();
        let check = |written: &Written| lineage::check(&written.open().unwrap(), &base.weights);
        for (which, nudge) in [("init", 0.0), ("init", 1e-4), ("init", 1e-2), ("trained", 0.0)] {
            let mut written = Written::read(&case.join(which));
            for (name, tensor) in &mut written.tensors {
                if name.contains(".sorsa_") && nudge > 0.0 {
                    *tensor = nudged(tensor, nudge);
                }
            }
            let found = check(&written);
            let context = format!("{} {which} {nudge}: {found:?}", case.display());
            assert!(found.unwrap().unexplained < lineage::ROUNDING, "{context}");
            written.merge_and_keep_factors();
            let error = check(&written).expect_err(&context);
            assert!(matches!(error, SorsaError::AppliedTwice { .. }), "{context}: {error}");
        }
    }
}

#[test]
fn the_base_of_another_checkpoint_is_refused() {
    let checkpoint = SorsaCheckpoint::open(&fixture("bf16-residual-tied/trained")).unwrap();
    let other = Checkpoint::open(&fixture("all-bf16/base")).unwrap();
    let error = lineage::check(&checkpoint, &other.weights).unwrap_err();
    assert!(matches!(error, SorsaError::OtherBase { .. }), "{error}");
    // Another quantisation of the right one is not.
    let mut base = Written::read(&fixture("bf16-residual-tied/base"));
    base.tensors.values_mut().for_each(|tensor| *tensor = nudged(tensor, 0.05));
    let (base, mut merged) = (base.write(), Written::trained());
    let base = Checkpoint::open(base.path()).unwrap();
    let found = lineage::check(&checkpoint, &base.weights).unwrap();
    assert!(found.unexplained > lineage::ROUNDING, "{found:?}");
    merged.merge_and_keep_factors();
    let error = lineage::check(&merged.open().unwrap(), &base.weights).unwrap_err();
    assert!(matches!(error, SorsaError::AppliedTwice { .. }), "{error}");
}

#[test]
fn a_directory_is_what_its_tensors_say() {
    let case = fixture("bf16-residual-tied");
    for (name, sorsa) in [("trained", true), ("init", true), ("base", false)] {
        assert_eq!(SorsaCheckpoint::is_at(&case.join(name)).unwrap(), sorsa, "{name}");
    }
    // The library's merge writes over the checkpoint and may leave its configuration behind.
    let mut stale = Written::read(&case.join("base"));
    stale.config = Written::trained().config;
    let directory = stale.write();
    let error = SorsaCheckpoint::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("ordinary model, or a merged one"), "{error}");
    let error = Checkpoint::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("base model's config.json"), "{error}");
    // Or an unrelated model's configuration beside factors.
    let mut foreign = Written::trained();
    foreign.config = json_file(&case.join("base/config.json"));
    assert!(matches!(foreign.refused(), SorsaError::ForeignConfig { .. }));
    let error = Checkpoint::open(foreign.write().path()).unwrap_err().to_string();
    assert!(error.contains("--base"), "{error}");
    let directory = Written::trained().write();
    fs::remove_file(directory.path().join("config.json")).unwrap();
    let error = SorsaCheckpoint::open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("no config.json"), "{error}");
    let error = SorsaCheckpoint::open(&case.join("base/config.json")).unwrap_err();
    assert!(matches!(error, SorsaError::NotSorsa { .. }), "{error}");
    assert!(SorsaCheckpoint::open(&case.join("absent")).is_err());
    let directory = Written::trained().write();
    let weights = directory.path().join("model.safetensors");
    fs::rename(weights, directory.path().join("pytorch_model.bin")).unwrap();
    let error = SorsaCheckpoint::open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("pickled"), "{error}");
}

#[test]
fn targets_that_matched_nothing_leave_no_checkpoint() {
    let mut written = Written::trained();
    written.tensors.retain(|name, _| !name.contains("sorsa_"));
    let error = written.refused();
    assert!(error.to_string().contains("nothing in it was adapted"), "{error}");
    let mut written = Written::trained();
    written.tensors.retain(|name, _| name.contains("sorsa_"));
    assert!(written.refused().to_string().contains("init.safetensors"));
}

#[test]
fn the_configuration_decides_the_scale_and_nothing_else() {
    let mut written = Written::trained();
    let modules = written.open().unwrap().modules().to_vec();
    assert_eq!(modules.len(), 14);
    for targets in [json!([]), json!(["lm_head"]), json!({"x": "model"}), json!(null), json!(3)] {
        written.config["target_modules"] = targets;
        written.config["dropout"] = json!(0.9);
        written.config["base_model_name_or_path"] = json!("/nowhere");
        assert_eq!(written.open().unwrap().modules(), modules);
    }
    // The library stores at most min(in, out) directions and scales by the rank asked for.
    written.config["rank"] = json!(1000);
    let checkpoint = written.open().unwrap();
    assert_eq!((checkpoint.max_rank(), checkpoint.scale()), (4, 1.0));
    written.config["alpha"] = json!(500);
    let checkpoint = written.open().unwrap();
    assert_eq!((checkpoint.max_rank(), checkpoint.scale()), (4, 0.5));
    let factors = checkpoint.factors(&modules[0]).unwrap();
    let part = checkpoint.principal_part(&modules[0]).unwrap();
    let up = factors.b.broadcast_mul(&(factors.s * 0.5).unwrap()).unwrap();
    let difference = (part.up - up).unwrap().abs().unwrap().max_all().unwrap();
    assert!(difference.to_scalar::<f32>().unwrap() < 1e-6);
}

#[test]
fn an_output_head_is_its_own_where_it_is_saved_and_differs() {
    let base = Checkpoint::open(&fixture("bf16-residual-tied/base")).unwrap();
    let tied = |written: &Written| {
        written.open().unwrap().model_config(&base.config).unwrap().tie_word_embeddings
    };
    let mut written = Written::trained();
    assert!(tied(&written));
    let fresh = written.open().unwrap();
    let table = written.tensor("model.model.embed_tokens.weight");
    written.set("model.lm_head.weight", table.clone());
    assert!(tied(&written));
    // The copy that loading and saving leaves makes no difference to what may share the residual.
    let saved_again = written.open().unwrap();
    fresh.check_same_residual(&saved_again).unwrap();
    saved_again.check_same_residual(&fresh).unwrap();
    let (model, _) = open(&saved_again, &fixture("bf16-residual-tied/base"), true);
    assert!(model.modules().iter().all(|module| module.path != "lm_head"));
    written.set("model.lm_head.weight", (&table * 2.0).unwrap());
    assert!(!tied(&written));
    let own_head = written.open().unwrap();
    assert!(matches!(
        fresh.check_same_residual(&own_head).unwrap_err(),
        SorsaError::OtherResidual { name, .. } if name == "lm_head.weight"
    ));
    let ids = [3, 17, 42];
    let (fresh, _) = open(&fresh, &fixture("bf16-residual-tied/base"), true);
    let (own_head, _) = open(&own_head, &fixture("bf16-residual-tied/base"), true);
    let (once, twice) = (run_alone(&fresh, &ids, None, 3), run_alone(&own_head, &ids, None, 3));
    let doubled: Vec<f32> = once[2].iter().map(|logit| logit * 2.0).collect();
    assert!(apart(&twice[2], &doubled) < TOLERANCE);
}

#[test]
fn an_adapted_output_head_is_served_saved_or_not() {
    let mut written = Written::trained();
    for (role, shape) in [("A", vec![2, 64]), ("S", vec![2]), ("B", vec![320, 2])] {
        let factor = Tensor::full(0.5_f32, shape, &Device::Cpu).unwrap();
        written.set(&format!("model.lm_head.sorsa_{role}"), factor);
    }
    let unsaved = written.open().unwrap();
    let table = written.tensor("model.model.embed_tokens.weight");
    written.set("model.lm_head.weight", table);
    let saved = written.open().unwrap();
    let ids = [3, 17, 42];
    let logits = [unsaved, saved].map(|checkpoint| {
        let (model, delta) = open(&checkpoint, &fixture("bf16-residual-tied/base"), true);
        assert!(model.modules().iter().any(|module| module.path == "lm_head"));
        assert_eq!(delta.num_modules(), 15);
        run_alone(&model, &ids, Some(Arc::new(delta)), 3)
    });
    assert_eq!(logits[0], logits[1]);
}

#[test]
fn weights_that_differ_anywhere_cannot_share_a_server() {
    let trained = SorsaCheckpoint::open(&fixture("bf16-residual-tied/trained")).unwrap();
    let differing = |change: &dyn Fn(&mut Written)| {
        let mut written = Written::read(&fixture("bf16-residual-tied/init"));
        change(&mut written);
        trained.check_same_residual(&written.open().unwrap())
    };
    differing(&|_| ()).unwrap();
    // Another type with the same values is the same weight.
    let weight = format!("{Q_PROJ}.weight");
    differing(&|written| {
        let wide = written.tensor(&weight).to_dtype(DType::F32).unwrap();
        written.set(&weight, wide);
    })
    .unwrap();
    let named = |change: &dyn Fn(&mut Written)| match differing(change).unwrap_err() {
        SorsaError::OtherResidual { name, difference } => (name, difference),
        other => panic!("{other}"),
    };
    let nudge = |written: &mut Written, name: &str| {
        let other = (written.tensor(name) * 1.25).unwrap();
        written.set(name, other);
    };
    let first = named(&|written| {
        for name in ["norm.weight", "layers.1.mlp.up_proj.weight"] {
            nudge(written, &format!("model.model.{name}"));
        }
    });
    assert_eq!(first, ("model.layers.1.mlp.up_proj.weight".to_owned(), "holds other values"));
    let bias = |written: &mut Written| {
        written.set(&format!("{Q_PROJ}.bias"), Tensor::ones(64, DType::F32, &Device::Cpu).unwrap());
    };
    assert_eq!(named(&bias).1, "is in only one of the two");
    let norm = "model.model.norm.weight";
    let short = |written: &mut Written| {
        let short = written.tensor(norm).narrow(0, 0, 63).unwrap();
        written.set(norm, short);
    };
    assert_eq!(named(&short), ("model.norm.weight".to_owned(), "has another shape"));
}

#[test]
fn what_training_leaves_alone_is_the_base_s_or_is_named() {
    for case in cases() {
        let base = Checkpoint::open(&case.join("base")).unwrap();
        for which in ["init", "trained"] {
            let checkpoint = SorsaCheckpoint::open(&case.join(which)).unwrap();
            checkpoint.check_untouched(&base.weights).unwrap();
        }
    }
    let base = Checkpoint::open(&fixture("bf16-residual-tied/base")).unwrap();
    let found = |change: &dyn Fn(&mut Written)| {
        let mut written = Written::trained();
        change(&mut written);
        match written.open().unwrap().check_untouched(&base.weights) {
            Ok(()) => None,
            Err(SorsaError::OtherTensor { name, difference, .. }) => Some((name, difference)),
            Err(other) => panic!("{other}"),
        }
    };
    let norm = "model.model.norm.weight";
    let rounded = |written: &mut Written| {
        let narrow = written.tensor(norm).to_dtype(DType::BF16).unwrap();
        written.set(norm, narrow);
    };
    assert_eq!(found(&rounded), None);
    let residual = format!("{Q_PROJ}.weight");
    let adapted = |written: &mut Written| {
        let other = (written.tensor(&residual) * 1.25).unwrap();
        written.set(&residual, other);
    };
    assert_eq!(found(&adapted), None);
    let both = |written: &mut Written| {
        for name in [norm, "model.model.embed_tokens.weight"] {
            let other = (written.tensor(name) * 1.25).unwrap();
            written.set(name, other);
        }
    };
    assert_eq!(found(&both), Some(("model.embed_tokens.weight".to_owned(), "holds other values")));
    let missing = |written: &mut Written| drop(written.tensors.remove(norm));
    assert_eq!(
        found(&missing),
        Some(("model.norm.weight".to_owned(), "is in only one of the two"))
    );
}

#[cfg(unix)]
#[test]
fn a_checkpoint_s_links_stay_in_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let trained = fixture("bf16-residual-tied/trained");
    fs::copy(trained.join("config.json"), directory.path().join("config.json")).unwrap();
    let link = directory.path().join("model.safetensors");
    std::os::unix::fs::symlink(trained.join("model.safetensors"), link).unwrap();
    let error = SorsaCheckpoint::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("outside the checkpoint's directory"), "{error}");
}

#[test]
fn every_fault_of_a_checkpoint_is_named() {
    let refused = |change: &dyn Fn(&mut Written)| {
        let mut written = Written::trained();
        change(&mut written);
        written.refused()
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let role = |role: &str| format!("{Q_PROJ}.{role}");
    for missing in ["weight", "sorsa_A", "sorsa_S", "sorsa_B"] {
        let error = refused(&|written| drop(written.tensors.remove(&role(missing))));
        assert!(
            matches!(&error, SorsaError::Incomplete { tensor, .. } if *tensor == missing),
            "{error}"
        );
    }
    for (tensor, shape) in [
        ("sorsa_A", vec![4, 63]),
        ("sorsa_A", vec![4]),
        ("sorsa_S", vec![4, 1]),
        ("sorsa_S", vec![5]),
        ("sorsa_B", vec![4, 64]),
        ("weight", vec![64, 64, 1]),
    ] {
        let error = refused(&|written| written.set(&role(tensor), zeros(&shape)));
        assert!(
            matches!(&error, SorsaError::Shape { tensor: named, .. } if *named == tensor),
            "{error}"
        );
    }
    for rank in [0, 65] {
        let error = refused(&|written| {
            for (factor, shape) in
                [("sorsa_A", vec![rank, 64]), ("sorsa_S", vec![rank]), ("sorsa_B", vec![64, rank])]
            {
                written.set(&role(factor), zeros(&shape));
            }
        });
        assert!(matches!(error, SorsaError::Rank { rank: named, .. } if named == rank), "{error}");
    }
    for name in ["sorsa_C", "sorsa_A.weight", "sorsa_A_init", "sorsa_B.sorsa_A"] {
        let error = refused(&|written| written.set(&role(name), zeros(&[4])));
        assert!(matches!(&error, SorsaError::UnknownFactor { .. }), "{name}: {error}");
        assert!(error.to_string().contains(&role(name)), "{error}");
    }
    let error = refused(&|written| written.set("lm_head.weight", zeros(&[320, 64])));
    assert!(matches!(error, SorsaError::Unprefixed { name } if name == "lm_head.weight"));
}

#[test]
fn factors_that_cannot_be_used_are_named() {
    let base = fixture("bf16-residual-tied/base");
    let (model, _) = open(&Written::trained().open().unwrap(), &base, true);
    let refused = |name: &str, tensor: Tensor| {
        let mut written = Written::trained();
        written.set(name, tensor);
        // The files stay mapped after their directory is gone.
        written.open().unwrap().delta(model.modules()).unwrap_err()
    };
    let values = |value: f32, shape: &[usize]| Tensor::full(value, shape, &Device::Cpu).unwrap();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let name = format!("{Q_PROJ}.sorsa_S");
        let error = refused(&name, values(value, &[4]));
        assert!(matches!(&error, SorsaError::NotFinite { name: named } if *named == name));
    }
    let mut overflowing = Written::trained();
    overflowing.set(&format!("{Q_PROJ}.sorsa_S"), values(1e38, &[4]));
    overflowing.set(&format!("{Q_PROJ}.sorsa_B"), values(10.0, &[64, 4]));
    let error = overflowing.open().unwrap().delta(model.modules()).unwrap_err();
    assert!(matches!(error, SorsaError::Adapter(_)), "{error}");
    let integers = Tensor::zeros(4, DType::U8, &Device::Cpu).unwrap();
    let error = refused(&format!("{Q_PROJ}.sorsa_S"), integers);
    assert!(error.to_string().contains("U8"), "{error}");
    // A fused layer of another architecture: complete, and no module of this model.
    let mut written = Written::trained();
    let path = "model.model.layers.0.self_attn.qkv_proj";
    for (tensor, shape) in [
        ("weight", vec![8, 8]),
        ("sorsa_A", vec![1, 8]),
        ("sorsa_S", vec![1]),
        ("sorsa_B", vec![8, 1]),
    ] {
        written.set(&format!("{path}.{tensor}"), values(1.0, &shape));
    }
    let checkpoint = written.open().unwrap();
    let error = checkpoint.delta(model.modules()).unwrap_err();
    assert!(matches!(error, SorsaError::UnknownModule { module } if path.ends_with(&module)));
    let base = Checkpoint::open(&base).unwrap();
    let options = LoadOptions::new(DType::F32, Device::Cpu);
    let load = LlamaForCausalLm::load(&base.config, &checkpoint.weights, options, &mut |_| {});
    assert!(load.unwrap_err().to_string().contains("qkv_proj"));
}

#[test]
fn mixed_types_are_held_in_the_widest() {
    let checkpoint = SorsaCheckpoint::open(&fixture("bf16-residual-tied/trained")).unwrap();
    assert_eq!(checkpoint.widest_dtype().unwrap(), DType::F32);
    let all = SorsaCheckpoint::open(&fixture("all-bf16/trained")).unwrap();
    assert_eq!(all.widest_dtype().unwrap(), DType::BF16);
    assert_eq!(all.scale(), 2.0);
}

/// Text of 12 likeliest tokens under a name.
async fn answer(server: &Server, model: &str) -> String {
    let body = json!({"model": model, "prompt": [5, 6, 7, 8], "max_tokens": 12, "temperature": 0});
    server.post("/v1/completions", &body).await["choices"][0]["text"].to_string()
}

#[tokio::test]
async fn a_checkpoint_is_served_with_its_factors_and_never_without() {
    let case = fixture("bf16-residual-tied");
    let path = |name: &str| case.join(name).display().to_string();
    let (base, init) = (path("base"), format!("start={}", path("init")));
    let plain = Server::start(&case.join("base"), &[]);
    let untrained = answer(&plain, "base").await;
    let args = ["--base", &base, "--adapter", &init, "--served-model-name", "mine,alias"];
    let server = Server::start(&case.join("trained"), &args);
    let trained = answer(&server, "mine").await;
    assert_eq!(trained, answer(&server, "alias").await);
    assert_ne!(trained, untrained);
    assert_eq!(answer(&server, "start").await, untrained);
    let unknown = json!({"model": "trained", "prompt": "a", "max_tokens": 1});
    assert_eq!(server.try_post("/v1/completions", &unknown).await.0, 404);
    let models = reqwest::get(server.url("/v1/models")).await.unwrap();
    let models: Value = models.json().await.unwrap();
    for card in models["data"].as_array().unwrap() {
        assert!(card["root"].as_str().unwrap().starts_with("blake3:"), "{card}");
        assert_eq!(card["parent"], Value::Null, "{card}");
    }
    for (own, merge, adapters, expected) in
        [("trained", "trained", None, &trained), ("trained", "start", Some(&init), &untrained)]
    {
        let mut args = vec!["--base", &base, "--merge", merge, "--served-model-name", own];
        args.extend(adapters.into_iter().flat_map(|adapter| ["--adapter", adapter]));
        let merged = Server::start(&case.join("trained"), &args);
        assert_eq!(answer(&merged, merge).await, *expected);
    }
}

#[test]
fn what_cannot_be_served_on_a_residual_is_refused_with_the_way_out() {
    let case = fixture("bf16-residual-tied");
    let refused = |model: &Path, args: &[&str], expected: &str| {
        let (status, log) = Server::run_to_end(model, args);
        assert!(!status.success() && log.contains(expected), "{args:?}: {log}");
    };
    let path = |path: PathBuf| path.display().to_string();
    let (base, trained) = (path(case.join("base")), case.join("trained"));
    let other = |name: &str| format!("other={}", path(fixture(name)));
    refused(&trained, &[], "--base BASE");
    refused(&case.join("base"), &["--base", &base], "an ordinary model, or a merged one");
    refused(&trained, &["--base", &path(fixture("all-bf16/base"))], "not the one");
    let mut merged = Written::trained();
    merged.merge_and_keep_factors();
    refused(merged.write().path(), &["--base", &base], "is no residual");
    let mut other_norm = Written::trained();
    let norm = "model.model.norm.weight";
    other_norm.set(norm, (other_norm.tensor(norm) * 1.5).unwrap());
    refused(other_norm.write().path(), &["--base", &base], "\"model.norm.weight\"");
    let with = |adapter: &str| ["--base", &base, "--adapter", adapter].map(str::to_owned);
    let adapter = with(&other("f32/adapter"));
    let adapter: Vec<&str> = adapter.iter().map(String::as_str).collect();
    refused(&trained, &adapter, "relative to the base model's own weights");
    let adapter = with(&other("all-bf16/init"));
    let adapter: Vec<&str> = adapter.iter().map(String::as_str).collect();
    refused(&trained, &adapter, "model.embed_tokens.weight");
    let named = ["--base", &base, "--adapter", &other("all-bf16/init"), "--merge", "trained"];
    refused(&trained, &named, "changes the weights");
    refused(&trained, &["--base", &base, "--merge", "nobody"], "--merge trained");
    let taken = format!("trained={}", path(case.join("init")));
    refused(&trained, &["--base", &base, "--adapter", &taken], "own name already");
    refused(&case.join("base"), &["--adapter", &other("bf16-residual-tied/init")], "--base BASE");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_altered_checkpoint_is_never_a_panic(at in 0usize..6000, byte in any::<u8>()) {
        let case = fixture("all-bf16");
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.json");
        fs::copy(case.join("trained/config.json"), config).unwrap();
        let mut bytes = fs::read(case.join("trained/model.safetensors")).unwrap();
        bytes[at] = byte;
        fs::write(directory.path().join("model.safetensors"), bytes).unwrap();
        if let Ok(checkpoint) = SorsaCheckpoint::open(directory.path()) {
            for module in checkpoint.modules() {
                let _ = checkpoint.principal_part(module);
            }
        }
    }
}
