//! One request of a tenant, from its coming to its end: counted among those that run, its tokens
//! charged before anything is allocated for them and settled with what was used.

use std::sync::Arc;

use super::caller::{Caller, Tenant};
use super::live::Rate;
use crate::server::body::budget::BodyCharge;
use crate::server::error::ApiError;
use crate::server::lifecycle::Running;
use crate::server::usage::{UsageLog, UsageSlot};
use crate::tenant::bucket::Refusal;

/// A request that was let in. Dropped, it is over, and what was charged and not used flows back.
#[derive(Debug)]
pub struct Admission {
    running: Running,
    tenant: Arc<Tenant>,
    charged: u64,
    used: u64,
    slot: Option<UsageSlot>,
    body: Option<BodyCharge>,
}

impl Admission {
    /// Lets a request in.
    ///
    /// # Errors
    /// 429 where the tenant has as many requests running, or has made as many in a minute, as it may.
    pub fn new(running: Running, caller: &Caller) -> Result<Self, ApiError> {
        let tenant = Arc::clone(&caller.tenant);
        let (policy, live) = (&tenant.policy, &tenant.live);
        let limit = policy.limits.max_concurrent;
        if !live.start(limit) {
            let limit = limit.unwrap_or(usize::MAX);
            return Err(ApiError::too_many_running(limit));
        }
        // From here on it counts as running, until it is dropped.
        let admission = Self { running, tenant, charged: 0, used: 0, slot: None, body: None };
        let limits = &admission.tenant.policy.limits;
        admission.take(Rate::Requests, 1, limits.requests_per_minute)?;
        Ok(admission)
    }

    /// Keeps what the request's body holds.
    pub fn keep_body(&mut self, charge: BodyCharge) {
        self.body = Some(charge);
    }

    /// What the body held has become prompts.
    pub fn release_body(&mut self) {
        self.body = None;
    }

    /// Takes a place for the request's record in `usage`, where records are kept. Bodies that come
    /// slowly hold none: this is asked once a body is there.
    ///
    /// # Errors
    /// 503 where there is no such place.
    pub fn reserve_record(&mut self, usage: Option<&UsageLog>) -> Result<(), ApiError> {
        if let Some(usage) = usage {
            self.slot = Some(usage.reserve().ok_or_else(ApiError::usage_behind)?);
        }
        Ok(())
    }

    /// Charges the most tokens that the request can use.
    ///
    /// # Errors
    /// 429 where the tenant has not so many left, or never has; nothing is charged then.
    pub fn charge(&mut self, tokens: u64) -> Result<(), ApiError> {
        self.take(Rate::Tokens, tokens, self.tenant.policy.limits.tokens_per_minute)?;
        self.charged = tokens;
        Ok(())
    }

    /// Returns once running requests must end.
    pub async fn aborted(&mut self) {
        self.running.aborted().await;
    }

    /// The place for the request's record.
    pub fn take_slot(&mut self) -> Option<UsageSlot> {
        self.slot.take()
    }

    /// So many tokens have been used up to now.
    pub fn set_used(&mut self, tokens: u64) {
        self.used = tokens;
    }

    fn take(&self, rate: Rate, amount: u64, limit: Option<u64>) -> Result<(), ApiError> {
        let limit = limit.unwrap_or(u64::MAX);
        let what = match rate {
            Rate::Requests => "requests",
            Rate::Tokens => "tokens",
        };
        self.tenant.live.take(rate, amount).map_err(|refusal| match refusal {
            Refusal::Wait(time) => ApiError::rate_limited(what, limit, time),
            Refusal::Never => ApiError::beyond_limit(what, amount, limit),
        })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.tenant.live.give_back(Rate::Tokens, self.charged.saturating_sub(self.used));
        self.tenant.live.end();
    }
}
