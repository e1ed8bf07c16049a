//! Methods of strings.

use minijinja::value::Tuple;
use minijinja::{Error, ErrorKind, State, Value};

use super::super::MAX_OUTPUT_BYTES;
use super::super::arguments::{bind_all, flag, integer, length, required, string};
use super::super::str_format::str_format;
use super::super::values::{invalid, too_long, type_name};
use super::{case, search};

const METHODS: [&str; 46] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

pub(super) fn is_method(name: &str) -> bool {
    METHODS.contains(&name)
}

pub(super) fn call(state: &State, text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(holds) = case::is(text, name) {
        let [] = bind_all(name, [], args)?;
        return Ok(Value::from(holds));
    }
    if let Some(changed) = in_case(text, name) {
        let [] = bind_all(name, [], args)?;
        return Ok(Value::from(changed));
    }
    match name {
        "find" | "rfind" | "index" | "rindex" => search::find(text, name, args),
        "startswith" | "endswith" => search::touches(text, name, args),
        "count" => search::count(text, name, args),
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = bind_all(name, ["chars"], args)?;
            strip(text, name, chars.as_ref())
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = bind_all(name, ["affix"], args)?;
            let affix = required(name, affix)?;
            let affix = string(name, &affix)?;
            let kept = if name == "removeprefix" {
                text.strip_prefix(affix)
            } else {
                text.strip_suffix(affix)
            };
            Ok(Value::from(kept.unwrap_or(text)))
        }
        "split" | "rsplit" => split(text, name, args),
        "splitlines" => {
            let [keepends] = bind_all(name, ["keepends"], args)?;
            Ok(lines(text, flag(keepends.as_ref())).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => partition(text, name, args),
        "center" | "ljust" | "rjust" => {
            let [width, fill] = bind_all(name, ["width", "fillchar"], args)?;
            pad(state, text, name, width, fill)
        }
        "zfill" => {
            let [width] = bind_all(name, ["width"], args)?;
            zfill(state, text, &required(name, width)?)
        }
        "expandtabs" => {
            let [size] = bind_all(name, ["tabsize"], args)?;
            expand_tabs(state, text, length(name, size.as_ref())?.unwrap_or(8))
        }
        "replace" => replace(state, text, args),
        "join" => join(state, text, args),
        "format" => str_format(state, text, args).map(Value::from),
        "encode" => Err(invalid("bytes are not text: encode() is not supported")),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Methods that change nothing but case.
fn in_case(text: &str, name: &str) -> Option<String> {
    Some(match name {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        "title" => case::title(text),
        "capitalize" => case::capitalize(text),
        "swapcase" => case::swapcase(text),
        "casefold" => case::casefold(text),
        _ => return None,
    })
}

fn strip(text: &str, name: &str, chars: Option<&Value>) -> Result<Value, Error> {
    let chars =
        chars.filter(|chars| !chars.is_none()).map(|chars| string(name, chars)).transpose()?;
    let drop = |c: char| chars.map_or_else(|| case::is_space(c), |chars| chars.contains(c));
    Ok(Value::from(match name {
        "lstrip" => text.trim_start_matches(drop),
        "rstrip" => text.trim_end_matches(drop),
        _ => text.trim_matches(drop),
    }))
}

fn split(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [separator, limit] = bind_all(name, ["sep", "maxsplit"], args)?;
    let limit = integer(name, limit.as_ref())?.and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.unwrap_or(usize::MAX - 1);
    let from_end = name == "rsplit";
    let Some(separator) = separator.filter(|separator| !separator.is_none()) else {
        return Ok(words(text, limit, from_end).into_iter().map(Value::from).collect());
    };
    let separator = string(name, &separator)?;
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    if from_end {
        let mut parts: Vec<&str> = text.rsplitn(limit + 1, separator).collect();
        parts.reverse();
        return Ok(parts.into_iter().map(Value::from).collect());
    }
    Ok(text.splitn(limit + 1, separator).map(Value::from).collect())
}

/// At most `limit` words, cut off at one end, and what is left of the other.
fn words(text: &str, limit: usize, from_end: bool) -> Vec<&str> {
    let (mut words, mut rest) = (Vec::new(), text);
    loop {
        rest = if from_end {
            rest.trim_end_matches(case::is_space)
        } else {
            rest.trim_start_matches(case::is_space)
        };
        if rest.is_empty() {
            break;
        }
        let cut = if from_end {
            let end_of = |(at, c): (usize, char)| at + c.len_utf8();
            rest.char_indices().rfind(|(_, c)| case::is_space(*c)).map(end_of)
        } else {
            rest.find(case::is_space)
        };
        let Some(cut) = cut.filter(|_| words.len() < limit) else {
            words.push(rest);
            break;
        };
        let (before, after) = rest.split_at(cut);
        words.push(if from_end { after } else { before });
        rest = if from_end { before } else { after };
    }
    if from_end {
        words.reverse();
    }
    words
}

fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    const ENDS: [char; 9] =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}'];
    let is_end = |c: char| ENDS.contains(&c) || c == '\u{2029}';
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(is_end) {
        let end = rest[at..].chars().next().map_or(0, char::len_utf8);
        let end = at + if rest[at..].starts_with("\r\n") { 2 } else { end };
        lines.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn partition(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [separator] = bind_all(name, ["sep"], args)?;
    let separator = required(name, separator)?;
    let separator = string(name, &separator)?;
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let (parts, missing) = if name == "partition" {
        (text.split_once(separator), [text, "", ""])
    } else {
        (text.rsplit_once(separator), ["", "", text])
    };
    let parts = parts.map_or(missing, |(before, after)| [before, separator, after]);
    Ok(Tuple::from(parts.map(Value::from)).into())
}

fn pad(
    state: &State,
    text: &str,
    name: &str,
    width: Option<Value>,
    fill: Option<Value>,
) -> Result<Value, Error> {
    let width = length(name, Some(&required(name, width)?))?.unwrap_or(0);
    let fill = fill.unwrap_or_else(|| Value::from(" "));
    let fill = string(name, &fill)?;
    if fill.chars().count() != 1 {
        return Err(invalid("The fill character must be exactly one character long"));
    }
    let missing = width.saturating_sub(text.chars().count());
    state.consume_fuel((missing / 64) as u64)?;
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // Python puts an odd one to the left where the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(Value::from(fill.repeat(left) + text + &fill.repeat(missing - left)))
}

fn zfill(state: &State, text: &str, width: &Value) -> Result<Value, Error> {
    let width = length("zfill", Some(width))?.unwrap_or(0);
    let missing = width.saturating_sub(text.chars().count());
    state.consume_fuel((missing / 64) as u64)?;
    let sign = usize::from(text.starts_with(['+', '-']));
    Ok(Value::from(text[..sign].to_owned() + &"0".repeat(missing) + &text[sign..]))
}

fn expand_tabs(state: &State, text: &str, size: usize) -> Result<Value, Error> {
    let (mut expanded, mut column) = (String::with_capacity(text.len()), 0);
    for c in text.chars() {
        if c != '\t' {
            expanded.push(c);
            column = if c == '\n' || c == '\r' { 0 } else { column + 1 };
            continue;
        }
        let blanks = if size == 0 { 0 } else { size - column % size };
        state.consume_fuel((blanks / 64) as u64)?;
        if expanded.len() + blanks > MAX_OUTPUT_BYTES {
            return Err(too_long());
        }
        expanded.push_str(&" ".repeat(blanks));
        column += blanks;
    }
    Ok(Value::from(expanded))
}

fn replace(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let [old, new, count] = bind_all("replace", ["old", "new", "count"], args)?;
    let (old, new) = (required("replace", old)?, required("replace", new)?);
    let (old, new) = (string("replace", &old)?, string("replace", &new)?);
    let count = integer("replace", count.as_ref())?.and_then(|count| usize::try_from(count).ok());
    let found = text.matches(old).take(count.unwrap_or(usize::MAX)).count();
    let grown = found.saturating_mul(new.len().saturating_sub(old.len()));
    if text.len().saturating_add(grown) > MAX_OUTPUT_BYTES {
        return Err(too_long());
    }
    state.consume_fuel((grown / 64) as u64)?;
    Ok(Value::from(text.replacen(old, new, found)))
}

fn join(state: &State, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let [items] = bind_all("join", ["iterable"], args)?;
    let mut joined = String::new();
    for (index, item) in required("join", items)?.try_iter()?.enumerate() {
        let wrong = || {
            let found = type_name(&item);
            invalid(format!("sequence item {index}: expected str instance, {found} found"))
        };
        let item = item.as_str().ok_or_else(wrong)?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(item);
        state.consume_fuel(((separator.len() + item.len()) / 64) as u64)?;
        if joined.len() > MAX_OUTPUT_BYTES {
            return Err(too_long());
        }
    }
    Ok(Value::from(joined))
}
