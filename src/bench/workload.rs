//! What is asked: which model, and which prompt, the n-th request has.
//!
//! Prompts all differ, so that no prefix cache helps; the same seed makes the same requests.

use std::collections::BTreeMap;

use clap::ValueEnum;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Words that most tokenizers hold whole.
pub const WORDS: &[&str] = &[
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
    "car",
    "city",
    "community",
    "name",
    "president",
    "team",
    "minute",
    "idea",
    "kid",
    "body",
    "information",
    "back",
    "parent",
    "face",
    "others",
    "level",
    "office",
    "door",
    "health",
    "person",
    "art",
    "war",
    "history",
    "party",
    "result",
    "change",
    "morning",
    "reason",
    "research",
    "girl",
    "guy",
    "moment",
    "air",
    "teacher",
    "force",
    "education",
];

/// What prompts are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptSource {
    /// Ids of the server's own tokenizer: a prompt is exactly as long as asked.
    Tokens(Vec<u32>),
    /// Words, one of which is about one token.
    Words,
}

/// How often each of several models is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Popularity {
    /// One after the other: consecutive requests always differ.
    RoundRobin,
    /// Random, all equally often.
    Uniform,
    /// Random, the n-th adapter 1/n as often as the first (Zipf's law).
    Zipf,
}

/// A kind of request, of which there are as many as wanted.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The models asked; at least one.
    pub models: Vec<String>,
    /// How often each.
    pub popularity: Popularity,
    /// What prompts are made of.
    pub source: PromptSource,
    /// Tokens, or words, of a prompt.
    pub prompt_tokens: usize,
    /// Tokens of an answer.
    pub max_tokens: usize,
    /// Another one, other prompts.
    pub seed: u64,
    /// Further fields of each request.
    pub extra: Map<String, Value>,
    /// Further fields of each request for a model, which win over those: what a server wants that
    /// knows an adapter by another field than the model's name.
    pub extra_of_model: BTreeMap<String, Map<String, Value>>,
}

impl Workload {
    /// The body of the n-th request.
    #[must_use]
    pub fn body(&self, index: u64) -> Value {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(index);
        let prompt = self.prompt(&mut random);
        let model = self.model(index, &mut random);
        let mut body = json!({
            "model": model, "prompt": prompt,
            "max_tokens": self.max_tokens, "temperature": 0, "ignore_eos": true,
            "stream": true, "stream_options": {"include_usage": true},
        });
        if let Value::Object(fields) = &mut body {
            fields.extend(self.extra.clone());
            fields.extend(self.extra_of_model.get(model).cloned().unwrap_or_default());
        }
        body
    }

    fn prompt(&self, random: &mut ChaCha8Rng) -> Value {
        let mut pick = |count: usize| random.random_range(0..count);
        match &self.source {
            PromptSource::Tokens(ids) => {
                (0..self.prompt_tokens).map(|_| Value::from(ids[pick(ids.len())])).collect()
            }
            PromptSource::Words => {
                let words = (0..self.prompt_tokens).map(|_| WORDS[pick(WORDS.len())]);
                words.collect::<Vec<_>>().join(" ").into()
            }
        }
    }

    fn model(&self, index: u64, random: &mut ChaCha8Rng) -> &str {
        let count = self.models.len();
        let position = match self.popularity {
            #[allow(clippy::cast_possible_truncation)]
            Popularity::RoundRobin => (index % count as u64) as usize,
            Popularity::Uniform => random.random_range(0..count),
            Popularity::Zipf => zipf(count, random.random()),
        };
        &self.models[position]
    }
}

/// The position whose share of 1 + 1/2 + ... + 1/`count` holds `lot`, from 0 to 1.
fn zipf(count: usize, lot: f64) -> usize {
    let weight = |position: usize| 1.0 / (position + 1) as f64;
    let mut left = lot * (0..count).map(weight).sum::<f64>();
    for position in 0..count {
        left -= weight(position);
        if left < 0.0 {
            return position;
        }
    }
    count - 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn workload(popularity: Popularity, models: usize) -> Workload {
        Workload {
            models: (0..models).map(|model| model.to_string()).collect(),
            popularity,
            source: PromptSource::Tokens((100..200).collect()),
            prompt_tokens: 12,
            max_tokens: 5,
            seed: 7,
            extra: Map::new(),
            extra_of_model: BTreeMap::new(),
        }
    }

    #[test]
    fn prompts_are_as_long_as_asked_repeatable_and_all_different() {
        let workload = workload(Popularity::RoundRobin, 1);
        let prompts: BTreeSet<String> = (0..50)
            .map(|index| {
                let body = workload.body(index);
                assert_eq!(body, workload.body(index));
                assert_eq!(body["prompt"].as_array().unwrap().len(), 12);
                body["prompt"].to_string()
            })
            .collect();
        assert_eq!(prompts.len(), 50);
        let other = Workload { seed: 8, ..workload.clone() };
        assert_ne!(other.body(0), workload.body(0));
        let words = Workload { source: PromptSource::Words, ..workload };
        assert_eq!(words.body(0)["prompt"].as_str().unwrap().split(' ').count(), 12);
    }

    #[test]
    fn further_fields_win() {
        let mut workload = workload(Popularity::RoundRobin, 1);
        workload.extra.insert("temperature".into(), json!(1));
        assert_eq!(workload.body(0)["temperature"], json!(1));
        let own = Map::from_iter([("lora".to_owned(), json!(3)), ("temperature".into(), json!(2))]);
        workload.extra_of_model.insert("0".into(), own);
        let body = workload.body(0);
        assert_eq!((&body["temperature"], &body["lora"]), (&json!(2), &json!(3)));
    }

    #[test]
    fn models_are_as_popular_as_asked() {
        let counts = |popularity| {
            let workload = workload(popularity, 4);
            let mut counts = [0; 4];
            for index in 0..4000 {
                let body = workload.body(index);
                counts[body["model"].as_str().unwrap().parse::<usize>().unwrap()] += 1;
            }
            counts
        };
        assert_eq!(counts(Popularity::RoundRobin), [1000; 4]);
        assert!(counts(Popularity::Uniform).iter().all(|count| (900..1100).contains(count)));
        let zipf = counts(Popularity::Zipf);
        for (position, count) in zipf.iter().enumerate() {
            let expected = 4000.0 * 12.0 / 25.0 / (position + 1) as f64;
            assert!((f64::from(*count) - expected).abs() < 120.0, "{zipf:?}");
        }
    }

    #[test]
    fn every_lot_falls_on_a_model() {
        assert_eq!((zipf(3, 0.0), zipf(3, 1.0), zipf(1, 0.5)), (0, 2, 0));
    }
}
