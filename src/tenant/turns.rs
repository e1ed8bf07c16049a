//! Whose job is next: one queue per tenant, the tenant that was served least goes first. Pure
//! bookkeeping; it runs nothing and waits for nothing.
//!
//! The order is that of the engine's scheduler: what was done for a tenant counts against it, divided
//! by its weight, and a tenant that had nothing to do saves nothing up.

use std::collections::{BTreeMap, VecDeque};

/// So that division by a weight loses nothing that matters.
const SCALE: u64 = 1 << 20;

/// What a queue may hold. A tenant may have half of each, where there are others.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Jobs that run at once.
    pub places: usize,
    /// Jobs that wait or run.
    pub jobs: usize,
    /// Bytes that they hold.
    pub bytes: usize,
}

/// For whom a job is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    /// Which tenant.
    pub tenant: u32,
    /// Its part beside other tenants; at least 1.
    pub weight: u32,
    /// Whether there are no others.
    pub alone: bool,
}

impl Party {
    /// The operator, or nobody in particular. No tenant has its number.
    pub const OPERATOR: Self = Self { tenant: u32::MAX, weight: 1, alone: true };
}

/// What is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// So many jobs wait or run.
    #[error("{limit} requests are waiting")]
    Jobs {
        /// The limit.
        limit: usize,
    },
    /// They hold so many bytes.
    #[error("the requests that wait hold {limit} bytes")]
    Bytes {
        /// The limit.
        limit: usize,
    },
    /// So many of the tenant's own wait or run.
    #[error("{limit} of your requests are waiting")]
    OwnJobs {
        /// The limit.
        limit: usize,
    },
    /// The tenant's own hold so many bytes.
    #[error("your requests that wait hold {limit} bytes")]
    OwnBytes {
        /// The limit.
        limit: usize,
    },
}

impl Full {
    /// Whether it is the tenant's own part that is full.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self, Self::OwnJobs { .. } | Self::OwnBytes { .. })
    }
}

/// The queues of all tenants. A job is a ticket, which nobody has twice, and a `W` that wakes it.
#[derive(Debug)]
pub struct Turns<W> {
    limits: Limits,
    tenants: BTreeMap<u32, Tenant<W>>,
    running: usize,
    jobs: usize,
    bytes: usize,
    /// The tenant that was begun last, and what counts against it.
    latest: Option<u32>,
    level: u64,
    /// All that was done.
    done: u64,
}

#[derive(Debug)]
struct Tenant<W> {
    waiting: VecDeque<(u64, W)>,
    weight: u32,
    /// Jobs of it that may run at once.
    places: usize,
    running: usize,
    jobs: usize,
    bytes: usize,
    /// What was done for it, divided by its weight.
    served: u64,
    /// The same as it is.
    done: u64,
}

impl<W> Tenant<W> {
    fn may_begin(&self) -> bool {
        !self.waiting.is_empty() && self.running < self.places
    }
}

impl Limits {
    /// A tenant's part of `whole`.
    fn part(whole: usize, party: Party) -> usize {
        if party.alone { whole } else { (whole / 2).max(1) }
    }
}

impl<W> Turns<W> {
    /// Nothing waits.
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { places: limits.places.max(1), ..limits };
        Self {
            limits,
            tenants: BTreeMap::new(),
            running: 0,
            jobs: 0,
            bytes: 0,
            latest: None,
            level: 0,
            done: 0,
        }
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.tenants.values().map(|tenant| tenant.waiting.len()).sum()
    }

    /// A job that holds `bytes` joins its tenant's queue. One job is let in whatever its size, so that
    /// none is refused for ever.
    ///
    /// # Errors
    /// What is full.
    pub fn enter(&mut self, ticket: u64, party: Party, bytes: usize, wake: W) -> Result<(), Full> {
        self.check(party, bytes)?;
        let places = Limits::part(self.limits.places, party);
        let tenant = self.arrive(party);
        tenant.places = places;
        tenant.jobs += 1;
        tenant.bytes += bytes;
        tenant.waiting.push_back((ticket, wake));
        self.jobs += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// Whether a job that holds `bytes` may join its tenant's queue.
    ///
    /// # Errors
    /// What is full.
    pub fn check(&self, party: Party, bytes: usize) -> Result<(), Full> {
        let Limits { jobs, bytes: most, .. } = self.limits;
        if self.jobs >= jobs {
            return Err(Full::Jobs { limit: jobs });
        }
        if self.bytes > 0 && self.bytes.saturating_add(bytes) > most {
            return Err(Full::Bytes { limit: most });
        }
        if let Some(tenant) = self.tenants.get(&party.tenant) {
            let limit = Limits::part(jobs, party);
            if tenant.jobs >= limit {
                return Err(Full::OwnJobs { limit });
            }
            let limit = Limits::part(most, party);
            if tenant.bytes > 0 && tenant.bytes.saturating_add(bytes) > limit {
                return Err(Full::OwnBytes { limit });
            }
        }
        Ok(())
    }

    /// The tenant of `party`; lifted to the others where it had nothing to do.
    fn arrive(&mut self, party: Party) -> &mut Tenant<W> {
        let busy = self.tenants.values().filter(|tenant| tenant.jobs > 0);
        let level = busy.map(|tenant| tenant.served).min().unwrap_or(self.level);
        // Whoever would be lifted needs no memory.
        self.tenants
            .retain(|id, tenant| tenant.jobs > 0 || tenant.served > level || *id == party.tenant);
        let tenant = self.tenants.entry(party.tenant).or_insert_with(|| Tenant {
            waiting: VecDeque::new(),
            weight: 1,
            places: 1,
            running: 0,
            jobs: 0,
            bytes: 0,
            served: level,
            done: 0,
        });
        if tenant.jobs == 0 {
            tenant.served = tenant.served.max(level);
        }
        tenant.weight = party.weight.max(1);
        tenant
    }

    /// Begins the next job, where a place is free for one. It has the place until it is given back
    /// with [`Self::requeue`] or [`Self::leave`].
    pub fn begin_next(&mut self) -> Option<(u64, W)> {
        if self.running >= self.limits.places {
            return None;
        }
        let able = self.tenants.iter_mut().filter(|(_, tenant)| tenant.may_begin());
        let (id, tenant) = able.min_by_key(|(_, tenant)| tenant.served)?;
        let job = tenant.waiting.pop_front()?;
        tenant.running += 1;
        self.running += 1;
        (self.latest, self.level) = (Some(*id), tenant.served);
        Some(job)
    }

    /// So much was done for a tenant.
    pub fn charge(&mut self, id: u32, amount: usize) {
        if let Some(tenant) = self.tenants.get_mut(&id) {
            let weighed = (amount as u64).saturating_mul(SCALE) / u64::from(tenant.weight);
            tenant.served = tenant.served.saturating_add(weighed);
            tenant.done = tenant.done.wrapping_add(amount as u64);
            self.done = self.done.wrapping_add(amount as u64);
            if self.latest == Some(id) {
                self.level = tenant.served;
            }
        }
    }

    /// What was done for others than a tenant that has a job, since some moment before that came.
    pub fn done_for_others(&self, tenant: u32) -> u64 {
        self.done.wrapping_sub(self.tenants.get(&tenant).map_or(0, |tenant| tenant.done))
    }

    /// Whether a running job of `tenant` should let another one have its place for a while.
    pub fn should_yield(&self, tenant: u32) -> bool {
        let Some(own) = self.tenants.get(&tenant) else { return false };
        // Its own tenant's other jobs take turns with it.
        let next = |(id, other): (&u32, &Tenant<W>)| {
            let ahead =
                *id == tenant || (other.served < own.served && other.running < other.places);
            !other.waiting.is_empty() && ahead
        };
        self.tenants.iter().any(next)
    }

    /// A running job gives its place back and waits for another turn, behind its tenant's others.
    pub fn requeue(&mut self, ticket: u64, tenant: u32, wake: W) {
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.waiting.push_back((ticket, wake));
            tenant.running -= 1;
            self.running -= 1;
        }
    }

    /// A job that waits is taken out of its queue; `None` where it runs.
    pub fn remove(&mut self, ticket: u64, tenant: u32) -> Option<W> {
        let waiting = &mut self.tenants.get_mut(&tenant)?.waiting;
        let place = waiting.iter().position(|(other, _)| *other == ticket)?;
        waiting.remove(place).map(|(_, wake)| wake)
    }

    /// Takes jobs out of the queues that hold no bytes and are not to be `kept`; they are over.
    pub fn retain(&mut self, kept: impl Fn(&W) -> bool) {
        for tenant in self.tenants.values_mut() {
            let before = tenant.waiting.len();
            tenant.waiting.retain(|(_, wake)| kept(wake));
            let gone = before - tenant.waiting.len();
            tenant.jobs -= gone;
            self.jobs -= gone;
        }
    }

    /// A job is over, wherever it was; `ran` says whether it had a place.
    pub fn leave(&mut self, tenant: u32, bytes: usize, ran: bool) {
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.jobs -= 1;
            tenant.bytes -= bytes;
            tenant.running -= usize::from(ran);
            self.jobs -= 1;
            self.bytes -= bytes;
            self.running -= usize::from(ran);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { places: 2, jobs: 64, bytes: 1000 };

    fn party(tenant: u32, weight: u32) -> Party {
        Party { tenant, weight, alone: false }
    }

    fn begin(turns: &mut Turns<()>) -> Option<u64> {
        turns.begin_next().map(|(ticket, ())| ticket)
    }

    #[test]
    fn the_tenant_that_was_served_least_is_next_whatever_another_has_queued() {
        let mut turns = Turns::new(LIMITS);
        for ticket in 0..30 {
            turns.enter(ticket, party(1, 1), 1, ()).unwrap();
        }
        // One place is left to others, though nobody else waits yet.
        assert_eq!((begin(&mut turns), begin(&mut turns)), (Some(0), None));
        turns.charge(1, 100);
        turns.enter(100, party(2, 1), 1, ()).unwrap();
        turns.enter(101, party(2, 1), 1, ()).unwrap();
        assert_eq!(begin(&mut turns), Some(100));
        turns.charge(2, 10);
        turns.leave(2, 1, true);
        assert_eq!(begin(&mut turns), Some(101));
        assert!(turns.should_yield(1));
    }

    #[test]
    fn a_tenant_without_others_has_every_place() {
        let mut turns = Turns::new(LIMITS);
        let alone = Party { tenant: 0, weight: 1, alone: true };
        for ticket in 0..3 {
            turns.enter(ticket, alone, 1, ()).unwrap();
        }
        assert_eq!((begin(&mut turns), begin(&mut turns)), (Some(0), Some(1)));
        assert_eq!(begin(&mut turns), None);
    }

    #[test]
    fn jobs_and_bytes_have_limits_and_half_of_them_is_a_tenants() {
        let mut turns = Turns::new(LIMITS);
        for ticket in 0..32 {
            turns.enter(ticket, party(1, 1), 0, ()).unwrap();
        }
        assert_eq!(turns.enter(32, party(1, 1), 0, ()), Err(Full::OwnJobs { limit: 32 }));
        for ticket in 33..65 {
            turns.enter(ticket, party(2, 1), 0, ()).unwrap();
        }
        assert_eq!(turns.enter(66, party(3, 1), 0, ()), Err(Full::Jobs { limit: 64 }));

        let mut turns = Turns::new(LIMITS);
        // One that is too large for every limit is still done, alone.
        turns.enter(0, party(1, 1), 5000, ()).unwrap();
        assert_eq!(turns.enter(1, party(1, 1), 1, ()), Err(Full::Bytes { limit: 1000 }));
        turns.leave(1, 5000, false);
        turns.enter(2, party(1, 1), 400, ()).unwrap();
        assert_eq!(turns.enter(3, party(1, 1), 200, ()), Err(Full::OwnBytes { limit: 500 }));
        turns.enter(4, party(2, 1), 400, ()).unwrap();
        assert_eq!(turns.enter(5, party(3, 1), 300, ()), Err(Full::Bytes { limit: 1000 }));
    }

    #[test]
    fn what_was_not_used_is_not_saved_up_and_takes_no_room() {
        let mut turns = Turns::new(LIMITS);
        for tenant in 0..1000 {
            let ticket = u64::from(tenant);
            turns.enter(ticket, party(tenant, 1), 1, ()).unwrap();
            assert_eq!(begin(&mut turns), Some(ticket));
            turns.charge(tenant, 10);
            turns.leave(tenant, 1, true);
        }
        assert!(turns.tenants.len() < 5, "{}", turns.tenants.len());
        let level = turns.level;
        turns.enter(5000, party(7, 1), 1, ()).unwrap();
        assert!(turns.tenants[&7].served >= level);
    }

    /// Something happens to the queues.
    #[derive(Debug, Clone)]
    enum Act {
        Enter { tenant: u32, bytes: usize },
        Charge { amount: usize },
        Requeue,
        Remove,
        Leave,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0..5_u32, 0..300_usize).prop_map(|(tenant, bytes)| Act::Enter { tenant, bytes }),
            (0..1000_usize).prop_map(|amount| Act::Charge { amount }),
            Just(Act::Requeue),
            Just(Act::Remove),
            Just(Act::Leave),
        ]
    }

    proptest! {
        /// The books balance after every step, no limit is passed, no place stays empty while one
        /// could use it, and each job runs exactly once at a time.
        #[test]
        fn the_books_balance(acts in prop::collection::vec(act(), 1..200)) {
            let mut turns = Turns::new(LIMITS);
            let (mut waiting, mut running) = (Vec::new(), Vec::new());
            for (ticket, act) in (0_u64..).zip(acts) {
                match act {
                    Act::Enter { tenant, bytes } => {
                        if turns.enter(ticket, party(tenant, 1 + tenant), bytes, ()).is_ok() {
                            waiting.push((ticket, tenant, bytes));
                        }
                    }
                    Act::Charge { amount } => {
                        if let Some((_, tenant, _)) = running.first() {
                            turns.charge(*tenant, amount);
                        }
                    }
                    Act::Requeue => {
                        if let Some(job) = running.pop() {
                            turns.requeue(job.0, job.1, ());
                            waiting.push(job);
                        }
                    }
                    Act::Remove => {
                        if let Some(job) = waiting.pop() {
                            prop_assert_eq!(turns.remove(job.0, job.1), Some(()));
                            turns.leave(job.1, job.2, false);
                        }
                    }
                    Act::Leave => {
                        if let Some(job) = running.pop() {
                            prop_assert_eq!(turns.remove(job.0, job.1), None);
                            turns.leave(job.1, job.2, true);
                        }
                    }
                }
                while let Some(begun) = begin(&mut turns) {
                    let place = waiting.iter().position(|job: &(u64, u32, usize)| job.0 == begun);
                    running.push(waiting.remove(place.unwrap()));
                }
                let all = || waiting.iter().chain(&running);
                prop_assert_eq!(turns.waiting(), waiting.len());
                prop_assert_eq!(turns.running, running.len());
                prop_assert_eq!(turns.jobs, all().count());
                prop_assert_eq!(turns.bytes, all().map(|job| job.2).sum::<usize>());
                prop_assert!(running.len() <= LIMITS.places && turns.jobs <= LIMITS.jobs);
                for tenant in 0..5 {
                    prop_assert!(running.iter().filter(|job| job.1 == tenant).count() <= 1);
                }
                if running.len() < LIMITS.places {
                    let idle = |job: &&(u64, u32, usize)| running.iter().all(|r| r.1 != job.1);
                    prop_assert_eq!(waiting.iter().find(idle), None);
                }
            }
        }

        /// While two tenants have work all the time, what is done for them stands in the ratio of
        /// their weights, whatever their jobs are like.
        #[test]
        fn parts_are_as_the_weights(
            weights in (1..20_u32, 1..20_u32),
            costs in prop::collection::vec(1..300_usize, 50..300),
        ) {
            let weights = [weights.0, weights.1];
            let mut turns = Turns::new(Limits { places: 1, ..LIMITS });
            let mut got = [0_f64; 2];
            for tenant in [0, 1] {
                turns.enter(tenant.into(), party(tenant, weights[tenant as usize]), 0, ()).unwrap();
            }
            for cost in costs {
                let ticket = begin(&mut turns).unwrap();
                let tenant = ticket as usize;
                turns.charge(ticket as u32, cost);
                got[tenant] += cost as f64 / f64::from(weights[tenant]);
                turns.requeue(ticket, ticket as u32, ());
            }
            // Never further apart than one job.
            prop_assert!((got[0] - got[1]).abs() <= 300.0, "{got:?}");
        }
    }
}
