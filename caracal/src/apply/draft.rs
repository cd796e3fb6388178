//! An object that is being put together from a file.

use super::item::{Fault, Item, Kind, Place, Reference};
use caracal_admin::{Object, Refused, preview};
use serde::Serialize;
use serde_json::{Map, Value, json};
use serde_saphyr::{Location, Spanned};
use std::path::Path;
use std::sync::Arc;

/// An object that is being put together.
pub(super) struct Draft<'a> {
    pub(super) item: Item,
    file: &'a Arc<Path>,
}

pub(super) fn place(file: &Arc<Path>, at: Location) -> Place {
    Place { file: Arc::clone(file), line: at.line(), column: at.column() }
}

impl<'a> Draft<'a> {
    pub(super) fn new(kind: Kind, key: &Spanned<String>, file: &'a Arc<Path>) -> Self {
        Self { item: Item::new(kind, &key.value, place(file, key.referenced)), file }
    }

    pub(super) fn set(mut self, name: &str, value: Value, at: Location) -> Self {
        self.item.fields.insert(name.to_owned(), value);
        self.item.places.insert(name.to_owned(), place(self.file, at));
        self
    }

    pub(super) fn field<T: Serialize>(self, name: &str, value: &Spanned<T>) -> Self {
        self.set(name, json!(value.value), value.referenced)
    }

    pub(super) fn maybe<T: Serialize>(self, name: &str, value: Option<&Spanned<T>>) -> Self {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    /// A list whose entries have places of their own.
    pub(super) fn list<T: Serialize>(mut self, name: &str, items: &[Spanned<T>]) -> Self {
        for (index, item) in items.iter().enumerate() {
            self.item.places.insert(format!("{name}[{index}]"), place(self.file, item.referenced));
        }
        let values = items.iter().map(|item| json!(item.value)).collect();
        self.item.fields.insert(name.to_owned(), Value::Array(values));
        self
    }

    pub(super) fn refers(mut self, kind: Kind, key: &Spanned<String>) -> Self {
        let key_place = place(self.file, key.referenced);
        self.item.references.push(Reference { kind, key: key.value.trim().to_owned(), place: key_place });
        self
    }
}

/// Puts what would be stored in place of what is written, or says why nothing would be.
pub(super) fn normalize(item: &mut Item, object: Object, body: &Value) -> Result<Value, Fault> {
    match preview(object, body) {
        Ok(stored) => {
            for (name, value) in &mut item.fields {
                if let Some(stored) = stored.get(wire_name(name)) {
                    value.clone_from(stored);
                }
            }
            Ok(stored)
        }
        Err(refused) => Err(fault_of(item, &refused)),
    }
}

/// A refusal, at the place of the field that is to blame.
pub(super) fn fault_of(item: &Item, refused: &Refused) -> Fault {
    let by_code = match refused.code.as_str() {
        "invalid_sink_url" => Some("url"),
        code if code.starts_with("trait_") => Some("traits"),
        _ => None,
    };
    let member = refused.member.as_deref().or(by_code);
    let field = item.places.iter().find(|(name, _)| Some(wire_name(name)) == member);
    let place = field.map_or_else(|| item.place_of(&refused.why), |(_, place)| place);
    Fault::at(place, refused.to_string())
}

/// What a field is called on the wire.
pub(super) fn wire_name(field: &str) -> &str {
    match field {
        "config" => "config_json",
        "provider" => "credential_provider_id",
        "application" => "application_id",
        "resource" => "resource_id",
        "user" => "user_id",
        field => field,
    }
}

pub(super) fn body_of(item: &Item, more: Value) -> Value {
    let mut body: Map<String, Value> =
        item.fields.iter().map(|(name, value)| (wire_name(name).to_owned(), value.clone())).collect();
    if let Value::Object(more) = more {
        body.extend(more);
    }
    Value::Object(body)
}
