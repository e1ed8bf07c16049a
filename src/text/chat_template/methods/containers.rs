//! Methods of dictionaries, lists and tuples.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::super::arguments::{bind_all, integer, required};
use super::super::values::{invalid, repr};
use super::super::views::{DictView, Part};

pub(super) fn dict(value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    let object = value.as_object().ok_or_else(unknown)?;
    let view = |part| {
        let [] = bind_all(name, [], args)?;
        Ok(Value::from_object(DictView::new(object.clone(), part)))
    };
    match name {
        "keys" => view(Part::Keys),
        "values" => view(Part::Values),
        "items" => view(Part::Items),
        "get" => {
            let [key, default] = bind_all(name, ["key", "default"], args)?;
            let found = object.get_value(&required(name, key)?);
            Ok(found.or(default).unwrap_or_else(|| Value::from(())))
        }
        "copy" => {
            let [] = bind_all(name, [], args)?;
            Ok(value.clone())
        }
        _ => Err(unknown()),
    }
}

pub(super) fn list(value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match name {
        "copy" if !value.is_tuple() => {
            let [] = bind_all(name, [], args)?;
            Ok(value.clone())
        }
        "count" => {
            let [wanted] = bind_all(name, ["value"], args)?;
            let wanted = required(name, wanted)?;
            Ok(Value::from(value.try_iter()?.filter(|item| *item == wanted).count()))
        }
        "index" => {
            let [wanted, start, stop] = bind_all(name, ["value", "start", "stop"], args)?;
            let wanted = required(name, wanted)?;
            let len = value.len().unwrap_or(0);
            let bound = |argument: Option<&Value>, default: usize| {
                Ok::<_, Error>(integer(name, argument)?.map_or(default, |at| clamp(at, len)))
            };
            let (start, stop) = (bound(start.as_ref(), 0)?, bound(stop.as_ref(), len)?);
            let mut items = value.try_iter()?.enumerate().take(stop).skip(start);
            match items.find(|(_, item)| *item == wanted) {
                Some((index, _)) => Ok(Value::from(index)),
                None => Err(invalid(format!("{} is not in the list", repr(&wanted)?))),
            }
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// An index from either end, within a length.
pub(super) fn clamp(index: i64, len: usize) -> usize {
    let from_end = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
    if index < 0 { len.saturating_sub(from_end) } else { from_end.min(len) }
}

/// The strings of a tuple, or a single one.
pub(super) fn strings(name: &str, value: &Value) -> Result<Vec<String>, Error> {
    let wrong = || invalid(format!("{name} first arg must be str or a tuple of str"));
    if let Some(text) = value.as_str() {
        return Ok(vec![text.to_owned()]);
    }
    if value.kind() != ValueKind::Seq || !value.is_tuple() {
        return Err(wrong());
    }
    value.try_iter()?.map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}
