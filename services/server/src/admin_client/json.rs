//! JSON of people: what is not clear in it is refused, since a call may not be taken back.

use std::fmt;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The least whole number that a float does not tell from its neighbours: 2^53.
const INEXACT: f64 = 9_007_199_254_740_992.0;

/// Reads an object in which no field is there twice.
pub(super) fn object(text: &str) -> serde_json::Result<Map<String, Value>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let fields = json.deserialize_map(Fields)?;
    json.end()?;
    Ok(fields)
}

/// Why these fields would not be understood as they were meant: a number of which only something like it is left, or a field that goes by both
/// of its names. `None` if there is no such one.
pub(super) fn misunderstood(fields: &Map<String, Value>, message: &MessageDescriptor) -> Option<String> {
    let mut seen: Vec<FieldDescriptor> = Vec::new();
    for (name, value) in fields {
        // Another place tells of names that there are not.
        let Some(field) = field(message, name) else { continue };
        if seen.contains(&field) {
            return Some(format!("'{}' is there twice, once as '{}'", field.name(), field.json_name()));
        }
        if let Some(fault) = inexact(value, &field) {
            return Some(format!("field '{name}': {fault}"));
        }
        seen.push(field);
    }
    None
}

/// The field that goes by this name, that of the `.proto` file or that of JSON.
pub(super) fn field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

fn inexact(value: &Value, field: &FieldDescriptor) -> Option<String> {
    match (value, field.kind()) {
        (_, Kind::Double | Kind::Float) => None,
        (Value::Number(number), _) => {
            let float = number.as_f64().filter(|_| number.is_f64())?;
            (float.abs() >= INEXACT).then(|| format!("{float:e} is too large to be taken as it is"))
        }
        (Value::Array(values), _) => values.iter().find_map(|value| inexact(value, field)),
        (Value::Object(fields), Kind::Message(message)) => misunderstood(fields, &message),
        _ => None,
    }
}

/// A value in which no object has a name twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any).map(Self)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(value)) = values.next_element()? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Value, A::Error> {
        Fields.visit_map(fields).map(Value::Object)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if all.contains_key(&name) {
                return Err(Error::custom(format_args!("'{name}' is there twice")));
            }
            let Strict(value) = fields.next_value()?;
            all.insert(name, value);
        }
        Ok(all)
    }
}
