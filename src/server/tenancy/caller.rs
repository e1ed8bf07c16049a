//! Whoever calls: a tenant, by one of its keys.

use std::sync::Arc;

use super::live::Live;
use crate::adapter::registry::Registry;
use crate::engine::handle::QueueShare;
use crate::engine::request::TenantShare;
use crate::server::body::budget::{BodyBudget, BodyCharge};
use crate::tenant::directory::Key;
use crate::tenant::policy::Policy;

/// No model has a longer name, in bytes.
const MAX_NAME: usize = 1024;

/// A tenant: its rights, and what it uses at the moment.
#[derive(Debug)]
pub struct Tenant {
    /// Its rights, as they were when the call came.
    pub policy: Arc<Policy>,
    /// What it uses: the same for all its calls.
    pub live: Arc<Live>,
    /// The number of its cache group, where it is in one.
    pub group: Option<u32>,
    /// Whether there are no other tenants.
    pub alone: bool,
}

/// Whoever made a call, with the rights of that moment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller {
    /// For whom the call is answered.
    pub tenant: Arc<Tenant>,
    key: Option<Arc<Key>>,
}

impl Caller {
    /// A call without a key, to a server that asks for none.
    #[must_use]
    pub fn anonymous(tenant: Arc<Tenant>) -> Self {
        Self { tenant, key: None }
    }

    /// A call with a tenant's key.
    #[must_use]
    pub fn with_key(tenant: Arc<Tenant>, key: Arc<Key>) -> Self {
        Self { tenant, key: Some(key) }
    }

    /// The public name of the key; `None` where none was asked for.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key.as_deref().map(|key| key.id.as_str())
    }

    /// Whether it may use models.
    #[must_use]
    pub fn is_user(&self) -> bool {
        self.key.as_ref().is_none_or(|key| key.user)
    }

    /// Whether its key may manage the server. Without keys nobody's does.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.admin)
    }

    /// The name that is meant by `model`, which may be absent: the tenant's own default where
    /// nothing else is asked for.
    #[must_use]
    pub fn model_meant(&self, model: Option<String>) -> Option<String> {
        match (model, &self.tenant.policy.default) {
            (None, default) => default.clone(),
            (Some(model), Some(default)) if model == "default" => Some(default.clone()),
            (model, _) => model,
        }
    }

    /// Whether it may use what `name` stands for, be there such a thing or not. Asked before
    /// anything is looked up, so that what others have differs in nothing from what nobody has.
    #[must_use]
    pub fn may_use(&self, registry: &Registry, name: &str) -> bool {
        if name.len() > MAX_NAME {
            return false;
        }
        let policy = &self.tenant.policy;
        if registry.base_names().iter().any(|base| base == name) {
            policy.base
        } else {
            policy.allows_adapter(name)
        }
    }

    /// Its tenant, as the engine knows it.
    #[must_use]
    pub fn share(&self) -> TenantShare {
        let Tenant { policy, live, alone, .. } = &*self.tenant;
        TenantShare { id: live.number(), weight: policy.weight, alone: *alone }
    }

    /// Its tenant's part of a queue of `max_waiting` places: what is said, else half of it beside
    /// other tenants.
    #[must_use]
    pub fn queue_share(&self, max_waiting: usize) -> QueueShare {
        let part = if self.tenant.alone { max_waiting } else { max_waiting.div_ceil(2) };
        let limit = self.tenant.policy.limits.max_waiting.unwrap_or(part);
        let waiting = Arc::clone(self.tenant.live.waiting());
        QueueShare { waiting, limit: limit.min(max_waiting) }
    }

    /// The charge of a body of its, which holds nothing yet.
    #[must_use]
    pub fn body_charge(&self, budget: &Arc<BodyBudget>) -> BodyCharge {
        budget.charge(Arc::clone(self.tenant.live.bodies()), self.tenant.alone)
    }

    /// Who shares this caller's cached prompts: its tenant alone, or its tenant's group. By number, not
    /// by name: a name can be given to somebody else.
    #[must_use]
    pub fn cache_owner(&self) -> String {
        match self.tenant.group {
            Some(group) => format!("group/{group}"),
            None => format!("tenant/{}", self.tenant.live.number()),
        }
    }
}
