//! What operators do in Python and not in minijinja; the rewritten template calls these.

use std::cmp::Ordering;
use std::sync::Arc;

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, State, Value};

use super::MAX_OUTPUT_BYTES;
use super::escape::escape;
use super::methods;
use super::printf::printf;
use super::rewrite::names;
use super::values::{invalid, text, too_long, type_name};
use super::views::{BoundMethod, Generator};

/// Makes them known.
pub(super) fn define(environment: &mut Environment<'_>) {
    environment.add_function(names::ADD, add);
    environment.add_function(names::ATTRIBUTE, attribute);
    environment.add_function(names::COMPARE, compare);
    environment.add_function(names::CONCAT, concat);
    environment.add_function(names::GENERATION, generation);
    environment.add_filter(names::GENERATOR, generator);
    environment.add_function(names::ITERATE, iterate);
    environment.add_function(names::MODULO, modulo);
    environment.add_function(names::VARIADIC, variadic);
    environment.add_global(names::MISSING, Value::from_object(Missing));
}

/// `a + b + …`, from the left.
fn add(state: &State, operands: Rest<Value>) -> Result<Value, Error> {
    let mut operands = operands.0.into_iter();
    let Some(mut sum) = operands.next() else { return Ok(Value::UNDEFINED) };
    for operand in operands {
        sum = match (sum.as_str(), operand.as_str()) {
            (Some(left), Some(right)) => add_strings(state, (&sum, left), (&operand, right))?,
            _ => native(state, "a + b", sum, operand)?,
        };
    }
    Ok(sum)
}

/// Escaped text escapes what is added to it.
fn add_strings(
    state: &State,
    (left, left_text): (&Value, &str),
    (right, right_text): (&Value, &str),
) -> Result<Value, Error> {
    let length = left_text.len() + right_text.len();
    if length > MAX_OUTPUT_BYTES {
        return Err(too_long());
    }
    state.consume_fuel((length / 64) as u64)?;
    Ok(match (left.is_safe(), right.is_safe()) {
        (false, false) => Value::from([left_text, right_text].concat()),
        (true, true) => Value::from_safe_string([left_text, right_text].concat()),
        (true, false) => Value::from_safe_string(left_text.to_owned() + &escape(right_text)),
        (false, true) => Value::from_safe_string(escape(left_text) + right_text),
    })
}

/// `a ~ b ~ …`.
fn concat(operands: Rest<Value>) -> Result<String, Error> {
    let mut whole = String::new();
    for operand in operands.iter() {
        match operand.as_str() {
            Some(part) => whole.push_str(part),
            None => whole.push_str(&text(operand)?),
        }
        if whole.len() > MAX_OUTPUT_BYTES {
            return Err(too_long());
        }
    }
    Ok(whole)
}

/// `a % b`: a remainder, or a text with values put into it.
fn modulo(state: &State, left: Value, right: Value) -> Result<Value, Error> {
    let Some(format) = left.as_str() else { return native(state, "a % b", left, right) };
    if !left.is_safe() {
        return printf(state, format, &right).map(Value::from);
    }
    let escaped = |value: &Value| -> Result<Value, Error> {
        let is_text = value.as_str().is_some() && !value.is_safe();
        Ok(if is_text { Value::from(escape(&text(value)?)) } else { value.clone() })
    };
    let right = match right.downcast_object_ref::<Tuple>() {
        Some(tuple) => {
            Tuple::from(tuple.iter().map(escaped).collect::<Result<Vec<_>, _>>()?).into()
        }
        None => escaped(&right)?,
    };
    printf(state, format, &right).map(Value::from_safe_string)
}

/// `a < b` and so on: only values of one kind have an order.
fn compare(operator: &str, left: &Value, right: &Value) -> Result<bool, Error> {
    let kind = |value: &Value| match value.kind() {
        ValueKind::Bool | ValueKind::Number => Some("number"),
        ValueKind::String | ValueKind::Seq => Some(type_name(value)),
        _ => None,
    };
    let ordered = kind(left).is_some_and(|left| kind(right) == Some(left));
    if !ordered {
        let (left, right) = (type_name(left), type_name(right));
        return Err(invalid(format!(
            "'{operator}' not supported between instances of '{left}' and '{right}'"
        )));
    }
    let order = left.partial_cmp(right);
    Ok(match operator {
        "<" => order == Some(Ordering::Less),
        "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        ">" => order == Some(Ordering::Greater),
        _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    })
}

/// What minijinja makes of an operator.
fn native(state: &State, operation: &'static str, a: Value, b: Value) -> Result<Value, Error> {
    let result =
        state.env().compile_expression(operation)?.eval(Value::from_pairs([("a", a), ("b", b)]));
    // Where it failed is the template's matter, not the operation's.
    result.map_err(|error| Error::new(error.kind(), error.detail().unwrap_or_default().to_owned()))
}

/// A `for` goes through a value; none is not one to go through.
fn iterate(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(invalid("'NoneType' object is not iterable"));
    }
    // A loop knows its length, of an iterator too.
    Ok(match value.downcast_object_ref::<Generator>() {
        Some(generator) => Value::from(generator.take()),
        None => value,
    })
}

/// An iterator over what a filter gives; a text stays one.
fn generator(state: &State, value: Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value);
    }
    let items: Vec<Value> = value.try_iter()?.collect();
    state.consume_fuel(items.len() as u64)?;
    Ok(Value::from_object(Generator::new(items)))
}

/// `value.name`, where `name` is that of a method: a dictionary's own methods hide its keys.
pub(super) fn attribute(value: Value, name: &str) -> Result<Value, Error> {
    if methods::has_method(&value, name) {
        // The sandbox shows no method that would change something.
        if methods::is_changing(name) {
            return Ok(Value::UNDEFINED);
        }
        return Ok(Value::from_object(BoundMethod { value, name: name.to_owned() }));
    }
    if value.is_undefined() {
        return Err(invalid(format!("an undefined value has no attribute '{name}'")));
    }
    if methods::is_dict(&value) || matches!(value.kind(), ValueKind::Map | ValueKind::Plain) {
        return value.get_attr(name);
    }
    Ok(Value::UNDEFINED)
}

/// The content of a `{% generation %}` block.
fn generation(state: &mut State, kwargs: Kwargs) -> Result<Value, Error> {
    let caller: Value = kwargs.get("caller")?;
    caller.call(state, &[])
}

/// The value of an argument that is left out.
#[derive(Debug)]
struct Missing;

impl Object for Missing {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// A macro that is given the arguments its parameters do not take as `varargs` and `kwargs`.
#[derive(Debug)]
struct Variadic {
    inner: Value,
    parameters: Vec<String>,
}

fn variadic(inner: Value, parameters: Vec<String>) -> Value {
    Value::from_object(Variadic { inner, parameters })
}

impl Object for Variadic {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.inner.get_item(key).ok().filter(|value| !value.is_undefined())
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let (positional, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
        let mut positional = positional.0;
        let rest = positional.split_off(positional.len().min(self.parameters.len()));
        let (mut named, mut others) = (Vec::new(), Vec::new());
        for key in kwargs.args() {
            let value: Value = kwargs.get(key)?;
            let is_own = key == "caller" || self.parameters.iter().any(|name| name == key);
            if is_own { &mut named } else { &mut others }.push((key.to_owned(), value));
        }
        if let Some((name, _)) =
            others.iter().find(|(name, _)| ["varargs", "kwargs"].contains(&&**name))
        {
            return Err(invalid(format!("a macro is given an argument named {name}")));
        }
        named.push(("varargs".to_owned(), Tuple::from(rest).into()));
        named.push(("kwargs".to_owned(), Value::from_pairs(others)));
        positional.push(named.into_iter().collect::<Kwargs>().into());
        self.inner.call(state, &positional)
    }
}
