//! What the server counts, under the family names that vLLM's dashboards and load tools look for.
//!
//! A [`Metrics`] owns its recorder: nothing is global, two servers in one process do not mix.
//! Handles are lock-free and cheap to call from any thread. It knows no request, no engine and no
//! HTTP framework; who records what is said at each field.

pub mod adapters;
mod capped;
pub mod tenants;
pub mod work;

use std::sync::{Arc, Mutex};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString,
};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use self::adapters::{AdapterMetrics, AdapterSeries, ResidentAdapters};
use self::capped::Capped;
use self::tenants::{TenantSeries, Tenants};
use self::work::WorkMetrics;

const METADATA: Metadata<'static> = Metadata::new("sorsa", Level::INFO, None);

const FINISHED: &str = "vllm:request_success_total";
const HTTP_REQUESTS: &str = "sorsa:http_requests_total";
const UNKNOWN_FIELDS: &str = "sorsa:unknown_fields_total";

/// Reasons that [`Metrics::finished`] is called with; all four are rendered from the start.
const FINISH_REASONS: [&str; 4] = ["stop", "length", "abort", "error"];

/// Upper bounds in seconds: waiting for a first token.
const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// Upper bounds in seconds: between two tokens.
const BETWEEN_TOKENS_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
/// Upper bounds in seconds: a request, or a phase of one.
const REQUEST_SECONDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// Upper bounds in seconds: loading an adapter.
const LOAD_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Upper bounds in tokens.
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
    20_000.0, 50_000.0, 100_000.0, 200_000.0,
];
/// Upper bounds of the number of choices.
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];

const HISTOGRAMS: [(&str, &str, &[f64]); 11] = [
    (
        "vllm:time_to_first_token_seconds",
        "Seconds from a request's arrival to its first token.",
        FIRST_TOKEN_SECONDS,
    ),
    (
        "vllm:inter_token_latency_seconds",
        "Seconds between two tokens of one choice.",
        BETWEEN_TOKENS_SECONDS,
    ),
    (
        "vllm:e2e_request_latency_seconds",
        "Seconds from a request's arrival to its end.",
        REQUEST_SECONDS,
    ),
    (
        "vllm:request_queue_time_seconds",
        "Seconds a request waited before it first ran.",
        REQUEST_SECONDS,
    ),
    (
        "vllm:request_prefill_time_seconds",
        "Seconds from a request's first run to its first token.",
        REQUEST_SECONDS,
    ),
    (
        "vllm:request_decode_time_seconds",
        "Seconds from a request's first token to its last.",
        REQUEST_SECONDS,
    ),
    ("vllm:request_prompt_tokens", "Prompt tokens of a finished request.", TOKENS),
    ("vllm:request_generation_tokens", "Tokens generated for a finished request.", TOKENS),
    ("vllm:request_params_n", "The n of a request: choices asked for.", CHOICES),
    (adapters::LOAD_SECONDS.0, adapters::LOAD_SECONDS.1, LOAD_SECONDS),
    (work::WAIT.0, work::WAIT.1, FIRST_TOKEN_SECONDS),
];

/// Every metric of one server. Fields without another word are recorded by the engine.
#[derive(Debug)]
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// Sequences in the running batch.
    pub running: Gauge,
    /// Sequences that wait for a place in the batch.
    pub waiting: Gauge,
    /// Used share of the cache's blocks, 0 to 1.
    pub kv_cache_usage: Gauge,
    /// Sequences that lost their blocks and will be computed again.
    pub preemptions: Counter,
    /// Prompt tokens computed or found in the cache, once per prompt.
    pub prompt_tokens: Counter,
    /// Prompts found in the cache.
    pub prefix_cache: PrefixCacheMetrics,
    /// Guessed tokens.
    pub speculation: SpeculationMetrics,
    /// Tokens generated.
    pub generation_tokens: Counter,
    /// Seconds from arrival to the first token.
    pub time_to_first_token: Histogram,
    /// Seconds between two tokens of one choice.
    pub inter_token_latency: Histogram,
    /// Seconds from arrival to the end, whatever the end was.
    pub e2e_request_latency: Histogram,
    /// Seconds from arrival to the first run.
    pub request_queue_time: Histogram,
    /// Seconds from the first run to the first token.
    pub request_prefill_time: Histogram,
    /// Seconds from the first token to the last.
    pub request_decode_time: Histogram,
    /// Prompt tokens of a finished request.
    pub request_prompt_tokens: Histogram,
    /// Tokens generated for a finished request.
    pub request_generation_tokens: Histogram,
    /// Choices asked for.
    pub request_params_n: Histogram,
    finished: [(&'static str, Counter); FINISH_REASONS.len()],
    unknown_fields: Counter,
    /// Adapters in memory. Recorded by their registry.
    pub adapters: AdapterMetrics,
    /// 1 while changes of tenants cannot be stored. Set by the server.
    pub tenant_state_failing: Gauge,
    tenants: Tenants,
}

/// What was found in the prefix cache.
#[derive(Debug)]
pub struct PrefixCacheMetrics {
    /// Prompt tokens that were looked for, once per prompt.
    pub queries: Counter,
    /// Of those, tokens that were found.
    pub hits: Counter,
}

impl PrefixCacheMetrics {
    fn new(recorder: &PrometheusRecorder) -> Self {
        let [queries, hits] = [
            ("vllm:prefix_cache_queries_total", "Prompt tokens looked for in the cache."),
            ("vllm:prefix_cache_hits_total", "Prompt tokens found in the cache."),
        ]
        .map(|(name, help)| counter(recorder, name, help));
        Self { queries, hits }
    }
}

/// How guessing ahead went.
#[derive(Debug)]
pub struct SpeculationMetrics {
    /// Times that next tokens were guessed.
    pub drafts: Counter,
    /// Tokens that were guessed.
    pub draft_tokens: Counter,
    /// Of those, tokens that were right.
    pub accepted_tokens: Counter,
}

impl SpeculationMetrics {
    fn new(recorder: &PrometheusRecorder) -> Self {
        let [drafts, draft_tokens, accepted_tokens] = [
            ("vllm:spec_decode_num_drafts_total", "Times that next tokens were guessed."),
            ("vllm:spec_decode_num_draft_tokens_total", "Tokens that were guessed."),
            ("vllm:spec_decode_num_accepted_tokens_total", "Guessed tokens that were right."),
        ]
        .map(|(name, help)| counter(recorder, name, help));
        Self { drafts, draft_tokens, accepted_tokens }
    }
}

impl Metrics {
    /// All families at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let builder = HISTOGRAMS.iter().fold(PrometheusBuilder::new(), |builder, family| {
            let (name, _, buckets) = family;
            builder
                .set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)
                .expect("every family has buckets")
        });
        let recorder = Tenants::buckets(builder).build_recorder();
        Tenants::describe(&recorder);
        let handle = recorder.handle();
        describe_labelled(&recorder);
        let histogram = |index: usize| {
            let (name, help, _) = HISTOGRAMS[index];
            recorder.describe_histogram(KeyName::from(name), None, SharedString::from(help));
            recorder.register_histogram(&Key::from_name(name), &METADATA)
        };
        Arc::new(Self {
            running: gauge(&recorder, "vllm:num_requests_running", "Sequences in the batch."),
            waiting: gauge(&recorder, "vllm:num_requests_waiting", "Sequences that wait."),
            kv_cache_usage: gauge(
                &recorder,
                "vllm:kv_cache_usage_perc",
                "Used share of the key-value cache, 1 is full.",
            ),
            preemptions: counter(
                &recorder,
                "vllm:num_preemptions_total",
                "Sequences that lost their cache blocks and were computed again.",
            ),
            prompt_tokens: counter(
                &recorder,
                "vllm:prompt_tokens_total",
                "Prompt tokens processed.",
            ),
            prefix_cache: PrefixCacheMetrics::new(&recorder),
            speculation: SpeculationMetrics::new(&recorder),
            generation_tokens: counter(
                &recorder,
                "vllm:generation_tokens_total",
                "Tokens generated.",
            ),
            time_to_first_token: histogram(0),
            inter_token_latency: histogram(1),
            e2e_request_latency: histogram(2),
            request_queue_time: histogram(3),
            request_prefill_time: histogram(4),
            request_decode_time: histogram(5),
            request_prompt_tokens: histogram(6),
            request_generation_tokens: histogram(7),
            request_params_n: histogram(8),
            finished: FINISH_REASONS
                .map(|reason| (reason, labelled(&recorder, FINISHED, "finished_reason", reason))),
            unknown_fields: counter(
                &recorder,
                UNKNOWN_FIELDS,
                "Unknown top-level fields of request bodies, accepted and ignored.",
            ),
            adapters: adapter_metrics(&recorder),
            tenant_state_failing: gauge(
                &recorder,
                "sorsa:tenant_state_failing",
                "1 while changes of tenants cannot be stored.",
            ),
            tenants: Tenants::default(),
            recorder,
            handle,
        })
    }

    /// Counts a choice that ended: `stop`, `length`, `abort` or `error`. Called by the server, which
    /// alone can tell a stop string from a client that went away; the engine does not call it.
    pub fn finished(&self, reason: &str) {
        if let Some((_, counter)) = self.finished.iter().find(|(name, _)| *name == reason) {
            counter.increment(1);
        }
    }

    /// Counts an answered HTTP request. `route` is a pattern of the router, never a raw path, so
    /// that the number of series is bounded. Called by the server.
    pub fn http_request(&self, method: &str, route: &str, status: u16) {
        let labels = vec![
            Label::new("method", method.to_owned()),
            Label::new("route", route.to_owned()),
            Label::new("status", status.to_string()),
        ];
        let key = Key::from_parts(HTTP_REQUESTS, labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// The series of a tenant and a model. Called by the server.
    #[must_use]
    pub fn tenant(&self, tenant: &str, model: &str) -> TenantSeries {
        self.tenants.series(&self.recorder, tenant, model)
    }

    /// A job of a `kind` had its first turn after so much work for other tenants. Called by the server.
    pub fn worked_for_others(&self, tenant: &str, kind: &'static str, amount: u64) {
        self.tenants.worked_for_others(&self.recorder, (tenant, kind), amount);
    }

    /// The series of an adapter. Called by the registry of adapters.
    #[must_use]
    pub fn adapter(&self, name: &str) -> AdapterSeries {
        self.adapters.series(&self.recorder, name)
    }

    /// The series of a kind of work that waits for its turn. Called by the server.
    #[must_use]
    pub fn work(&self, kind: &'static str) -> WorkMetrics {
        WorkMetrics::new(&self.recorder, kind)
    }

    /// Counts unknown fields of a request body. Called by the server.
    pub fn unknown_fields(&self, count: usize) {
        self.unknown_fields.increment(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// The Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render() + &self.adapters.render()
    }

    /// Folds recorded samples into the buckets. Call it every few seconds: where nobody scrapes,
    /// samples would pile up.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn describe_labelled(recorder: &PrometheusRecorder) {
    WorkMetrics::describe(recorder);
    let text = SharedString::const_str;
    recorder.describe_counter(
        KeyName::from(FINISHED),
        None,
        text("Choices that ended, by the reason of their end."),
    );
    recorder.describe_counter(
        KeyName::from(HTTP_REQUESTS),
        None,
        text("HTTP requests answered, by method, route and status."),
    );
}

fn adapter_metrics(recorder: &PrometheusRecorder) -> AdapterMetrics {
    AdapterMetrics::describe(recorder);
    AdapterMetrics {
        series: Capped::default(),
        count: gauge(recorder, "sorsa:adapters_resident", "Adapters ready to answer."),
        bytes: gauge(recorder, "sorsa:adapter_memory_bytes", "Bytes of adapters in memory."),
        refused: gauge(
            recorder,
            "sorsa:adapters_refused",
            "Adapters that were declared or stored and cannot be registered.",
        ),
        broken: gauge(
            recorder,
            "sorsa:adapters_broken",
            "Adapters that are registered and cannot be loaded, as far as is known.",
        ),
        state_failing: gauge(
            recorder,
            "sorsa:adapter_state_failing",
            "1 while changes of adapters cannot be stored.",
        ),
        lines: Mutex::new(adapters::lines(&ResidentAdapters::default())),
    }
}

fn gauge(recorder: &PrometheusRecorder, name: &'static str, help: &'static str) -> Gauge {
    recorder.describe_gauge(KeyName::from(name), None, SharedString::const_str(help));
    let gauge = recorder.register_gauge(&Key::from_name(name), &METADATA);
    gauge.set(0.0);
    gauge
}

fn counter(recorder: &PrometheusRecorder, name: &'static str, help: &'static str) -> Counter {
    recorder.describe_counter(KeyName::from(name), None, SharedString::const_str(help));
    recorder.register_counter(&Key::from_name(name), &METADATA)
}

fn labelled(
    recorder: &PrometheusRecorder,
    name: &'static str,
    label: &'static str,
    value: &'static str,
) -> Counter {
    let key = Key::from_parts(name, vec![Label::new(label, value)]);
    recorder.register_counter(&key, &METADATA)
}

#[cfg(test)]
mod tests {
    use super::adapters::ResidentAdapter;
    use super::*;

    #[test]
    fn every_family_is_rendered_before_its_first_sample() {
        let text = Metrics::new().render();
        let families = [
            ("vllm:num_requests_running", "gauge"),
            ("vllm:num_requests_waiting", "gauge"),
            ("vllm:kv_cache_usage_perc", "gauge"),
            ("vllm:num_preemptions_total", "counter"),
            ("vllm:prompt_tokens_total", "counter"),
            ("vllm:generation_tokens_total", "counter"),
            ("vllm:prefix_cache_queries_total", "counter"),
            ("vllm:prefix_cache_hits_total", "counter"),
            ("vllm:spec_decode_num_drafts_total", "counter"),
            ("vllm:spec_decode_num_draft_tokens_total", "counter"),
            ("vllm:spec_decode_num_accepted_tokens_total", "counter"),
            ("vllm:request_success_total", "counter"),
            ("vllm:time_to_first_token_seconds", "histogram"),
            ("vllm:inter_token_latency_seconds", "histogram"),
            ("vllm:e2e_request_latency_seconds", "histogram"),
            ("vllm:request_queue_time_seconds", "histogram"),
            ("vllm:request_prefill_time_seconds", "histogram"),
            ("vllm:request_decode_time_seconds", "histogram"),
            ("vllm:request_prompt_tokens", "histogram"),
            ("vllm:request_generation_tokens", "histogram"),
            ("vllm:request_params_n", "histogram"),
            ("vllm:lora_requests_info", "gauge"),
            ("vllm:lora_adapter_loaded", "gauge"),
            ("sorsa:adapter_load_seconds", "histogram"),
            ("sorsa:adapter_evictions_total", "counter"),
            ("sorsa:adapter_loads_total", "counter"),
            ("sorsa:adapter_load_failures_total", "counter"),
            ("sorsa:adapter_resident_bytes", "gauge"),
            ("sorsa:unknown_fields_total", "counter"),
        ];
        for (name, kind) in families {
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} in\n{text}");
            assert!(text.contains(&format!("# HELP {name} ")), "{name} in\n{text}");
        }
        assert!(text.contains("vllm:request_success_total{finished_reason=\"length\"} 0\n"));
    }

    #[test]
    fn histograms_count_exactly_and_use_their_own_buckets() {
        let metrics = Metrics::new();
        for _ in 0..10 {
            metrics.request_generation_tokens.record(10.0);
        }
        metrics.upkeep();
        let text = metrics.render();
        assert!(text.contains("vllm:request_generation_tokens_sum 100\n"), "{text}");
        assert!(text.contains("vllm:request_generation_tokens_count 10\n"), "{text}");
        assert!(text.contains("vllm:request_generation_tokens_bucket{le=\"5\"} 0\n"), "{text}");
        assert!(text.contains("vllm:request_generation_tokens_bucket{le=\"10\"} 10\n"), "{text}");
    }

    #[test]
    fn labelled_series_are_separate_and_two_servers_do_not_mix() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.finished("stop");
        one.finished("no such reason");
        one.http_request("GET", "/v1/models/{*id}", 404);
        one.unknown_fields(3);
        let now = ResidentAdapters {
            resident: &[ResidentAdapter { name: "a\"b", pinned: true, bytes: 7 }],
            max: Some(4),
            level: "cpu",
            unix_seconds: 2.5,
            ..ResidentAdapters::default()
        };
        let old = [ResidentAdapter { name: "old", pinned: false, bytes: 9 }];
        one.adapters.resident(&ResidentAdapters { resident: &old, ..now });
        one.adapters.resident(&now);
        let text = one.render();
        assert!(text.contains("vllm:request_success_total{finished_reason=\"stop\"} 1\n"));
        assert!(text.contains("vllm:request_success_total{finished_reason=\"abort\"} 0\n"));
        assert!(text.contains("sorsa:unknown_fields_total 3\n"));
        assert!(text.contains(
            "vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"a\\\"b\",\
             waiting_lora_adapters=\"\"} 2.5\n"
        ));
        assert!(text.contains(
            "vllm:lora_adapter_loaded{adapter_name=\"a\\\"b\",level=\"cpu\",pinned=\"true\"} 1\n"
        ));
        assert!(text.contains("sorsa:adapter_resident_bytes{adapter_name=\"a\\\"b\"} 7\n"));
        assert!(!text.contains("old"));
        assert!(text.contains("sorsa:adapters_resident 1\n"), "{text}");
        assert_eq!(text.matches("vllm:lora_requests_info{").count(), 1);
        let route = "route=\"/v1/models/{*id}\",status=\"404\"} 1\n";
        assert!(text.contains(route), "{text}");
        assert!(!other.render().contains("status=\"404\""));
    }
}
