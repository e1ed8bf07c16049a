//! SORSA (arXiv 2409.00055): a principal part `s · B diag(S) A` trained in place of the one that
//! was taken out of the weight.
//!
//! Relative to the untouched weight, `ΔW = s · (B diag(S) A − B₀ diag(S₀) A₀)`, which is the pair
//! `up = s · [B diag(S) | −B₀ diag(S₀)]`, `down = [A ; A₀]` of twice the rank. The initial factors
//! come with the adapter: they are a singular value decomposition of the weight, which nobody
//! wants to repeat at load, and an approximation of it would not cancel what training took out.
//! Their signs and order never matter, only the product does.
//!
//! Here is how factors become a delta, and how an adapter directory is written; which files hold
//! them is [`super::file`]'s business.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use candle_core::Tensor;

use super::base::BaseDigest;
use super::config::AdapterConfig;
use super::delta::{LowRankFactors, ModuleSpec};
use super::error::{AdapterError, quoted};
use super::factors::{FactorTable, Folded, ModuleIndex, rank_of, required, wrong_shape};
use super::file::{CONFIG_FILE, WEIGHTS_FILE};
use super::tensors::NamedTensor;

/// The format's version, in the configuration's `sorsa_version`.
const VERSION: u64 = 1;

const TRAINED: [&str; 3] = ["sorsa_A", "sorsa_S", "sorsa_B"];
const INITIAL: [&str; 3] = ["sorsa_A_init", "sorsa_S_init", "sorsa_B_init"];

/// Tensors of an adapter, filed by module.
#[derive(Debug)]
pub(super) struct SorsaTable<'a>(FactorTable<'a, 6>);

impl<'a> SorsaTable<'a> {
    /// An empty table.
    pub fn new(modules: &'a ModuleIndex<'a>) -> Self {
        let [a, s, b] = TRAINED;
        let [a_init, s_init, b_init] = INITIAL;
        Self(FactorTable::new("SORSA", [a, s, b, a_init, s_init, b_init], modules))
    }

    /// Files a tensor of an adapter directory.
    pub fn insert(&mut self, tensor: NamedTensor) -> Result<(), AdapterError> {
        self.0.insert_as_named(tensor)
    }

    /// Files a tensor of a checkpoint saved before training, whose names are those of trained
    /// factors.
    pub fn insert_initial(&mut self, tensor: NamedTensor) -> Result<(), AdapterError> {
        self.0.insert(tensor, |role| {
            TRAINED.iter().position(|known| *known == role).map(|at| INITIAL[at])
        })
    }

    /// Factors by module and the largest rank as trained; the delta has twice as many directions.
    pub fn into_factors(
        self,
        config: &AdapterConfig,
    ) -> Result<(Vec<Option<LowRankFactors>>, usize), AdapterError> {
        let scale = scale(config)?;
        let mut largest = 0;
        let factors = self.0.into_factors(|spec, [a, s, b, a_init, s_init, b_init]| {
            let trained = Triple::new(spec, TRAINED, [a, s, b])?;
            let initial = Triple::initial(spec, [a_init, s_init, b_init])?;
            largest = largest.max(trained.rank);
            fold(spec, &trained, &initial, scale)
        })?;
        Ok((factors, largest))
    }
}

/// True for a tensor that only a SORSA adapter or checkpoint has.
pub(super) fn is_factor(name: &str) -> bool {
    let bare = name.strip_suffix(".weight").unwrap_or(name);
    let role = bare.rsplit_once('.').map_or(bare, |(_, role)| role);
    TRAINED.contains(&role) || INITIAL.contains(&role)
}

/// Alpha over the configured rank, or 1 without an alpha. The rank here is the configuration's
/// even where the tensors have another: the reference stores at most min(in, out) directions but
/// scales by the rank it was asked for.
fn scale(config: &AdapterConfig) -> Result<f64, AdapterError> {
    if let Some(version) = config.get("sorsa_version")
        && version.as_u64() != Some(VERSION)
    {
        let problem = format!("is {}; version {VERSION} is read", quoted(&version.to_string()));
        return Err(AdapterError::ConfigField { field: "sorsa_version", problem });
    }
    let alpha = agreeing("lora_alpha", config.alpha("lora_alpha")?, config.alpha("alpha")?)?;
    let rank = agreeing("r", config.rank("r")?, config.rank("rank")?)?;
    match (alpha, rank) {
        (None, _) => Ok(1.0),
        (Some(alpha), Some(rank)) => Ok(alpha / rank as f64),
        (Some(alpha), None) => {
            let problem = format!("is missing, and alpha {alpha} is relative to it");
            Err(AdapterError::ConfigField { field: "r", problem })
        }
    }
}

/// The value under either of a field's two names.
fn agreeing<T: PartialEq>(
    field: &'static str,
    one: Option<T>,
    other: Option<T>,
) -> Result<Option<T>, AdapterError> {
    if one.is_some() && other.is_some() && one != other {
        let problem = "is given under two names with two values".to_owned();
        return Err(AdapterError::ConfigField { field, problem });
    }
    Ok(one.or(other))
}

/// A, S and B of one module, fitting it and each other.
struct Triple {
    rank: usize,
    a: Vec<f32>,
    s: Vec<f32>,
    b: Vec<f32>,
}

impl Triple {
    fn new(
        spec: &ModuleSpec,
        roles: [&'static str; 3],
        tensors: [Option<NamedTensor>; 3],
    ) -> Result<Self, AdapterError> {
        let [a, s, b] = tensors;
        let a = required(a, spec, roles[0])?;
        let s = required(s, spec, roles[1])?;
        let b = required(b, spec, roles[2])?;
        let rank = rank_of(&a, &b, spec)?;
        if s.shape != [rank] {
            return Err(wrong_shape(&s, format!("[{rank}]")));
        }
        let most = spec.in_features.min(spec.out_features);
        if rank > most {
            return Err(AdapterError::RankBeyond { module: spec.path.clone(), rank, most });
        }
        Ok(Self { rank, a: a.values, s: s.values, b: b.values })
    }

    fn initial(spec: &ModuleSpec, tensors: [Option<NamedTensor>; 3]) -> Result<Self, AdapterError> {
        if let Some(missing) = tensors.iter().position(Option::is_none) {
            let (module, factor) = (spec.path.clone(), INITIAL[missing]);
            return Err(AdapterError::MissingInitial { module, factor });
        }
        Self::new(spec, INITIAL, tensors)
    }

    /// Row `row` of `scale · B diag(S)`, each value rounded once.
    fn scaled_row(&self, row: usize, scale: f64) -> impl Iterator<Item = f32> {
        let b = &self.b[row * self.rank..(row + 1) * self.rank];
        b.iter().zip(&self.s).map(move |(b, s)| (scale * f64::from(*b) * f64::from(*s)) as f32)
    }
}

fn fold(
    spec: &ModuleSpec,
    trained: &Triple,
    initial: &Triple,
    scale: f64,
) -> Result<Folded, AdapterError> {
    if trained.rank != initial.rank {
        let (module, tensors) = (spec.path.clone(), trained.rank);
        return Err(AdapterError::InitialRank { module, tensors, initial: initial.rank });
    }
    let mut up = Vec::with_capacity(trained.b.len() + initial.b.len());
    for row in 0..spec.out_features {
        up.extend(trained.scaled_row(row, scale));
        up.extend(initial.scaled_row(row, -scale));
    }
    let down = [trained.a.as_slice(), initial.a.as_slice()].concat();
    Ok(Folded { rank: 2 * trained.rank, down, up, scale })
}

/// The three factors of a principal part, `B diag(S) A`.
#[derive(Debug, Clone)]
pub struct SorsaFactors {
    /// `rank x in_features`.
    pub a: Tensor,
    /// `rank`.
    pub s: Tensor,
    /// `out_features x rank`.
    pub b: Tensor,
}

/// One adapted module as an adapter directory holds it.
#[derive(Debug, Clone)]
pub struct SorsaModule {
    /// The module's path in the base model, e.g. `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// The factors after training.
    pub trained: SorsaFactors,
    /// The factors before training: what was taken out of the base weight.
    pub initial: SorsaFactors,
}

/// What the configuration of an adapter directory says.
#[derive(Debug, Clone, Default)]
pub struct SorsaConfig {
    /// The rank that `alpha` is relative to.
    pub rank: usize,
    /// The scale is `alpha / rank`, or 1 without it.
    pub alpha: Option<f64>,
    /// For people; readers go by the tensors.
    pub target_modules: Vec<String>,
    /// The model that was trained.
    pub base_model_name: Option<String>,
    /// The digest of its weights: readers refuse any other base.
    pub base_digest: Option<BaseDigest>,
}

/// Writes an adapter directory: `adapter_config.json` and `adapter_model.safetensors`, tensors in
/// the dtypes they come in. The directory is created where it is missing.
///
/// # Errors
/// Where a file cannot be written or is there already, or a tensor cannot be read.
pub fn write_adapter_dir(
    dir: &Path,
    config: &SorsaConfig,
    modules: &[SorsaModule],
) -> Result<(), AdapterError> {
    let mut fields = serde_json::json!({
        "peft_type": "SORSA",
        "sorsa_version": VERSION,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "target_modules": config.target_modules,
        "base_model_name_or_path": config.base_model_name,
    });
    if let Some(digest) = config.base_digest {
        fields["base_digest"] = digest.to_string().into();
    }
    let tensors: BTreeMap<String, &Tensor> = modules.iter().flat_map(named).collect();
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let weights = safetensors::serialize(tensors, Some(metadata))
        .map_err(|error| AdapterError::Header { problem: quoted(&error.to_string()) })?;
    fs::create_dir_all(dir)
        .map_err(|source| AdapterError::Write { path: dir.to_owned(), source })?;
    // The configuration comes last: a directory without one is no adapter yet.
    let written = dir.join(WEIGHTS_FILE);
    write_new(&written, &weights)?;
    write_new(&dir.join(CONFIG_FILE), format!("{fields:#}\n").as_bytes())
        .inspect_err(|_| drop(fs::remove_file(&written)))
}

fn named(module: &SorsaModule) -> impl Iterator<Item = (String, &Tensor)> {
    let trained = TRAINED.into_iter().zip(in_order(&module.trained));
    let initial = INITIAL.into_iter().zip(in_order(&module.initial));
    let name = |role| format!("base_model.model.{}.{role}.weight", module.path);
    trained.chain(initial).map(move |(role, tensor)| (name(role), tensor))
}

fn in_order(factors: &SorsaFactors) -> [&Tensor; 3] {
    [&factors.a, &factors.s, &factors.b]
}

/// Writes a file that must not be there yet; what was begun is removed where it fails.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), AdapterError> {
    let failed = |source| AdapterError::Write { path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    let done = file.write_all(bytes).and_then(|()| file.sync_all());
    // Of two failures the first is the one to report.
    done.inspect_err(|_| drop(fs::remove_file(path))).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale_of(json: &str) -> Result<f64, AdapterError> {
        scale(&AdapterConfig::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn the_scale_is_alpha_over_the_configured_rank_or_one() {
        assert_eq!(scale_of("{}").unwrap(), 1.0);
        assert_eq!(scale_of(r#"{"r": 4, "lora_alpha": null}"#).unwrap(), 1.0);
        assert_eq!(scale_of(r#"{"r": 4, "alpha": 8}"#).unwrap(), 2.0);
        assert_eq!(scale_of(r#"{"rank": 4, "lora_alpha": 8, "alpha": 8}"#).unwrap(), 2.0);
        assert_eq!(scale_of(r#"{"r": 3, "alpha": 1.5, "sorsa_version": 1}"#).unwrap(), 0.5);
    }

    #[test]
    fn a_scale_that_is_unknown_is_refused() {
        for json in [
            r#"{"alpha": 8}"#,
            r#"{"r": 4, "rank": 5}"#,
            r#"{"r": 4, "alpha": 8, "lora_alpha": 4}"#,
            r#"{"r": 0, "alpha": 8}"#,
            r#"{"sorsa_version": 2}"#,
            r#"{"sorsa_version": "1"}"#,
        ] {
            let error = scale_of(json).unwrap_err();
            assert!(matches!(error, AdapterError::ConfigField { .. }), "{json}: {error}");
        }
    }

    #[test]
    fn factors_are_known_by_the_last_part_of_their_name() {
        for name in ["a.sorsa_A", "a.b.sorsa_S_init.weight", "sorsa_B"] {
            assert!(is_factor(name), "{name}");
        }
        for name in ["a.q_proj.weight", "a.sorsa_A.bias", "sorsa_A.q_proj", "x_sorsa_A"] {
            assert!(!is_factor(name), "{name}");
        }
    }
}
