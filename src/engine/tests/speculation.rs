//! Guessing ahead: the same answer in fewer steps. That it is the same to the last bit, whatever
//! else happens, is part of the engine's one property in the module above.

use super::*;

const DRAFTED: &str = "vllm:spec_decode_num_draft_tokens_total";
const ACCEPTED: &str = "vllm:spec_decode_num_accepted_tokens_total";

/// Three tokens over and over: the fake model mostly goes on like this.
fn periodic(max_tokens: usize) -> Request {
    let prompt = [4, 5, 6].into_iter().cycle().take(15).collect();
    let mut request = request(prompt, max_tokens);
    request.sampling.stop_token_ids = Arc::default();
    Request { logprobs: Some(request::Reported::Top(2)), ..request }
}

fn steps(rig: &mut Rig, request: &Request) -> usize {
    let mut stream = rig.submit(request.clone()).remove(0);
    let mut steps = 0;
    while !rig.engine.scheduler.is_idle() || rig.handle.has_submissions() {
        rig.step();
        steps += 1;
    }
    assert_answers(&drain(&mut stream), request);
    steps
}

#[test]
fn a_text_that_repeats_itself_takes_fewer_steps() {
    let (mut guessed, mut plain) = (Rig::new(64, 4, 8, 64), Rig::new(64, 4, 8, 64));
    let without = steps(&mut plain, &periodic(40));
    let with = steps(&mut guessed, &Request { num_speculative_tokens: 6, ..periodic(40) });
    assert!(with * 4 < without * 3, "{with} steps with guesses, {without} without");
    let generated = guessed.metric("vllm:generation_tokens_total");
    assert_eq!(generated, plain.metric("vllm:generation_tokens_total"));
    assert_eq!(
        guessed.metric(ACCEPTED),
        generated - with,
        "a step gives one token, and its guesses"
    );
    assert!(guessed.metric(DRAFTED) >= guessed.metric(ACCEPTED));
    assert_eq!(plain.metric(DRAFTED), 0);
}

#[test]
fn every_end_is_where_it_would_be_without() {
    for max_tokens in 1..20 {
        for stop in 0..30 {
            let mut request = Request { num_speculative_tokens: 8, ..periodic(max_tokens) };
            request.sampling.stop_token_ids = [stop].into();
            steps(&mut Rig::new(64, 4, 8, 64), &request);
        }
    }
}

#[test]
fn the_contexts_end_is_never_passed() {
    let prompt: Vec<u32> = [7, 8].into_iter().cycle().take(MAX_MODEL_LEN - 6).collect();
    let request = Request { num_speculative_tokens: 16, ..request(prompt, 50) };
    // The pool has room for one sequence of the whole context, and no token more.
    steps(&mut Rig::new(MAX_MODEL_LEN / 4, 4, 8, 64), &request);
}

#[test]
fn only_greedy_choices_are_guessed_for() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let mut sampled = Request { num_speculative_tokens: 6, ..periodic(30) };
    sampled.sampling.temperature = 0.3;
    sampled.sampling.seed = Some(3);
    steps(&mut rig, &sampled);
    assert_eq!(rig.metric(DRAFTED), 0);
}

#[test]
fn wrong_guesses_are_never_found_in_the_cache() {
    let mut rig = Rig::new(64, 2, 8, 64);
    let first = Request { num_speculative_tokens: 8, ..periodic(40) };
    let (events, _) = rig.answer(&first);
    assert!(rig.metric(DRAFTED) > rig.metric(ACCEPTED), "every guess was right");
    let text = [first.prompt.to_vec(), tokens(&events)].concat();
    // Texts that leave the first one's at any place find its blocks up to there.
    for branch in 1..text.len().min(MAX_MODEL_LEN - 4) {
        let mut prompt = text[..branch].to_vec();
        prompt.push(29);
        let next = Request { num_speculative_tokens: 8, ..request(prompt, 3) };
        let (events, _) = rig.answer(&next);
        assert_answers(&events, &next);
    }
}
