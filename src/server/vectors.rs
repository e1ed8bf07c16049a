//! Prompts to vectors, through the engine's batch like everything else: a window of them at a time,
//! so that one request with many prompts leaves the queue to others.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::call::Call;
use super::error::ApiError;
use super::state::{AppState, Serving};
use super::tenancy::account::{Account, record};
use super::tenancy::admission::Admission;
use crate::adapter::registry::AdapterVersion;
use crate::engine::handle::{EventStream, SubmitError};
use crate::engine::request::{Event, Pooling, PromptTokens, Request, SamplingParams};
use crate::metrics::Metrics;

/// Of the requests that may wait in the engine's queue, the share that one request takes at most.
const QUEUE_SHARE: usize = 4;

/// What becomes vectors, and how.
#[derive(Debug)]
pub struct PoolJob {
    /// Tokens of each prompt: at least one.
    pub prompts: Vec<PromptTokens>,
    /// What of a prompt is taken.
    pub pooling: Pooling,
    /// The adapter; `None` is the base model.
    pub adapter: Option<Arc<AdapterVersion>>,
    /// Cached prompts are shared among requests of one salt.
    pub cache_salt: Arc<str>,
}

/// The vector of each prompt, in their order. Dropping the future aborts what still runs.
///
/// # Errors
/// Where the tenant has not so many tokens left, the queue is full at the start, the engine is dead, a prompt fails or the server ends.
pub async fn pool(
    state: &AppState,
    serving: &Serving,
    job: &PoolJob,
    call: &Call,
    mut admission: Admission,
) -> Result<Vec<Vec<f32>>, ApiError> {
    let tokens = job.prompts.iter().map(|prompt| prompt.len()).sum();
    admission.charge(tokens as u64)?;
    admission.release_body();
    let (slot, record) = (admission.take_slot(), record(serving, job.adapter.as_ref(), tokens));
    let mut account = Account::new(state, call, slot, job.prompts.len(), record);
    admission.set_used(account.used());
    let share = call.caller.queue_share(serving.engine.max_waiting());
    let window = (serving.engine.max_waiting() / QUEUE_SHARE).clamp(1, share.limit);
    let mut vectors = vec![Vec::new(); job.prompts.len()];
    let mut awaited = FuturesUnordered::new();
    let mut next = 0;
    loop {
        while next < job.prompts.len() && awaited.len() < window {
            match serving.engine.submit(job.request(state, next, call), &share) {
                Ok(streams) => awaited.push(Awaited::new(next, streams, state).vector()),
                // Others fill the queue: those of ours that are in it will leave it.
                Err(SubmitError::QueueFull { .. } | SubmitError::ShareFull { .. })
                    if !awaited.is_empty() =>
                {
                    break;
                }
                Err(error) => return Err(error.into()),
            }
            next += 1;
        }
        let done = tokio::select! {
            biased;
            () = admission.aborted() => return Err(ApiError::draining()),
            done = awaited.next() => done,
        };
        match done {
            Some(Ok((index, vector))) => {
                account.finished("stop");
                vectors[index] = vector;
            }
            Some(Err(error)) => {
                account.failed();
                return Err(error);
            }
            None => return Ok(vectors),
        }
    }
}

impl PoolJob {
    fn request(&self, state: &AppState, index: usize, call: &Call) -> Request {
        Request {
            id: state.request_id(),
            arrived: call.arrived,
            prompt: self.prompts[index].clone(),
            n: 1,
            sampling: SamplingParams { max_tokens: 0, ..SamplingParams::default() },
            logprobs: None,
            prompt_logprobs: None,
            adapter: self.adapter.clone(),
            tenant: call.caller.share(),
            cache_owner: call.caller.cache_owner(),
            cache_salt: Arc::clone(&self.cache_salt),
            grammar: None,
            num_speculative_tokens: 0,
            pooling: Some(self.pooling),
        }
    }
}

/// A prompt on its way through the engine. Dropping it aborts it there.
struct Awaited {
    index: usize,
    /// `None` once it has ended.
    events: Option<EventStream>,
    metrics: Arc<Metrics>,
}

impl Awaited {
    fn new(index: usize, streams: Vec<EventStream>, state: &AppState) -> Self {
        let metrics = Arc::clone(&state.metrics);
        Self { index, events: streams.into_iter().next(), metrics }
    }

    async fn vector(mut self) -> Result<(usize, Vec<f32>), ApiError> {
        let mut vector = None;
        while let Some(events) = &mut self.events {
            match events.next().await {
                Some(Event::Pooled(values)) => vector = Some(values),
                Some(Event::Finished(_)) => self.end("stop"),
                Some(Event::Failed(message)) => {
                    self.end("error");
                    return Err(ApiError::failed(message));
                }
                Some(_) => {}
                None => {
                    self.end("error");
                    return Err(ApiError::engine_dead());
                }
            }
        }
        match vector {
            Some(vector) => Ok((self.index, vector)),
            None => {
                tracing::error!("bug: a pooled prompt ended without a vector");
                Err(ApiError::internal())
            }
        }
    }

    /// Counted once.
    fn end(&mut self, reason: &str) {
        if self.events.take().is_some() {
            self.metrics.finished(reason);
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.end("abort");
    }
}
