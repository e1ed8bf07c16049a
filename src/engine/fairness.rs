//! Whose turn it is: how much has been computed for each tenant, weighed by its part.
//!
//! The virtual token counter of "Fairness in Serving Large Language Models" (arXiv 2401.00588): the
//! tenant for which least was computed is next. Who had nothing to compute for a while does not save
//! it up: on coming back its counter is lifted to those of the others that wait. Integers only.

use std::collections::BTreeMap;

use super::request::TenantShare;

/// What a token at the beginning of a prompt counts. Further behind it counts more
/// ([`super::row_cost::cost`]).
const PROMPT_TOKEN: u64 = 1;
/// What a generated token counts: each takes a step of its own. The paper's own measure.
const GENERATED_TOKEN: u64 = 2;
/// So that division by a weight loses nothing that matters.
const SCALE: u64 = 1 << 20;

/// What was computed for each tenant.
#[derive(Debug, Default)]
pub struct Fairness {
    counters: BTreeMap<u32, u64>,
    /// For whom work was begun last.
    latest: Option<u32>,
}

impl Fairness {
    /// What counts against a tenant: the smallest is next.
    #[must_use]
    pub fn counter(&self, tenant: u32) -> u64 {
        self.counters.get(&tenant).copied().unwrap_or(0)
    }

    /// A tenant for which nothing waited has something to compute, beside `backlogged`: the tenants
    /// for which something waits already. Of tenants that are not `here` nothing has to be kept.
    pub fn arrive(
        &mut self,
        tenant: u32,
        backlogged: impl Iterator<Item = u32>,
        here: impl Fn(u32) -> bool,
    ) {
        let backlogged = backlogged.map(|other| self.counter(other)).min();
        let latest = || self.latest.map_or(0, |latest| self.counter(latest));
        let level = backlogged.unwrap_or_else(latest);
        let counter = self.counter(tenant).max(level);
        // Whoever comes back behind those that wait is lifted to them: nothing is to be remembered. One that
        // is being computed does not come back, and would begin at nothing.
        let latest = self.latest;
        self.counters
            .retain(|&other, counter| *counter >= level || Some(other) == latest || here(other));
        self.counters.insert(tenant, counter);
    }

    /// Work for a tenant is begun.
    pub fn begin(&mut self, tenant: u32) {
        self.latest = Some(tenant);
    }

    /// So many tokens are generated for a tenant, and rows computed that cost so much besides.
    pub fn charge(&mut self, share: TenantShare, cost: usize, generated: usize) {
        self.add(share, cost as u64 * PROMPT_TOKEN + generated as u64 * GENERATED_TOKEN);
    }

    /// So much is spent for a tenant, in whatever this counts.
    pub fn add(&mut self, share: TenantShare, spent: u64) {
        let counter = self.counters.entry(share.id).or_default();
        *counter = counter.saturating_add(weighed(share, spent));
    }
}

/// What spending counts against a tenant of this share.
#[must_use]
pub fn weighed(share: TenantShare, spent: u64) -> u64 {
    spent.saturating_mul(SCALE) / u64::from(share.weight.max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(id: u32, weight: u32) -> TenantShare {
        TenantShare { id, weight, alone: false }
    }

    proptest! {
        /// While two tenants wait all the time, what they get stands in the ratio of their weights,
        /// whatever their requests are like.
        #[test]
        fn parts_are_as_the_weights(
            weights in (1..20_u32, 1..20_u32),
            costs in prop::collection::vec((0..300_usize, 0..50_usize), 50..300),
        ) {
            let shares = [share(1, weights.0), share(2, weights.1)];
            let mut fairness = Fairness::default();
            let mut got = [0_f64; 2];
            for (prompt, generated) in &costs {
                let next = usize::from(fairness.counter(2) < fairness.counter(1));
                fairness.charge(shares[next], *prompt, *generated);
                got[next] += (prompt + 2 * generated) as f64 / f64::from(shares[next].weight);
            }
            // Never further apart than one request.
            prop_assert!((got[0] - got[1]).abs() <= 400.0, "{got:?}");
        }
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let mut fairness = Fairness::default();
        fairness.charge(share(1, 1), 5000, 0);
        fairness.begin(1);
        // Nobody waits: the newcomer begins where the last one is.
        fairness.arrive(2, [].into_iter(), |_| false);
        assert_eq!(fairness.counter(2), fairness.counter(1));
        // Somebody waits: there.
        fairness.charge(share(1, 1), 5000, 0);
        fairness.arrive(3, [1, 2].into_iter(), |_| false);
        assert_eq!(fairness.counter(3), fairness.counter(2));
        // What somebody had too much is not forgotten.
        fairness.arrive(1, [2, 3].into_iter(), |_| false);
        assert!(fairness.counter(1) > fairness.counter(2));
    }

    #[test]
    fn tenants_that_went_away_take_no_room() {
        let mut fairness = Fairness::default();
        for tenant in 0..1000 {
            fairness.arrive(tenant, [].into_iter(), |_| false);
            fairness.charge(share(tenant, 1), 10, 0);
            fairness.begin(tenant);
        }
        assert!(fairness.counters.len() < 5, "{}", fairness.counters.len());
    }

    #[test]
    fn a_tenant_that_is_being_computed_is_not_forgotten() {
        let mut fairness = Fairness::default();
        fairness.charge(share(1, 1), 4000, 0);
        fairness.charge(share(2, 1), 5000, 0);
        fairness.begin(2);
        let before = fairness.counter(1);
        fairness.arrive(3, [].into_iter(), |tenant| tenant == 1);
        assert_eq!(fairness.counter(1), before);
        fairness.arrive(4, [].into_iter(), |_| false);
        assert_eq!(fairness.counter(1), 0);
    }
}
