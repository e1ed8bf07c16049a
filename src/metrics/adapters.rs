//! What is counted of adapters: loads, evictions, and which of them are in memory.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram};

const LORA_INFO: &str = "vllm:lora_requests_info";
const LORA_LOADED: &str = "vllm:lora_adapter_loaded";
const LORA_INFO_HELP: &str = "When the sets of adapters in memory and of adapters being loaded \
                              last changed, in Unix seconds.";
const LORA_LOADED_HELP: &str = "1 for each adapter in memory.";

/// Recorded by the registry of adapters.
pub struct AdapterMetrics {
    /// Loads that gave an adapter.
    pub loads: Counter,
    /// Loads that gave none.
    pub load_failures: Counter,
    /// Adapters that left memory for others.
    pub evictions: Counter,
    /// Seconds that a load took, waiting for room included.
    pub load_seconds: Histogram,
    pub(super) count: Gauge,
    /// Bytes of all in memory, until the last answer with each is complete.
    pub bytes: Gauge,
    pub(super) lines: Mutex<String>,
}

impl std::fmt::Debug for AdapterMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterMetrics").finish_non_exhaustive()
    }
}

/// The adapters in memory at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResidentAdapters<'a> {
    /// Names of those that answer at once, and whether each of them stays.
    pub resident: &'a [(&'a str, bool)],
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
    let names: Vec<String> = now.resident.iter().map(|(name, _)| escaped(name)).collect();
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
    for (name, (_, pinned)) in names.iter().zip(now.resident) {
        // Writing to a string does not fail.
        let level = now.level;
        let _ = writeln!(
            text,
            "{LORA_LOADED}{{adapter_name=\"{name}\",level=\"{level}\",pinned=\"{pinned}\"}} 1"
        );
    }
    text
}

fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
