//! Work that takes a processor on behalf of a request, before the engine sees it:
//! parsing long bodies, rendering and tokenising, compiling grammars. Every kind has its own [`Lane`], in which
//! tenants take turns; what is done in it is the callers'. (Loads of adapters take turns in the registry.)
//!
//! A job is over when its work ends, not when its client stops waiting: the place is the work's. A
//! client that leaves takes a waiting job out of the queue at once, and ends a running one at its
//! next [`Work::checkpoint`].

pub mod lane;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use self::lane::{Lane, Place, Refused, Ticket};
use super::blocking::blocking;
use super::body::budget::BodyCharge;
use super::call::Call;
use super::error::ApiError;
use super::state::{AppState, ServerConfig};
use crate::metrics::Metrics;
use crate::tenant::turns::{Limits, Party};

/// The lanes of a server.
#[derive(Debug)]
pub struct Lanes {
    /// Parsing long bodies, so that no rendering waits for them. Counts bytes.
    pub bodies: Arc<Lane>,
    /// Rendering, tokenising, writing large answers. Counts bytes.
    pub text: Arc<Lane>,
    /// Compiling grammars, so that slow ones hold up no other text work. Counts microseconds.
    pub grammars: Arc<Lane>,
}

impl Lanes {
    /// Nothing is being done.
    #[must_use]
    pub fn new(config: &ServerConfig, metrics: &Metrics) -> Self {
        let limits = |places| Limits {
            places,
            jobs: config.max_queued_jobs,
            bytes: config.max_queued_bytes,
        };
        let lane = |kind, places| {
            Lane::new(kind, limits(places), config.work_patience, metrics.work(kind))
        };
        Self {
            bodies: lane("body", config.text_workers),
            text: lane("text", config.text_workers),
            grammars: lane("grammar", config.text_workers),
        }
    }
}

/// A running job, as its work sees it.
#[derive(Debug)]
pub struct Work {
    place: Place,
    /// What it holds beside the body that it is done for.
    held: Mutex<BodyCharge>,
    abandoned: Arc<AtomicBool>,
}

/// The client of a job. Dropped, the job is abandoned.
struct Client {
    abandoned: Arc<AtomicBool>,
    ticket: Ticket,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Release);
        self.ticket.recall();
    }
}

impl Work {
    /// Between two pieces of a job: `done` were done since the last time. Lets others have their turn
    /// and blocks meanwhile; false where nobody wants the result any more.
    #[must_use]
    pub fn checkpoint(&self, done: usize) -> bool {
        self.place.charge(done);
        if self.is_wanted() {
            self.place.take_turns();
        }
        self.is_wanted()
    }

    /// Whether the client still waits.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.abandoned.load(Ordering::Acquire)
    }

    /// The work holds `more` bytes, until it ends: they count with those of bodies.
    ///
    /// # Errors
    /// 429 where there is no room for so much.
    pub fn hold(&self, more: usize) -> Result<(), ApiError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.grow(more).map_err(|_| ApiError::bodies_full())
    }

    /// So much was done, where nothing lies between pieces.
    pub fn charge(&self, done: usize) {
        self.place.charge(done);
    }
}

/// Bytes of the strings in `value`, keys included.
#[must_use]
pub fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(text_bytes).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + text_bytes(value)).sum(),
        _ => 0,
    }
}

/// For whom `call` is answered, as lanes see it.
#[must_use]
pub fn party(call: &Call) -> Party {
    let share = call.caller.share();
    Party { tenant: share.id, weight: share.weight, alone: call.caller.tenant.alone }
}

/// Waits for a place of `call` in a lane for a job that holds `bytes`.
///
/// # Errors
/// 429 where the queue is full or too slow.
pub async fn place(
    metrics: &Metrics,
    lane: &Arc<Lane>,
    call: &Call,
    bytes: usize,
) -> Result<Place, ApiError> {
    let place = lane.place(party(call), bytes).await?;
    let tenant = &call.caller.tenant.policy.name;
    metrics.worked_for_others(tenant, lane.kind(), place.done_for_others());
    place.begin();
    Ok(place)
}

/// Does `work`, which holds `bytes`, on a background thread, when it is its turn.
///
/// # Errors
/// 429 where the queue is full or too slow; what `work` returns; a panic in it is an internal error.
pub async fn run<T, F>(
    state: &AppState,
    lane: &Arc<Lane>,
    call: &Call,
    bytes: usize,
    work: F,
) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce(&Work) -> Result<T, ApiError> + Send + 'static,
{
    let place = place(&state.metrics, lane, call, bytes).await?;
    let abandoned = Arc::new(AtomicBool::new(false));
    let _client = Client { abandoned: Arc::clone(&abandoned), ticket: place.ticket() };
    let held = Mutex::new(call.caller.body_charge(&state.bodies));
    let job = Work { place, held, abandoned };
    // The job, and with it the place, ends with the work, not when its client stops waiting.
    blocking("text work", move || work(&job)).await
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self::work_refused(&refused)
    }
}
