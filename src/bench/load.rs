//! A closed loop of streams: each sends its next request as soon as the last one is answered.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;

use super::client::{Client, ClientError};
use super::events::DONE;
use super::workload::Workload;

const PATH: &str = "/v1/completions";

/// When the pieces of one answer came, each since the load began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// When the request was sent.
    pub sent: Duration,
    /// When each piece came that carries a token.
    pub arrivals: Vec<Duration>,
    /// When the answer was complete.
    pub finished: Duration,
    /// The prompt's length as the server counts it, or 0 where it does not.
    pub prompt_tokens: usize,
    /// The answer's length as the server counts it, else the number of pieces.
    pub output_tokens: usize,
}

/// What a load came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Complete answers, in no order.
    pub answers: Vec<Answer>,
    /// Why each other request failed.
    pub failures: Vec<String>,
    /// From the first request to the last answer.
    pub wall: Duration,
}

/// How much is asked at once, and altogether.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Streams.
    pub concurrency: usize,
    /// Requests of all streams together.
    pub requests: usize,
    /// The first request's number in its workload.
    pub first: u64,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl Load {
    /// Puts `client`'s server under this load of `workload`.
    pub async fn run(&self, client: &Client, workload: &Workload) -> Outcome {
        let next = Cell::new(0);
        let take = || {
            let index = next.get();
            next.set(index + 1);
            (index < self.requests).then(|| self.first + index as u64)
        };
        let began = Instant::now();
        let streams = (0..self.concurrency).map(|_| async {
            let mut results = Vec::new();
            while let Some(index) = take() {
                results.push(self.request(client, &workload.body(index), began).await);
            }
            results
        });
        let results = join_all(streams).await;
        let mut outcome = Outcome { wall: began.elapsed(), ..Outcome::default() };
        for result in results.into_iter().flatten() {
            match result {
                Ok(answer) => outcome.answers.push(answer),
                Err(failure) => outcome.failures.push(failure),
            }
        }
        outcome
    }

    async fn request(
        &self,
        client: &Client,
        body: &Value,
        began: Instant,
    ) -> Result<Answer, String> {
        match tokio::time::timeout(self.timeout, answer(client, body, began)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no whole answer in {} s", self.timeout.as_secs())),
        }
    }
}

async fn answer(client: &Client, body: &Value, began: Instant) -> Result<Answer, ClientError> {
    let mut answer = Answer { sent: began.elapsed(), ..Answer::default() };
    let mut events = client.stream(PATH, body).await?;
    while let Some(data) = events.next().await? {
        let now = began.elapsed();
        for event in data.iter().filter(|event| *event != DONE) {
            answer.take(event, now)?;
        }
    }
    answer.finished = began.elapsed();
    if answer.arrivals.is_empty() {
        return Err(unexpected("a stream without a token".to_owned()));
    }
    if answer.output_tokens == 0 {
        answer.output_tokens = answer.arrivals.len();
    }
    Ok(answer)
}

fn unexpected(problem: String) -> ClientError {
    ClientError::Unexpected { path: PATH.to_owned(), problem }
}

impl Answer {
    /// Notes an event that came `now`.
    fn take(&mut self, event: &str, now: Duration) -> Result<(), ClientError> {
        let event: Value =
            serde_json::from_str(event).map_err(|error| unexpected(error.to_string()))?;
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            return Err(unexpected(error.to_string()));
        }
        let choice = event.get("choices").and_then(|choices| choices.get(0));
        if choice.is_some_and(carries_token) {
            self.arrivals.push(now);
        }
        let count = |name| Some(event.get("usage")?.get(name)?.as_u64()? as usize);
        self.prompt_tokens = count("prompt_tokens").unwrap_or(self.prompt_tokens);
        self.output_tokens = count("completion_tokens").unwrap_or(self.output_tokens);
        Ok(())
    }
}

/// A token may have no text yet, being half a character; the end alone has none either.
fn carries_token(choice: &Value) -> bool {
    let text = choice.get("text").and_then(Value::as_str).unwrap_or_default();
    !text.is_empty() || choice.get("finish_reason").is_none_or(Value::is_null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(events: &[Value]) -> Result<Answer, ClientError> {
        let mut answer = Answer::default();
        for (index, event) in events.iter().enumerate() {
            answer.take(&event.to_string(), Duration::from_secs(index as u64))?;
        }
        Ok(answer)
    }

    #[test]
    fn tokens_are_told_from_what_else_is_streamed() {
        let answer = read(&[
            json!({"choices": [{"text": "a", "finish_reason": null}], "usage": null}),
            json!({"choices": [{"text": "", "finish_reason": null}]}),
            json!({"choices": [{"text": "b", "finish_reason": "length"}]}),
            json!({"choices": [{"text": "", "finish_reason": "length"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}),
        ])
        .unwrap();
        assert_eq!(answer.arrivals, [0, 1, 2].map(Duration::from_secs));
        assert_eq!((answer.prompt_tokens, answer.output_tokens), (9, 4));
    }

    #[test]
    fn an_error_within_a_stream_is_a_failure() {
        let failure = read(&[json!({"error": {"message": "out of memory"}})]).unwrap_err();
        assert!(failure.to_string().contains("out of memory"), "{failure}");
        assert!(Answer::default().take("{", Duration::ZERO).is_err());
    }
}
