//! What `/v1/responses` takes.

use serde_json::Value;
use utoipa::ToSchema;

use super::conversation::{PromptFields, ToolChoiceMode, ToolType};
use super::form::{GuidedFields, JsonSchema};
use super::{GeneratingFields, ReasoningEffort};

/// Body of `POST /v1/responses`.
#[derive(Debug, ToSchema)]
pub struct ResponseRequest {
    /// What all endpoints take that generate.
    #[serde(flatten)]
    pub generating: GeneratingFields,
    /// What the text must obey, in vLLM's words; or `text`.
    #[serde(flatten)]
    pub guided: GuidedFields,
    /// What the template is told.
    #[serde(flatten)]
    pub template: PromptFields,
    /// A text, or the conversation so far.
    pub input: Input,
    /// Stands before the input.
    pub instructions: Option<String>,
    /// Tokens to generate at most. Default: what the context leaves.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<i64>,
    /// Changes nothing: there are no built-in tools that it could bound.
    #[schema(minimum = 1)]
    pub max_tool_calls: Option<i64>,
    /// What else the response should hold.
    #[schema(max_items = 32)]
    pub include: Option<Vec<Include>>,
    /// This many of the best tokens at each place; only with log-probabilities in `include`.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// Changes nothing.
    pub reasoning: Option<ReasoningFields>,
    /// What the text must obey.
    pub text: Option<TextFields>,
    /// A conversation that is too long is refused.
    pub truncation: Option<Truncation>,
    /// The functions that may be called, each with a name of its own.
    #[schema(max_items = 128)]
    pub tools: Option<Vec<ResponseTool>>,
    /// Whether they are called.
    pub tool_choice: Option<ResponseToolChoice>,
}

/// A text, or items.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum Input {
    /// What the user says.
    Text(String),
    /// Messages, calls, what came of them, and thoughts.
    Items(Items),
}

/// Items of a conversation.
#[derive(Debug, ToSchema)]
#[schema(min_items = 1, max_items = 16384)]
pub struct Items(pub Vec<Item>);

/// An item of a conversation.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum Item {
    /// What was said.
    Message(MessageItem),
    /// What was called.
    Call(CallItem),
    /// What came of a call.
    Output(OutputOfCall),
    /// What was thought.
    Reasoning(ReasoningItem),
}

/// What was said.
#[derive(Debug, ToSchema)]
pub struct MessageItem {
    /// The kind.
    pub r#type: Option<MessageItemType>,
    /// Who spoke.
    pub role: ItemRole,
    /// What was said.
    pub content: ItemContent,
}

/// A message.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageItemType {
    /// A message.
    Message,
}

/// Who spoke; `developer` is the template's `system`.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemRole {
    /// The operator.
    System,
    /// The operator, by its newer name.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// A text, or parts whose texts are joined by line breaks.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum ItemContent {
    /// A text.
    Text(String),
    /// Parts.
    Parts(Vec<ItemPart>),
}

/// A part of a message.
#[derive(Debug, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ItemPart {
    /// What was said to the model.
    InputText {
        /// The text.
        text: String,
    },
    /// What the model said.
    OutputText {
        /// The text.
        text: String,
    },
    /// Either.
    Text {
        /// The text.
        text: String,
    },
    /// What the model refused.
    Refusal {
        /// The text.
        refusal: String,
    },
}

/// A call that was made.
#[derive(Debug, ToSchema)]
pub struct CallItem {
    /// The kind.
    pub r#type: CallItemType,
    /// What its output will be known by.
    pub call_id: String,
    /// The function's name.
    pub name: String,
    /// JSON in a string.
    pub arguments: String,
}

/// A call.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallItemType {
    /// A call.
    FunctionCall,
}

/// What came of a call.
#[derive(Debug, ToSchema)]
pub struct OutputOfCall {
    /// The kind.
    pub r#type: OutputOfCallType,
    /// The call's.
    pub call_id: String,
    /// The function's answer.
    pub output: ItemContent,
}

/// What came of a call.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputOfCallType {
    /// What came of a call.
    FunctionCallOutput,
}

/// What was thought.
#[derive(Debug, ToSchema)]
pub struct ReasoningItem {
    /// The kind.
    pub r#type: ReasoningItemType,
    /// The thoughts.
    pub content: Option<Vec<Thought>>,
}

/// Thoughts.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningItemType {
    /// Thoughts.
    Reasoning,
}

/// A part of thoughts.
#[derive(Debug, ToSchema)]
pub struct Thought {
    /// The text.
    pub text: String,
}

/// What else a response may hold.
#[derive(Debug, ToSchema)]
pub enum Include {
    /// Log-probabilities of what is said.
    #[serde(rename = "message.output_text.logprobs")]
    MessageOutputTextLogprobs,
    /// Changes nothing: thoughts are given as they are.
    #[serde(rename = "reasoning.encrypted_content")]
    ReasoningEncryptedContent,
}

/// How much is thought.
#[derive(Debug, ToSchema)]
pub struct ReasoningFields {
    /// What the chat template is told, where it knows of it; `none` tells it not to think.
    pub effort: Option<ReasoningEffort>,
    /// Changes nothing.
    pub summary: Option<String>,
}

/// What the text must obey.
#[derive(Debug, ToSchema)]
pub struct TextFields {
    /// Any text, a JSON object, or JSON that a schema describes.
    pub format: Option<TextFormat>,
    /// Changes nothing.
    pub verbosity: Option<String>,
}

/// The kind of text.
#[derive(Debug, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TextFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject {
        /// What it must satisfy, if anything.
        schema: Option<JsonSchema>,
    },
    /// JSON that a schema describes.
    JsonSchema {
        /// Its name, which changes nothing.
        #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
        name: String,
        /// What it is for, which changes nothing.
        description: Option<String>,
        /// The schema.
        schema: JsonSchema,
        /// A schema is obeyed to the letter whether this is set or not.
        strict: Option<bool>,
    },
}

/// What happens to a conversation that is too long.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// It is refused.
    Disabled,
}

/// A function on offer.
#[derive(Debug, ToSchema)]
pub struct ResponseTool {
    /// The kind.
    pub r#type: ToolType,
    /// Its name.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Whether arguments must fit the schema.
    pub strict: Option<bool>,
}

/// Whether functions are called.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum ResponseToolChoice {
    /// Any or none.
    Mode(ToolChoiceMode),
    /// This one.
    Named(ResponseNamedTool),
}

/// A function that must be called.
#[derive(Debug, ToSchema)]
pub struct ResponseNamedTool {
    /// The kind.
    pub r#type: ToolType,
    /// Its name.
    pub name: String,
}
