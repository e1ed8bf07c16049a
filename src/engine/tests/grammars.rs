//! Texts that obey a grammar, in the engine. That they are the same in any batch, cached, guessed,
//! forked and preempted is part of the engine's one property in the module above.

use std::sync::LazyLock;
use std::time::Duration;

use super::*;
use crate::grammar::{Grammar, GrammarCompiler, GrammarSpec, Vocabulary};

/// Tokens 1 to 26 are letters, 27 to 29 what stands between them; 0 ends a text, others are none.
static COMPILER: LazyLock<GrammarCompiler> = LazyLock::new(|| {
    let mut vocabulary = Vocabulary::new(VOCAB, &[0]);
    for (id, text) in (1..).zip("abcdefghijklmnopqrstuvwxyz ,\"".chars()) {
        vocabulary.insert(id, text.to_string().as_bytes(), false);
    }
    GrammarCompiler::new(vocabulary, 1 << 20).unwrap()
});

fn regex(text: &str) -> Arc<Grammar> {
    COMPILER.compile(GrammarSpec::Regex(text.to_owned())).unwrap()
}

/// Some that end soon, some that need not end.
pub fn all() -> Vec<Arc<Grammar>> {
    let list = "start: WORD (\", \" WORD)* \nWORD: /[a-z]{1,3}/";
    let list = GrammarSpec::Lark { text: list.to_owned(), schemas: Vec::new() };
    let choice = ["abc", "abq", "xyz zyx"].map(str::to_owned).to_vec();
    vec![
        regex("([b-y]{2,4} )*z"),
        regex("(abc|abq|ef)+"),
        COMPILER.compile(list).unwrap(),
        COMPILER.compile(GrammarSpec::Choice(choice)).unwrap(),
    ]
}

fn text(events: &[Event]) -> String {
    let letters: Vec<char> = " abcdefghijklmnopqrstuvwxyz ,\"".chars().collect();
    tokens(events).into_iter().filter(|token| *token != 0).map(|t| letters[t as usize]).collect()
}

#[test]
fn a_finished_text_ends_without_another_token() {
    let mut rig = Rig::new(64, 4, 8, 64);
    for prompt in 1..20 {
        let grammar = Some(regex("[a-c]{7}"));
        let request =
            Request { grammar, num_speculative_tokens: 4, ..request(vec![prompt; 9], 30) };
        let (events, _) = rig.answer(&request);
        let text = text(&events);
        assert!(text.len() == 7 && text.chars().all(|letter| ('a'..='c').contains(&letter)));
        assert_eq!(tokens(&events).len(), 7);
        assert_eq!(events.last(), Some(&Event::Finished(FinishReason::Complete)));
    }
}

#[test]
fn a_text_ends_where_it_may_and_not_before() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let mut stopped = 0;
    for prompt in 1..30 {
        let grammar = Some(regex("(ab|cd)+"));
        let mut request = Request { grammar, ..request(vec![prompt; 3], 12) };
        // The end is what the model likes best, whenever it may be.
        bias(&mut request, 0, 50.0);
        request.sampling.min_tokens = 3;
        let (events, _) = rig.answer(&request);
        assert_eq!(text(&events).len(), 4, "{}", text(&events));
        stopped += usize::from(events.last() == Some(&Event::Finished(FinishReason::Stop(0))));
    }
    assert_eq!(stopped, 29);
}

#[test]
fn a_text_that_can_only_end_ends_before_min_tokens() {
    let mut rig = Rig::new(64, 4, 8, 64);
    // The whole is one token that could go on; a second one of its kind is never allowed.
    let grammar = Some(regex("a( z)?"));
    let mut request = Request { grammar, ..request(vec![4, 5], 12) };
    request.sampling.min_tokens = 9;
    let (events, _) = rig.answer(&request);
    assert_eq!(text(&events), "a z");
    assert_eq!(events.last(), Some(&Event::Finished(FinishReason::Complete)));
}

#[test]
fn a_request_may_end_a_text_in_its_own_way() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let grammar = Some(regex("[a-c]+"));
    let mut request = Request { grammar, ..request(vec![4, 5], 20) };
    // No letter: no text of the grammar holds it.
    request.sampling.stop_token_ids = [30].into();
    bias(&mut request, 30, 50.0);
    let (events, _) = rig.answer(&request);
    assert_eq!(tokens(&events).len(), 2);
    assert_eq!(events.last(), Some(&Event::Finished(FinishReason::Stop(30))));
}

#[test]
fn guesses_are_of_the_grammar() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let prompt = [2, 3, 4].into_iter().cycle().take(15).collect();
    let grammar = Some(regex("([b-d]{2} )+"));
    let guessed = Request { grammar, num_speculative_tokens: 8, ..request(prompt, 30) };
    let (events, _) = rig.answer(&guessed);
    assert_answers(&events, &guessed);
    let drafted = rig.metric("vllm:spec_decode_num_draft_tokens_total");
    assert!(drafted <= 2 * 30, "{drafted} tokens were guessed");
}

#[test]
fn a_text_that_cannot_go_on_ends_with_what_it_has() {
    let mut rig = Rig::new(64, 4, 8, 64);
    // No token is a capital letter.
    let grammar = regex("abcX");
    let healthy = request(vec![5, 6, 7], 12);
    let mut good = rig.submit(healthy.clone()).remove(0);
    let mut bad =
        rig.submit(Request { grammar: Some(grammar), ..request(vec![8, 9], 12) }).remove(0);
    rig.run_until_idle();
    assert_answers(&drain(&mut good), &healthy);
    let events = drain(&mut bad);
    assert_eq!(text(&events), "abc");
    assert_eq!(events.last(), Some(&Event::Finished(FinishReason::Stuck)));
    assert_eq!(rig.free_blocks(), 64);
}

fn allow(request: &mut Request, tokens: &[u32]) {
    request.sampling.allowed_token_ids = Some(Arc::new(TokenSet::new(tokens, VOCAB)));
}

#[test]
fn a_text_that_may_not_go_on_with_what_is_allowed_ends() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let (a, b, c) = (1, 2, 3);
    let cases: [(&str, &[u32], usize, &str, FinishReason); 6] = [
        // Nothing of the grammar is allowed, at once or later.
        ("[x-z]+", &[a], 0, "", FinishReason::Stuck),
        ("ab[x-z]+", &[a, b], 0, "ab", FinishReason::Stuck),
        // Where the text is complete, that is its end.
        ("ab[x-z]*", &[a, b], 0, "ab", FinishReason::Complete),
        // Only its end is allowed, and not yet; where nothing else is, min_tokens is no matter.
        ("ab[x-z]*", &[0, a, b], 9, "ab", FinishReason::Complete),
        ("(abc)+", &[0, a, b, c], 9, "abcabcabcabc", FinishReason::Length),
        ("abc", &[a, b, c], 9, "abc", FinishReason::Complete),
    ];
    for (pattern, allowed, min_tokens, answer, reason) in cases {
        for temperature in [0.0, 1.0] {
            let grammar = Some(regex(pattern));
            let mut request =
                Request { grammar, num_speculative_tokens: 4, ..request(vec![8, 9], 12) };
            request.sampling.temperature = temperature;
            request.sampling.min_tokens = min_tokens;
            allow(&mut request, allowed);
            let (events, _) = rig.answer(&request);
            assert_eq!((&*text(&events), events.last()), (answer, Some(&Event::Finished(reason))));
        }
    }
}

/// Sixteen texts whose grammar takes a second a time run beside two that take none of it: one without
/// a grammar, one with a fast one.
#[test]
fn slow_grammars_keep_no_other_text_from_its_steps() {
    let mut rig = Rig::new(256, 4, 18, 64);
    let plain = request(vec![5, 6, 7], 30);
    let fast = Request { grammar: Some(regex("[a-z]{30}")), ..request(vec![6, 7, 8], 40) };
    let slow = Request { grammar: Some(regex("[d-z]{4}")), n: 16, ..request(vec![8, 9], 12) };
    let mut slow_ones = rig.submit(slow);
    let mut others = [rig.submit(plain.clone()).remove(0), rig.submit(fast).remove(0)];
    let mut steps = 0;
    while rig.handle.has_submissions() || !rig.engine.scheduler.is_idle() {
        rig.step();
        steps += 1;
        assert!(steps < 500, "some never go on");
        let took = |sequence: &Sequence| {
            let is_slow = sequence.request().prompt.len() == 2;
            Duration::from_millis(if is_slow { 1000 } else { 0 })
        };
        let took: Vec<_> =
            rig.engine.scheduler.running().iter().map(|one| (one.id, took(one))).collect();
        took.into_iter().for_each(|(id, took)| rig.engine.scheduler.grammar_took(id, took));
        if steps == 34 {
            assert_answers(&drain(&mut others[0]), &plain);
            let events = drain(&mut others[1]);
            assert_eq!(text(&events).len(), 30);
            assert_eq!(events.last(), Some(&Event::Finished(FinishReason::Complete)));
            assert_eq!(rig.engine.scheduler.num_running(), 16, "the slow ones sat it out");
        }
    }
    assert!(steps > 34, "the slow ones ended with the others");
    for stream in &mut slow_ones {
        let events = drain(stream);
        assert_eq!(text(&events).len(), 4, "a text that sat out steps is whole: {events:?}");
    }
    assert_eq!(rig.free_blocks(), 256);
}

/// The texts whose turn it is may need the blocks of texts that sit the step out.
#[test]
fn slow_grammars_get_on_where_blocks_are_few() {
    for spare_blocks in 0..12 {
        let mut rig = Rig::new(MAX_MODEL_LEN.div_ceil(4) + spare_blocks, 4, 8, 64);
        rig.grammar_time = Duration::from_millis(50);
        let slow = |prompt| Request { grammar: Some(regex("[a-z]{30}")), ..request(prompt, 40) };
        let requests: Vec<_> = (0..6).map(|i| slow(vec![i + 1; 8])).collect();
        let mut streams: Vec<_> =
            requests.into_iter().map(|request| rig.submit(request).remove(0)).collect();
        rig.run_until_idle();
        for stream in &mut streams {
            let events = drain(stream);
            assert_eq!(text(&events).len(), 30, "{spare_blocks}: {:?}", events.last());
        }
    }
}

#[test]
fn a_text_without_a_grammar_ends_where_nothing_is_allowed() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let mut only_end = request(vec![8, 9], 12);
    allow(&mut only_end, &[0]);
    let (events, _) = rig.answer(&only_end);
    assert_eq!(
        events[1..],
        [Event::Token { token: 0, logprobs: None }, Event::Finished(FinishReason::Stop(0)),]
    );
    only_end.sampling.min_tokens = 1;
    let (events, _) = rig.answer(&only_end);
    assert_eq!(events[1..], [Event::Finished(FinishReason::Stuck)]);
}
