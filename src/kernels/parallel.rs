//! How kernels cut work between threads. Which threads there are is [`super::pool`]'s.
//!
//! No result depends on it: kernels hand over items of which each is computed the same way
//! wherever it runs.
#![allow(unsafe_code)]

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
        let (count, items) = (items.len(), Items(items.as_mut_ptr()));
        self.pool().run(count, &|part| {
            // SAFETY: the pool runs each part below `count` once, so that nobody else has this item,
            // and returns when all are done, until when the items stay where they are.
            body(unsafe { &mut *items.item(part) });
        });
    }
}

/// Items of which each thread takes its own.
struct Items<T>(*mut T);

// SAFETY: who has an item has it alone; it may be another thread, as items may be sent.
unsafe impl<T: Send> Sync for Items<T> {}

impl<T> Items<T> {
    fn item(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}
