//! Texts of a grammar, written token by token by random logits, and what must be true of them: nothing
//! fails but by the client's doing, and a JSON text that is complete satisfies its schema.
//!
//! Unit tests, the fuzz target `grammar` and the example `write_schema_texts` share it. Whoever includes
//! this file has `grammar`, `schemas` and `schema_mutations` beside it.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, Validator};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::grammar::{Grammar, GrammarCompiler, GrammarError, GrammarSpec, MatchError, Vocabulary};
use super::schema_mutations;

/// Ids; there is no token at both ends.
pub const SIZE: usize = 300;
pub const BOS: u32 = 1;
pub const EOS: u32 = 2;
pub const TOOL: u32 = 3;
pub const FIRST_BYTE: u32 = 4;
/// Tokens of several characters, behind those of one byte.
const WORDS: [&str; 10] =
    ["{\"", "\": ", "\", ", "true", "  ", "\n", "}}", "é", "<tool", "{\"a\":"];

/// A vocabulary of every byte, some longer tokens and three special ones.
pub fn compiler() -> GrammarCompiler {
    let mut vocabulary = Vocabulary::new(SIZE, &[EOS]);
    for (id, name) in [(BOS, "<s>"), (EOS, "</s>"), (TOOL, "[TOOL]")] {
        vocabulary.insert(id, name.as_bytes(), id != EOS);
    }
    for id in FIRST_BYTE..FIRST_BYTE + 256 + WORDS.len() as u32 {
        vocabulary.insert(id, &bytes_of(id), false);
    }
    GrammarCompiler::new(vocabulary, 1 << 20).expect("a small vocabulary")
}

/// The text of a token that is no special one.
pub fn bytes_of(token: u32) -> Vec<u8> {
    match (token - FIRST_BYTE) as usize {
        byte @ 0..256 => vec![byte as u8],
        word => WORDS[word - 256].as_bytes().to_vec(),
    }
}

/// Whether a token is text or the end of one.
pub fn is_text(token: u32) -> bool {
    token == EOS || (FIRST_BYTE..FIRST_BYTE + 256 + WORDS.len() as u32).contains(&token)
}

/// A token's probability beside the others that are allowed: likely to close what is open.
pub fn brief(token: u32) -> f64 {
    match token {
        EOS => 40.0,
        BOS | TOOL => 1.0,
        token => match &bytes_of(token)[..] {
            b"\"" | b"}" | b"]" | b"\": " => 40.0,
            b"," => 8.0,
            [first, ..] if *first >= 0x80 => 0.2,
            _ => 1.0,
        },
    }
}

/// How a text ended.
#[derive(Debug, PartialEq)]
pub enum Written {
    /// It is complete; special tokens are left out.
    Complete(Vec<u8>),
    /// There was no room for more.
    Cut,
    /// What may follow was too much to find out, as a limit has it.
    TooComplex,
    /// Nothing that can be written may follow.
    Stuck,
}

/// Draws up to `limit` tokens, each among those that are allowed.
///
/// # Panics
/// Where a set of allowed tokens is none, or following the grammar fails.
pub fn write(grammar: &Grammar, seed: u64, limit: usize, weigh: impl Fn(u32) -> f64) -> Written {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut matcher = grammar.matcher();
    let mut text = Vec::new();
    for _ in 0..limit {
        let allowed = match matcher.allowed() {
            Ok(allowed) => allowed,
            Err(MatchError::TooComplex) => return Written::TooComplex,
            Err(MatchError::Stuck) => return Written::Stuck,
            Err(MatchError::Failed) => panic!("the matcher failed"),
        };
        let tokens: Vec<u32> = allowed.iter().collect();
        assert!(!tokens.is_empty());
        assert_eq!(allowed.may_end(), allowed.contains(EOS));
        let known = BOS..FIRST_BYTE + 256 + WORDS.len() as u32;
        assert!(tokens.iter().all(|token| known.contains(token)), "a token that nobody knows");
        let total: f64 = tokens.iter().map(|token| weigh(*token)).sum();
        let mut left = random.random::<f64>() * total;
        let drawn = tokens.iter().find(|token| {
            left -= weigh(**token);
            left <= 0.0
        });
        let token = *drawn.unwrap_or(&tokens[0]);
        match matcher.advance(token) {
            Ok(()) => {}
            Err(MatchError::TooComplex) => return Written::TooComplex,
            Err(error) => panic!("{token} was allowed: {error}"),
        }
        if token >= FIRST_BYTE {
            text.extend(bytes_of(token));
        }
        if matcher.is_finished() {
            return Written::Complete(text);
        }
        assert_ne!(token, EOS, "an end that is none");
    }
    Written::Cut
}

/// Writes one text of a specification; `None` where it is refused.
///
/// # Panics
/// Where compiling it fails by no fault of its author, where a text that this server's own words make
/// gets stuck, or where a complete one does not obey.
pub fn obey(compiler: &GrammarCompiler, spec: &GrammarSpec, seed: u64) -> Option<Written> {
    const TOKENS: usize = 100;
    let grammar = match compiler.compile(spec.clone()) {
        Ok(grammar) => grammar,
        Err(GrammarError::Failed) => panic!("compiling failed: {spec:?}"),
        Err(_) => return None,
    };
    let is_clients = matches!(spec, GrammarSpec::Lark { .. });
    let weigh = |token| {
        assert!(is_clients || is_text(token), "a text of {spec:?} may have a special token");
        brief(token)
    };
    let written = write(&grammar, seed, TOKENS, weigh);
    assert!(is_clients || written != Written::Stuck, "a text of {spec:?} got stuck");
    if let Written::Complete(bytes) = &written {
        check(spec, bytes);
    }
    Some(written)
}

/// # Panics
/// Where a complete text does not obey its specification.
fn check(spec: &GrammarSpec, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).expect("whole characters");
    match spec {
        GrammarSpec::JsonObject => assert!(is_json(text) && text.starts_with('{'), "{text}"),
        GrammarSpec::JsonSchema(schema) => {
            assert!(is_json(text), "no JSON: {text}");
            assert_eq!(error_of(schema, text), None, "{schema}\n{text}");
        }
        GrammarSpec::Choice(choices) => assert!(choices.iter().any(|it| it == text), "{text}"),
        GrammarSpec::Regex(regex) => {
            // Without flags, so that something can stand behind it.
            let hir = regex_syntax::Parser::new().parse(regex).expect("it was compiled");
            let whole = regex::Regex::new(&format!("^(?:{hir})$")).expect("it was compiled");
            assert!(whole.is_match(text), "{regex}: {text:?}");
        }
        GrammarSpec::Lark { .. } => {}
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Why a JSON text does not satisfy a schema, by the crate `jsonschema`; `None` where it does, and where
/// that crate cannot say: it reads numbers as doubles, and no schema that is invalid in every draft.
pub fn error_of(schema: &Value, text: &str) -> Option<String> {
    let value = serde_json::from_str(text).ok().filter(is_exact)?;
    let validator = validator(schema)?;
    let mut errors = validator.iter_errors(&value);
    // A double is seldom a multiple of another one.
    let error = errors.find(|error| match error.kind() {
        ValidationErrorKind::MultipleOf { multiple_of } => {
            error.instance().is_i64() && multiple_of.fract() == 0.0 && *multiple_of < 1e15
        }
        _ => true,
    });
    error.map(|error| error.to_string())
}

/// A validator of the newest draft in which a schema is valid.
fn validator(schema: &Value) -> Option<Validator> {
    let with = |draft| {
        let options = jsonschema::options().with_draft(draft).should_validate_formats(true);
        options.offline().build(schema).ok()
    };
    // To older drafts the newest one's tuples say nothing, and the other way round.
    let count = if schema.to_string().contains("\"prefixItems\":") { 1 } else { 3 };
    [Draft::Draft202012, Draft::Draft7, Draft::Draft4].into_iter().take(count).find_map(with)
}

/// Whether a number is what was written, as far as can be seen: large ones may have been rounded.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_i64() || number.as_f64().is_some_and(|number| number.abs() < 1e15)
        }
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(map) => map.values().all(is_exact),
        _ => true,
    }
}

/// The specification that some bytes stand for: the first says of which kind, the others are its text.
/// `None` where they stand for none.
pub fn spec_of(bytes: &[u8]) -> Option<GrammarSpec> {
    let (kind, bytes) = bytes.split_first()?;
    let text = String::from_utf8_lossy(bytes);
    Some(match kind % 6 {
        0 => GrammarSpec::JsonSchema(serde_json::from_str(&text).ok()?),
        1 => GrammarSpec::JsonSchema(schema_mutations::mutated(seed_of(bytes))),
        2 => GrammarSpec::Regex(text.into_owned()),
        3 => GrammarSpec::Choice(text.split('\n').map(str::to_owned).collect()),
        4 => GrammarSpec::Lark { text: text.into_owned(), schemas: Vec::new() },
        _ => {
            let schemas = vec![("value".to_owned(), serde_json::from_str(&text).ok()?)];
            GrammarSpec::Lark { text: "start: \"<a>\" @value \"</a>\"".to_owned(), schemas }
        }
    })
}

/// A number that depends on all of some bytes.
pub fn seed_of(bytes: &[u8]) -> u64 {
    // FNV-1a.
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
