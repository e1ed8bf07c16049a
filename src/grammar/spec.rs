//! What a text can be asked to obey. A closed set: everything else is refused where it is read.

use serde_json::{Value, json};

use super::error::GrammarError;
use super::{limits, schema};

/// The form of a text.
#[derive(Debug, Clone, PartialEq)]
pub enum GrammarSpec {
    /// Any JSON object.
    JsonObject,
    /// A JSON value that satisfies this schema.
    JsonSchema(Value),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// One of these strings.
    Choice(Vec<String>),
    /// A text of a grammar in llguidance's dialect of Lark. `@NAME` in it stands for a JSON value
    /// that satisfies the schema of that name in `schemas`, and `<[ID]>` for a special token.
    Lark {
        /// The grammar; it begins at `start`.
        text: String,
        /// Named schemas.
        schemas: Vec<(String, Value)>,
    },
}

/// A specification in the parser's terms: texts that mean the same whenever they are the same.
#[derive(Debug, PartialEq)]
pub(super) struct Source {
    /// The Lark grammar, unless the whole is a schema.
    pub(super) lark: Option<String>,
    /// Schemas with their names.
    pub(super) schemas: Vec<(String, Value)>,
}

impl GrammarSpec {
    /// Checks the specification against every limit that can be checked without compiling it.
    ///
    /// # Errors
    /// The first limit it breaks, or the first thing in it that is not supported.
    pub(super) fn into_source(self) -> Result<Source, GrammarError> {
        match self {
            Self::JsonObject => Self::JsonSchema(json!({"type": "object"})).into_source(),
            Self::JsonSchema(value) => {
                let schemas = vec![("schema".to_owned(), schema::prepare(value)?)];
                Ok(Source { lark: None, schemas })
            }
            Self::Regex(regex) => {
                limits::check_regex(&regex)?;
                let regex = llguidance::regex_to_lark(&regex, "");
                Ok(Source { lark: Some(format!("start: /{regex}/")), schemas: Vec::new() })
            }
            Self::Choice(strings) => {
                if strings.is_empty() || strings.iter().any(String::is_empty) {
                    return Err(GrammarError::NoChoice);
                }
                limits::check_count("strings", strings.len(), limits::MAX_CHOICES)?;
                limits::check_bytes(strings.iter().map(String::len).sum())?;
                let quoted: Vec<String> =
                    strings.iter().map(|s| Value::from(&**s).to_string()).collect();
                let lark = format!("start: {}", quoted.join("\n    | "));
                Ok(Source { lark: Some(lark), schemas: Vec::new() })
            }
            Self::Lark { text, schemas } => {
                limits::check_lark(&text)?;
                let prepare = |(name, value)| Ok((name, schema::prepare(value)?));
                let schemas =
                    schemas.into_iter().map(prepare).collect::<Result<_, GrammarError>>()?;
                Ok(Source { lark: Some(text), schemas })
            }
        }
    }
}

impl Source {
    /// Names it by its content.
    pub(super) fn key(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut part = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        part(if self.lark.is_some() { "lark" } else { "schema" });
        part(self.lark.as_deref().unwrap_or_default());
        for (name, schema) in &self.schemas {
            part(name);
            part(&schema.to_string());
        }
        hasher.finalize().into()
    }
}
