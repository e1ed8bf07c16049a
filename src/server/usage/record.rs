//! What one request used.

use std::collections::BTreeMap;

use serde::Serialize;

/// One line of the usage file.
#[derive(Debug, Default, Serialize)]
pub struct UsageRecord {
    /// When the request ended, in seconds since 1970.
    pub time: f64,
    /// The id in the answer's `x-request-id`.
    pub request_id: String,
    /// For whom it was answered.
    pub tenant: String,
    /// The public name of the key; `None` where none was asked for.
    pub key: Option<String>,
    /// The name of the model that answered.
    pub model: String,
    /// The content digest of the adapter; `None` is the base model.
    pub adapter_digest: Option<String>,
    /// Tokens of its prompts, each counted once.
    pub prompt_tokens: usize,
    /// Of those, how many were found in the cache.
    pub cached_tokens: usize,
    /// Tokens generated, over all choices.
    pub completion_tokens: usize,
    /// How its choices ended: how many of each kind.
    pub finish: BTreeMap<&'static str, usize>,
}

impl UsageRecord {
    /// Appends its line.
    pub fn write_line(&self, lines: &mut Vec<u8>) {
        serde_json::to_writer(&mut *lines, self).expect("strings and finite numbers are JSON");
        lines.push(b'\n');
    }
}
