//! How characters stand in a JSON string: each in one way, so that two spellings never hide that two
//! texts are the same.

use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

/// One character of a string, as it is spelled; a regular expression. Control characters without a
/// short escape are left out: a model that writes `\u` seldom means one.
pub(super) const CHARACTER: &str = r#"(?:[^"\\\x00-\x1f\x7f]|\\["\\bfnrt])"#;
/// The same with all control characters.
pub(super) const ANY_CHARACTER: &str =
    r#"(?:[^"\\\x00-\x1f]|\\["\\bfnrt]|\\u00(?:0[0-7be-f]|1[0-9a-f]))"#;
/// With so many control characters, a set has them because it leaves out something else.
const MANY_CONTROLS: usize = 20;

/// A text as it stands between quotation marks.
pub(super) fn spell(text: &str) -> String {
    text.chars().map(spell_character).collect()
}

fn spell_character(c: char) -> String {
    match c {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        '\u{8}' => "\\b".to_owned(),
        '\u{c}' => "\\f".to_owned(),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        '\0'..='\u{1f}' => format!("\\u{:04x}", u32::from(c)),
        _ => c.to_string(),
    }
}

/// A regular expression for one character of a set as it is spelled; `None` for none. Without
/// `everything`, control characters of a set that has nearly all of them are left out.
pub(super) fn spell_set(set: &ClassUnicode, everything: bool) -> Option<String> {
    let contains =
        |c: char| set.ranges().iter().any(|range| (range.start()..=range.end()).contains(&c));
    let controls: Vec<char> = ('\0'..='\u{1f}').filter(|c| contains(*c)).collect();
    let short = |c: &char| spell_character(*c).len() == 2;
    let drops = !everything && controls.len() >= MANY_CONTROLS;
    let escaped = controls.into_iter().filter(|c| !drops || short(c));
    let escaped = escaped.chain(['"', '\\'].into_iter().filter(|c| contains(*c)));
    let mut options: Vec<String> =
        escaped.map(|c| regex_syntax::escape(&spell_character(c))).collect();
    let mut plain = set.clone();
    let unspelled = [('\0', '\u{1f}'), ('"', '"'), ('\\', '\\')];
    let delete = drops.then_some(('\u{7f}', '\u{7f}'));
    let removed = unspelled.into_iter().chain(delete);
    plain.difference(&ClassUnicode::new(
        removed.map(|(start, end)| ClassUnicodeRange::new(start, end)),
    ));
    if !plain.ranges().is_empty() {
        options.insert(0, set_text(&plain));
    }
    match options.len() {
        0 => None,
        1 => options.pop(),
        _ => Some(format!("(?:{})", options.join("|"))),
    }
}

/// A set of characters as a regular expression.
fn set_text(set: &ClassUnicode) -> String {
    let character = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' => c.to_string(),
        _ => format!("\\x{{{:x}}}", u32::from(c)),
    };
    if let [range] = set.ranges()
        && range.start() == range.end()
    {
        return character(range.start());
    }
    let range = |range: &ClassUnicodeRange| {
        let (start, end) = (range.start(), range.end());
        let last = if start == end { String::new() } else { format!("-{}", character(end)) };
        character(start) + &last
    };
    format!("[{}]", set.ranges().iter().map(range).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_spelled_as_json_reads_it_and_in_one_way() {
        let whole = regex::Regex::new(&format!("^{ANY_CHARACTER}$")).unwrap();
        for c in ('\0'..='\u{ff}').chain(['é', '\u{2028}', '𝄞', char::MAX]) {
            let spelled = spell(&c.to_string());
            let read: String = serde_json::from_str(&format!("\"{spelled}\"")).unwrap();
            assert_eq!(read, c.to_string());
            assert!(whole.is_match(&spelled), "{c:?}");
            let set = ClassUnicode::new([ClassUnicodeRange::new(c, c)]);
            let one = regex::Regex::new(&format!("^{}$", spell_set(&set, false).unwrap())).unwrap();
            assert!(one.is_match(&spelled), "{c:?}");
        }
        for wrong in ["\\u000a", "\\u0008", "\\u0041", "\\u001B", "\\/"] {
            assert!(!whole.is_match(wrong), "{wrong}");
        }
    }

    #[test]
    fn sets_that_leave_something_out_have_no_control_characters() {
        let all = ClassUnicode::new([ClassUnicodeRange::new('\0', char::MAX)]);
        let of = |everything| {
            regex::Regex::new(&format!("^{}$", spell_set(&all, everything).unwrap())).unwrap()
        };
        for text in ["\\u001b", "\u{7f}"] {
            assert!(of(true).is_match(text) && !of(false).is_match(text));
        }
        for text in ["\\n", "\\\"", "\\\\", "a", "日"] {
            assert!(of(true).is_match(text) && of(false).is_match(text));
        }
        assert_eq!(spell_set(&ClassUnicode::empty(), true), None);
    }
}
