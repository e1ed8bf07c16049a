//! Memory held by the bodies that are being read and by what is made of them: bounded for the server,
//! and divided among tenants as they come. It counts and refuses; nobody waits here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The server's bound.
#[derive(Debug)]
pub struct BodyBudget {
    total: usize,
    used: AtomicUsize,
}

/// What one body holds, given back when dropped.
#[derive(Debug)]
pub struct BodyCharge {
    budget: Arc<BodyBudget>,
    /// What all bodies of the tenant hold.
    tenant: Arc<AtomicUsize>,
    /// Whether there are no other tenants.
    alone: bool,
    bytes: usize,
}

/// There is no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl BodyBudget {
    /// A bound of `total` bytes.
    #[must_use]
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, used: AtomicUsize::new(0) })
    }

    /// Bytes that bodies hold at the moment.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// The charge of a body that holds nothing yet, of the tenant whose bodies `tenant` counts.
    #[must_use]
    pub fn charge(self: &Arc<Self>, tenant: Arc<AtomicUsize>, alone: bool) -> BodyCharge {
        BodyCharge { budget: Arc::clone(self), tenant, alone, bytes: 0 }
    }
}

impl BodyCharge {
    /// Takes `more` bytes.
    ///
    /// Beside other tenants, one may hold as much as is then left free: one that takes all it can
    /// leaves half, two leave a third, so that those who ask for little always find it.
    ///
    /// # Errors
    /// Where so much is not there; nothing is taken then.
    pub fn grow(&mut self, more: usize) -> Result<(), Full> {
        let within =
            |used: usize| used.checked_add(more).filter(|after| *after <= self.budget.total);
        let before = self
            .budget
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, within)
            .map_err(|_| Full)?;
        let own = self.tenant.fetch_add(more, Ordering::AcqRel) + more;
        self.bytes += more;
        if self.alone || own <= self.budget.total - (before + more) {
            return Ok(());
        }
        self.shrink(more);
        Err(Full)
    }

    fn shrink(&mut self, less: usize) {
        self.bytes -= less;
        self.tenant.fetch_sub(less, Ordering::AcqRel);
        self.budget.used.fetch_sub(less, Ordering::AcqRel);
    }
}

impl Drop for BodyCharge {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes single bytes until there is no more: how many.
    fn fill(charge: &mut BodyCharge) -> usize {
        std::iter::from_fn(|| charge.grow(1).ok()).count()
    }

    #[test]
    fn one_tenant_alone_may_have_all_and_no_more() {
        let budget = BodyBudget::new(60);
        let mut charge = budget.charge(Arc::default(), true);
        assert_eq!(charge.grow(61), Err(Full));
        assert_eq!(charge.grow(usize::MAX), Err(Full));
        assert_eq!((fill(&mut charge), budget.used()), (60, 60));
        drop(charge);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn however_many_take_what_they_can_something_is_left() {
        for tenants in 1..=6 {
            let budget = BodyBudget::new(420);
            let mut charges: Vec<_> =
                (0..tenants).map(|_| budget.charge(Arc::default(), false)).collect();
            // Each takes a byte, by turns, until nobody can.
            while charges.iter_mut().map(|charge| charge.grow(1)).filter(Result::is_ok).count() > 0
            {
            }
            let left = 420 - budget.used();
            assert!(left >= 420 / (tenants + 1), "{tenants} tenants leave {left}");
            let mut modest = budget.charge(Arc::default(), false);
            assert_eq!(modest.grow(left / 2), Ok(()));
            drop((charges, modest));
            assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn the_bodies_of_a_tenant_count_together() {
        let budget = BodyBudget::new(100);
        let tenant = Arc::new(AtomicUsize::new(0));
        let mut first = budget.charge(Arc::clone(&tenant), false);
        let mut second = budget.charge(Arc::clone(&tenant), false);
        assert_eq!((fill(&mut first), fill(&mut second)), (50, 0));
        drop(first);
        assert_eq!(fill(&mut second), 50);
        drop(second);
        assert_eq!((tenant.load(Ordering::Acquire), budget.used()), (0, 0));
    }
}
