//! Upper and lower case, and what kinds of characters a string is made of.

use std::sync::LazyLock;

use regex::Regex;

use super::super::values::is_printable;

/// White space as `str.isspace` has it: Unicode's, and four separators of ASCII.
pub(in super::super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// Each run of letters with its first one upper case.
pub(super) fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            titled.extend(c.to_lowercase());
        } else {
            titled.push_str(&upper_first(c));
        }
        inside = is_cased(c);
    }
    titled
}

/// The first character upper case, the others lower.
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(upper_first).unwrap_or_default();
    first + &chars.as_str().to_lowercase()
}

/// A letter at the beginning of a word: of a ligature, only the first letter is upper case.
fn upper_first(c: char) -> String {
    let mut letters = c.to_uppercase();
    letters.next().into_iter().chain(letters.flat_map(char::to_lowercase)).collect()
}

pub(super) fn swapcase(text: &str) -> String {
    let swap = |c: char| -> String {
        if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
    };
    text.chars().map(swap).collect()
}

/// For comparisons without case.
pub(super) fn casefold(text: &str) -> String {
    // The dotless i is a letter of its own.
    let fold = |c: char| -> String {
        if c == 'ı' { c.into() } else { c.to_uppercase().flat_map(char::to_lowercase).collect() }
    };
    text.chars().map(fold).collect()
}

/// One of the predicates `isalpha` and so on; `None` where `name` is none.
pub(super) fn is(text: &str, name: &str) -> Option<bool> {
    let every = |holds: &dyn Fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    Some(match name {
        "isascii" => text.is_ascii(),
        "isspace" => every(&is_space),
        "isprintable" => text.chars().all(is_printable),
        "islower" => text.chars().any(is_cased) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(is_cased) && !text.chars().any(char::is_lowercase),
        "istitle" => is_title(text),
        "isalpha" => matches(&ALPHA, text),
        "isdecimal" => matches(&DECIMAL, text),
        "isdigit" => matches(&DIGIT, text),
        "isnumeric" => matches(&NUMERIC, text),
        "isalnum" => matches(&ALNUM, text),
        "isidentifier" => matches(&IDENTIFIER, text),
        _ => return None,
    })
}

fn is_title(text: &str) -> bool {
    let (mut inside, mut any) = (false, false);
    for c in text.chars() {
        if c.is_uppercase() && inside || c.is_lowercase() && !inside {
            return false;
        }
        inside = is_cased(c);
        any |= inside;
    }
    any
}

type Pattern = LazyLock<Option<Regex>>;

/// The characters that count as digits besides the decimal ones.
const DIGITS: &str = r"\u{b2}\u{b3}\u{b9}\u{2070}\u{2074}-\u{2079}\u{2080}-\u{2089}\u{2460}-\u{2468}\u{2474}-\u{247c}\u{2488}-\u{2490}\u{24ea}\u{24f5}-\u{24fd}\u{24ff}\u{2776}-\u{277e}\u{2780}-\u{2788}\u{278a}-\u{2792}";

static ALPHA: Pattern = LazyLock::new(|| Regex::new(r"^\p{L}+$").ok());
static DECIMAL: Pattern = LazyLock::new(|| Regex::new(r"^\d+$").ok());
static DIGIT: Pattern = LazyLock::new(|| Regex::new(&format!(r"^[\d{DIGITS}]+$")).ok());
static NUMERIC: Pattern = LazyLock::new(|| Regex::new(r"^\p{N}+$").ok());
static ALNUM: Pattern = LazyLock::new(|| Regex::new(r"^[\p{L}\p{N}]+$").ok());
static IDENTIFIER: Pattern =
    LazyLock::new(|| Regex::new(r"^[\p{XID_Start}_]\p{XID_Continue}*$").ok());

fn matches(pattern: &Pattern, text: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
}
