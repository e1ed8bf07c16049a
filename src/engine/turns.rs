//! Whose texts go on in a step that has no time for all of them, by what each takes.
//!
//! A step has a limit, and the texts that do not fit sit it out. What a step leaves of its limit is saved
//! up for the first that did not fit. Tenants take turns by the time that was spent for them
//! ([`super::fairness`]), and of one tenant the text goes first for which least was spent: beside sixty
//! slow texts a fast one goes on in every step. What a text will take is said, or taken to be what it
//! took last. Times are handed in; no clock is read here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::fairness::{Fairness, weighed};
use super::request::TenantShare;
use super::sequence::{Sequence, SequenceId};

/// What a text takes of which nothing is known yet: 16 of them fill a step of 16 ms, and what they really
/// take is known afterwards.
const UNKNOWN_MICROS: u64 = 1000;

/// A text that could go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// Which.
    pub id: SequenceId,
    /// Whose.
    pub share: TenantShare,
    /// What it will take, where that is known.
    pub takes: Option<Duration>,
}

/// In microseconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// What was spent on a text, and beside which it counts as having begun.
    spent: u64,
    /// What it took in the last step in which it went on.
    last: u64,
    /// Which step that was.
    step: u64,
}

/// What texts have taken.
#[derive(Debug, Default)]
pub struct Turns {
    tenants: Fairness,
    texts: BTreeMap<SequenceId, Cost>,
    /// Tenants of those texts.
    present: BTreeSet<u32>,
    /// What earlier steps left for the text that is next, in microseconds: less than it needs.
    saved: u64,
    step: u64,
}

impl Text {
    /// That of a running sequence.
    #[must_use]
    pub fn of(sequence: &Sequence) -> Self {
        Self { id: sequence.id, share: sequence.request().tenant, takes: None }
    }
}

impl Turns {
    /// Of all texts that could go on, those whose turn it is: no more than what `limit` has time for,
    /// on average over the steps. At least one where `alone`: nothing else runs in the step.
    pub fn choose(&mut self, texts: &[Text], limit: Duration, alone: bool) -> BTreeSet<SequenceId> {
        self.step += 1;
        self.enter(texts);
        let budget = self.saved.saturating_add(micros(limit));
        self.saved = 0;
        let all: u64 = texts.iter().map(|text| self.texts[&text.id].last).sum();
        if all <= budget {
            return texts.iter().map(|text| text.id).collect();
        }
        let (mut chosen, mut total) = (BTreeSet::new(), 0);
        for id in self.in_order(texts) {
            let more = self.texts[&id].last;
            let must = alone && chosen.is_empty();
            if !must && total + more > budget {
                // Nobody passes it, or it would wait for ever.
                self.saved = budget.saturating_sub(total);
                break;
            }
            total += more;
            chosen.insert(id);
        }
        chosen
    }

    /// A text took so long in this step; more than once where several tokens are chosen.
    pub fn took(&mut self, Text { id, share, .. }: Text, took: Duration) {
        let took = micros(took);
        let step = self.step;
        let cost = self.texts.entry(id).or_insert(Cost { spent: 0, last: 0, step });
        cost.last = if cost.step == step { cost.last + took } else { took };
        cost.step = step;
        cost.spent += took;
        self.tenants.add(share, took);
    }

    /// Takes in texts that are new, and forgets those that are gone. Nobody saves up what was spent on
    /// others before.
    fn enter(&mut self, texts: &[Text]) {
        let ids: BTreeSet<_> = texts.iter().map(|text| text.id).collect();
        self.texts.retain(|id, _| ids.contains(id));
        let tenants: BTreeSet<_> = texts.iter().map(|text| text.share.id).collect();
        for tenant in tenants.difference(&self.present) {
            let stay = self.present.intersection(&tenants).copied();
            self.tenants.arrive(*tenant, stay, |other| tenants.contains(&other));
        }
        let mut least = BTreeMap::new();
        for text in texts {
            if let Some(cost) = self.texts.get(&text.id) {
                let least: &mut u64 = least.entry(text.share.id).or_insert(cost.spent);
                *least = cost.spent.min(*least);
            }
        }
        for text in texts {
            let spent = least.get(&text.share.id).copied().unwrap_or(0);
            let new = Cost { spent, last: UNKNOWN_MICROS, step: 0 };
            let cost = self.texts.entry(text.id).or_insert(new);
            cost.last = text.takes.map_or(cost.last, micros);
        }
        self.present = tenants;
    }

    /// All texts, the one whose turn it is first.
    fn in_order(&self, texts: &[Text]) -> Vec<SequenceId> {
        let mut queues: BTreeMap<u32, (TenantShare, Vec<SequenceId>)> = BTreeMap::new();
        for text in texts {
            let (_, queue) = queues.entry(text.share.id).or_insert((text.share, Vec::new()));
            queue.push(text.id);
        }
        let mut queues: Vec<_> = queues
            .into_values()
            .map(|(share, mut ids)| {
                ids.sort_by_key(|id| (self.texts[id].spent, *id));
                (self.tenants.counter(share.id), share, VecDeque::from(ids))
            })
            .collect();
        let mut order = Vec::with_capacity(texts.len());
        while let Some((counter, share, queue)) = queues
            .iter_mut()
            .filter(|(_, _, queue)| !queue.is_empty())
            .min_by_key(|(counter, share, _)| (*counter, share.id))
        {
            if let Some(id) = queue.pop_front() {
                *counter = counter.saturating_add(weighed(*share, self.texts[&id].last));
                order.push(id);
            }
        }
        order
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(10);

    fn text(id: u64, tenant: u32) -> Text {
        Text {
            id: SequenceId(id),
            share: TenantShare { id: tenant, weight: 1, alone: false },
            takes: None,
        }
    }

    /// Runs `steps` steps of texts that take so many microseconds each; returns how often each went
    /// on, and what the steps took.
    fn run(
        texts: &[(Text, u64)],
        steps: usize,
        alone: bool,
    ) -> (BTreeMap<SequenceId, usize>, Vec<u64>) {
        let mut turns = Turns::default();
        let all: Vec<_> = texts.iter().map(|(text, _)| *text).collect();
        let (mut counts, mut times) = (BTreeMap::new(), Vec::new());
        for step in 0..steps {
            let chosen = turns.choose(&all, LIMIT, alone);
            let mut total = 0;
            for (text, took) in texts.iter().filter(|(text, _)| chosen.contains(&text.id)) {
                turns.took(*text, Duration::from_micros(*took));
                *counts.entry(text.id).or_default() += 1;
                total += took;
            }
            // What they take is not known at first.
            if step >= steps / 2 {
                times.push(total);
            }
        }
        (counts, times)
    }

    #[test]
    fn a_fast_text_goes_on_in_every_step_beside_sixty_slow_ones() {
        for slow_ones in [1, 2] {
            let slow = (0..60).map(|id| (text(id, slow_ones), 8000));
            let texts: Vec<_> = slow.chain([(text(60, 1), 100)]).collect();
            let (counts, times) = run(&texts, 600, false);
            assert!(times.iter().all(|took| *took <= 18_000), "{times:?}");
            assert!(times.iter().sum::<u64>() <= 10_000 * times.len() as u64, "{times:?}");
            assert!(counts[&SequenceId(60)] >= 590, "{} of 600", counts[&SequenceId(60)]);
            let slow: Vec<_> = (0..60).map(|id| counts[&SequenceId(id)]).collect();
            assert!(slow.iter().all(|count| (11..=16).contains(count)), "{slow:?}");
        }
    }

    #[test]
    fn a_tenant_gets_its_part_however_many_texts_another_has() {
        let many = (0..20).map(|id| (text(id, 1), 5000));
        let texts: Vec<_> = many.chain([(text(20, 2), 5000)]).collect();
        let (counts, _) = run(&texts, 400, false);
        assert!(counts[&SequenceId(20)] >= 380, "{} of 400", counts[&SequenceId(20)]);
    }

    proptest! {
        /// Whatever texts take, every text goes on, steps take no longer than the limit on average,
        /// and none longer than by one text.
        #[test]
        fn every_text_goes_on_and_no_step_takes_longer(
            texts in prop::collection::vec((0..4_u32, 1..20_000_u64), 1..40),
            alone: bool,
        ) {
            let texts: Vec<_> =
                (0..).zip(texts).map(|(id, (tenant, took))| (text(id, tenant), took)).collect();
            let (counts, times) = run(&texts, 40 * texts.len(), alone);
            let longest = texts.iter().map(|(_, took)| *took).max().unwrap_or(0);
            let limit = micros(LIMIT);
            prop_assert!(times.iter().all(|took| *took <= limit + longest), "{times:?}");
            if !alone {
                prop_assert!(times.iter().sum::<u64>() <= limit * (times.len() as u64 + 4), "{times:?}");
            }
            for (text, _) in &texts {
                prop_assert!(counts.contains_key(&text.id), "{text:?} never went on");
            }
        }
    }

    #[test]
    fn a_newcomer_does_not_keep_others_from_their_turn() {
        let mut turns = Turns::default();
        let old = [text(0, 1), text(1, 1)];
        for _ in 0..50 {
            for id in turns.choose(&old, LIMIT, true) {
                turns.took(text(id.0, 1), Duration::from_millis(9));
            }
        }
        // Each step brings another text: the first two still go on.
        let mut went_on = 0;
        for id in 2..42 {
            let chosen = turns.choose(&[old[0], old[1], text(id, 1)], LIMIT, true);
            for id in &chosen {
                turns.took(text(id.0, 1), Duration::from_millis(9));
            }
            went_on += usize::from(chosen.iter().any(|id| id.0 < 2));
        }
        assert!(went_on >= 10, "{went_on} of 40");
    }
}
