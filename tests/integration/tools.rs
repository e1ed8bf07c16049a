//! The commands that read and write models and adapters, on what the paper's own library trained.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use clap::Parser;
use serde_json::Value;
use sorsa::adapter::delta::LowRankDelta;
use sorsa::adapter::sorsa::{SorsaModule, write_adapter_dir};
use sorsa::adapter::{Limits, load as load_adapter};
use sorsa::cli::{convert, extract, merge, verify};
use sorsa::model::checkpoint::Checkpoint;
use sorsa::model::sorsa::{AdaptedModule, SorsaCheckpoint};

use crate::support::shared::{reference_grid, shared_reference};
use crate::tiny_llama::{fast, load, run_alone};

/// Of logits computed in float32, relative to their spread.
const EXACT: f32 = 1e-4;
/// What the rounding of a residual to bfloat16 may cost at most, whatever the factors.
const BFLOAT16: f32 = 0.03;

#[derive(Parser)]
struct Line<A: clap::Args> {
    #[command(flatten)]
    args: A,
}

fn parse<A: clap::Args>(arguments: &[&str]) -> A {
    let line = std::iter::once(&"sorsa").chain(arguments);
    Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).args
}

fn run_merge(arguments: &[&str]) -> anyhow::Result<()> {
    merge::run(&parse(arguments))
}

fn run_extract(arguments: &[&str]) -> anyhow::Result<()> {
    extract::run(&parse(arguments))
}

fn run_convert(arguments: &[&str]) -> anyhow::Result<()> {
    convert::run(&parse(arguments))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn fixture(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny").join(case)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn matrix(value: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Prompts and the last logits of each, as the reference library computed them un-merged.
struct Expected {
    prompts: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
}

impl Expected {
    fn shared(root: &Path, which: &str) -> Self {
        let reference = json(&root.join("reference.json"));
        let prompts = serde_json::from_value(reference["prompts"].clone()).unwrap();
        Self { prompts, logits: matrix(&reference[which]) }
    }

    /// What a model computes for this one's prompts.
    fn by(&self, model: &Path, delta: Option<&Arc<LowRankDelta>>) -> Self {
        let model = load(model, DType::F32, fast());
        let last = |ids: &Vec<u32>| run_alone(&model, ids, delta.cloned(), 64).pop().unwrap();
        Self { prompts: self.prompts.clone(), logits: self.prompts.iter().map(last).collect() }
    }

    /// The largest difference from `other`, relative to the spread of these logits.
    fn distance(&self, other: &Self) -> f32 {
        let pairs = self.logits.iter().zip(&other.logits);
        let distance = |(ours, theirs): (&Vec<f32>, &Vec<f32>)| {
            assert_eq!(ours.len(), theirs.len());
            let most = ours.iter().copied().fold(f32::MIN, f32::max);
            let least = ours.iter().copied().fold(f32::MAX, f32::min);
            let differences = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
            differences.fold(0.0, f32::max) / (most - least)
        };
        pairs.map(distance).fold(0.0, f32::max)
    }

    fn assert_near(&self, other: &Self, tolerance: f32, what: &str) {
        let distance = self.distance(other);
        eprintln!("{what}: {distance:.1e}");
        assert!(distance <= tolerance, "{what}: {distance:e} off, allowed {tolerance:e}");
    }
}

fn delta(base: &Path, adapter: &Path) -> Arc<LowRankDelta> {
    let specs = load(base, DType::F32, fast());
    let specs = sorsa::model::contract::CausalLm::modules(&specs).to_vec();
    Arc::new(load_adapter(adapter, &specs, &Limits::default()).unwrap().delta)
}

/// Cases of the reference library, and how closely an adapter relative to the base can follow.
const TINY: [(&str, f32); 5] = [
    ("f32", EXACT),
    ("bias-alpha", EXACT),
    ("sharded-r16", BFLOAT16),
    ("bf16-residual-tied", BFLOAT16),
    ("all-bf16", BFLOAT16),
];

/// Those, and what the grid holds: there the residual's type says how closely.
fn cases() -> Vec<(PathBuf, f32)> {
    let shared = shared_reference().map(|shared| shared.join("reference/tiny"));
    let recorded = shared.iter().flat_map(|tiny| TINY.map(|(case, t)| (tiny.join(case), t)));
    let grid = reference_grid().into_iter().map(|root| {
        let checkpoint = SorsaCheckpoint::open(&root.join("trained")).unwrap();
        let residual = checkpoint.modules()[0].weight();
        let rounded = checkpoint.weights.dtype(&residual).unwrap() == Some(DType::BF16);
        (root, if rounded { BFLOAT16 } else { EXACT })
    });
    recorded.chain(grid).collect()
}

/// The adapter of the factors as the library had them: those it began with are in the checkpoint
/// saved before training.
fn write_true_factors(root: &Path, out: &Path) {
    let open = |which: &str| SorsaCheckpoint::open(&root.join(which)).unwrap();
    let (init, trained) = (open("init"), open("trained"));
    let module = |module: &AdaptedModule| SorsaModule {
        path: module.spec.path.clone(),
        trained: trained.factors(module).unwrap(),
        initial: init.factors(module).unwrap(),
    };
    let modules: Vec<_> = trained.modules().iter().map(module).collect();
    write_adapter_dir(out, &trained.config, &modules).unwrap();
}

#[test]
fn an_extracted_adapter_is_the_checkpoint_batched_and_merged() {
    for (root, ceiling) in cases() {
        let case = root.display();
        let (base, trained) = (root.join("base"), root.join("trained"));
        let folder = tempfile::tempdir().unwrap();
        let (adapter, merged) = (folder.path().join("adapter"), folder.path().join("merged"));
        run_extract(&[text(&trained), "--base", text(&base), "--out", text(&adapter)]).unwrap();
        let expected = Expected::shared(&root, "trained_unmerged_logits");
        let batched = expected.by(&base, Some(&delta(&base, &adapter)));
        let true_factors = folder.path().join("true");
        write_true_factors(&root, &true_factors);
        let ideal = expected.by(&base, Some(&delta(&base, &true_factors)));
        // What the residual's own rounding costs, for its factors are the true ones.
        let rounding = expected.distance(&ideal);
        // There the library rounded its rotary frequencies too when it recorded the logits.
        let ceiling = if root.ends_with("all-bf16") { ceiling + 1e-2 } else { ceiling };
        assert!(rounding <= ceiling, "{case}: true factors are {rounding:e} off");
        // The initial factors come out of W - Wr, which is theirs less that rounding E. Its best
        // approximation of their rank is within |E| of it, hence within 2 |E| of the true ones
        // (Eckart and Young, Weyl).
        let tolerance = 2.0 * rounding + EXACT;
        ideal.assert_near(&batched, tolerance, &format!("{case}, extracted or true factors"));
        expected.assert_near(&batched, tolerance, &format!("{case}, extracted and batched"));
        run_merge(&[text(&base), text(&adapter), "--out", text(&merged), "--dtype", "f32"])
            .unwrap();
        let merged = expected.by(&merged, None);
        batched.assert_near(&merged, EXACT, &format!("{case}, batched and merged"));
        expected.assert_near(&merged, tolerance, &format!("{case}, extracted and merged"));
    }
}

#[test]
fn a_checkpoint_merged_is_the_references_own_forward() {
    let Some(shared) = shared_reference() else { return };
    for (case, tolerance) in TINY {
        for (part, which) in [("trained", "trained_unmerged_logits"), ("init", "base_logits")] {
            // Before training, a rounded residual is already another model than the base.
            if part == "init" && tolerance > EXACT {
                continue;
            }
            let root = shared.join("reference/tiny").join(case);
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("merged");
            let (base, checkpoint) = (root.join("base"), root.join(part));
            let arguments = [text(&base), text(&checkpoint), "--out", text(&out), "--dtype", "f32"];
            run_merge(&arguments).unwrap();
            let expected = Expected::shared(&root, which);
            let what = format!("{case}, {part} checkpoint merged");
            // There the library rounded its rotary frequencies too when it recorded the logits.
            let allowed = if case == "all-bf16" { 1e-2 } else { EXACT };
            expected.assert_near(&expected.by(&out, None), allowed, &what);
        }
    }
}

#[test]
fn a_merged_model_gives_back_the_adapter() {
    let base = fixture("f32/base");
    let folder = tempfile::tempdir().unwrap();
    let [merged, lora, again] = ["merged", "lora", "again"].map(|name| folder.path().join(name));
    run_merge(&[text(&base), text(&fixture("f32/adapter")), "--out", text(&merged)]).unwrap();
    run_extract(&[text(&merged), "--base", text(&base), "--out", text(&lora), "--rank", "8"])
        .unwrap();
    let loaded = delta(&base, &lora);
    // Twice the rank of the adapter, and no more where the noise of rounding is dropped.
    assert_eq!((loaded.max_rank(), loaded.num_modules()), (8, 14));
    let expected = fixture_logits("f32", "trained");
    expected.assert_near(&expected.by(&base, Some(&loaded)), EXACT, "out of a merged model");
    let error = run_extract(&[
        text(&merged),
        "--base",
        text(&base),
        "--out",
        text(&again),
        "--rank",
        "1",
        "--max-error",
        "1e-6",
    ]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("the limit is 1.0e-6"), "{error}");
    assert!(!again.exists());
    let error = run_extract(&[text(&base), "--base", text(&base), "--out", text(&again)]);
    assert!(error.unwrap_err().to_string().contains("are equal"));
}

/// The last logits of the reference, for adapters that are in the repository.
fn fixture_logits(case: &str, which: &str) -> Expected {
    let recorded = json(&fixture(case).join(format!("{which}_logits.json")));
    let key = if which == "base" { "base_logits" } else { "trained_unmerged_logits" };
    let prompts = serde_json::from_value(recorded["prompts"].clone()).unwrap();
    Expected { prompts, logits: matrix(&recorded[key]) }
}

#[test]
fn a_merged_adapter_is_the_adapter_in_a_batch() {
    for case in ["f32", "bias-alpha"] {
        let (base, adapter) = (fixture(case).join("base"), fixture(case).join("adapter"));
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a/merged");
        run_merge(&[text(&base), text(&adapter), "--out", text(&out)]).unwrap();
        let expected = fixture_logits(case, "trained");
        let merged = expected.by(&out, None);
        expected.assert_near(&merged, EXACT, case);
        let batched = expected.by(&base, Some(&delta(&base, &adapter)));
        batched.assert_near(&merged, EXACT, case);
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(base.join(file)).unwrap());
        }
        assert_eq!(json(&out.join("config.json")), json(&base.join("config.json")));
        let again = run_merge(&[text(&base), text(&adapter), "--out", text(&out)]);
        assert!(again.unwrap_err().to_string().contains("not empty"));
    }
}

#[test]
fn shards_hold_the_same_tensors() {
    let (base, adapter) = (fixture("f32/base"), fixture("f32/adapter"));
    let folder = tempfile::tempdir().unwrap();
    let [whole, sharded] = ["whole", "sharded"].map(|name| folder.path().join(name));
    let arguments = |out| [text(&base), text(&adapter), "--out", out, "--dtype", "bf16"];
    run_merge(&arguments(text(&whole))).unwrap();
    let small = [arguments(text(&sharded)).as_slice(), &["--max-shard-size", "30KB"]].concat();
    run_merge(&small).unwrap();
    assert!(sharded.join("model.safetensors.index.json").exists());
    assert!(!sharded.join("model.safetensors").exists());
    assert_eq!(json(&sharded.join("config.json"))["torch_dtype"], "bfloat16");
    let [whole, sharded] = [whole, sharded].map(|path| Checkpoint::open(&path).unwrap().weights);
    assert_eq!(whole.names(), sharded.names());
    for name in whole.names() {
        assert_eq!(whole.dtype(&name).unwrap(), Some(DType::BF16));
        assert!(whole.stores_alike(&name, &sharded, &name).unwrap(), "{name}");
    }
}

#[test]
fn a_sorsa_adapter_as_a_lora_is_the_same_delta() {
    for case in ["f32", "bias-alpha"] {
        let (base, adapter) = (fixture(case).join("base"), fixture(case).join("adapter"));
        let folder = tempfile::tempdir().unwrap();
        let [lora, small] = ["lora", "small"].map(|name| folder.path().join(name));
        run_convert(&[text(&adapter), text(&lora), "--to", "peft"]).unwrap();
        // The digest covers every value, so nothing at all has changed.
        assert_eq!(delta(&base, &lora).id(), delta(&base, &adapter).id(), "{case}");
        let tolerance = ["--to", "peft", "--adapter-tolerance", "1e-3", "--dtype", "f16"];
        run_convert(&[[text(&adapter), text(&small)].as_slice(), &tolerance].concat()).unwrap();
        let expected = fixture_logits(case, "trained");
        let by = expected.by(&base, Some(&delta(&base, &small)));
        expected.assert_near(&by, 5e-3, &format!("{case}, refactored in f16"));
        let out = folder.path().join("no");
        for (arguments, reason) in [
            ([text(&lora), text(&out), "--to", "peft"].as_slice(), "a LoRA directory already"),
            (&[text(&lora), text(&out), "--to", "sorsa"], "not the principal part"),
            (&[text(&lora), text(&out)], "--to peft"),
        ] {
            let error = run_convert(arguments).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(!out.exists());
    }
}

#[test]
fn an_extraction_that_cannot_be_exact_is_refused() {
    let Some(shared) = shared_reference() else { return };
    let tiny = shared.join("reference/tiny");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("adapter");
    let trained = tiny.join("f32/trained");
    let extract = |base: &str, extra: &[&str]| {
        let base = tiny.join(base);
        let line = [text(&trained), "--base", text(&base), "--out", text(&out)];
        run_extract(&[line.as_slice(), extra].concat()).unwrap_err().to_string()
    };
    let error = extract("bias-alpha/base", &[]);
    assert!(!error.is_empty());
    let error = extract("f32/base", &["--max-error", "0"]);
    assert!(error.contains("is reproduced only up to"), "{error}");
    assert!(!out.exists());
}

#[test]
fn the_ways_of_serving_an_adapter_agree_or_verify_fails() {
    let (base, adapter) = (fixture("f32/base"), fixture("f32/adapter"));
    let arguments = [text(&base), text(&adapter), "--json"];
    let run = |extra: &[&str]| verify::run(&parse(&[arguments.as_slice(), extra].concat()));
    run(&[]).unwrap();
    run(&["--tolerance", "1e-5"]).unwrap();
    let error = run(&["--dtype", "bf16", "--tolerance", "1e-5"]).unwrap_err().to_string();
    assert!(error.contains("the tolerance is 1.0e-5"), "{error}");
    let Some(shared) = shared_reference() else { return };
    let trained = shared.join("reference/tiny/f32/trained");
    run(&["--checkpoint", text(&trained), "--tolerance", "1e-4"]).unwrap();
    let other = shared.join("reference/tiny/f32/init");
    assert!(run(&["--checkpoint", text(&other)]).is_err());
}

/// The checkpoint at `from` with what `keep` keeps of its tensors, each as `change` makes it.
fn copy_checkpoint(
    from: &Path,
    to: &Path,
    keep: impl Fn(&str) -> bool,
    change: impl Fn(&Tensor) -> Tensor,
) {
    fs::create_dir_all(to).unwrap();
    fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let tensors = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu);
    let tensors: HashMap<String, Tensor> = tensors
        .unwrap()
        .into_iter()
        .filter(|(name, _)| keep(name))
        .map(|(name, tensor)| (name, change(&tensor)))
        .collect();
    candle_core::safetensors::save(&tensors, to.join("model.safetensors")).unwrap();
}

#[test]
fn an_adapter_is_compared_with_what_its_checkpoint_can_give_back() {
    for case in ["bf16-residual-tied", "all-bf16"] {
        let case = fixture(case);
        let (base, trained) = (case.join("base"), case.join("trained"));
        let folder = tempfile::tempdir().unwrap();
        let adapter = folder.path().join("adapter");
        run_extract(&[text(&trained), "--base", text(&base), "--out", text(&adapter)]).unwrap();
        let run = |adapter: &Path, checkpoint: &Path, extra: &[&str]| {
            let line = [text(&base), text(adapter), "--json", "--checkpoint", text(checkpoint)];
            let run = verify::run(&parse(&[line.as_slice(), extra].concat()));
            run.map_err(|error| format!("{error:#}"))
        };
        run(&adapter, &trained, &[]).unwrap();
        // Nothing is given back better than the residual's rounding allows.
        let error = run(&adapter, &trained, &["--max-error", "1e-5"]).unwrap_err();
        assert!(error.contains("the limit is 1.0e-5"), "{error}");
        // Trained a little further, it is another checkpoint.
        let further = folder.path().join("further");
        copy_checkpoint(
            &trained,
            &further,
            |_| true,
            |tensor| {
                if tensor.rank() == 1 && tensor.elem_count() < 32 {
                    (tensor * 1.1).unwrap()
                } else {
                    tensor.clone()
                }
            },
        );
        let error = run(&adapter, &further, &[]).unwrap_err();
        assert!(error.contains("was it made of this checkpoint"), "{error}");
        let another = folder.path().join("another");
        run_extract(&[text(&further), "--base", text(&base), "--out", text(&another)]).unwrap();
        run(&another, &further, &[]).unwrap();
        let error = run(&another, &trained, &[]).unwrap_err();
        assert!(error.contains("was it made of this checkpoint"), "{error}");
    }
}

#[test]
fn factors_without_the_initial_ones_are_told_what_is_missing_by_every_command() {
    let case = fixture("bf16-residual-tied");
    let (base, trained) = (case.join("base"), case.join("trained"));
    let folder = tempfile::tempdir().unwrap();
    let [factors, out] = ["factors", "out"].map(|name| folder.path().join(name));
    copy_checkpoint(&trained, &factors, |name| name.contains("sorsa_"), Tensor::clone);
    let named = format!("a={}", text(&factors));
    let (base, factors, out) = (text(&base), text(&factors), text(&out));
    let lines: [&[&str]; 7] = [
        &["serve", base, "--adapter", &named, "--merge", "a"],
        &["serve", factors, "--base", base],
        &["extract", factors, "--base", base, "--out", out],
        &["inspect", factors],
        &["inspect", factors, "--base", base, "--json"],
        &["merge", base, factors, "--out", out],
        &["verify", base, factors],
    ];
    for line in lines {
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_sorsa")).args(line).output();
        let ran = ran.unwrap();
        // A description says it too, and is no failure.
        assert_eq!(ran.status.success(), line[0] == "inspect", "{line:?}");
        let said = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(said.contains(sorsa::adapter::WITHOUT_INITIAL), "{line:?}: {said}");
        assert!(!said.contains("whole SORSA checkpoint"), "{line:?}: {said}");
    }
    // Those of the checkpoint saved before training are what was missing.
    let factors = Path::new(factors);
    let initial = folder.path().join("initial");
    copy_checkpoint(&case.join("init"), &initial, |name| name.contains("sorsa_"), Tensor::clone);
    fs::copy(initial.join("model.safetensors"), factors.join("init.safetensors")).unwrap();
    let line = [base, text(factors), "--json", "--checkpoint", text(&trained)];
    verify::run(&parse(&line)).unwrap();
}

/// The base of a case with one tensor changed that training leaves alone.
fn another_base(base: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(base).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    let file = directory.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &candle_core::Device::Cpu).unwrap();
    let norm = tensors.get_mut("model.norm.weight").unwrap();
    *norm = (&*norm * 1.5).unwrap();
    candle_core::safetensors::save(&tensors, file).unwrap();
    directory
}

#[test]
fn another_base_than_the_recorded_one_is_refused_by_every_command() {
    let case = fixture("bf16-residual-tied");
    let (base, trained) = (case.join("base"), case.join("trained"));
    let other = another_base(&base);
    let folder = tempfile::tempdir().unwrap();
    let [adapter, out] = ["adapter", "out"].map(|name| folder.path().join(name));
    run_extract(&[text(&trained), "--base", text(&base), "--out", text(&adapter)]).unwrap();
    let allow = "--allow-base-mismatch";
    for of in [&adapter, &trained] {
        let line = [text(other.path()), text(of), "--out", text(&out)];
        let error = format!("{:#}", run_merge(&line).unwrap_err());
        assert!(error.contains(allow), "{error}");
        assert!(!out.exists());
        run_merge(&[line.as_slice(), &[allow]].concat()).unwrap();
        fs::remove_dir_all(&out).unwrap();
        run_merge(&[text(&base), text(of), "--out", text(&out)]).unwrap();
        fs::remove_dir_all(&out).unwrap();
    }
    let run = |line: &[&str]| verify::run(&parse(line)).map_err(|error| format!("{error:#}"));
    let error = run(&[text(other.path()), text(&adapter)]).unwrap_err();
    assert!(error.contains(allow), "{error}");
    run(&[text(other.path()), text(&adapter), allow]).unwrap();
    run(&[text(&base), text(&adapter)]).unwrap();
    let error = run_extract(&[text(&trained), "--base", text(other.path()), "--out", text(&out)]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("model.norm.weight"), "{error}");
}
