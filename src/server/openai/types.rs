//! The wire's answers, field by field as OpenAI documents them. Requests are read by
//! [`super::validate`] and the endpoints themselves.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::server::generation::TokenCounts;

/// Present as `null` on a stream's chunks before the last; absent where nobody asked.
pub type OptionalUsage = Option<Option<Usage>>;

/// `CompletionUsage`.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
    /// More about the prompts' tokens.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// `prompt_tokens_details`.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct PromptTokensDetails {
    /// Those found in the cache.
    pub cached_tokens: usize,
}

impl From<TokenCounts> for Usage {
    fn from(counts: TokenCounts) -> Self {
        Self {
            prompt_tokens: counts.prompt,
            completion_tokens: counts.completion,
            total_tokens: counts.prompt + counts.completion,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: counts.cached },
        }
    }
}

/// What ended a choice, an extension of vLLM: a string of `stop` or an id of `stop_token_ids`.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(untagged)]
pub enum StopReasonField {
    /// A string.
    Text(String),
    /// A token.
    Token(u32),
}

/// The fields every answer and every chunk begins with; `T` is the choice.
#[derive(Debug, serde::Serialize)]
pub struct Envelope<'a, T> {
    /// The same in all chunks of an answer.
    pub id: &'a str,
    /// The kind of object.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The name the client asked for.
    pub model: &'a str,
    /// Which weights answer.
    pub system_fingerprint: &'a str,
    /// The choices.
    pub choices: Vec<T>,
    /// Token counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: OptionalUsage,
    /// vLLM's extension for chats: log-probabilities of the one prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Vec<Option<PromptLogprobEntry>>>,
}

/// A choice of a completion, or of a chunk of one.
#[derive(Debug, serde::Serialize)]
pub struct CompletionChoice {
    /// Prompt times `n` plus the choice's number.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Where asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Set at the end.
    pub finish_reason: Option<&'static str>,
    /// vLLM's extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReasonField>,
    /// vLLM's extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Vec<Option<PromptLogprobEntry>>>,
}

/// The log-probabilities of a completion: four arrays of one length.
#[derive(Debug, Default, serde::Serialize)]
pub struct CompletionLogprobs {
    /// Each token's text.
    pub tokens: Vec<String>,
    /// Its log-probability; `null` for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The best tokens there, and the token itself.
    pub top_logprobs: Vec<Option<InOrder<String, f32>>>,
    /// Characters of the text before it.
    pub text_offset: Vec<usize>,
}

/// A choice of a whole chat answer.
#[derive(Debug, serde::Serialize)]
pub struct ChatChoice {
    /// Its number.
    pub index: usize,
    /// What was said.
    pub message: ChatMessage,
    /// Where asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<&'static str>,
    /// vLLM's extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReasonField>,
}

/// A whole answer's message.
#[derive(Debug, serde::Serialize)]
pub struct ChatMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
    /// Always `null`; strict clients want the key.
    pub refusal: Option<String>,
}

/// A choice of a chunk of a chat answer.
#[derive(Debug, serde::Serialize)]
pub struct ChatChunkChoice {
    /// Its number.
    pub index: usize,
    /// What is new.
    pub delta: ChatDelta,
    /// Where asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Set on the last chunk.
    pub finish_reason: Option<&'static str>,
    /// vLLM's extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReasonField>,
}

/// What a chunk adds to a message.
#[derive(Debug, Default, serde::Serialize)]
pub struct ChatDelta {
    /// On the first chunk alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// The log-probabilities of a chat answer.
#[derive(Debug, serde::Serialize)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<ChatLogprob>,
    /// Always `null`; strict clients want the key.
    pub refusal: Option<Vec<ChatLogprob>>,
}

/// One token of a chat answer.
#[derive(Debug, serde::Serialize)]
pub struct ChatLogprob {
    /// The token itself.
    #[serde(flatten)]
    pub chosen: TokenLogprob,
    /// The best tokens there.
    pub top_logprobs: Vec<TokenLogprob>,
}

/// A token with its log-probability.
#[derive(Debug, serde::Serialize)]
pub struct TokenLogprob {
    /// Its text, or `bytes:` and its bytes where they are no whole characters.
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The log-probabilities at one prompt token: token id to value, best first.
pub type PromptLogprobEntry = InOrder<u32, PromptLogprob>;

/// A value of [`PromptLogprobEntry`].
#[derive(Debug, Clone, serde::Serialize)]
pub struct PromptLogprob {
    /// Natural logarithm.
    pub logprob: f32,
    /// 1 is the best; `null` for a token that is not among the best.
    pub rank: Option<usize>,
    /// Its text.
    pub decoded_token: String,
}

/// A JSON object that keeps its order and single-precision numbers as they are.
#[derive(Debug, Clone)]
pub struct InOrder<K, V>(pub Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for InOrder<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
