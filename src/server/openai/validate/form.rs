//! What a text must obey: OpenAI's `response_format`, and vLLM's `structured_outputs` and `guided_…`
//! fields. One of them at a time.

use serde_json::Value;

use super::super::fields::Fields;
use crate::grammar::GrammarSpec;
use crate::server::error::ApiError;
use crate::server::form::Form;

/// Longest name of a schema.
const MAX_NAME_CHARS: usize = 64;

/// Takes every field that asks for a form.
///
/// # Errors
/// Where one is malformed or not supported, and where there is more than one.
pub fn take_form(fields: &mut Fields) -> Result<Option<Form>, ApiError> {
    let asked = [
        take_response_format(fields)?,
        take_json(fields, "guided_json", "guided_json")?,
        take_regex(fields, "guided_regex", "guided_regex")?,
        take_choice(fields, "guided_choice", "guided_choice")?,
        take_grammar(fields, "guided_grammar", "guided_grammar")?,
        take_structured_outputs(fields)?,
    ];
    only(asked)
}

/// The one form there is.
///
/// # Errors
/// Where there is more than one.
pub fn only(asked: impl IntoIterator<Item = Option<Form>>) -> Result<Option<Form>, ApiError> {
    let mut asked = asked.into_iter().flatten();
    let first = asked.next();
    match (&first, asked.next()) {
        (Some(first), Some(Form { param, .. })) => {
            let message = format!("`{param}` cannot be combined with `{}`", first.param);
            Err(ApiError::invalid(param, message))
        }
        _ => Ok(first),
    }
}

fn form(param: impl Into<String>, spec: GrammarSpec) -> Option<Form> {
    Some(Form { param: param.into(), spec })
}

fn take_response_format(fields: &mut Fields) -> Result<Option<Form>, ApiError> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(None) };
    match format.string("type")?.as_deref() {
        Some("text") => Ok(None),
        Some("json_object") => take_json_object(&mut format, "response_format").map(Some),
        Some("json_schema") => {
            let schema = format.object("json_schema")?;
            let mut schema = schema.ok_or_else(|| format.missing("json_schema"))?;
            take_json_schema(&mut schema, "response_format.json_schema").map(Some)
        }
        Some("grammar" | "structural_tag") => Err(ApiError::unsupported("response_format.type")),
        _ => {
            let param = "response_format.type";
            let message = format!("`{param}` must be `text`, `json_object` or `json_schema`");
            Err(ApiError::invalid(param, message))
        }
    }
}

/// Any JSON object, or with a `schema`, as llama.cpp has it, JSON that satisfies it. The object's place
/// in the body is `place`.
///
/// # Errors
/// Where the schema is none.
pub fn take_json_object(format: &mut Fields, place: &str) -> Result<Form, ApiError> {
    let param = format!("{place}.schema");
    match format.take("schema") {
        None => Ok(Form { param: place.to_owned(), spec: GrammarSpec::JsonObject }),
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => {
            Ok(Form { param, spec: GrammarSpec::JsonSchema(schema) })
        }
        Some(_) => {
            let message = format!("`{param}` must be an object");
            Err(ApiError::invalid(param, message))
        }
    }
}

/// `{"name", "schema", "strict", "description"}`, whose place in the body is `place`. The schema is
/// obeyed to the letter whether `strict` is set or not.
///
/// # Errors
/// The first wrong field, by name.
pub fn take_json_schema(schema: &mut Fields, place: &str) -> Result<Form, ApiError> {
    let name = schema.string("name")?.ok_or_else(|| schema.missing("name"))?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || !name.chars().all(fits) {
        let param = format!("{place}.name");
        let message = format!(
            "`{param}` must be 1 to {MAX_NAME_CHARS} letters, digits, underscores and dashes"
        );
        return Err(ApiError::invalid(param, message));
    }
    schema.boolean("strict", false)?;
    schema.string("description")?;
    let missing = schema.missing("schema");
    let param = format!("{place}.schema");
    match schema.take("schema") {
        None => Err(missing),
        Some(value @ (Value::Object(_) | Value::Bool(_))) => {
            Ok(Form { param, spec: GrammarSpec::JsonSchema(value) })
        }
        Some(_) => {
            let message = format!("`{param}` must be an object");
            Err(ApiError::invalid(param, message))
        }
    }
}

/// vLLM's object; `{}` asks for nothing.
fn take_structured_outputs(fields: &mut Fields) -> Result<Option<Form>, ApiError> {
    const NAME: &str = "structured_outputs";
    let Some(mut inner) = fields.object(NAME)? else { return Ok(None) };
    let param = |name: &str| format!("{NAME}.{name}");
    let any = inner.boolean("json_object", false)?;
    let asked = [
        take_json(&mut inner, "json", &param("json"))?,
        take_regex(&mut inner, "regex", &param("regex"))?,
        take_choice(&mut inner, "choice", &param("choice"))?,
        take_grammar(&mut inner, "grammar", &param("grammar"))?,
        if any { form(param("json_object"), GrammarSpec::JsonObject) } else { None },
    ];
    // There is one parser, and nothing to fall back to.
    inner.boolean("disable_fallback", false)?;
    let rest: Vec<String> = inner.rest().map(str::to_owned).collect();
    for name in rest {
        if inner.take(&name).is_some_and(|value| value != Value::Bool(false)) {
            return Err(ApiError::unsupported(param(&name)));
        }
    }
    only(asked)
}

/// A JSON schema, as it is or written in a string.
fn take_json(fields: &mut Fields, name: &str, param: &str) -> Result<Option<Form>, ApiError> {
    let schema = match fields.take(name) {
        None => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(&text).ok(),
        Some(value) => Some(value),
    };
    match schema {
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => {
            Ok(form(param, GrammarSpec::JsonSchema(schema)))
        }
        _ => {
            let message =
                format!("`{param}` must be a JSON schema, an object or a string with one");
            Err(ApiError::invalid(param, message))
        }
    }
}

fn take_regex(fields: &mut Fields, name: &str, param: &str) -> Result<Option<Form>, ApiError> {
    Ok(fields.string(name)?.and_then(|regex| form(param, GrammarSpec::Regex(regex))))
}

fn take_choice(fields: &mut Fields, name: &str, param: &str) -> Result<Option<Form>, ApiError> {
    let Some(values) = fields.array(name)? else { return Ok(None) };
    let strings = values.into_iter().map(|value| match value {
        Value::String(text) => Ok(text),
        _ => Err(ApiError::invalid(param, format!("`{param}` must be an array of strings"))),
    });
    Ok(form(param, GrammarSpec::Choice(strings.collect::<Result<_, _>>()?)))
}

fn take_grammar(fields: &mut Fields, name: &str, param: &str) -> Result<Option<Form>, ApiError> {
    let lark = |text| GrammarSpec::Lark { text, schemas: Vec::new() };
    Ok(fields.string(name)?.and_then(|text| form(param, lark(text))))
}
