//! The functions a response may call, in the flat form of this endpoint.

use serde_json::{Map, Value, json};

use super::super::fields::Fields;
use super::super::tools::{Function, MAX_TOOLS, ToolChoice, Tools, check_choice, take_function};
use crate::server::error::ApiError;

/// The functions on offer, with what a response repeats of them.
#[derive(Debug)]
pub struct TakenTools {
    /// Where a call may be made.
    pub tools: Option<Tools>,
    /// The definitions.
    pub definitions: Vec<Value>,
    /// The choice.
    pub choice: Value,
    /// Whether an answer may hold several calls.
    pub parallel: bool,
}

/// Takes `tools`, `tool_choice` and `parallel_tool_calls`.
///
/// # Errors
/// The first wrong field, by name; tools that are no functions are not supported.
pub fn take_tools(fields: &mut Fields) -> Result<TakenTools, ApiError> {
    let values = fields.array("tools")?.unwrap_or_default();
    if values.len() > MAX_TOOLS {
        let message = format!("`tools` must hold at most {MAX_TOOLS} functions");
        return Err(ApiError::invalid("tools", message));
    }
    let mut functions: Vec<Function> = Vec::with_capacity(values.len());
    for (number, value) in values.into_iter().enumerate() {
        let param = format!("tools[{number}]");
        let mut tool = Fields::nested(&param, value)?;
        match tool.string("type")?.as_deref() {
            Some("function") => {}
            Some(kind) => {
                let message = format!("tools of type `{kind}` are not supported by this server");
                return Err(ApiError::invalid(format!("{param}.type"), message));
            }
            None => return Err(tool.missing("type")),
        }
        let function = take_function(&mut tool, &param)?;
        if functions.iter().any(|known| known.name == function.name) {
            let message = format!("`tools` must not hold the function `{}` twice", function.name);
            return Err(ApiError::invalid(format!("{param}.name"), message));
        }
        functions.push(function);
    }
    let parallel = fields.boolean("parallel_tool_calls", true)?;
    let (repeated, choice) = take_choice(fields)?;
    check_choice(choice.as_ref(), &functions)?;
    let definitions = functions.iter().map(definition).collect();
    let offered = choice.filter(|_| !functions.is_empty());
    let tools = offered.map(|choice| Tools { functions, choice, parallel });
    Ok(TakenTools { tools, definitions, choice: repeated, parallel })
}

/// `tool_choice` as it came, and what it means: `None` where no call may be made.
fn take_choice(fields: &mut Fields) -> Result<(Value, Option<ToolChoice>), ApiError> {
    let wrong = || {
        let message = "`tool_choice` must be `none`, `auto`, `required`, or an object that names a \
                       function";
        ApiError::invalid("tool_choice", message)
    };
    match fields.take("tool_choice") {
        None => Ok(("auto".into(), Some(ToolChoice::Auto))),
        Some(Value::String(word)) => {
            let choice = match word.as_str() {
                "none" => None,
                "auto" => Some(ToolChoice::Auto),
                "required" => Some(ToolChoice::Required),
                _ => return Err(wrong()),
            };
            Ok((word.into(), choice))
        }
        Some(value @ Value::Object(_)) => {
            let mut choice = Fields::nested("tool_choice", value)?;
            match choice.string("type")?.as_deref() {
                Some("function") => {
                    let name = choice.string("name")?.ok_or_else(|| choice.missing("name"))?;
                    let repeated = json!({"type": "function", "name": name});
                    Ok((repeated, Some(ToolChoice::Named(name))))
                }
                Some(_) => Err(ApiError::unsupported("tool_choice.type")),
                None => Err(wrong()),
            }
        }
        Some(_) => Err(wrong()),
    }
}

fn definition(function: &Function) -> Value {
    let mut map = Map::new();
    map.insert("type".to_owned(), "function".into());
    map.insert("name".to_owned(), function.name.clone().into());
    map.insert("description".to_owned(), function.description.clone().into());
    map.insert("parameters".to_owned(), function.parameters.clone());
    map.insert("strict".to_owned(), function.strict.into());
    Value::Object(map)
}
