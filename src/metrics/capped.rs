//! Series by names that come and go. Series stay, so only the first names have their own: all others
//! share one, and neither a scrape nor memory grows with the names.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Names that have series of their own.
const MAX_NAMES: usize = 100;
/// The label of all others.
pub(super) const OTHER: &str = "other";

/// Series of one kind by what their labels say.
#[derive(Debug)]
pub(super) struct Capped<K, S> {
    known: Mutex<BTreeMap<K, S>>,
}

impl<K, S> Default for Capped<K, S> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

impl<K: Ord + Clone, S: Clone> Capped<K, S> {
    /// The series of `name`, or of `other` where there are many names; `make` registers it.
    pub(super) fn series(&self, name: K, other: K, make: impl FnOnce(&K) -> S) -> S {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&name) {
            return series.clone();
        }
        let name = if known.len() < MAX_NAMES { name } else { other };
        let series = known.entry(name.clone());
        series.or_insert_with(|| make(&name)).clone()
    }
}
