//! What an adapter's files hold, told by the files alone: no base model is at hand.
//!
//! It describes what [`super::file`] may go on to refuse; the modules it lists are those that the
//! tensors' names and shapes make.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::SafeTensors;

use super::config::AdapterConfig;
use super::delta::ModuleSpec;
use super::directory::AdapterDir;
use super::error::{AdapterError, quoted};
use super::file::{CONFIG_FILE, Limits, MAX_CONFIG_BYTES, WEIGHTS_FILE, without_initial};
use super::linalg::Matrix;
use super::tensors::{self, Caps, NamedTensor};

/// More modules than any model has.
const MAX_MODULES: usize = 1 << 14;

/// One module that an adapter touches.
#[derive(Debug, Clone, PartialEq)]
pub struct SurveyedModule {
    /// Its path and shape.
    pub spec: ModuleSpec,
    /// The rank of its factors as stored.
    pub rank: usize,
    /// ‖A Aᵀ − I‖_F and ‖Bᵀ B − I‖_F of SORSA's trained factors.
    pub orthonormality: Option<[f64; 2]>,
}

/// An adapter as its files describe it.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// `peft_type` of its configuration, `SORSA` for a pair of files of the reference library.
    pub peft_type: String,
    /// The base model by its own account.
    pub base_model_name: Option<String>,
    /// The initial factors come with it.
    pub has_initial: bool,
    /// Modules, in the order of their paths.
    pub modules: Vec<SurveyedModule>,
    /// The types its tensors are stored in, sorted.
    pub dtypes: Vec<String>,
    /// Bytes of its tensor files.
    pub bytes: u64,
}

impl Survey {
    /// The modules' paths and shapes.
    #[must_use]
    pub fn specs(&self) -> Vec<ModuleSpec> {
        self.modules.iter().map(|module| module.spec.clone()).collect()
    }
}

/// Reads the adapter in the directory `path`.
///
/// # Errors
/// Where its files cannot be read, are malformed, or hold no pair of factors.
pub fn survey(path: &Path, limits: &Limits) -> Result<Survey, AdapterError> {
    let mut dir = AdapterDir::open(path, limits.max_bytes)?;
    let is_pair = !dir.has(CONFIG_FILE)? && dir.has("config.json")?;
    let (config, weights) =
        if is_pair { ("config.json", "model.safetensors") } else { (CONFIG_FILE, WEIGHTS_FILE) };
    let config = AdapterConfig::parse(&dir.read(config, MAX_CONFIG_BYTES)?)?;
    let caps = Caps::for_modules(MAX_MODULES);
    let has_initial_file = is_pair && dir.has("init.safetensors")?;
    if is_pair && !has_initial_file {
        match without_initial(&mut dir, caps) {
            AdapterError::NoInitial => {}
            error => return Err(error),
        }
    }
    let file = dir.read_weights(weights)?;
    let mut bytes = file.len() as u64;
    if has_initial_file {
        bytes += dir.read_weights("init.safetensors")?.len() as u64;
    }
    let tensors = tensors::parse(&file, caps)?;
    let has_initial =
        has_initial_file || tensors.iter().any(|tensor| tensor.name.contains("_init"));
    let peft_type = if is_pair { "SORSA" } else { config.text("peft_type")?.unwrap_or_default() };
    Ok(Survey {
        peft_type: peft_type.to_owned(),
        base_model_name: config.text("base_model_name_or_path")?.map(str::to_owned),
        has_initial,
        dtypes: dtypes(&file)?,
        modules: modules(&tensors)?,
        bytes,
    })
}

fn dtypes(file: &[u8]) -> Result<Vec<String>, AdapterError> {
    let parsed = SafeTensors::deserialize(file)
        .map_err(|error| AdapterError::Header { problem: quoted(&error.to_string()) })?;
    let names: BTreeSet<String> =
        parsed.iter().map(|(_, view)| format!("{:?}", view.dtype())).collect();
    Ok(names.into_iter().collect())
}

/// The two outer factors of one module.
#[derive(Default)]
struct Pair<'a> {
    a: Option<&'a NamedTensor>,
    b: Option<&'a NamedTensor>,
    is_sorsa: bool,
}

fn modules(tensors: &[NamedTensor]) -> Result<Vec<SurveyedModule>, AdapterError> {
    let mut pairs: BTreeMap<&str, Pair<'_>> = BTreeMap::new();
    for tensor in tensors {
        let bare = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let Some((path, role)) = bare.rsplit_once('.') else { continue };
        let pair = pairs.entry(module_path(path)).or_default();
        match role {
            "lora_A" | "sorsa_A" => pair.a = Some(tensor),
            "lora_B" | "sorsa_B" => pair.b = Some(tensor),
            _ => {}
        }
        pair.is_sorsa |= role.starts_with("sorsa_");
    }
    let surveyed: Vec<SurveyedModule> = pairs
        .into_iter()
        .filter_map(|(path, pair)| surveyed(path, &pair).transpose())
        .collect::<Result<_, _>>()?;
    if surveyed.is_empty() {
        return Err(AdapterError::Empty);
    }
    Ok(surveyed)
}

/// A module's path without the prefixes of PEFT and of the reference library. Without a base model
/// the latter is told by what follows it.
fn module_path(path: &str) -> &str {
    let path = path.strip_prefix("base_model.model.").unwrap_or(path);
    match path.strip_prefix("model.") {
        Some(rest) if rest.starts_with("model.") || rest == "lm_head" => rest,
        _ => path,
    }
}

fn surveyed(path: &str, pair: &Pair<'_>) -> Result<Option<SurveyedModule>, AdapterError> {
    let (Some(a), Some(b)) = (pair.a, pair.b) else { return Ok(None) };
    let (&[rank, in_features], &[out_features, inner]) = (a.shape.as_slice(), b.shape.as_slice())
    else {
        return Ok(None);
    };
    if inner != rank {
        return Ok(None);
    }
    let spec = ModuleSpec { path: path.to_owned(), in_features, out_features };
    let orthonormality = pair.is_sorsa.then(|| [gram_error(a, true), gram_error(b, false)]);
    Ok(Some(SurveyedModule {
        spec,
        rank,
        orthonormality: orthonormality.map(|[a, b]| Ok::<_, AdapterError>([a?, b?])).transpose()?,
    }))
}

/// ‖G − I‖_F of the Gram matrix G of a factor's rows, or columns.
fn gram_error(factor: &NamedTensor, of_rows: bool) -> Result<f64, AdapterError> {
    let tensor = candle_core::Tensor::from_slice(
        &factor.values,
        factor.shape.as_slice(),
        &candle_core::Device::Cpu,
    )?;
    let columns = if of_rows {
        Matrix::from_tensor_transposed(&tensor)?
    } else {
        Matrix::from_tensor(&tensor)?
    };
    Ok(orthonormality(&columns))
}

/// ‖Mᵀ M − I‖_F: how far the columns are from orthonormal.
#[must_use]
pub fn orthonormality(columns: &Matrix) -> f64 {
    let mut gram = columns.transposed().times(columns);
    for i in 0..gram.columns() {
        gram.column_mut(i)[i] -= 1.0;
    }
    gram.norm()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_told_without_a_base_model() {
        for (path, expected) in [
            ("base_model.model.model.layers.0.q", "model.layers.0.q"),
            ("model.model.layers.0.q", "model.layers.0.q"),
            ("model.layers.0.q", "model.layers.0.q"),
            ("model.lm_head", "lm_head"),
            ("base_model.model.lm_head", "lm_head"),
        ] {
            assert_eq!(module_path(path), expected);
        }
    }

    #[test]
    fn an_orthonormal_basis_has_no_error() {
        assert!(orthonormality(&Matrix::identity(3)) < 1e-15);
        let mut scaled = Matrix::identity(2);
        scaled.scale_columns(&[2.0, 1.0]);
        assert!((orthonormality(&scaled) - 3.0).abs() < 1e-15);
    }
}
