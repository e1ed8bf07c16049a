//! Which open connections nobody is being answered on, and since when: where there are too many, the one
//! that has been idle longest makes room.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;

/// The open connections, each under a number.
#[derive(Debug, Default)]
pub struct OpenConnections {
    open: HashMap<u64, Arc<Activity>>,
    next: u64,
}

/// What happens on one connection.
#[derive(Debug)]
pub struct Activity {
    /// Requests whose last byte has not been written.
    requests: AtomicUsize,
    /// Nanoseconds of [`CLOCK`] at which it was opened or its last request ended.
    idle_since: AtomicU64,
    dismissed: Notify,
}

/// Where times begin.
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

impl OpenConnections {
    /// Adds a connection: its number and its activity.
    pub fn add(&mut self) -> (u64, Arc<Activity>) {
        let activity = Arc::new(Activity {
            requests: AtomicUsize::new(0),
            idle_since: AtomicU64::new(now()),
            dismissed: Notify::new(),
        });
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Arc::clone(&activity));
        (number, activity)
    }

    /// A connection has been closed.
    pub fn remove(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Has the one closed that has been idle longest, other than `newest`; nothing where none is idle.
    pub fn dismiss_idle(&mut self, newest: u64) {
        let idle = self.open.iter().filter(|(number, connection)| {
            **number != newest && connection.requests.load(Ordering::Acquire) == 0
        });
        let longest = idle.min_by_key(|(number, connection)| {
            (connection.idle_since.load(Ordering::Acquire), **number)
        });
        if let Some(number) = longest.map(|(number, _)| *number)
            && let Some(connection) = self.open.remove(&number)
        {
            connection.dismissed.notify_one();
        }
    }
}

impl Activity {
    /// Returns once the connection is to be closed.
    pub async fn dismissed(&self) {
        self.dismissed.notified().await;
    }

    /// A request has come on the connection.
    #[must_use]
    pub fn request(self: &Arc<Self>) -> OpenRequest {
        self.requests.fetch_add(1, Ordering::AcqRel);
        OpenRequest(Arc::clone(self))
    }
}

/// A request until its answer is written.
#[derive(Debug)]
pub struct OpenRequest(Arc<Activity>);

impl OpenRequest {
    /// An answer's body that ends the request with its last byte, or when nobody wants more of it.
    pub fn until_written(self, body: Body) -> Body {
        Body::new(Written { body, _request: self })
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.idle_since.store(now(), Ordering::Release);
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Written {
    body: Body,
    _request: OpenRequest,
}

impl HttpBody for Written {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn now() -> u64 {
    u64::try_from(CLOCK.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_dismissed(activity: &Activity) -> bool {
        activity.dismissed().now_or_never().is_some()
    }

    #[test]
    fn the_longest_idle_makes_room_and_never_one_that_is_answered() {
        let mut open = OpenConnections::default();
        let (_, first) = open.add();
        let (second_number, second) = open.add();
        let (newest, third) = open.add();
        let request = first.request();
        let body = request.until_written(Body::from("answer"));
        assert_eq!(body.size_hint().exact(), Some(6));
        open.dismiss_idle(newest);
        assert!(!is_dismissed(&first) && is_dismissed(&second) && !is_dismissed(&third));
        open.remove(second_number);
        open.dismiss_idle(newest);
        assert!(!is_dismissed(&first) && !is_dismissed(&third), "there is none that is idle");
        assert_eq!(open.count(), 2);
        // Answered, it is idle since then: the third has waited longer.
        drop(body);
        let (newest, _) = open.add();
        open.dismiss_idle(newest);
        assert!(!is_dismissed(&first) && is_dismissed(&third));
        open.dismiss_idle(newest);
        assert!(is_dismissed(&first));
    }
}
