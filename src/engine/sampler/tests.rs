//! The distribution, the penalties and the errors, against what the words promise.

use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::engine::request::{RequestId, TenantShare, TokenSet};

fn request(sampling: SamplingParams, logprobs: Option<Reported>) -> Request {
    Request {
        id: RequestId(1),
        arrived: Instant::now(),
        prompt: PromptTokens::new(vec![1, 2, 3], 512).unwrap(),
        n: 1,
        sampling,
        logprobs,
        prompt_logprobs: None,
        adapter: None,
        tenant: TenantShare::default(),
        cache_owner: String::new(),
        cache_salt: Arc::default(),
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
        first(SamplingParams { logit_bias: [(2, 5.0)].into(), ..greedy() }, &[1.0, 2.0, 0.0]),
        2
    );
    assert_eq!(
        first(SamplingParams { logit_bias: [(1, -100.0)].into(), ..greedy() }, &[1.0, 2.0, 0.0]),
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
    let params = SamplingParams { min_tokens: 2, stop_token_ids: [1, 99].into(), ..greedy() };
    let mut sampler = sampler(params);
    let tokens: Vec<_> = (0..3).map(|_| sampler.sample(&[0.0, 5.0]).unwrap().token).collect();
    assert_eq!(tokens, [0, 0, 1]);
}

#[test]
fn a_distribution_that_is_none_is_an_error() {
    let error = |logits: &[f32]| sampler(greedy()).sample(logits).unwrap_err();
    assert_eq!(error(&[0.0, f32::NAN]), SamplingError::NotFinite { token: 1 });
    assert_eq!(error(&[f32::INFINITY, 0.0]), SamplingError::NotFinite { token: 0 });
    assert_eq!(error(&[f32::NEG_INFINITY; 3]), SamplingError::NoDistribution);
    let drawn = sampler(seeded(1)).sample(&[f32::NEG_INFINITY; 3]).unwrap_err();
    assert_eq!(drawn, SamplingError::NoDistribution);
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
            seed: Some(seed), temperature: 0.7, top_p: 0.9, logit_bias: [(0, 3.0)].into(),
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
        allowed_token_ids: Some(Arc::new(TokenSet::new(&[3, 1, 1], 4))),
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

/// Numbers at the ends of what a request may say, and of what float32 can hold.
fn extreme(low: f32, high: f32) -> impl Strategy<Value = f32> {
    let inside =
        [1e-45, 1e-39, 2.9e-39, 1e-38, 1e-20, 1e-6, 9e-6, 1e-5, 1.1e-5, 0.01, 0.999_999_94, 1.0];
    let inside: Vec<f32> = inside.into_iter().filter(|x| (low..=high).contains(x)).collect();
    prop_oneof![Just(low), Just(high), prop::sample::select(inside), low..=high]
}

fn extreme_params() -> impl Strategy<Value = SamplingParams> {
    let nucleus = (
        extreme(0.0, 2.0),
        extreme(0.0, 1.0),
        extreme(0.0, 1.0),
        prop::option::of(prop_oneof![1..4_usize, Just(usize::MAX)]),
    );
    let penalties = (extreme(0.01, 100.0), extreme(-2.0, 2.0), extreme(-2.0, 2.0));
    let biases = prop::collection::btree_map(0..8_u32, extreme(-100.0, 100.0), 0..8);
    let lists = (biases, prop::option::of(prop::collection::vec(0..8_u32, 1..8)), any::<u64>());
    (nucleus, penalties, lists).prop_map(|(nucleus, penalties, (biases, allowed, seed))| {
        let (temperature, top_p, min_p, top_k) = nucleus;
        let (repetition_penalty, presence_penalty, frequency_penalty) = penalties;
        SamplingParams {
            temperature,
            top_p,
            min_p,
            top_k,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias: biases.into_iter().collect(),
            allowed_token_ids: allowed.map(|ids| Arc::new(TokenSet::new(&ids, 8))),
            ..seeded(seed)
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever a request may say, a token comes: one that is allowed and possible, and as many
    /// times as it is asked.
    #[test]
    fn extreme_parameters_choose_a_token_that_is_possible(
        params in extreme_params(),
        logits in prop::collection::vec(
            prop_oneof![
                4 => -20.0_f32..20.0,
                1 => prop::sample::select(vec![
                    f32::MIN, f32::MAX, f32::NEG_INFINITY, 0.0, -0.0, 1e-45, 3e36, -3e36,
                ]),
            ],
            8,
        ),
    ) {
        let possible = |token: usize| {
            let allowed = params.allowed_token_ids.as_ref();
            logits[token] > f32::NEG_INFINITY && allowed.is_none_or(|set| set.contains(token as u32))
        };
        let mut sampler = sampler(params.clone());
        for _ in 0..5 {
            match sampler.sample(&logits) {
                Ok(sampled) => prop_assert!(possible(sampled.token as usize), "{sampled:?}"),
                Err(error) => {
                    prop_assert!(!(0..8).any(possible), "{error}");
                    let end = (logits.iter().any(|logit| *logit > f32::NEG_INFINITY))
                        .then_some(FinishReason::Stuck);
                    prop_assert_eq!(sampler.end_after(error), end);
                }
            }
        }
    }

    /// Down to where it is greedy, a temperature draws the likeliest token unless others are as
    /// likely; from there on, it is the likeliest at once.
    #[test]
    fn tiny_temperatures_take_the_likeliest(
        temperature in extreme(0.0, 1e-5),
        logits in prop::collection::vec(-20.0_f32..20.0, 2..40),
        seed in any::<u64>(),
    ) {
        let mut sampler = sampler(SamplingParams { temperature, ..seeded(seed) });
        let best = scan::largest(&logits);
        for _ in 0..3 {
            let token = sampler.sample(&logits).unwrap().token;
            prop_assert!(best - logits[token as usize] < 1e-3);
            if temperature < 1e-5 {
                prop_assert_eq!(Some(token as usize), logits.iter().position(|l| *l == best));
            }
        }
    }
}

#[test]
fn an_overflowing_penalty_leaves_an_order() {
    let params = SamplingParams { repetition_penalty: 0.01, ..greedy() };
    // The prompt is 1, 2, 3.
    let token = sampler(params).sample(&[5.0, 3e37, 3e38, -3e38]).unwrap().token;
    assert!([1, 2].contains(&token));
    let params = SamplingParams { repetition_penalty: 100.0, ..greedy() };
    let token = sampler(params).sample(&[f32::NEG_INFINITY, -3e38, -3e37, -3e38]).unwrap().token;
    assert!(token > 0);
}

#[test]
fn what_a_request_holds_is_shared_by_its_choices() {
    let params = SamplingParams {
        logit_bias: [(1, 1.0)].into(),
        allowed_token_ids: Some(Arc::new(TokenSet::new(&[1, 2], 4))),
        stop_token_ids: [3].into(),
        repetition_penalty: 2.0,
        ..seeded(3)
    };
    let request = request(params, None);
    let samplers: Vec<_> = (0..5).map(|choice| Sampler::new(&request, choice)).collect();
    let SamplingParams { logit_bias, allowed_token_ids, stop_token_ids, .. } = &request.sampling;
    assert_eq!(Arc::strong_count(logit_bias), 6);
    assert_eq!(allowed_token_ids.as_ref().map(Arc::strong_count), Some(6));
    assert_eq!(Arc::strong_count(stop_token_ids), 6);
    let shares = |sampler: &Sampler| sampler.prompt.as_ref().unwrap().shares_with(&request.prompt);
    assert!(samplers.iter().all(shares));
}

proptest! {
    /// Repetition is penalised once for each token of prompt or output, whatever has how many.
    #[test]
    fn repetition_counts_each_token_once(
        prompt in prop::collection::vec(0..16_u32, 1..30),
        rows in prop::collection::vec(prop::collection::vec(-5.0_f32..5.0, 16), 1..12),
        penalty in 0.5_f32..3.0,
    ) {
        let params = SamplingParams { repetition_penalty: penalty, ..greedy() };
        let mut request = request(params, None);
        request.prompt = PromptTokens::new(prompt.clone(), 16).unwrap();
        let mut sampler = Sampler::new(&request, 0);
        let mut seen = prompt;
        for row in rows {
            let score = |token: u32| {
                let logit = row[token as usize];
                match (seen.contains(&token), logit > 0.0) {
                    (false, _) => logit,
                    (true, true) => logit / penalty,
                    (true, false) => logit * penalty,
                }
            };
            let best = (0..16).max_by(|a, b| score(*a).total_cmp(&score(*b)).then(b.cmp(a)));
            let token = sampler.sample(&row).unwrap().token;
            prop_assert_eq!(Some(token), best);
            seen.push(token);
        }
    }
}
