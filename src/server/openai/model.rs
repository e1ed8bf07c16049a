//! The one place where a name in a request becomes the model or adapter that answers it.

use super::fields::Fields;
use crate::adapter::registry::Target;
use crate::server::call::Call;
use crate::server::error::ApiError;
use crate::server::state::Serving;

/// What a request is answered by, to its end.
#[derive(Debug, Clone)]
pub struct Model {
    /// The name the client used, repeated in the answer.
    pub name: String,
    /// What it stands for.
    pub target: Target,
}

/// Takes `model`, which is required, and finds what it stands for.
///
/// # Errors
/// Where it is missing, no string, or a name that nobody has.
pub async fn take_model(
    fields: &mut Fields,
    call: &Call,
    serving: &Serving,
) -> Result<Model, ApiError> {
    let name = fields.string("model")?.ok_or_else(|| fields.missing("model"))?;
    resolve(name, call, serving).await
}

/// Takes `model` where only the base's tokenizer matters: it may be absent, but not wrong.
///
/// # Errors
/// Where it is no string, or a name that nobody has.
pub async fn check_model(
    fields: &mut Fields,
    call: &Call,
    serving: &Serving,
) -> Result<(), ApiError> {
    if let Some(name) = fields.string("model")? {
        resolve(name, call, serving).await?;
    }
    Ok(())
}

/// Finds what `name` stands for. Never another model than the one that was asked for.
async fn resolve(name: String, _call: &Call, serving: &Serving) -> Result<Model, ApiError> {
    match serving.registry.resolve(&name) {
        Some(target) => Ok(Model { name, target }),
        None => Err(ApiError::model_not_found(&name)),
    }
}
