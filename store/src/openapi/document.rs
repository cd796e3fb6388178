//! The OpenAPI document of a list of operations.

use super::{Answer, Content, Operation};
use crate::openapi::schema;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What a document says beside its operations.
#[derive(Debug, Clone)]
pub struct Document {
    /// The name of the API.
    pub title: &'static str,
    /// What it is for, in a sentence or two.
    pub description: &'static str,
    /// The shapes that operations refer to.
    pub components: Vec<(&'static str, Value)>,
    /// How callers say who they are.
    pub security: Vec<(&'static str, Value)>,
}

impl Document {
    /// The document of these operations, as OpenAPI 3.1. The same operations make the same text.
    #[must_use]
    pub fn of(&self, operations: &[Operation]) -> Value {
        let mut paths: Map<String, Value> = Map::new();
        for operation in operations {
            let path = paths.entry(operation.path).or_insert_with(|| json!({}));
            if let Some(methods) = path.as_object_mut() {
                methods.insert(operation.verb.as_str().to_lowercase(), describe(operation));
            }
        }
        let mut document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": self.title, "description": self.description, "version": env!("CARGO_PKG_VERSION"),
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            "paths": paths,
            "components": {
                "schemas": members(&self.components), "securitySchemes": members(&self.security),
                "responses": { "Refused": {
                    "description": "Refused; `error` says why",
                    "content": { "application/json": { "schema": schema::named("Problem") } },
                } },
            },
        });
        document.sort_all_objects();
        document
    }
}

fn members(named: &[(&'static str, Value)]) -> Value {
    named.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn describe(operation: &Operation) -> Value {
    let in_path = operation
        .path_parameters()
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": schema::id() }));
    let in_query = operation.query.iter().map(|(name, schema)| {
        let required = !name.ends_with('?');
        json!({ "name": name.trim_end_matches('?'), "in": "query", "required": required, "schema": schema })
    });
    let parameters: Vec<Value> = in_path.chain(in_query).collect();
    let mut answers = Map::new();
    for answer in &operation.answers {
        if is_refusal(answer) {
            answers.insert(answer.status.to_string(), json!({ "$ref": "#/components/responses/Refused" }));
            continue;
        }
        let mut described = json!({ "description": reason(answer.status) });
        if let Some(members) = described.as_object_mut().filter(|_| !answer.content.is_empty()) {
            members.insert("content".to_owned(), answer.content.iter().map(content).collect());
        }
        answers.insert(answer.status.to_string(), described);
    }
    let mut described = json!({
        "operationId": operation.name, "summary": operation.summary, "responses": answers,
        "security": operation.security.map_or_else(|| json!([]), |scheme| json!([{ scheme: [] }])),
    });
    if let Some(members) = described.as_object_mut() {
        if !parameters.is_empty() {
            members.insert("parameters".to_owned(), parameters.into());
        }
        if let Some((sent, required)) = &operation.body {
            let sent = Value::Object([content(sent)].into_iter().collect());
            members.insert("requestBody".to_owned(), json!({ "required": required, "content": sent }));
        }
        members.extend(operation.extensions.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    }
    described
}

/// Is it nothing but the shape in which everything is refused? It is written once.
fn is_refusal(answer: &Answer) -> bool {
    let problem = schema::named("Problem");
    matches!(answer.content.as_slice(), [only] if only.media == "application/json" && only.schema == problem)
}

fn content(content: &Content) -> (String, Value) {
    (content.media.to_owned(), json!({ "schema": content.schema }))
}

/// The reason phrase of a status.
fn reason(status: u16) -> &'static str {
    let status = axum::http::StatusCode::from_u16(status).ok();
    status.and_then(|status| status.canonical_reason()).unwrap_or("Answer")
}

/// The names of components that a document refers to.
#[must_use]
pub fn components_used(document: &Value) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    collect(document, &mut used);
    used
}

fn collect(value: &Value, used: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, used)),
        Value::Object(members) => {
            let name = members.get("$ref").and_then(Value::as_str);
            used.extend(name.and_then(|name| name.strip_prefix("#/components/schemas/")).map(str::to_owned));
            members.values().for_each(|member| collect(member, used));
        }
        _ => {}
    }
}

/// The variable that lets [`hold`] write.
pub const WRITE: &str = "CARACAL_WRITE_OPENAPI";

/// Holds a file to a document: they are the same, or where [`WRITE`] is set, they are now.
///
/// # Errors
///
/// The file cannot be read or written, or it says something else.
pub fn hold(file: &std::path::Path, document: &Value) -> std::io::Result<()> {
    let text = format!("{document:#}\n");
    if std::env::var_os(WRITE).is_some() {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        return std::fs::write(file, text);
    }
    if std::fs::read_to_string(file)? == text {
        return Ok(());
    }
    let why = format!("{} is out of date: run `cargo xtask openapi`", file.display());
    Err(std::io::Error::other(why))
}
