//! What handlers share: the limits, the counters, and the model once it is loaded.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;

use super::body::budget::BodyBudget;
use super::call::Call;
use super::chat_format::ChatFormat;
use super::error::ApiError;
use super::hosts::HostName;
use super::lifecycle::{Lifecycle, Phase};
use super::tenancy::Tenancy;
use super::tenancy::admission::Admission;
use super::usage::UsageLog;
use super::work::{self, Lanes, Work};
use crate::adapter::registry::{LocationPrefix, Registry};
use crate::engine::handle::EngineHandle;
use crate::engine::request::{Pooling, RequestId};
use crate::grammar::GrammarCompiler;
use crate::metrics::Metrics;
use crate::text::tokenizer::Tokenizer;

/// Limits of the HTTP side. Every one has a default that a small machine bears.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Largest request body in bytes; more is 413.
    pub max_body_bytes: usize,
    /// Most memory that bodies hold from their first byte until they have become prompts; more is 429.
    pub max_bodies_memory: usize,
    /// Time for a body to arrive; longer is 408.
    pub body_timeout: Duration,
    /// Time for a body to arrive, and beyond it so much more as `min_body_rate` says.
    pub body_grace: Duration,
    /// Bytes a second at which a body must then have come; slower is 408.
    pub min_body_rate: usize,
    /// Time for a request's head to arrive; longer closes the connection, an idle one too.
    pub header_timeout: Duration,
    /// Largest request head in bytes; more is 431.
    pub max_header_bytes: usize,
    /// Time for which a connection's other end may take too little of what it is sent; longer closes
    /// the connection.
    pub write_timeout: Duration,
    /// Open connections; more are taken in the place of idle ones.
    pub max_connections: usize,
    /// Choices of one request, over all its prompts.
    pub max_choices: usize,
    /// Prompts times `n` times `max_tokens` of one request.
    pub max_request_tokens: usize,
    /// Requests whose text is rendered and tokenised at the same time, as many whose bodies are parsed, and
    /// as many whose grammars are compiled.
    pub text_workers: usize,
    /// Requests that may wait for one kind of such work; a tenant's part is half of them beside others.
    pub max_queued_jobs: usize,
    /// Bytes of text that these requests may hold, likewise.
    pub max_queued_bytes: usize,
    /// Time that a request waits for its turn; longer is 429.
    pub work_patience: Duration,
    /// Time for a schema, grammar or regular expression to compile; longer is 400.
    pub grammar_timeout: Duration,
    /// Time between two comments on a silent stream.
    pub keep_alive: Duration,
    /// Names that a server without keys answers to, beside addresses and `localhost`.
    pub allowed_hosts: Vec<HostName>,
    /// Whether adapters may be registered and changed through HTTP.
    pub runtime_adapters: bool,
    /// Directories beneath which callers may name adapters.
    pub adapter_roots: Vec<PathBuf>,
    /// Places from which callers may have adapters fetched.
    pub adapter_sources: Vec<LocationPrefix>,
    /// Reads special tokens in chat messages as tokens, as transformers reads a rendered chat: a
    /// message can then pretend to be several. Otherwise they are text.
    pub allow_special_tokens: bool,
    /// What becomes an embedding where a request does not say.
    pub pooling: Pooling,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: 4 << 20,
            max_bodies_memory: 256 << 20,
            body_timeout: Duration::from_secs(30),
            body_grace: Duration::from_secs(5),
            min_body_rate: 16 << 10,
            header_timeout: Duration::from_secs(60),
            max_header_bytes: 32 << 10,
            write_timeout: Duration::from_secs(30),
            max_connections: 4096,
            max_choices: 1024,
            max_request_tokens: 4 << 20,
            text_workers: 2,
            max_queued_jobs: 2048,
            max_queued_bytes: 256 << 20,
            work_patience: Duration::from_secs(30),
            grammar_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(15),
            allowed_hosts: Vec::new(),
            runtime_adapters: false,
            adapter_roots: Vec::new(),
            adapter_sources: Vec::new(),
            allow_special_tokens: false,
            pooling: Pooling::Mean,
        }
    }
}

/// Sampling values of the model's `generation_config.json`; a request's own values win.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplingDefaults {
    /// Without it, 1.
    pub temperature: Option<f32>,
    /// Without it, 1.
    pub top_p: Option<f32>,
    /// Without it, all tokens.
    pub top_k: Option<usize>,
    /// Without it, 0.
    pub min_p: Option<f32>,
    /// Without it, 1.
    pub repetition_penalty: Option<f32>,
    /// Tokens of a chat's answer; without it, as many as the context leaves.
    pub max_tokens: Option<usize>,
}

/// Everything that exists once the model is loaded.
#[derive(Debug)]
pub struct Serving {
    /// The way to the engine.
    pub engine: EngineHandle,
    /// Names of the base model and the adapters.
    pub registry: Arc<Registry>,
    /// How long a request waits for its adapter.
    pub adapter_load_timeout: Duration,
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// Compiles what texts must obey.
    pub grammars: Arc<GrammarCompiler>,
    /// How it holds conversations, where it has a chat template.
    pub chat: Option<ChatFormat>,
    /// Tokens of prompt and answer together.
    pub max_model_len: usize,
    /// Token ids the model knows: 0 to this, exclusive.
    pub vocab_size: usize,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Tokens to guess ahead where a request says nothing.
    pub speculative_lookup: usize,
    /// Sampling where a request says nothing.
    pub sampling_defaults: SamplingDefaults,
    /// What `/v1/models` calls the base model's origin: an opaque name, never a path.
    pub root: String,
    /// When the model was loaded, in seconds since 1970.
    pub created: u64,
    /// `tokenizer_config.json`, served by `/tokenizer_info`.
    pub tokenizer_config: Value,
}

/// The state of one server. It exists before the model does.
#[derive(Debug)]
pub struct AppState {
    /// Limits.
    pub config: ServerConfig,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Phase and running requests.
    pub lifecycle: Lifecycle,
    /// Who may call.
    pub tenancy: Arc<Tenancy>,
    /// Where it is written down what requests used.
    pub usage: Option<UsageLog>,
    /// What bodies hold.
    pub bodies: Arc<BodyBudget>,
    /// Where requests wait for work that is done before the engine sees them.
    pub(super) lanes: Lanes,
    serving: OnceLock<Arc<Serving>>,
    next_request: AtomicU64,
}

impl AppState {
    /// A server without a model yet.
    #[must_use]
    pub fn new(
        config: ServerConfig,
        metrics: Arc<Metrics>,
        tenancy: Arc<Tenancy>,
        usage: Option<UsageLog>,
    ) -> Arc<Self> {
        Arc::new(Self {
            bodies: BodyBudget::new(config.max_bodies_memory),
            lanes: Lanes::new(&config, &metrics),
            config,
            metrics,
            lifecycle: Lifecycle::default(),
            tenancy,
            usage,
            serving: OnceLock::new(),
            next_request: AtomicU64::new(0),
        })
    }

    /// Makes the loaded model known: from here on requests are answered. False where one is
    /// already known, which stays.
    pub fn set_serving(&self, serving: Serving) -> bool {
        self.serving.set(Arc::new(serving)).is_ok()
    }

    /// Takes a request in: it runs until the admission is dropped.
    ///
    /// # Errors
    /// Where the server is shutting down, or the caller's tenant has reached a limit.
    pub fn admit(&self, call: &Call) -> Result<Admission, ApiError> {
        Admission::new(self.lifecycle.admit()?, &call.caller)
    }

    /// The loaded model.
    ///
    /// # Errors
    /// Where it is not loaded yet.
    pub fn serving(&self) -> Result<Arc<Serving>, ApiError> {
        self.serving.get().cloned().ok_or_else(ApiError::not_ready)
    }

    /// False once the engine has died. True before it lives: a loading server is healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.serving.get().is_none_or(|serving| serving.engine.is_alive())
    }

    /// Whether a request sent now would be taken.
    ///
    /// # Errors
    /// The refusal it would get.
    pub fn check_ready(&self) -> Result<(), ApiError> {
        if self.lifecycle.phase() != Phase::Serving {
            return Err(ApiError::draining());
        }
        let serving = self.serving()?;
        if !self.is_healthy() {
            return Err(ApiError::engine_dead());
        }
        let stored = serving.registry.stores_changes() && self.tenancy.stores_changes();
        if stored { Ok(()) } else { Err(ApiError::state_unavailable()) }
    }

    /// A name no request of this server has had.
    pub(super) fn request_id(&self) -> RequestId {
        RequestId(self.next_request.fetch_add(1, Ordering::Relaxed))
    }
}

/// Does `work` (rendering, tokenising) on text of `bytes` off the async threads, when it is its turn.
///
/// # Errors
/// 429 where too much waits; what `work` returns; a panic in it is an internal error.
pub(super) async fn text_work<T, F>(
    state: &AppState,
    call: &Call,
    bytes: usize,
    work: F,
) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce(&Work) -> Result<T, ApiError> + Send + 'static,
{
    work::run(state, &state.lanes.text, call, bytes, work).await
}
