//! Work that waits for a disk or a processor, off the async threads.

use super::error::ApiError;

/// Does `work` on a thread where it holds nobody up; `what` it is stands in the log where it panics.
///
/// # Errors
/// What `work` returns; a panic in it is an internal error.
pub async fn blocking<T, F>(what: &'static str, work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ApiError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "bug: {what} panicked");
        Err(ApiError::internal())
    })
}
