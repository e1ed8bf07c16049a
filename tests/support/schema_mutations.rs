//! JSON schemas that mean harm, or little: random ones and hand-written ones with keywords dropped, added
//! and swapped, numbers and texts at the edge of what can be written, and levels added.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use super::schemas;

/// Hand-written schemas, at least one of every supported keyword; each has a value.
pub fn by_hand() -> Vec<Value> {
    let lines = include_str!("../fixtures/schemas.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// The mutated schema number `seed`.
pub fn mutated(seed: u64) -> Value {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut schema = match random.random_range(0..3) {
        0 => schemas::random(seed),
        _ => by_hand().choose(&mut random).cloned().unwrap_or_default(),
    };
    for _ in 0..random.random_range(1..4) {
        mutate(&mut schema, &mut random);
    }
    schema
}

fn pick<'a, T>(random: &mut ChaCha8Rng, options: &'a [T]) -> &'a T {
    options.choose(random).expect("there are some")
}

/// Does one thing to one place.
fn mutate(schema: &mut Value, random: &mut ChaCha8Rng) {
    let mut places = Vec::new();
    collect(schema, &mut Vec::new(), &mut places);
    let place = pick(random, &places).clone();
    let other = at(schema, pick(random, &places)).clone();
    let whole = schema.clone();
    let value = at_mut(schema, &place);
    match (random.random_range(0..10), value) {
        (0 | 1, Value::Object(map)) => drop_one(map, random),
        (2 | 3, Value::Object(map)) => {
            let (keyword, values) = pick(random, &keywords()).clone();
            map.insert(keyword.to_owned(), pick(random, &values).clone());
        }
        (4, Value::Object(map)) => swap_two(map, random),
        (5, Value::Object(map)) => {
            let keyword = pick(random, &keywords()).0;
            map.insert(keyword.to_owned(), other);
        }
        (_, Value::Array(items)) => {
            if random.random::<bool>() {
                items.push(other);
            } else {
                items.clear();
            }
        }
        (0..=7, value @ Value::Number(_)) => *value = pick(random, &numbers()).clone(),
        // What is no type's name is refused at once.
        (0..=7, Value::String(text)) if TYPES.contains(&text.as_str()) => {
            (*pick(random, &TYPES)).clone_into(text);
        }
        (0..=7, value @ Value::String(_)) => *value = pick(random, &texts()).clone(),
        (6 | 7, value) => *value = wrapped(value.take(), random),
        (8, value) if !place.is_empty() => *value = other,
        (_, value) => {
            // Beside what it says anyway.
            let (keyword, values) = pick(random, &keywords()).clone();
            let more = json!({ keyword: pick(random, &values) });
            *value = json!({"allOf": [value.take(), more]});
        }
    }
    // Copies of copies grow without end.
    if schema.to_string().len() > 20_000 {
        *schema = whole;
    }
}

fn drop_one(map: &mut Map<String, Value>, random: &mut ChaCha8Rng) {
    let keys: Vec<String> = map.keys().cloned().collect();
    if let Some(key) = keys.choose(random) {
        map.shift_remove(key);
    }
}

/// Two keywords change places.
fn swap_two(map: &mut Map<String, Value>, random: &mut ChaCha8Rng) {
    let keys: Vec<String> = map.keys().cloned().collect();
    if keys.is_empty() {
        return;
    }
    let (one, two) = (pick(random, &keys).clone(), pick(random, &keys).clone());
    let [first, second] = [&one, &two].map(|key| map[key].clone());
    map.insert(one, second);
    map.insert(two, first);
}

fn wrapped(value: Value, random: &mut ChaCha8Rng) -> Value {
    let levels = *pick(random, &[1, 1, 2, 5, 30, 70]);
    let keyword =
        *pick(random, &["anyOf", "allOf", "oneOf", "items", "not", "additionalProperties"]);
    (0..levels).fold(value, |inner, _| match keyword {
        "items" | "not" | "additionalProperties" => json!({ keyword: inner }),
        _ => json!({ keyword: [inner] }),
    })
}

/// A place as the numbers of the children that lead to it.
type Steps = Vec<usize>;

fn collect(value: &Value, steps: &mut Steps, places: &mut Vec<Steps>) {
    places.push(steps.clone());
    let count = match value {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    for index in 0..count {
        steps.push(index);
        collect(child(value, index), steps, places);
        steps.pop();
    }
}

fn child(value: &Value, index: usize) -> &Value {
    match value {
        Value::Array(items) => &items[index],
        value => value.as_object().and_then(|map| map.values().nth(index)).expect("it is there"),
    }
}

fn at<'a>(value: &'a Value, steps: &Steps) -> &'a Value {
    steps.iter().fold(value, |value, index| child(value, *index))
}

fn at_mut<'a>(value: &'a mut Value, steps: &Steps) -> &'a mut Value {
    steps.iter().fold(value, |value, index| match value {
        Value::Array(items) => &mut items[*index],
        value => {
            let map = value.as_object_mut().expect("it has children");
            map.values_mut().nth(*index).expect("it is there")
        }
    })
}

/// Numbers next to where something ends.
fn numbers() -> Vec<Value> {
    let integers = [
        0,
        1,
        -1,
        2,
        7,
        i64::MIN,
        i64::MIN + 1,
        i64::MAX,
        i64::MAX - 1,
        1 << 53,
        (1 << 53) + 1,
        -(1 << 53) - 1,
        1_000_001,
        20_001,
        1 << 31,
    ];
    let others = [
        -0.0, 0.1, 0.3, 1.5, -2.5, 1e-7, 5e-324, 1e15, 1e16, 1e18, 9.3e18, 1e300, -1e300, 0.01,
        1e-19,
    ];
    let unsigned = [(1 << 63), u64::MAX].map(Value::from);
    integers.map(Value::from).into_iter().chain(others.map(Value::from)).chain(unsigned).collect()
}

/// Texts that are seldom thought of, as names, values and patterns.
fn texts() -> Vec<Value> {
    let texts = [
        "",
        "\u{0}",
        "a\u{1b}b",
        "\u{7f}",
        "\"",
        "\\",
        "\n",
        "\u{2028}",
        "𝄞",
        "e\u{301}",
        "null",
        "</s>",
        "%json {}",
        "#",
        "#/$defs/leaf",
        "#/$defs/%",
        "/",
        "@x",
        "<[2]>",
        "date",
        "email",
        "uuid",
        "k",
        "ſ",
    ];
    texts.into_iter().chain(PATTERNS).map(Value::from).collect()
}

const TYPES: [&str; 6] = ["object", "array", "string", "number", "integer", "boolean"];

const PATTERNS: [&str; 40] = [
    "^$",
    "^",
    "$",
    "$^",
    "a|",
    "|",
    "(?:)",
    "^(?=.*[A-Z])(?=.*\\d)[A-Za-z\\d]{4,8}$",
    "^(?!foo)[a-z]+$",
    "^(?!.*(.)\\1).*$",
    "(?<=a)b",
    "(?<!a)b",
    "\\bword\\b",
    "^[^a]$",
    "^\\x01$",
    "^\\cA$",
    "^[\\s\\S]{0,3}$",
    "^\\S+@\\S+$",
    "^\\d+$",
    "^\\D\\W\\S$",
    "^\\w{2}$",
    "^[äöü]+$",
    "^\\p{L}{1,3}$",
    "^\\u0041\\u{42}$",
    "^.{3}$",
    "(?i)^[^k]$",
    "(?i)^straße$",
    "(?s)^.$",
    "^(a+)+$",
    "^(a|b|ab)*c$",
    "^a{0}$",
    "^a{2,1}$",
    "^a{,3}$",
    "^[z-a]$",
    "^[]a]$",
    "[",
    "(",
    "\\",
    "^(?:(?!ab).)*$",
    "^(^a|b$)$",
];

/// Schemas, and what is none.
fn some_schemas() -> Vec<Value> {
    vec![
        json!(true),
        json!(false),
        json!({}),
        json!({"type": "integer"}),
        json!({"type": "string", "maxLength": 2}),
        json!({"$ref": "#"}),
        json!({"enum": [1, "a", null]}),
        json!({"not": {}}),
        json!([]),
        json!(1),
    ]
}

/// Keywords with values that they have, or should not have.
fn keywords() -> Vec<(&'static str, Vec<Value>)> {
    let (numbers, patterns) = (numbers(), PATTERNS.map(Value::from).to_vec());
    let schemas = some_schemas();
    let lists = vec![
        json!([]),
        json!([{}]),
        json!([{"type": "integer"}, {"type": "string"}]),
        json!([{"type": "integer"}, {"type": "number"}]),
        json!([{"pattern": "^\\w$"}, {"pattern": "^[äöü]$"}]),
        json!([{"const": 1}, {"const": 1.0}]),
        json!([false, {"type": "null"}]),
    ];
    let maps = vec![
        json!({}),
        json!({"a": {}}),
        json!({"a": {"type": "integer"}, "\u{1f}": {"const": "\u{1f}"}}),
        json!({"^a": {"type": "integer"}, "b$": {"minimum": 3}}),
        json!({"": false}),
        json!({"^(?!a)": {"enum": [1]}}),
        json!({"\\d": {"type": "null"}, "\\D": {"type": "boolean"}}),
    ];
    let values = vec![
        json!([]),
        json!([1, 1.0, "1", null, [1], {"a": 1}]),
        json!([i64::MIN, i64::MAX, 0.1, -0.0]),
        json!(["\u{0}\u{1f}\u{7f}\"\\", "é"]),
        json!([[], {}, [[[]]]]),
        json!("a"),
    ];
    let names =
        vec![json!([]), json!(["a"]), json!(["a", "a", "b", "\u{1}"]), json!([1]), json!(true)];
    let types = vec![
        json!("integer"),
        json!("number"),
        json!("string"),
        json!("array"),
        json!("object"),
        json!(["null", "integer", "string"]),
        json!([]),
        json!("any"),
    ];
    let formats = ["date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "x"];
    let mut all = Vec::new();
    let mut with = |names: &[&'static str], values: &Vec<Value>| {
        all.extend(names.iter().map(|name| (*name, values.clone())));
    };
    with(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"], &numbers);
    with(&["minItems", "maxItems", "minLength", "maxLength"], &numbers);
    with(&["minProperties", "maxProperties"], &numbers);
    with(&["pattern"], &patterns);
    with(&["items", "additionalProperties", "additionalItems", "not"], &schemas);
    with(&["anyOf", "oneOf", "allOf", "prefixItems", "items"], &lists);
    with(&["properties", "patternProperties"], &maps);
    with(&["enum"], &values);
    with(&["const"], &[&values[..], &numbers, &texts()].concat());
    with(&["required"], &names);
    with(&["type"], &types);
    with(&["format"], &formats.map(Value::from).to_vec());
    with(&["uniqueItems"], &vec![json!(true), json!("yes")]);
    with(&["$ref"], &vec![json!("#"), json!("#/properties/a"), json!("x"), json!(1)]);
    with(&["dependentRequired", "if", "contains", "propertyNames"], &schemas);
    all
}
