//! Arguments bound to parameters as in Python: by position or by name.

use minijinja::value::{Kwargs, Rest, from_args};
use minijinja::{Error, ErrorKind, Value};

use super::values::{invalid, type_name};

/// The arguments of a call of `name`, in the order of its `parameters`; `None` where one is left out.
///
/// # Errors
/// Where there are too many, or one has a name of another parameter or of none.
pub(super) fn bind<const N: usize>(
    name: &str,
    parameters: [&str; N],
    positional: &[Value],
    kwargs: &Kwargs,
) -> Result<[Option<Value>; N], Error> {
    if positional.len() > N {
        let message = format!("{name}() takes at most {N} arguments ({} given)", positional.len());
        return Err(Error::new(ErrorKind::TooManyArguments, message));
    }
    let mut bound = [const { None }; N];
    for (index, (slot, parameter)) in bound.iter_mut().zip(parameters).enumerate() {
        let named = kwargs.has(parameter).then(|| kwargs.get::<Value>(parameter)).transpose()?;
        *slot = match (positional.get(index), named) {
            (Some(_), Some(_)) => {
                let message = format!("{name}() got multiple values for argument '{parameter}'");
                return Err(Error::new(ErrorKind::TooManyArguments, message));
            }
            (Some(value), None) => Some(value.clone()),
            (None, named) => named,
        };
    }
    kwargs.assert_all_used()?;
    Ok(bound)
}

/// As [`bind`], of arguments that are not told apart yet.
///
/// # Errors
/// As [`bind`].
pub(super) fn bind_all<const N: usize>(
    name: &str,
    parameters: [&str; N],
    args: &[Value],
) -> Result<[Option<Value>; N], Error> {
    let (positional, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
    bind(name, parameters, &positional, &kwargs)
}

/// An argument that must be there.
pub(super) fn required(name: &str, argument: Option<Value>) -> Result<Value, Error> {
    argument.ok_or_else(|| {
        Error::new(ErrorKind::MissingArgument, format!("{name}() is called without an argument"))
    })
}

/// A string.
pub(super) fn string<'a>(name: &str, value: &'a Value) -> Result<&'a str, Error> {
    let wrong = || invalid(format!("{name}() takes a string, not '{}'", type_name(value)));
    value.as_str().ok_or_else(wrong)
}

/// An integer, where one is given that is not none.
pub(super) fn integer(name: &str, argument: Option<&Value>) -> Result<Option<i64>, Error> {
    let Some(value) = argument.filter(|value| !value.is_none()) else { return Ok(None) };
    let wrong = || invalid(format!("{name}() takes an integer, not '{}'", type_name(value)));
    let is_whole = super::values::float(value).is_none();
    i64::try_from(value.clone()).ok().filter(|_| is_whole).map(Some).ok_or_else(wrong)
}

/// A length, which is bounded: nothing that is longer can be rendered.
pub(super) fn length(name: &str, argument: Option<&Value>) -> Result<Option<usize>, Error> {
    let Some(length) = integer(name, argument)? else { return Ok(None) };
    let length = usize::try_from(length.max(0)).unwrap_or(usize::MAX);
    if length > super::MAX_OUTPUT_BYTES {
        return Err(super::values::too_long());
    }
    Ok(Some(length))
}

/// Whether an argument is given and true.
pub(super) fn flag(argument: Option<&Value>) -> bool {
    argument.is_some_and(Value::is_true)
}
