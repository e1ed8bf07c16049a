//! A JSON object in memory that is bounded before it is taken: values are counted as they are made,
//! and token ids, of which a body may hold millions, become no values at all.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::budget::BodyCharge;
use crate::server::error::ApiError;

/// Most values of one body, besides token ids.
pub const MAX_VALUES: usize = 128 << 10;
/// Memory charged for a value: it, its name, their places in a table, and the room that an array or an
/// object that grows keeps for more.
pub const VALUE_BYTES: usize = 256;
/// The same for a token id.
const ID_BYTES: usize = 8;
/// Bytes charged at once; less than that is part of what every request costs.
const CHARGED: usize = 64 << 10;

/// Fields whose numbers are token ids.
const TOKEN_FIELDS: [&str; 6] =
    ["prompt", "input", "tokens", "allowed_token_ids", "stop_token_ids", "logprob_token_ids"];

/// No vocabulary has so many tokens.
pub const NO_ID: u32 = u32::MAX;

const _: () = assert!(2 * size_of::<(u64, String, Value)>() + 32 <= VALUE_BYTES);

/// The fields of a body.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Object {
    /// What the fields are, but for token ids.
    pub values: Map<String, Value>,
    /// Fields that hold token ids; none of them is among the values.
    pub ids: BTreeMap<String, Ids>,
}

/// Token ids, before anybody has compared them with a vocabulary. A number that can be no id stands as
/// [`NO_ID`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// An array of ids.
    One(Vec<u32>),
    /// An array of arrays of ids.
    Many(Vec<Vec<u32>>),
}

/// Parses a body.
///
/// # Errors
/// 400 where it is no JSON object, 413 where it holds too many values, 429 where there is no room for
/// what it holds.
pub fn parse(bytes: &[u8], charge: &mut BodyCharge) -> Result<Object, ApiError> {
    let not_json = |error| ApiError::body(format!("the request body is not JSON: {error}"));
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(not_json)?;
        return Err(ApiError::body("the request body must be a JSON object"));
    }
    let mut meter = Meter { charge, values: 0, uncharged: 0, field: "", refusal: None };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = reader.deserialize_map(Body(&mut meter));
    let parsed = parsed.and_then(|object| reader.end().map(|()| object));
    let (field, refusal) = (meter.field, meter.refusal);
    parsed.map_err(|error| match refusal {
        Some(refusal) => refusal,
        // Only where token ids are read is a value of another kind in the way.
        None if error.is_data() => {
            let message =
                format!("`{field}` begins with token ids and must then hold nothing else");
            ApiError::invalid(field, message)
        }
        None => not_json(error),
    })
}

/// A JSON number as a 64-bit integer; `5.0` counts as 5, `1e300` as nothing.
#[must_use]
pub fn to_integer(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| whole(number.as_f64().filter(|_| number.is_f64())?))
}

/// A number written with a fraction of zero stands for an integer where that loses nothing.
fn whole(float: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "integral and within 2^53")]
    (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
}

/// Counts what a body becomes.
struct Meter<'c> {
    charge: &'c mut BodyCharge,
    values: usize,
    uncharged: usize,
    /// The field of token ids that is being read, or was read last.
    field: &'static str,
    /// Why the rest is not looked at: no fault of the JSON.
    refusal: Option<ApiError>,
}

impl Meter<'_> {
    fn value<E: serde::de::Error>(&mut self) -> Result<(), E> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.refuse(ApiError::too_many_values(MAX_VALUES)));
        }
        self.hold(VALUE_BYTES)
    }

    fn hold<E: serde::de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        self.uncharged += bytes;
        if self.uncharged < CHARGED {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.uncharged);
        self.charge.grow(bytes).map_err(|_| self.refuse(ApiError::bodies_full()))
    }

    fn refuse<E: serde::de::Error>(&mut self, refusal: ApiError) -> E {
        self.refusal = Some(refusal);
        E::custom("refused")
    }
}

/// Reads the whole.
struct Body<'m, 'c>(&'m mut Meter<'c>);

impl<'de> Visitor<'de> for Body<'_, '_> {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let meter = self.0;
        let mut object = Object::default();
        while let Some(name) = fields.next_key::<String>()? {
            meter.value()?;
            // Of a name written twice the last counts, whatever it holds.
            object.ids.remove(&name);
            let Some(field) = TOKEN_FIELDS.into_iter().find(|field| *field == name) else {
                let value = fields.next_value_seed(Tree(&mut *meter))?;
                object.values.insert(name, value);
                continue;
            };
            meter.field = field;
            match fields.next_value_seed(Tokens(&mut *meter))? {
                Held::Value(value) => {
                    object.values.insert(name, value);
                }
                Held::Ids(ids) => {
                    object.values.swap_remove(&name);
                    object.ids.insert(name, ids);
                }
            }
        }
        Ok(object)
    }
}

/// The methods of a visitor for what is neither an array nor an object: `$of` the value.
macro_rules! visit_leaves {
    ($of:expr) => {
        fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
            Ok($of(Value::Bool(value)))
        }

        fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
            Ok($of(Value::Number(value.into())))
        }

        fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
            Ok($of(Value::Number(value.into())))
        }

        fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
            Ok($of(Number::from_f64(value).map_or(Value::Null, Value::Number)))
        }

        fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
            Ok($of(Value::String(value.to_owned())))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($of(Value::Null))
        }

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON value")
        }
    };
}

/// Reads a value.
struct Tree<'m, 'c>(&'m mut Meter<'c>);

impl<'de> DeserializeSeed<'de> for Tree<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        self.0.value()?;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_, '_> {
    type Value = Value;

    visit_leaves!(std::convert::identity);

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Value, A::Error> {
        rest(Vec::new(), items, self.0).map(Value::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Value, A::Error> {
        object(fields, self.0)
    }
}

fn object<'de, A: MapAccess<'de>>(mut fields: A, meter: &mut Meter<'_>) -> Result<Value, A::Error> {
    let mut map = Map::new();
    while let Some(name) = fields.next_key::<String>()? {
        let value = fields.next_value_seed(Tree(&mut *meter))?;
        map.insert(name, value);
    }
    Ok(Value::Object(map))
}

/// The values of an array after its first ones.
fn rest<'de, A: SeqAccess<'de>>(
    mut values: Vec<Value>,
    mut items: A,
    meter: &mut Meter<'_>,
) -> Result<Vec<Value>, A::Error> {
    while let Some(value) = items.next_element_seed(Tree(&mut *meter))? {
        values.push(value);
    }
    Ok(values)
}

impl Ids {
    /// The arrays of ids.
    #[must_use]
    pub fn lists(&self) -> &[Vec<u32>] {
        match self {
            Self::One(list) => std::slice::from_ref(list),
            Self::Many(lists) => lists,
        }
    }
}

/// What a field of token ids holds, or one of its items.
enum Held<I> {
    Ids(I),
    /// Something else.
    Value(Value),
}

/// Reads a field of token ids, or what stands in its place.
struct Tokens<'m, 'c>(&'m mut Meter<'c>);

impl<'de> DeserializeSeed<'de> for Tokens<'_, '_> {
    type Value = Held<Ids>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tokens<'_, '_> {
    type Value = Held<Ids>;

    visit_leaves!(Held::Value);

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let meter = self.0;
        match items.next_element_seed(First(&mut *meter))? {
            None => Ok(Held::Value(Value::Array(Vec::new()))),
            Some(Held::Value(Value::Number(first))) => {
                Ok(Held::Ids(Ids::One(ids(vec![to_id(&first)], items, meter)?)))
            }
            Some(Held::Value(first)) => {
                Ok(Held::Value(Value::Array(rest(vec![first], items, meter)?)))
            }
            Some(Held::Ids(first)) => {
                let mut lists = vec![first];
                while let Some(list) = items.next_element_seed(List(&mut *meter))? {
                    lists.push(list);
                }
                Ok(Held::Ids(Ids::Many(lists)))
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        object(fields, self.0).map(Held::Value)
    }
}

/// Reads the first item of such a field, which says what the others are to be.
struct First<'m, 'c>(&'m mut Meter<'c>);

impl<'de> DeserializeSeed<'de> for First<'_, '_> {
    type Value = Held<Vec<u32>>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        self.0.value()?;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for First<'_, '_> {
    type Value = Held<Vec<u32>>;

    visit_leaves!(Held::Value);

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        match items.next_element_seed(Tree(&mut *self.0))? {
            None => Ok(Held::Ids(Vec::new())),
            Some(Value::Number(first)) => Ok(Held::Ids(ids(vec![to_id(&first)], items, self.0)?)),
            Some(first) => Ok(Held::Value(Value::Array(rest(vec![first], items, self.0)?))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        object(fields, self.0).map(Held::Value)
    }
}

/// Reads an array of token ids.
struct List<'m, 'c>(&'m mut Meter<'c>);

impl<'de> DeserializeSeed<'de> for List<'_, '_> {
    type Value = Vec<u32>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Vec<u32>, D::Error> {
        self.0.value()?;
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_, '_> {
    type Value = Vec<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("token ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Vec<u32>, A::Error> {
        ids(Vec::new(), items, self.0)
    }
}

/// The token ids of an array after its first ones.
fn ids<'de, A: SeqAccess<'de>>(
    mut ids: Vec<u32>,
    mut items: A,
    meter: &mut Meter<'_>,
) -> Result<Vec<u32>, A::Error> {
    while let Some(number) = items.next_element::<Number>()? {
        ids.push(to_id(&number));
        meter.hold(ID_BYTES)?;
    }
    Ok(ids)
}

/// A number as a token id; what is none becomes one that no vocabulary has.
fn to_id(number: &Number) -> u32 {
    to_integer(number).and_then(|id| u32::try_from(id).ok()).unwrap_or(NO_ID)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::budget::BodyBudget;
    use super::*;

    /// Parses in so much memory: what is charged, and the outcome.
    fn parse_in(total: usize, text: &str) -> (usize, Result<Object, ApiError>) {
        let budget = BodyBudget::new(total);
        let mut charge = budget.charge(std::sync::Arc::default(), true);
        let object = parse(text.as_bytes(), &mut charge);
        (budget.used(), object)
    }

    fn object(text: &str) -> Result<Object, ApiError> {
        parse_in(1 << 30, text).1
    }

    /// The object as values alone, where its ids are few. No field is among both.
    fn as_value(object: Object) -> Value {
        let both = object.ids.keys().find(|name| object.values.contains_key(*name));
        assert_eq!(both, None, "a value beside ids");
        let ids = object.ids.into_iter().map(|(name, ids)| match ids {
            Ids::One(list) => (name, json!(list)),
            Ids::Many(lists) => (name, json!(lists)),
        });
        Value::Object(object.values.into_iter().chain(ids).collect())
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..1000_u32).prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("JSON has no others", |f| f.is_finite()).prop_map(Value::from),
            "\\PC{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec(("[a-c]{0,2}", inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn any_ids() -> impl Strategy<Value = Value> {
        let list = || prop::collection::vec(any::<u32>(), 0..9);
        prop_oneof![
            list().prop_map(Value::from),
            prop::collection::vec(list(), 0..4).prop_map(|lists| json!(lists)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(
            others in prop::collection::vec(("[a-e]{1,2}", any_value()), 0..5),
            field in prop::sample::select(TOKEN_FIELDS.to_vec()),
            ids in any_ids(),
        ) {
            let mut fields: Map<String, Value> = others.into_iter().collect();
            fields.insert(field.to_owned(), ids);
            let written = Value::Object(fields);
            for text in [written.to_string(), format!("{written:#}\n")] {
                prop_assert_eq!(as_value(object(&text).unwrap()), written.clone());
            }
        }

        /// In a field of ids stands whatever a client likes: it is read, or refused by its name.
        #[test]
        fn a_field_of_ids_is_read_or_refused_by_its_name(value in any_value()) {
            let written = json!({ "prompt": value });
            match object(&written.to_string()) {
                Ok(object) if object.ids.is_empty() => prop_assert_eq!(as_value(object), written),
                Ok(object) => prop_assert!(object.ids.contains_key("prompt")),
                Err(error) => {
                    prop_assert_eq!(error.status(), 400);
                    prop_assert!(error.to_string().starts_with("`prompt` begins with"));
                }
            }
        }

        #[test]
        fn no_bytes_are_a_panic_and_the_parser_agrees_with_serde(text in "[\\[\\]{}:,\"0-9a.\\\\ -]{0,40}") {
            let expected = serde_json::from_str::<Value>(&text);
            match object(&text) {
                Ok(object) => prop_assert_eq!(as_value(object), expected.unwrap()),
                Err(error) => {
                    let no_object = expected.is_ok_and(|value| !value.is_object());
                    prop_assert_eq!(no_object, error.to_string().ends_with("must be a JSON object"));
                }
            }
        }
    }

    #[test]
    fn ids_are_no_values_and_wrong_numbers_are_no_ids() {
        let text = "{\"prompt\": [[1, 2.0], [], [-1, 1.5, 1e300, 4294967296]], \"tokens\": [7]}";
        let object = object(text).unwrap();
        assert!(object.values.is_empty());
        let lists = vec![vec![1, 2], vec![], vec![NO_ID; 4]];
        assert_eq!(object.ids["prompt"], Ids::Many(lists));
        assert_eq!(object.ids["tokens"], Ids::One(vec![7]));
    }

    #[test]
    fn of_a_name_written_twice_the_last_counts_whatever_it_holds() {
        for (text, expected) in [
            ("{\"prompt\": \"a\", \"prompt\": [1]}", json!({"prompt": [1]})),
            ("{\"prompt\": [1], \"prompt\": \"a\"}", json!({"prompt": "a"})),
            ("{\"prompt\": [1], \"prompt\": [[2]]}", json!({"prompt": [[2]]})),
        ] {
            assert_eq!(as_value(object(text).unwrap()), expected);
        }
    }

    #[test]
    fn a_list_of_two_kinds_is_refused_by_its_name() {
        for wrong in
            ["[1, true]", "[1, [2]]", "[[1], 2]", "[[1], [\"a\"]]", "[1, null]", "[[], {}]"]
        {
            let error = object(&format!("{{\"tokens\": {wrong}}}")).unwrap_err();
            let message = "`tokens` begins with token ids and must then hold nothing else";
            assert_eq!(error, ApiError::invalid("tokens", message), "{wrong}");
        }
    }

    #[test]
    fn values_are_bounded_however_they_are_written() {
        let many =
            |item: &str| format!("{{\"a\": [{item}{}]}}", format!(",{item}").repeat(MAX_VALUES));
        let named: String = (0..=MAX_VALUES).map(|n| format!("\"{n}\":1,")).collect();
        for text in [
            many("1"),
            many("\"\""),
            many("[]"),
            many("{}"),
            many("null"),
            format!("{{\"a\": {{{named}\"b\":1}}}}"),
            format!("{{{named}\"b\":1}}"),
            // Arrays of ids are counted, their ids are not.
            many("[]").replace("\"a\"", "\"prompt\""),
            format!("{{{}\"b\":1}}", "\"a\":1,".repeat(MAX_VALUES)),
        ] {
            let (charged, refused) = parse_in(1 << 30, &text);
            assert_eq!(refused, Err(ApiError::too_many_values(MAX_VALUES)));
            assert!(charged <= MAX_VALUES * VALUE_BYTES + CHARGED);
        }
        let ids = format!("{{\"prompt\": [1{}]}}", ",1".repeat(1 << 20));
        let (charged, read) = parse_in(1 << 30, &ids);
        assert_eq!(read.unwrap().ids["prompt"].lists()[0].len(), (1 << 20) + 1);
        assert!((8 << 20..9 << 20).contains(&charged), "{charged}");
    }

    #[test]
    fn what_has_no_room_is_refused_while_it_is_read() {
        let values = format!("{{\"a\": [1{}]}}", ",1".repeat(10_000));
        let ids = format!("{{\"prompt\": [1{}]}}", ",1".repeat(1 << 20));
        for text in [values, ids] {
            let (charged, refused) = parse_in(1 << 20, &text);
            assert_eq!(refused, Err(ApiError::bodies_full()));
            assert!(charged <= 1 << 20);
        }
    }

    #[test]
    fn depth_is_bounded() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            for (depth, fine) in [(100, true), (200, false), (1 << 20, false)] {
                let text = format!("{{\"a\":{}1{}}}", open.repeat(depth), close.repeat(depth));
                assert_eq!(object(&text).is_ok(), fine);
                assert!(object(&format!("{{\"prompt\":{}", open.repeat(depth))).is_err());
            }
        }
    }
}
