//! A checkpoint as the reference library saves it: every weight under one more `model.`, and
//! `sorsa_A`, `sorsa_S`, `sorsa_B` beside each adapted one.
//!
//! What a directory is, which modules are adapted and at which rank is told by the tensors. Headers
//! are read when it is opened; values stay on disk until they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};

use super::config;
use super::error::SorsaError;
use crate::adapter::delta::{LowRankDelta, LowRankFactors, ModuleSpec};
use crate::adapter::principal::principal_part;
use crate::adapter::sorsa::{SorsaConfig, SorsaFactors};
use crate::model::comparison::{Precision, equal};
use crate::model::config::ModelConfig;
use crate::model::disk::{JSON_LIMIT_BYTES, ensure_links_stay_inside, is_there, read_json};
use crate::model::error::ModelError;
use crate::model::safetensors_file::SafetensorsFiles;
use crate::model::weights::{Weights, is_derived};

/// What the library's wrapper puts before the base model's names.
const PREFIX: &str = "model.";
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head";
const HEAD_WEIGHT: &str = "lm_head.weight";
const ROLES: [&str; 3] = ["sorsa_A", "sorsa_S", "sorsa_B"];

/// One adapted linear module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedModule {
    /// Its path in the base model and the shape of its weight.
    pub spec: ModuleSpec,
    /// The rank of its factors.
    pub rank: usize,
}

impl AdaptedModule {
    /// The name of its residual among [`SorsaCheckpoint::weights`].
    #[must_use]
    pub fn weight(&self) -> String {
        format!("{}.weight", self.spec.path)
    }
}

/// An opened un-merged checkpoint.
#[derive(Debug)]
pub struct SorsaCheckpoint {
    /// What its configuration says; the modules are what its tensors say.
    pub config: SorsaConfig,
    /// Every tensor but the factors, under the base model's names and as stored: residuals where a
    /// module is adapted, the base's own elsewhere.
    pub weights: Weights,
    path: PathBuf,
    modules: Vec<AdaptedModule>,
    factors: SafetensorsFiles,
}

impl SorsaCheckpoint {
    /// True where the tensors of the directory `path` are those of an un-merged checkpoint,
    /// whatever its name and its configuration say.
    ///
    /// # Errors
    /// Where there is no directory, or none with readable safetensors.
    pub fn is_at(path: &Path) -> Result<bool, SorsaError> {
        let files = SafetensorsFiles::open(path)?;
        Ok(files.names().any(is_factor))
    }

    /// Opens the directory `path`; reads headers only.
    ///
    /// # Errors
    /// Where it is something else, where a tensor is unknown, missing or does not fit, and where a
    /// link leads out of it.
    pub fn open(path: &Path) -> Result<Self, SorsaError> {
        let not_sorsa = |reason| SorsaError::NotSorsa { path: path.to_owned(), reason };
        if !fs::metadata(path).map_err(ModelError::io(path))?.is_dir() {
            return Err(not_sorsa("it is a file"));
        }
        ensure_links_stay_inside(path)?;
        let files = SafetensorsFiles::open(path)?;
        if !files.names().any(is_factor) {
            return Err(not_sorsa(if files.names().any(is_wrapped) {
                "its weights hold no factors, so nothing in it was adapted"
            } else {
                "its weights hold no factors: it is an ordinary model, or a merged one"
            }));
        }
        if files.names().all(is_factor) && !is_there(&path.join("init.safetensors"))? {
            return Err(SorsaError::NoInitial { path: path.to_owned() });
        }
        if files.names().all(is_factor) {
            return Err(not_sorsa(
                "it holds factors without the weights they belong to: an adapter",
            ));
        }
        let json = path.join("config.json");
        if !is_there(&json)? {
            return Err(not_sorsa(
                "it holds no config.json, so the scale of its factors is unknown",
            ));
        }
        let config = config::read(&read_json(&json, JSON_LIMIT_BYTES)?)?;
        if let Some(name) = files.names().find(|name| !name.starts_with(PREFIX)) {
            return Err(SorsaError::Unprefixed { name: name.to_owned() });
        }
        let bare = |name: &str, factor: bool| {
            (is_factor(name) == factor).then(|| name[PREFIX.len()..].to_owned())
        };
        let (mut dense, factors) =
            (files.view(|name| bare(name, false)), files.view(|name| bare(name, true)));
        let adapted = adapted(&factors)?;
        // An output head that shares the embedding's tensor is not saved a second time.
        if adapted.contains(HEAD) && dense.shape(HEAD_WEIGHT).is_none() {
            dense.alias(HEAD_WEIGHT, EMBEDDING);
        }
        let module = |path: &String| module(path, &dense, &factors);
        let modules = adapted.iter().map(module).collect::<Result<_, _>>()?;
        let weights = Weights::from_safetensors(dense);
        Ok(Self { config, weights, path: path.to_owned(), modules, factors })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The adapted modules, in the order of their paths; at least one.
    #[must_use]
    pub fn modules(&self) -> &[AdaptedModule] {
        &self.modules
    }

    /// The largest rank of a module.
    #[must_use]
    pub fn max_rank(&self) -> usize {
        self.modules.iter().map(|module| module.rank).max().unwrap_or(0)
    }

    /// The factor s of every principal part `s · B diag(S) A`.
    #[must_use]
    pub fn scale(&self) -> f64 {
        config::scale(&self.config)
    }

    /// A module's factors in float32, on the CPU.
    ///
    /// # Errors
    /// Where a factor is stored in a type that is not read, or is not finite.
    pub fn factors(&self, module: &AdaptedModule) -> Result<SorsaFactors, SorsaError> {
        let [a, s, b] = ROLES.map(|role| self.factor(format!("{}.{role}", module.spec.path)));
        Ok(SorsaFactors { a: a?, s: s?, b: b? })
    }

    /// A module's principal part `s · B diag(S) A`: `up = s · B diag(S)`, `down = A`, float32.
    ///
    /// # Errors
    /// As [`SorsaCheckpoint::factors`], and where a value overflows.
    pub fn principal_part(&self, module: &AdaptedModule) -> Result<LowRankFactors, SorsaError> {
        Ok(principal_part(&module.spec.path, &self.factors(module)?, self.scale())?)
    }

    /// All principal parts as a delta *relative to the residual*, for a model of these modules.
    ///
    /// # Errors
    /// Where a factor cannot be used, or is for a module that `specs` do not list.
    pub fn delta(&self, specs: &[ModuleSpec]) -> Result<LowRankDelta, SorsaError> {
        let mut by_index = vec![None; specs.len()];
        for module in &self.modules {
            let index = specs.iter().position(|spec| *spec == module.spec);
            let index = index
                .ok_or_else(|| SorsaError::UnknownModule { module: module.spec.path.clone() })?;
            by_index[index] = Some(self.principal_part(module)?);
        }
        Ok(LowRankDelta::from_content(specs, by_index)?)
    }

    /// The configuration of the model that these weights are, where `base` is the base's: the dtype
    /// is the widest of the weights, and an output head of its own counts although the base has
    /// none, because loading and saving a checkpoint again breaks the tie in silence.
    ///
    /// # Errors
    /// Where the weights cannot be read.
    pub fn model_config(&self, base: &ModelConfig) -> Result<ModelConfig, SorsaError> {
        let own_head = self.weights.shape(HEAD_WEIGHT).is_some()
            && (self.modules.iter().any(|module| module.spec.path == HEAD)
                || !equal(
                    (&self.weights, HEAD_WEIGHT),
                    (&self.weights, EMBEDDING),
                    Precision::Exact,
                )?);
        let mut config = base.clone();
        config.tie_word_embeddings &= !own_head;
        config.dtype = Some(self.widest_dtype()?);
        Ok(config)
    }

    /// The widest type that a weight is stored in; float32 where two are equally wide.
    ///
    /// # Errors
    /// Where a type is not read.
    pub fn widest_dtype(&self) -> Result<DType, SorsaError> {
        let mut found = BTreeSet::new();
        for name in self.weights.names() {
            found.extend(self.weights.dtype(&name)?.map(|dtype| dtype.as_str()));
        }
        Ok(match (found.contains("bf16"), found.contains("f16"), found.len()) {
            (true, false, 1) => DType::BF16,
            (false, true, 1) => DType::F16,
            _ => DType::F32,
        })
    }

    /// Whether `other` holds the same residual, value by value and in every tensor but the factors.
    ///
    /// # Errors
    /// [`SorsaError::OtherResidual`] with the first tensor that differs.
    pub fn check_same_residual(&self, other: &Self) -> Result<(), SorsaError> {
        let all = |_: &str| true;
        match first_difference(&self.weights, &other.weights, Precision::Exact, all)? {
            Some((name, difference)) => Err(SorsaError::OtherResidual { name, difference }),
            None => Ok(()),
        }
    }

    /// Whether `base` holds the tensors that training left alone, up to the rounding of the type in
    /// which one of the two stores them.
    ///
    /// # Errors
    /// [`SorsaError::OtherTensor`] with the first that differs.
    pub fn check_untouched(&self, base: &Weights) -> Result<(), SorsaError> {
        let adapted: BTreeSet<String> = self.modules.iter().map(AdaptedModule::weight).collect();
        let untouched = |name: &str| !adapted.contains(name) && !is_derived(name);
        match first_difference(&self.weights, base, Precision::Rounded, untouched)? {
            Some((name, difference)) => {
                let base = self.config.base_model_name.clone();
                let base = base.unwrap_or_else(|| "(unnamed)".to_owned());
                Err(SorsaError::OtherTensor { name, difference, base })
            }
            None => Ok(()),
        }
    }

    fn factor(&self, name: String) -> Result<Tensor, SorsaError> {
        let stored = self.factors.tensor(&name)?;
        let stored = stored.ok_or_else(|| ModelError::MissingTensor(name.clone()))?;
        let factor = stored.to_dtype(DType::F32)?;
        // A sum, and not a maximum: those of candle pass over a NaN.
        if (&factor * 0.0)?.sum_all()?.to_scalar::<f32>()? != 0.0 {
            return Err(SorsaError::NotFinite { name: format!("{PREFIX}{name}") });
        }
        Ok(factor)
    }
}

/// True for the name of a tensor that only SORSA writes.
fn is_factor(name: &str) -> bool {
    name.split('.').any(|part| part.starts_with("sorsa_"))
}

/// True for a name of the wrapper's that no base model has.
fn is_wrapped(name: &str) -> bool {
    name.starts_with("model.model.")
}

/// The first of the `chosen` tensors, in the order of the names, in which two checkpoints differ, and
/// how.
fn first_difference(
    ours: &Weights,
    theirs: &Weights,
    precision: Precision,
    chosen: impl Fn(&str) -> bool,
) -> Result<Option<(String, &'static str)>, ModelError> {
    let names: BTreeSet<String> = ours.names().into_iter().chain(theirs.names()).collect();
    for name in names.into_iter().filter(|name| chosen(name)) {
        let (Some(left), Some(right)) = (stored(ours, &name), stored(theirs, &name)) else {
            return Ok(Some((name, "is in only one of the two")));
        };
        if ours.shape(left) != theirs.shape(right) {
            return Ok(Some((name, "has another shape")));
        }
        if !equal((ours, left), (theirs, right), precision)? {
            return Ok(Some((name, "holds other values")));
        }
    }
    Ok(None)
}

/// The name under which `weights` hold tensor `name`: the embedding's, for an output head that is
/// not saved because it shares that tensor.
fn stored<'a>(weights: &Weights, name: &'a str) -> Option<&'a str> {
    if weights.shape(name).is_some() {
        return Some(name);
    }
    (name == HEAD_WEIGHT && weights.shape(EMBEDDING).is_some()).then_some(EMBEDDING)
}

/// The paths that factors are named after.
fn adapted(factors: &SafetensorsFiles) -> Result<BTreeSet<String>, SorsaError> {
    let path = |name: &str| {
        let (path, _) = name.rsplit_once('.').filter(|(_, role)| ROLES.contains(role))?;
        (!is_factor(path)).then(|| path.to_owned())
    };
    let unknown = |name: &str| SorsaError::UnknownFactor { name: format!("{PREFIX}{name}") };
    factors.names().map(|name| path(name).ok_or_else(|| unknown(name))).collect()
}

/// The module at `path`, once its weight and factors are known to fit.
fn module(
    path: &str,
    dense: &SafetensorsFiles,
    factors: &SafetensorsFiles,
) -> Result<AdaptedModule, SorsaError> {
    let missing = |tensor| SorsaError::Incomplete { module: path.to_owned(), tensor };
    let shapes: BTreeMap<&str, &[usize]> = ROLES
        .iter()
        .map(|role| (*role, factors.shape(&format!("{path}.{role}"))))
        .chain([("weight", dense.shape(&format!("{path}.weight")))])
        .map(|(tensor, shape)| Ok((tensor, shape.ok_or_else(|| missing(tensor))?)))
        .collect::<Result<_, SorsaError>>()?;
    let wrong = |tensor, expected: String| {
        let found = shapes[tensor].to_vec();
        SorsaError::Shape { module: path.to_owned(), tensor, found, expected }
    };
    let &[out_features, in_features] = shapes["weight"] else {
        return Err(wrong("weight", "two dimensions".to_owned()));
    };
    let rank = match shapes["sorsa_A"] {
        &[rank, columns] if columns == in_features => rank,
        _ => return Err(wrong("sorsa_A", format!("[rank, {in_features}]"))),
    };
    if shapes["sorsa_S"] != [rank] {
        return Err(wrong("sorsa_S", format!("[{rank}]")));
    }
    if shapes["sorsa_B"] != [out_features, rank] {
        return Err(wrong("sorsa_B", format!("[{out_features}, {rank}]")));
    }
    let most = in_features.min(out_features);
    if !(1..=most).contains(&rank) {
        let module = path.to_owned();
        return Err(SorsaError::Rank { module, rank, out_features, in_features, most });
    }
    let spec = ModuleSpec { path: path.to_owned(), in_features, out_features };
    Ok(AdaptedModule { spec, rank })
}
