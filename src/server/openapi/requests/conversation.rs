//! Conversations: messages, the functions on offer, and what chat templates are told.

use serde_json::Value;
use utoipa::ToSchema;

/// How a conversation becomes a prompt.
#[derive(Debug, ToSchema)]
pub struct TemplateFields {
    /// The functions that may be called, each with a name of its own.
    #[schema(max_items = 128)]
    pub tools: Option<Vec<Tool>>,
    /// Whether they are called.
    pub tool_choice: Option<ToolChoice>,
    /// What the template is told.
    #[serde(flatten)]
    pub prompt: PromptFields,
}

/// What a chat template is told.
#[derive(Debug, ToSchema)]
pub struct PromptFields {
    /// Ends the prompt where an answer begins.
    #[schema(default = true)]
    pub add_generation_prompt: Option<bool>,
    /// Goes on with the last message, an assistant's; not with `add_generation_prompt`.
    #[schema(default = false)]
    pub continue_final_message: Option<bool>,
    /// Lets the tokenizer add its own tokens. Chat templates write them themselves.
    pub add_special_tokens: Option<bool>,
    /// Variables of the model's template.
    pub chat_template_kwargs: Option<TemplateVariables>,
}

/// Variables of a chat template.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateVariables {
    /// Whether a model that can reason first does.
    pub enable_thinking: Option<bool>,
}

/// A function on offer.
#[derive(Debug, ToSchema)]
pub struct Tool {
    /// The kind.
    pub r#type: ToolType,
    /// The function.
    pub function: FunctionDefinition,
}

/// A kind of tool.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolType {
    /// A function of the client's.
    Function,
}

/// A function as the model sees it.
#[derive(Debug, ToSchema)]
pub struct FunctionDefinition {
    /// Its name.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Whether arguments must fit the schema.
    #[schema(default = false)]
    pub strict: Option<bool>,
}

/// Whether functions are called.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// Any or none.
    Mode(ToolChoiceMode),
    /// This one.
    Named(NamedTool),
}

/// Whether functions are called.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolChoiceMode {
    /// Never.
    None,
    /// As the model likes.
    Auto,
    /// At least one.
    Required,
}

/// A function that must be called.
#[derive(Debug, ToSchema)]
pub struct NamedTool {
    /// The kind.
    pub r#type: ToolType,
    /// The function.
    pub function: FunctionName,
}

/// A function on offer.
#[derive(Debug, ToSchema)]
pub struct FunctionName {
    /// Its name.
    pub name: String,
}

/// A turn of a conversation.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum Message {
    /// What is said to the model.
    Said(SaidMessage),
    /// What the model said.
    Assistant(AssistantMessage),
    /// What a function answered.
    Tool(ToolMessage),
}

/// A turn of the operator or the user.
#[derive(Debug, ToSchema)]
pub struct SaidMessage {
    /// Who speaks.
    pub role: Speaker,
    /// What is said.
    pub content: Content,
    /// A name of the speaker, for templates that know it.
    pub name: Option<String>,
}

/// Who speaks; `developer` is the template's `system`.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The operator.
    System,
    /// The operator, by its newer name.
    Developer,
    /// The user.
    User,
}

/// A turn of the model: `content`, `tool_calls` or a `refusal` must be there.
#[derive(Debug, ToSchema)]
pub struct AssistantMessage {
    /// Who speaks.
    pub role: AssistantRole,
    /// What it said.
    pub content: Option<Content>,
    /// What it refused to say.
    pub refusal: Option<String>,
    /// What it thought.
    pub reasoning_content: Option<String>,
    /// The same by its newer name, where the former is not there.
    pub reasoning: Option<String>,
    /// What it called.
    #[schema(max_items = 1024)]
    pub tool_calls: Option<Vec<PastCall>>,
    /// A name of the speaker, for templates that know it.
    pub name: Option<String>,
}

/// The model.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AssistantRole {
    /// The model.
    Assistant,
}

/// A call that was made.
#[derive(Debug, ToSchema)]
pub struct PastCall {
    /// Its id.
    pub id: String,
    /// The kind.
    pub r#type: Option<ToolType>,
    /// What was called.
    pub function: PastFunction,
}

/// A function that was called.
#[derive(Debug, ToSchema)]
pub struct PastFunction {
    /// Its name.
    pub name: String,
    /// Its arguments, JSON in a string.
    pub arguments: String,
}

/// What a function answered.
#[derive(Debug, ToSchema)]
pub struct ToolMessage {
    /// Who speaks.
    pub role: ToolRole,
    /// The answer.
    pub content: Content,
    /// The id of the call.
    pub tool_call_id: String,
    /// The function's name, for templates that know it.
    pub name: Option<String>,
}

/// A function.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolRole {
    /// A function.
    Tool,
}

/// A text, or parts whose texts are joined by line breaks.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// A text.
    Text(String),
    /// Parts.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Debug, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ContentPart {
    /// A text.
    Text {
        /// The text.
        text: String,
    },
    /// What was refused.
    Refusal {
        /// The text.
        refusal: String,
    },
}
