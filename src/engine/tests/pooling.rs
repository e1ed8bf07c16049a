//! Prompts that become vectors, seen from the engine.

use super::*;
use crate::engine::pooling::Pool;
use crate::engine::request::Pooling;

fn pooled(prompt: Vec<u32>, pooling: Pooling) -> Request {
    Request { pooling: Some(pooling), ..request(prompt, 0) }
}

/// What a request must answer, computed without an engine.
fn expected(request: &Request) -> Vec<f32> {
    let adapter = request.adapter.as_ref().map(|version| version.id());
    let mut pool = Pool::new(request.pooling.unwrap());
    for end in 1..=request.prompt.len() {
        pool.push(&logits(&request.prompt[..end], adapter));
    }
    pool.finish().unwrap()
}

fn assert_pooled(events: &[Event], request: &Request) {
    let [Event::PromptComputed { .. }, Event::Pooled(vector), end] = events else {
        panic!("{events:?}")
    };
    assert_eq!(vector, &expected(request));
    assert_eq!(end, &Event::Finished(FinishReason::Length));
}

fn any_pooled() -> impl Strategy<Value = Request> {
    let pooling = prop_oneof![Just(Pooling::Mean), Just(Pooling::Last)];
    (prompt(), pooling, 0..4_usize).prop_map(|(prompt, pooling, adapter)| Request {
        adapter: adapters()[adapter].clone(),
        ..pooled(prompt, pooling)
    })
}

proptest! {
    /// Beside other prompts and answers, in chunks of any size, through preemptions and the cache.
    #[test]
    fn a_vector_is_the_same_alone_and_in_any_batch(
        requests in proptest::collection::vec(any_pooled(), 1..8),
        answered in proptest::collection::vec(any_request(), 0..4),
        num_blocks in 16..40_usize,
        budget in 1..50_usize,
    ) {
        let mut rig = Rig::new(num_blocks, 4, 6, budget);
        let mut running = Vec::new();
        for request in requests.iter().chain(&answered) {
            running.push((request.clone(), rig.submit(request.clone()).remove(0)));
            rig.step();
        }
        rig.run_until_idle();
        for (request, mut stream) in running {
            let events = drain(&mut stream);
            if request.pooling.is_some() {
                assert_pooled(&events, &request);
            }
        }
        prop_assert_eq!(rig.free_blocks(), num_blocks);
    }
}

#[test]
fn the_last_state_is_found_through_the_cache_and_a_mean_reads_none_of_it() {
    let prompt: Vec<u32> = (1..=17).collect();
    for (pooling, cached) in [(Pooling::Last, 16), (Pooling::Mean, 0)] {
        let mut rig = Rig::new(64, 4, 8, 64);
        rig.answer(&request(prompt.clone(), 2));
        let asked = pooled(prompt.clone(), pooling);
        let (events, found) = rig.answer(&asked);
        assert_eq!(found, cached);
        assert_pooled(&events, &asked);
    }
}

#[test]
fn a_text_as_long_as_the_context_has_a_vector() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let prompt = (0..MAX_MODEL_LEN as u32).map(|token| token % 29 + 1).collect();
    let asked = pooled(prompt, Pooling::Mean);
    let (events, _) = rig.answer(&asked);
    assert_pooled(&events, &asked);
}

#[test]
fn what_is_no_number_fails_alone() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let poisoned = pooled(vec![1, POISON, 2], Pooling::Mean);
    let sound = pooled(vec![1, 2, 3], Pooling::Mean);
    let mut poisoned = rig.submit(poisoned).remove(0);
    let mut beside = rig.submit(sound.clone()).remove(0);
    rig.run_until_idle();
    let events = drain(&mut poisoned);
    let Some(Event::Failed(message)) = events.last() else { panic!("{events:?}") };
    assert!(message.contains("not a number"), "{message}");
    assert_pooled(&drain(&mut beside), &sound);
    assert_eq!(rig.free_blocks(), 64);
}
