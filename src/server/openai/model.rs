//! The one place where a name in a request becomes the model or adapter that answers it.

use tokio::time::timeout;

use super::fields::Fields;
use crate::adapter::registry::{Found, Target};
use crate::server::call::Call;
use crate::server::error::ApiError;
use crate::server::state::Serving;
use crate::server::work::party;

/// What a request is answered by, to its end.
#[derive(Debug, Clone)]
pub struct Model {
    /// The name the client used, repeated in the answer.
    pub name: String,
    /// What it stands for.
    pub target: Target,
    /// Tokens per choice that the caller may ask for.
    pub max_tokens: Option<usize>,
}

impl Model {
    /// The content digest of the adapter, as it stands in headers and records.
    #[must_use]
    pub fn adapter_digest(&self) -> Option<String> {
        match &self.target {
            Target::Base => None,
            Target::Adapter(version) => Some(format!("blake3:{}", version.id())),
        }
    }
}

/// Takes `model`, which is required where the caller's tenant has no default, and finds what it
/// stands for.
///
/// # Errors
/// Where it is missing, no string, or a name that nobody has.
pub async fn take_model(
    fields: &mut Fields,
    call: &Call,
    serving: &Serving,
) -> Result<Model, ApiError> {
    let name = call.caller.model_meant(fields.string("model")?);
    let name = name.ok_or_else(|| fields.missing("model"))?;
    resolve(name, || fields.digest(), call, serving).await
}

/// Takes `model` where only the base's tokenizer matters: it may be absent, but not wrong. No
/// adapter is loaded for it.
///
/// # Errors
/// Where it is no string, or a name that nobody has.
pub async fn check_model(
    fields: &mut Fields,
    call: &Call,
    serving: &Serving,
) -> Result<(), ApiError> {
    match call.caller.model_meant(fields.string("model")?) {
        Some(name)
            if !call.caller.may_use(&serving.registry, &name) || !serving.registry.knows(&name) =>
        {
            Err(ApiError::model_not_found(&name))
        }
        _ => Ok(()),
    }
}

/// Finds what `name` stands for, and waits for an adapter that is not in memory. Never another model
/// than the one that was asked for, and never one that is not the caller's: that is an unknown one.
/// `hash` says which of several versions of an adapter answers.
async fn resolve(
    name: String,
    hash: impl FnOnce() -> u64,
    call: &Call,
    serving: &Serving,
) -> Result<Model, ApiError> {
    if !call.caller.may_use(&serving.registry, &name) {
        return Err(ApiError::model_not_found(&name));
    }
    let asker = party(call);
    let target = match serving.registry.find_for(asker, &name, hash) {
        Found::Ready(target) => target,
        Found::Unknown => return Err(ApiError::model_not_found(&name)),
        Found::Failed(error) => return Err(ApiError::adapter(&name, &error)),
        Found::Loading(mut load) => match timeout(serving.adapter_load_timeout, &mut load).await {
            Ok(Ok(version)) => Target::Adapter(version),
            Ok(Err(error)) => return Err(ApiError::adapter(&name, &error)),
            Err(_) => {
                // Told to come again: it is to be there by then.
                load.leave();
                return Err(ApiError::adapter_loading(&name));
            }
        },
    };
    let max_tokens = call.caller.tenant.policy.limits.max_tokens;
    Ok(Model { name, target, max_tokens })
}
