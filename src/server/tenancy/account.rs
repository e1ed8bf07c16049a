//! What one request uses, from its submission to its end: for the tenant's metrics and its usage
//! record.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::adapter::registry::AdapterVersion;
use crate::metrics::tenants::TenantSeries;
use crate::server::call::Call;
use crate::server::choice::Delta;
use crate::server::state::{AppState, Serving};
use crate::server::usage::UsageSlot;
use crate::server::usage::record::UsageRecord;

/// What is known of a request's use before it begins.
#[must_use]
pub fn record(
    serving: &Serving,
    adapter: Option<&Arc<AdapterVersion>>,
    prompt_tokens: usize,
) -> UsageRecord {
    let model = adapter.map_or(serving.registry.base_name(), |version| version.name.as_str());
    UsageRecord {
        model: model.to_owned(),
        adapter_digest: adapter.map(|version| format!("blake3:{}", version.id())),
        prompt_tokens,
        ..UsageRecord::default()
    }
}

/// A request's account. Dropped, it is closed: counted, and recorded where records are kept.
#[derive(Debug)]
pub struct Account {
    call: Call,
    series: TenantSeries,
    record: UsageRecord,
    slot: Option<UsageSlot>,
    /// Choices that have not ended, and how they do if nothing more is heard of them.
    open: (usize, &'static str),
}

impl Account {
    /// Opens the account of a request of `choices` choices; `record` says what is known of it.
    #[must_use]
    pub fn new(
        state: &AppState,
        call: &Call,
        slot: Option<UsageSlot>,
        choices: usize,
        record: UsageRecord,
    ) -> Self {
        let tenant = call.caller.tenant.policy.name.clone();
        let series = state.metrics.tenant(&tenant, &record.model);
        let key = call.caller.key_id().map(str::to_owned);
        let request_id = call.id.to_string();
        let record = UsageRecord { request_id, tenant, key, ..record };
        Self { call: call.clone(), series, record, slot, open: (choices, "abort") }
    }

    /// A piece of one choice came.
    pub fn piece(&mut self, delta: &Delta) {
        if self.record.completion_tokens == 0 && delta.generated > 0 {
            self.series.first_token(self.call.arrived.elapsed());
        }
        if let Some(queued) = delta.queued {
            self.series.begun(queued.time, queued.steps);
        }
        self.record.completion_tokens += delta.generated;
        self.record.cached_tokens += delta.cached;
        if let Some(finish) = &delta.finish {
            self.finished(finish.reason);
        }
    }

    /// A choice ended.
    pub fn finished(&mut self, reason: &'static str) {
        self.open.0 = self.open.0.saturating_sub(1);
        *self.record.finish.entry(reason).or_default() += 1;
    }

    /// A choice failed, and with it all that have not ended.
    pub fn failed(&mut self) {
        self.open.1 = "error";
    }

    /// Tokens of prompts and answers up to now.
    #[must_use]
    pub fn used(&self) -> u64 {
        (self.record.prompt_tokens + self.record.completion_tokens) as u64
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut record = std::mem::take(&mut self.record);
        self.series.ended(record.prompt_tokens, record.cached_tokens, record.completion_tokens);
        let Some(slot) = self.slot.take() else { return };
        if let (1.., reason) = self.open {
            *record.finish.entry(reason).or_default() += self.open.0;
        }
        record.time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
        slot.send(record);
    }
}
