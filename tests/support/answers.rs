//! Answers as a client sees them: whole, or put together from the pieces of a stream.

use std::collections::BTreeMap;

use serde_json::Value;

use super::server::Server;

/// One choice of a completion or a chat, or a response.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// What is said.
    pub text: String,
    /// What was thought before.
    pub reasoning: String,
    /// Functions that are called: names and arguments.
    pub calls: Vec<(String, String)>,
    /// Log-probabilities, field by field.
    pub logprobs: BTreeMap<String, Vec<Value>>,
    /// How it ended: a choice's `finish_reason`, or a response's `status`.
    pub end: Value,
}

impl Answer {
    /// Asks for a whole answer: its choices, or where the request is refused, the error.
    pub async fn whole(server: &Server, path: &str, body: &Value) -> Result<Vec<Self>, Value> {
        let (status, answer) = server.try_post(path, body).await;
        if status == 400 {
            return Err(answer);
        }
        assert_eq!(status, 200, "{answer}");
        if answer["object"] == "response" {
            return Ok(vec![Self::of_response(&answer)]);
        }
        let mut choices = Vec::new();
        add_choices(&mut choices, &answer);
        Ok(choices)
    }

    /// Asks for the same as a stream.
    pub async fn streamed(server: &Server, path: &str, body: &Value) -> Result<Vec<Self>, Value> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let client = reqwest::Client::new();
        let answer = client.post(server.url(path)).json(&body).send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        if status == 400 {
            return Err(serde_json::from_str(&text).unwrap());
        }
        assert_eq!(status, 200, "{text}");
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = data.filter(|data| *data != "[DONE]");
        let mut choices = Vec::new();
        for event in events.map(|data| serde_json::from_str::<Value>(data).unwrap()) {
            match event.get("type") {
                None => add_choices(&mut choices, &event),
                Some(name) => {
                    choices.resize(1, Self::default());
                    choices[0].add_event(name.as_str().unwrap(), &event);
                }
            }
        }
        Ok(choices)
    }

    fn of_response(response: &Value) -> Self {
        let mut answer = Self { end: response["status"].clone(), ..Self::default() };
        for item in response["output"].as_array().unwrap() {
            let text = item["content"][0]["text"].as_str();
            match item["type"].as_str().unwrap() {
                "message" => {
                    answer.text += text.unwrap();
                    answer.add_logprobs("content", &item["content"][0]["logprobs"]);
                }
                "reasoning" => answer.reasoning += text.unwrap(),
                _ => answer.calls.push((string(&item["name"]), string(&item["arguments"]))),
            }
        }
        answer
    }

    /// Adds what an event of a response's stream tells.
    fn add_event(&mut self, name: &str, event: &Value) {
        let delta = || event["delta"].as_str().unwrap();
        match name.strip_prefix("response.").unwrap() {
            "output_text.delta" => {
                self.text += delta();
                self.add_logprobs("content", &event["logprobs"]);
            }
            "reasoning_text.delta" => self.reasoning += delta(),
            "output_item.added" if event["item"]["type"] == "function_call" => {
                self.calls.push((string(&event["item"]["name"]), String::new()));
            }
            "function_call_arguments.delta" => self.calls.last_mut().unwrap().1 += delta(),
            "completed" | "incomplete" => self.end = event["response"]["status"].clone(),
            "failed" => panic!("{event}"),
            _ => {}
        }
    }

    /// A field that says nothing is no field: streams have none.
    fn add_logprobs(&mut self, field: &str, values: &Value) {
        for value in values.as_array().into_iter().flatten() {
            self.logprobs.entry(field.to_owned()).or_default().push(value.clone());
        }
    }

    /// Adds a choice, or a piece of one.
    fn add(&mut self, choice: &Value) {
        let said =
            if choice["message"].is_object() { &choice["message"] } else { &choice["delta"] };
        let text = choice["text"].as_str().or(said["content"].as_str());
        self.text += text.unwrap_or_default();
        self.reasoning += said["reasoning_content"].as_str().unwrap_or_default();
        for (place, call) in said["tool_calls"].as_array().into_iter().flatten().enumerate() {
            let place = call["index"].as_u64().map_or(place, |index| index as usize);
            let function = &call["function"];
            if place == self.calls.len() {
                self.calls.push((string(&function["name"]), String::new()));
            }
            self.calls[place].1 += function["arguments"].as_str().unwrap();
        }
        for (field, values) in choice["logprobs"].as_object().into_iter().flatten() {
            self.add_logprobs(field, values);
        }
        if !choice["finish_reason"].is_null() {
            self.end = choice["finish_reason"].clone();
        }
    }
}

fn add_choices(choices: &mut Vec<Answer>, answer: &Value) {
    let all = answer["choices"].as_array().unwrap_or_else(|| panic!("{answer}"));
    for choice in all {
        let index = choice["index"].as_u64().unwrap() as usize;
        choices.resize(choices.len().max(index + 1), Answer::default());
        choices[index].add(choice);
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
