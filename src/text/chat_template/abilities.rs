//! What a chat template does with tools, found out by rendering a conversation that has some.

use serde_json::{Value, json};

use super::{ChatTemplate, RenderOptions};

/// Words that no template writes by itself.
const FUNCTION: &str = "sorsa_probed_function";
const KEY: &str = "sorsa_probed_key";
const VALUE: &str = "sorsa_probed_value";
/// Nine letters and digits: some templates refuse other ids.
const ID: &str = "probed123";

/// What a template does with tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// It shows the model the functions it is given.
    pub knows_tools: bool,
    /// How it wants the arguments of past calls.
    pub arguments: ArgumentsForm,
}

/// How arguments are given to a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArgumentsForm {
    /// An object, which it writes as JSON itself.
    #[default]
    Object,
    /// A string of JSON, as clients send it.
    Text,
}

impl Abilities {
    /// What `template` can do. One that fails cannot.
    pub(super) fn of(template: &ChatTemplate) -> Self {
        let user = json!({"role": "user", "content": "?"});
        let offered = render(template, &json!([user]));
        let object = json!({ KEY: VALUE });
        let called = |arguments: Value| render(template, &conversation(&user, &arguments));
        // A template that adds objects to strings fails, or writes them as Python would.
        let writes_objects =
            |text: &str| text.contains(VALUE) && !text.contains(&format!("'{KEY}'"));
        let text = Value::from(object.to_string());
        let arguments = if writes_objects(&called(object)) || !called(text).contains(VALUE) {
            ArgumentsForm::Object
        } else {
            ArgumentsForm::Text
        };
        Self { knows_tools: offered.contains(FUNCTION), arguments }
    }
}

fn conversation(user: &Value, arguments: &Value) -> Value {
    let call = json!({
        "id": ID, "type": "function", "function": {"name": FUNCTION, "arguments": arguments},
    });
    json!([
        user,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": FUNCTION, "tool_call_id": ID, "content": "!"},
    ])
}

/// Empty where it fails.
fn render(template: &ChatTemplate, messages: &Value) -> String {
    let tools = json!([{"type": "function", "function": {
        "name": FUNCTION, "description": "?",
        "parameters": {"type": "object", "properties": {}, "required": []},
    }}]);
    let options = RenderOptions { tools: Some(&tools), ..RenderOptions::default() };
    template.render(messages, true, &options).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::super::tokenizer_config::SpecialTokens;
    use super::*;

    fn abilities(source: &str) -> (bool, ArgumentsForm) {
        let template = ChatTemplate::new(source, SpecialTokens::default()).unwrap();
        let Abilities { knows_tools, arguments } = template.abilities();
        (knows_tools, arguments)
    }

    #[test]
    fn templates_show_what_they_can() {
        let plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
        assert_eq!(abilities(plain), (false, ArgumentsForm::Object));
        let calls = |arguments: &str| {
            format!(
                "{{% for t in tools or [] %}}{{{{ t | tojson }}}}{{% endfor %}}{{% for m in messages %}}\
                 {{% for c in m.tool_calls %}}{{{{ {arguments} }}}}{{% endfor %}}{{% endfor %}}"
            )
        };
        let expect = |arguments: &str| abilities(&calls(arguments));
        assert_eq!(expect("c.function.arguments | tojson"), (true, ArgumentsForm::Object));
        assert_eq!(expect("c.function | tojson"), (true, ArgumentsForm::Object));
        let either = "c.function.arguments if c.function.arguments is string else \
                      c.function.arguments | tojson";
        assert_eq!(expect(either), (true, ArgumentsForm::Object));
        assert_eq!(expect("'x' + c.function.arguments"), (true, ArgumentsForm::Text));
        assert_eq!(expect("c.function.arguments"), (true, ArgumentsForm::Text));
        assert_eq!(abilities("{{ raise_exception('no') }}"), (false, ArgumentsForm::Object));
    }
}
