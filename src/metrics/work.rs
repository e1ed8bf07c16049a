//! What is counted for work that waits for its turn, by its kind: `body`, `text`, `grammar`, `adapter`.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Recorder, SharedString};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::METADATA;

const WAITING: (&str, &str) = ("sorsa:work_waiting", "Jobs that wait for their turn, by kind.");
const REFUSED: (&str, &str) = (
    "sorsa:work_refused_total",
    "Jobs that were refused, by kind and reason: all full, the tenant's part full, or late.",
);
/// Seconds a job waited for its first turn.
pub(super) const WAIT: (&str, &str) =
    ("sorsa:work_wait_seconds", "Seconds a job waited for its first turn, by kind.");

/// The metrics of one kind of work. Recorded by the server.
#[derive(Clone)]
pub struct WorkMetrics {
    /// Jobs that wait.
    pub waiting: Gauge,
    full: Counter,
    own_full: Counter,
    /// Refused as no place was free in time.
    pub late: Counter,
    wait: Histogram,
}

impl std::fmt::Debug for WorkMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkMetrics").finish_non_exhaustive()
    }
}

impl WorkMetrics {
    pub(super) fn describe(recorder: &PrometheusRecorder) {
        let text = SharedString::const_str;
        recorder.describe_gauge(KeyName::from(WAITING.0), None, text(WAITING.1));
        recorder.describe_counter(KeyName::from(REFUSED.0), None, text(REFUSED.1));
        recorder.describe_histogram(KeyName::from(WAIT.0), None, text(WAIT.1));
    }

    pub(super) fn new(recorder: &PrometheusRecorder, kind: &'static str) -> Self {
        let key = |name| Key::from_parts(name, vec![Label::new("kind", kind)]);
        let refused = |reason| {
            let labels = vec![Label::new("kind", kind), Label::new("reason", reason)];
            recorder.register_counter(&Key::from_parts(REFUSED.0, labels), &METADATA)
        };
        let waiting = recorder.register_gauge(&key(WAITING.0), &METADATA);
        waiting.set(0.0);
        Self {
            waiting,
            full: refused("full"),
            own_full: refused("tenant_full"),
            late: refused("late"),
            wait: recorder.register_histogram(&key(WAIT.0), &METADATA),
        }
    }

    /// A job was refused as the queue was full, or the tenant's `own` part of it.
    pub fn refused(&self, own: bool) {
        if own { self.own_full.increment(1) } else { self.full.increment(1) }
    }

    /// A job waited so long for its first turn.
    pub fn waited(&self, time: Duration) {
        self.wait.record(time.as_secs_f64());
    }
}
