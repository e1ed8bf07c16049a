//! A delta as a LoRA directory the way PEFT lays one out: what other servers load.
//!
//! `lora_A` is `down` and `lora_B` is `up`; alpha equals the rank, so that the scale is 1. Modules
//! of another rank than the largest are named with theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};
use serde_json::{Map, Value, json};

use super::delta::{LowRankDelta, LowRankFactors, ModuleSpec};
use super::error::{AdapterError, quoted};
use super::file::{CONFIG_FILE, WEIGHTS_FILE};
use super::sorsa::write_new;

/// Writes `adapter_config.json` and `adapter_model.safetensors` of `delta`, its factors rounded to
/// `dtype`. The directory is created where it is missing.
///
/// # Errors
/// Where the delta is empty or overflows `dtype`, or a file cannot be written or is there already.
pub fn write_lora_dir(
    dir: &Path,
    specs: &[ModuleSpec],
    delta: &LowRankDelta,
    base_model_name: Option<&str>,
    dtype: DType,
) -> Result<(), AdapterError> {
    let delta = delta.to(&candle_core::Device::Cpu, dtype)?;
    let touched: Vec<(&str, &LowRankFactors)> = specs
        .iter()
        .enumerate()
        .filter_map(|(i, spec)| Some((spec.path.as_str(), delta.factors(i)?)))
        .collect();
    if touched.is_empty() {
        return Err(AdapterError::Empty);
    }
    let tensors: BTreeMap<String, &Tensor> = touched
        .iter()
        .flat_map(|(path, factors)| {
            let name = |role| format!("base_model.model.{path}.{role}.weight");
            [(name("lora_A"), &factors.down), (name("lora_B"), &factors.up)]
        })
        .collect();
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let weights = safetensors::serialize(tensors, Some(metadata))
        .map_err(|error| AdapterError::Header { problem: quoted(&error.to_string()) })?;
    let config = config(&touched, delta.max_rank(), base_model_name);
    fs::create_dir_all(dir)
        .map_err(|source| AdapterError::Write { path: dir.to_owned(), source })?;
    // The configuration comes last: a directory without one is no adapter yet.
    write_new(&dir.join(WEIGHTS_FILE), &weights)?;
    write_new(&dir.join(CONFIG_FILE), format!("{config:#}\n").as_bytes())
}

fn config(
    touched: &[(&str, &LowRankFactors)],
    rank: usize,
    base_model_name: Option<&str>,
) -> Value {
    let others: Map<String, Value> = touched
        .iter()
        .filter(|(_, factors)| factors.rank() != rank)
        .map(|(path, factors)| ((*path).to_owned(), factors.rank().into()))
        .collect();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model_name,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": target_modules(touched.iter().map(|(path, _)| *path)),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
        "modules_to_save": null,
        "use_rslora": false,
        "use_dora": false,
    })
}

/// The modules' last names where each is adapted equally often, as in every layer; else whole
/// paths, because a name alone would adapt layers that have no factors.
fn target_modules<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut by_name: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for path in paths {
        by_name.entry(path.rsplit('.').next().unwrap_or(path)).or_default().insert(path);
    }
    let mut counts = by_name.values().map(BTreeSet::len);
    let first = counts.next();
    if counts.all(|count| Some(count) == first) {
        return by_name.into_keys().collect();
    }
    by_name.into_values().flatten().collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::adapter::{Limits, load};

    fn delta(ranks: &[usize]) -> (Vec<ModuleSpec>, LowRankDelta) {
        let spec =
            |i| ModuleSpec { path: format!("layers.{i}.q"), in_features: 4, out_features: 3 };
        let specs: Vec<ModuleSpec> = (0..ranks.len()).map(spec).collect();
        let tensor = |rows: usize, columns: usize, from: f32| {
            let values = (0..rows * columns).map(|i| from + i as f32 / 8.0).collect();
            Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
        };
        let factors = |&rank: &usize| {
            (rank > 0)
                .then(|| LowRankFactors { down: tensor(rank, 4, 0.25), up: tensor(3, rank, -1.0) })
        };
        let factors = ranks.iter().map(factors).collect();
        let delta = LowRankDelta::from_content(&specs, factors).unwrap();
        (specs, delta)
    }

    #[test]
    fn what_is_written_reads_back_with_the_same_digest() {
        let (specs, delta) = delta(&[2, 0, 3, 1]);
        let dir = tempfile::tempdir().unwrap();
        write_lora_dir(dir.path(), &specs, &delta, Some("b/m"), DType::F32).unwrap();
        let read = load(dir.path(), &specs, &Limits::default()).unwrap();
        assert_eq!(read.delta.id(), delta.id());
        assert_eq!(read.base_model_name.as_deref(), Some("b/m"));
        assert!(write_lora_dir(dir.path(), &specs, &delta, None, DType::F32).is_err());
    }

    #[test]
    fn a_delta_of_nothing_is_refused() {
        let (specs, delta) = delta(&[0, 0]);
        let dir = tempfile::tempdir().unwrap();
        let error = write_lora_dir(dir.path(), &specs, &delta, None, DType::F32).unwrap_err();
        assert!(matches!(error, AdapterError::Empty));
    }

    #[test]
    fn names_stand_for_whole_layers_only() {
        let targets = |paths: &[&'static str]| target_modules(paths.iter().copied());
        assert_eq!(targets(&["l.0.q", "l.1.q", "l.0.k", "l.1.k"]), ["k", "q"]);
        assert_eq!(targets(&["l.0.q", "l.1.q", "l.1.k"]), ["l.1.k", "l.0.q", "l.1.q"]);
    }
}
