//! What the engine tells [`Metrics`]: load after every step, times and counts of every sequence.
//!
//! How a choice ended is counted by the server, which alone can tell a stop string from a client
//! that went away.

use std::sync::Arc;
use std::time::Instant;

use super::scheduler::Scheduler;
use super::sequence::Sequence;
use crate::metrics::Metrics;

/// Records one engine's events.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Arc<Metrics>,
}

impl Telemetry {
    /// Records into `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }

    /// The gauges, after a step.
    pub fn load(&self, scheduler: &Scheduler) {
        self.metrics.running.set(scheduler.num_running() as f64);
        self.metrics.waiting.set(scheduler.num_waiting() as f64);
        self.metrics.kv_cache_usage.set(scheduler.blocks().usage());
    }

    /// Sequences that lost their blocks.
    pub fn preempted(&self, count: usize) {
        self.metrics.preemptions.increment(count as u64);
    }

    /// A prompt was computed for the first time.
    pub fn prompt(&self, sequence: &Sequence) {
        let timeline = &sequence.timeline;
        let scheduled = timeline.scheduled.unwrap_or(timeline.arrived);
        let prompt_tokens = sequence.request().prompt.len() as u64;
        self.metrics.prompt_tokens.increment(prompt_tokens);
        if let Some(cached) = sequence.num_cached() {
            self.metrics.prefix_cache.queries.increment(prompt_tokens);
            self.metrics.prefix_cache.hits.increment(cached as u64);
        }
        self.metrics.request_queue_time.record(scheduled.duration_since(timeline.arrived));
        self.metrics.request_params_n.record(sequence.request().n as f64);
    }

    /// Of `drafted` guessed tokens, the first `accepted` were right.
    pub fn drafted(&self, drafted: usize, accepted: usize) {
        self.metrics.speculation.drafts.increment(1);
        self.metrics.speculation.draft_tokens.increment(drafted as u64);
        self.metrics.speculation.accepted_tokens.increment(accepted as u64);
    }

    /// A token was generated; `previous` is when the one before it was.
    pub fn token(&self, sequence: &Sequence, previous: Option<Instant>) {
        self.metrics.generation_tokens.increment(1);
        let now = sequence.timeline.last_token.unwrap_or(sequence.timeline.arrived);
        match previous {
            Some(previous) => {
                self.metrics.inter_token_latency.record(now.duration_since(previous));
            }
            None => {
                let waited = now.duration_since(sequence.timeline.arrived);
                self.metrics.time_to_first_token.record(waited);
            }
        }
    }

    /// A choice ended, however.
    pub fn end(&self, sequence: &Sequence) {
        let timeline = &sequence.timeline;
        self.metrics.request_prompt_tokens.record(sequence.request().prompt.len() as f64);
        self.metrics.request_generation_tokens.record(sequence.num_generated() as f64);
        self.metrics.e2e_request_latency.record(timeline.arrived.elapsed());
        if let (Some(scheduled), Some(first)) = (timeline.scheduled, timeline.first_token) {
            self.metrics.request_prefill_time.record(first.duration_since(scheduled));
            let last = timeline.last_token.unwrap_or(first);
            self.metrics.request_decode_time.record(last.duration_since(first));
        }
    }
}
