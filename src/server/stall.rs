//! A connection whose other end must take what it is sent, and gets the time to read the last of it.
//!
//! Whoever asks and never reads would otherwise hold a connection, an answer and its place among the
//! running requests for as long as it likes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Bytes a second that an end which is behind must take, in the long run.
const MIN_RATE: u32 = 1024;
/// How long is still read, and thrown away, after all was written: a client that is still sending when
/// its answer comes would lose the answer with the connection.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes read at once then.
const LINGER_BUFFER: usize = 16 << 10;

/// A connection that fails once its other end has taken too little for too long.
///
/// Only time in which something waits to be taken counts, and every byte that is taken pays a little of
/// it back: neither nothing at all nor a byte now and then is enough.
#[derive(Debug)]
pub struct Stall<S> {
    stream: S,
    patience: Duration,
    /// Time that was waited, less what was paid back.
    waited: Duration,
    waiting: Option<Waiting>,
    lingering: Option<Pin<Box<Sleep>>>,
}

/// Something has waited to be taken since then.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl<S> Stall<S> {
    /// Its other end may keep what it is sent waiting for `patience`.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waited: Duration::ZERO, waiting: None, lingering: None }
    }

    /// Looks at what a write has come to.
    fn written(
        &mut self,
        done: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = done {
            if let Some(waiting) = self.waiting.take() {
                self.waited += waiting.since.elapsed();
            }
            if let Ok(bytes) = &result {
                let bytes = u32::try_from(*bytes).unwrap_or(u32::MAX);
                let paid = Duration::from_secs(bytes.into()) / MIN_RATE;
                self.waited = self.waited.saturating_sub(paid);
            }
            return Poll::Ready(result);
        }
        let left = self.patience.saturating_sub(self.waited);
        let waiting = self.waiting.get_or_insert_with(|| {
            let since = Instant::now();
            Waiting { since, end: Box::pin(sleep_until(since + left)) }
        });
        ready!(waiting.end.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stall<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(done, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(done, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let end = this.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut thrown_away = [0; LINGER_BUFFER];
        loop {
            if end.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut thrown_away);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stall<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn an_end_that_takes_nothing_is_given_up() {
        let (near, _far) = duplex(16);
        let mut near = Stall::new(near, PATIENCE);
        let begun = Instant::now();
        let error = near.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= PATIENCE);
    }

    #[tokio::test]
    async fn an_end_that_takes_a_byte_now_and_then_is_given_up_too() {
        let (near, mut far) = duplex(16);
        let mut near = Stall::new(near, PATIENCE);
        let takes = async move {
            let mut tick = tokio::time::interval(PATIENCE / 5);
            loop {
                tick.tick().await;
                if far.read_u8().await.is_err() {
                    return;
                }
            }
        };
        let takes = tokio::spawn(takes);
        let error = near.write_all(&[0; 10_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        takes.abort();
    }

    #[tokio::test]
    async fn an_end_that_keeps_up_may_be_behind_again_and_again() {
        let (near, mut far) = duplex(64 << 10);
        let mut near = Stall::new(near, PATIENCE);
        let read = tokio::spawn(async move {
            let mut bytes = vec![0; 64 << 10];
            // Each turn takes most of the patience, and what it takes pays for it.
            let mut tick = tokio::time::interval(PATIENCE / 2);
            for _ in 0..8 {
                tick.tick().await;
                far.read_exact(&mut bytes).await.unwrap();
            }
        });
        near.write_all(&[0; 8 * (64 << 10)]).await.unwrap();
        read.await.unwrap();
        // And nothing waits: however long that is, it is no fault of the other end.
        assert!(near.waiting.is_none());
    }

    #[tokio::test]
    async fn what_still_comes_when_all_is_said_is_thrown_away() {
        let (near, mut far) = duplex(16);
        let mut near = Stall::new(near, PATIENCE);
        let sends = tokio::spawn(async move {
            far.write_all(&[0; 1000]).await.unwrap();
            let mut answer = Vec::new();
            far.read_to_end(&mut answer).await.unwrap();
            answer
        });
        near.write_all(b"413").await.unwrap();
        near.shutdown().await.unwrap();
        assert_eq!(sends.await.unwrap(), b"413");
        // Whoever never ends is not waited for.
        let (near, _far) = duplex(16);
        let begun = Instant::now();
        Stall::new(near, PATIENCE).shutdown().await.unwrap();
        assert!(begun.elapsed() >= LINGER);
    }
}
