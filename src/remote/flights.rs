//! One fetch of a place at a time: who comes second waits, and finds what the first one brought.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::adapter::registry::Location;

/// Places that are being fetched from.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Location, Arc<Mutex<()>>>>);

impl Flights {
    /// Runs `fetch` while nobody else fetches from `location`.
    pub fn alone<T>(&self, location: &Location, fetch: impl FnOnce() -> T) -> T {
        let flight = Arc::clone(self.table().entry(location.clone()).or_default());
        let turn = flight.lock().unwrap_or_else(PoisonError::into_inner);
        let done = fetch();
        drop(turn);
        let mut table = self.table();
        // This one and the table's: nobody waits.
        if Arc::strong_count(&flight) == 2 {
            table.remove(location);
        }
        done
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Location, Arc<Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
