//! Work that waits for a disk or a processor, off the async threads, on background ones.

use tokio::task::{JoinHandle, spawn_blocking};

use super::error::ApiError;
use crate::background;

/// Does `work` on a background thread.
pub fn spawn<T, F>(work: F) -> JoinHandle<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    spawn_blocking(|| {
        background::enter();
        work()
    })
}

/// Waits for `work` on a background thread; `what` it is stands in the log where it panics.
///
/// # Errors
/// What `work` returns; a panic in it is an internal error.
pub async fn blocking<T, F>(what: &'static str, work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ApiError> + Send + 'static,
{
    spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "bug: {what} panicked");
        Err(ApiError::internal())
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[tokio::test]
    async fn blocking_work_is_done_on_background_threads() {
        let nice = || getpriority_process(None).unwrap();
        let expected = (nice() + 10).min(19);
        assert_eq!(spawn(nice).await.unwrap(), expected);
        assert_eq!(blocking("nothing", move || Ok(nice())).await.unwrap(), expected);
    }
}
