//! What a text can be asked to obey. A closed set: everything else is refused where it is read.

use serde_json::{Value, json};

use super::error::GrammarError;
use super::{lark, limits, schema};

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
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    /// The grammar, in llguidance's dialect of Lark.
    pub(super) lark: String,
    /// Grammars with names, to which it refers.
    pub(super) named: Vec<(String, String)>,
    /// Special tokens that it names.
    pub(super) special_tokens: Vec<String>,
    /// Whether a client wrote it as it is.
    pub(super) is_clients: bool,
}

impl From<String> for Source {
    fn from(lark: String) -> Self {
        Self { lark, named: Vec::new(), special_tokens: Vec::new(), is_clients: false }
    }
}

impl GrammarSpec {
    /// Checks the specification against every limit that can be checked without compiling it.
    ///
    /// # Errors
    /// The first limit it breaks, or the first thing in it that is not supported.
    pub(super) fn into_source(self) -> Result<Source, GrammarError> {
        match self {
            Self::JsonObject => schema::lower(&json!({"type": "object"})).map(Source::from),
            Self::JsonSchema(value) => schema::lower(&value).map(Source::from),
            Self::Regex(regex) => regex_source(&regex),
            Self::Choice(strings) => choice_source(&strings),
            Self::Lark { text, schemas } => {
                limits::check_lark(&text)?;
                let scanned = lark::scan(&text)?;
                let is_clients = schemas.is_empty();
                let count = schemas.len() + scanned.schemas.len();
                limits::check_count("schemas", count, limits::MAX_SCHEMAS)?;
                let mut named = Vec::new();
                for (name, schema) in schemas.into_iter().chain(scanned.schemas) {
                    named.push((name, schema::lower(&schema)?));
                }
                let special_tokens = scanned.special_tokens;
                Ok(Source { lark: scanned.text, named, special_tokens, is_clients })
            }
        }
    }
}

fn regex_source(regex: &str) -> Result<Source, GrammarError> {
    limits::check_regex_bytes(regex)?;
    limits::check_regex(regex)?;
    // Without its groups' names: the parser gives some a meaning of its own.
    let read = regex_syntax::Parser::new().parse(regex);
    let hir = read.map_err(|error| GrammarError::Regex(error.to_string()))?;
    let text = hir.to_string();
    if text.is_empty() {
        return Err(GrammarError::NoChoice);
    }
    Ok(format!("start: TEXT\nTEXT: /{}/", llguidance::regex_to_lark(&text, "")).into())
}

/// All strings are one lexeme: what may come next is then found at once, however many there are.
fn choice_source(strings: &[String]) -> Result<Source, GrammarError> {
    if strings.is_empty() || strings.iter().any(String::is_empty) {
        return Err(GrammarError::NoChoice);
    }
    limits::check_count("strings", strings.len(), limits::MAX_CHOICES)?;
    limits::check_bytes(strings.iter().map(String::len).sum())?;
    let escaped: Vec<String> = strings.iter().map(|text| regex_syntax::escape(text)).collect();
    let regex = llguidance::regex_to_lark(&escaped.join("|"), "");
    Ok(format!("start: TEXT\nTEXT: /{regex}/").into())
}

impl Source {
    /// Names it by its content.
    pub(super) fn key(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut part = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        part(&self.lark);
        for (name, lark) in &self.named {
            part(name);
            part(lark);
        }
        hasher.finalize().into()
    }
}
