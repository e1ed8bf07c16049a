//! Whose fetch is next. Each place (a bucket, a host, an organisation) has fetches of its own, so that a
//! sick one keeps nobody waiting but those who want something from it; and those who want something from
//! one place take turns there, as they do for threads: the one for which it worked least is next.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::tenant::turns::{Limits, Party, Turns as Queues};

/// Fetches from one place at a time; half of them for one tenant beside others.
const MAX_RUNNING: usize = 16;
/// Fetches that wait for one place or are under way there, likewise.
const MAX_FETCHES: usize = 1024;
/// Milliseconds that a fetch counts beside its own time.
const FETCH: usize = 10;

/// Fetches by place.
#[derive(Debug)]
pub(super) struct Turns<T>(Mutex<HashMap<String, Lane<T>>>);

/// Fetches from one place.
#[derive(Debug)]
struct Lane<T> {
    queues: Queues<(Party, T)>,
    next_ticket: u64,
    fetches: usize,
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
    pub fn enter(&self, place: &str, asker: Party, fetch: T) -> Entered<T> {
        let mut lanes = self.lanes();
        let lane = lanes.entry(place.to_owned()).or_default();
        if lane.queues.check(asker, 0).is_err() {
            return Entered::Refused(fetch);
        }
        let ticket = lane.next_ticket;
        lane.next_ticket += 1;
        // There is room for it.
        let entered = lane.queues.enter(ticket, asker, 0, (asker, fetch));
        lane.fetches += usize::from(entered.is_ok());
        // Whoever waited already has to go on waiting: only this one can begin.
        match lane.queues.begin_next() {
            Some((_, (_, fetch))) => Entered::Now(fetch),
            None => Entered::Waits,
        }
    }

    /// A fetch from `place` for `asker` has ended after a `time`; the one that begins in its stead.
    pub fn leave(&self, place: &str, asker: Party, time: Duration) -> Option<(Party, T)> {
        let mut lanes = self.lanes();
        let lane = lanes.get_mut(place)?;
        let took = usize::try_from(time.as_millis()).unwrap_or(usize::MAX);
        lane.queues.charge(asker.tenant, took.saturating_add(FETCH));
        lane.queues.leave(asker.tenant, 0, true);
        lane.fetches -= 1;
        if lane.fetches == 0 {
            lanes.remove(place);
            return None;
        }
        lane.queues.begin_next().map(|(_, next)| next)
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<String, Lane<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        let limits = Limits { places: MAX_RUNNING, jobs: MAX_FETCHES, bytes: usize::MAX };
        Self { queues: Queues::new(limits), next_ticket: 0, fetches: 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Fetches of one tenant beside others.
    const PART: usize = MAX_RUNNING / 2;

    fn party(tenant: u32) -> Party {
        Party { tenant, weight: 1, alone: false }
    }

    #[test]
    fn a_place_has_turns_of_its_own() {
        let turns = Turns::default();
        for fetch in 0..PART + 3 {
            turns.enter("sick", party(1), fetch);
        }
        assert_eq!(turns.enter("sick", party(1), 0), Entered::Waits);
        assert_eq!(turns.enter("healthy", party(1), 0), Entered::Now(0));
        assert_eq!(turns.enter("sick", party(2), 0), Entered::Now(0));
    }

    #[test]
    fn askers_take_turns() {
        let turns = Turns::default();
        for fetch in 0..MAX_RUNNING {
            turns.enter("p", party(u32::from(fetch >= PART)), fetch);
        }
        for fetch in 100..105 {
            assert_eq!(turns.enter("p", party(0), fetch), Entered::Waits);
        }
        assert_eq!(turns.enter("p", party(2), 200), Entered::Waits);
        assert_eq!(turns.enter("p", party(3), 300), Entered::Waits);
        let leave = || turns.leave("p", party(0), Duration::ZERO);
        let order: Vec<_> = (0..6).filter_map(|_| leave()).map(|(_, fetch)| fetch).collect();
        // What the first has had until now counts against it.
        assert_eq!(order, [200, 300, 100, 101, 102, 103]);
    }

    #[test]
    fn no_more_wait_than_may_and_half_of_them_are_a_tenants() {
        let turns = Turns::default();
        let enter = |tenant| matches!(turns.enter("p", party(tenant), 0), Entered::Refused(_));
        let refused = (0..MAX_FETCHES / 2 + 5).filter(|_| enter(1)).count();
        assert_eq!(refused, 5);
        assert!(!enter(2), "another tenant's fetch is refused");
    }

    proptest! {
        /// Whatever comes and goes: no more run than may, nobody waits who may run, and every fetch
        /// runs once.
        #[test]
        fn fetches_run_once_and_as_soon_as_they_may(steps in prop::collection::vec((0..4_u32, any::<bool>()), 1..200)) {
            let turns = Turns::default();
            let (mut running, mut waiting, mut ran) = (Vec::new(), [0_usize; 4], 0_usize);
            let mut entered = 0;
            let begin = |next: Option<(Party, u32)>, running: &mut Vec<Party>, waiting: &mut [usize; 4]| {
                if let Some((asker, tenant)) = next {
                    assert_eq!(asker.tenant, tenant);
                    waiting[tenant as usize] -= 1;
                    running.push(asker);
                }
            };
            for (tenant, comes) in steps {
                if comes || running.is_empty() {
                    entered += 1;
                    waiting[tenant as usize] += 1;
                    if let Entered::Now(of) = turns.enter("p", party(tenant), tenant) {
                        begin(Some((party(of), of)), &mut running, &mut waiting);
                    }
                } else {
                    let ended = running.remove(tenant as usize % running.len());
                    ran += 1;
                    let next = turns.leave("p", ended, Duration::from_millis(5));
                    begin(next, &mut running, &mut waiting);
                }
                let of = |tenant| running.iter().filter(|other| other.tenant == tenant).count();
                prop_assert!(running.len() <= MAX_RUNNING);
                prop_assert!(running.iter().all(|asker| of(asker.tenant) <= PART));
                if running.len() < MAX_RUNNING {
                    for (tenant, waiting) in (0..).zip(waiting) {
                        prop_assert!(waiting == 0 || of(tenant) == PART);
                    }
                }
            }
            while let Some(ended) = running.pop() {
                ran += 1;
                let next = turns.leave("p", ended, Duration::ZERO);
                begin(next, &mut running, &mut waiting);
            }
            prop_assert_eq!(ran, entered);
            prop_assert!(turns.lanes().is_empty());
        }
    }
}
