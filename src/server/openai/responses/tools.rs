//! What a response repeats of the functions it may call.

use serde_json::{Map, Value, json};

use super::super::tools::{AskedTools, Function, ToolChoice};

/// The definitions.
#[must_use]
pub fn definitions(asked: &AskedTools) -> Vec<Value> {
    asked.functions.iter().map(definition).collect()
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

/// The choice.
#[must_use]
pub fn choice(asked: &AskedTools) -> Value {
    match &asked.choice {
        None => "none".into(),
        Some(ToolChoice::Auto) => "auto".into(),
        Some(ToolChoice::Required) => "required".into(),
        Some(ToolChoice::Named(name)) => json!({"type": "function", "name": name}),
    }
}
