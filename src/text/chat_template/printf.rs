//! `format % values`, with Python's conversions.
//!
//! What a conversion takes is found here; numbers are then formatted by minijinja.

use std::iter::Peekable;
use std::str::Chars;

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, State, Value};

use super::MAX_OUTPUT_BYTES;
use super::values::{float, invalid, repr, text, too_long, type_name};

/// The longest that one value may be padded to, and the most digits it may have.
const MAX_WIDTH: usize = 1 << 16;

/// Puts `values`, a tuple, a dictionary or a single one, into `pattern`.
///
/// # Errors
/// Where the two do not fit each other, and where the text becomes too long.
pub(super) fn printf(state: &State, pattern: &str, values: &Value) -> Result<String, Error> {
    let mut values = Values::new(values);
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let conversion = Conversion::parse(&mut rest, &mut values)?;
        let piece = conversion.format(&mut values)?;
        state.consume_fuel((piece.len() / 64) as u64)?;
        out.push_str(&piece);
        if out.len() > MAX_OUTPUT_BYTES {
            return Err(too_long());
        }
    }
    if values.are_left() {
        return Err(invalid("not all arguments converted during string formatting"));
    }
    Ok(out)
}

/// The values that are still to be put in.
struct Values<'a> {
    all: &'a Value,
    tuple: Option<&'a Tuple>,
    taken: usize,
}

impl<'a> Values<'a> {
    fn new(all: &'a Value) -> Self {
        Self { all, tuple: all.downcast_object_ref::<Tuple>(), taken: 0 }
    }

    fn next(&mut self) -> Result<Value, Error> {
        self.taken += 1;
        let value = match self.tuple {
            Some(tuple) => tuple.get(self.taken - 1).cloned(),
            None => (self.taken == 1).then(|| self.all.clone()),
        };
        value.ok_or_else(|| invalid("not enough arguments for format string"))
    }

    /// A list, a dictionary or a single value that nothing was taken of may be left, but a string
    /// or a number may not.
    fn are_left(&self) -> bool {
        match self.tuple {
            Some(tuple) => self.taken < tuple.len(),
            None => self.taken == 0 && !matches!(self.all.kind(), ValueKind::Map | ValueKind::Seq),
        }
    }
}

/// One `%…`.
struct Conversion {
    key: Option<String>,
    flags: String,
    width: Option<usize>,
    precision: Option<usize>,
    kind: char,
}

impl Conversion {
    fn parse(rest: &mut Peekable<Chars<'_>>, values: &mut Values<'_>) -> Result<Self, Error> {
        let key = if rest.next_if_eq(&'(').is_some() {
            let mut key = String::new();
            loop {
                match rest.next() {
                    Some(')') => break Some(key),
                    Some(c) => key.push(c),
                    None => return Err(invalid("incomplete format key")),
                }
            }
        } else {
            None
        };
        let mut flags = String::new();
        while let Some(flag) = rest.next_if(|c| "-+ #0".contains(*c)) {
            flags.push(flag);
        }
        let width = number(rest, values, &mut flags)?;
        let precision = if rest.next_if_eq(&'.').is_some() {
            Some(number(rest, values, &mut String::new())?.unwrap_or(0))
        } else {
            None
        };
        while rest.next_if(|c| "hlL".contains(*c)).is_some() {}
        let kind = rest.next().ok_or_else(|| invalid("incomplete format"))?;
        Ok(Self { key, flags, width, precision, kind })
    }

    fn format(&self, values: &mut Values<'_>) -> Result<String, Error> {
        if self.kind == '%' {
            return Ok("%".to_owned());
        }
        let value = match &self.key {
            None => values.next()?,
            Some(key) if values.all.kind() == ValueKind::Map => {
                values.taken = 1;
                let value = values.all.get_item(&Value::from(key.as_str()))?;
                if value.is_undefined() {
                    return Err(invalid(format!("there is no '{key}' for the format")));
                }
                value
            }
            Some(_) => return Err(invalid("format requires a mapping")),
        };
        match self.kind {
            's' => Ok(self.pad(&text(&value)?)),
            'r' | 'a' => Ok(self.pad(&repr(&value)?)),
            'c' if value.as_str().is_some() => Ok(self.pad(&text(&value)?)),
            _ => self.number(&value),
        }
    }

    /// A text, cut to the precision and padded to the width.
    fn pad(&self, text: &str) -> String {
        let text: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        let missing = self.width.unwrap_or(0).saturating_sub(text.chars().count());
        let padding = " ".repeat(missing);
        if self.flags.contains('-') { text + &padding } else { padding + &text }
    }

    fn number(&self, value: &Value) -> Result<String, Error> {
        let (is_number, is_whole) = (value.is_number(), float(value).is_none());
        let value = match (value.kind(), self.kind) {
            (ValueKind::Bool, _) => Value::from(i32::from(value.is_true())),
            // Towards zero, as `int` does.
            (_, 'd' | 'i' | 'u') if is_number && !is_whole => truncated(value)?,
            _ => value.clone(),
        };
        if !value.is_number() {
            let message =
                format!("%{} format: a number is required, not {}", self.kind, type_name(&value));
            return Err(invalid(message));
        }
        let width = self.width.map_or_else(String::new, |width| width.to_string());
        let precision = self.precision.map_or_else(String::new, |digits| format!(".{digits}"));
        let kind = if self.kind == 'i' || self.kind == 'u' { 'd' } else { self.kind };
        let conversion = format!("%{}{width}{precision}{kind}", self.flags);
        format(FormatStyle::Printf, &conversion, &[value])
    }
}

/// A float without its fraction.
pub(super) fn truncated(value: &Value) -> Result<Value, Error> {
    match float(value) {
        None => Ok(value.clone()),
        Some(float) if float.is_finite() && float.abs() < 1e38 => {
            Ok(Value::from(float.trunc() as i128))
        }
        Some(float) => Err(invalid(format!("cannot convert float {float} to integer"))),
    }
}

/// A width or a precision: digits, or a `*` for the next value. A negative one aligns to the left.
fn number(
    rest: &mut Peekable<Chars<'_>>,
    values: &mut Values<'_>,
    flags: &mut String,
) -> Result<Option<usize>, Error> {
    let mut number = None;
    if rest.next_if_eq(&'*').is_some() {
        let value = values.next()?;
        let given = i64::try_from(value).map_err(|_| invalid("* wants int"))?;
        if given < 0 {
            flags.push('-');
        }
        number = Some(usize::try_from(given.unsigned_abs()).unwrap_or(usize::MAX));
    }
    while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
        rest.next();
        number = Some(number.unwrap_or(0_usize).saturating_mul(10).saturating_add(digit as usize));
    }
    if number.is_some_and(|number| number > MAX_WIDTH) {
        return Err(invalid(format!("a width of a format is more than {MAX_WIDTH}")));
    }
    Ok(number)
}
