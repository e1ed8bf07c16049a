//! `sorsa inspect`: what a path holds, and whether this server would take it.
//!
//! What can be described is described, also where it would be refused; then the reason is part of
//! the description.

use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::DType;
use serde::Serialize;

use super::table::{Table, print_json};
use crate::adapter::compact::{Tolerance, compact};
use crate::adapter::delta::ModuleSpec;
use crate::adapter::linalg::Matrix;
use crate::adapter::survey::{orthonormality, survey};
use crate::adapter::{self, Limits};
use crate::model::checkpoint::Checkpoint;
use crate::model::sorsa::{SorsaCheckpoint, SorsaError, lineage};
use crate::model::weights::Weights;

/// Shows what a model, checkpoint or adapter directory holds.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model directory, GGUF file, un-merged checkpoint or adapter directory
    path: PathBuf,
    /// Base model to check it against
    #[arg(long)]
    base: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What a path holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    HuggingFaceModel,
    GgufModel,
    SorsaCheckpoint,
    SorsaAdapter,
    LoraAdapter,
    UnknownAdapter,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::HuggingFaceModel => "a Hugging Face model, or a merged one",
            Self::GgufModel => "a GGUF model",
            Self::SorsaCheckpoint => "an un-merged SORSA checkpoint of the reference library",
            Self::SorsaAdapter => "a SORSA adapter",
            Self::LoraAdapter => "a LoRA adapter",
            Self::UnknownAdapter => "an adapter of a kind that is not served",
        }
    }
}

#[derive(Debug, Serialize)]
struct Description {
    kind: Kind,
    /// Why it cannot be served, where it cannot.
    problem: Option<String>,
    base_model: Option<String>,
    /// The digest of an adapter's content.
    digest: Option<String>,
    dtypes: Vec<String>,
    bytes: u64,
    tensors: Option<usize>,
    has_initial: Option<bool>,
    modules: Vec<Module>,
}

#[derive(Debug, Serialize)]
struct Module {
    path: String,
    out_features: usize,
    in_features: usize,
    rank: usize,
    /// Directions of the delta above the default tolerance.
    numerical_rank: Option<usize>,
    orthonormality_a: Option<f64>,
    orthonormality_b: Option<f64>,
}

impl Module {
    fn new(spec: &ModuleSpec, rank: usize, orthonormality: Option<[f64; 2]>) -> Self {
        Self {
            path: spec.path.clone(),
            out_features: spec.out_features,
            in_features: spec.in_features,
            rank,
            numerical_rank: None,
            orthonormality_a: orthonormality.map(|[a, _]| a),
            orthonormality_b: orthonormality.map(|[_, b]| b),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Where the path holds nothing that can be described, or the base model cannot be opened.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let description = describe(&args.path, args.base.as_deref())?;
    if args.json { print_json(&description) } else { print(&description) }
}

fn describe(path: &Path, base: Option<&Path>) -> anyhow::Result<Description> {
    let open = |base: &Path| {
        Checkpoint::open(base)
            .with_context(|| format!("cannot open the base model {}", base.display()))
    };
    let base = base.map(open).transpose()?;
    let is_pair = path.join("init.safetensors").exists();
    if path.join("adapter_config.json").exists() || is_pair {
        return adapter(path, base.as_ref());
    }
    if path.is_dir() && SorsaCheckpoint::is_at(path)? {
        return match SorsaCheckpoint::open(path) {
            Err(SorsaError::NoInitial { .. }) => adapter(path, base.as_ref()),
            opened => checkpoint(&opened?, base.as_ref()),
        };
    }
    let model = Checkpoint::open(path)?;
    let kind = if path.is_dir() { Kind::HuggingFaceModel } else { Kind::GgufModel };
    let name = |field| Some(model.config_json.get(field)?.as_str()?.to_owned());
    Ok(Description { base_model: name("_name_or_path"), ..of_weights(kind, &model.weights)? })
}

fn of_weights(kind: Kind, weights: &Weights) -> anyhow::Result<Description> {
    let (mut dtypes, mut bytes) = (Vec::new(), 0);
    let names = weights.names();
    for name in &names {
        let dtype = weights.dtype(name)?.unwrap_or(DType::F32);
        dtypes.push(dtype.as_str().to_uppercase());
        let elements: usize = weights.shape(name).unwrap_or_default().iter().product();
        bytes += (elements * dtype.size_in_bytes()) as u64;
    }
    dtypes.sort();
    dtypes.dedup();
    Ok(Description {
        kind,
        problem: None,
        base_model: None,
        digest: None,
        dtypes,
        bytes,
        tensors: Some(names.len()),
        has_initial: None,
        modules: Vec::new(),
    })
}

fn checkpoint(
    checkpoint: &SorsaCheckpoint,
    base: Option<&Checkpoint>,
) -> anyhow::Result<Description> {
    let mut description = of_weights(Kind::SorsaCheckpoint, &checkpoint.weights)?;
    for module in checkpoint.modules() {
        let factors = checkpoint.factors(module)?;
        let a = orthonormality(&Matrix::from_tensor_transposed(&factors.a)?);
        let b = orthonormality(&Matrix::from_tensor(&factors.b)?);
        description.modules.push(Module::new(&module.spec, module.rank, Some([a, b])));
    }
    let lineage = base.map(|base| lineage::check(checkpoint, &base.weights)).transpose();
    description.problem = lineage.err().map(|error| error.to_string());
    description.base_model.clone_from(&checkpoint.config.base_model_name);
    Ok(description)
}

fn adapter(path: &Path, base: Option<&Checkpoint>) -> anyhow::Result<Description> {
    let limits = Limits::default();
    let found = survey(path, &limits)?;
    let specs = base.map_or_else(|| found.specs(), Checkpoint::linear_modules);
    let mut modules: Vec<Module> = found
        .modules
        .iter()
        .map(|module| Module::new(&module.spec, module.rank, module.orthonormality))
        .collect();
    let (mut problem, mut digest) = (None, None);
    match adapter::load(path, &specs, &limits) {
        Err(error) => problem = Some(error.to_string()),
        Ok(loaded) => {
            digest = Some(loaded.delta.id().to_string());
            for report in compact(&loaded.delta, &specs, Tolerance::default())?.1.modules {
                let path = &specs[report.module].path;
                for module in modules.iter_mut().filter(|module| module.path == *path) {
                    module.numerical_rank = Some(report.rank_after);
                }
            }
        }
    }
    let kind = match found.peft_type.as_str() {
        "SORSA" => Kind::SorsaAdapter,
        "LORA" => Kind::LoraAdapter,
        _ => Kind::UnknownAdapter,
    };
    Ok(Description {
        kind,
        problem,
        base_model: found.base_model_name,
        digest,
        dtypes: found.dtypes,
        bytes: found.bytes,
        tensors: None,
        has_initial: (kind == Kind::SorsaAdapter).then_some(found.has_initial),
        modules,
    })
}

fn print(description: &Description) -> anyhow::Result<()> {
    let mut facts = Table::new(["what", description.kind.words()]);
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            facts.row([name.to_owned(), value]);
        }
    };
    fact("problem", description.problem.clone());
    fact("base model", description.base_model.clone());
    fact("digest", description.digest.clone());
    fact("types", Some(description.dtypes.join(", ")));
    fact("bytes", Some(description.bytes.to_string()));
    fact("tensors", description.tensors.map(|count| count.to_string()));
    fact("initial factors", description.has_initial.map(|has| has.to_string()));
    fact("modules", Some(description.modules.len().to_string()));
    facts.print()?;
    if description.modules.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(["module", "shape", "rank", "numerical", "|AA'-I|", "|B'B-I|"]);
    let shown = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.1e}"));
    for module in &description.modules {
        table.row([
            module.path.clone(),
            format!("{}x{}", module.out_features, module.in_features),
            module.rank.to_string(),
            module.numerical_rank.map_or(String::new(), |rank| rank.to_string()),
            shown(module.orthonormality_a),
            shown(module.orthonormality_b),
        ]);
    }
    Ok(table.print()?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use insta::{assert_json_snapshot, rounded_redaction};

    use super::*;

    fn fixture(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny").join(path)
    }

    #[test]
    fn an_adapter_is_described() {
        let mut found = describe(&fixture("f32/adapter"), None).unwrap();
        assert_eq!(found.modules.len(), 14);
        found.modules.truncate(2);
        assert_json_snapshot!(found, {
            ".modules[].orthonormality_a" => rounded_redaction(4),
            ".modules[].orthonormality_b" => rounded_redaction(4),
        });
    }

    #[test]
    fn a_model_is_described() {
        assert_json_snapshot!(describe(&fixture("f32/base"), None).unwrap());
    }

    #[test]
    fn what_would_be_refused_is_described_with_the_reason() {
        let base = fixture("f32/base");
        let dir = tempfile::tempdir().unwrap();
        let adapter = fixture("f32/adapter");
        fs::copy(
            adapter.join("adapter_model.safetensors"),
            dir.path().join("adapter_model.safetensors"),
        )
        .unwrap();
        let text = fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
        let config = dir.path().join("adapter_config.json");
        fs::write(&config, text.replace("\"SORSA\"", "\"VERA\"")).unwrap();
        let found = describe(dir.path(), Some(&base)).unwrap();
        assert_eq!(found.kind, Kind::UnknownAdapter);
        assert!(found.problem.unwrap().contains("VERA"));
        fs::write(&config, text).unwrap();
        let found = describe(dir.path(), Some(&base)).unwrap();
        assert_eq!((found.kind, found.problem), (Kind::SorsaAdapter, None));
        let found = describe(dir.path(), None).unwrap();
        assert!(found.digest.is_some());
    }

    #[test]
    fn what_is_nothing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(describe(dir.path(), None).is_err());
        assert!(describe(&dir.path().join("absent"), None).is_err());
        for (name, bytes) in
            [("adapter_config.json", &b"{"[..]), ("model.safetensors", b"\xff\xff")]
        {
            fs::write(dir.path().join(name), bytes).unwrap();
            assert!(describe(dir.path(), None).is_err(), "{name}");
        }
    }
}
