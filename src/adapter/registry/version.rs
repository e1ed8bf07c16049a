//! One loaded version of an adapter, and what its memory is charged to.

use std::sync::Arc;

use super::ledger::Charge;
use crate::adapter::delta::{AdapterId, LowRankDelta};

/// One loaded version of an adapter. A request holds it by `Arc` from submission to its end: what
/// happens to the name in the meantime changes nothing of the answer.
#[derive(Debug)]
pub struct AdapterVersion {
    /// The name it was registered under.
    pub name: String,
    /// Its weights, relative to the base model, as the model's batches take them.
    pub delta: Arc<LowRankDelta>,
    /// Given back when the last holder lets go, and not before.
    _charge: Option<Charge>,
}

impl AdapterVersion {
    /// A version that no budget knows of.
    #[must_use]
    pub fn new(name: String, delta: Arc<LowRankDelta>) -> Self {
        Self { name, delta, _charge: None }
    }

    /// A version whose bytes are charged.
    pub(super) fn charged(name: String, delta: LowRankDelta, charge: Charge) -> Self {
        Self { name, delta: Arc::new(delta), _charge: Some(charge) }
    }

    /// The content digest.
    #[must_use]
    pub fn id(&self) -> AdapterId {
        self.delta.id()
    }
}
