//! A request's pieces as server-sent events.
//!
//! Which JSON a piece becomes is the endpoint's: see [`Chunks`]. Dropping the response's body, as
//! hyper does when the client goes away, drops the generation and with it every choice.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::choice::Delta;
use super::generation::{Generation, TokenCounts};

const DONE: &str = "[DONE]";

/// How an endpoint writes a stream.
pub trait Chunks: Send + 'static {
    /// The chunks that stand before every piece.
    fn opening(&mut self, generation: &Generation) -> Vec<String>;
    /// The chunks of one piece, which holds text, or the end, or both. `counts` are of all choices.
    fn piece(&mut self, delta: Delta, counts: TokenCounts) -> Vec<String>;
    /// The chunks after the last piece.
    fn closing(&mut self, counts: TokenCounts) -> Vec<String>;
}

struct State<C> {
    /// `None` after the end.
    generation: Option<Generation>,
    chunks: C,
    ready: VecDeque<String>,
    /// Per choice, tokens whose text is still held back.
    held: Vec<Delta>,
}

/// The response of a stream. A silent stream carries a comment every `keep_alive`.
pub fn respond<C: Chunks>(generation: Generation, mut chunks: C, keep_alive: Duration) -> Response {
    let state = State {
        ready: chunks.opening(&generation).into(),
        held: vec![Delta::default(); generation.choices()],
        generation: Some(generation),
        chunks,
    };
    let events = stream::unfold(state, |mut state| async move {
        let json = state.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(json)), state))
    });
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(keep_alive).text("ping"));
    let no_buffering =
        [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    (no_buffering, sse).into_response()
}

impl<C: Chunks> State<C> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(json) = self.ready.pop_front() {
                return Some(json);
            }
            let generation = self.generation.as_mut()?;
            let piece = generation.next().await;
            let counts = generation.counts();
            match piece {
                Some(Ok(delta)) => self.add(delta, counts),
                Some(Err(error)) => {
                    self.generation = None;
                    self.ready.extend([error.to_json(), DONE.to_owned()]);
                }
                None => {
                    self.generation = None;
                    self.ready.extend(self.chunks.closing(counts));
                    self.ready.push_back(DONE.to_owned());
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
            self.ready.extend(self.chunks.piece(piece, counts));
        }
    }
}
