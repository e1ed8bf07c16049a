//! Passes that fail because of one sequence: that one fails, by an error or a panic, in a chunk of
//! its prompt, while it is answered or among guesses, and nobody else can tell.

use super::*;

/// The token at which the fake device fails.
pub const CULPRIT: u32 = 30;

impl Rig {
    fn failing(self, panics: bool) -> Self {
        self.model.fails_at_culprit.store(true, Ordering::Relaxed);
        self.model.panics.store(panics, Ordering::Relaxed);
        self
    }
}

fn forbid_culprit(mut request: Request) -> Request {
    bias(&mut request, CULPRIT, -1000.0);
    request
}

/// What a request whose text holds [`CULPRIT`] answers: its tokens up to that one, then a failure,
/// unless it has ended by then.
fn assert_fails_at_culprit(events: &[Event], request: &Request) {
    let expected = match request.prompt.contains(&CULPRIT) {
        true => Vec::new(),
        false => {
            let (sampled, _) = oracle(request);
            let culprit = sampled.iter().position(|sampled| sampled.token == CULPRIT);
            match culprit.filter(|place| place + 1 < sampled.len()) {
                Some(place) => sampled[..=place].iter().map(|sampled| sampled.token).collect(),
                None => return assert_answers(events, request),
            }
        }
    };
    assert_eq!(tokens(events), expected);
    assert_eq!(events.last(), Some(&Event::Failed("the forward pass failed".into())));
}

/// A request, and whether its text may hold [`CULPRIT`].
fn any_requests() -> impl Strategy<Value = Vec<Request>> {
    let one = (any_request(), 0..5_u32, any::<prop::sample::Index>());
    let made = one.prop_map(|(mut request, kind, place)| {
        match kind {
            0 => {
                let mut prompt = request.prompt.to_vec();
                prompt[place.index(request.prompt.len())] = CULPRIT;
                request.prompt = known(prompt);
            }
            1 => bias(&mut request, CULPRIT, 12.0),
            _ => return forbid_culprit(request),
        }
        request
    });
    proptest::collection::vec(made, 2..9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Adapters, grammars, forks, guesses, chunks and preemption in any mix: who does not read the
    /// token at which the device fails answers as alone, to the last bit, and who does fails there.
    #[test]
    fn a_sequence_that_fails_the_pass_fails_alone(
        requests in any_requests(),
        block_size in 1..9_usize,
        spare_blocks in 0..12_usize,
        max_num_seqs in 2..9_usize,
        budget in 9..80_usize,
        panics in any::<bool>(),
    ) {
        let blocks = MAX_MODEL_LEN.div_ceil(block_size) + spare_blocks;
        let mut rig = Rig::new(blocks, block_size, max_num_seqs, budget).failing(panics);
        let open = rig.run(&requests);
        prop_assert_eq!(rig.free_blocks(), blocks);
        for mut asked in open {
            let events = drain(&mut asked.stream);
            if asked.request.prompt.contains(&CULPRIT) || asked.is_known() {
                assert_fails_at_culprit(&events, &asked.request);
            }
        }
        // Nothing of what a failed pass left behind is ever found.
        rig.model.fails_at_culprit.store(false, Ordering::Relaxed);
        for request in requests {
            let (events, _) = rig.answer(&request);
            assert_answers(&events, &request);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Where every pass of several sequences fails, and leaves its slots undefined, nobody can tell:
    /// copies of blocks that choices share, guesses, chunks and preemption included.
    #[test]
    fn passes_that_work_only_alone_answer_as_ever(
        requests in proptest::collection::vec(any_request().prop_map(forbid_culprit), 2..10),
        block_size in 1..9_usize,
        spare_blocks in 0..6_usize,
        budget in 9..80_usize,
        panics in any::<bool>(),
    ) {
        let blocks = MAX_MODEL_LEN.div_ceil(block_size) + spare_blocks;
        let mut rig = Rig::new(blocks, block_size, 16, budget).failing(panics);
        rig.model.fails_together.store(true, Ordering::Relaxed);
        let mut open = rig.run(&requests);
        prop_assert_eq!(rig.free_blocks(), blocks);
        open.iter_mut().for_each(Asked::assert_answers);
    }
}

#[test]
fn a_culprit_is_found_in_few_passes_and_everybody_else_goes_on() {
    for panics in [false, true] {
        let mut rig = Rig::new(64, 4, 16, 512).failing(panics);
        let prompt = |i: u32| if i == 5 { vec![1, CULPRIT, 2] } else { vec![i + 1; 3] };
        let requests: Vec<_> = (0..16).map(|i| forbid_culprit(request(prompt(i), 9))).collect();
        let mut streams: Vec<_> =
            requests.iter().map(|request| rig.submit(request.clone()).remove(0)).collect();
        rig.step();
        // The whole, then two halves each of 16, 8, 4 and 2.
        assert_eq!(rig.model.passes.load(Ordering::Relaxed), 1 + 2 * 4);
        rig.run_until_idle();
        for (request, stream) in requests.iter().zip(&mut streams) {
            assert_fails_at_culprit(&drain(stream), request);
        }
    }
}

#[test]
fn a_guess_that_fails_the_pass_is_not_the_answers_fault() {
    let mut failures = 0;
    for first in 1..20 {
        let mut rig = Rig::new(64, 4, 8, 64);
        // Its blocks are in the cache before the device fails at a token of them, which is then
        // guessed to come next.
        let period = [first, first + 1, first + 2, CULPRIT];
        let prompt: Vec<u32> = period.into_iter().cycle().take(18).collect();
        let asked = Request { num_speculative_tokens: 6, ..forbid_culprit(request(prompt, 30)) };
        rig.answer(&asked);
        let mut rig = rig.failing(false);
        let (events, cached) = rig.answer(&asked);
        assert_eq!(cached, 16);
        assert_answers(&events, &asked);
        failures += rig.model.failures.load(Ordering::Relaxed);
    }
    assert!(failures > 0, "the token was never guessed");
}

#[test]
fn blocks_that_cannot_be_copied_fail_those_that_need_them() {
    // Choices share the prompt's last, partial block: each but one copies it.
    let mut rig = Rig::new(64, 4, 8, 64);
    let healthy = request(vec![5, 6, 7], 12);
    let mut good = rig.submit(healthy.clone()).remove(0);
    let mut streams = rig.submit(Request { n: 3, ..request(vec![1, 2], 8) });
    rig.step();
    let schedule = rig.engine.scheduler.schedule();
    let copies = schedule.copies.clone();
    assert!(!copies.is_empty());
    let mut batch = Batch::new(schedule, &rig.engine.scheduler);
    batch.copies[0].from = crate::kv_cache::BlockId(1 << 20);
    assert!(!rig.engine.run_batch(batch));
    rig.run_until_idle();
    assert_answers(&drain(&mut good), &healthy);
    let failed = streams
        .iter_mut()
        .map(drain)
        .filter(|events| events.last() == Some(&Event::Failed("the forward pass failed".into())));
    assert_eq!(failed.count(), copies.len());
    assert_eq!(rig.free_blocks(), 64);
}

#[test]
fn a_request_that_cannot_be_queued_ends_and_the_engine_goes_on() {
    let mut rig = Rig::new(64, 4, 8, 64);
    // No choice at all: who asks for none is refused long before.
    rig.submit(Request { n: 0, ..request(vec![1, 2], 4) });
    let healthy = request(vec![5, 6, 7], 12);
    let (events, _) = rig.answer(&healthy);
    assert_answers(&events, &healthy);
}
