//! The text of a client's Lark grammar, as far as it must be understood before the parser sees it: where
//! JSON schemas and special tokens stand in it.

use serde_json::Value;

use super::error::GrammarError;
use super::limits;

/// What introduces a schema.
const SCHEMA: &str = "%json";

/// A client's grammar without what is not the parser's business.
#[derive(Debug, PartialEq)]
pub(super) struct Scanned {
    /// The grammar, in which `@NAME` stands for each schema.
    pub(super) text: String,
    /// The schemas that stood in it, by name.
    pub(super) schemas: Vec<(String, Value)>,
    /// Special tokens, in angle brackets.
    pub(super) special_tokens: Vec<String>,
}

/// Takes a grammar apart.
///
/// # Errors
/// Where a schema in it is no JSON.
pub(super) fn scan(text: &str) -> Result<Scanned, GrammarError> {
    let mut scanned = Scanned {
        text: String::with_capacity(text.len()),
        schemas: Vec::new(),
        special_tokens: Vec::new(),
    };
    let mut rest = text;
    let mut conjunctions = 0;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '#' => line(rest),
            '/' if rest.starts_with("//") => line(rest),
            '"' => enclosed(rest, '"'),
            '/' => enclosed(rest, '/'),
            '<' => scanned.special_token(rest),
            '%' if rest.starts_with(SCHEMA) => {
                rest = &rest[SCHEMA.len()..];
                let length = scanned.schema(rest)?;
                rest = &rest[length..];
                continue;
            }
            c => c.len_utf8(),
        };
        let (part, after) = rest.split_at(taken);
        rest = after;
        conjunctions += usize::from(c == '&');
        limits::check_count("conjunctions", conjunctions, limits::MAX_CONJUNCTS)?;
        match c {
            // A comment is no concern of the parser's either.
            '#' => {}
            '/' if part.starts_with("//") => {}
            '"' => scanned.text.push_str(&part.replace(SCHEMA, "\\u0025json")),
            '/' => scanned.text.push_str(&part.replace("\\%", "%").replace(SCHEMA, "\\x25json")),
            _ => scanned.text.push_str(part),
        }
    }
    // Nothing that the parser could take for a schema is left to it.
    if scanned.text.contains(SCHEMA) {
        let message = format!("`{SCHEMA}` stands where no schema can");
        return Err(GrammarError::Invalid(message));
    }
    Ok(scanned)
}

impl Scanned {
    /// Takes the schema at the beginning of a text, whose length in the text it returns.
    fn schema(&mut self, text: &str) -> Result<usize, GrammarError> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let invalid = || GrammarError::Invalid(format!("what follows `{SCHEMA}` is no JSON"));
        let schema = values.next().and_then(Result::ok).ok_or_else(invalid)?;
        let name = format!("schema-{}", self.schemas.len());
        self.text.push_str(&format!(" @{name} "));
        self.schemas.push((name, schema));
        Ok(values.byte_offset())
    }

    /// The length of the special token at the beginning of a text, or of its first character.
    fn special_token(&mut self, text: &str) -> usize {
        let name = text[1..]
            .split(|c: char| c == '<' || c == '>' || c.is_whitespace())
            .next()
            .unwrap_or("");
        let length = name.len() + 2;
        if name.is_empty() || !text[..length.min(text.len())].ends_with('>') {
            return 1;
        }
        self.special_tokens.push(text[..length].to_owned());
        length
    }
}

/// The length of the line at the beginning of a text, without its end.
fn line(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// The length of what stands between two marks at the beginning of a text, with them.
fn enclosed(text: &str, mark: char) -> usize {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == mark => return index + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_and_special_tokens_are_found_where_they_stand() {
        let text = "# %json in a comment\nstart: \"%json <a>\" /x\\/%json/ %json {\"const\": \"%json\"} <|im_end|> <[1-3]> // <b>\nb: \"a\" %json true";
        let scanned = scan(text).unwrap();
        let expected = "\nstart: \"\\u0025json <a>\" /x\\/\\x25json/  @schema-0  <|im_end|> <[1-3]> \nb: \"a\"  @schema-1 ";
        assert_eq!(scanned.text, expected);
        let schemas = vec![
            ("schema-0".to_owned(), json!({"const": "%json"})),
            ("schema-1".to_owned(), json!(true)),
        ];
        assert_eq!(scanned.schemas, schemas);
        assert_eq!(scanned.special_tokens, ["<|im_end|>", "<[1-3]>"]);
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["start: %json", "start: %json {", "start: %json nothing"] {
            assert!(scan(text).is_err(), "{text}");
        }
        assert_eq!(scan("start: \"a").unwrap().text, "start: \"a");
        assert_eq!(scan("start: < a").unwrap().text, "start: < a");
    }
}
