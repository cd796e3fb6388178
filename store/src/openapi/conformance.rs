//! Does an answer follow the document? For tests: every answer that they get is held to what is declared.
//!
//! Knows the part of JSON Schema that [`schema`](super::schema) makes, but for patterns and formats, which fuzzing checks.

use super::Operation;
use serde_json::Value;

/// What an answer does that its document does not say; nothing where the route is not described, or where the answer is
/// no JSON.
#[must_use]
pub fn violations(
    document: &Value,
    operations: &[Operation],
    (method, path): (&str, &str),
    (status, body): (u16, Option<&Value>),
) -> Vec<String> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |operation: &&Operation| operation.verb.as_str() == method && is_at(operation.path, path);
    // `/subjects/overview` is that route, and not the subject of that name.
    let operation =
        operations.iter().filter(fits).min_by_key(|operation| operation.path_parameters().count());
    let Some(operation) = operation else { return Vec::new() };
    let Some(answer) = operation.answers.iter().find(|answer| answer.status == status) else {
        return vec![format!("{method} {}: {status} is not declared", operation.path)];
    };
    let declared = answer.content.iter().find(|content| content.media == "application/json");
    match (declared, body) {
        (Some(declared), Some(body)) => {
            let mut found = Vec::new();
            check(document, &declared.schema, body, "$", &mut found);
            found.iter().map(|what| format!("{method} {} {status}: {what}", operation.path)).collect()
        }
        (None, Some(_)) if answer.content.is_empty() => {
            vec![format!("{method} {} {status}: a body, and none is declared", operation.path)]
        }
        _ => Vec::new(),
    }
}

fn is_at(template: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    let fits = template.split('/').all(|part| {
        parts.next().is_some_and(|given| given == part || (part.starts_with('{') && !given.is_empty()))
    });
    fits && parts.next().is_none()
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        match document.pointer(name.trim_start_matches('#')) {
            Some(schema) => check(document, schema, value, at, found),
            None => found.push(format!("{at}: there is no {name}")),
        }
        return;
    }
    if let Some(shapes) = schema.get("anyOf").and_then(Value::as_array) {
        let fits = shapes.iter().any(|shape| {
            let mut inner = Vec::new();
            check(document, shape, value, at, &mut inner);
            inner.is_empty()
        });
        if !fits {
            found.push(format!("{at}: {value} has none of the shapes"));
        }
    }
    if schema.get("const").is_some_and(|constant| constant != value) {
        found.push(format!("{at}: {value} is another value"));
    }
    let words = schema.get("enum").and_then(Value::as_array);
    if words.is_some_and(|words| !words.contains(value)) {
        found.push(format!("{at}: {value} is none of the words"));
    }
    if schema.get("type").is_some_and(|kind| !is_of(kind, value)) {
        found.push(format!("{at}: {value} is of another type"));
        return;
    }
    if let (Some(item), Some(items)) = (schema.get("items"), value.as_array()) {
        for (index, value) in items.iter().enumerate() {
            check(document, item, value, &format!("{at}[{index}]"), found);
        }
    }
    check_members(document, schema, value, at, found);
}

fn check_members(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Some(members) = value.as_object() else { return };
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !name.as_str().is_some_and(|name| members.contains_key(name)) {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    for (name, value) in members {
        match schema.get("properties").and_then(|properties| properties.get(name)) {
            Some(schema) => check(document, schema, value, &format!("{at}.{name}"), found),
            None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => {
                found.push(format!("{at}: {name} is not declared"));
            }
            None => {}
        }
    }
}

fn is_of(kind: &Value, value: &Value) -> bool {
    let is = |kind: &Value| match kind.as_str() {
        Some("array") => value.is_array(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("null") => value.is_null(),
        Some("object") => value.is_object(),
        Some("string") => value.is_string(),
        _ => false,
    };
    kind.as_array().map_or_else(|| is(kind), |kinds| kinds.iter().any(is))
}

#[cfg(test)]
mod tests {
    use super::super::schema::{flag, list, maybe, named, object, one_of, text};
    use super::super::{Document, Verb};
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_outside_their_schema_are_found() {
        let thing = object(&[("id", text()), ("kind?", one_of(&["a", "b"])), ("tags", list(maybe(flag())))]);
        let described = [
            Operation::new(Verb::Get, "one", "/things/{id}", "").answers(200, named("Thing")),
            Operation::new(Verb::Get, "count", "/things/count", "").answers_nothing(204),
        ];
        let document =
            Document { title: "", description: "", components: vec![("Thing", thing)], security: Vec::new() };
        let document = document.of(&described);
        let good = json!({ "id": "x", "tags": [true, null] });
        let cases = [
            ("/things/x", 200, good.clone(), 0),
            ("/things/x?y=z", 200, json!({ "id": "x", "kind": "a", "tags": [] }), 0),
            ("/things/x", 404, good.clone(), 1),
            ("/things/count", 204, good.clone(), 1),
            ("/other", 500, good, 0),
            ("/things/x", 200, json!({ "id": 1, "kind": "c", "tags": ["x"], "more": 1 }), 4),
            ("/things/x", 200, json!({}), 2),
            ("/things/x", 200, json!([]), 1),
        ];
        for (path, status, body, expected) in cases {
            let found = violations(&document, &described, ("GET", path), (status, Some(&body)));
            assert_eq!(found.len(), expected, "{path} {status} {body}: {found:?}");
        }
        assert!(violations(&document, &described, ("POST", "/things/x"), (405, None)).is_empty());
    }
}
