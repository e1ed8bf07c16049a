//! Specifications that mean harm, or little, by the hundred: none makes anything fail, and what is
//! complete obeys.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::grammar_texts::{Written, error_of, obey, spec_of};
use super::schema_mutations::{by_hand, mutated};
use super::schemas::random;
use super::{COMPILER, GrammarSpec};

/// Mutated schemas; each is compiled in three ways.
const MUTATED: u64 = 250;
/// Inputs made of bytes.
const INPUTS: u64 = 400;

/// A schema's text, as every way in gives it; `None` where it is refused.
fn ways(schema: &Value, seed: u64) -> [Option<Written>; 3] {
    let schemas = vec![("value".to_owned(), schema.clone())];
    let text = "start: \"<a>\" @value \"</a>\"".to_owned();
    let within = GrammarSpec::Lark { text: format!("start: %json {schema}"), schemas: Vec::new() };
    let specs =
        [GrammarSpec::JsonSchema(schema.clone()), within, GrammarSpec::Lark { text, schemas }];
    specs.map(|spec| obey(&COMPILER, &spec, seed))
}

/// Complete texts of a schema in all ways, each of which obeys.
fn count_complete(schema: &Value, seed: u64) -> usize {
    let written = ways(schema, seed);
    let taken = written.each_ref().map(Option::is_some);
    assert!(taken == [taken[0]; 3], "{schema} is taken in some ways only: {written:?}");
    let mut count = 0;
    for text in written.into_iter().flatten() {
        assert_ne!(text, Written::Stuck, "{schema}");
        let Written::Complete(bytes) = text else { continue };
        let text = String::from_utf8(bytes).expect("whole characters");
        let text = text.strip_prefix("<a>").unwrap_or(&text);
        let text = text.strip_suffix("</a>").unwrap_or(text);
        assert_eq!(error_of(schema, text), None, "{schema}\n{text}");
        count += 1;
    }
    count
}

#[test]
fn mutated_schemas_are_obeyed_or_refused_in_every_way() {
    let complete: usize = (0..MUTATED).map(|seed| count_complete(&mutated(seed), seed)).sum();
    assert!(complete as u64 > MUTATED, "only {complete} texts are complete");
}

#[test]
fn schemas_of_every_keyword_are_obeyed() {
    for (seed, schema) in (0..).zip(by_hand()) {
        let complete: usize = (0..4).map(|turn| count_complete(&schema, seed + 1000 * turn)).sum();
        assert!(complete > 0, "{schema} has no complete text");
    }
}

/// The body of the fuzz target, over inputs that are nearly something.
#[test]
fn bytes_that_are_no_specification_fail_nobody() {
    let patterns = by_hand().into_iter().filter_map(|it| it["pattern"].as_str().map(str::to_owned));
    let mut seeds: Vec<Vec<u8>> = patterns.map(|it| [b"\x02", it.as_bytes()].concat()).collect();
    seeds.extend([0, 5].into_iter().flat_map(|kind| {
        let texts = by_hand().into_iter().chain([random(1)]).map(|schema| schema.to_string());
        texts.map(move |text| [&[kind], text.as_bytes()].concat())
    }));
    let others = [
        "\x03yes\nno\nyes and no\n\u{1b}",
        "\x04start: a+ | \"b\" %json {\"enum\": [1]}\na: /[a-z]{2,3}/ & /[b-y]*/ | <[3]> \"t\"",
        "\x04start: x (\",\" x){0,3} // all\nx: NUMBER | \"(\" start \")\"\nNUMBER: /[0-9]+/\n%ignore / /",
        "\x01seed",
    ];
    seeds.extend(others.iter().map(|text| text.as_bytes().to_vec()));
    let mut taken = 0;
    for seed in 0..INPUTS {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = seeds.choose(&mut random).expect("there are some").clone();
        let other = seeds.choose(&mut random).expect("there are some");
        for _ in 0..random.random_range(0..4) {
            change(&mut bytes, other, &mut random);
        }
        let written = spec_of(&bytes).and_then(|spec| obey(&COMPILER, &spec, seed));
        taken += usize::from(written.is_some());
    }
    assert!(taken > 50, "only {taken} were taken");
}

/// Bytes are replaced, left out, doubled, or come from elsewhere.
fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut ChaCha8Rng) {
    let marks = b"\"\\{}[]()|^$*+?.,:/@<>%&~#01-9ea\x00\x1b\xff\n";
    let at = random.random_range(0..=bytes.len());
    let end = (at + random.random_range(0..6)).min(bytes.len());
    let from = random.random_range(0..other.len());
    let to = (from + random.random_range(1..20)).min(other.len());
    match random.random_range(0..5) {
        0 => drop(bytes.drain(at..end)),
        1 => bytes.insert(at, *marks.choose(random).expect("there are some")),
        2 => bytes.insert(at, random.random()),
        3 => drop(bytes.splice(at..end, other[from..to].iter().copied())),
        _ => {
            let part = bytes[at..end].repeat(random.random_range(1..40));
            bytes.splice(at..at, part);
        }
    }
}

#[test]
fn values_that_are_no_schema_are_refused() {
    for value in [json!(null), json!(1), json!("a"), json!([]), json!([{}])] {
        assert!(obey(&COMPILER, &GrammarSpec::JsonSchema(value.clone()), 0).is_none(), "{value}");
    }
}
