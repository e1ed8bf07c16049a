//! A request's pieces as server-sent events.
//!
//! Which JSON a piece becomes is the endpoint's: see [`Chunks`] and [`Events`]. Dropping the response's body, as
//! hyper does when the client goes away, drops the generation and with it every choice.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::choice::Delta;
use super::error::ApiError;
use super::generation::{Generation, TokenCounts};

const DONE: &str = "[DONE]";

/// How an endpoint writes a stream of nameless chunks that ends with `[DONE]`.
pub trait Chunks: Send + 'static {
    /// The chunks that stand before every piece.
    fn opening(&mut self, generation: &Generation) -> Vec<String>;
    /// The chunks of one piece, which holds text, or the end, or both. `counts` are of all choices.
    fn piece(&mut self, delta: Delta, counts: TokenCounts) -> Vec<String>;
    /// The chunks after the last piece.
    fn closing(&mut self, counts: TokenCounts) -> Vec<String>;
}

/// How an endpoint writes a stream whose events have names, or an end of their own.
pub trait Events: Send + 'static {
    /// The events that stand before every piece.
    fn opening(&mut self, generation: &Generation) -> Vec<Event>;
    /// The events of one piece, as [`Chunks::piece`].
    fn piece(&mut self, delta: Delta, counts: TokenCounts) -> Vec<Event>;
    /// The events after the last piece.
    fn closing(&mut self, counts: TokenCounts) -> Vec<Event>;
    /// The events that end a stream which failed.
    fn failure(&mut self, error: &ApiError, counts: TokenCounts) -> Vec<Event>;
}

impl<C: Chunks> Events for C {
    fn opening(&mut self, generation: &Generation) -> Vec<Event> {
        nameless(Chunks::opening(self, generation))
    }

    fn piece(&mut self, delta: Delta, counts: TokenCounts) -> Vec<Event> {
        nameless(Chunks::piece(self, delta, counts))
    }

    fn closing(&mut self, counts: TokenCounts) -> Vec<Event> {
        let mut chunks = Chunks::closing(self, counts);
        chunks.push(DONE.to_owned());
        nameless(chunks)
    }

    fn failure(&mut self, error: &ApiError, _counts: TokenCounts) -> Vec<Event> {
        nameless(vec![error.to_json(), DONE.to_owned()])
    }
}

fn nameless(chunks: Vec<String>) -> Vec<Event> {
    chunks.into_iter().map(|json| Event::default().data(json)).collect()
}

struct State<E> {
    /// `None` after the end.
    generation: Option<Generation>,
    writer: E,
    ready: VecDeque<Event>,
    /// Per choice, tokens whose text is still held back.
    held: Vec<Delta>,
}

/// The response of a stream. A silent stream carries a comment every `keep_alive`.
pub fn respond<E: Events>(generation: Generation, mut writer: E, keep_alive: Duration) -> Response {
    let state = State {
        ready: writer.opening(&generation).into(),
        held: vec![Delta::default(); generation.choices()],
        generation: Some(generation),
        writer,
    };
    let events = stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((Ok::<_, Infallible>(event), state))
    });
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(keep_alive).text("ping"));
    let no_buffering =
        [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    (no_buffering, sse).into_response()
}

impl<E: Events> State<E> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let generation = self.generation.as_mut()?;
            let piece = generation.next().await;
            let counts = generation.counts();
            match piece {
                Some(Ok(delta)) => self.add(delta, counts),
                Some(Err(error)) => {
                    self.generation = None;
                    self.ready.extend(self.writer.failure(&error, counts));
                }
                None => {
                    self.generation = None;
                    self.ready.extend(self.writer.closing(counts));
                }
            }
        }
    }

    /// Writes a piece, together with the tokens before it, once there is something to read in it.
    fn add(&mut self, delta: Delta, counts: TokenCounts) {
        let held = &mut self.held[delta.index];
        held.absorb(delta);
        if !held.is_silent() {
            let piece = std::mem::take(held);
            self.ready.extend(self.writer.piece(piece, counts));
        }
    }
}
