//! How kernels share work between threads: the only place that knows the pool.
//!
//! No result depends on it: kernels hand over items of which each is computed the same way
//! wherever it runs.

use rayon::prelude::*;

/// Below this many multiplications, waking a second thread costs more than it saves.
const MIN_WORK: usize = 1 << 17;

/// Into how many items to split `work` multiplications: several a thread, so that one delayed
/// thread does not hold up all, or one where the work is tiny.
pub(super) fn parts(work: usize) -> usize {
    let threads = rayon::current_num_threads();
    if threads == 1 || work < MIN_WORK { 1 } else { (4 * threads).min(work / (MIN_WORK / 4)) }
}

/// Runs `body` once for each item, on several threads unless `work` multiplications are too few.
pub(super) fn for_each<T: Send>(work: usize, items: Vec<T>, body: impl Fn(T) + Sync + Send) {
    if items.len() < 2 || parts(work) == 1 {
        items.into_iter().for_each(body);
    } else {
        items.into_par_iter().with_max_len(1).for_each(body);
    }
}
