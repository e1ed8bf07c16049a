//! Tenants beside each other, in simulated time: the scheduler alone, over a machine whose steps take
//! as long as their rows say.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::engine::handle::Received;
use crate::engine::pace::StepCost;
use crate::engine::schedule::Scheduled;

/// Seconds of a step, and of each of its rows.
#[derive(Debug, Clone, Copy)]
struct Machine {
    step: f64,
    row: f64,
}

/// A full step of 512 rows takes as long as three of one row.
const MANY_CORES: Machine = Machine { step: 0.02, row: 1e-4 };
/// Here as long as twenty of them: one full step more is felt.
const TWO_CORES: Machine = Machine { step: 0.01, row: 4e-4 };

/// One request of a simulation.
#[derive(Debug, Clone)]
struct Arrival {
    at: f64,
    tenant: u32,
    adapter: usize,
    prompt: usize,
    generated: usize,
}

const BLOCKS: usize = 32_768;
/// A tenant that is none of the modest ones.
const ABUSER: u32 = 10;
/// Seconds.
const SOME_SHORT_STEPS: f64 = 0.5;

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    /// Seconds to the first token, by tenant.
    first_tokens: BTreeMap<u32, Vec<f64>>,
    /// Steps from arrival to the first token, likewise.
    steps: BTreeMap<u32, Vec<usize>>,
    /// Tenants in the order in which their prompts were begun.
    begun: Vec<(u32, usize)>,
    seconds: f64,
    preempted: usize,
}

impl Outcome {
    /// The same in steps.
    fn p99_steps(&self, tenants: impl Iterator<Item = u32>) -> usize {
        let mut all: Vec<usize> = tenants.flat_map(|tenant| self.steps[&tenant].clone()).collect();
        all.sort_unstable();
        all[(all.len() * 99) / 100]
    }

    /// The 99th of a hundred of these tenants' requests.
    fn p99(&self, tenants: impl Iterator<Item = u32>) -> f64 {
        let mut all: Vec<f64> =
            tenants.flat_map(|tenant| self.first_tokens[&tenant].clone()).collect();
        all.sort_by(f64::total_cmp);
        all[(all.len() * 99) / 100]
    }
}

/// [`simulate_on`] many cores.
fn simulate(arrivals: Vec<Arrival>, max_num_seqs: usize, weight: impl Fn(u32) -> u32) -> Outcome {
    simulate_on(MANY_CORES, arrivals, max_num_seqs, weight)
}

/// Plays `arrivals` with places for `max_num_seqs`; `weight` is each tenant's.
fn simulate_on(
    machine: Machine,
    mut arrivals: Vec<Arrival>,
    max_num_seqs: usize,
    weight: impl Fn(u32) -> u32,
) -> Outcome {
    arrivals.sort_by(|a, b| a.at.total_cmp(&b.at));
    let config = SchedulerConfig {
        max_num_seqs,
        max_num_batched_tokens: 512,
        max_model_len: 8192,
        long_prefill_token_threshold: None,
    };
    let blocks = BlockManager::new(BLOCKS, 16).with_prefix_cache([0; 32]);
    let mut scheduler = Scheduler::new(config, blocks);
    scheduler.learn(StepCost { decode: 1, prompt: 0 }, Duration::from_secs_f64(machine.step));
    let (handle, mut submissions) = channel(1024);
    let (adapters, share) = (adapters(), share(usize::MAX));
    let mut came: BTreeMap<SequenceId, (Arrival, usize, bool)> = BTreeMap::new();
    let mut outcome = Outcome::default();
    let mut coming = arrivals.into_iter().peekable();
    let (mut number, mut step) = (0, 0);
    while coming.peek().is_some() || !scheduler.is_idle() {
        if let Some(next) = coming.peek().filter(|_| scheduler.is_idle()) {
            outcome.seconds = outcome.seconds.max(next.at);
        }
        while let Some(arrival) = coming.next_if(|next| next.at <= outcome.seconds) {
            number += 1;
            // No two prompts begin alike.
            // Nothing is computed: no model has to know it.
            let prompt = PromptTokens::new(vec![number; arrival.prompt], usize::MAX).unwrap();
            let (id, weight) = (arrival.tenant, weight(arrival.tenant));
            let request = Request {
                tenant: TenantShare { id, weight, alone: false },
                adapter: adapters[arrival.adapter].clone(),
                prompt,
                ..request(vec![1], arrival.generated)
            };
            let _streams = handle.submit(request, &share).unwrap();
            let Received::Submission(submission) = submissions.receive(false) else { panic!() };
            let id = scheduler.next_id();
            scheduler.add(Sequence::new(id, *submission));
            came.insert(id, (arrival, step, false));
        }
        let schedule = scheduler.schedule();
        step += 1;
        assert!(!schedule.scheduled.is_empty() || scheduler.is_idle(), "work is left undone");
        let rows: usize = schedule.scheduled.iter().map(Scheduled::num_rows).sum();
        assert!(rows <= 512 && scheduler.num_running() <= max_num_seqs);
        let cost = schedule.cost();
        let took = machine.step + machine.row * (cost.decode + cost.prompt) as f64;
        outcome.seconds += took;
        outcome.preempted += schedule.num_preempted;
        scheduler.learn(cost, Duration::from_secs_f64(took));
        for scheduled in schedule.scheduled {
            let id = scheduled.id;
            let (arrival, came_at, begun) = came.get_mut(&id).unwrap();
            if !std::mem::replace(begun, true) {
                outcome.begun.push((arrival.tenant, arrival.adapter));
            }
            scheduler.advance(id, scheduled.num_tokens);
            let sequence = scheduler.get_mut(id).unwrap();
            if sequence.num_uncomputed() > 0 {
                continue;
            }
            if sequence.num_generated() == 0 {
                let waited = outcome.seconds - arrival.at;
                outcome.first_tokens.entry(arrival.tenant).or_default().push(waited);
                outcome.steps.entry(arrival.tenant).or_default().push(step - *came_at);
            }
            sequence.push(1, None);
            if sequence.num_generated() == arrival.generated {
                scheduler.finish(id);
            }
        }
    }
    assert_eq!(scheduler.blocks().num_free(), BLOCKS);
    outcome
}

/// Requests of nine tenants, 1 to 9: twenty each, at times drawn from a seed.
fn modest() -> Vec<Arrival> {
    let mut state = 1_u64;
    let mut draw = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as f64 + 1.0) / (1_u64 << 31) as f64
    };
    let mut arrivals = Vec::new();
    for tenant in 1..=9 {
        let mut at = 0.5;
        for _ in 0..20 {
            at += -4.0 * draw().ln();
            arrivals.push(Arrival { at, tenant, adapter: 0, prompt: 200, generated: 50 });
        }
    }
    arrivals
}

fn greedy(count: usize, prompt: usize) -> Vec<Arrival> {
    vec![Arrival { at: 0.0, tenant: 0, adapter: 0, prompt, generated: 100 }; count]
}

#[test]
fn one_greedy_tenant_leaves_the_others_their_first_tokens() {
    let alone = simulate(modest(), 64, |_| 1);
    for prompt in [200, 600] {
        let both = [modest(), greedy(200, prompt)].concat();
        let beside = simulate(both, 64, |_| 1);
        let (alone, with) = (alone.p99(1..=9), beside.p99(1..=9));
        eprintln!("p99 to the first token: {alone:.3} s alone, {with:.3} s beside 200 requests");
        assert!(with <= 2.0 * alone, "{with} and {alone} alone");
        assert_eq!(beside.first_tokens[&0].len(), 200, "nobody starves");
    }
}

/// Three modest tenants beside one that abuses the server: with many prompts, with long ones, with
/// long answers, with choices without end, one after the other and together.
#[test]
fn an_abusive_tenant_costs_three_modest_ones_few_steps() {
    let many = |count, prompt, generated| {
        let arrival = Arrival { at: 0.0, tenant: ABUSER, adapter: 0, prompt, generated };
        vec![arrival; count]
    };
    let abuses = [
        many(900, 16, 16),
        many(60, 1000, 8),
        many(250, 16, 600),
        many(60, 200, 500),
        many(30, 6000, 200),
    ];
    let together =
        abuses.iter().map(|abuse| abuse[..abuse.len().min(200)].to_vec()).collect::<Vec<_>>();
    let abuses: Vec<_> = abuses.into_iter().chain([together.concat()]).collect();
    for (machine, prompt) in
        [(MANY_CORES, 200), (MANY_CORES, 40), (TWO_CORES, 200), (TWO_CORES, 40)]
    {
        let modest = modest().into_iter().filter(|one| one.tenant <= 3);
        let modest: Vec<_> = modest.map(|one| Arrival { prompt, ..one }).collect();
        let alone = simulate_on(machine, modest.clone(), 64, |_| 1);
        for abuse in &abuses {
            let both = [modest.clone(), abuse.clone()].concat();
            let beside = simulate_on(machine, both, 64, |_| 1);
            let case = format!("{prompt} tokens beside {} requests: {machine:?}", abuse.len());
            let steps = (alone.p99_steps(1..=3), beside.p99_steps(1..=3));
            assert!(steps.1 <= 3 * steps.0, "{steps:?} steps to a first token, {case}");
            let seconds = (alone.p99(1..=3), beside.p99(1..=3));
            // A prompt waits for the rest of a step and comes in some of its own, which are short, though
            // not as short as without a crowd beside it.
            let most = (3.0 * seconds.0).max(SOME_SHORT_STEPS);
            assert!(seconds.1 <= most, "{seconds:?} s to a first token, {case}");
            assert_eq!(beside.first_tokens[&ABUSER].len(), abuse.len(), "nobody starves");
        }
    }
}

#[test]
fn nothing_is_kept_back_for_tenants_that_are_not_there() {
    let one = simulate(greedy(200, 200), 64, |_| 1);
    let many: Vec<Arrival> = greedy(200, 200)
        .into_iter()
        .enumerate()
        .map(|(number, arrival)| Arrival { tenant: number as u32 % 10, ..arrival })
        .collect();
    let many = simulate(many, 64, |_| 1);
    assert!((one.seconds - many.seconds).abs() <= 0.1 * one.seconds, "{one:?}\n{many:?}");
    assert_eq!(one.preempted, 0);
}

#[test]
fn of_two_that_ask_for_all_each_gets_what_it_weighs() {
    let of =
        |tenant| greedy(100, 100).into_iter().map(move |arrival| Arrival { tenant, ..arrival });
    let outcome =
        simulate(of(1).chain(of(2)).collect(), 8, |tenant| if tenant == 1 { 3 } else { 1 });
    let early = &outcome.begun[..80];
    let first = early.iter().filter(|(tenant, _)| *tenant == 1).count();
    assert!((54..=66).contains(&first), "{first} of 80 are of the tenant of weight 3");
    assert_eq!(outcome.begun.len(), 200);
}

#[test]
fn an_adapter_that_runs_goes_first_but_not_for_ever() {
    let with = |adapter, count, generated| {
        let arrival = Arrival { at: 0.0, tenant: 1, adapter, prompt: 8, generated };
        vec![arrival; count]
    };
    // One place stays with adapter 1; one of adapter 2 stands before many of adapter 1.
    let arrivals = [with(1, 1, 100), with(1, 1, 4), with(2, 1, 4), with(1, 12, 4)].concat();
    let outcome = simulate(arrivals, 2, |_| 1);
    let place = outcome.begun.iter().position(|(_, adapter)| *adapter == 2).unwrap();
    assert!((3..=6).contains(&place), "{:?}", outcome.begun);
    // Whoever came first of its kind stays first.
    let other = simulate([with(1, 2, 4), with(2, 3, 4)].concat(), 2, |_| 1);
    assert_eq!(
        other.begun.iter().map(|(_, adapter)| *adapter).collect::<Vec<_>>(),
        [1, 1, 2, 2, 2]
    );
}
