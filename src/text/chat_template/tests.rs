use std::time::Duration;

use super::*;
use serde_json::json;

fn template(source: &str) -> ChatTemplate {
    let special_tokens =
        SpecialTokens { bos_token: Some("<s>".to_owned()), ..SpecialTokens::default() };
    ChatTemplate::new(source, special_tokens).unwrap()
}

fn render(source: &str, messages: serde_json::Value) -> Result<String, ChatTemplateError> {
    template(source).render(&messages, false, &RenderOptions::default())
}

#[test]
fn the_recorded_conversations_render_as_recorded() {
    let recorded: serde_json::Value = serde_json::from_str(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/smollm2/chat_template.json"
    )))
    .unwrap();
    let special_tokens = SpecialTokens {
        bos_token: recorded["bos"].as_str().map(str::to_owned),
        eos_token: recorded["eos"].as_str().map(str::to_owned),
        ..SpecialTokens::default()
    };
    let template =
        ChatTemplate::new(recorded["template"].as_str().unwrap(), special_tokens).unwrap();
    let conversations = recorded["conversations"].as_array().unwrap();
    assert!(!conversations.is_empty());
    for conversation in conversations {
        for (prompt, key) in [(true, "generation_prompt"), (false, "no_generation_prompt")] {
            let messages = &conversation["messages"];
            let text = template.render(messages, prompt, &RenderOptions::default()).unwrap();
            assert_eq!(conversation[key]["text"], text);
        }
    }
}

#[test]
fn blocks_are_trimmed_as_transformers_does() {
    let source = "a\n  {% if true %}\nb\n  {% endif %}\nc {{ messages[0].x }}\n\n";
    assert_eq!(render(source, json!([{"x": 1}])).unwrap(), "a\nb\nc 1\n");
}

#[test]
fn variables_are_those_of_transformers() {
    let source = "{{ bos_token }}{{ eos_token is defined }} {{ tools }} {{ documents is none }} \
                  {{ add_generation_prompt }} {{ enable_thinking is defined }}";
    assert_eq!(render(source, json!([])).unwrap(), "<s>False None True False False");
    let (tools, documents) = (json!([{"name": "f"}]), json!([]));
    let options = RenderOptions {
        tools: Some(&tools),
        documents: Some(&documents),
        enable_thinking: Some(false),
        ..RenderOptions::default()
    };
    let text = template("{{ tools[0].name }}{{ documents|length }}{{ enable_thinking }}").render(
        &json!([]),
        true,
        &options,
    );
    assert_eq!(text.unwrap(), "f0False");
}

/// The methods, slices, loops and macros that published templates are made of.
#[test]
fn python_idioms_work() {
    let source = r#"
{%- macro show(text, mark='*') -%}{{ mark ~ text ~ mark }}{%- endmacro -%}
{%- set ns = namespace(last=-1, multi=true) -%}
{%- for m in messages[::-1] -%}
  {%- if ns.multi and m.role == 'user' and m.content is string and not (m.content.startswith('<t>') and m.content.endswith('</t>')) -%}
    {%- set ns.multi = false -%}{%- set ns.last = (messages|length - 1) - loop.index0 -%}
  {%- endif -%}
{%- endfor -%}
{{ ns.last }}
{%- for m in messages -%}
  {%- if loop.index0 == 1 -%}{%- continue -%}{%- endif -%}
  {%- if m.content is string -%}[{{ m.content.split('</think>')[-1].lstrip('\n').strip() | upper }}]
  {%- else -%}{%- for part in m['content'] -%}{{ show(part.text) }}{%- endfor -%}{%- endif -%}
  {%- for key, value in m.get('extra', {}).items() -%}{{ key }}={{ value }};{%- endfor -%}
  {%- if loop.last -%}{%- break -%}{%- endif -%}
{%- endfor -%}
{%- if 'role' in messages[0] and messages[0].none is not defined %} ok{% endif -%}
"#;
    let messages = json!([
        {"role": "user", "content": "<think>\nx</think>\n\nhi ", "extra": {"b": 1, "a": null}},
        {"role": "assistant", "content": "skipped"},
        {"role": "user", "content": [{"type": "text", "text": "part"}]},
        {"role": "user", "content": "<t>tool</t>"},
    ]);
    // What Jinja2 renders with the settings of transformers.
    let expected = "0[HI]b=1;a=None;*part*[<T>TOOL</T>] ok";
    assert_eq!(render(source, messages).unwrap(), expected);
}

#[test]
fn values_print_as_in_python() {
    let messages = json!([{"a": [true, null, 1.0, "it's"], "b": {"k": "v"}}]);
    assert_eq!(
        render("{{ messages[0].a }} {{ messages[0].b }}", messages).unwrap(),
        r#"[True, None, 1.0, "it's"] {'k': 'v'}"#
    );
}

#[test]
fn tojson_is_json_dumps() {
    let messages = json!([{"b": "<é>'", "a": [1, 2.5]}]);
    let text =
        |filter: &str| render(&format!("{{{{ messages[0] | {filter} }}}}"), messages.clone());
    assert_eq!(text("tojson").unwrap(), r#"{"b": "<é>'", "a": [1, 2.5]}"#);
    assert_eq!(
        text("tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':'))").unwrap(),
        r#"{"a":[1,2.5],"b":"<\u00e9>'"}"#
    );
    assert_eq!(
        text("tojson(indent=4)").unwrap(),
        "{\n    \"b\": \"<é>'\",\n    \"a\": [\n        1,\n        2.5\n    ]\n}"
    );
    assert!(text("tojson(color='red')").is_err());
    assert!(render("{{ nothing | tojson }}", json!([])).is_err());
}

#[test]
fn generation_marks_leave_no_trace() {
    let source =
        "a\n{% generation %}\nb\n{%- endgeneration -%}\n c{%- generation -%} d {% endgeneration %}";
    assert_eq!(render(source, json!([])).unwrap(), "a\nbcd ");
}

#[test]
fn dates_come_from_the_given_moment() {
    let source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}";
    let now = Some(UNIX_EPOCH + Duration::from_secs(951_827_696));
    let options = RenderOptions { now, ..RenderOptions::default() };
    let text = template(source).render(&json!([]), false, &options);
    assert_eq!(text.unwrap(), "29 Feb 2000");
    // Without one, the clock's.
    assert_ne!(render("{{ strftime_now('%Y') }}", json!([])).unwrap(), "1970");
    assert!(render("{{ strftime_now('%Q') }}", json!([])).is_err());
}

#[test]
fn what_a_template_refuses_is_told_from_what_it_cannot_render() {
    let source = "{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}\
                  {% endif %}{{ 'x' + messages[0].content }}";
    let raised = render(source, json!([{"role": "tool"}])).unwrap_err();
    assert_eq!(raised, ChatTemplateError::Raised("roles must alternate".to_owned()));
    let within = render(
        "{% macro m() %}{{ raise_exception('inner') }}{% endmacro %}{% set x %}{{ m() }}{% endset %}",
        json!([]),
    );
    assert_eq!(within, Err(ChatTemplateError::Raised("inner".to_owned())));
    for messages in [json!([{"role": "user"}]), json!([{"role": "user", "content": null}])] {
        let error = render(source, messages).unwrap_err();
        assert!(matches!(error, ChatTemplateError::Render(_)), "{error}");
    }
}

#[test]
fn a_source_that_is_no_template_is_refused() {
    for source in ["{% if %}", "{{ a", "{% generation %}", "{% for x in y %}"] {
        let error = ChatTemplate::new(source, SpecialTokens::default()).unwrap_err();
        assert!(matches!(error, ChatTemplateError::Compile(_)), "{source}: {error}");
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(6000), ")".repeat(6000));
    assert!(ChatTemplate::new(&deep, SpecialTokens::default()).is_err());
}

#[test]
fn work_depth_and_output_are_bounded() {
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    assert_eq!(render(loops, json!([])), Err(ChatTemplateError::TooMuchWork { fuel: FUEL }));
    let json = "{% for a in range(9999) %}{{ messages | tojson | length }}{% endfor %}";
    let long = json!(["a".repeat(100_000)]);
    assert_eq!(render(json, long), Err(ChatTemplateError::TooMuchWork { fuel: FUEL }));

    let recursion = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert!(matches!(render(recursion, json!([])), Err(ChatTemplateError::Render(_))));

    let longer = json!([{"x": "a".repeat(1 << 20)}]);
    let repeat = "{% for a in range(17) %}{{ messages[0].x }}{% endfor %}";
    let too_long = Err(ChatTemplateError::TooLong { limit: MAX_OUTPUT_BYTES });
    assert_eq!(render(repeat, longer), too_long);
}

/// A conversation as long as a context of a million tokens stays far below the limits.
#[test]
fn long_conversations_fit() {
    let source =
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}\n{% endfor %}";
    let message = json!({"role": "user", "content": "word ".repeat(100)});
    let messages = serde_json::Value::Array(vec![message; 8000]);
    assert!(render(source, messages).unwrap().len() > 4_000_000);
}
