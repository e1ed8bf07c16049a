//! Filters of Jinja2 that minijinja lacks or has otherwise, and the `tojson` of transformers.

mod numbers;
mod texts;
mod wrapping;

use minijinja::value::{Kwargs, Rest, Tuple};
use minijinja::{Environment, Error, State, Value};

use super::super::json_dumps::{DumpError, DumpOptions, json_dumps};
use super::arguments::{bind, flag, integer};
use super::escape::{escape, strip_tags};
use super::printf::printf;
use super::values::{invalid, repr, text, too_long, type_name};
use super::{MAX_OUTPUT_BYTES, methods, operators};

/// Makes them known.
pub(super) fn define(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", tojson);
    for name in ["e", "escape"] {
        environment.add_filter(name, escaped);
    }
    environment.add_filter("forceescape", force_escaped);
    environment.add_filter("striptags", |value: &Value| Ok::<_, Error>(strip_tags(&text(value)?)));
    environment.add_filter("string", string);
    environment.add_filter("join", join);
    environment.add_filter("attr", attribute);
    environment.add_filter("pprint", |value: &Value| repr(value));
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("batch", batch);
    for name in ["default", "d"] {
        environment.add_filter(name, default);
    }
    environment.add_filter("format", format);
    environment.add_filter("list", list);
    numbers::define(environment);
    texts::define(environment);
    wrapping::define(environment);
}

/// `json.dumps`, with the arguments of transformers.
fn tojson(
    state: &State,
    value: &Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let parameters = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = bind("tojson", parameters, &args, &kwargs)?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(indent) => indent.to_owned(),
            None => {
                let width = integer("tojson", Some(&indent))?.unwrap_or(0).max(0);
                " ".repeat(usize::from(
                    u8::try_from(width).map_err(|_| invalid("indent is too wide"))?,
                ))
            }
        }),
    };
    let separators = match separators.filter(|separators| !separators.is_none()) {
        None => None,
        Some(pair) => {
            let pair: Vec<String> = pair.try_iter()?.map(|part| part.to_string()).collect();
            let [item, key] = pair.as_slice() else {
                return Err(invalid("separators of json are two strings"));
            };
            Some((item.clone(), key.clone()))
        }
    };
    let options = DumpOptions {
        ensure_ascii: flag(ensure_ascii.as_ref()),
        sort_keys: flag(sort_keys.as_ref()),
        indent,
        separators,
    };
    if ["generator", "dict view"].contains(&type_name(value)) {
        return Err(invalid(format!("a {} has no json", type_name(value))));
    }
    let json = json_dumps(value, &options, MAX_OUTPUT_BYTES).map_err(|error| match error {
        DumpError::Length { .. } | DumpError::Values => too_long(),
        error => invalid(error.to_string()),
    })?;
    // Walking a value costs more than copying bytes does; minijinja charges its own filter so.
    state.consume_fuel((json.len() / 4) as u64)?;
    Ok(json)
}

fn escaped(value: &Value) -> Result<Value, Error> {
    if value.is_safe() { Ok(value.clone()) } else { force_escaped(value) }
}

fn force_escaped(value: &Value) -> Result<Value, Error> {
    Ok(Value::from_safe_string(escape(&text(value)?)))
}

/// Text stays as it is, escaped or not.
fn string(state: &State, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    let text = text(value)?;
    state.consume_fuel((text.len() / 4) as u64)?;
    Ok(Value::from(text))
}

fn join(
    state: &mut State,
    value: &Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let [separator, attribute] = bind("join", ["d", "attribute"], &args, &kwargs)?;
    let separator = separator.as_ref().map(text).transpose()?.unwrap_or_default();
    let items = match attribute.filter(|attribute| !attribute.is_none()) {
        None => value.clone(),
        Some(attribute) => {
            let attribute = Kwargs::from_iter([("attribute", attribute)]);
            state.apply_filter("map", &[value.clone(), attribute.into()])?
        }
    };
    let mut joined = String::new();
    for (index, item) in iterate(&items)?.enumerate() {
        let item = text(&item)?;
        if index > 0 {
            joined.push_str(&separator);
        }
        joined.push_str(&item);
        state.consume_fuel(1 + ((separator.len() + item.len()) / 64) as u64)?;
        if joined.len() > MAX_OUTPUT_BYTES {
            return Err(too_long());
        }
    }
    Ok(joined)
}

/// The items of a value; none and numbers have none.
fn iterate(value: &Value) -> Result<impl Iterator<Item = Value> + use<>, Error> {
    if value.is_none() {
        return Err(invalid("'NoneType' object is not iterable"));
    }
    value.try_iter()
}

/// An attribute that is no item: a dictionary has methods only.
fn attribute(value: Value, name: &str) -> Result<Value, Error> {
    if methods::is_dict(&value) && !methods::has_method(&value, name) {
        return Ok(Value::UNDEFINED);
    }
    operators::attribute(value, name)
}

fn dictsort(
    state: &mut State,
    value: &Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let parameters = ["case_sensitive", "by", "reverse"];
    let [case_sensitive, by, reverse] = bind("dictsort", parameters, &args, &kwargs)?;
    let named = [("case_sensitive", case_sensitive), ("by", by), ("reverse", reverse)];
    let named = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let sorted = minijinja::filters::dictsort(value, named.collect())?;
    state.consume_fuel(sorted.len().unwrap_or(0) as u64)?;
    Ok(sorted)
}

fn batch(state: &State, value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [count, fill] = bind("batch", ["linecount", "fill_with"], &args, &kwargs)?;
    let count = integer("batch", count.as_ref())?.and_then(|count| usize::try_from(count).ok());
    let count = count.ok_or_else(|| invalid("batch() takes a positive number of items"))?;
    minijinja::filters::batch(state, value, count, fill.filter(|fill| !fill.is_none()))
}

fn default(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [default, boolean] = bind("default", ["default_value", "boolean"], &args, &kwargs)?;
    let replaced = value.is_undefined() || flag(boolean.as_ref()) && !value.is_true();
    Ok(if replaced { default.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

fn format(
    state: &State,
    value: &Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let values = if args.is_empty() && kwargs.args().next().is_some() {
        let named = kwargs.args().map(|name| Ok((name.to_owned(), kwargs.get::<Value>(name)?)));
        Value::from_pairs(named.collect::<Result<Vec<_>, Error>>()?)
    } else {
        Tuple::from(args.0).into()
    };
    printf(state, &text(value)?, &values)
}

fn list(state: &State, value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(invalid("'NoneType' object is not iterable"));
    }
    minijinja::filters::list(state, value)
}
