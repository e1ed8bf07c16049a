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

const STEPS: (&str, &str) = (
    "sorsa:tenant_steps_to_first_token",
    "Steps of the engine from a request's coming to its first token.",
);
const OTHERS: (&str, &str) = (
    "sorsa:tenant_work_for_others",
    "What was done for other tenants from a job's arrival to its first turn, by kind: bytes of texts \
     and bodies, microseconds of grammars.",
);

/// Upper bounds in steps.
const STEP_COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0];
/// Upper bounds in bytes, or in microseconds.
const AMOUNTS: &[f64] =
    &[0.0, 1024.0, 32_768.0, 65_536.0, 131_072.0, 524_288.0, 2_097_152.0, 16_777_216.0];
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
    steps: Histogram,
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
            steps: histogram(STEPS),
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

    /// It was begun after this time, and so many steps made its first token.
    pub fn begun(&self, after: Duration, steps: u64) {
        self.queue.record(after);
        self.steps.record(steps as f64);
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Tenants {
    series: Capped<(String, String), TenantSeries>,
    others: Capped<(String, &'static str), Histogram>,
}

impl Tenants {
    pub(super) fn describe(recorder: &PrometheusRecorder) {
        let text = SharedString::const_str;
        for (name, help) in [REQUESTS, PROMPT, CACHED, GENERATED] {
            recorder.describe_counter(KeyName::from(name), None, text(help));
        }
        for (name, help) in [FIRST_TOKEN, QUEUE, STEPS, OTHERS] {
            recorder.describe_histogram(KeyName::from(name), None, text(help));
        }
    }

    pub(super) fn buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
        let families =
            [(FIRST_TOKEN, SECONDS), (QUEUE, SECONDS), (STEPS, STEP_COUNTS), (OTHERS, AMOUNTS)];
        families.iter().fold(builder, |builder, ((name, _), bounds)| {
            let family = Matcher::Full((*name).to_owned());
            builder.set_buckets_for_metric(family, bounds).expect("there are buckets")
        })
    }

    /// A job of `tenant` had its first turn after so much work for others.
    pub(super) fn worked_for_others(
        &self,
        recorder: &PrometheusRecorder,
        (tenant, kind): (&str, &'static str),
        amount: u64,
    ) {
        let series = self.others.series((tenant.to_owned(), kind), (OTHER.into(), kind), |key| {
            let labels = vec![Label::new("tenant", key.0.clone()), Label::new("kind", kind)];
            recorder.register_histogram(&Key::from_parts(OTHERS.0, labels), &METADATA)
        });
        series.record(amount as f64);
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

impl std::fmt::Debug for Tenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenants").finish_non_exhaustive()
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
