//! Collects the bytes of a body: at most so many, within a time, at no less than a rate.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::budget::BodyCharge;
use crate::server::error::ApiError;
use crate::server::state::ServerConfig;

/// Memory charged for a byte: it is there as it came and, once parsed, in a string.
const COPIES: usize = 2;
/// Most bytes for which there is room before they come.
const MAX_RESERVED: usize = 64 << 10;

/// Reads all of `body`. Nothing is read, and no `100 Continue` sent, where the length that its head
/// announces is too much.
///
/// # Errors
/// 413 where it is larger than it may be, 408 where it comes too slowly, 429 where there is no room
/// for it, 400 where it breaks off.
pub async fn read(
    mut body: Body,
    config: &ServerConfig,
    charge: &mut BodyCharge,
) -> Result<Vec<u8>, ApiError> {
    let limit = config.max_body_bytes;
    let announced = body.size_hint();
    if announced.lower() > limit as u64 {
        return Err(ApiError::too_large(limit));
    }
    // What a head announces need not come.
    let capacity = announced.exact().and_then(|bytes| usize::try_from(bytes).ok());
    let mut bytes = Vec::with_capacity(capacity.unwrap_or(0).min(MAX_RESERVED));
    let begun = Instant::now();
    loop {
        let deadline = begun + patience(config, bytes.len());
        let frame = timeout_at(deadline, body.frame()).await;
        let Some(frame) = frame.map_err(|_| ApiError::body_timeout())? else { return Ok(bytes) };
        let frame = frame.map_err(|_| ApiError::body("the request body could not be read"))?;
        // Trailers say nothing.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - bytes.len() {
            return Err(ApiError::too_large(limit));
        }
        charge.grow(COPIES * data.len()).map_err(|_| ApiError::bodies_full())?;
        bytes.extend_from_slice(&data);
    }
}

/// How long after its beginning the next byte of a body may come, after `bytes`: whoever sends slowly
/// keeps others waiting only as long as it takes to find out.
fn patience(config: &ServerConfig, bytes: usize) -> Duration {
    let earned = bytes as f64 / config.min_body_rate.max(1) as f64;
    let earned = Duration::try_from_secs_f64(earned).unwrap_or(Duration::MAX);
    config.body_grace.saturating_add(earned).min(config.body_timeout)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use axum::body::Bytes;
    use futures_util::{StreamExt, stream};
    use hyper::body::{Frame, SizeHint};

    use super::super::budget::BodyBudget;
    use super::*;

    fn config() -> ServerConfig {
        ServerConfig {
            max_body_bytes: 10,
            body_grace: Duration::from_millis(20),
            ..ServerConfig::default()
        }
    }

    /// A body of chunks, which then ends or never does.
    fn chunks(chunks: &[&'static str], ends: bool) -> Body {
        let sent = stream::iter(chunks.to_vec());
        let sent = sent.map(|chunk| Ok::<_, Infallible>(Bytes::from_static(chunk.as_bytes())));
        if ends {
            Body::from_stream(sent)
        } else {
            Body::from_stream(sent.chain(stream::pending()))
        }
    }

    async fn outcome(body: Body, room: usize) -> Result<usize, ApiError> {
        let budget = BodyBudget::new(room);
        let mut charge = budget.charge(Arc::default(), true);
        let bytes = read(body, &config(), &mut charge).await?;
        assert_eq!(budget.used(), 2 * bytes.len());
        Ok(bytes.len())
    }

    #[tokio::test]
    async fn a_body_is_bounded_however_it_comes() {
        assert_eq!(outcome(Body::from("0123456789"), 100).await, Ok(10));
        assert_eq!(outcome(Body::empty(), 0).await, Ok(0));
        let too_large = Err(ApiError::too_large(10));
        assert_eq!(outcome(Body::from("0123456789a"), 100).await, too_large);
        assert_eq!(outcome(chunks(&["01234", "56789"], true), 100).await, Ok(10));
        assert_eq!(outcome(chunks(&["01234", "567890"], false), 100).await, too_large);
        assert_eq!(outcome(Body::from("0123456789"), 19).await, Err(ApiError::bodies_full()));
        assert_eq!(outcome(chunks(&["01234", "5"], false), 10).await, Err(ApiError::bodies_full()));
    }

    /// A body that says how long it is, and that nobody may read.
    struct Announced(u64);

    impl HttpBody for Announced {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("a body of {} bytes was read", self.0)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0)
        }
    }

    #[tokio::test]
    async fn of_a_body_that_announces_too_much_nothing_is_read() {
        for bytes in [11, 10 << 30, u64::MAX] {
            let body = Body::new(Announced(bytes));
            assert_eq!(outcome(body, 100).await, Err(ApiError::too_large(10)));
        }
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_is_given_up() {
        for sent in [&[][..], &["0"], &["0", "1"]] {
            assert_eq!(outcome(chunks(sent, false), 100).await, Err(ApiError::body_timeout()));
        }
    }

    #[test]
    fn patience_grows_with_what_came_and_ends() {
        let config = ServerConfig {
            body_grace: Duration::from_secs(5),
            min_body_rate: 1000,
            body_timeout: Duration::from_secs(30),
            ..ServerConfig::default()
        };
        let after = |bytes| patience(&config, bytes).as_secs();
        assert_eq!([after(0), after(10_000), after(25_000), after(usize::MAX)], [5, 15, 30, 30]);
    }
}
