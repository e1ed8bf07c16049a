//! What is counted for each tenant and model. Names come and go, series stay: beyond a number of them
//! all others are one.

use std::time::Duration;

use metrics::{Counter, Histogram, Key, KeyName, Label, Recorder, SharedString};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

use super::METADATA;
use super::capped::{Capped, OTHER};

const REQUESTS: (&str, &str) = ("sorsa:tenant_requests_total", "Requests that reached the engine.");
const PROMPT: (&str, &str) = ("sorsa:tenant_prompt_tokens_total", "Prompt tokens.");
const CACHED: (&str, &str) =
    ("sorsa:tenant_cached_tokens_total", "Prompt tokens that were found in the cache.");
const GENERATED: (&str, &str) = ("sorsa:tenant_generation_tokens_total", "Tokens generated.");
const FIRST_TOKEN: (&str, &str) = (
    "sorsa:tenant_time_to_first_token_seconds",
    "Seconds from a request's arrival to its first token.",
);
const QUEUE: (&str, &str) =
    ("sorsa:tenant_queue_time_seconds", "Seconds from a request's arrival to its first run.");

/// Upper bounds in seconds; few, as there are many series.
const SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// The series of one tenant and model.
#[derive(Clone)]
pub struct TenantSeries {
    requests: Counter,
    prompt: Counter,
    cached: Counter,
    generated: Counter,
    first_token: Histogram,
    queue: Histogram,
}

impl std::fmt::Debug for TenantSeries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantSeries").finish_non_exhaustive()
    }
}

impl TenantSeries {
    fn new(recorder: &PrometheusRecorder, tenant: &str, model: &str) -> Self {
        let key = |(name, _): (&'static str, &str)| {
            let labels = [("tenant", tenant), ("model", model)];
            let labels = labels.map(|(name, value)| Label::new(name, value.to_owned()));
            Key::from_parts(name, labels.to_vec())
        };
        let counter = |family| recorder.register_counter(&key(family), &METADATA);
        let histogram = |family| recorder.register_histogram(&key(family), &METADATA);
        Self {
            requests: counter(REQUESTS),
            prompt: counter(PROMPT),
            cached: counter(CACHED),
            generated: counter(GENERATED),
            first_token: histogram(FIRST_TOKEN),
            queue: histogram(QUEUE),
        }
    }

    /// A request ended that used so many tokens of each kind.
    pub fn ended(&self, prompt: usize, cached: usize, generated: usize) {
        self.requests.increment(1);
        self.prompt.increment(prompt as u64);
        self.cached.increment(cached as u64);
        self.generated.increment(generated as u64);
    }

    /// Its first token came after this time.
    pub fn first_token(&self, after: Duration) {
        self.first_token.record(after);
    }

    /// It was begun after this time.
    pub fn begun(&self, after: Duration) {
        self.queue.record(after);
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    series: Capped<(String, String), TenantSeries>,
}

impl Tenants {
    pub(super) fn describe(recorder: &PrometheusRecorder) {
        let text = SharedString::const_str;
        for (name, help) in [REQUESTS, PROMPT, CACHED, GENERATED] {
            recorder.describe_counter(KeyName::from(name), None, text(help));
        }
        for (name, help) in [FIRST_TOKEN, QUEUE] {
            recorder.describe_histogram(KeyName::from(name), None, text(help));
        }
    }

    pub(super) fn buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
        [FIRST_TOKEN, QUEUE].iter().fold(builder, |builder, (name, _)| {
            let family = Matcher::Full((*name).to_owned());
            builder.set_buckets_for_metric(family, SECONDS).expect("there are buckets")
        })
    }

    pub(super) fn series(
        &self,
        recorder: &PrometheusRecorder,
        tenant: &str,
        model: &str,
    ) -> TenantSeries {
        let pair = (tenant.to_owned(), model.to_owned());
        self.series.series(pair, (OTHER.into(), OTHER.into()), |(tenant, model)| {
            TenantSeries::new(recorder, tenant, model)
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;

    #[test]
    fn tenants_beyond_a_number_are_one() {
        let metrics = Metrics::new();
        for number in 0..300 {
            metrics.tenant(&format!("tenant-{number}"), "m").ended(10, 5, 1);
        }
        metrics.tenant("tenant-7", "m").ended(10, 5, 1);
        let text = metrics.render();
        let lines: Vec<_> =
            text.lines().filter(|line| line.starts_with("sorsa:tenant_requests_total{")).collect();
        assert_eq!(lines.len(), 101, "{text}");
        let value = |tenant: &str| {
            let line = lines.iter().find(|line| line.contains(&format!("\"{tenant}\""))).unwrap();
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        assert_eq!((value("other"), value("tenant-7")), (200, 2));
    }
}
