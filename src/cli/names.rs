//! Which names a server answers to, and what each of them means.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::adapter_loader::{ModelAdapters, NoAdapters};
use super::model_source::ModelSource;
use super::sources;
use crate::adapter::delta::LowRankDelta;
use crate::adapter::registry::{Budget, Options, Registry, Wanted};
use crate::config::{AdapterArg, AdaptersArgs, ServeArgs, is_valid_name, may_be_in_name};
use crate::metrics::Metrics;
use crate::model::builder::LoadOptions;
use crate::model::contract::CausalLm;
use crate::model::llama::LlamaForCausalLm;

/// The registry of a model: each adapter of the command line is loaded under its name, others come
/// from where the arguments say; or one is merged into the weights, and only the result has a name.
///
/// # Errors
/// Where an adapter cannot be used, or two things have one name.
pub fn registry(
    args: &ServeArgs,
    source: &ModelSource,
    model: &mut LlamaForCausalLm,
    options: &LoadOptions,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Registry> {
    let own = source.own_delta(model.modules())?;
    if let Some(name) = &args.merge {
        let names = merge(args, name, source, own, model)?;
        let loader = Arc::new(NoAdapters);
        return Ok(Registry::open(
            names,
            None,
            open_options(args, options),
            loader,
            Arc::clone(metrics),
        )?);
    }
    let own = own.map(|delta| model.prepare(&delta)).transpose()?.map(Arc::new);
    let loader = ModelAdapters::new(
        source.adapters(),
        model.modules().to_vec(),
        args.adapter_tolerance,
        roots(args)?.into_iter().chain(adapter_dir(&args.adapters)?).collect(),
        sources::remote(args)?,
        options,
    )?;
    let (names, options) = (base_names(args), open_options(args, options));
    let registry = Registry::open(names, own, options, Arc::new(loader), Arc::clone(metrics))?;
    for AdapterArg { name, text, source } in &args.adapter {
        let declared = registry.declare(name, source.clone());
        declared.with_context(|| format!("--adapter {name}={text}"))?;
    }
    Ok(registry)
}

/// Folds one adapter, or the checkpoint's own factors, into the weights; the result's names.
fn merge(
    args: &ServeArgs,
    name: &str,
    source: &ModelSource,
    own: Option<LowRankDelta>,
    model: &mut LlamaForCausalLm,
) -> anyhow::Result<Vec<String>> {
    let adapter = args.adapter.iter().find(|adapter| adapter.name == *name);
    let (names, delta) = match adapter {
        Some(AdapterArg { text, source: from, .. }) => {
            let read = || {
                let remote = sources::remote(args)?;
                let found = sources::on_disk(remote.as_ref(), from, Wanted::Now)?;
                source.adapters().read(&found.source, model.modules())
            };
            let adapter = read().with_context(|| format!("--adapter {name}={text}"))?;
            (vec![name.to_owned()], Some(adapter.delta))
        }
        None => (base_names(args), own),
    };
    let delta = delta.ok_or_else(|| anyhow::anyhow!("--merge {name} names no adapter"))?;
    model.merge(&delta)?;
    tracing::info!(adapter = name, id = %delta.id(), "merged into the weights");
    Ok(names)
}

fn open_options(args: &ServeArgs, options: &LoadOptions) -> Options {
    let budget = Budget {
        max_bytes: args.adapters.adapter_memory.0,
        max_resident: args.adapters.max_resident_adapters.map(usize::from),
        level: if options.device.is_cpu() { "cpu" } else { "gpu" },
    };
    Options {
        budget,
        threads: args.adapters.adapter_loaders.get(),
        patience: Duration::from_secs(args.adapters.adapter_load_timeout),
        state_dir: args.adapters.state_dir.clone(),
    }
}

/// The directories beneath which adapters may lie that are named while serving.
///
/// # Errors
/// Where one of them is not there.
pub fn roots(args: &ServeArgs) -> anyhow::Result<Vec<PathBuf>> {
    let given = args.adapters.adapter_root.iter().map(|root| ("--adapter-root", root));
    let dir = args.adapters.adapter_dir.iter().map(|root| ("--adapter-dir", root));
    let canonical = |(flag, root): (&str, &PathBuf)| {
        let root_path =
            root.canonicalize().with_context(|| format!("{flag} {}", root.display()))?;
        anyhow::ensure!(root_path.is_dir(), "{flag} {}: not a directory", root.display());
        anyhow::ensure!(
            args.adapters.state_dir.is_none() || root_path.to_str().is_some(),
            "{flag} {}: the path is not UTF-8, and --state-dir stores no other",
            root.display()
        );
        Ok(root_path)
    };
    given.chain(dir).map(canonical).collect()
}

/// The directory of adapters, from the root of the file system on. Links on the way to it are followed
/// whenever it is opened: it may be another one then, as where orchestrators swap a link.
///
/// # Errors
/// Where it is not there.
pub fn adapter_dir(args: &AdaptersArgs) -> anyhow::Result<Option<PathBuf>> {
    let absolute = |dir: &PathBuf| {
        anyhow::ensure!(dir.is_dir(), "--adapter-dir {}: not a directory", dir.display());
        Ok(std::path::absolute(dir)?)
    };
    args.adapter_dir.as_ref().map(absolute).transpose()
}

/// The names given to the model itself, else the file's or directory's own.
#[must_use]
pub fn base_names(args: &ServeArgs) -> Vec<String> {
    if !args.served_model_name.is_empty() {
        return args.served_model_name.clone();
    }
    let path = args.model.canonicalize().unwrap_or_else(|_| args.model.clone());
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = stem.unwrap_or_default().to_string_lossy().into_owned();
    let tidy = |c: char| if may_be_in_name(c) { c } else { '-' };
    let name: String = name.chars().map(tidy).take(128).collect();
    vec![if is_valid_name(&name) { name } else { "model".into() }]
}
