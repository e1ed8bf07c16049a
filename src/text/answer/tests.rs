use proptest::prelude::*;

use super::super::tool_format::ToolFormat;
use super::*;

fn parser(format: ToolFormat, thoughts: Option<Thoughts>, only_one: bool) -> AnswerParser {
    let names = ["f", "get_weather"].map(str::to_owned).into();
    AnswerParser::new(thoughts, Some(Calls { shape: format.shape(), names, only_one }))
}

/// Content, thoughts and calls of a text that comes in pieces; every character has a place.
#[derive(Debug, Default, PartialEq)]
struct Whole {
    content: String,
    reasoning: String,
    calls: Vec<(String, String)>,
    places: Vec<(Place, usize)>,
}

fn read<'a>(mut parser: AnswerParser, pieces: impl IntoIterator<Item = &'a str>) -> Whole {
    let mut whole = Whole::default();
    let mut chars = 0;
    let mut add = |parsed: Parsed| {
        for part in parsed.parts {
            match part {
                Part::Content(text) => whole.content.push_str(&text),
                Part::Reasoning(text) => whole.reasoning.push_str(&text),
                Part::Call(name) => whole.calls.push((name, String::new())),
                Part::Arguments(text) => whole.calls.last_mut().unwrap().1.push_str(&text),
            }
        }
        for (place, count) in parsed.spans {
            match whole.places.last_mut() {
                Some((last, so_far)) if *last == place => *so_far += count,
                _ => whole.places.push((place, count)),
            }
        }
        parsed.ended
    };
    let mut ended = false;
    for piece in pieces {
        chars += piece.chars().count();
        ended |= add(parser.push(piece));
    }
    let _ = ended | add(parser.finish());
    let placed: usize = whole.places.iter().map(|(_, count)| count).sum();
    assert_eq!(placed, chars, "{whole:?}");
    let shown = |place| {
        let of_it = whole.places.iter().filter(|(at, _)| *at == place);
        of_it.map(|(_, count)| count).sum::<usize>()
    };
    assert_eq!(shown(Place::Content), whole.content.chars().count());
    assert!(shown(Place::Reasoning) >= whole.reasoning.chars().count());
    whole
}

fn calls(format: ToolFormat, text: &str) -> (String, Vec<(String, String)>) {
    let whole = read(parser(format, None, false), [text]);
    (whole.content, whole.calls)
}

fn call(arguments: &str) -> (String, String) {
    ("f".to_owned(), arguments.to_owned())
}

#[test]
fn calls_are_found_in_every_format() {
    let two = vec![call(r#"{"a": "</tool_call> \" }"}"#), call("{}")];
    let objects = [
        r#"{"name": "f", "@": {"a": "</tool_call> \" }"}}"#,
        r#"{ "@" : {} , "id": [1, "x"], "n": 1.5e3, "name": "f" }"#,
    ];
    for format in ToolFormat::ALL {
        let object = |text: &&str| text.replace('@', format.arguments_key());
        let objects: Vec<String> = objects.iter().map(object).collect();
        assert_eq!(calls(format, &format.write(&objects)), (String::new(), two.clone()));
        let one = format.write(&objects[..1]);
        assert_eq!(calls(format, &format!(" \n{one}\n")), (String::new(), two[..1].to_vec()));
    }
    let text = "Let me see.\n\n<tool_call>{\"name\":\"f\"}</tool_call>\n\nDone.";
    assert_eq!(
        calls(ToolFormat::Hermes, text),
        ("Let me see.\n\nDone.".to_owned(), vec![call("{}")])
    );
    let array = "<tool_call>[{\"name\":\"f\"}, {\"name\":\"f\",\"arguments\":null}]</tool_call>";
    assert_eq!(calls(ToolFormat::Hermes, array), (String::new(), vec![call("{}"), call("{}")]));
    let tagged = "<|python_tag|>{\"name\": \"f\", \"arguments\": {\"x\": 1}}";
    assert_eq!(calls(ToolFormat::Llama3Json, tagged), (String::new(), vec![call("{\"x\": 1}")]));
    let named =
        "[TOOL_CALLS]f[ARGS]{\"x\": {\"y\": \"}[ARGS]\"}}[TOOL_CALLS] f[CALL_ID]a1B2[ARGS] {}\n";
    let two = vec![call("{\"x\": {\"y\": \"}[ARGS]\"}}"), call("{}")];
    assert_eq!(calls(ToolFormat::Mistral, named), (String::new(), two));
    let said = "So: [TOOL_CALLS]f[ARGS]{}then";
    assert_eq!(calls(ToolFormat::Mistral, said), ("So:then".to_owned(), vec![call("{}")]));
    let quoted = r#"[TOOL_CALLS][{"name": "f", "arguments": "{\"x\": 1}"}]"#;
    assert_eq!(calls(ToolFormat::Mistral, quoted), (String::new(), vec![call("{\"x\": 1}")]));
}

#[test]
fn what_is_no_call_is_content_as_it_was_written() {
    for text in [
        "",
        " a < b <tool_cal",
        "<tool_call>none</tool_call>",
        "<tool_call>\n{\"name\": \"unknown\", \"arguments\": {}}\n</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": 1}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"x\"}</tool_call>",
        "<tool_call>{\"name\": \"f\" \"arguments\": {}}</tool_call>",
        "<tool_call>\n{\"name\": \"f",
        "<tool_call>",
        "</tool_call>\n",
        "{\"name\": \"f\"}",
    ] {
        assert_eq!(calls(ToolFormat::Hermes, text), (text.to_owned(), vec![]));
    }
    for text in ["{\"name\": \"Alice\", \"parameters\": {}}", "The {\"name\": \"f\"}", "{", "{}x\n"]
    {
        assert_eq!(calls(ToolFormat::Llama3Json, text), (text.to_owned(), vec![]));
    }
    for text in
        [" oh", "oh no", "g[ARGS]{}", "f[ARGS]", "f[ARG", "f[ARGS] [1]", "f[ARGS]\"x\"", "f{}"]
    {
        let (content, none) = calls(ToolFormat::Mistral, &format!("[TOOL_CALLS]{text}"));
        assert_eq!((content.as_str(), none.len()), (text, 0));
    }
    let again = "[TOOL_CALLS]g[TOOL_CALLS]f[ARGS]{}";
    assert_eq!(calls(ToolFormat::Mistral, again), ("g".to_owned(), vec![call("{}")]));
}

#[test]
fn broken_arguments_are_passed_on_and_end_with_the_mark() {
    let text = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": ]} </tool_call>after";
    let expected = ("after".to_owned(), vec![call("{\"a\": ]} ")]);
    assert_eq!(calls(ToolFormat::Hermes, text), expected);
    // Cut off by the length.
    let text = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b";
    assert_eq!(calls(ToolFormat::Hermes, text), (String::new(), vec![call("{\"a\": \"b")]));
    // Only the last bracket is missing.
    let text = "[TOOL_CALLS]f[ARGS]{\"a\": ]} ";
    assert_eq!(calls(ToolFormat::Mistral, text), (String::new(), vec![call("{\"a\": ]} ")]));
    let text = "<tool_call>{\"name\": \"f\", \"arguments\": {}</tool_call>";
    assert_eq!(calls(ToolFormat::Hermes, text), (String::new(), vec![call("{}")]));
}

#[test]
fn an_answer_of_one_call_ends_with_it() {
    let text = "<tool_call>{\"name\": \"f\"}</tool_call><tool_call>{\"name\": \"f\"}</tool_call>";
    let mut parser = parser(ToolFormat::Hermes, None, true);
    let parsed = parser.push(text);
    assert!(parsed.ended);
    assert_eq!(parsed.parts, [Part::Call("f".to_owned()), Part::Arguments("{}".to_owned())]);
    assert_eq!(parser.finish().parts, []);
}

#[test]
fn thoughts_come_before_words() {
    let read = |thoughts, text| {
        let whole = read(AnswerParser::new(Some(thoughts), None), [text]);
        (whole.reasoning, whole.content)
    };
    let expect = |reasoning: &str, content: &str| (reasoning.to_owned(), content.to_owned());
    let (unopened, opened) = (Thoughts::Unopened, Thoughts::Opened);
    assert_eq!(read(unopened, "<think>\na b\n</think>\n\nc "), expect("a b", "c "));
    assert_eq!(read(unopened, " \n<think></think> c"), expect("", "c"));
    assert_eq!(read(unopened, "c <think>a</think>"), expect("", "c <think>a</think>"));
    assert_eq!(read(unopened, " <thin<c"), expect("", " <thin<c"));
    assert_eq!(read(opened, "\na </b </think>c</think>"), expect("a </b", "c</think>"));
    assert_eq!(read(opened, "a \n</thin"), expect("a \n</thin", ""));
    assert_eq!(read(opened, "<think>a"), expect("<think>a", ""));
}

fn text() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "f[ARGS]",
        "[CALL_ID]7",
        "{\"name\": \"f\", \"arguments\": ",
        "{\"parameters\": {\"é\": [\"世\"]}, \"name\": \"f\"}",
        "{\"a\": \"}\\\"\"}",
        "}",
        "{",
        "[",
        "]",
        ", ",
        "; ",
        "\n",
        " ",
        "hi 🙂",
        "<",
        "\"",
        "日本",
        "{\"name\": \"get_weather\"}",
    ]);
    prop::collection::vec(words, 0..10).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// What an answer means does not depend on where it was cut, and nothing is lost.
    #[test]
    fn pieces_mean_what_the_whole_means(
        text in text(),
        cuts in prop::collection::vec(0_usize..64, 0..8),
        format in prop::sample::select(ToolFormat::ALL.to_vec()),
        thoughts in prop::sample::select(vec![
            None, Some(Thoughts::Unopened), Some(Thoughts::Opened)]),
        only_one in any::<bool>(),
    ) {
        let whole = read(parser(format, thoughts, only_one), [text.as_str()]);
        let borders: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let mut cuts: Vec<usize> =
            cuts.iter().filter_map(|cut| borders.get(*cut).copied()).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]);
        prop_assert_eq!(read(parser(format, thoughts, only_one), pieces), whole);
        let each: Vec<String> = text.chars().map(|c| c.to_string()).collect();
        let each = read(parser(format, thoughts, only_one), each.iter().map(String::as_str));
        prop_assert_eq!(each, read(parser(format, thoughts, only_one), [text.as_str()]));
        if text.find(['<', '{', '[']).is_none() && thoughts.is_none() {
            prop_assert_eq!(whole_content(&text, format), text);
        }
    }
}

fn whole_content(text: &str, format: ToolFormat) -> String {
    read(parser(format, None, false), [text]).content
}
