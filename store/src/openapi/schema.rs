//! Schemas of bodies, parameters and answers (JSON Schema 2020-12, as OpenAPI 3.1 has it).

use serde_json::{Map, Value, json};

/// Any value.
#[must_use]
pub fn any() -> Value {
    json!({})
}

/// A text.
#[must_use]
pub fn text() -> Value {
    json!({ "type": "string" })
}

/// A text of so many characters.
#[must_use]
pub fn text_of(least: usize, most: usize) -> Value {
    json!({ "type": "string", "minLength": least, "maxLength": most })
}

/// A text that follows a pattern.
#[must_use]
pub fn matching(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

/// An entity's id (contract admin-audit §1.1).
#[must_use]
pub fn id() -> Value {
    matching("^[A-Za-z0-9._:-]{1,128}$")
}

/// A time, as ISO 8601 in UTC with milliseconds.
#[must_use]
pub fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

/// A whole number.
#[must_use]
pub fn number() -> Value {
    json!({ "type": "integer" })
}

/// A whole number between these, both included.
#[must_use]
pub fn number_of(least: i64, most: i64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

/// True or false.
#[must_use]
pub fn flag() -> Value {
    json!({ "type": "boolean" })
}

/// One of these texts.
#[must_use]
pub fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

/// This and nothing else.
#[must_use]
pub fn exactly(value: impl Into<Value>) -> Value {
    json!({ "const": value.into() })
}

/// One of these shapes.
#[must_use]
pub fn either(shapes: &[Value]) -> Value {
    json!({ "anyOf": shapes })
}

/// That, or null.
#[must_use]
pub fn maybe(schema: Value) -> Value {
    match schema.get("type").and_then(Value::as_str).filter(|_| schema.get("enum").is_none()) {
        Some(kind) => {
            let kinds = json!([kind, "null"]);
            let mut members = schema.as_object().cloned().unwrap_or_default();
            members.insert("type".to_owned(), kinds);
            Value::Object(members)
        }
        None => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

/// A list.
#[must_use]
pub fn list(item: Value) -> Value {
    json!({ "type": "array", "items": item })
}

/// A list of so many.
#[must_use]
pub fn list_of(item: Value, least: usize, most: usize) -> Value {
    json!({ "type": "array", "items": item, "minItems": least, "maxItems": most })
}

/// A component of the document.
#[must_use]
pub fn named(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object with these members and no others. A name with a `?` at its end may be absent.
#[must_use]
pub fn object(members: &[(&str, Value)]) -> Value {
    members_of(members, false)
}

/// The same, where further members may be there.
#[must_use]
pub fn open_object(members: &[(&str, Value)]) -> Value {
    members_of(members, true)
}

fn members_of(members: &[(&str, Value)], open: bool) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, schema) in members {
        let bare = name.strip_suffix('?').unwrap_or(name);
        if bare.len() == name.len() {
            required.push(bare);
        }
        properties.insert(bare.to_owned(), schema.clone());
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    if let Some(parts) = schema.as_object_mut() {
        if !required.is_empty() {
            parts.insert("required".to_owned(), json!(required));
        }
        if !open {
            parts.insert("additionalProperties".to_owned(), false.into());
        }
    }
    schema
}

/// A closed object that has these members besides.
#[must_use]
pub fn extended(base: &Value, members: &[(&str, Value)]) -> Value {
    let mut schema = base.clone();
    let more = members_of(members, false);
    for part in ["properties", "required"] {
        match (schema.get_mut(part), more.get(part)) {
            (Some(Value::Object(there)), Some(Value::Object(more))) => there.extend(more.clone()),
            (Some(Value::Array(there)), Some(Value::Array(more))) => there.extend(more.clone()),
            _ => {}
        }
    }
    schema
}

/// An object without these of its members.
#[must_use]
pub fn without(base: &Value, names: &[&str]) -> Value {
    let mut schema = base.clone();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.retain(|name, _| !names.contains(&name.as_str()));
    }
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| name.as_str().is_none_or(|name| !names.contains(&name)));
    }
    schema
}

/// How every service says no.
#[must_use]
pub fn problem() -> Value {
    open_object(&[
        ("error", text_of(1, 128)),
        ("error_description?", text()),
        ("requestId?", text()),
        ("details?", any()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_required_unless_marked() {
        let base = object(&[("id", id()), ("name?", text())]);
        assert_eq!(base["required"], json!(["id"]));
        assert_eq!(base["additionalProperties"], false);
        let more = extended(&base, &[("secret", text())]);
        assert_eq!(more["required"], json!(["id", "secret"]));
        assert!(more["properties"]["name"].is_object());
        let less = without(&more, &["id", "name"]);
        assert_eq!(less["required"], json!(["secret"]));
        assert_eq!(less["properties"].as_object().unwrap().len(), 1);
        assert!(open_object(&[("a?", any())]).get("required").is_none());
    }

    #[test]
    fn null_is_allowed_beside_every_kind_of_schema() {
        assert_eq!(maybe(text())["type"], json!(["string", "null"]));
        assert_eq!(maybe(one_of(&["a"]))["anyOf"][1], json!({ "type": "null" }));
        assert_eq!(maybe(named("X"))["anyOf"][0], named("X"));
    }
}
