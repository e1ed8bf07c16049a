//! What one tenant uses at the moment. It outlives reloads: changed limits hold for what runs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::tenant::bucket::{Bucket, Refusal, Standing};
use crate::tenant::policy::Limits;

/// One tenant's use.
#[derive(Debug)]
pub struct Live {
    number: u32,
    rates: Arc<Mutex<Rates>>,
    running: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
    bodies: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Rates {
    requests: Metered,
    tokens: Metered,
}

/// A rate that may be limited. What was used of it is remembered while it is not.
#[derive(Debug, Default)]
struct Metered {
    bucket: Option<Bucket>,
    limited: bool,
}

/// Which rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
}

impl Rates {
    fn of(&mut self, rate: Rate) -> &mut Metered {
        match rate {
            Rate::Requests => &mut self.requests,
            Rate::Tokens => &mut self.tokens,
        }
    }

    /// The bucket of a rate that is limited.
    fn limited(&mut self, rate: Rate) -> Option<&mut Bucket> {
        let metered = self.of(rate);
        metered.bucket.as_mut().filter(|_| metered.limited)
    }
}

impl Live {
    /// Nothing is used. `number` names the tenant to the engine.
    #[must_use]
    pub fn new(number: u32) -> Self {
        Self {
            number,
            rates: Arc::default(),
            running: Arc::default(),
            waiting: Arc::default(),
            bodies: Arc::default(),
        }
    }

    /// The same use by a tenant of another number.
    #[must_use]
    pub fn renumbered(&self, number: u32) -> Self {
        Self {
            number,
            rates: Arc::clone(&self.rates),
            running: Arc::clone(&self.running),
            waiting: Arc::clone(&self.waiting),
            bodies: Arc::clone(&self.bodies),
        }
    }

    /// The tenant's number. No other tenant of this process has it, or ever had.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Prompts of the tenant that wait in the engine's queue.
    #[must_use]
    pub fn waiting(&self) -> &Arc<AtomicUsize> {
        &self.waiting
    }

    /// Bytes that bodies of the tenant's requests hold.
    #[must_use]
    pub fn bodies(&self) -> &Arc<AtomicUsize> {
        &self.bodies
    }

    /// Sets the rates; what is used of them stays used.
    pub fn set_rates(&self, limits: &Limits) {
        let now = Instant::now();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        for (rate, per_minute) in
            [(Rate::Requests, limits.requests_per_minute), (Rate::Tokens, limits.tokens_per_minute)]
        {
            let metered = rates.of(rate);
            metered.limited = per_minute.is_some();
            match (&mut metered.bucket, per_minute) {
                (_, None) => {}
                (Some(bucket), Some(per_minute)) => bucket.set_rate(per_minute, now),
                (bucket, Some(per_minute)) => *bucket = Some(Bucket::new(per_minute, now)),
            }
        }
    }

    /// Takes `amount` of a rate, or nothing. Where the tenant has no such limit it is always there.
    ///
    /// # Errors
    /// Where so much is not there.
    pub fn take(&self, rate: Rate, amount: u64) -> Result<(), Refusal> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.limited(rate).map_or(Ok(()), |bucket| bucket.take(amount, Instant::now()))
    }

    /// Gives back what was not used after all.
    pub fn give_back(&self, rate: Rate, amount: u64) {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = rates.limited(rate) {
            bucket.give_back(amount, Instant::now());
        }
    }

    /// How a rate stands, where there is such a limit.
    #[must_use]
    pub fn standing(&self, rate: Rate) -> Option<Standing> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.limited(rate).map(|bucket| bucket.standing(Instant::now()))
    }

    /// One more request is answered, unless `limit` are already.
    #[must_use]
    pub fn start(&self, limit: Option<usize>) -> bool {
        let more = |running: usize| (running < limit.unwrap_or(usize::MAX)).then_some(running + 1);
        self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Whether nothing of the tenant is answered or waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.load(Ordering::Acquire) == 0 && self.waiting.load(Ordering::Acquire) == 0
    }

    /// One request less is answered.
    pub fn end(&self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
    }
}
