//! Where a string lies in another: positions count characters, as in Python.

use minijinja::{Error, Value};

use super::super::arguments::{bind_all, integer, required, string};
use super::super::values::invalid;
use super::containers::{clamp, strings};

/// A part of a string.
struct Window<'a> {
    /// Characters before it.
    start: usize,
    text: &'a str,
}

/// The characters of `text` from `start` to `stop`; `None` where that is less than nothing.
fn window<'a>(
    name: &str,
    text: &'a str,
    start: Option<&Value>,
    stop: Option<&Value>,
) -> Result<Option<Window<'a>>, Error> {
    let (start, stop) = (integer(name, start)?, integer(name, stop)?);
    if start.is_none() && stop.is_none() {
        return Ok(Some(Window { start: 0, text }));
    }
    let len = text.chars().count();
    if start.is_some_and(|start| usize::try_from(start).is_ok_and(|start| start > len)) {
        return Ok(None);
    }
    let (start, stop) =
        (start.map_or(0, |at| clamp(at, len)), stop.map_or(len, |at| clamp(at, len)));
    if start > stop {
        return Ok(None);
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok(Some(Window { start, text: &text[byte(start)..byte(stop)] }))
}

/// `find`, `rfind`, `index` and `rindex`.
pub(super) fn find(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [wanted, start, stop] = bind_all(name, ["sub", "start", "end"], args)?;
    let wanted = required(name, wanted)?;
    let wanted = string(name, &wanted)?;
    let window = window(name, text, start.as_ref(), stop.as_ref())?;
    let position = window.and_then(|window| {
        let backwards = name.starts_with('r');
        let found = if backwards { window.text.rfind(wanted) } else { window.text.find(wanted) };
        found.map(|at| window.start + window.text[..at].chars().count())
    });
    match position {
        Some(position) => Ok(Value::from(position)),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(invalid("substring not found")),
    }
}

/// `startswith` and `endswith`.
pub(super) fn touches(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [wanted, start, stop] = bind_all(name, ["prefix", "start", "end"], args)?;
    let wanted = strings(name, &required(name, wanted)?)?;
    let window = window(name, text, start.as_ref(), stop.as_ref())?;
    let touches = window.is_some_and(|window| {
        wanted.iter().any(|wanted| {
            if name == "startswith" {
                window.text.starts_with(wanted)
            } else {
                window.text.ends_with(wanted)
            }
        })
    });
    Ok(Value::from(touches))
}

/// How often a string is found, without overlap.
pub(super) fn count(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [wanted, start, stop] = bind_all(name, ["sub", "start", "end"], args)?;
    let wanted = required(name, wanted)?;
    let wanted = string(name, &wanted)?;
    let window = window(name, text, start.as_ref(), stop.as_ref())?;
    Ok(Value::from(window.map_or(0, |window| window.text.matches(wanted).count())))
}
