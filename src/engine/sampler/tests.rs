//! The distribution, the penalties and the errors, against what the words promise.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::engine::request::{RequestId, TenantShare};

fn request(sampling: SamplingParams, logprobs: Option<Reported>) -> Request {
    Request {
        id: RequestId(1),
        arrived: Instant::now(),
        prompt: vec![1, 2, 3],
        n: 1,
        sampling,
        logprobs,
        prompt_logprobs: None,
        adapter: None,
        tenant: TenantShare::default(),
        cache_owner: String::new(),
        cache_salt: String::new(),
        grammar: None,
        num_speculative_tokens: 0,
        pooling: None,
    }
}

fn sampler(sampling: SamplingParams) -> Sampler {
    Sampler::new(&request(sampling, None), 0)
}

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..SamplingParams::default() }
}

fn seeded(seed: u64) -> SamplingParams {
    SamplingParams { seed: Some(seed), ..SamplingParams::default() }
}

/// The share of each token over many draws from one distribution.
fn shares(params: SamplingParams, logits: &[f32]) -> Vec<f64> {
    const DRAWS: usize = 20_000;
    let mut sampler = sampler(params);
    let mut counts = vec![0_usize; logits.len()];
    for _ in 0..DRAWS {
        let token = sampler.sample(logits).unwrap().token;
        counts[token as usize] += 1;
    }
    counts.into_iter().map(|count| count as f64 / DRAWS as f64).collect()
}

fn assert_close(actual: &[f64], expected: &[f64]) {
    for (token, (a, e)) in actual.iter().zip(expected).enumerate() {
        // Five standard deviations of 20,000 draws.
        assert!((a - e).abs() < 0.018, "token {token}: {a} instead of {e}");
        assert!(*e > 0.0 || *a == 0.0, "token {token} was ruled out and drawn");
    }
}

fn logits_of(probabilities: &[f64]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln() as f32).collect()
}

#[test]
fn greedy_takes_the_largest_and_of_equals_the_first() {
    let token = |logits: &[f32]| sampler(greedy()).sample(logits).unwrap().token;
    assert_eq!(token(&[0.5, 2.0, 1.0]), 1);
    assert_eq!(token(&[-3.0, -1.0, -1.0]), 1);
    assert_eq!(token(&[f32::NEG_INFINITY, -1e30]), 1);
}

#[test]
fn draws_follow_the_distribution() {
    let p = [0.5, 0.3, 0.15, 0.05];
    let logits = logits_of(&p);
    assert_close(&shares(seeded(1), &logits), &p);
    let params = SamplingParams { top_k: Some(2), ..seeded(2) };
    assert_close(&shares(params, &logits), &[0.625, 0.375, 0.0, 0.0]);
    let params = SamplingParams { top_p: 0.79, ..seeded(3) };
    assert_close(&shares(params, &logits), &[0.625, 0.375, 0.0, 0.0]);
    let params = SamplingParams { min_p: 0.2, ..seeded(4) };
    assert_close(&shares(params, &logits), &[0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0]);
    let params = SamplingParams { temperature: 0.5, ..seeded(5) };
    let squares: Vec<f64> = p.iter().map(|p| p * p).collect();
    let total: f64 = squares.iter().sum();
    assert_close(&shares(params, &logits), &squares.iter().map(|s| s / total).collect::<Vec<_>>());
}

#[test]
fn top_p_keeps_at_least_one_token() {
    let params = SamplingParams { top_p: 1e-9, ..seeded(6) };
    assert_close(&shares(params, &logits_of(&[0.2, 0.5, 0.3])), &[0.0, 1.0, 0.0]);
}

#[test]
fn bias_and_penalties_change_the_choice() {
    let first =
        |params: SamplingParams, logits: &[f32]| sampler(params).sample(logits).unwrap().token;
    assert_eq!(
        first(SamplingParams { logit_bias: vec![(2, 5.0)], ..greedy() }, &[1.0, 2.0, 0.0]),
        2
    );
    assert_eq!(
        first(SamplingParams { logit_bias: vec![(1, -100.0)], ..greedy() }, &[1.0, 2.0, 0.0]),
        0
    );
    // The prompt is 1, 2, 3: repetition counts it, presence and frequency do not.
    let logits = [0.9, 1.0, 1.0, 1.0];
    assert_eq!(first(SamplingParams { repetition_penalty: 1.5, ..greedy() }, &logits), 0);
    assert_eq!(first(SamplingParams { presence_penalty: 2.0, ..greedy() }, &logits), 1);
    let negative = [-1.2, -1.0, -1.0, -1.0];
    assert_eq!(first(SamplingParams { repetition_penalty: 1.5, ..greedy() }, &negative), 0);
}

#[test]
fn presence_counts_once_and_frequency_every_time() {
    let run = |params: SamplingParams| {
        let mut sampler = sampler(params);
        (0..6).map(|_| sampler.sample(&[1.0, 0.0]).unwrap().token).collect::<Vec<_>>()
    };
    assert_eq!(run(SamplingParams { presence_penalty: 0.9, ..greedy() }), [0, 0, 0, 0, 0, 0]);
    assert_eq!(run(SamplingParams { presence_penalty: 1.5, ..greedy() }), [0, 1, 0, 0, 0, 0]);
    assert_eq!(run(SamplingParams { frequency_penalty: 0.6, ..greedy() }), [0, 0, 1, 0, 1, 0]);
}

#[test]
fn stop_tokens_are_banned_before_min_tokens() {
    let params = SamplingParams { min_tokens: 2, stop_token_ids: vec![1, 99], ..greedy() };
    let mut sampler = sampler(params);
    let tokens: Vec<_> = (0..3).map(|_| sampler.sample(&[0.0, 5.0]).unwrap().token).collect();
    assert_eq!(tokens, [0, 0, 1]);
}

#[test]
fn a_distribution_that_is_none_is_an_error() {
    let error = |logits: &[f32]| sampler(greedy()).sample(logits).unwrap_err();
    assert_eq!(error(&[0.0, f32::NAN]), SamplingError::NotFinite { token: 1 });
    assert_eq!(error(&[f32::INFINITY, 0.0]), SamplingError::NotFinite { token: 0 });
    assert_eq!(error(&[f32::NEG_INFINITY; 3]), SamplingError::NothingAllowed);
    let drawn = sampler(seeded(1)).sample(&[f32::NEG_INFINITY; 3]).unwrap_err();
    assert_eq!(drawn, SamplingError::NothingAllowed);
}

#[test]
fn choices_of_one_seed_differ_and_repeat() {
    let tokens = |choice: usize| {
        let mut sampler = Sampler::new(&request(seeded(7), None), choice);
        (0..32).map(|_| sampler.sample(&[0.0; 16]).unwrap().token).collect::<Vec<_>>()
    };
    assert_eq!(tokens(0), tokens(0));
    assert_eq!(tokens(1), tokens(1));
    assert_ne!(tokens(0), tokens(1));
}

proptest! {
    #[test]
    fn logprobs_are_the_unmodified_distribution(
        logits in proptest::collection::vec(-20.0_f32..20.0, 2..60),
        count in 0..25_usize,
        seed in any::<u64>(),
    ) {
        let params = SamplingParams {
            seed: Some(seed), temperature: 0.7, top_p: 0.9, logit_bias: vec![(0, 3.0)],
            ..SamplingParams::default()
        };
        let sampled = Sampler::new(&request(params, Some(Reported::Top(count))), 0)
            .sample(&logits)
            .unwrap();
        let reported = sampled.logprobs.unwrap();
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let expected = |token: u32| f64::from(logits[token as usize]) - total.ln();
        prop_assert_eq!(reported.chosen.token, sampled.token);
        prop_assert!((f64::from(reported.chosen.logprob) - expected(sampled.token)).abs() < 1e-4);
        prop_assert_eq!(reported.top.len(), count.min(logits.len()));
        for pair in reported.top.windows(2) {
            prop_assert!(pair[0].logprob >= pair[1].logprob);
        }
        for entry in &reported.top {
            prop_assert!((f64::from(entry.logprob) - expected(entry.token)).abs() < 1e-4);
            if entry.token == sampled.token {
                prop_assert_eq!(entry.logprob.to_bits(), reported.chosen.logprob.to_bits());
            }
        }
        if let Some(place) = reported.top.iter().position(|entry| entry.token == sampled.token) {
            prop_assert_eq!(reported.rank, place + 1);
        }
        prop_assert!(reported.rank <= logits.len());
        let floor = reported.top.last().map_or(f32::INFINITY, |entry| entry.logprob);
        let better = (0..logits.len() as u32)
            .filter(|&token| expected(token) > f64::from(floor) + 1e-4)
            .count();
        prop_assert!(better <= count);
    }

    #[test]
    fn every_token_has_the_rank_of_its_place_in_order(
        logits in proptest::collection::vec(prop_oneof![-3.0_f32..3.0, Just(0.5), Just(f32::NEG_INFINITY)], 1..40),
    ) {
        prop_assume!(logits.iter().any(|logit| *logit > f32::NEG_INFINITY));
        let order = score(&logits, 0, logits.len()).unwrap().top;
        for (place, entry) in order.iter().enumerate() {
            for count in [0, 3, logits.len()] {
                let scored = score(&logits, entry.token, count).unwrap();
                prop_assert_eq!((scored.rank, scored.chosen.logprob), (place + 1, entry.logprob));
            }
        }
    }

    #[test]
    fn tokens_that_were_asked_for_are_reported_whatever_is_chosen(
        logits in proptest::collection::vec(-20.0_f32..20.0, 8..30),
        asked in proptest::sample::subsequence((0_u32..8).collect::<Vec<_>>(), 1..8),
        seed in any::<u64>(),
    ) {
        let reported = Some(Reported::These(asked.clone().into()));
        let sampled = Sampler::new(&request(seeded(seed), reported), 0).sample(&logits).unwrap();
        let reported = sampled.logprobs.unwrap();
        let mut expected = vec![sampled.token];
        expected.extend(asked.iter().filter(|token| **token != sampled.token));
        let tokens: Vec<u32> = reported.top.iter().map(|entry| entry.token).collect();
        prop_assert_eq!(tokens, expected);
        let all = score(&logits, sampled.token, logits.len()).unwrap();
        prop_assert_eq!((reported.chosen, reported.rank), (all.chosen, all.rank));
        for entry in reported.top {
            prop_assert!(all.top.contains(&entry));
        }
    }

    /// The nucleus without its shortcut: sort everything, cut where the share is reached.
    #[test]
    fn the_nucleus_equals_the_naive_one(
        logits in proptest::collection::vec(-8.0_f32..8.0, 1..200),
        top_p in 0.0_f64..1.0,
    ) {
        let mut naive: Vec<(u32, f64)> =
            (0..).zip(logits.iter().map(|&l| f64::from(l).exp())).collect();
        let mut fast = naive.clone();
        naive.sort_by(heavier_first);
        let total: f64 = naive.iter().map(|entry| entry.1).sum();
        let mut sum = 0.0;
        let mut kept = Vec::new();
        for entry in naive {
            kept.push(entry.0);
            sum += entry.1;
            if sum >= top_p * total {
                break;
            }
        }
        keep_nucleus(&mut fast, top_p as f32, None);
        let fast: Vec<u32> = fast.into_iter().map(|entry| entry.0).collect();
        // Rounding of the two sums may move the cut by one token.
        let shorter = fast.len().min(kept.len());
        prop_assert!(fast.len().abs_diff(kept.len()) <= 1);
        prop_assert_eq!(&fast[..shorter], &kept[..shorter]);
    }
}

#[test]
fn only_allowed_tokens_are_drawn_and_log_probabilities_are_the_models() {
    let allowed = |params: SamplingParams| SamplingParams {
        allowed_token_ids: Some(vec![3, 1, 1]),
        ..params
    };
    let logits = logits_of(&[0.4, 0.1, 0.2, 0.3]);
    assert_close(&shares(allowed(seeded(11)), &logits), &[0.0, 0.25, 0.0, 0.75]);
    let mut sampler = Sampler::new(&request(allowed(greedy()), Some(Reported::Top(1))), 0);
    let Sampled { token, logprobs } = sampler.sample(&logits).unwrap();
    let logprobs = logprobs.unwrap();
    assert_eq!((token, logprobs.top[0].token), (3, 0));
    assert!((logprobs.chosen.logprob - 0.3_f32.ln()).abs() < 1e-6);
}

proptest! {
    #[test]
    fn a_nucleus_is_the_shortest_head_of_the_sorted_list(
        weights in prop::collection::vec(prop_oneof![Just(0.5_f64), 0.001_f64..1.0], 0..1500),
        top_p in 0.0_f32..1.0,
    ) {
        let mut found: Vec<(u32, f64)> = (0..).zip(weights).collect();
        let mut expected = found.clone();
        let total: f64 = expected.iter().map(|(_, weight)| weight).sum();
        expected.retain(|(_, weight)| *weight >= negligible(top_p, total, found.len()));
        expected.sort_by(heavier_first);
        let mut sum = 0.0;
        let last = expected.iter().position(|(_, weight)| {
            sum += weight;
            sum >= f64::from(top_p) * total
        });
        expected.truncate(last.map_or(expected.len(), |last| last + 1));
        keep_nucleus(&mut found, top_p, None);
        prop_assert_eq!(found, expected);
    }
}
