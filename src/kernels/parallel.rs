//! How kernels cut work between threads. Which threads there are is [`super::pool`]'s.
//!
//! No result depends on it: kernels hand over items of which each is computed the same way
//! wherever it runs.

use std::sync::Mutex;

use super::level::Kernels;

/// Below this many multiplications, handing work out costs more than it saves.
const MIN_WORK: usize = 1 << 15;

impl Kernels {
    /// Into how many items to split `work` multiplications: several a thread, so that one delayed
    /// thread does not hold up all, or one where the work is tiny.
    pub(super) fn parts(self, work: usize) -> usize {
        let threads = self.threads();
        if threads == 1 || work < 2 * MIN_WORK { 1 } else { (4 * threads).min(work / MIN_WORK) }
    }

    /// Runs `body` once for each item, on several threads unless `work` multiplications are too few.
    /// The items stay the caller's, so that no other thread frees what they hold.
    pub(super) fn for_each<T: Send>(
        self,
        work: usize,
        mut items: Vec<T>,
        body: impl Fn(&mut T) + Sync + Send,
    ) {
        if items.len() < 2 || self.parts(work) == 1 {
            return items.iter_mut().for_each(body);
        }
        let items: Vec<_> = items.iter_mut().map(Mutex::new).collect();
        self.pool().run(items.len(), &|part| {
            body(&mut items[part].lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        });
    }
}
