//! From a row of logits to the next token. Knows one sequence's parameters and history, no batch:
//! what else runs in the same step cannot change its choice.
//!
//! Order: log-probabilities of the unmodified distribution are taken first; then logit bias,
//! penalties, the ban on tokens that are not allowed, on stop tokens before `min_tokens`, and what the
//! grammar rules out; then temperature, `min_p`, `top_k` and `top_p`; then one draw from the sequence's
//! own random stream.

use std::collections::HashMap;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::constraint::Constraint;
use super::request::{
    FinishReason, Logprob, PromptTokens, Reported, Request, SamplingParams, TokenLogprobs,
};
use crate::grammar::MatchError;

/// The model produced no usable distribution for one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// A logit is NaN or +infinity.
    #[error("the model produced a logit that is not a number for token {token}")]
    NotFinite {
        /// The first such token.
        token: usize,
    },
    /// Every token has a probability of 0.
    #[error("the model produced no token with a probability above 0")]
    NoDistribution,
    /// Every token is ruled out, by what the request allows.
    #[error("no token is allowed next")]
    NothingAllowed,
    /// The text cannot go on as its grammar asks.
    #[error(transparent)]
    Grammar(#[from] MatchError),
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
    reported: Option<Reported>,
    rng: ChaCha8Rng,
    /// Where repetition is penalised.
    prompt: Option<PromptTokens>,
    /// Tokens of the output that the prompt does not have.
    new_tokens: Vec<u32>,
    output_counts: HashMap<u32, u32>,
    num_generated: usize,
    constraint: Option<Constraint>,
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
        Self {
            prompt: penalised.then(|| request.prompt.clone()),
            new_tokens: Vec::new(),
            params,
            reported: request.logprobs.clone(),
            rng,
            output_counts: HashMap::new(),
            num_generated: 0,
            constraint: request.grammar.as_ref().map(|grammar| Constraint::new(grammar)),
        }
    }

    /// True where the text is complete and nothing may follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::is_complete)
    }

    /// How many of `tokens` could follow, one after the other.
    pub fn count_allowed(&mut self, tokens: &[u32]) -> usize {
        self.constraint.as_mut().map_or(tokens.len(), |constraint| constraint.count_allowed(tokens))
    }

    /// Whether a grammar says what may follow.
    #[must_use]
    pub fn is_constrained(&self) -> bool {
        self.constraint.is_some()
    }

    /// What asking its grammar has taken since this was last called; `None` without a grammar.
    pub fn take_grammar_time(&mut self) -> Option<Duration> {
        self.constraint.as_mut().map(Constraint::take_spent)
    }

    /// How a text ends for which no token could be chosen; `None` where that is a failure.
    #[must_use]
    pub fn end_after(&self, error: SamplingError) -> Option<FinishReason> {
        match error {
            SamplingError::NothingAllowed
                if self.constraint.as_ref().is_some_and(Constraint::may_end) =>
            {
                Some(FinishReason::Complete)
            }
            SamplingError::NothingAllowed
            | SamplingError::Grammar(MatchError::Stuck | MatchError::TooComplex) => {
                Some(FinishReason::Stuck)
            }
            SamplingError::NotFinite { .. }
            | SamplingError::NoDistribution
            | SamplingError::Grammar(MatchError::Failed) => None,
        }
    }

    /// Chooses the next token and remembers it; `logits` has one per token of the vocabulary.
    ///
    /// # Errors
    /// Where the logits hold no distribution; the sampler is unchanged then.
    pub fn sample(&mut self, logits: &[f32]) -> Result<Sampled, SamplingError> {
        check_finite(logits)?;
        let token = self.choose(logits).map_err(|error| match error {
            SamplingError::NothingAllowed if scan::largest(logits) == f32::NEG_INFINITY => {
                SamplingError::NoDistribution
            }
            error => error,
        })?;
        if let Some(constraint) = &mut self.constraint {
            constraint.advance(token, &self.params.stop_token_ids)?;
        }
        let logprobs = self.reported.as_ref().map(|reported| {
            let beside = match reported {
                Reported::Top(count) => top(logits, *count),
                Reported::These(tokens) => {
                    let others = tokens.iter().copied().filter(|other| *other != token);
                    std::iter::once(token).chain(others).collect()
                }
            };
            LogSoftmax::new(logits).describe(logits, token, beside)
        });
        self.remember(token);
        Ok(Sampled { token, logprobs })
    }

    fn remember(&mut self, token: u32) {
        let count = self.output_counts.entry(token).or_default();
        let is_new = |prompt: &PromptTokens| prompt.distinct().binary_search(&token).is_err();
        if *count == 0 && self.prompt.as_ref().is_some_and(is_new) {
            self.new_tokens.push(token);
        }
        *count += 1;
        self.num_generated += 1;
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        let stops = &self.params.stop_token_ids;
        let allowed = match &mut self.constraint {
            Some(constraint) => Some(constraint.allowed(stops)?),
            None => None,
        };
        if self.params.is_greedy() && allowed.is_none() && !self.modifies() {
            return argmax(logits);
        }
        let mut logits = logits.to_vec();
        // A text that can only end, ends.
        let ends = allowed.as_ref().is_some_and(|allowed| allowed.is_within(stops));
        self.modify(&mut logits, !ends);
        if let Some(allowed) = &allowed {
            allowed.apply(&mut logits);
        }
        if self.params.is_greedy() { argmax(&logits) } else { self.draw(logits) }
    }

    /// Whether [`Sampler::modify`] changes anything.
    fn modifies(&self) -> bool {
        let params = &self.params;
        let penalises = params.repetition_penalty != 1.0
            || params.presence_penalty != 0.0
            || params.frequency_penalty != 0.0;
        let bans = self.num_generated < params.min_tokens && !params.stop_token_ids.is_empty();
        let restricts = params.allowed_token_ids.is_some();
        penalises || bans || restricts || !params.logit_bias.is_empty()
    }

    fn modify(&self, logits: &mut [f32], bans: bool) {
        let params = &self.params;
        for &(token, bias) in &*params.logit_bias {
            logits[token as usize] += bias;
        }
        if let Some(prompt) = &self.prompt {
            for &token in prompt.distinct().iter().chain(&self.new_tokens) {
                let logit = &mut logits[token as usize];
                *logit = penalised(*logit, params.repetition_penalty);
            }
        }
        for (&token, &count) in &self.output_counts {
            logits[token as usize] -=
                params.presence_penalty + params.frequency_penalty * count as f32;
        }
        if let Some(allowed) = &params.allowed_token_ids {
            allowed.apply(logits);
        }
        if bans && self.num_generated < params.min_tokens {
            for &token in &*params.stop_token_ids {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Draws by the weights of the logits relative to the best: it weighs 1, so nothing overflows.
    fn draw(&mut self, mut logits: Vec<f32>) -> Result<u32, SamplingError> {
        let best = scan::largest(&logits);
        if best == f32::NEG_INFINITY {
            return Err(SamplingError::NothingAllowed);
        }
        scan::weigh(&mut logits, best, 1.0 / self.params.temperature);
        let SamplingParams { min_p, top_k, top_p, .. } = self.params;
        if min_p <= 0.0 && top_k.is_none() && top_p >= 1.0 {
            return Ok(self.draw_any(&logits));
        }
        let allowed = |weight: f32| weight > 0.0 && weight >= min_p;
        let total = match (top_k, min_p > 0.0) {
            (Some(_), _) => None,
            (None, true) => {
                Some(logits.iter().filter(|w| allowed(**w)).copied().map(f64::from).sum())
            }
            (None, false) => Some(scan::run_sums(&logits, logits.len()).iter().sum::<f64>()),
        };
        // Of a whole vocabulary, a nucleus leaves a handful: the others are not even collected.
        let least = total.map_or(0.0, |total| negligible(top_p, total, logits.len()));
        let mut kept = scan::at_least(&logits, min_p, least);
        if let Some(count) = top_k {
            keep_top_k(&mut kept, count);
        }
        if top_p < 1.0 {
            keep_nucleus(&mut kept, top_p, total);
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

    /// Draws from all tokens: the run in which the draw falls, then the token in it.
    fn draw_any(&mut self, weights: &[f32]) -> u32 {
        const RUN: usize = 256;
        let sums = scan::run_sums(weights, RUN);
        let mut left = self.rng.random::<f64>() * sums.iter().sum::<f64>();
        let mut last = 0;
        for (index, (run, sum)) in weights.chunks(RUN).zip(sums).enumerate() {
            if left >= sum {
                left -= sum;
                continue;
            }
            for (token, weight) in run.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                last = index * RUN + token;
                left -= f64::from(*weight);
                if left < 0.0 {
                    return last as u32;
                }
            }
        }
        // Rounding can leave a remainder after the last one that weighs anything.
        let heaviest = || weights.iter().position(|weight| *weight == 1.0).unwrap_or(last);
        if weights[last] > 0.0 { last as u32 } else { heaviest() as u32 }
    }
}

/// A logit by the penalty of repetition. What is finite stays so: neither is a token ruled out by
/// overflow, nor does one become more than all others.
fn penalised(logit: f32, penalty: f32) -> f32 {
    if logit == f32::NEG_INFINITY {
        return logit;
    }
    let penalised = if logit > 0.0 { logit / penalty } else { logit * penalty };
    penalised.clamp(f32::MIN, f32::MAX)
}

/// A weight so small that `count` tokens below it weigh less than half of what a nucleus of `top_p`
/// leaves out of `total`.
fn negligible(top_p: f32, total: f64, count: usize) -> f64 {
    0.5 * (1.0 - f64::from(top_p)) * total / count as f64
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
        let best = f64::from(scan::largest(logits));
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
            rank: rank(logits, chosen),
            top: top.into_iter().map(|token| self.logprob(logits, token)).collect(),
        }
    }
}

fn check_finite(logits: &[f32]) -> Result<(), SamplingError> {
    match scan::not_finite(logits) {
        Some(token) => Err(SamplingError::NotFinite { token }),
        None => Ok(()),
    }
}

/// The token with the largest logit; of equals, the lowest id.
fn argmax(logits: &[f32]) -> Result<u32, SamplingError> {
    let best = scan::largest(logits);
    let first = logits.iter().position(|logit| *logit == best && best > f32::NEG_INFINITY);
    first.map(|token| token as u32).ok_or(SamplingError::NothingAllowed)
}

/// The place of a token among all, best first; equals in order of id.
fn rank(logits: &[f32], token: u32) -> usize {
    let (index, own) = (token as usize, logits[token as usize]);
    let better = logits.iter().filter(|logit| **logit > own).count();
    1 + better + logits[..index].iter().filter(|logit| **logit == own).count()
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

/// The fewest most probable tokens whose share of `total` (all that were allowed; where it is not
/// given, all of these) reaches `top_p`; at least one.
fn keep_nucleus(kept: &mut Vec<(u32, f64)>, top_p: f32, total: Option<f64>) {
    let total = total.unwrap_or_else(|| kept.iter().map(|&(_, weight)| weight).sum());
    let negligible = negligible(top_p, total, kept.len());
    let top_p = f64::from(top_p);
    kept.retain(|&(_, weight)| weight >= negligible);
    let (mut sum, mut sorted, mut size) = (0.0, 0, 64);
    // Only as many are sorted as the nucleus takes: first a few, then eight times as many.
    while sorted < kept.len() {
        let rest = &mut kept[sorted..];
        let count = rest.len().min(size);
        if count < rest.len() {
            rest.select_nth_unstable_by(count - 1, heavier_first);
        }
        rest[..count].sort_unstable_by(heavier_first);
        let reaches = |&(_, weight): &(u32, f64)| {
            sum += weight;
            sum >= top_p * total
        };
        if let Some(last) = rest[..count].iter().position(reaches) {
            return kept.truncate(sorted + last + 1);
        }
        (sorted, size) = (sorted + count, 8 * size);
    }
}

mod scan;
#[cfg(test)]
mod tests;
