//! Texts as messages and items hold them: a string, or an array of parts of which each has a text.

use serde_json::Value;

use super::fields::{Fields, check_len};
use crate::server::error::ApiError;

/// Parts of one text.
pub const MAX_PARTS: usize = 4096;

/// The text of `content`, which stands at `param`; parts are joined by line breaks. Parts that hold a
/// `text` are of the types `kinds`; everywhere a model's `refusal` is one too.
///
/// # Errors
/// Where it is something else, and for parts of other types, by name.
pub fn text(param: &str, content: Option<Value>, kinds: &[&str]) -> Result<String, ApiError> {
    match content {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            check_len(param, parts.len(), MAX_PARTS)?;
            let numbered = parts.into_iter().enumerate();
            let texts: Result<Vec<String>, ApiError> = numbered
                .map(|(number, part)| part_text(&format!("{param}[{number}]"), part, kinds))
                .collect();
            Ok(texts?.join("\n"))
        }
        _ => {
            let message = format!("`{param}` must be a string or an array of parts");
            Err(ApiError::invalid(param, message))
        }
    }
}

fn part_text(param: &str, part: Value, kinds: &[&str]) -> Result<String, ApiError> {
    let mut part = Fields::nested(param, part)?;
    let name = match part.string("type")?.as_deref() {
        Some("refusal") => "refusal",
        Some(kind) if kinds.contains(&kind) => "text",
        Some(kind) => {
            let message = format!("parts of type `{kind}` are not supported by this server");
            return Err(ApiError::invalid(part.param("type"), message));
        }
        None => return Err(part.missing("type")),
    };
    part.string(name)?.ok_or_else(|| part.missing(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_are_joined_and_others_refused_by_name() {
        let of = |content: Value| text("content", Some(content), &["text", "output_text"]);
        let parts = json!([
            {"type": "text", "text": "a"}, {"type": "output_text", "text": "", "annotations": []},
            {"type": "refusal", "refusal": "b"},
        ]);
        assert_eq!(of(parts), Ok("a\n\nb".to_owned()));
        assert_eq!((of(json!([])), of(json!("a"))), (Ok(String::new()), Ok("a".to_owned())));
        let cases = [
            (json!(5), "`content` must be a string or an array of parts"),
            (json!(["a"]), "`content[0]` must be an object"),
            (json!([{"text": "a"}]), "`content[0].type` is required"),
            (json!([{"type": 1}]), "`content[0].type` must be a string"),
            (json!([{"type": "text"}]), "`content[0].text` is required"),
            (json!([{"type": "text", "text": 1}]), "`content[0].text` must be a string"),
            (
                json!([{"type": "input_text", "text": "a"}]),
                "parts of type `input_text` are not supported by this server",
            ),
        ];
        for (content, expected) in cases {
            assert_eq!(of(content).unwrap_err().to_string(), expected);
        }
    }
}
