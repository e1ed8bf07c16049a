//! How much prompt a step may compute while other sequences wait for their next token.
//!
//! A step takes as long as everything in it, and whoever is being answered feels it. So a step that
//! also computes prompts shares its time: each prompt that waits gets seven tenths of what those being
//! answered get together. Beside one long prompt a step takes 1.7 times what it would take without,
//! so that even its slowest ones, on a machine that others use too, stay within three times; a
//! crowd of prompts fills it, for then most of those served are waiting (one tenant's crowd counts no
//! more than the others' requests: [`super::line::prompts_that_count`]). What a step takes is learned
//! from the steps themselves: the time of steps without prompts, by their rows, and what a
//! row of a prompt adds. Both are moving averages of the times handed in; no clock is read here.
//!
//! Attention reads everything before a row, so that one far behind takes many times as long as one at
//! the beginning: rows count with their context ([`super::row_cost::cost`]).
//!
//! It decides when rows run, never what they compute.

use std::time::Duration;

/// Rows of prompts that a step computes in any case, so that prompts get on. Each chunk of a long
/// prompt reads all keys before it, so that fewer rows would take hardly less time.
pub const MIN_PROMPT_ROWS: usize = 8;
/// Rows that take much longer together than reading the weights for them.
const MANY_ROWS: usize = 64;
/// A prompt's part of a step's time, where that of all answers together is 1.
const PROMPT_SHARE: f64 = 0.7;
/// What answers take in a step that is shared among tenants, and what prompts take in it.
const SHORT_STEP: Duration = Duration::from_millis(100);
/// But as long as so many of the shortest steps: each reads all weights, which then are a fourth of it.
const WEIGHTS_PER_STEP: f64 = 4.0;
/// The part of a step's time that grammars may take.
const GRAMMAR_SHARE: f64 = 0.5;
/// What they may take in any case.
const MIN_GRAMMAR_TIME: Duration = Duration::from_millis(2);
/// The newest time's part in a moving average.
const NEWEST: f64 = 0.2;
/// One step may be held up by something else: a single time moves an average by no more than this
/// factor's worth.
const OUTLIER: f64 = 4.0;
/// Classes of steps by the logarithm of what they cost.
const CLASSES: usize = 20;

/// What a step computed, in rows without context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepCost {
    /// Rows of sequences that are being answered, guesses included.
    pub decode: usize,
    /// Rows of prompts.
    pub prompt: usize,
}

/// A moving average of seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Average(Option<f64>);

impl Average {
    fn learn(&mut self, seconds: f64) {
        self.0 = Some(match self.0 {
            None => seconds,
            Some(average) => {
                // Clamped from above alone: what is fast was not held up.
                let seconds = seconds.min(OUTLIER * average);
                average + NEWEST * (seconds - average)
            }
        });
    }
}

/// Steps without prompts of one class.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    cost: Average,
    seconds: Average,
}

impl Seen {
    fn learn(&mut self, cost: usize, seconds: f64) {
        self.cost.learn(cost as f64);
        self.seconds.learn(seconds);
    }
}

/// What steps cost, as far as they have been seen.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// Steps without prompts, by the logarithm of what they cost.
    decode: [Seen; CLASSES],
    /// Seconds that a row of a prompt, without context, adds.
    prompt_row: Average,
}

impl Pace {
    /// A step of this cost took this long.
    pub fn learn(&mut self, cost: StepCost, took: Duration) {
        let took = took.as_secs_f64();
        match cost {
            StepCost { prompt: 0, decode: 0 } => {}
            StepCost { prompt: 0, decode } => self.decode[class(decode)].learn(decode, took),
            // Alone, a prompt pays for the whole step; few rows would make each look dear.
            StepCost { prompt, decode: 0 } => {
                let weights = self.shortest();
                if prompt >= MANY_ROWS {
                    self.prompt_row.learn(took / prompt as f64);
                } else if let Some(weights) = weights {
                    let more = (took - weights).max(0.01 * took);
                    self.prompt_row.learn(more / prompt as f64);
                }
            }
            StepCost { prompt, decode } => {
                if let Some(without) = self.decode_seconds(decode) {
                    // A step that seems to have cost nothing more still cost something.
                    let more = (took - without).max(0.01 * took);
                    self.prompt_row.learn(more / prompt as f64);
                } else if let Some(row) = self.prompt_row.0 {
                    // Prompts have come without a pause from the first step on.
                    let without = (took - row * prompt as f64).max(0.1 * took);
                    self.decode[class(decode)].learn(decode, without);
                }
            }
        }
    }

    /// What prompts may cost beside answers that cost `decode`, where `prompts` of them wait; in a step
    /// that is `shared` among tenants also no more than a short one has time for. At least
    /// [`MIN_PROMPT_ROWS`].
    #[must_use]
    pub fn prompt_cost(&self, decode: usize, prompts: usize, shared: bool) -> usize {
        let most = if shared { self.short_step_cost() } else { usize::MAX };
        if decode == 0 {
            return most;
        }
        let Some(without) = self.decode_seconds(decode) else { return MIN_PROMPT_ROWS };
        let Some(row) = self.prompt_row.0 else { return MIN_PROMPT_ROWS };
        let cost = (PROMPT_SHARE * prompts.max(1) as f64 * without / row) as usize;
        cost.min(most).max(MIN_PROMPT_ROWS)
    }

    /// How long a step takes at most that is shared among tenants: who comes while it runs waits for its
    /// end, and for a step of its own.
    #[must_use]
    pub fn short_step(&self) -> Duration {
        let weights = self.shortest().unwrap_or_default();
        SHORT_STEP.max(Duration::from_secs_f64(WEIGHTS_PER_STEP * weights))
    }

    /// What prompts cost that fill such a step; anything as long as nothing was learned.
    fn short_step_cost(&self) -> usize {
        let Some(row) = self.prompt_row.0 else { return usize::MAX };
        // Where nobody was answered yet, what the weights take is not known.
        let least = self.shortest().map_or(MANY_ROWS, |_| MIN_PROMPT_ROWS);
        ((self.short_step().as_secs_f64() / row) as usize).max(least)
    }

    /// Seconds of the shortest step without prompts: little more than reading the weights.
    fn shortest(&self) -> Option<f64> {
        self.seen().map(|(_, seconds)| seconds).min_by(f64::total_cmp)
    }

    /// How long a step takes whose answers cost `decode`, without prompts.
    #[must_use]
    pub fn decode_time(&self, decode: usize) -> Option<Duration> {
        self.decode_seconds(decode).map(Duration::from_secs_f64)
    }

    /// How long a step whose answers cost `decode` may ask grammars: half of what such a step
    /// takes, so that they never take longer than the model.
    #[must_use]
    pub fn grammar_limit(&self, decode: usize) -> Duration {
        let half = self
            .decode_seconds(decode)
            .map_or(Duration::ZERO, |seconds| Duration::from_secs_f64(seconds * GRAMMAR_SHARE));
        half.max(MIN_GRAMMAR_TIME)
    }

    /// Seconds of a step whose answers cost `decode`, without prompts: between those of the classes that
    /// have been seen on either side. Beyond the last one they grow as they did up to there, but no
    /// faster than the cost.
    fn decode_seconds(&self, decode: usize) -> Option<f64> {
        let decode = decode as f64;
        let (mut below, mut before) = (None, None);
        for (cost, seconds) in self.seen() {
            if cost >= decode {
                let Some((from, least)) = below else { return Some(seconds) };
                return Some(least + (seconds - least) * (decode - from) / (cost - from));
            }
            before = below.replace((cost, seconds));
        }
        let (cost, seconds) = below?;
        let Some((from, least)) = before else { return Some(seconds) };
        let more = (seconds - least) / (cost - from) * (decode - cost);
        Some((seconds + more).clamp(seconds, seconds * decode / cost))
    }

    /// Cost and seconds of the classes that have been seen, in their order.
    fn seen(&self) -> impl Iterator<Item = (f64, f64)> {
        self.decode.iter().filter_map(|seen| Some((seen.cost.0?, seen.seconds.0?)))
    }
}

fn class(cost: usize) -> usize {
    (cost.max(1).ilog2() as usize).min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A machine: seconds of a step and of each of its rows.
    #[derive(Debug, Clone, Copy)]
    struct Machine {
        step: f64,
        decode_row: f64,
        prompt_row: f64,
    }

    impl Machine {
        fn time(&self, rows: StepCost) -> f64 {
            self.step + self.decode_row * rows.decode as f64 + self.prompt_row * rows.prompt as f64
        }

        fn run(&self, pace: &mut Pace, rows: StepCost, noise: f64) -> f64 {
            let took = self.time(rows);
            pace.learn(rows, Duration::from_secs_f64(took * noise));
            took
        }
    }

    fn machine() -> impl Strategy<Value = Machine> {
        (1e-4..5e-2_f64, 1e-5..5e-3_f64, 1e-5..5e-3_f64)
            .prop_map(|(step, decode_row, prompt_row)| Machine { step, decode_row, prompt_row })
    }

    proptest! {
        /// On any machine, noisy as it may be, a long prompt leaves the others their pace: once it
        /// has been learned, a step takes at most three times what it takes without prompts, unless
        /// it computes the least there is. And the prompt gets its part of the time where it can.
        #[test]
        fn a_prompt_stretches_a_step_by_a_bounded_factor(
            machine in machine(),
            decode in 1..64_usize,
            noise in prop::collection::vec(0.8..1.25_f64, 200),
        ) {
            let mut pace = Pace::default();
            for noise in &noise[..50] {
                machine.run(&mut pace, StepCost { decode, prompt: 0 }, *noise);
            }
            let without = machine.time(StepCost { decode, prompt: 0 });
            for (step, noise) in noise[50..].iter().enumerate() {
                let prompt = pace.prompt_cost(decode, 1, false).min(4096);
                prop_assert!(prompt >= MIN_PROMPT_ROWS);
                let took = machine.run(&mut pace, StepCost { decode, prompt }, *noise);
                if step >= 50 && prompt > MIN_PROMPT_ROWS {
                    prop_assert!(took <= 3.0 * without, "{took} after {without}");
                    prop_assert!(took >= 1.3 * without || prompt == 4096, "{took} wastes {without}");
                }
            }
        }

        /// The same times give the same decisions.
        #[test]
        fn it_is_a_function_of_the_times(times in prop::collection::vec((0..40_usize, 0..600_usize, 0..1_000_000_u64), 0..60)) {
            let learned = || {
                let mut pace = Pace::default();
                for (decode, prompt, micros) in &times {
                    pace.learn(StepCost { decode: *decode, prompt: *prompt }, Duration::from_micros(*micros));
                }
                (1..40).map(|decode| pace.prompt_cost(decode, 1, false)).collect::<Vec<_>>()
            };
            prop_assert_eq!(learned(), learned());
            prop_assert!(learned().iter().all(|&rows| rows >= MIN_PROMPT_ROWS));
        }
    }

    #[test]
    fn one_step_that_was_held_up_for_a_minute_is_soon_forgotten() {
        let machine = Machine { step: 0.02, decode_row: 1e-3, prompt_row: 1e-3 };
        let (alone, both) = (StepCost { decode: 8, prompt: 0 }, StepCost { decode: 8, prompt: 16 });
        let mut pace = Pace::default();
        for rows in [alone, both].iter().cycle().take(100) {
            machine.run(&mut pace, *rows, 1.0);
        }
        let before = pace.prompt_cost(8, 1, false);
        assert!(
            pace.prompt_cost(8, 10, false).abs_diff(10 * before) <= 10,
            "each prompt gets its share"
        );
        pace.learn(alone, Duration::from_secs(60));
        pace.learn(both, Duration::from_secs(60));
        for rows in [alone, both].iter().cycle().take(40) {
            machine.run(&mut pace, *rows, 1.0);
        }
        assert!(pace.prompt_cost(8, 1, false).abs_diff(before) <= 1 + before / 20);
    }

    #[test]
    fn a_crowd_that_comes_first_of_all_does_not_crawl() {
        let machine = Machine { step: 0.02, decode_row: 1e-4, prompt_row: 1e-4 };
        let mut pace = Pace::default();
        machine.run(&mut pace, StepCost { decode: 0, prompt: 512 }, 1.0);
        for _ in 0..4 {
            let prompt = pace.prompt_cost(2, 60, false).min(510);
            machine.run(&mut pace, StepCost { decode: 2, prompt }, 1.0);
        }
        assert!(pace.prompt_cost(2, 60, false) >= 510);
    }

    #[test]
    fn a_step_without_answers_is_short_and_does_not_read_the_weights_for_little() {
        for (step, row, least, most) in
            [(0.01, 4e-4, 0.08, 0.12), (0.3, 2e-2, 1.0, 1.6), (0.01, 5e-3, 0.06, 0.12)]
        {
            let machine = Machine { step, decode_row: row, prompt_row: row };
            let mut pace = Pace::default();
            machine.run(&mut pace, StepCost { decode: 0, prompt: 512 }, 1.0);
            machine.run(&mut pace, StepCost { decode: 1, prompt: 0 }, 1.0);
            for _ in 0..40 {
                let prompt = pace.prompt_cost(0, 1, true).min(512);
                machine.run(&mut pace, StepCost { decode: 0, prompt }, 1.0);
            }
            let prompt = pace.prompt_cost(0, 1, true);
            let took = machine.time(StepCost { decode: 0, prompt });
            assert!((least..most).contains(&took), "{took} s: {prompt} rows on {machine:?}");
        }
    }

    #[test]
    fn where_nobody_is_ever_answered_a_step_is_worth_reading_the_weights_for() {
        // Embeddings of a large model alone.
        let machine = Machine { step: 0.4, decode_row: 0.02, prompt_row: 0.02 };
        let mut pace = Pace::default();
        for _ in 0..40 {
            let prompt = pace.prompt_cost(0, 1, true).min(512);
            assert!(prompt >= MANY_ROWS);
            machine.run(&mut pace, StepCost { decode: 0, prompt }, 1.0);
        }
    }

    #[test]
    fn what_was_not_learned_yet_is_no_limit_but_for_answers() {
        assert_eq!(Pace::default().prompt_cost(0, 3, true), usize::MAX);
        assert_eq!(Pace::default().prompt_cost(8, 3, false), MIN_PROMPT_ROWS);
    }
}
