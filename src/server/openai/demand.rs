//! What an answer of a chat must obey, all of it together: calls that must be made, the form that the
//! content must have, and thoughts before either.

use crate::grammar::GrammarSpec;
use crate::server::chat_format::ChatFormat;
use crate::server::error::ApiError;
use crate::server::form::Form;
use crate::text::answer::Thoughts;
use crate::text::tokenizer::Tokenizer;
use crate::text::tool_format::ToolFormat;
use crate::text::tool_format::forced::{CallsDemand, Demand, Demanded};

use super::tools::{ToolChoice, Tools};

/// The form of a chat's answer; `asked` is that of its content. Of the `tokenizer`'s special tokens, those
/// below `vocab_size` are tokens for the model; marks that are no such token are written as text.
///
/// # Errors
/// Where calls are demanded and a form of the content too, and where a form that is no JSON would
/// have to follow thoughts.
pub fn form(
    format: &ChatFormat,
    (tokenizer, vocab_size): (&Tokenizer, usize),
    tools: Option<&Tools>,
    asked: Option<Form>,
    thoughts: Option<Thoughts>,
) -> Result<Option<Form>, ApiError> {
    let calls = tools.and_then(|tools| calls(format.tool_format?, tools));
    let forced = tools.is_some_and(|tools| tools.choice != ToolChoice::Auto);
    let (param, json) = match asked {
        None if forced => ("tools".to_owned(), None),
        None => return Ok(None),
        Some(Form { param, .. }) if forced => {
            let message = format!("`{param}` is not available where a function must be called");
            return Err(ApiError::invalid(param, message));
        }
        Some(Form { param, spec: GrammarSpec::JsonSchema(schema) }) => (param, Some(schema)),
        Some(Form { param, spec: GrammarSpec::JsonObject }) => {
            (param, Some(serde_json::json!({"type": "object"})))
        }
        Some(Form { param, .. }) if thoughts == Some(Thoughts::Opened) => {
            let message = format!("`{param}` is not available where the model thinks first");
            return Err(ApiError::invalid(param, message));
        }
        other => return Ok(other),
    };
    let known = |id: u32| usize::try_from(id).is_ok_and(|id| id < vocab_size);
    let special =
        |mark: &str| tokenizer.token_id(mark).filter(|id| tokenizer.is_special(*id) && known(*id));
    let Demanded { lark, schemas } = Demand { calls, json, thoughts }.grammar(&special);
    Ok(Some(Form { param, spec: GrammarSpec::Lark { text: lark, schemas } }))
}

/// The calls that an answer must, or may, consist of.
fn calls(format: ToolFormat, tools: &Tools) -> Option<CallsDemand<'_>> {
    let functions = tools.functions.iter().filter(|function| match &tools.choice {
        ToolChoice::Named(name) => function.name == *name,
        ToolChoice::Auto | ToolChoice::Required => true,
    });
    let functions = functions.map(|it| (it.name.as_str(), &it.parameters)).collect();
    let named = matches!(tools.choice, ToolChoice::Named(_));
    Some(CallsDemand { format, functions, parallel: tools.parallel && !named })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::text::chat_templates::ChatTemplates;
    use crate::text::tokenizer_config::SpecialTokens;

    /// The fixture's tokenizer, whose ids end before 320, with a special token of that id.
    fn tokenizer(mark: &str) -> Tokenizer {
        let json = include_bytes!("../../../tests/fixtures/tiny/tokenizer.json");
        let mut json: Value = serde_json::from_slice(json).unwrap();
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": 320, "content": mark, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }));
        Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_mark_beyond_the_models_tokens_is_text() {
        let templates = ChatTemplates::single("", SpecialTokens::default()).unwrap();
        let format = ChatFormat { templates, tool_format: None, thinks: true };
        let tokenizer = tokenizer("</think>");
        assert_eq!(tokenizer.token_id("</think>"), Some(320));
        let grammar = |vocab_size| {
            let asked = Form { param: "response_format".into(), spec: GrammarSpec::JsonObject };
            let thoughts = Some(Thoughts::Opened);
            let form = form(&format, (&tokenizer, vocab_size), None, Some(asked), thoughts);
            let GrammarSpec::Lark { text, .. } = form.unwrap().unwrap().spec else { panic!() };
            text
        };
        assert!(grammar(321).contains("<[320]>"));
        let beyond = grammar(320);
        assert!(!beyond.contains("<[320]>") && beyond.contains("</think>"), "{beyond}");
    }
}
