//! What one load says of a server: rates, and distributions of times.

use std::time::Duration;

use serde::Serialize;

use super::load::{Answer, Outcome};
use super::plan::Point;
use super::statistics::Distribution;

/// The result at one point of the plan.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// What was measured.
    #[serde(flatten)]
    pub point: Point,
    /// Requests that were answered.
    pub answered: usize,
    /// Requests that were not.
    pub failed: usize,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Tokens of all prompts, as the server counts them.
    pub prompt_tokens: usize,
    /// Tokens of all answers.
    pub output_tokens: usize,
    /// Tokens of answers in a second.
    pub output_tokens_per_second: f64,
    /// Tokens of answers in a second while every stream generates; only where each stream had one
    /// request, so that there is such a time.
    pub steady_tokens_per_second: Option<f64>,
    /// Answers in a second.
    pub requests_per_second: f64,
    /// From a request to its first token.
    pub ttft_ms: Option<Distribution>,
    /// Between two tokens of an answer.
    pub itl_ms: Option<Distribution>,
    /// Per answer, the mean time of a token after the first.
    pub tpot_ms: Option<Distribution>,
    /// From a request to the end of its answer.
    pub latency_ms: Option<Distribution>,
}

impl Measurement {
    /// Reduces an outcome.
    #[must_use]
    pub fn new(point: Point, outcome: &Outcome) -> Self {
        let answers = &outcome.answers;
        let seconds = outcome.wall.as_secs_f64();
        let output_tokens: usize = answers.iter().map(|answer| answer.output_tokens).sum();
        let rate = |count: usize| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let one_each = answers.len() + outcome.failures.len() <= point.concurrency;
        Self {
            answered: answers.len(),
            failed: outcome.failures.len(),
            seconds,
            prompt_tokens: answers.iter().map(|answer| answer.prompt_tokens).sum(),
            output_tokens,
            output_tokens_per_second: rate(output_tokens),
            steady_tokens_per_second: steady_rate(answers).filter(|_| one_each),
            requests_per_second: rate(answers.len()),
            ttft_ms: Distribution::of(answers.iter().filter_map(Answer::first_token)),
            itl_ms: Distribution::of(answers.iter().flat_map(Answer::gaps)),
            tpot_ms: Distribution::of(answers.iter().filter_map(Answer::time_per_token)),
            latency_ms: Distribution::of(
                answers.iter().map(|answer| answer.finished - answer.sent),
            ),
            point,
        }
    }
}

/// Tokens in a second from when the last answer has begun until the first ends.
fn steady_rate(answers: &[Answer]) -> Option<f64> {
    let from = answers.iter().filter_map(|answer| answer.arrivals.first()).max()?;
    let to = answers.iter().filter_map(|answer| answer.arrivals.last()).min()?;
    let seconds = to.checked_sub(*from).filter(|time| !time.is_zero())?.as_secs_f64();
    let pieces = answers.iter().flat_map(|answer| &answer.arrivals);
    let between = pieces.clone().filter(|at| *at > from && *at <= to).count();
    let tokens: usize = answers.iter().map(|answer| answer.output_tokens).sum();
    Some(between as f64 * tokens as f64 / pieces.count() as f64 / seconds)
}

impl Answer {
    fn first_token(&self) -> Option<Duration> {
        Some(*self.arrivals.first()? - self.sent)
    }

    fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.arrivals.windows(2).map(|pair| pair[1] - pair[0])
    }

    fn time_per_token(&self) -> Option<Duration> {
        let time = *self.arrivals.last()? - *self.arrivals.first()?;
        let count = u32::try_from(self.output_tokens.checked_sub(1)?).ok()?;
        time.checked_div(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// An answer that was asked for at `sent`, began `first` later and took `gap` a token.
    fn regular(sent: u64, first: u64, gap: u64, tokens: u64) -> Answer {
        let arrivals: Vec<_> = (0..tokens).map(|token| ms(sent + first + token * gap)).collect();
        Answer {
            sent: ms(sent),
            finished: arrivals[arrivals.len() - 1],
            arrivals,
            prompt_tokens: 10,
            output_tokens: tokens as usize,
        }
    }

    fn measure(concurrency: usize, answers: Vec<Answer>) -> Measurement {
        let wall = answers.iter().map(|answer| answer.finished).max().unwrap_or_default();
        let outcome = Outcome { answers, failures: Vec::new(), wall };
        Measurement::new(Point::new(concurrency, 0, None), &outcome)
    }

    proptest! {
        #[test]
        fn regular_streams_are_measured_exactly(
            streams in 1_usize..9, first in 1_u64..500, gap in 1_u64..100, tokens in 2_u64..40
        ) {
            let answers = vec![regular(0, first, gap, tokens); streams];
            let measured = measure(streams, answers);
            let wall = (first + gap * (tokens - 1)) as f64 / 1000.0;
            let total = streams as f64 * tokens as f64;
            let near = |a: f64, b: f64| (a - b).abs() < 1e-6 * b.abs().max(1.0);
            prop_assert!(near(measured.output_tokens_per_second, total / wall));
            prop_assert!(near(measured.requests_per_second, streams as f64 / wall));
            prop_assert!(near(measured.ttft_ms.unwrap().p99, first as f64));
            prop_assert!(near(measured.itl_ms.unwrap().p50, gap as f64));
            prop_assert!(near(measured.tpot_ms.unwrap().mean, gap as f64));
            prop_assert!(near(measured.latency_ms.unwrap().max, wall * 1000.0));
            let steady = streams as f64 * 1000.0 / gap as f64;
            prop_assert!(near(measured.steady_tokens_per_second.unwrap(), steady));
            prop_assert_eq!(measured.prompt_tokens, 10 * streams);
        }
    }

    #[test]
    fn a_second_request_of_a_stream_leaves_no_steady_time() {
        let answers = vec![regular(0, 5, 5, 4), regular(20, 5, 5, 4)];
        assert_eq!(measure(1, answers.clone()).steady_tokens_per_second, None);
        // Two streams one after the other are never at work together.
        assert_eq!(measure(2, answers).steady_tokens_per_second, None);
    }

    #[test]
    fn nothing_answered_is_no_division() {
        let measured = measure(4, Vec::new());
        assert_eq!((measured.answered, measured.ttft_ms), (0, None));
        assert_eq!(measured.output_tokens_per_second, 0.0);
    }
}
