//! The functions a model may call: `tools`, `tool_choice` and `parallel_tool_calls`, checked.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::server::error::ApiError;

/// Functions of one request.
pub const MAX_TOOLS: usize = 128;
/// The longest name of a function.
const MAX_NAME_CHARS: usize = 64;

/// A function on offer.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The JSON schema of its arguments, an object.
    pub parameters: Value,
    /// Whether arguments must fit the schema.
    pub strict: bool,
}

/// Which calls an answer may hold, or must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    Auto,
    /// At least one.
    Required,
    /// One of this function.
    Named(String),
}

/// The tools of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Tools {
    /// The functions, at least one, each with a name of its own.
    pub functions: Vec<Function>,
    /// Whether they are called.
    pub choice: ToolChoice,
    /// Whether an answer may hold several calls.
    pub parallel: bool,
}

impl Tools {
    /// Takes the fields of chats. `None` where there are no tools, or none may be called.
    ///
    /// # Errors
    /// The first wrong field, by name.
    pub fn take(fields: &mut Fields) -> Result<Option<Self>, ApiError> {
        let functions = take_functions(fields)?;
        let parallel = fields.boolean("parallel_tool_calls", true)?;
        let choice = take_choice(fields, &functions)?;
        let offered = choice.filter(|_| !functions.is_empty());
        Ok(offered.map(|choice| Self { functions, choice, parallel }))
    }

    /// The functions as chat templates know them, which is as chats have them.
    #[must_use]
    pub fn definitions(&self) -> Value {
        let definition = |function: &Function| {
            let mut map = Map::new();
            map.insert("name".to_owned(), function.name.clone().into());
            if let Some(description) = &function.description {
                map.insert("description".to_owned(), description.clone().into());
            }
            map.insert("parameters".to_owned(), function.parameters.clone());
            json!({"type": "function", "function": map})
        };
        self.functions.iter().map(definition).collect()
    }

    /// The names that may be called.
    #[must_use]
    pub fn names(&self) -> Arc<[String]> {
        self.functions.iter().map(|function| function.name.clone()).collect()
    }
}

fn take_functions(fields: &mut Fields) -> Result<Vec<Function>, ApiError> {
    let tools = fields.array("tools")?.unwrap_or_default();
    if tools.len() > MAX_TOOLS {
        let message = format!("`tools` must hold at most {MAX_TOOLS} functions");
        return Err(ApiError::invalid("tools", message));
    }
    let mut functions: Vec<Function> = Vec::with_capacity(tools.len());
    for (number, tool) in tools.into_iter().enumerate() {
        let param = format!("tools[{number}]");
        let mut tool = Fields::nested(&param, tool)?;
        match tool.string("type")?.as_deref() {
            Some("function") => {}
            Some(kind) => {
                let message = format!("tools of type `{kind}` are not supported by this server");
                return Err(ApiError::invalid(format!("{param}.type"), message));
            }
            None => return Err(tool.missing("type")),
        }
        let mut function = tool.object("function")?.ok_or_else(|| tool.missing("function"))?;
        let function = take_function(&mut function, &format!("{param}.function"))?;
        if functions.iter().any(|known| known.name == function.name) {
            let message = format!("`tools` must not hold the function `{}` twice", function.name);
            return Err(ApiError::invalid(format!("{param}.function.name"), message));
        }
        functions.push(function);
    }
    Ok(functions)
}

/// Takes a function's definition, whose place in the body is `param`.
///
/// # Errors
/// The first wrong field, by name.
pub fn take_function(fields: &mut Fields, param: &str) -> Result<Function, ApiError> {
    let name = fields.string("name")?.ok_or_else(|| fields.missing("name"))?;
    if !is_function_name(&name) {
        let param = format!("{param}.name");
        let message = format!(
            "`{param}` must be 1 to {MAX_NAME_CHARS} letters, digits, underscores or hyphens"
        );
        return Err(ApiError::invalid(param, message));
    }
    let parameters = match fields.take("parameters") {
        None => json!({"type": "object", "properties": {}}),
        Some(schema @ Value::Object(_)) => schema,
        Some(_) => {
            let param = format!("{param}.parameters");
            let message = format!("`{param}` must be an object");
            return Err(ApiError::invalid(param, message));
        }
    };
    Ok(Function {
        name,
        description: fields.string("description")?,
        parameters,
        strict: fields.boolean("strict", false)?,
    })
}

/// True for what may be a function's name.
#[must_use]
pub fn is_function_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=MAX_NAME_CHARS).contains(&name.len()) && name.chars().all(allowed)
}

/// Takes `tool_choice`; `None` where no call may be made.
fn take_choice(
    fields: &mut Fields,
    functions: &[Function],
) -> Result<Option<ToolChoice>, ApiError> {
    let wrong = || {
        let message = "`tool_choice` must be `none`, `auto`, `required`, or an object that names a \
                       function";
        ApiError::invalid("tool_choice", message)
    };
    let choice = match fields.take("tool_choice") {
        None => Some(ToolChoice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "none" => None,
            "auto" => Some(ToolChoice::Auto),
            "required" => Some(ToolChoice::Required),
            _ => return Err(wrong()),
        },
        Some(Value::Object(map)) => {
            let mut choice = Fields::nested("tool_choice", Value::Object(map))?;
            match choice.string("type")?.as_deref() {
                Some("function") => {}
                Some("allowed_tools" | "custom") => {
                    return Err(ApiError::unsupported("tool_choice.type"));
                }
                _ => return Err(wrong()),
            }
            let function = choice.object("function")?;
            let mut function = function.ok_or_else(|| choice.missing("function"))?;
            let name = function.string("name")?.ok_or_else(|| function.missing("name"))?;
            Some(ToolChoice::Named(name))
        }
        Some(_) => return Err(wrong()),
    };
    check_choice(choice.as_ref(), functions)?;
    Ok(choice)
}

/// Checks that what must be called is on offer.
///
/// # Errors
/// Where it is not.
pub fn check_choice(choice: Option<&ToolChoice>, functions: &[Function]) -> Result<(), ApiError> {
    let message = match choice {
        None | Some(ToolChoice::Auto) => return Ok(()),
        Some(_) if functions.is_empty() => "`tool_choice` is only allowed with `tools`".to_owned(),
        Some(ToolChoice::Named(name)) if functions.iter().all(|known| known.name != *name) => {
            format!("`tool_choice` names the function `{name}`, which is not in `tools`")
        }
        Some(_) => return Ok(()),
    };
    Err(ApiError::invalid("tool_choice", message))
}
