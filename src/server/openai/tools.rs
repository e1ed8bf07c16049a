//! The functions a model may call: `tools`, `tool_choice` and `parallel_tool_calls`, checked.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::server::error::ApiError;
use crate::server::work::text_bytes;

/// Functions of one request.
const MAX_TOOLS: usize = 128;
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

/// Where an endpoint writes what an object of type `function` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionStyle {
    /// In an object of its own, `function`: chats.
    Nested,
    /// Beside the type: responses.
    Flat,
}

/// What a request says of tools, used or not.
#[derive(Debug, Clone, PartialEq)]
pub struct AskedTools {
    /// The functions, each with a name of its own.
    pub functions: Vec<Function>,
    /// `None` where no call may be made.
    pub choice: Option<ToolChoice>,
    /// Whether an answer may hold several calls.
    pub parallel: bool,
}

impl AskedTools {
    /// Takes `tools`, `tool_choice` and `parallel_tool_calls`.
    ///
    /// # Errors
    /// The first wrong field, by name; tools that are no functions are not supported.
    pub fn take(fields: &mut Fields, style: FunctionStyle) -> Result<Self, ApiError> {
        let functions = take_functions(fields, style)?;
        let parallel = fields.boolean("parallel_tool_calls", true)?;
        let choice = take_choice(fields, style)?;
        check_choice(choice.as_ref(), &functions)?;
        Ok(Self { functions, choice, parallel })
    }

    /// `None` where there are no tools, or none may be called.
    #[must_use]
    pub fn offered(self) -> Option<Tools> {
        let Self { functions, choice, parallel } = self;
        let choice = choice.filter(|_| !functions.is_empty());
        choice.map(|choice| Tools { functions, choice, parallel })
    }
}

impl Tools {
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

    /// Bytes of the texts in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let bytes = |function: &Function| {
            let description = function.description.as_ref().map_or(0, String::len);
            function.name.len() + description + text_bytes(&function.parameters)
        };
        self.functions.iter().map(bytes).sum()
    }

    /// The names that may be called.
    #[must_use]
    pub fn names(&self) -> Arc<[String]> {
        self.functions.iter().map(|function| function.name.clone()).collect()
    }
}

impl FunctionStyle {
    /// What `object`, of type `function`, says.
    fn said(self, mut object: Fields) -> Result<Fields, ApiError> {
        match self {
            Self::Flat => Ok(object),
            Self::Nested => object.object("function")?.ok_or_else(|| object.missing("function")),
        }
    }
}

fn take_functions(fields: &mut Fields, style: FunctionStyle) -> Result<Vec<Function>, ApiError> {
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
        let mut definition = style.said(tool)?;
        let function = take_function(&mut definition)?;
        if functions.iter().any(|known| known.name == function.name) {
            let message = format!("`tools` must not hold the function `{}` twice", function.name);
            return Err(ApiError::invalid(definition.param("name"), message));
        }
        functions.push(function);
    }
    Ok(functions)
}

fn take_function(fields: &mut Fields) -> Result<Function, ApiError> {
    let name = fields.string("name")?.ok_or_else(|| fields.missing("name"))?;
    if !is_function_name(&name) {
        let param = fields.param("name");
        let message = format!(
            "`{param}` must be 1 to {MAX_NAME_CHARS} letters, digits, underscores or hyphens"
        );
        return Err(ApiError::invalid(param, message));
    }
    let parameters = match fields.take("parameters") {
        None => json!({"type": "object", "properties": {}}),
        Some(schema @ Value::Object(_)) => schema,
        Some(_) => {
            let param = fields.param("parameters");
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
fn is_function_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=MAX_NAME_CHARS).contains(&name.len()) && name.chars().all(allowed)
}

/// Takes `tool_choice`; `None` where no call may be made.
fn take_choice(fields: &mut Fields, style: FunctionStyle) -> Result<Option<ToolChoice>, ApiError> {
    let wrong = || {
        let message = "`tool_choice` must be `none`, `auto`, `required`, or an object that names a \
                       function";
        ApiError::invalid("tool_choice", message)
    };
    match fields.take("tool_choice") {
        None => Ok(Some(ToolChoice::Auto)),
        Some(Value::String(word)) => match word.as_str() {
            "none" => Ok(None),
            "auto" => Ok(Some(ToolChoice::Auto)),
            "required" => Ok(Some(ToolChoice::Required)),
            _ => Err(wrong()),
        },
        Some(value @ Value::Object(_)) => {
            let mut choice = Fields::nested("tool_choice", value)?;
            match choice.string("type")?.as_deref() {
                Some("function") => {}
                Some(_) => return Err(ApiError::unsupported("tool_choice.type")),
                None => return Err(wrong()),
            }
            let mut function = style.said(choice)?;
            let name = function.string("name")?.ok_or_else(|| function.missing("name"))?;
            Ok(Some(ToolChoice::Named(name)))
        }
        Some(_) => Err(wrong()),
    }
}

/// Checks that what must be called is on offer.
fn check_choice(choice: Option<&ToolChoice>, functions: &[Function]) -> Result<(), ApiError> {
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
