//! Writes responses: whole ones, and the events of streamed ones, numbered.

use axum::Json;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::super::answer::{Answer, to_json};
use super::super::endpoint::Writer;
use super::super::logprobs;
use super::items::{Change, Status};
use super::object::{IncompleteDetails, ResponseError, ResponseObject, Settings};
use super::output::Output;
use crate::server::choice::Delta;
use crate::server::error::ApiError;
use crate::server::generation::{Generation, TokenCounts};
use crate::server::stream::Events;

/// Writes one response.
#[derive(Debug)]
pub struct ResponseWriter {
    answer: Answer,
    settings: Settings,
    output: Output,
    /// What the end of the text makes of the response.
    end: Status,
    /// Of the next event.
    sequence_number: u64,
}

/// An event of a stream.
#[derive(Debug, Serialize)]
struct EventBody<T> {
    r#type: &'static str,
    sequence_number: u64,
    #[serde(flatten)]
    what: T,
}

/// An event that tells of the whole response.
#[derive(Debug, Serialize)]
struct Told<'a> {
    response: ResponseObject<'a>,
}

impl ResponseWriter {
    /// A writer of a response with nothing in it.
    #[must_use]
    pub fn new(answer: Answer, settings: Settings) -> Self {
        let (output, end) = (Output::default(), Status::Completed);
        Self { answer, settings, output, end, sequence_number: 0 }
    }

    /// Adds a piece; the last one ends the last item.
    fn add(&mut self, mut delta: Delta) -> Vec<Change> {
        let finish = delta.finish.take();
        let said = |tokens| logprobs::chat(self.answer.tokens(), tokens).content;
        let logprobs = if self.answer.logprobs { said(&delta.tokens) } else { None };
        let mut changes = self.output.add(delta, logprobs.unwrap_or_default());
        if let Some(finish) = finish {
            let cut_off = finish.reason == "length";
            self.end = if cut_off { Status::Incomplete } else { Status::Completed };
            changes.extend(self.output.finish(self.end));
        }
        changes
    }

    fn object(&self, status: Status, counts: Option<TokenCounts>) -> ResponseObject<'_> {
        let incomplete = status == Status::Incomplete;
        ResponseObject {
            id: &self.answer.id,
            object: "response",
            created_at: self.answer.created,
            status,
            model: &self.answer.model,
            output: self.output.items(),
            error: None,
            incomplete_details: incomplete
                .then_some(IncompleteDetails { reason: "max_output_tokens" }),
            usage: counts.map(Into::into),
            background: false,
            store: false,
            previous_response_id: None,
            service_tier: "default",
            settings: &self.settings,
        }
    }

    fn next_number(&mut self) -> u64 {
        self.sequence_number += 1;
        self.sequence_number - 1
    }

    fn tell(&mut self, name: &'static str, status: Status, counts: Option<TokenCounts>) -> Event {
        let sequence_number = self.next_number();
        let what = Told { response: self.object(status, counts) };
        event(name, sequence_number, what)
    }
}

fn event(name: &'static str, sequence_number: u64, what: impl Serialize) -> Event {
    let body = EventBody { r#type: name, sequence_number, what };
    Event::default().event(name).data(to_json(&body))
}

impl Writer for ResponseWriter {
    fn note(&mut self, piece: &Delta) {
        self.add(piece.clone());
    }

    fn whole(self, _answers: Vec<Delta>, generation: &Generation) -> Response {
        Json(self.object(self.end, Some(generation.counts()))).into_response()
    }
}

impl Events for ResponseWriter {
    fn opening(&mut self, _generation: &Generation) -> Vec<Event> {
        ["response.created", "response.in_progress"]
            .map(|name| self.tell(name, Status::InProgress, None))
            .into()
    }

    fn piece(&mut self, delta: Delta, _counts: TokenCounts) -> Vec<Event> {
        let changes = self.add(delta);
        changes
            .into_iter()
            .map(|Change { name, what }| event(name, self.next_number(), what))
            .collect()
    }

    fn closing(&mut self, counts: TokenCounts) -> Vec<Event> {
        let name = match self.end {
            Status::Incomplete => "response.incomplete",
            _ => "response.completed",
        };
        vec![self.tell(name, self.end, Some(counts))]
    }

    fn failure(&mut self, error: &ApiError, counts: TokenCounts) -> Vec<Event> {
        let sequence_number = self.next_number();
        let error = Some(ResponseError { code: "server_error", message: error.to_string() });
        let response = ResponseObject { error, ..self.object(Status::Failed, Some(counts)) };
        vec![event("response.failed", sequence_number, Told { response })]
    }
}
