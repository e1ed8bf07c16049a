//! Where a panic ends: at the request that led to it, and not at the engine's thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Does `work`. What it leaves behind belongs to one sequence, which is then given up as a whole.
///
/// # Errors
/// Where it panics, the name of `what` failed; the panic itself has been logged.
pub(super) fn guarded<T>(what: &str, work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| format!("{what} failed"))
}
