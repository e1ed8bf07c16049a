//! Who is next: the order among prompts that run and those that wait. It looks, and changes nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::fairness::Fairness;
use super::sequence::{Sequence, SequenceId};
use crate::adapter::delta::AdapterId;

/// A sequence whose adapter is not in the batch is passed by at most so many that came later.
const MAX_PASSED: usize = 4;
/// So far behind a tenant's first one another is looked for.
const LOOK_AHEAD: usize = 8;

/// Whose turn it is first: least computed, then fewest that run, then what runs before what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    counter: u64,
    running: usize,
    waits: bool,
}

/// A running prompt and its turn.
#[derive(Debug, Clone, Copy)]
pub struct RunningPrompt {
    /// Which.
    pub id: SequenceId,
    /// When.
    pub turn: Turn,
}

/// A waiting sequence and its turn.
#[derive(Debug, Clone, Copy)]
pub struct WaitingPrompt {
    /// Which.
    pub place: Place,
    /// When.
    pub turn: Turn,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Who is there.
    pub id: SequenceId,
    /// Who of the same tenant was there first, and is passed.
    pub passed: Option<SequenceId>,
}

/// Room that sequences would leave.
#[derive(Debug, Clone, Copy, Default)]
pub struct Room {
    /// Choices that ran.
    pub choices: usize,
    /// Blocks that nobody else holds.
    pub blocks: usize,
}

/// All that run and wait, and what was computed for their tenants.
#[derive(Debug)]
pub struct Line<'a> {
    running: &'a [Sequence],
    waiting: &'a VecDeque<Sequence>,
    fairness: &'a Fairness,
    counts: BTreeMap<u32, usize>,
}

impl<'a> Line<'a> {
    /// The line as it is now.
    #[must_use]
    pub fn new(
        running: &'a [Sequence],
        waiting: &'a VecDeque<Sequence>,
        fairness: &'a Fairness,
    ) -> Self {
        let mut counts = BTreeMap::new();
        for sequence in running {
            *counts.entry(tenant(sequence)).or_default() += sequence.num_choices();
        }
        Self { running, waiting, fairness, counts }
    }

    /// The running prompt whose turn it is, without those that were `tried`; of one tenant the first
    /// that was begun.
    #[must_use]
    pub fn next_running(&self, tried: &[SequenceId]) -> Option<RunningPrompt> {
        let prompts = self.running.iter().filter(|sequence| sequence.num_uncomputed() > 1);
        let prompts = prompts.filter(|sequence| !tried.contains(&sequence.id));
        let next = prompts.min_by_key(|sequence| self.turn(sequence, false))?;
        Some(RunningPrompt { id: next.id, turn: self.turn(next, false) })
    }

    /// The waiting sequence whose turn it is; of one tenant the first that came, unless a little
    /// later one has an adapter that runs.
    #[must_use]
    pub fn next_waiting(&self) -> Option<WaitingPrompt> {
        let first = self.waiting.iter().min_by_key(|sequence| self.turn(sequence, true))?;
        let turn = self.turn(first, true);
        let stay = Place { id: first.id, passed: None };
        // What was begun once goes on, and nobody is passed for ever.
        let must = first.num_preempted() > 0 || first.num_passed() >= MAX_PASSED;
        let adapters: BTreeSet<_> = self.running.iter().map(adapter).collect();
        if must || adapter(first).is_none() || adapters.contains(&adapter(first)) {
            return Some(WaitingPrompt { place: stay, turn });
        }
        let mut own = self.waiting.iter().filter(|sequence| tenant(sequence) == tenant(first));
        let near = own.by_ref().take(LOOK_AHEAD).skip(1);
        let fitting = near
            .filter(|sequence| adapter(sequence).is_some())
            .find(|sequence| adapters.contains(&adapter(sequence)));
        let place = fitting.map_or(stay, |other| Place { id: other.id, passed: Some(first.id) });
        Some(WaitingPrompt { place, turn })
    }

    fn turn(&self, sequence: &Sequence, waits: bool) -> Turn {
        let tenant = tenant(sequence);
        let running = self.counts.get(&tenant).copied().unwrap_or(0);
        Turn { counter: self.fairness.counter(tenant), running, waits }
    }
}

/// Whether a step is shared among tenants: somebody else than those that are here may come to wait for it.
#[must_use]
pub fn is_shared(running: &[Sequence], waiting: &VecDeque<Sequence>) -> bool {
    running.iter().chain(waiting).any(|sequence| !sequence.request().tenant.alone)
}

/// How many prompts count for the length of a step: those that run, and of those that wait as many as
/// there are `places`. A tenant's count no more than all that the others have here, whose answers a longer
/// step holds up for a crowd that is not theirs.
#[must_use]
pub fn prompts_that_count(
    running: &[Sequence],
    waiting: &VecDeque<Sequence>,
    places: usize,
) -> usize {
    let (mut prompts, mut all) = (BTreeMap::<u32, usize>::new(), BTreeMap::<u32, usize>::new());
    for sequence in running {
        *all.entry(tenant(sequence)).or_default() += 1;
        *prompts.entry(tenant(sequence)).or_default() += usize::from(sequence.num_uncomputed() > 1);
    }
    for sequence in waiting {
        *all.entry(tenant(sequence)).or_default() += 1;
    }
    for sequence in waiting.iter().take(places) {
        *prompts.entry(tenant(sequence)).or_default() += 1;
    }
    let here: usize = all.values().sum();
    let count = |(tenant, prompts): (&u32, &usize)| match here - all[tenant] {
        // It is alone.
        0 => *prompts,
        others => others.min(*prompts),
    };
    prompts.iter().map(count).sum()
}

/// How many choices of each tenant run.
#[derive(Debug)]
pub struct Parts(BTreeMap<u32, usize>);

impl Parts {
    /// Those of the running sequences.
    #[must_use]
    pub fn new(running: &[Sequence]) -> Self {
        let mut choices = BTreeMap::new();
        for sequence in running {
            *choices.entry(tenant(sequence)).or_default() += sequence.num_choices();
        }
        Self(choices)
    }

    /// The choices of a sequence's tenant beside its weight, in fractions that compare exactly.
    #[must_use]
    pub fn part(&self, sequence: &Sequence) -> u64 {
        part(self.choices(sequence), sequence)
    }

    /// True where the tenant of `victim` without it still has at least the part that the tenant of
    /// `next` has with that.
    #[must_use]
    pub fn spares(&self, victim: &Sequence, next: &Sequence) -> bool {
        let left = self.choices(victim).saturating_sub(victim.num_choices());
        let got = self.choices(next) + next.num_choices();
        tenant(victim) != tenant(next) && part(left, victim) >= part(got, next)
    }

    /// A sequence will not run.
    pub fn remove(&mut self, sequence: &Sequence) {
        let choices = self.0.entry(tenant(sequence)).or_default();
        *choices = choices.saturating_sub(sequence.num_choices());
    }

    fn choices(&self, sequence: &Sequence) -> usize {
        self.0.get(&tenant(sequence)).copied().unwrap_or(0)
    }
}

fn part(choices: usize, of: &Sequence) -> u64 {
    ((choices as u64) << 20) / u64::from(of.request().tenant.weight.max(1))
}

fn tenant(sequence: &Sequence) -> u32 {
    sequence.request().tenant.id
}

fn adapter(sequence: &Sequence) -> Option<AdapterId> {
    sequence.request().adapter.as_ref().map(|version| version.id())
}
