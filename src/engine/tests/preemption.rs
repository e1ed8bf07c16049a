//! Who was preempted is computed again before whoever never began, and reports what it found once.

use super::*;

/// More answers than may run at once, and a cache without room even for those that do.
fn crowded() -> (Rig, Vec<EventStream>) {
    let mut rig = Rig::new(16, 4, 8, 64);
    let requests = (0..12).map(|i| request(vec![i + 1; 8], 30));
    let streams = requests.map(|request| rig.submit(request).remove(0)).collect();
    (rig, streams)
}

#[test]
fn a_preempted_sequence_waits_before_those_that_never_ran() {
    let (mut rig, _streams) = crowded();
    let mut seen_together = false;
    while !rig.engine.scheduler.is_idle() || rig.handle.has_submissions() {
        rig.step();
        let waiting: Vec<bool> =
            rig.engine.scheduler.waiting().map(|sequence| sequence.num_preempted() > 0).collect();
        seen_together |= waiting.contains(&true) && waiting.contains(&false);
        assert!(waiting.is_sorted_by_key(|preempted| !preempted), "{waiting:?}");
    }
    assert!(seen_together, "nobody was preempted while another one waited");
}

#[test]
fn a_prompt_that_is_preempted_while_it_is_scored_has_each_score_once() {
    // The first one's answer needs a block that the second one's prompt was going to have.
    let mut rig = Rig::new(16, 4, 8, 9);
    let first = request((1..=24).collect(), 20);
    let prompt: Vec<u32> = (0..40).map(|position| position % 29 + 1).collect();
    let scored = Request { prompt_logprobs: Some(1), ..request(prompt.clone(), 1) };
    let mut streams = [first.clone(), scored].map(|request| rig.submit(request).remove(0));
    rig.run_until_idle();
    assert!(rig.metric("vllm:num_preemptions_total") > 0, "nobody was preempted");
    assert_answers(&drain(&mut streams[0]), &first);
    let Event::PromptLogprobs(scores) = &drain(&mut streams[1])[0] else { panic!("no scores") };
    assert_eq!(scores.len(), prompt.len());
    for (position, score) in scores.iter().enumerate().skip(1) {
        let row = logits(&prompt[..position], None);
        let expected = sampler::score(&row, prompt[position], 1).unwrap();
        assert_eq!(score.as_ref(), Some(&expected), "position {position}");
    }
}
