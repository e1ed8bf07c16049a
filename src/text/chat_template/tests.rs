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

/// What Jinja2, set up as transformers does, renders of 1,500 small templates, one idea each. Where we
/// render otherwise, the case says what, and why.
#[test]
fn small_templates_render_as_in_jinja2() {
    let context: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/jinja/context.json")).unwrap();
    let special_tokens = SpecialTokens::from_config(&context["special_tokens"]).unwrap();
    let mut wrong = Vec::new();
    for line in include_str!("../../../tests/fixtures/jinja/cases.jsonl").lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let expected = case.get("ours").unwrap_or(&case["text"]).as_str();
        let source = case["template"].as_str().unwrap();
        let rendered = ChatTemplate::new(source, special_tokens.clone()).and_then(|template| {
            template.render(&context["messages"], false, &RenderOptions::default())
        });
        if rendered.as_deref().ok() != expected {
            wrong.push(format!("{source:?}: {rendered:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Windows' line ends are those of the file, not of the prompt; values keep theirs.
#[test]
fn line_ends_of_the_source_are_line_feeds() {
    let source = "{% for m in messages %}\n<{{ m.x }}>\n{% endfor %}\n{{ 'a\nb' }}\nend\n";
    let unix = render(source, json!([{"x": "1\r\n2"}])).unwrap();
    assert_eq!(unix, "<1\r\n2>\na\nb\nend");
    for ends in ["\r\n", "\r"] {
        let other = render(&source.replace('\n', ends), json!([{"x": "1\r\n2"}]));
        assert_eq!(other.as_ref(), Ok(&unix), "{ends:?}");
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
fn generation_marks_leave_no_trace() {
    let source =
        "a\n{% generation %}\nb\n{%- endgeneration -%}\n c{%- generation -%} d {% endgeneration %}";
    assert_eq!(render(source, json!([])).unwrap(), "a\nbcd ");
}

#[test]
fn dates_come_from_the_given_moment() {
    let source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y %H') }}{% endif %}";
    let moment = jiff::Timestamp::new(951_827_696, 0).unwrap();
    for (offset, expected) in
        [(0, "29 Feb 2000 12"), (12, "01 Mar 2000 00"), (-13, "28 Feb 2000 23")]
    {
        let now = moment.to_zoned_datetime(jiff::tz::TimeZone::fixed(jiff::tz::offset(offset)));
        let options = RenderOptions { now: Some(&now), ..RenderOptions::default() };
        assert_eq!(template(source).render(&json!([]), false, &options).unwrap(), expected);
    }
    // Without one, the clock's.
    assert_ne!(render("{{ strftime_now('%Y') }}", json!([])).unwrap(), "1970");
}

#[test]
fn what_a_template_refuses_is_told_from_what_it_cannot_render() {
    let source = "{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}\
                  {% endif %}{{ 'x' + messages[0].content }}";
    let raised = render(source, json!([{"role": "tool"}])).unwrap_err();
    assert_eq!(raised.refusal(), Some("roles must alternate"));
    let within = render(
        "{% macro m() %}{{ raise_exception('inner') }}{% endmacro %}{% set x %}{{ m() }}{% endset %}",
        json!([]),
    );
    assert_eq!(within, Err(ChatTemplateError::Raised("inner".to_owned())));
    for messages in [json!([{"role": "user"}]), json!([{"role": "user", "content": null}])] {
        let error = render(source, messages).unwrap_err();
        assert!(matches!(error, ChatTemplateError::Render(_)), "{error}");
        assert_eq!(error.refusal(), None);
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
    // One value in many places, and texts that grow as they are made.
    let twice = |last: &str| {
        format!(
            "{{% set ns = namespace(x=['a']) %}}{{% for i in range(60) %}}\
             {{% set ns.x = [ns.x, ns.x] %}}{{% endfor %}}{{{{ {last} }}}}"
        )
    };
    let padded = "'%9999999d' % 1";
    let doubled = "{% set ns = namespace(x='a') %}{% for i in range(60) %}\
                   {% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    for source in [
        twice("ns.x"),
        twice("ns.x | tojson"),
        twice("ns.x ~ ''"),
        doubled.to_owned(),
        doubled.replace('~', "+"),
        "{{ 'a'.center(99999999) }}".to_owned(),
        "{{ 'a\t'.expandtabs(99999999) }}".to_owned(),
        "{{ ('a' * 9999999).replace('a', 'aaa') }}".to_owned(),
        "{{ ['a', 'b'] | join('c' * 16777216) }}".to_owned(),
        "{{ ('a\\n' * 999) | indent(99999) }}".to_owned(),
    ] {
        let result = render(&source, json!([]));
        assert!(matches!(result, Err(ChatTemplateError::TooLong { .. })), "{source}");
    }
    for source in [
        format!("{{{{ {padded} }}}}"),
        "{{ '%*d' % (messages[0], 1) }}".to_owned(),
        "{{ '{:{}}'.format(1, messages[0]) }}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}\
         {{ ns.x }}"
            .to_owned(),
    ] {
        let result = render(&source, json!([99_999_999]));
        assert!(matches!(result, Err(ChatTemplateError::Render(_))), "{source}: {result:?}");
    }

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

/// Errors name the line of the source, whatever was written anew, and what is undefined.
#[test]
fn errors_say_where_and_what() {
    let source = "{# a\n comment #}\n{% if true -%}\n\n  {{ 'a' +\n 'b' }}\n{% endif %}\n\n{{ messages[0].x.y }}";
    let error = render(source, json!([{"role": "user"}])).unwrap_err().to_string();
    assert!(error.contains("chat_template:9") && error.contains("messages[0].x"), "{error}");
    let error = render("\n\n{{ 'a' + 1 }}", json!([])).unwrap_err().to_string();
    assert!(error.contains("chat_template:3") && !error.contains("__"), "{error}");
    let error = ChatTemplate::new("a\n{% if %}", SpecialTokens::default()).unwrap_err();
    assert!(error.to_string().contains("chat_template:2"), "{error}");
}

#[test]
fn long_expressions_are_not_deep_ones() {
    let sum = vec!["'a'"; 500].join(" + ");
    assert_eq!(render(&format!("{{{{ {sum} }}}}"), json!([])).unwrap(), "a".repeat(500));
    let mixed = vec!["'a' ~ 1"; 200].join(" + ");
    assert_eq!(render(&format!("{{{{ {mixed} }}}}"), json!([])).unwrap(), "a1".repeat(200));
    let branches = (0..300).map(|i| format!("{{% elif {i} == 299 %}}{i}")).collect::<String>();
    let source = format!("{{% if false %}}{branches}{{% endif %}}");
    assert_eq!(render(&source, json!([])).unwrap(), "299");
}

proptest::proptest! {
    /// Whatever a template is made of, it compiles or does not, renders or does not.
    #[test]
    fn no_template_panics(pieces in proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..24)) {
        let source = pieces.concat();
        if let Ok(template) = ChatTemplate::new(&source, SpecialTokens::default()) {
            let messages = json!([{"role": "user", "content": "é\r\n"}, {"role": "x", "content": null}]);
            let _ = template.render(&messages, true, &RenderOptions::default());
        }
    }
}

const PIECES: [&str; 64] = [
    "{{ ",
    " }}",
    "{% ",
    " %}",
    "{%- ",
    " -%}",
    "{# ",
    " #}",
    "if ",
    "else ",
    "elif ",
    "endif",
    "for ",
    "m in messages",
    "endfor",
    "set ",
    "x = ",
    "endset",
    "macro m(a, b=a)",
    "endmacro",
    "m(1, 2)",
    "varargs",
    "kwargs",
    "call ",
    "endcall",
    "generation",
    "endgeneration",
    "raw",
    "endraw",
    "messages",
    "m.content",
    "[0]",
    "[::-1]",
    "['role']",
    ".items()",
    ".x",
    " is ",
    "iterable",
    "none",
    " ~ ",
    " + ",
    " % ",
    " < ",
    " in ",
    " and ",
    "not ",
    "'a'",
    "'%s %d'",
    "'\\u00'",
    "\"{",
    "(",
    ")",
    "1",
    "1e16",
    " | ",
    "map('upper')",
    "tojson",
    "join(",
    ",",
    "namespace(",
    "\n",
    "\r\n",
    "é",
    "{",
];
