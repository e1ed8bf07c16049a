//! The prefix cache, seen from the engine: who finds what, and that nobody can tell but by time.

use super::*;

/// Seventeen tokens: four blocks of four, and one.
fn prompt() -> Vec<u32> {
    (1..=17).collect()
}

fn version(name: &str, byte: u8) -> Option<Arc<AdapterVersion>> {
    let delta = Arc::new(LowRankDelta::new(AdapterId([byte; 32]), Vec::new()));
    Some(Arc::new(AdapterVersion::new(name.to_owned(), delta)))
}

#[test]
fn a_prompt_is_found_again_only_by_those_who_may_share_it() {
    let who = [
        (0, "", ""),
        (1, "", ""),
        (2, "", ""),
        (0, "", "salt"),
        (1, "", "salt"),
        (1, "", "sal"),
        (1, "acme", "salt"),
        (1, "acmes", "alt"),
        (1, "globex", ""),
        (1, "globex", "salt"),
    ];
    let variants: Vec<Request> = who
        .into_iter()
        .map(|(adapter, owner, salt)| Request {
            adapter: adapters()[adapter].clone(),
            cache_owner: owner.to_owned(),
            cache_salt: salt.into(),
            ..request(prompt(), 3)
        })
        .collect();
    for (i, one) in variants.iter().enumerate() {
        for (j, other) in variants.iter().enumerate() {
            let mut rig = Rig::new(64, 4, 8, 64);
            let (events, cached) = rig.answer(one);
            assert_eq!(cached, 0);
            assert_answers(&events, one);
            let (events, cached) = rig.answer(other);
            assert_eq!(cached, if i == j { 16 } else { 0 }, "{i} before {j}");
            assert_answers(&events, other);
        }
    }
}

#[test]
fn an_adapters_name_plays_no_part() {
    let with = |adapter| Request { adapter, ..request(prompt(), 3) };
    let mut rig = Rig::new(64, 4, 8, 64);
    assert_eq!(rig.answer(&with(version("a", 1))).1, 0);
    // Loaded again under its name, with other weights.
    assert_eq!(rig.answer(&with(version("a", 2))).1, 0);
    // The same weights under another name.
    assert_eq!(rig.answer(&with(version("b", 1))).1, 16);
}

#[test]
fn of_a_prompt_found_whole_the_last_token_is_computed() {
    for (len, cached) in [(1, 0), (4, 0), (5, 4), (8, 4), (16, 12), (17, 16)] {
        let mut rig = Rig::new(64, 4, 8, 64);
        let request = request(prompt()[..len].to_vec(), 1);
        assert_eq!(rig.answer(&request).1, 0);
        let before = rig.rows_computed();
        let (events, found) = rig.answer(&request);
        assert_eq!((found, rig.rows_computed() - before), (cached, len - cached), "{len} tokens");
        assert_answers(&events, &request);
    }
}

#[test]
fn a_conversation_finds_its_own_answers() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let first = request(prompt(), 8);
    let (events, _) = rig.answer(&first);
    let mut next = prompt();
    next.extend(tokens(&events));
    let computed = next.len() - 1;
    next.extend([20, 21, 22, 23]);
    let (events, cached) = rig.answer(&request(next.clone(), 8));
    assert_eq!(cached, computed / 4 * 4, "prompt and answer, but for the last, partial block");
    assert_answers(&events, &request(next, 8));
}

#[test]
fn the_metrics_count_the_tokens_looked_for_and_found() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let (queries, hits) = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total");
    rig.answer(&request(prompt(), 2));
    assert_eq!((rig.metric(queries), rig.metric(hits)), (17, 0));
    // Three choices read one prompt.
    rig.answer(&Request { n: 3, ..request(prompt(), 2) });
    assert_eq!((rig.metric(queries), rig.metric(hits)), (34, 16));
    // Nobody looks where every row is wanted.
    rig.answer(&Request { prompt_logprobs: Some(1), ..request(prompt(), 2) });
    assert_eq!((rig.metric(queries), rig.metric(hits)), (34, 16));
}

#[test]
fn switched_off_it_finds_nothing() {
    let mut rig = Rig::over(BlockManager::new(64, 4), 8, 64);
    for _ in 0..2 {
        assert_eq!(rig.answer(&request(prompt(), 2)).1, 0);
    }
    assert_eq!(rig.metric("vllm:prefix_cache_queries_total"), 0);
}

#[test]
fn a_scored_prompt_is_computed_row_by_row() {
    let mut rig = Rig::new(64, 4, 8, 64);
    rig.answer(&request(prompt(), 2));
    let scored = Request { prompt_logprobs: Some(2), ..request(prompt(), 2) };
    let (events, cached) = rig.answer(&scored);
    assert_eq!(cached, 0);
    let Event::PromptLogprobs(scores) = &events[0] else { panic!("{events:?}") };
    for (position, score) in scores.iter().enumerate().skip(1) {
        let row = logits(&prompt()[..position], None);
        assert_eq!(score.as_ref(), sampler::score(&row, prompt()[position], 2).ok().as_ref());
    }
    assert_answers(&events, &scored);
}

#[test]
fn a_failed_forward_pass_leaves_nothing_to_find() {
    // Chunks of six: the first is computed, the second fails.
    let mut rig = Rig::new(64, 4, 6, 6);
    let mut stream = rig.submit(request(prompt(), 2)).remove(0);
    rig.step();
    rig.model.fails.store(true, Ordering::Relaxed);
    rig.step();
    rig.model.fails.store(false, Ordering::Relaxed);
    assert!(matches!(drain(&mut stream)[..], [Event::Failed(_)]));
    let (events, cached) = rig.answer(&request(prompt(), 2));
    assert_eq!(cached, 0);
    assert_answers(&events, &request(prompt(), 2));
}

#[test]
fn a_poisoned_sequence_leaves_nothing_to_find() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let mut poisoned = request(prompt(), 4);
    poisoned.sampling.logit_bias = [(POISON, 1000.0)].into();
    let (events, _) = rig.answer(&poisoned);
    assert!(matches!(events.last(), Some(Event::Failed(_))));
    assert_eq!(rig.answer(&request(prompt(), 2)).1, 0);
    assert_eq!(rig.answer(&request(prompt(), 2)).1, 16, "a healthy one is found again");
}

#[test]
fn a_preempted_sequence_takes_its_own_blocks_up_again() {
    let run = |blocks: BlockManager| {
        let mut rig = Rig::over(blocks, 8, 64);
        let requests: Vec<_> =
            (0..6).map(|i| request((0..8).map(|p| i * 5 + p % 5 + 1).collect(), 30)).collect();
        let mut streams: Vec<_> =
            requests.iter().map(|request| rig.submit(request.clone()).remove(0)).collect();
        rig.run_until_idle();
        for (stream, request) in streams.iter_mut().zip(&requests) {
            assert_answers(&drain(stream), request);
        }
        assert!(rig.metric("vllm:num_preemptions_total") > 0);
        rig.rows_computed()
    };
    let without = run(BlockManager::new(16, 4));
    let with = run(BlockManager::new(16, 4).with_prefix_cache([9; 32]));
    assert!(with < without, "{with} rows with the cache, {without} without");
}

#[test]
fn a_full_cache_makes_room() {
    let mut rig = Rig::new(16, 4, 8, 64);
    for round in 0..3 {
        for start in 0..13_u32 {
            let prompt: Vec<u32> = (start..start + 17).map(|token| token % 30 + 1).collect();
            let (events, _) = rig.answer(&request(prompt.clone(), 6));
            assert_answers(&events, &request(prompt, 6));
            assert_eq!(rig.free_blocks(), 16, "round {round}");
        }
    }
}

#[test]
fn beside_running_answers_a_long_prompt_comes_in_pieces() {
    let blocks = BlockManager::new(64, 4);
    let config = SchedulerConfig {
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        max_model_len: MAX_MODEL_LEN,
        long_prefill_token_threshold: Some(5),
    };
    let mut rig = Rig::with_config(blocks, config);
    let long = request((0..40).map(|p| p % 29 + 1).collect(), 2);
    // Alone, it is computed at once.
    let mut alone = rig.submit(long.clone()).remove(0);
    rig.step();
    assert_eq!(rig.rows_computed(), 40);
    rig.run_until_idle();
    assert_answers(&drain(&mut alone), &long);

    let answered = request(vec![1, 2, 3], 20);
    let mut running = rig.submit(answered.clone()).remove(0);
    rig.step();
    let mut stream = rig.submit(long.clone()).remove(0);
    for _ in 0..8 {
        let before = rig.rows_computed();
        rig.step();
        assert_eq!(rig.rows_computed() - before, 1 + 5);
    }
    rig.run_until_idle();
    assert_answers(&drain(&mut stream), &long);
    assert_answers(&drain(&mut running), &answered);
}

#[test]
fn what_a_preempted_prompt_has_computed_itself_is_not_reported_as_cached() {
    // A long prompt comes in pieces beside an answer that grows, until there is no room for both.
    let run = |blocks: BlockManager| {
        let config = SchedulerConfig {
            max_num_seqs: 8,
            max_num_batched_tokens: 64,
            max_model_len: MAX_MODEL_LEN,
            long_prefill_token_threshold: Some(2),
        };
        let mut rig = Rig::with_config(blocks, config);
        let mut answered = request(vec![3, 1, 2], 55);
        answered.sampling.stop_token_ids = Arc::default();
        let mut running = rig.submit(answered.clone()).remove(0);
        rig.step();
        let long = request((0..48).map(|p| p % 29 + 1).collect(), 2);
        let mut stream = rig.submit(long.clone()).remove(0);
        rig.run_until_idle();
        assert!(rig.metric("vllm:num_preemptions_total") > 0, "nobody was preempted");
        assert_answers(&drain(&mut running), &answered);
        let events = drain(&mut stream);
        assert_answers(&events, &long);
        let Event::PromptComputed { num_cached_tokens, .. } = events[0] else {
            panic!("{events:?}")
        };
        (num_cached_tokens, rig.rows_computed())
    };
    let (_, without) = run(BlockManager::new(16, 4));
    let (cached, rows) = run(BlockManager::new(16, 4).with_prefix_cache([9; 32]));
    assert!(rows < without, "it took nothing of its own up again");
    assert_eq!(cached, 0);
}
