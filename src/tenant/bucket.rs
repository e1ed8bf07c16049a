//! A rate: so much per minute, taken before it is used and settled afterwards.
//!
//! What has been taken flows back evenly, all of it within a minute. Unlike the usual algorithms of
//! rate limits it takes back what was not used after all.

use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// One rate and how far it is used.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_minute: u64,
    used: f64,
    at: Instant,
}

/// Why nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It can be had after this time, where nobody else takes it.
    Wait(Duration),
    /// It is more than a minute's whole.
    Never,
}

/// How a rate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What a minute has.
    pub limit: u64,
    /// What could be taken now.
    pub remaining: u64,
    /// Time until everything could be.
    pub reset: Duration,
}

impl Bucket {
    /// A rate of which nothing is used.
    #[must_use]
    pub fn new(per_minute: u64, now: Instant) -> Self {
        Self { per_minute: per_minute.max(1), used: 0.0, at: now }
    }

    /// The same use under another rate.
    pub fn set_rate(&mut self, per_minute: u64, now: Instant) {
        self.flow(now);
        self.per_minute = per_minute.max(1);
    }

    /// Takes `amount`, or nothing.
    ///
    /// # Errors
    /// Where so much is not there now, or never is.
    pub fn take(&mut self, amount: u64, now: Instant) -> Result<(), Refusal> {
        if amount > self.per_minute {
            return Err(Refusal::Never);
        }
        self.flow(now);
        let missing = self.used + amount as f64 - self.per_minute as f64;
        if missing > 0.0 {
            return Err(Refusal::Wait(self.time_for(missing)));
        }
        self.used += amount as f64;
        Ok(())
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, amount: u64, now: Instant) {
        self.flow(now);
        self.used = (self.used - amount as f64).max(0.0);
    }

    /// How it stands.
    pub fn standing(&mut self, now: Instant) -> Standing {
        self.flow(now);
        let remaining = (self.per_minute as f64 - self.used).max(0.0) as u64;
        Standing { limit: self.per_minute, remaining, reset: self.time_for(self.used) }
    }

    fn flow(&mut self, now: Instant) {
        let minutes = now.saturating_duration_since(self.at).as_secs_f64() / MINUTE.as_secs_f64();
        self.used = (self.used - minutes * self.per_minute as f64).max(0.0);
        self.at = self.at.max(now);
    }

    fn time_for(&self, amount: f64) -> Duration {
        MINUTE.mul_f64(amount / self.per_minute as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever was asked for and given back, no minute gives more than twice its whole: what
        /// was there at its beginning, and what flowed back in it. And what is refused is there
        /// after the time that was said.
        #[test]
        fn a_rate_is_kept(
            asked in prop::collection::vec((1..40_u64, 0..10_000_u64, 0..40_u64), 1..200),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(60, now);
            let mut given: Vec<(Instant, u64)> = Vec::new();
            for (amount, millis, unused) in asked {
                now += Duration::from_millis(millis);
                match bucket.take(amount, now) {
                    Ok(()) => {
                        let unused = unused.min(amount);
                        bucket.give_back(unused, now);
                        given.push((now, amount - unused));
                    }
                    Err(Refusal::Wait(time)) => {
                        let mut later = bucket.clone();
                        let soon = now + time + Duration::from_millis(1);
                        prop_assert_eq!(later.take(amount, soon), Ok(()));
                    }
                    Err(Refusal::Never) => prop_assert!(amount > 60),
                }
                let minute = given.iter().filter(|(at, _)| now.duration_since(*at) < MINUTE);
                prop_assert!(minute.map(|(_, amount)| amount).sum::<u64>() <= 120);
            }
        }
    }

    #[test]
    fn it_says_how_it_stands() {
        let start = Instant::now();
        let mut bucket = Bucket::new(60, start);
        bucket.take(60, start).unwrap();
        assert_eq!(bucket.take(61, start), Err(Refusal::Never));
        assert_eq!(bucket.take(3, start), Err(Refusal::Wait(Duration::from_secs(3))));
        let standing = bucket.standing(start + Duration::from_secs(15));
        let reset = Duration::from_secs(45);
        assert_eq!(standing, Standing { limit: 60, remaining: 15, reset });
        bucket.set_rate(120, start + Duration::from_secs(15));
        assert_eq!(bucket.standing(start + Duration::from_secs(15)).remaining, 75);
    }
}
