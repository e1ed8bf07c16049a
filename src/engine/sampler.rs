//! From a row of logits to the next token. Knows one sequence's parameters and history, no batch:
//! what else runs in the same step cannot change its choice.
//!
//! Order: log-probabilities of the unmodified distribution are taken first; then logit bias,
//! penalties and the ban on stop tokens before `min_tokens`; then temperature, `min_p`, `top_k`
//! and `top_p`; then one draw from the sequence's own random stream.

use std::collections::{HashMap, HashSet};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::request::{Logprob, Request, SamplingParams, TokenLogprobs};

/// The model produced no usable distribution for one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// A logit is NaN or +infinity.
    #[error("the model produced a logit that is not a number for token {token}")]
    NotFinite {
        /// The first such token.
        token: usize,
    },
    /// Every token is ruled out.
    #[error("no token is allowed next")]
    NothingAllowed,
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// Where the request asked for them.
    pub logprobs: Option<TokenLogprobs>,
}

/// Chooses the tokens of one sequence.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    num_logprobs: Option<usize>,
    rng: ChaCha8Rng,
    prompt_tokens: HashSet<u32>,
    output_counts: HashMap<u32, u32>,
    num_generated: usize,
}

impl Sampler {
    /// The sampler of choice `choice`: random stream `choice` of the request's seed.
    #[must_use]
    pub fn new(request: &Request, choice: usize) -> Self {
        let params = request.sampling.clone();
        let mut rng = match params.seed {
            Some(seed) => ChaCha8Rng::seed_from_u64(seed),
            None => ChaCha8Rng::from_os_rng(),
        };
        rng.set_stream(choice as u64);
        let penalised = params.repetition_penalty != 1.0;
        let prompt_tokens =
            if penalised { request.prompt.iter().copied().collect() } else { HashSet::new() };
        Self {
            params,
            num_logprobs: request.logprobs,
            rng,
            prompt_tokens,
            output_counts: HashMap::new(),
            num_generated: 0,
        }
    }

    /// Chooses the next token and remembers it. `logits` (one per token of the vocabulary) is
    /// used as scratch space.
    ///
    /// # Errors
    /// Where the logits hold no distribution; the sampler is unchanged then.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<Sampled, SamplingError> {
        check_finite(logits)?;
        let raw = self.num_logprobs.map(|count| (LogSoftmax::new(logits), top(logits, count)));
        let before = raw.is_some().then(|| logits.to_vec());
        self.modify(logits);
        let token = if self.params.is_greedy() { argmax(logits)? } else { self.draw(logits)? };
        let logprobs =
            raw.zip(before).map(|((softmax, top), before)| softmax.describe(&before, token, top));
        *self.output_counts.entry(token).or_default() += 1;
        self.num_generated += 1;
        Ok(Sampled { token, logprobs })
    }

    fn modify(&self, logits: &mut [f32]) {
        let params = &self.params;
        for &(token, bias) in &params.logit_bias {
            logits[token as usize] += bias;
        }
        if params.repetition_penalty != 1.0 {
            let unseen_output = |t: &&u32| !self.prompt_tokens.contains(t);
            let output = self.output_counts.keys().filter(unseen_output);
            for &token in self.prompt_tokens.iter().chain(output) {
                let logit = &mut logits[token as usize];
                let penalty = params.repetition_penalty;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
        for (&token, &count) in &self.output_counts {
            logits[token as usize] -=
                params.presence_penalty + params.frequency_penalty * count as f32;
        }
        if self.num_generated < params.min_tokens {
            for &token in &params.stop_token_ids {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if best == f32::NEG_INFINITY {
            return Err(SamplingError::NothingAllowed);
        }
        // Weights relative to the best token: it weighs 1, so nothing overflows.
        let inverse = 1.0 / f64::from(self.params.temperature);
        let weigh = |logit: f32| (f64::from(logit - best) * inverse).exp();
        let mut kept: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&l| weigh(l))).collect();
        let min_weight = f64::from(self.params.min_p);
        kept.retain(|&(_, weight)| weight > 0.0 && weight >= min_weight);
        if let Some(count) = self.params.top_k {
            keep_top_k(&mut kept, count);
        }
        if self.params.top_p < 1.0 {
            keep_nucleus(&mut kept, f64::from(self.params.top_p));
        }
        let total: f64 = kept.iter().map(|&(_, weight)| weight).sum();
        let mut left = self.rng.random::<f64>() * total;
        for &(token, weight) in &kept {
            left -= weight;
            if left < 0.0 {
                return Ok(token);
            }
        }
        // Rounding can leave a remainder after the last one.
        kept.last().map(|&(token, _)| token).ok_or(SamplingError::NothingAllowed)
    }
}

/// The log-probabilities of a prompt token, `chosen`, under the row before it.
///
/// # Errors
/// Where the logits hold no distribution.
pub fn score(logits: &[f32], chosen: u32, count: usize) -> Result<TokenLogprobs, SamplingError> {
    check_finite(logits)?;
    Ok(LogSoftmax::new(logits).describe(logits, chosen, top(logits, count)))
}

/// What turns a logit into a log-probability.
struct LogSoftmax {
    log_sum_exp: f64,
}

impl LogSoftmax {
    fn new(logits: &[f32]) -> Self {
        let best = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - best).exp()).sum();
        Self { log_sum_exp: best + sum.ln() }
    }

    fn logprob(&self, logits: &[f32], token: u32) -> Logprob {
        // JSON has no infinity: a token ruled out by the model gets the lowest finite value.
        let logprob = (f64::from(logits[token as usize]) - self.log_sum_exp) as f32;
        Logprob { token, logprob: logprob.max(f32::MIN) }
    }

    fn describe(&self, logits: &[f32], chosen: u32, top: Vec<u32>) -> TokenLogprobs {
        TokenLogprobs {
            chosen: self.logprob(logits, chosen),
            top: top.into_iter().map(|token| self.logprob(logits, token)).collect(),
        }
    }
}

fn check_finite(logits: &[f32]) -> Result<(), SamplingError> {
    match logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY) {
        Some(token) => Err(SamplingError::NotFinite { token }),
        None => Ok(()),
    }
}

/// The token with the largest logit; of equals, the lowest id.
fn argmax(logits: &[f32]) -> Result<u32, SamplingError> {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    if best.1 == f32::NEG_INFINITY { Err(SamplingError::NothingAllowed) } else { Ok(best.0) }
}

/// The `count` largest, best first; equals in order of id.
fn top(logits: &[f32], count: usize) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..).take(logits.len()).collect();
    let by_logit =
        |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if count == 0 {
        return Vec::new();
    }
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count - 1, by_logit);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(by_logit);
    tokens
}

fn heavier_first(a: &(u32, f64), b: &(u32, f64)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn keep_top_k(kept: &mut Vec<(u32, f64)>, count: usize) {
    if count < kept.len() && count > 0 {
        kept.select_nth_unstable_by(count - 1, heavier_first);
        kept.truncate(count);
        // Selection leaves them in no defined order; the draw needs one.
        kept.sort_unstable_by_key(|&(token, _)| token);
    }
}

/// The fewest most probable tokens whose share reaches `top_p`; at least one.
fn keep_nucleus(kept: &mut Vec<(u32, f64)>, top_p: f64) {
    let total: f64 = kept.iter().map(|&(_, weight)| weight).sum();
    // All tokens lighter than this together weigh less than what may be dropped, so they need no
    // sorting: of a whole vocabulary a handful is left.
    let negligible = (1.0 - top_p) * total / kept.len() as f64;
    kept.retain(|&(_, weight)| weight >= negligible);
    kept.sort_unstable_by(heavier_first);
    let mut sum = 0.0;
    let reaches = |&(_, weight): &(u32, f64)| {
        sum += weight;
        sum >= top_p * total
    };
    let last = kept.iter().position(reaches).unwrap_or(kept.len().saturating_sub(1));
    kept.truncate(last + 1);
}

#[cfg(test)]
mod tests;
