//! Which names a server answers to, and what each of them means.

use std::sync::Arc;

use anyhow::Context;

use super::model_source::ModelSource;
use crate::adapter::compact::compact;
use crate::adapter::delta::LowRankDelta;
use crate::adapter::registry::{AdapterVersion, Registry};
use crate::config::{ServeArgs, is_valid_name};
use crate::model::contract::CausalLm;
use crate::model::llama::LlamaForCausalLm;

/// Reads the adapters: each becomes a name of its own, its factors as the model
/// takes them; or one is merged into the weights, and only the result has a name.
///
/// # Errors
/// Where an adapter cannot be used, or two things have one name.
pub fn registry(
    args: &ServeArgs,
    source: &ModelSource,
    model: &mut LlamaForCausalLm,
) -> anyhow::Result<Registry> {
    let own = source.own_delta(model.modules())?;
    if let Some(name) = &args.merge {
        let adapter = args.adapter.iter().find(|adapter| adapter.name == *name);
        let (names, delta) = match (adapter, own) {
            (Some(adapter), _) => {
                (vec![name.clone()], Some(source.adapter(adapter, model.modules())?))
            }
            (None, own) => (base_names(args), own),
        };
        let delta = delta.ok_or_else(|| anyhow::anyhow!("--merge {name} names no adapter"))?;
        model.merge(&delta)?;
        tracing::info!(adapter = name, id = %delta.id(), "merged into the weights");
        return Ok(Registry::new(names));
    }
    let place = |delta: LowRankDelta| Ok::<_, anyhow::Error>(Arc::new(model.prepare(&delta)?));
    let mut registry = match own {
        Some(delta) => Registry::of_residual(base_names(args), place(delta)?),
        None => Registry::new(base_names(args)),
    };
    for adapter in &args.adapter {
        let mut delta = source.adapter(adapter, model.modules())?;
        // Beside its residual a checkpoint's factors are no difference of two parts: they are
        // served as they are, which is the reference's own arithmetic.
        if !source.is_residual() {
            (delta, _) = compact(&delta, model.modules(), args.adapter_tolerance)
                .with_context(|| format!("--adapter {}", adapter.name))?;
        }
        let delta = place(delta)?;
        registry.insert(AdapterVersion { name: adapter.name.clone(), delta })?;
    }
    Ok(registry)
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
    let tidy = |c: char| if is_valid_name(&c.to_string()) { c } else { '-' };
    let name: String = name.chars().map(tidy).take(128).collect();
    vec![if name.is_empty() { "model".into() } else { name }]
}
