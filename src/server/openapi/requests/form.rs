//! What a text must obey: one of these fields at a time.

use serde_json::Value;
use utoipa::ToSchema;

/// What a text must obey. One of them at a time.
#[derive(Debug, ToSchema)]
pub struct FormFields {
    /// Any text, a JSON object, or JSON that a schema describes.
    pub response_format: Option<ResponseFormat>,
    /// vLLM's fields.
    #[serde(flatten)]
    pub guided: GuidedFields,
}

/// vLLM's fields for what a text must obey. One of them at a time.
#[derive(Debug, ToSchema)]
pub struct GuidedFields {
    /// JSON that this schema describes.
    pub guided_json: Option<WrittenSchema>,
    /// A text that matches this expression from its beginning to its end.
    pub guided_regex: Option<String>,
    /// One of these texts.
    pub guided_choice: Option<Vec<String>>,
    /// A text of this grammar, in Lark's notation.
    pub guided_grammar: Option<String>,
    /// The same in one object.
    pub structured_outputs: Option<StructuredOutputs>,
}

/// The kind of text.
#[derive(Debug, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject {
        /// What it must satisfy, if anything.
        schema: Option<JsonSchema>,
    },
    /// JSON that a schema describes.
    JsonSchema {
        /// The schema.
        json_schema: NamedSchema,
    },
}

/// A JSON schema with a name.
#[derive(Debug, ToSchema)]
pub struct NamedSchema {
    /// Its name, which changes nothing.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub name: String,
    /// What it is for, which changes nothing.
    pub description: Option<String>,
    /// The schema.
    pub schema: JsonSchema,
    /// A schema is obeyed to the letter whether this is set or not.
    #[schema(default = false)]
    pub strict: Option<bool>,
}

/// A JSON schema.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum JsonSchema {
    /// An object.
    #[schema(value_type = Object)]
    Object(Value),
    /// Everything or nothing.
    Boolean(bool),
}

/// A JSON schema, as it is or written in a string.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum WrittenSchema {
    /// An object.
    #[schema(value_type = Object)]
    Object(Value),
    /// Everything or nothing.
    Boolean(bool),
    /// The JSON of a schema.
    Text(String),
}

/// What a text must obey, in one object; `{}` asks for nothing.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredOutputs {
    /// JSON that this schema describes.
    pub json: Option<WrittenSchema>,
    /// A text that matches this expression from its beginning to its end.
    pub regex: Option<String>,
    /// One of these texts.
    pub choice: Option<Vec<String>>,
    /// A text of this grammar, in Lark's notation.
    pub grammar: Option<String>,
    /// A JSON object.
    #[schema(default = false)]
    pub json_object: Option<bool>,
    /// Changes nothing: there is nothing to fall back to.
    #[schema(default = false)]
    pub disable_fallback: Option<bool>,
}
