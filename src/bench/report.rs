//! All measurements of a run and what they were made with: for a table, or as JSON.

use serde::Serialize;

use super::measurement::Measurement;
use super::statistics::Distribution;
use super::workload::Popularity;

/// The columns of the table.
pub const HEADER: [&str; 9] = [
    "streams",
    "adapters",
    "tokens/s",
    "requests/s",
    "TTFT p50",
    "p99 (ms)",
    "ITL p50",
    "p99 (ms)",
    "failed",
];

/// How the load was made: enough to make it again.
#[derive(Debug, Clone, Serialize)]
pub struct Setup {
    /// This program's version.
    pub version: &'static str,
    /// What was measured: an address or a model.
    pub target: String,
    /// The model without an adapter.
    pub base: String,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// True where prompts are token ids and so exactly that long.
    pub exact_prompts: bool,
    /// Tokens of each answer.
    pub max_tokens: usize,
    /// Requests of each stream.
    pub requests_per_stream: usize,
    /// How often each adapter is asked for.
    pub popularity: Popularity,
    /// What the prompts were made from.
    pub seed: u64,
}

/// A run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How.
    #[serde(flatten)]
    pub setup: Setup,
    /// What came out, in the order it was measured.
    pub measurements: Vec<Measurement>,
}

impl Report {
    /// The table's rows.
    pub fn rows(&self) -> impl Iterator<Item = [String; HEADER.len()]> {
        self.measurements.iter().map(row)
    }
}

fn row(measured: &Measurement) -> [String; HEADER.len()] {
    let time = |times: Option<Distribution>, of: fn(Distribution) -> f64| {
        times.map_or_else(|| "-".into(), |times| format!("{:.1}", of(times)))
    };
    let adapters = match (measured.point.adapters, measured.point.ratio()) {
        (0, _) => "base".to_owned(),
        (count, None) => count.to_string(),
        (count, Some(ratio)) => format!("{count} ({ratio} a slot)"),
    };
    [
        measured.point.concurrency.to_string(),
        adapters,
        format!("{:.1}", measured.output_tokens_per_second),
        format!("{:.2}", measured.requests_per_second),
        time(measured.ttft_ms, |times| times.p50),
        time(measured.ttft_ms, |times| times.p99),
        time(measured.itl_ms, |times| times.p50),
        time(measured.itl_ms, |times| times.p99),
        measured.failed.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::Outcome;
    use crate::bench::plan::Point;

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let row = |adapters, slots| {
            let point = Point::new(8, adapters, slots);
            row(&Measurement::new(point, &Outcome::default()))
        };
        assert_eq!(row(0, None), ["8", "base", "0.0", "0.00", "-", "-", "-", "-", "0"]);
        assert_eq!(row(3, None)[1], "3");
        assert_eq!(row(4, Some(8))[1], "4 (0.5 a slot)");
    }
}
