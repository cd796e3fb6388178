//! From the JSON that a bootstrap is written in to the bytes that a stream carries.
//!
//! What is served is rendered by the same functions as a static bootstrap, so that both have the same guards. The tables
//! in `schema` tell the fields' numbers; a member that no table knows is an error, and never left out. A configuration of
//! an extension without a table travels as JSON (`TypedStruct`), which Envoy takes wherever it takes such a configuration.

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::{Any, ListValue, Struct, value};
use serde_json::{Map, Value};

use super::proto::TypedStruct;
use super::schema;

const TYPED_STRUCT: &str = "type.googleapis.com/xds.type.v3.TypedStruct";

/// A message of Envoy's API, as far as it is used.
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [Field],
}

/// One of its fields.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) shape: Shape,
}

/// What a field holds.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Any,
    Bool,
    Duration,
    Enum(&'static [(&'static str, u64)]),
    Message(&'static Message),
    Number,
    /// `UInt32Value`: a number that can be absent.
    NumberValue,
    Text,
}

/// How often it holds it.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Shape {
    Many,
    /// Named by text.
    Map,
    One,
}

/// Why something cannot be written.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("{message}.{member} holds something else than it should: {found}")]
    Type { message: &'static str, member: String, found: String },
    #[error("{message} has no member {member} that this server knows")]
    Unknown { message: &'static str, member: String },
}

/// Writes a message.
pub(crate) fn encode(message: &'static Message, value: &Value) -> Result<Vec<u8>, WireError> {
    let members = value.as_object().ok_or_else(|| wrong(message, "", value))?;
    fields(message, members)
}

/// Writes a message with its type, which `@type` tells.
pub(crate) fn any(value: &Value) -> Result<Any, WireError> {
    let mut members = value.as_object().cloned().unwrap_or_default();
    let Some(Value::String(type_url)) = members.remove("@type") else { return Ok(Any::default()) };
    let bytes = match schema::of_extension(&type_url) {
        Some(message) => fields(message, &members)?,
        None => {
            let inner = TypedStruct { type_url, value: Some(as_struct(&members)) };
            return Ok(Any { type_url: TYPED_STRUCT.to_owned(), value: inner.encode_to_vec() });
        }
    };
    Ok(Any { type_url, value: bytes })
}

fn fields(message: &'static Message, members: &Map<String, Value>) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    for (name, value) in members {
        let unknown = || WireError::Unknown { message: message.name, member: name.clone() };
        let field = message.fields.iter().find(|field| field.name == name).ok_or_else(unknown)?;
        match (field.shape, value) {
            (Shape::One, value) => bytes.extend(field.encode(message, field.number, value)?),
            (Shape::Many, Value::Array(values)) => {
                for value in values {
                    bytes.extend(field.encode(message, field.number, value)?);
                }
            }
            (Shape::Map, Value::Object(entries)) => {
                for (key, value) in entries {
                    let mut entry = delimited(1, key.as_bytes());
                    entry.extend(field.encode(message, 2, value)?);
                    bytes.extend(delimited(field.number, &entry));
                }
            }
            (Shape::Many | Shape::Map, value) => return Err(wrong(message, name, value)),
        }
    }
    Ok(bytes)
}

impl Field {
    fn encode(&self, message: &'static Message, number: u32, value: &Value) -> Result<Vec<u8>, WireError> {
        let wrong = || wrong(message, self.name, value);
        Ok(match self.kind {
            Kind::Any => delimited(number, &any(value)?.encode_to_vec()),
            Kind::Bool => varint(number, u64::from(value.as_bool().ok_or_else(wrong)?)),
            Kind::Duration => delimited(number, &duration(value).ok_or_else(wrong)?),
            Kind::Enum(words) => {
                let word = value.as_str().ok_or_else(wrong)?;
                let (_, id) = words.iter().find(|(name, _)| *name == word).ok_or_else(wrong)?;
                varint(number, *id)
            }
            Kind::Message(inner) => delimited(number, &encode(inner, value)?),
            Kind::Number => varint(number, small(value).ok_or_else(wrong)?),
            Kind::NumberValue => delimited(number, &varint(1, small(value).ok_or_else(wrong)?)),
            Kind::Text => delimited(number, value.as_str().ok_or_else(wrong)?.as_bytes()),
        })
    }
}

fn wrong(message: &'static Message, member: &str, value: &Value) -> WireError {
    WireError::Type { message: message.name, member: member.to_owned(), found: value.to_string() }
}

fn small(value: &Value) -> Option<u64> {
    value.as_u64().filter(|number| u32::try_from(*number).is_ok())
}

/// `5s`, `0.25s`.
fn duration(value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str()?.strip_suffix('s')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    Some(prost_types::Duration { seconds: whole.parse().ok()?, nanos }.encode_to_vec())
}

fn delimited(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 6);
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(6);
    encode_key(number, WireType::Varint, &mut bytes);
    encode_varint(value, &mut bytes);
    bytes
}

pub(crate) fn as_struct(members: &Map<String, Value>) -> Struct {
    Struct { fields: members.iter().map(|(name, value)| (name.clone(), as_value(value))).collect() }
}

fn as_value(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => value::Kind::NullValue(0),
        Value::Bool(flag) => value::Kind::BoolValue(*flag),
        Value::Number(number) => value::Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => value::Kind::StringValue(text.clone()),
        Value::Array(items) => {
            value::Kind::ListValue(ListValue { values: items.iter().map(as_value).collect() })
        }
        Value::Object(members) => value::Kind::StructValue(as_struct(members)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What protoc's own encoding of the same cluster is, byte for byte.
    #[test]
    fn a_cluster_is_written_as_its_protocol_says() {
        let cluster = json!({"connect_timeout": "5s", "name": "a", "type": "EDS"});
        let expected = [0x22, 0x02, 0x08, 0x05, 0x0a, 0x01, b'a', 0x10, 0x03];
        assert_eq!(encode(&schema::CLUSTER, &cluster).unwrap(), expected);
        let limits = json!({"circuit_breakers": {"thresholds": [{"max_retries": 0, "max_requests": 300}]}});
        let threshold = [0x22, 0x03, 0x08, 0xac, 0x02, 0x2a, 0x02, 0x08, 0x00];
        let expected = [&[0x52, 0x0b, 0x0a, 0x09][..], &threshold].concat();
        assert_eq!(encode(&schema::CLUSTER, &limits).unwrap(), expected);
    }

    #[test]
    fn nothing_is_left_out_silently() {
        for (value, error) in [
            (json!({"nam": "a"}), "Cluster has no member nam that this server knows"),
            (json!({"name": 1}), "Cluster.name holds something else than it should: 1"),
            (json!({"type": "DNS"}), "Cluster.type holds something else than it should: \"DNS\""),
            (
                json!({"connect_timeout": "5"}),
                "Cluster.connect_timeout holds something else than it should: \"5\"",
            ),
            (
                json!({"circuit_breakers": {"thresholds": {}}}),
                "CircuitBreakers.thresholds holds something else than it should: {}",
            ),
            (json!([]), "Cluster. holds something else than it should: []"),
        ] {
            assert_eq!(encode(&schema::CLUSTER, &value).unwrap_err().to_string(), error, "{value}");
        }
    }

    #[test]
    fn durations_have_seconds_and_nanoseconds() {
        for (text, seconds, nanos) in
            [("0s", 0, 0), ("90s", 90, 0), ("0.25s", 0, 250_000_000), ("1.5s", 1, 500_000_000)]
        {
            let expected = prost_types::Duration { seconds, nanos }.encode_to_vec();
            assert_eq!(duration(&json!(text)).unwrap(), expected, "{text}");
        }
        for text in ["", "s", "1", "-1s", "1.s5", "1e3s", "1.0000000001s"] {
            let wrong = duration(&json!(text));
            assert!(wrong.is_none() || text == "s", "{text}");
        }
    }

    #[test]
    fn an_extension_without_a_table_travels_as_json() {
        let manager =
            json!({"@type": "type.googleapis.com/x.Y", "kb": 16, "on": true, "list": [null, {"a": "b"}]});
        let any = any(&manager).unwrap();
        assert_eq!(any.type_url, TYPED_STRUCT);
        let inner = TypedStruct::decode(any.value.as_slice()).unwrap();
        assert_eq!(inner.type_url, "type.googleapis.com/x.Y");
        let fields = inner.value.unwrap().fields;
        assert_eq!(fields.len(), 3);
        assert_eq!(fields["kb"].kind, Some(value::Kind::NumberValue(16.0)));
    }
}
