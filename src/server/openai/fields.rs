//! Reading the fields of a request body strictly: right type, right range, the field's name in
//! every error. It knows types, not meanings; a boolean is no number and nothing wraps.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::server::body::json::{self, Ids, Object};
use crate::server::error::ApiError;

/// The fields of an object that nobody has taken yet. `null` is the same as absent.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// Fields that hold token ids, which are no values.
    ids: BTreeMap<String, Ids>,
    prefix: String,
}

impl From<Object> for Fields {
    fn from(Object { values, ids }: Object) -> Self {
        Self { map: values, ids, prefix: String::new() }
    }
}

impl Fields {
    /// The fields of an object.
    #[must_use]
    pub fn new(map: Map<String, Value>) -> Self {
        Object { values: map, ids: BTreeMap::new() }.into()
    }

    /// The fields of `value`, an object that stands at `param` in the body.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn nested(param: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { prefix: format!("{param}."), ..Self::new(map) }),
            _ => Err(ApiError::invalid(param, format!("`{param}` must be an object"))),
        }
    }

    /// Takes a field as it is. In the place of token ids stands an array without them: whoever reads
    /// ids asks [`Self::ids`], and for everybody else they are an array of the wrong kind.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        if self.ids.remove(name).is_some() {
            return Some(Value::Array(Vec::new()));
        }
        self.map.swap_remove(name).filter(|value| !value.is_null())
    }

    /// True where a field is there and says something.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null()) || self.ids.contains_key(name)
    }

    /// The names of the fields that are left.
    pub fn rest(&self) -> impl Iterator<Item = &str> {
        self.map.keys().chain(self.ids.keys()).map(String::as_str)
    }

    /// Nothing where all fields were taken: a change that is understood in part is none.
    ///
    /// # Errors
    /// The first that was not, by name.
    pub fn none_left(&self) -> Result<(), ApiError> {
        self.rest().next().map_or(Ok(()), |name| Err(ApiError::unsupported(self.param(name))))
    }

    /// A number that stands for the fields that are left: the same for the same request.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&serde_json::to_vec(&self.map).unwrap_or_default());
        for (name, ids) in &self.ids {
            hasher.update(name.as_bytes());
            for list in ids.lists() {
                hasher.update(&(list.len() as u64).to_le_bytes());
                list.iter().for_each(|id| _ = hasher.update(&id.to_le_bytes()));
            }
        }
        let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// The name of `name` in errors.
    #[must_use]
    pub fn param(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn wrong(&self, name: &str, expected: &str) -> ApiError {
        let param = self.param(name);
        let message = format!("`{param}` must be {expected}");
        ApiError::invalid(param, message)
    }

    /// Takes a string.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    /// Takes a boolean, `default` where absent.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn boolean(&mut self, name: &str, default: bool) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(self.wrong(name, "a boolean")),
        }
    }

    /// Takes an integer within `range`.
    ///
    /// # Errors
    /// Where it is something else or outside.
    pub fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let integer = to_integer(&value).filter(|integer| range.contains(integer));
        match integer {
            Some(integer) => Ok(Some(integer)),
            None => Err(self.wrong(name, &format!("an integer {}", describe(&range)))),
        }
    }

    /// Takes a count: an integer from `min`, at most what memory can index.
    ///
    /// # Errors
    /// Where it is something else or outside.
    pub fn count(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<usize>, ApiError> {
        let integer = self.integer(name, range)?;
        integer
            .map(|integer| usize::try_from(integer).map_err(|_| self.wrong(name, "smaller")))
            .transpose()
    }

    /// Takes a number within `range`, as single precision.
    ///
    /// # Errors
    /// Where it is something else or outside.
    pub fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64().filter(|number| range.contains(number)) {
            #[expect(clippy::cast_possible_truncation, reason = "the range is within f32's")]
            Some(number) => Ok(Some(number as f32)),
            None => {
                let (low, high) = (range.start(), range.end());
                Err(self.wrong(name, &format!("a number from {low} to {high}")))
            }
        }
    }

    /// Takes an object.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn object(&mut self, name: &str) -> Result<Option<Self>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Self { prefix: format!("{}.", self.param(name)), ..Self::new(map) }))
            }
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }

    /// Takes an array of anything but token ids.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        if self.ids.contains_key(name) {
            return Err(self.wrong(name, "an array of something else than token ids"));
        }
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(_) => Err(self.wrong(name, "an array")),
        }
    }

    /// Takes a field that holds token ids, whatever they are.
    pub fn ids(&mut self, name: &str) -> Option<Ids> {
        self.ids.remove(name)
    }

    /// Takes an array of at most `most` values.
    ///
    /// # Errors
    /// Where it is something else, or longer.
    pub fn array_of(&mut self, name: &str, most: usize) -> Result<Option<Vec<Value>>, ApiError> {
        let values = self.array(name)?;
        check_len(&self.param(name), values.as_ref().map_or(0, Vec::len), most)?;
        Ok(values)
    }

    /// Takes an array of at most `most` token ids, each below `vocab_size`.
    ///
    /// # Errors
    /// Where it is something else or longer, or an id is not the model's.
    pub fn tokens(
        &mut self,
        name: &str,
        vocab_size: usize,
        most: usize,
    ) -> Result<Option<Vec<u32>>, ApiError> {
        let ids = match self.ids(name) {
            Some(Ids::One(ids)) if are_tokens(&ids, vocab_size) => Some(ids),
            Some(_) => None,
            None => match self.array(name)? {
                None => return Ok(None),
                Some(values) => values.iter().map(|value| to_token(value, vocab_size)).collect(),
            },
        };
        let ids = ids.ok_or_else(|| self.wrong(name, &token_ids(vocab_size)))?;
        check_len(&self.param(name), ids.len(), most)?;
        Ok(Some(ids))
    }

    /// The error for a missing field.
    #[must_use]
    pub fn missing(&self, name: &str) -> ApiError {
        let param = self.param(name);
        let message = format!("`{param}` is required");
        ApiError::invalid(param, message)
    }
}

/// Checks that an array at `param` is not longer than `most`: every list of a request has a bound.
///
/// # Errors
/// Where it is.
pub fn check_len(param: &str, len: usize, most: usize) -> Result<(), ApiError> {
    if len <= most {
        return Ok(());
    }
    Err(ApiError::invalid(
        param,
        format!("`{param}` must hold at most {most} values, and has {len}"),
    ))
}

/// A JSON number as a 64-bit integer; `5.0` counts as 5, `true` and `1e300` as nothing.
#[must_use]
pub fn to_integer(value: &Value) -> Option<i64> {
    json::to_integer(value.as_number()?)
}

/// A JSON number as a token id below `vocab_size`.
#[must_use]
pub fn to_token(value: &Value, vocab_size: usize) -> Option<u32> {
    let token = u32::try_from(to_integer(value)?).ok()?;
    usize::try_from(token).is_ok_and(|token| token < vocab_size).then_some(token)
}

/// Whether each of `ids` is below `vocab_size`.
#[must_use]
pub fn are_tokens(ids: &[u32], vocab_size: usize) -> bool {
    ids.iter().all(|id| usize::try_from(*id).is_ok_and(|id| id < vocab_size))
}

/// What [`Fields::tokens`] expects, in words.
#[must_use]
pub fn token_ids(vocab_size: usize) -> String {
    format!("token ids, integers from 0 to {}", vocab_size.saturating_sub(1))
}

fn describe(range: &RangeInclusive<i64>) -> String {
    match (*range.start(), *range.end()) {
        (i64::MIN, i64::MAX) => "of 64 bits".to_owned(),
        (low, i64::MAX) => format!("of at least {low}"),
        (low, high) => format!("from {low} to {high}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn a_boolean_is_no_number_and_nothing_wraps() {
        for value in [
            json!(true),
            json!("5"),
            json!(5.5),
            json!(18446744073709551615u64),
            json!(1e300),
            json!(-1),
            json!(129),
            json!([5]),
        ] {
            let mut body = fields(json!({ "n": value }));
            let error = body.integer("n", 1..=128).unwrap_err();
            assert_eq!(error, ApiError::invalid("n", "`n` must be an integer from 1 to 128"));
        }
        let huge: Value = serde_json::from_str("{\"n\": 9223372036854775808}").unwrap();
        assert!(fields(huge).integer("n", i64::MIN..=i64::MAX).is_err());
        assert_eq!(fields(json!({"n": 5.0})).integer("n", 1..=128), Ok(Some(5)));
        assert!(fields(json!({"top_p": false})).number("top_p", 0.0..=1.0).is_err());
        assert!(fields(json!({"top_p": 1.0001})).number("top_p", 0.0..=1.0).is_err());
    }

    #[test]
    fn null_is_absent_and_nested_names_are_whole() {
        assert_eq!(fields(json!({"n": null})).integer("n", 1..=2), Ok(None));
        let mut body = fields(json!({"stream_options": {"include_usage": 1}}));
        let mut options = body.object("stream_options").unwrap().unwrap();
        let error = options.boolean("include_usage", false).unwrap_err();
        assert_eq!(error.to_string(), "`stream_options.include_usage` must be a boolean");
    }

    #[test]
    fn token_ids_are_read_as_ids_and_as_nothing_else() {
        let ids = || {
            let ids = [("input".to_owned(), Ids::One(vec![7]))].into();
            Fields::from(Object { values: Map::new(), ids })
        };
        assert!(ids().has("input") && ids().rest().eq(["input"]) && ids().none_left().is_err());
        assert!(ids().string("input").is_err() && ids().boolean("input", true).is_err());
        assert!(
            ids().integer("input", 0..=9).is_err() && ids().number("input", 0.0..=9.0).is_err()
        );
        assert!(ids().object("input").is_err() && ids().array("input").is_err());
        assert_eq!(ids().take("input"), Some(json!([])));
        assert_eq!(ids().tokens("input", 8, 1), Ok(Some(vec![7])));
        assert!(ids().tokens("input", 7, 1).is_err());
        assert_ne!(ids().digest(), fields(json!({})).digest());
    }

    #[test]
    fn tokens_are_bounded_by_the_vocabulary() {
        assert_eq!(fields(json!({"t": [0, 9]})).tokens("t", 10, 2), Ok(Some(vec![0, 9])));
        assert!(fields(json!({"t": [0, 9, 9]})).tokens("t", 10, 2).is_err());
        for wrong in [json!([10]), json!([-1]), json!([4294967296i64]), json!([true]), json!(1)] {
            assert!(fields(json!({ "t": wrong })).tokens("t", 10, 9).is_err());
        }
    }
}
