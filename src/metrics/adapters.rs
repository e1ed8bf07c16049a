//! What is counted of adapters: loads, evictions, and which of them are in memory.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Recorder, SharedString};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::METADATA;
use super::capped::{Capped, OTHER};

const LOADS: (&str, &str) = ("sorsa:adapter_loads_total", "Loads that gave an adapter.");
const FAILURES: (&str, &str) =
    ("sorsa:adapter_load_failures_total", "Loads of adapters that failed.");
const EVICTIONS: (&str, &str) =
    ("sorsa:adapter_evictions_total", "Adapters that left memory for others.");
/// Its buckets are with those of the other histograms.
pub(super) const LOAD_SECONDS: (&str, &str) =
    ("sorsa:adapter_load_seconds", "Seconds to load an adapter.");
const RESIDENT_BYTES: &str = "sorsa:adapter_resident_bytes";
const RESIDENT_BYTES_HELP: &str = "Bytes of each adapter that answers at once.";
const LORA_INFO: &str = "vllm:lora_requests_info";
const LORA_LOADED: &str = "vllm:lora_adapter_loaded";
const LORA_INFO_HELP: &str = "When the sets of adapters in memory and of adapters being loaded \
                              last changed, in Unix seconds.";
const LORA_LOADED_HELP: &str = "1 for each adapter in memory.";

/// The series of one adapter.
#[derive(Clone)]
pub struct AdapterSeries {
    loads: Counter,
    failures: Counter,
    evictions: Counter,
    load_seconds: Histogram,
}

impl std::fmt::Debug for AdapterSeries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterSeries").finish_non_exhaustive()
    }
}

impl AdapterSeries {
    fn new(recorder: &PrometheusRecorder, name: &str) -> Self {
        let key = |(family, _): (&'static str, &str)| {
            Key::from_parts(family, vec![Label::new("adapter_name", name.to_owned())])
        };
        let counter = |family| recorder.register_counter(&key(family), &METADATA);
        Self {
            loads: counter(LOADS),
            failures: counter(FAILURES),
            evictions: counter(EVICTIONS),
            load_seconds: recorder.register_histogram(&key(LOAD_SECONDS), &METADATA),
        }
    }

    /// A load gave an adapter and took this long, waiting for room included.
    pub fn loaded(&self, took: Duration) {
        self.loads.increment(1);
        self.load_seconds.record(took);
    }

    /// A load gave none.
    pub fn failed(&self) {
        self.failures.increment(1);
    }

    /// It left memory for another.
    pub fn evicted(&self) {
        self.evictions.increment(1);
    }
}

/// Recorded by the registry of adapters.
pub struct AdapterMetrics {
    pub(super) series: Capped<String, AdapterSeries>,
    pub(super) count: Gauge,
    /// Bytes of all in memory, until the last answer with each is complete.
    pub bytes: Gauge,
    /// Adapters that were declared or stored and cannot be registered.
    pub refused: Gauge,
    /// Adapters that are registered and cannot be loaded, as far as is known.
    pub broken: Gauge,
    /// 1 while changes cannot be stored.
    pub state_failing: Gauge,
    pub(super) lines: Mutex<String>,
}

impl std::fmt::Debug for AdapterMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterMetrics").finish_non_exhaustive()
    }
}

/// An adapter that answers at once.
#[derive(Debug, Clone, Copy)]
pub struct ResidentAdapter<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it stays.
    pub pinned: bool,
    /// What it takes.
    pub bytes: usize,
}

/// The adapters in memory at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResidentAdapters<'a> {
    /// Those that answer at once.
    pub resident: &'a [ResidentAdapter<'a>],
    /// Names of those being loaded.
    pub loading: &'a [&'a str],
    /// How many may be in memory; `None` is any number.
    pub max: Option<usize>,
    /// The memory they compute in, `cpu` or `gpu`.
    pub level: &'static str,
    /// Now.
    pub unix_seconds: f64,
}

impl AdapterMetrics {
    pub(super) fn describe(recorder: &PrometheusRecorder) {
        let text = SharedString::const_str;
        for (name, help) in [LOADS, FAILURES, EVICTIONS] {
            recorder.describe_counter(KeyName::from(name), None, text(help));
        }
        let (name, help) = LOAD_SECONDS;
        recorder.describe_histogram(KeyName::from(name), None, text(help));
        // So that the families are there before anything is loaded.
        AdapterSeries::new(recorder, OTHER);
    }

    pub(super) fn series(&self, recorder: &PrometheusRecorder, name: &str) -> AdapterSeries {
        self.series
            .series(name.to_owned(), OTHER.to_owned(), |name| AdapterSeries::new(recorder, name))
    }

    /// Says which adapters are in memory. Only the newest set is kept, so churn adds no series.
    pub fn resident(&self, now: &ResidentAdapters<'_>) {
        self.count.set(now.resident.len() as f64);
        *self.lines.lock().unwrap_or_else(PoisonError::into_inner) = lines(now);
    }

    /// The series whose labels are names, in the text format.
    pub(super) fn render(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The text of [`AdapterMetrics::render`].
pub(super) fn lines(now: &ResidentAdapters<'_>) -> String {
    let names: Vec<String> = now.resident.iter().map(|it| escaped(it.name)).collect();
    let loading: Vec<String> = now.loading.iter().map(|name| escaped(name)).collect();
    let max = now.max.map_or_else(String::new, |max| max.to_string());
    let mut text = format!(
        "# HELP {LORA_INFO} {LORA_INFO_HELP}\n# TYPE {LORA_INFO} gauge\n\
         {LORA_INFO}{{max_lora=\"{max}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"{}\"}} \
         {}\n# HELP {LORA_LOADED} {LORA_LOADED_HELP}\n# TYPE {LORA_LOADED} gauge\n",
        names.join(","),
        loading.join(","),
        now.unix_seconds,
    );
    for (name, ResidentAdapter { pinned, .. }) in names.iter().zip(now.resident) {
        // Writing to a string does not fail.
        let level = now.level;
        let _ = writeln!(
            text,
            "{LORA_LOADED}{{adapter_name=\"{name}\",level=\"{level}\",pinned=\"{pinned}\"}} 1"
        );
    }
    let _ = writeln!(
        text,
        "# HELP {RESIDENT_BYTES} {RESIDENT_BYTES_HELP}\n# TYPE {RESIDENT_BYTES} gauge"
    );
    for (name, ResidentAdapter { bytes, .. }) in names.iter().zip(now.resident) {
        let _ = writeln!(text, "{RESIDENT_BYTES}{{adapter_name=\"{name}\"}} {bytes}");
    }
    text
}

fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
