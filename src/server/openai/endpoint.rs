//! The way of every endpoint that generates text, from its fields to its answer.
//!
//! An endpoint is a type of checked requests that implements [`Endpoint`], a [`Writer`] that knows
//! its JSON, and a handler of one line, which [`crate::server::router`] gives a path:
//!
//! ```ignore
//! pub async fn completions(
//!     State(state): State<Arc<AppState>>,
//!     admitted: Admitted,
//! ) -> Result<Response, ApiError> {
//!     endpoint::answer::<CompletionRequest>(&state, admitted).await
//! }
//! ```
//!
//! What differs stands in the endpoint's own file: which fields there are ([`Endpoint::take`]), how
//! they become prompts ([`Endpoint::into_job`]), and how pieces are written. What all share, and
//! what is added for all (who may use which model, what is charged, how long one waits), stands in
//! [`answer`].

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use super::fields::Fields;
use super::model::{Model, take_model};
use super::validate::refused;
use super::workbench::Workbench;
use crate::server::choice::Delta;
use crate::server::error::ApiError;
use crate::server::extract::Admitted;
use crate::server::form;
use crate::server::generation::{Generation, Job};
use crate::server::state::{AppState, ServerConfig, Serving, text_work};
use crate::server::stream::{self, Events};
use crate::server::work::Work;

/// Says by which weights an adapter answered: names come and go.
const ADAPTER_DIGEST: HeaderName = HeaderName::from_static("x-sorsa-adapter-digest");

/// A checked request of one endpoint.
pub trait Endpoint: Sized + Send + 'static {
    /// Writes its answers.
    type Writer: Writer;

    /// Takes the fields this endpoint knows; `model` has been taken. Quick: it runs on an async
    /// thread, and neither renders nor tokenises.
    ///
    /// # Errors
    /// The first field that is wrong, by name.
    fn take(
        fields: &mut Fields,
        model: Model,
        serving: &Serving,
        config: &ServerConfig,
    ) -> Result<Self, ApiError>;

    /// Looks at the fields that [`Self::take`] left: refuses some, and counts those nobody knows.
    ///
    /// # Errors
    /// The first field that asks for what is not supported, by name.
    fn take_rest(fields: Fields) -> Result<usize, ApiError> {
        refused::take_rest(fields)
    }

    /// What will write the answer, and whether it is streamed.
    fn writer(&self, serving: &Arc<Serving>) -> (Self::Writer, Delivery);

    /// Bytes of text, or of token ids, that [`Self::into_job`] works on.
    fn bytes(&self) -> usize;

    /// Renders, tokenises and measures: what the engine is to do. Runs off the async threads.
    ///
    /// # Errors
    /// Prompts that cannot be read or do not fit, and more work than one request may ask for.
    fn into_job(self, bench: &Workbench<'_>) -> Result<Job, ApiError>;
}

/// How a client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// In one piece, once it is complete.
    Whole,
    /// As it is generated.
    Streamed,
}

/// Writes the answers of one endpoint: whole ones itself, streamed ones as [`Events`], or simply as
/// [`stream::Chunks`].
pub trait Writer: Events {
    /// Looks at a piece of a whole answer as it comes, where an answer depends on their order.
    fn note(&mut self, _piece: &Delta) {}

    /// The whole answer: the choices in the order of their indices.
    fn whole(self, answers: Vec<Delta>, generation: &Generation) -> Response;
}

/// Answers a call to the endpoint `E`.
///
/// # Errors
/// Every failure before the first byte of the answer.
pub async fn answer<E: Endpoint>(
    state: &Arc<AppState>,
    admitted: Admitted,
) -> Result<Response, ApiError> {
    let Admitted { call, admission, mut fields } = admitted;
    let serving = state.serving()?;
    let model = take_model(&mut fields, &call, &serving).await?;
    let digest = model.adapter_digest();
    let request = E::take(&mut fields, model, &serving, &state.config)?;
    state.metrics.unknown_fields(E::take_rest(fields)?);
    let (mut writer, delivery) = request.writer(&serving);
    let (of_state, of_serving) = (Arc::clone(state), Arc::clone(&serving));
    let bytes = request.bytes();
    let work = move |work: &Work| {
        let (config, serving) = (&of_state.config, &*of_serving);
        request.into_job(&Workbench { config, serving, work })
    };
    let mut job = text_work(state, &call, bytes, work).await?;
    if let Some(form) = job.form.take() {
        let allowed = job.sampling.allowed_token_ids.clone();
        job.grammar = Some(form::compile(state, &call, (&serving, allowed), form).await?);
    }
    let mut generation = Generation::start(state, &serving, job, &call, admission).await?;
    let response = match delivery {
        Delivery::Streamed => stream::respond(generation, writer, state.config.keep_alive),
        Delivery::Whole => {
            let answers = generation.collect(|piece| writer.note(piece)).await?;
            writer.whole(answers, &generation)
        }
    };
    Ok(with_digest(response, digest))
}

/// Says in a header which adapter answered, if one did.
#[must_use]
pub fn with_digest(mut response: Response, digest: Option<String>) -> Response {
    if let Some(digest) = digest.and_then(|digest| HeaderValue::try_from(digest).ok()) {
        response.headers_mut().insert(ADAPTER_DIGEST, digest);
    }
    response
}
