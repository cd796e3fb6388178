//! JSON objects read member by member, and strictly: no object at any depth names a member twice.
//!
//! Types could derive their readers, and natively some do. Inside the Envoy module every derived reader is another copy
//! of the parser, and all of it is compiled when an Envoy worker starts, so what the module reads is read here.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Parses a JSON text. A member that stands twice is an error, at any depth.
///
/// # Errors
/// The text is not JSON, or names a member twice.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice::<Strict>(text).map(|strict| strict.0)
}

/// A value in which no object names a member twice, for those who read the text around it themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Strict(pub Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Strict>()? {
            list.push(item.0);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, value)) = members.next_entry::<String, Strict>()? {
            if map.insert(name, value.0).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

/// A member that is missing, or is not what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("member `{0}` is missing or malformed")]
pub struct Member(pub &'static str);

/// A member that has to be there.
///
/// # Errors
/// [`Member`].
pub fn required<'a>(value: &'a Value, name: &'static str) -> Result<&'a Value, Member> {
    value.get(name).ok_or(Member(name))
}

/// A text that has to be there.
///
/// # Errors
/// [`Member`].
pub fn text<'a>(value: &'a Value, name: &'static str) -> Result<&'a str, Member> {
    required(value, name)?.as_str().ok_or(Member(name))
}

/// A number from 0 on that has to be there.
///
/// # Errors
/// [`Member`].
pub fn number(value: &Value, name: &'static str) -> Result<u64, Member> {
    required(value, name)?.as_u64().ok_or(Member(name))
}

/// A flag, if it is there.
///
/// # Errors
/// [`Member`].
pub fn flag(value: &Value, name: &'static str) -> Result<Option<bool>, Member> {
    match value.get(name) {
        None => Ok(None),
        Some(flag) => flag.as_bool().map(Some).ok_or(Member(name)),
    }
}

/// The items of a list; none where it is not there.
///
/// # Errors
/// [`Member`].
pub fn items<'a>(value: &'a Value, name: &'static str) -> Result<&'a [Value], Member> {
    match value.get(name) {
        None => Ok(&[]),
        Some(items) => items.as_array().map(Vec::as_slice).ok_or(Member(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_same_and_a_member_never_stands_twice() {
        for text in [
            "null",
            "true",
            "-7",
            "18446744073709551615",
            "1.5",
            "\"a\\u00e9\\n\"",
            "[1,[2,{}],\"x\"]",
            r#"{"a":{"b":[{"c":null}]},"d":false}"#,
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "{",
            "nul",
            "[1,]",
            r#"{"a":1,"a":1}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"[{"a":1,"a":2}]"#,
            "1 2",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
