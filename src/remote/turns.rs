//! Whose fetch is next. Each place (a bucket, a host, an organisation) has fetches of its own, so that a
//! sick one keeps nobody waiting but those who want something from it; and who wants something from
//! one place has turns there, one after the other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::adapter::registry::Asker;

/// Fetches from one place at a time.
const MAX_RUNNING: usize = 16;
/// Of those for one asker: some are left to others.
const MAX_RUNNING_FOR_ONE: usize = 12;
/// Fetches that may wait for one place.
const MAX_WAITING: usize = 1024;

/// Fetches by place.
#[derive(Debug)]
pub(super) struct Turns<T>(Mutex<HashMap<String, Lane<T>>>);

/// Fetches from one place.
#[derive(Debug)]
struct Lane<T> {
    running: BTreeMap<Asker, usize>,
    /// The first asker that may is next, and then goes to the end.
    waiting: VecDeque<(Asker, VecDeque<T>)>,
}

/// What becomes of a fetch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered<T> {
    /// It begins.
    Now(T),
    /// It waits for its turn.
    Waits,
    /// Too many wait already.
    Refused(T),
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Turns<T> {
    /// A fetch from `place` for `asker`.
    pub fn enter(&self, place: &str, asker: Asker, fetch: T) -> Entered<T> {
        let mut lanes = self.lanes();
        let lane = lanes.entry(place.to_owned()).or_default();
        if lane.may_run(asker) {
            *lane.running.entry(asker).or_default() += 1;
            return Entered::Now(fetch);
        }
        if lane.waiting.iter().map(|(_, fetches)| fetches.len()).sum::<usize>() >= MAX_WAITING {
            return Entered::Refused(fetch);
        }
        match lane.waiting.iter_mut().find(|(other, _)| *other == asker) {
            Some((_, fetches)) => fetches.push_back(fetch),
            None => lane.waiting.push_back((asker, VecDeque::from([fetch]))),
        }
        Entered::Waits
    }

    /// A fetch from `place` for `asker` has ended; the one that begins in its stead.
    pub fn leave(&self, place: &str, asker: Asker) -> Option<(Asker, T)> {
        let mut lanes = self.lanes();
        let lane = lanes.get_mut(place)?;
        lane.ended(asker);
        let next = lane.next();
        if lane.running.is_empty() && lane.waiting.is_empty() {
            lanes.remove(place);
        }
        next
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<String, Lane<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { running: BTreeMap::new(), waiting: VecDeque::new() }
    }
}

impl<T> Lane<T> {
    fn may_run(&self, asker: Asker) -> bool {
        let own = self.running.get(&asker).copied().unwrap_or(0);
        own < MAX_RUNNING_FOR_ONE && self.running.values().sum::<usize>() < MAX_RUNNING
    }

    fn ended(&mut self, asker: Asker) {
        if let Some(running) = self.running.get_mut(&asker) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(&asker);
            }
        }
    }

    fn next(&mut self) -> Option<(Asker, T)> {
        let index = self.waiting.iter().position(|(asker, _)| self.may_run(*asker))?;
        let (asker, mut fetches) = self.waiting.remove(index)?;
        let fetch = fetches.pop_front()?;
        if !fetches.is_empty() {
            self.waiting.push_back((asker, fetches));
        }
        *self.running.entry(asker).or_default() += 1;
        Some((asker, fetch))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_has_turns_of_its_own() {
        let turns = Turns::default();
        for fetch in 0..MAX_RUNNING_FOR_ONE + 3 {
            turns.enter("sick", Asker(1), fetch);
        }
        assert_eq!(turns.enter("sick", Asker(1), 0), Entered::Waits);
        assert_eq!(turns.enter("healthy", Asker(1), 0), Entered::Now(0));
        assert_eq!(turns.enter("sick", Asker(2), 0), Entered::Now(0));
    }

    #[test]
    fn askers_take_turns() {
        let turns = Turns::default();
        for fetch in 0..MAX_RUNNING {
            turns.enter("p", Asker(u32::from(fetch >= MAX_RUNNING_FOR_ONE)), fetch);
        }
        for fetch in 100..105 {
            assert_eq!(turns.enter("p", Asker(0), fetch), Entered::Waits);
        }
        assert_eq!(turns.enter("p", Asker(2), 200), Entered::Waits);
        assert_eq!(turns.enter("p", Asker(3), 300), Entered::Waits);
        let order: Vec<_> = (0..6).filter_map(|_| turns.leave("p", Asker(0))).collect();
        let order: Vec<_> = order.into_iter().map(|(_, fetch)| fetch).collect();
        assert_eq!(order, [100, 200, 300, 101, 102, 103]);
    }

    #[test]
    fn no_more_wait_than_may() {
        let turns = Turns::default();
        let mut refused = 0;
        for fetch in 0..MAX_RUNNING_FOR_ONE + MAX_WAITING + 5 {
            refused +=
                usize::from(matches!(turns.enter("p", Asker(1), fetch), Entered::Refused(_)));
        }
        assert_eq!(refused, 5);
    }

    proptest! {
        /// Whatever comes and goes: no more run than may, nobody waits who may run, and every fetch
        /// runs once.
        #[test]
        fn fetches_run_once_and_as_soon_as_they_may(steps in prop::collection::vec((0..4_u32, any::<bool>()), 1..200)) {
            let turns = Turns::default();
            let (mut running, mut entered, mut ran) = (Vec::new(), 0_usize, 0_usize);
            for (asker, comes) in steps {
                if comes || running.is_empty() {
                    entered += 1;
                    if let Entered::Now(()) = turns.enter("p", Asker(asker), ()) {
                        running.push(Asker(asker));
                    }
                } else {
                    let ended = running.remove(asker as usize % running.len());
                    ran += 1;
                    running.extend(turns.leave("p", ended).map(|(asker, ())| asker));
                }
                let of = |asker| running.iter().filter(|other| **other == asker).count();
                prop_assert!(running.len() <= MAX_RUNNING);
                prop_assert!(running.iter().all(|asker| of(*asker) <= MAX_RUNNING_FOR_ONE));
                if running.len() < MAX_RUNNING {
                    let lanes = turns.lanes();
                    let idle = lanes.get("p").into_iter().flat_map(|lane| lane.waiting.iter());
                    for (asker, _) in idle {
                        prop_assert_eq!(of(*asker), MAX_RUNNING_FOR_ONE);
                    }
                }
            }
            while let Some(ended) = running.pop() {
                ran += 1;
                running.extend(turns.leave("p", ended).map(|(asker, ())| asker));
            }
            prop_assert_eq!(ran, entered);
            prop_assert!(turns.lanes().is_empty());
        }
    }
}
