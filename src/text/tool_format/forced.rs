//! Answers that must have a form, as a grammar: calls in the envelope of the model's format, around
//! objects that name one of the functions and satisfy its schema, or JSON of a schema, behind thoughts
//! where the model has them.
//!
//! It is written in llguidance's dialect of Lark, where `@NAME` stands for a value of a schema; whoever
//! compiles it knows what a mark is.

use serde_json::{Map, Value, json};

use super::ToolFormat;
use super::envelope::Bit;
use crate::text::answer::{Thoughts, reasoning};

/// Calls of one answer.
const MAX_CALLS: usize = 8;

/// What an answer must be: calls, or JSON, or either.
#[derive(Debug, Clone)]
pub struct Demand<'a> {
    /// The calls it may consist of.
    pub calls: Option<CallsDemand<'a>>,
    /// The schema of the JSON it may be instead.
    pub json: Option<Value>,
    /// Where thoughts may come first.
    pub thoughts: Option<Thoughts>,
}

/// The calls of a [`Demand`].
#[derive(Debug, Clone)]
pub struct CallsDemand<'a> {
    /// How they are written.
    pub format: ToolFormat,
    /// The functions that may be called: names, and schemas of arguments.
    pub functions: Vec<(&'a str, &'a Value)>,
    /// Whether there may be several.
    pub parallel: bool,
}

/// A grammar and the schemas in it, by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Demanded {
    /// The grammar; it begins at `start`.
    pub lark: String,
    /// The schemas.
    pub schemas: Vec<(String, Value)>,
}

/// How marks stand in a grammar: the ids of those that are special tokens.
pub type SpecialMark<'a> = &'a dyn Fn(&str) -> Option<u32>;

impl Demand<'_> {
    /// The grammar.
    #[must_use]
    pub fn grammar(&self, special: SpecialMark<'_>) -> Demanded {
        let mut schemas = Vec::new();
        let mut said = Vec::with_capacity(2);
        let mut lark = String::new();
        if let Some(calls) = &self.calls {
            said.push("calls");
            lark.push_str(&calls.rules(special));
            schemas.extend(calls.schemas());
        }
        if let Some(schema) = &self.json {
            said.push("@json");
            schemas.push(("json".to_owned(), schema.clone()));
        }
        let start = start(self.thoughts, special);
        Demanded { lark: format!("{start}\nsaid: {}\n{lark}", said.join(" | ")), schemas }
    }
}

impl CallsDemand<'_> {
    fn rules(&self, special: SpecialMark<'_>) -> String {
        let envelope = self.format.envelope();
        let symbols = |bits: &[Bit]| -> String {
            let symbol = |bit: &Bit| match bit {
                Bit::Mark(mark) => marked(mark, special),
                Bit::Text(text) => quoted(text),
            };
            bits.iter().map(symbol).map(|symbol| symbol + " ").collect()
        };
        let more = format!("({} call){{0,{}}}", quoted(envelope.between), MAX_CALLS - 1);
        let calls = if self.parallel { format!("call {more}") } else { "call".to_owned() };
        let names = (0..self.functions.len()).map(|number| format!("@f{number}"));
        format!(
            "calls: {}{calls} {}\ncall: {}object {}\nobject: {}\n",
            symbols(envelope.start),
            symbols(envelope.end),
            symbols(envelope.before_call),
            symbols(envelope.after_call),
            names.collect::<Vec<_>>().join(" | "),
        )
    }

    fn schemas(&self) -> impl Iterator<Item = (String, Value)> {
        let schema = |(number, (name, arguments)): (usize, &(&str, &Value))| {
            let schema = object_schema(name, self.format.arguments_key(), arguments);
            (format!("f{number}"), schema)
        };
        self.functions.iter().enumerate().map(schema)
    }
}

/// The rules from `start` to `said`, which follows the thoughts.
fn start(thoughts: Option<Thoughts>, special: SpecialMark<'_>) -> String {
    let Some(thoughts) = thoughts else { return "start: said".to_owned() };
    let thinking = match special(reasoning::CLOSE) {
        Some(id) => format!("thinking: /(?s:.*)/ <[{id}]>"),
        None => format!("thinking[suffix={}]: /(?s:.*)/", quoted(reasoning::CLOSE)),
    };
    let start = match thoughts {
        Thoughts::Opened => "thinking blank said".to_owned(),
        Thoughts::Unopened => {
            format!("said | {} thinking blank said", marked(reasoning::OPEN, special))
        }
    };
    format!("start: {start}\n{thinking}\nblank: /\\n{{0,2}}/")
}

fn marked(mark: &str, special: SpecialMark<'_>) -> String {
    special(mark).map_or_else(|| quoted(mark), |id| format!("<[{id}]>"))
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A call's object.
fn object_schema(name: &str, key: &str, arguments: &Value) -> Value {
    let mut arguments = arguments.clone();
    move_references(&mut arguments, &format!("#/properties/{key}"));
    let mut properties = Map::new();
    properties.insert("name".to_owned(), json!({ "const": name }));
    properties.insert(key.to_owned(), arguments);
    json!({
        "type": "object", "properties": properties, "required": ["name", key],
        "additionalProperties": false,
    })
}

/// References of a schema that begin at its own root, once it lies at `root` in another one.
fn move_references(schema: &mut Value, root: &str) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref")
                && let Some(rest) = reference.strip_prefix('#')
            {
                *reference = format!("{root}{rest}");
            }
            map.values_mut().for_each(|value| move_references(value, root));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| move_references(value, root)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_its_grammar() {
        let schema = json!({
            "$defs": {"P": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/P"}}});
        let functions = vec![("f", &schema), ("g", &schema)];
        let none = |_: &str| None;
        let special = |mark: &str| (mark == "[TOOL_CALLS]" || mark == "</think>").then_some(5);
        let mut all = String::new();
        let thoughts = [None, Some(Thoughts::Unopened), Some(Thoughts::Opened)];
        for (format, thoughts) in ToolFormat::ALL.into_iter().zip(thoughts) {
            let calls = CallsDemand { format, functions: functions.clone(), parallel: true };
            let demand = Demand { calls: Some(calls.clone()), json: None, thoughts };
            all += &demand.grammar(&none).lark;
            let calls =
                CallsDemand { functions: functions[..1].to_vec(), parallel: false, ..calls };
            let demand = Demand { calls: Some(calls), json: Some(json!({})), thoughts };
            all += &demand.grammar(&special).lark;
        }
        insta::assert_snapshot!(all);
        let calls = CallsDemand { format: ToolFormat::Llama3Json, functions, parallel: false };
        let demanded = Demand { calls: Some(calls), json: None, thoughts: None }.grammar(&none);
        let (name, schema) = &demanded.schemas[1];
        assert_eq!((name.as_str(), &schema["properties"]["name"]), ("f1", &json!({"const": "g"})));
        let moved = &schema["properties"]["parameters"]["properties"]["a"]["$ref"];
        assert_eq!(moved, "#/properties/parameters/$defs/P");
    }
}
