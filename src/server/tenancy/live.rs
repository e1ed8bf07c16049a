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
    rates: Mutex<Rates>,
    running: AtomicUsize,
    waiting: Arc<AtomicUsize>,
    bodies: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Rates {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
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
    fn of(&mut self, rate: Rate) -> &mut Option<Bucket> {
        match rate {
            Rate::Requests => &mut self.requests,
            Rate::Tokens => &mut self.tokens,
        }
    }
}

impl Live {
    /// Nothing is used. `number` names the tenant to the engine.
    #[must_use]
    pub fn new(number: u32) -> Self {
        Self {
            number,
            rates: Mutex::default(),
            running: AtomicUsize::new(0),
            waiting: Arc::default(),
            bodies: Arc::default(),
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
            match (rates.of(rate), per_minute) {
                (bucket, None) => *bucket = None,
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
        rates.of(rate).as_mut().map_or(Ok(()), |bucket| bucket.take(amount, Instant::now()))
    }

    /// Gives back what was not used after all.
    pub fn give_back(&self, rate: Rate, amount: u64) {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = rates.of(rate) {
            bucket.give_back(amount, Instant::now());
        }
    }

    /// How a rate stands, where there is such a limit.
    #[must_use]
    pub fn standing(&self, rate: Rate) -> Option<Standing> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.of(rate).as_mut().map(|bucket| bucket.standing(Instant::now()))
    }

    /// One more request is answered, unless `limit` are already.
    #[must_use]
    pub fn start(&self, limit: Option<usize>) -> bool {
        let more = |running: usize| (running < limit.unwrap_or(usize::MAX)).then_some(running + 1);
        self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// One request less is answered.
    pub fn end(&self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
    }
}
