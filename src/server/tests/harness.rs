//! A server on a loopback port, and an engine that says what a test wants it to say.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::openapi::assert_described;
use crate::adapter::registry::Source;
use crate::adapter::registry::made_up::{MadeUp, registry};
use crate::engine::handle::{self, Received, Submission};
use crate::engine::request::{
    Event, FinishReason, Logprob, Queued, Reported, Request, TokenLogprobs,
};
use crate::grammar::GrammarCompiler;
use crate::metrics::Metrics;
use crate::server::chat_format::ChatFormat;
use crate::server::form;
use crate::server::state::{AppState, SamplingDefaults, ServerConfig, Serving};
use crate::server::tenancy::Tenancy;
use crate::server::usage::UsageLog;
use crate::server::{Drained, serve};
use crate::text::chat_templates::ChatTemplates;
use crate::text::tokenizer::Tokenizer;
use crate::text::tokenizer_config::SpecialTokens;
use crate::text::tool_format::ToolFormat;

/// The end of sequence in the fixture's tokenizer.
pub const EOS: u32 = 2;
pub const MAX_MODEL_LEN: usize = 64;
pub const VOCAB_SIZE: usize = 320;

pub static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let json = include_bytes!("../../../tests/fixtures/tiny/tokenizer.json");
    Tokenizer::from_json(json).unwrap()
});

/// Token ids of `text`.
pub fn ids(text: &str) -> Vec<u32> {
    TOKENIZER.encode(text, false).unwrap()
}

/// What the engine says for one choice: `text` token by token, cut at `max_tokens`, else ended by
/// an end of sequence; with made-up log-probabilities where asked for.
pub fn say(request: &Request, choice: usize, text: &str) -> Vec<Event> {
    play(request, choice, ids(text).into_iter().chain([EOS]))
}

/// The same for token ids.
pub fn play(request: &Request, choice: usize, tokens: impl IntoIterator<Item = u32>) -> Vec<Event> {
    let mut events = Vec::new();
    if let Some(top) = request.prompt_logprobs.filter(|_| choice == 0) {
        let all = request.prompt.iter().enumerate();
        events.push(Event::PromptLogprobs(
            all.map(|(place, token)| (place > 0).then(|| logprobs(*token, top))).collect(),
        ));
    }
    if choice == 0 {
        let (num_cached_tokens, time) = (request.prompt.len() / 2, Duration::from_millis(7));
        let queued = Queued { time, steps: 1 };
        events.push(Event::PromptComputed { num_cached_tokens, queued });
    }
    let mut reason = FinishReason::Length;
    for token in tokens.into_iter().take(request.sampling.max_tokens) {
        let logprobs = request.logprobs.as_ref().map(|reported| match reported {
            Reported::Top(top) => logprobs(token, *top),
            Reported::These(tokens) => logprobs_of(token, tokens),
        });
        events.push(Event::Token { token, logprobs });
        if request.sampling.stop_token_ids.contains(&token) {
            reason = FinishReason::Stop(token);
            break;
        }
    }
    events.push(Event::Finished(reason));
    events
}

/// The token itself is the second best; the others follow it by number.
fn logprobs(token: u32, top: usize) -> TokenLogprobs {
    let at = |place: u32, token: u32| Logprob { token, logprob: -0.5 - f32::from(place as u16) };
    let chosen = at(1, token);
    let others = (0..20_u32).map(|n| (token + 1 + n) % VOCAB_SIZE as u32);
    let mut all: Vec<Logprob> =
        others.zip((0..).filter(|n| *n != 1)).map(|(t, n)| at(n, t)).collect();
    all.insert(1, chosen);
    all.truncate(top);
    TokenLogprobs { chosen, rank: 2, top: all }
}

/// The token itself as before; of the others, each less likely than the one before it.
fn logprobs_of(token: u32, others: &[u32]) -> TokenLogprobs {
    let TokenLogprobs { chosen, rank, .. } = logprobs(token, 0);
    let others = others.iter().copied().filter(|other| *other != token);
    let others = (10_u16..).zip(others);
    let others = others.map(|(n, token)| Logprob { token, logprob: -0.5 - f32::from(n) });
    TokenLogprobs { chosen, rank, top: std::iter::once(chosen).chain(others).collect() }
}

/// The engine's end, in the hands of a test.
pub struct Engine(mpsc::Receiver<Submission>);

impl Engine {
    /// The next submission.
    pub async fn receive(&mut self) -> Submission {
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, self.0.recv()).await.expect("nothing was submitted").unwrap()
    }

    /// Answers every submission by `script`, which says each choice's events.
    pub fn script(mut self, script: impl Fn(&Request, usize) -> Vec<Event> + Send + 'static) {
        tokio::spawn(async move {
            while let Some(submission) = self.0.recv().await {
                for (choice, reply) in submission.replies.iter().enumerate() {
                    for event in script(&submission.request, choice) {
                        reply.send(event);
                    }
                }
            }
        });
    }
}

/// A model that is served, and its engine.
pub fn model(max_waiting: usize) -> (Serving, Engine) {
    let (handle, mut submissions) = handle::channel(max_waiting);
    let (sender, receiver) = mpsc::channel(256);
    std::thread::spawn(move || {
        while let Received::Submission(submission) = submissions.receive(true) {
            if let Err(unsent) = sender.blocking_send(*submission) {
                // The engine is known to be dead before its replies end.
                drop(submissions);
                drop(unsent);
                break;
            }
        }
    });
    let loader = Arc::new(MadeUp::default());
    let registry = registry(loader, None);
    let source = Source::Directory { path: "7".into() };
    registry.declare("tenant", source).unwrap();
    let vocabulary = form::vocabulary(&TOKENIZER, VOCAB_SIZE, &[EOS]);
    let serving = Serving {
        engine: handle,
        registry: Arc::new(registry),
        adapter_load_timeout: Duration::from_secs(20),
        tokenizer: TOKENIZER.clone(),
        grammars: Arc::new(GrammarCompiler::new(vocabulary, 1 << 20).unwrap()),
        chat: Some(chat_format()),
        max_model_len: MAX_MODEL_LEN,
        vocab_size: VOCAB_SIZE,
        eos_token_ids: vec![EOS],
        speculative_lookup: 0,
        sampling_defaults: SamplingDefaults::default(),
        root: "blake3:00ff".to_owned(),
        created: 1_700_000_000,
        tokenizer_config: json!({"tokenizer_class": "PreTrainedTokenizerFast"}),
    };
    (serving, Engine(receiver))
}

/// A chat format around a template.
pub fn format_of(source: &str, tool_format: ToolFormat, thinks: bool) -> ChatFormat {
    let templates = ChatTemplates::single(source, SpecialTokens::default()).unwrap();
    ChatFormat { templates, tool_format: Some(tool_format), thinks }
}

fn chat_format() -> ChatFormat {
    let source = "{% for m in messages %}{% if m['role'] == 'system' %}\
        {{ raise_exception('no system') }}{% endif %}\
        <s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}\
        {% if add_generation_prompt %}<s>assistant\n{% endif %}\
        {% if enable_thinking %}<think>{% endif %}";
    format_of(source, ToolFormat::Hermes, false)
}

/// A running server.
pub struct Server {
    pub url: String,
    pub client: reqwest::Client,
    pub state: Arc<AppState>,
    shutdown: Option<oneshot::Sender<()>>,
    abort: Option<oneshot::Sender<()>>,
    done: JoinHandle<Drained>,
}

impl Server {
    /// A server whose model is not loaded.
    pub async fn loading(config: ServerConfig, shutdown_timeout: Duration) -> Self {
        Self::loading_for((Tenancy::open(), None), config, shutdown_timeout).await
    }

    /// The same, for some tenants.
    async fn loading_for(
        (tenancy, usage): (Arc<Tenancy>, Option<UsageLog>),
        config: ServerConfig,
        shutdown_timeout: Duration,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = AppState::new(config, Metrics::new(), tenancy, usage);
        let (shutdown, shutdown_asked) = oneshot::channel::<()>();
        let (abort, abort_asked) = oneshot::channel::<()>();
        // A dropped sender asks for nothing.
        let asked = |receiver: oneshot::Receiver<()>| async move {
            if receiver.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let done = tokio::spawn(serve(
            listener,
            Arc::clone(&state),
            asked(shutdown_asked),
            asked(abort_asked),
            shutdown_timeout,
        ));
        // What clients of this process use, where they have to choose.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url, client, state, shutdown: Some(shutdown), abort: Some(abort), done }
    }

    /// A server with limits of its own, and its engine.
    pub async fn with_config(config: ServerConfig, max_waiting: usize) -> (Self, Engine) {
        let server = Self::loading(config, Duration::from_secs(60)).await;
        let (serving, engine) = model(max_waiting);
        assert!(server.state.set_serving(serving));
        (server, engine)
    }

    /// A server with the usual limits for some tenants, and its engine.
    pub async fn for_tenants(tenancy: Arc<Tenancy>) -> (Self, Engine) {
        Self::recording(tenancy, None).await
    }

    /// The same with limits of its own.
    pub async fn for_tenants_with(tenancy: Arc<Tenancy>, config: ServerConfig) -> (Self, Engine) {
        let server = Self::loading_for((tenancy, None), config, Duration::from_secs(60)).await;
        let (serving, engine) = model(16);
        assert!(server.state.set_serving(serving));
        (server, engine)
    }

    /// The same, with usage records.
    pub async fn recording(tenancy: Arc<Tenancy>, usage: Option<UsageLog>) -> (Self, Engine) {
        Self::of_tenants((tenancy, usage), ServerConfig::default()).await
    }

    /// The same, with limits of its own.
    pub async fn limited(tenancy: Arc<Tenancy>, config: ServerConfig) -> (Self, Engine) {
        Self::of_tenants((tenancy, None), config).await
    }

    async fn of_tenants(
        tenants: (Arc<Tenancy>, Option<UsageLog>),
        config: ServerConfig,
    ) -> (Self, Engine) {
        let server = Self::loading_for(tenants, config, Duration::from_secs(60)).await;
        let (serving, engine) = model(16);
        let registry = registry(Arc::new(MadeUp::default()), None);
        for (name, content) in [("acme-chat", "1"), ("acme-code", "2"), ("globex-chat", "3")] {
            registry.declare(name, Source::Directory { path: content.into() }).unwrap();
        }
        let serving = Serving { registry: Arc::new(registry), ..serving };
        assert!(server.state.set_serving(serving));
        (server, engine)
    }

    /// A server with the usual limits, and its engine.
    pub async fn start() -> (Self, Engine) {
        Self::with_config(ServerConfig::default(), 16).await
    }

    /// A server whose model has sampling values of its own.
    pub async fn with_defaults(sampling_defaults: SamplingDefaults) -> (Self, Engine) {
        let server = Self::loading(ServerConfig::default(), Duration::from_secs(60)).await;
        let (serving, engine) = model(16);
        assert!(server.state.set_serving(Serving { sampling_defaults, ..serving }));
        (server, engine)
    }

    /// A server whose model holds conversations as `format` says, with room for long ones.
    pub async fn chatting(format: ChatFormat) -> (Self, Engine) {
        let server = Self::loading(ServerConfig::default(), Duration::from_secs(60)).await;
        let (serving, engine) = model(16);
        let serving = Serving { chat: Some(format), max_model_len: 4096, ..serving };
        assert!(server.state.set_serving(serving));
        (server, engine)
    }

    /// A server whose engine says `text` in every choice.
    pub async fn saying(text: &'static str) -> Self {
        let (server, engine) = Self::start().await;
        engine.script(move |request, choice| say(request, choice, text));
        server
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        self.client.post(format!("{}{path}", self.url)).json(body).send().await.unwrap()
    }

    /// The body of a POST that succeeds, without what differs from run to run.
    pub async fn answer(&self, path: &str, body: &Value) -> Value {
        self.try_answer(path, body).await.unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// The same of a POST that may be refused with 400, which gives the error. A stream must then be
    /// refused alike.
    pub async fn try_answer(&self, path: &str, body: &Value) -> Result<Value, Value> {
        let response = self.post(path, body).await;
        let status = response.status().as_u16();
        let mut answer: Value = response.json().await.unwrap();
        assert_described(path, "post", status, "application/json", &answer);
        if status == 400 {
            let mut streamed = body.clone();
            streamed["stream"] = json!(true);
            let response = self.post(path, &streamed).await;
            assert_eq!(response.status(), 400);
            assert_eq!(response.json::<Value>().await.unwrap(), answer);
            return Err(answer);
        }
        assert_eq!(status, 200, "{answer}");
        redact(&mut answer);
        Ok(answer)
    }

    /// The events of a stream, `[DONE]` as a string.
    pub async fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let response = self.post(path, body).await;
        assert_eq!(response.status(), 200);
        let mut events = parse_events(&response.text().await.unwrap());
        for event in events.iter().filter(|event| event.get("error").is_none() && event.is_object())
        {
            assert_described(path, "post", 200, "text/event-stream", event);
        }
        events.iter_mut().for_each(redact);
        events
    }

    pub fn shut_down(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    pub fn abort(&mut self) {
        self.abort.take().unwrap().send(()).unwrap();
    }

    pub async fn ended(self) -> Drained {
        tokio::time::timeout(Duration::from_secs(20), self.done).await.unwrap().unwrap()
    }
}

/// The data of server-sent events.
pub fn parse_events(text: &str) -> Vec<Value> {
    assert!(text.ends_with("\n\n"), "{text}");
    text.split("\n\n")
        .filter(|event| !event.is_empty() && !event.starts_with(':'))
        .map(|event| event.strip_prefix("data: ").unwrap())
        .map(
            |data| if data == "[DONE]" { json!(data) } else { serde_json::from_str(data).unwrap() },
        )
        .collect()
}

/// Replaces ids and times.
pub fn redact(body: &mut Value) {
    if let Some(id) = body.get_mut("id") {
        let kind = id.as_str().unwrap().split('-').next().unwrap();
        *id = json!(format!("{kind}-[id]"));
    }
    // Which weights answered, by their digests; tests of their own look at them.
    if let Some(body) = body.as_object_mut()
        && let Some(fingerprint) = body.shift_remove("system_fingerprint")
    {
        assert!(fingerprint.as_str().unwrap().starts_with("fp_00ff"), "{fingerprint}");
    }
    if let Some(created) = body.get_mut("created") {
        assert!(created.as_u64().unwrap() > 1_600_000_000);
        *created = json!(0);
    }
}
