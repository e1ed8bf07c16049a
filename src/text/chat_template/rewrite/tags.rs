//! What is changed in a source before it is parsed: ends of lines, and tags that minijinja lacks.

use super::expressions::literal;
use super::names;

/// `source` as Jinja2 reads it. Every end of a line is `\n`. `{% generation %}`, which marks for
/// training what the assistant said, calls its content, which is a scope of its own. The line break
/// behind `{% raw %}` is doubled, as only Jinja2 keeps it. Strings have no escapes but minijinja's.
pub(in super::super) fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut prepared = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(open) = ["{%", "{{", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        prepared.push_str(&rest[..open]);
        let tag = &rest[open..];
        let Some(end) = end_of(tag) else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end);
        rest = after;
        match keyword(tag) {
            Some("generation") => {
                prepared.push_str(&replaced(tag, &format!("call {}()", names::GENERATION)));
            }
            Some("endgeneration") => prepared.push_str(&replaced(tag, "endcall")),
            Some("raw") => {
                prepared.push_str(tag);
                if after.starts_with('\n') && !tag.ends_with("-%}") {
                    prepared.push('\n');
                }
                let end = end_of_raw(after).unwrap_or(after.len());
                prepared.push_str(&after[..end]);
                rest = &after[end..];
            }
            _ if tag.starts_with("{#") => prepared.push_str(tag),
            _ => prepared.push_str(&with_plain_strings(tag)),
        }
    }
    prepared.push_str(rest);
    prepared
}

/// The length of the tag that `text` begins with. Strings in it may hold its end.
fn end_of(text: &str) -> Option<usize> {
    let end = match text.as_bytes().get(1)? {
        b'#' => return text.find("#}").map(|at| at + 2),
        b'%' => "%}",
        _ => "}}",
    };
    let (mut quote, mut depth, mut escaped) = (None, 0_usize, false);
    for (at, c) in text.char_indices().skip(2) {
        if let Some(open) = quote {
            if escaped {
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == open {
                quote = None;
            }
        } else if depth == 0 && text[at..].starts_with(end) {
            return Some(at + 2);
        } else {
            match c {
                '"' | '\'' => quote = Some(c),
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    None
}

/// Where the tag that ends a raw block begins.
fn end_of_raw(text: &str) -> Option<usize> {
    let is_end = |at: &usize| {
        end_of(&text[*at..]).is_some_and(|end| keyword(&text[*at..*at + end]) == Some("endraw"))
    };
    text.match_indices("{%").map(|(at, _)| at).find(is_end)
}

/// The only word of a tag.
fn keyword(tag: &str) -> Option<&str> {
    let inside = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let word = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    Some(word.strip_suffix(['-', '+']).unwrap_or(word).trim())
}

/// A tag with another word.
fn replaced(tag: &str, word: &str) -> String {
    keyword(tag).map_or_else(|| tag.to_owned(), |old| tag.replacen(old, word, 1))
}

/// A tag whose strings have no escape sequences but those of minijinja.
fn with_plain_strings(tag: &str) -> String {
    let mut plain = String::with_capacity(tag.len());
    let mut rest = tag;
    while let Some(open) = rest.find(['"', '\'']) {
        let quote = &rest[open..=open];
        let (before, inside) = rest.split_at(open + 1);
        let escaped =
            |at: usize| inside[..at].chars().rev().take_while(|c| *c == '\\').count() % 2 == 1;
        let end = inside.match_indices(quote).map(|(at, _)| at).find(|at| !escaped(*at));
        let Some(end) = end else { break };
        if inside[..end].contains('\\') {
            plain.push_str(&before[..open]);
            plain.push_str(&literal(&unescaped(&inside[..end])));
        } else {
            plain.push_str(before);
            plain.push_str(&inside[..=end]);
        }
        rest = &inside[end + 1..];
    }
    plain + rest
}

/// What Python reads between quotes.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let escape = &rest[at..];
        match escape_sequence(escape) {
            Some((character, len)) => {
                plain.extend(character);
                rest = &escape[len..];
            }
            None => {
                plain.push('\\');
                rest = &escape[1..];
            }
        }
    }
    plain + rest
}

/// The character that an escape sequence stands for, none for a line that goes on, and its length.
fn escape_sequence(text: &str) -> Option<(Option<char>, usize)> {
    let kind = text[1..].chars().next()?;
    let simple = match kind {
        '\n' => return Some((None, 2)),
        '\\' | '\'' | '"' => kind,
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '0'..='7' => {
            let digits: String =
                text[1..].chars().take_while(|c| ('0'..='7').contains(c)).take(3).collect();
            let code = u32::from_str_radix(&digits, 8).ok()?;
            return Some((Some(char::from_u32(code)?), 1 + digits.len()));
        }
        'x' | 'u' | 'U' => return hexadecimal(text, kind),
        _ => return None,
    };
    Some((Some(simple), 2))
}

/// `\xNN`, `\uNNNN`, a pair of those, or `\UNNNNNNNN`.
fn hexadecimal(text: &str, kind: char) -> Option<(Option<char>, usize)> {
    let len = match kind {
        'x' => 4,
        'u' => 6,
        _ => 10,
    };
    let code = u32::from_str_radix(text.get(2..len)?, 16).ok()?;
    if let Some(character) = char::from_u32(code) {
        return Some((Some(character), len));
    }
    let low = text.get(len..)?.strip_prefix("\\u")?.get(..4)?;
    let pair = [u16::try_from(code).ok()?, u16::from_str_radix(low, 16).ok()?];
    let character = char::decode_utf16(pair).next()?.ok()?;
    Some((Some(character), len + 6))
}
