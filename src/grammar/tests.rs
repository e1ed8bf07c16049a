//! Texts written at random, token by token, under every kind of grammar; and specifications that
//! mean harm.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use self::grammar_texts::{BOS, EOS, FIRST_BYTE, SIZE, TOOL, Written, brief, bytes_of, is_text};
use super::*;
// Where the shared files look for it.
use crate::grammar;

#[path = "../../tests/support/grammar_texts.rs"]
mod grammar_texts;
mod mutated;
#[path = "../../tests/support/schema_mutations.rs"]
mod schema_mutations;
#[path = "../../tests/support/schemas.rs"]
mod schemas;

/// What a refusal may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(5);

static COMPILER: LazyLock<GrammarCompiler> = LazyLock::new(grammar_texts::compiler);

fn compile(spec: GrammarSpec) -> Result<Arc<Grammar>, GrammarError> {
    COMPILER.compile(spec)
}

fn schema(value: Value) -> GrammarSpec {
    GrammarSpec::JsonSchema(value)
}

fn lark(text: &str) -> GrammarSpec {
    GrammarSpec::Lark { text: text.to_owned(), schemas: Vec::new() }
}

/// Draws tokens until the text is complete; `None` where it is not after `limit` of them. `weigh`
/// says how likely a token is beside the others that are allowed.
fn write(grammar: &Grammar, seed: u64, limit: usize, weigh: impl Fn(u32) -> f64) -> Option<String> {
    let weigh = |token| {
        assert!(is_text(token), "a token that is no text");
        weigh(token)
    };
    match grammar_texts::write(grammar, seed, limit, weigh) {
        Written::Complete(text) => Some(String::from_utf8(text).expect("whole characters")),
        Written::Cut => None,
        other => panic!("{other:?}"),
    }
}

fn texts(spec: GrammarSpec) -> Vec<String> {
    let grammar = compile(spec).unwrap();
    (0..30).filter_map(|seed| write(&grammar, seed, 400, brief)).collect()
}

#[test]
fn any_object_is_json() {
    let texts = texts(GrammarSpec::JsonObject);
    assert!(texts.len() > 20, "{texts:?}");
    for text in texts {
        let value: Result<Value, _> = serde_json::from_str(&text);
        // A number may be larger than a double.
        assert!(value.is_ok_and(|value| value.is_object()) || text.contains(['e', 'E']), "{text}");
    }
}

#[test]
fn a_regular_expression_ends_where_nothing_can_follow() {
    let digits = compile(GrammarSpec::Regex("[0-9]{3}".to_owned())).unwrap();
    let mut matcher = digits.matcher();
    for token in [b'1', b'2', b'3'].map(|byte| FIRST_BYTE + u32::from(byte)) {
        assert!(!matcher.is_finished() && !matcher.allowed().unwrap().may_end());
        matcher.advance(token).unwrap();
    }
    assert!(matcher.is_finished());
    let any = compile(lark("start: <[*]> \"a\"")).unwrap();
    let allowed = any.matcher().allowed().unwrap();
    assert!(allowed.contains(BOS) && !allowed.contains(EOS) && !allowed.contains(0));
    assert!(!allowed.contains(SIZE as u32 - 1), "a token that nobody knows");
    for text in texts(GrammarSpec::Regex("(ab|é)*c?".to_owned())) {
        assert!(text.trim_end_matches('c').replace("ab", "").replace('é', "").is_empty(), "{text}");
    }
}

#[test]
fn a_choice_is_one_of_its_strings() {
    let choices = ["yes", "no", "n\"o", "line\nbreak", "yes and no", "日本"].map(str::to_owned);
    let texts = texts(GrammarSpec::Choice(choices.to_vec()));
    assert_eq!(texts.len(), 30);
    assert!(texts.iter().all(|text| choices.contains(text)), "{texts:?}");
    for wrong in [vec![], vec![String::new()]] {
        assert_eq!(compile(GrammarSpec::Choice(wrong)).unwrap_err(), GrammarError::NoChoice);
    }
}

#[test]
fn an_envelope_holds_values_of_its_schemas() {
    let call = json!({
        "type": "object", "properties": {"name": {"const": "add"}, "n": {"enum": [1, 2]}},
        "required": ["name", "n"], "additionalProperties": false,
    });
    let spec = GrammarSpec::Lark {
        text: "start: call+\ncall: \"<tool_call>\" @call \"</tool_call>\"".to_owned(),
        schemas: vec![("call".to_owned(), call)],
    };
    let texts = texts(spec);
    assert!(!texts.is_empty());
    for text in texts {
        let inner = text.strip_prefix("<tool_call>").unwrap().strip_suffix("</tool_call>").unwrap();
        for call in inner.split("</tool_call><tool_call>") {
            let call: Value = serde_json::from_str(call).unwrap();
            assert!(call["name"] == "add" && [1, 2].contains(&call["n"].as_i64().unwrap()));
        }
    }
}

#[test]
fn special_tokens_come_only_by_their_name() {
    let grammar = compile(lark("start: <[TOOL]> \"a\" | \"b\"")).map(|_| ());
    assert!(grammar.is_err(), "names of special tokens stand in angle brackets");
    let grammar = compile(lark("start: <[3]> \"a\"")).unwrap();
    let mut matcher = grammar.matcher();
    let allowed = matcher.allowed().unwrap();
    assert!(allowed.contains(TOOL) && allowed.is_within(&[TOOL]));
    matcher.advance(TOOL).unwrap();
    let end = matcher.allowed().unwrap();
    assert!(!end.may_end() && end.is_within(&[FIRST_BYTE + u32::from(b'a')]));
    matcher.advance(FIRST_BYTE + u32::from(b'a')).unwrap();
    assert!(matcher.is_finished());
}

#[test]
fn texts_of_one_grammar_know_nothing_of_each_other() {
    let grammar = compile(GrammarSpec::JsonObject).unwrap();
    let (mut one, mut other) = (grammar.matcher(), grammar.matcher());
    let set = |matcher: &mut Matcher| {
        let allowed = matcher.allowed().unwrap();
        (0..SIZE as u32).filter(|token| allowed.contains(*token)).collect::<Vec<_>>()
    };
    let first = set(&mut one);
    for byte in b"{\"k\": [1, {" {
        one.advance(FIRST_BYTE + u32::from(*byte)).unwrap();
    }
    assert_eq!(set(&mut other), first);
    assert_ne!(set(&mut one), first);
    for byte in b"{\"k\": [1, {" {
        other.advance(FIRST_BYTE + u32::from(*byte)).unwrap();
    }
    assert_eq!(set(&mut other), set(&mut one));
    let tokens = b"\"a\": 1}]}x".map(|byte| FIRST_BYTE + u32::from(byte));
    assert_eq!(one.count_allowed(&tokens), Ok(9));
    assert_eq!(set(&mut other), set(&mut one), "counting changes nothing");
    assert_eq!(one.advance(EOS), Err(MatchError::Stuck));
}

#[test]
fn the_same_is_compiled_once() {
    let spec = || schema(json!({"type": "array", "items": {"const": "once"}, "maxItems": 3}));
    let count = || {
        compile(spec()).unwrap();
        COMPILER.num_compiled()
    };
    count();
    let before = count();
    // Other tests compile at the same time; some run of these sees none of theirs.
    let again = (0..100).map(|_| (count(), count())).any(|(one, two)| one == two);
    assert!(again, "compiled anew each time, {before} times before");
}

#[test]
fn nobody_writes_blanks_for_ever() {
    let schema = json!({
        "type": "object", "properties": {"a": {"type": "array", "items": {"enum": [1]}, "maxItems": 4}},
        "required": ["a"], "additionalProperties": false,
    });
    let grammar = compile(GrammarSpec::JsonSchema(schema)).unwrap();
    let blank = |token: u32| match token {
        EOS => 1e-9,
        token if bytes_of(token).iter().all(u8::is_ascii_whitespace) => 1e9,
        _ => 1.0,
    };
    let text = write(&grammar, 1, 2000, blank).expect("an end");
    assert!(text.contains("\n     "), "{text:?}");
    serde_json::from_str::<Value>(&text).unwrap();
}

#[test]
fn schemas_may_refer_to_themselves_where_there_is_a_way_out() {
    let list = |next: Value| {
        schema(json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {
                "type": "object", "properties": {"v": {"enum": [0, 1]}, "next": next},
                "required": ["v", "next"], "additionalProperties": false,
            }},
        }))
    };
    let node = json!({"$ref": "#/$defs/node"});
    let texts = texts(list(json!({"anyOf": [node, {"type": "null"}]})));
    assert!(texts.iter().any(|text| text.contains("next") && text.contains("null")), "{texts:?}");
    for endless in [
        list(node.clone()),
        list(json!({"type": "array", "items": node, "minItems": 1})),
        schema(json!({"$ref": "#"})),
        schema(json!({"anyOf": [{"$ref": "#"}]})),
        schema(json!({"allOf": [{"type": "string"}, {"$ref": "#"}]})),
        schema(json!(false)),
    ] {
        assert_eq!(
            compile(endless.clone()).unwrap_err(),
            GrammarError::Unsatisfiable,
            "{endless:?}"
        );
    }
}

#[test]
fn alternatives_that_name_themselves_exclude_each_other() {
    let animal = |kind: &str, key: &str| {
        json!({
            "type": "object",
            "properties": {"kind": {"const": kind, "type": "string"}, key: {"type": "boolean"}},
            "required": ["kind", key], "additionalProperties": false,
        })
    };
    let union = json!({
        "$defs": {"Cat": animal("cat", "meows"), "Dog": animal("dog", "barks")},
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "discriminator": {"propertyName": "kind"},
    });
    let texts = texts(schema(union));
    assert!(texts.iter().any(|text| text.contains("meows")));
    assert!(texts.iter().any(|text| text.contains("barks")));
    let overlap =
        schema(json!({"oneOf": [{"type": "integer"}, {"type": "integer", "minimum": 3}]}));
    let error = compile(overlap).unwrap_err();
    assert!(matches!(&error, GrammarError::Unsupported(m) if m.contains("`oneOf`")), "{error}");
}

#[test]
fn properties_may_have_the_names_of_keywords() {
    let names =
        ["const", "enum", "default", "$ref", "minProperties", "properties", "pattern", "oneOf"];
    let cat = json!({"type": "object", "properties": {"k": {"const": "c"}}, "required": ["k"], "additionalProperties": false});
    let dog = json!({"type": "object", "properties": {"k": {"const": "d"}}, "required": ["k"], "additionalProperties": false});
    let value = json!({"oneOf": [{"$ref": "#/$defs/default"}, {"$ref": "#/$defs/enum"}]});
    let properties: serde_json::Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), value.clone())).collect();
    let object = json!({
        "$defs": {"default": cat, "enum": dog}, "type": "object", "properties": properties,
        "required": names, "additionalProperties": false,
    });
    for text in texts(schema(object)) {
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(names.iter().all(|name| ["c", "d"].contains(&value[name]["k"].as_str().unwrap())));
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let cases = [
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"not": {"type": "null"}}), "not"),
        (json!({"type": "object", "propertyNames": {"maxLength": 3}}), "propertyNames"),
        (json!({"type": "object", "minProperties": 3, "required": ["a"]}), "minProperties"),
        (json!({"$ref": "https://example.com/schema.json"}), "$ref"),
        (json!({"if": {"type": "string"}, "then": false}), "if"),
        (json!({"type": "text"}), "text"),
        (json!({"type": "string", "pattern": "(?<=a)b("}), ""),
        (json!({"type": 5}), "type"),
        (json!({"minLength": "x", "type": "string"}), "minLength"),
        (json!([1]), "object"),
    ];
    for (value, word) in cases {
        let error = compile(schema(value.clone())).unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains("panic"), "{value}: {error}");
    }
}

fn nested(levels: usize) -> Value {
    let mut value = json!({"type": "null"});
    for _ in 0..levels {
        value = json!({"type": "object", "properties": {"a": value}});
    }
    value
}

/// Each is refused, in time, and nothing happens to anyone else.
#[test]
fn hostile_specifications_are_refused() {
    let chain = |count: usize| {
        let rules = (0..count).map(|n| format!("r{n}: r{}\n", n + 1)).collect::<String>();
        format!("start: r0\n{rules}r{count}: r0")
    };
    let many: Vec<Value> = (0..20_000).map(Value::from).collect();
    let long: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
    let cases = [
        ("deep", schema(nested(200))),
        ("many values", schema(json!({ "enum": many }))),
        ("long", schema(json!({"const": "x".repeat(200_000)}))),
        ("choices", GrammarSpec::Choice(long)),
        ("repetition", GrammarSpec::Regex("((a{1000}){1000}){1000}".to_owned())),
        ("wide repetition", GrammarSpec::Regex(r"(\w{1,500}x){500}".to_owned())),
        ("one repetition", GrammarSpec::Regex("a{100000000}".to_owned())),
        ("pattern", schema(json!({"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}))),
        ("brackets", GrammarSpec::Regex("(".repeat(10_000) + "a" + &")".repeat(10_000))),
        ("classes", GrammarSpec::Regex("[".repeat(10_000))),
        ("broken", GrammarSpec::Regex("a(".to_owned())),
        ("negations", lark(&format!("start: {}\"a\"", "~".repeat(50_000)))),
        ("lark brackets", lark(&format!("start: {}\"a\"{}", "(".repeat(5000), ")".repeat(5000)))),
        ("chain", lark(&chain(8_000))),
        ("no start", lark("a: \"b\"")),
        ("no grammar", lark("{")),
        ("endless", lark("start: \"a\" start | start")),
        ("nested schema", lark(&format!("start: %json {}", nested(100)))),
        ("longer", lark(&"start: \"a\"\n".repeat(20_000))),
    ];
    for (name, spec) in cases {
        let started = Instant::now();
        let result = compile(spec).map(|_| ());
        let took = started.elapsed();
        println!(
            "{name}: {took:?} {}",
            result.as_ref().map_or_else(ToString::to_string, |()| "taken".to_owned())
        );
        assert!(took < PATIENCE, "{name} took {took:?}");
        if name != "endless" {
            assert!(result.is_err(), "{name} was taken");
        }
    }
    assert_eq!(texts(GrammarSpec::Choice(vec!["fine".to_owned()])).len(), 30);
}

/// What stays within the limits fits the stack, however deep it goes.
#[test]
fn the_deepest_that_is_allowed_fits_the_stack() {
    let references = 500;
    let definitions: serde_json::Map<String, Value> = (0..references)
        .map(|n| {
            (
                format!("d{n}"),
                json!({"anyOf": [{"$ref": format!("#/$defs/d{}", n + 1)}, {"type": "null"}]}),
            )
        })
        .chain([(format!("d{references}"), json!({"type": "boolean"}))])
        .collect();
    let rules = (0..8_000).map(|n| format!("r{n}: r{}\n", n + 1)).collect::<String>();
    let cases = [
        schema(json!({"$ref": "#/$defs/d0", "$defs": definitions})),
        schema(nested(30)),
        lark(&format!("start: r0\n{rules}r8000: \"a\"")),
        GrammarSpec::Regex("(".repeat(200) + "a" + &")?".repeat(200)),
        schema((0..60).fold(json!({"type": "null"}), |inner, _| json!({"anyOf": [inner]}))),
    ];
    for spec in cases {
        let started = Instant::now();
        match compile(spec) {
            Ok(grammar) => assert!(write(&grammar, 1, 4000, brief).is_some()),
            Err(error) => println!("refused: {error}"),
        }
        println!("{:?}", started.elapsed());
    }
}

proptest! {
    /// Ruling out is exact for every length of a row.
    #[test]
    fn only_allowed_logits_are_left(len in 0..400_usize, tokens in prop::collection::vec(0..SIZE as u32, 0..50)) {
        let grammar = compile(GrammarSpec::Regex("[a-c]".to_owned())).unwrap();
        let mut allowed = grammar.matcher().allowed().unwrap();
        allowed.extend(&tokens);
        allowed.extend(&[100_000]);
        let mut logits = vec![1.0; len];
        allowed.apply(&mut logits);
        for (token, logit) in (0..).zip(logits) {
            let letter = (FIRST_BYTE + 97..FIRST_BYTE + 100).contains(&token);
            let kept = token < SIZE as u32 && (letter || tokens.contains(&token));
            prop_assert_eq!(logit, if kept { 1.0 } else { f32::NEG_INFINITY });
        }
    }
}

/// Schemas that once ended the process, were obeyed nearly, or left a text where nothing may follow.
#[test]
fn what_a_schema_says_is_written_to_the_last_digit_and_character() {
    let int = |value: i64| json!(value);
    let mut cases = vec![
        json!({"type": "integer", "enum": [123_456_789_012_345_678_i64, 234_567_890_123_456_789_i64]}),
        json!({"const": "a\u{1b}b"}),
        json!({"type": "string", "pattern": "^a\u{1b}[\\x00-\\x1f]\u{7f}$"}),
        json!({"enum": [["\u{0}"], {"\u{1f}": "\u{7f}"}]}),
        json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX}),
        json!({"type": "integer", "multipleOf": 7, "minimum": i64::MAX - 20, "maximum": i64::MAX}),
        json!({"anyOf": [{"type": "number"}, {"type": "string", "pattern": "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$"}]}),
        json!({"type": "string", "format": "path"}),
        json!({"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": true, "minItems": 2}),
        json!({"type": "object", "properties": {"s": {"enum": [1]}}, "required": ["s"],
            "patternProperties": {"^s$": {}}, "additionalProperties": false}),
        json!({"type": "object", "patternProperties": {"^a": {"type": "integer"}, "b$": {"minimum": 3}},
            "additionalProperties": {"const": null}}),
        json!({"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": false,
            "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}}),
    ];
    for bound in [i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1, (1 << 53) + 1, -(1 << 53) - 1] {
        cases.push(json!({ "const": int(bound) }));
        for kind in ["integer", "number"] {
            for keyword in ["minimum", "maximum"] {
                cases.push(json!({"type": kind, keyword: bound}));
            }
        }
        cases.push(
            json!({"type": "object", "properties": {"n": {"enum": [bound]}}, "required": ["n"]}),
        );
    }
    for count in [498, 499, 500, 1000] {
        let properties: serde_json::Map<String, Value> =
            (0..count).map(|n| (format!("p{n}"), json!({"enum": [n]}))).collect();
        cases.push(
            json!({"type": "object", "properties": properties, "additionalProperties": false}),
        );
    }
    for case in cases {
        let texts = texts(schema(case.clone()));
        assert!(!texts.is_empty(), "{case} has no text");
        let validator = jsonschema::validator_for(&case).unwrap();
        for text in texts {
            // Integers beyond 64 bits are more than this reader reads.
            if let Ok(value) = serde_json::from_str::<Value>(&text)
                && (!value.is_f64() || text.contains('.'))
            {
                assert!(validator.is_valid(&value), "{case}: {text}");
            }
        }
    }
}

#[test]
fn numbers_beyond_64_bits_are_refused_by_name() {
    let beyond = [json!(9_223_372_036_854_775_808_u64), json!(1e20), json!(-1e19)];
    for value in beyond {
        let keywords = ["const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
        for keyword in keywords {
            let error = compile(schema(json!({"type": "integer", keyword: value}))).unwrap_err();
            assert!(
                error.to_string().contains(&format!("`{keyword}`")),
                "{keyword} {value}: {error}"
            );
        }
        for case in [json!({"enum": [value]}), json!({"const": [{"a": value}]})] {
            let error = compile(schema(case)).unwrap_err().to_string();
            assert!(error.contains("`enum`"), "{error}");
        }
    }
    // A number may have bounds that it never comes near.
    assert!(
        !texts(schema(json!({"type": "number", "minimum": -1e308, "maximum": 1e308}))).is_empty()
    );
}

#[test]
fn every_choice_within_the_limit_is_written() {
    for count in [1999, 2000, 4096] {
        let choices: Vec<String> = (0..count).map(|n| format!("c{n}")).collect();
        let written = texts(GrammarSpec::Choice(choices.clone()));
        assert_eq!(written.len(), 30);
        assert!(written.iter().all(|text| choices.contains(text)));
    }
    let one_more = (0..4097).map(|n| format!("c{n}")).collect();
    let error = compile(GrammarSpec::Choice(one_more)).unwrap_err();
    assert_eq!(error, GrammarError::TooLarge { what: "strings", found: 4097, limit: 4096 });
    let control = vec!["a\u{1b}\u{0}\u{7f}b".to_owned()];
    assert_eq!(texts(GrammarSpec::Choice(control.clone()))[0], control[0]);
}

#[test]
fn grammars_that_get_stuck_are_refused() {
    for text in [
        "start: </s>",
        "start: <[2]>",
        "start: \"a\" <[2]>",
        "start: <[0]>",
        "start: <[280-299]>",
        "start: \"x\" A\nA: /a/ & /b/",
        "start: %json {\"const\": 9223372036854775808}",
        "start: %json",
    ] {
        assert!(compile(lark(text)).is_err(), "{text}");
    }
    let exact = texts(lark("start: %json {\"const\": -9223372036854775808}"));
    assert!(exact.iter().all(|text| text == "-9223372036854775808") && !exact.is_empty());
    let named = texts(GrammarSpec::Regex("(?P<stop>a)b".to_owned()));
    assert!(named.iter().all(|text| text == "ab"));
}

/// A grammar whose compilation takes many stages: each of its texts is followed for a while.
fn of_many_stages() -> GrammarSpec {
    lark("start: /[a-z]{40}/ \"0\"? /[A-Z]{40}/")
}

#[test]
fn what_nobody_waits_for_is_not_compiled_on() {
    let asked = AtomicUsize::new(0);
    let counted = |limit: usize| {
        let asked = &asked;
        move || asked.fetch_add(1, Ordering::Relaxed) < limit
    };
    // Not compiled yet, and given up somewhere on the way.
    for limit in [0, 1, 2, 20, 100] {
        asked.store(0, Ordering::Relaxed);
        let result = COMPILER.compile_while(of_many_stages(), &counted(limit));
        assert_eq!(result.err(), Some(GrammarError::Abandoned), "asked {limit} times");
        // Once more before it is left to somebody else.
        assert!(asked.load(Ordering::Relaxed) <= limit + 2, "it went on");
    }
    // Nothing of that is remembered.
    assert!(compile(of_many_stages()).is_ok());
}

#[test]
fn who_waits_for_what_another_began_gets_it() {
    // Both want the same at once; the first leaves as soon as the second waits.
    let spec = || lark("start: /[a-f]{33}/ \"1\"? /[A-F]{33}/");
    let leave = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (begun, first_begun) = std::sync::mpsc::sync_channel(1);
        let (first_waits, leave) = (begun, &leave);
        let first = scope.spawn(move || {
            let wanted = || {
                let _ = first_waits.try_send(());
                !leave.load(Ordering::Relaxed)
            };
            COMPILER.compile_while(spec(), &wanted)
        });
        first_begun.recv().unwrap();
        let second = scope.spawn(move || {
            COMPILER.compile_while(spec(), &|| {
                leave.store(true, Ordering::Relaxed);
                true
            })
        });
        assert!(second.join().unwrap().is_ok());
        // It may have been ready before the second came.
        let first = first.join().unwrap();
        assert!(first.is_ok() || first.err() == Some(GrammarError::Abandoned));
    });
}

#[test]
fn a_limit_of_the_parser_is_told_as_one() {
    let grammar = compile(GrammarSpec::Regex("(.*a.{0,200}b.{0,200}c)+".to_owned())).unwrap();
    let ends = (0..20).map(|seed| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut text = grammar.matcher();
        loop {
            let allowed = match text.allowed() {
                Ok(allowed) => allowed,
                Err(error) => return error,
            };
            let tokens: Vec<u32> = allowed.iter().filter(|token| *token != EOS).collect();
            if let Err(error) = text.advance(tokens[random.random_range(0..tokens.len())]) {
                return error;
            }
        }
    });
    assert!(ends.into_iter().all(|error| error == MatchError::TooComplex));
}
