//! What files and the Admin API are compared as: objects with a natural name, whose fields are called as in the files.

use super::document::SecretSource;
use super::template::Template;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What an object is. In this order they are made; in the other they are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Setting,
    Zone,
    Application,
    Provider,
    Resource,
    Policy,
    PolicySet,
    Workload,
    Grant,
    SubjectIssuer,
    NotificationSink,
}

impl Kind {
    /// The kinds of objects in a zone.
    pub(super) const OF_ZONE: [Self; 9] = [
        Self::Application,
        Self::Provider,
        Self::Resource,
        Self::Policy,
        Self::PolicySet,
        Self::Workload,
        Self::Grant,
        Self::SubjectIssuer,
        Self::NotificationSink,
    ];

    /// Its part of a path.
    pub(super) fn collection(self) -> &'static str {
        match self {
            Self::Setting => "",
            Self::Zone => "zones",
            Self::Application => "applications",
            Self::Provider => "providers",
            Self::Resource => "resources",
            Self::Policy => "policies",
            Self::PolicySet => "policy-sets",
            Self::Workload => "workloads",
            Self::Grant => "grants",
            Self::SubjectIssuer => "subject-issuers",
            Self::NotificationSink => "notification-sinks",
        }
    }

    /// For people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Setting => "setting",
            Self::Zone => "zone",
            Self::Application => "application",
            Self::Provider => "provider",
            Self::Resource => "resource",
            Self::Policy => "policy",
            Self::PolicySet => "policy set",
            Self::Workload => "workload",
            Self::Grant => "grant",
            Self::SubjectIssuer => "subject issuer",
            Self::NotificationSink => "notification sink",
        }
    }

    /// How many a zone may have, where the Admin API bounds that tightly.
    pub(super) fn most(self) -> Option<usize> {
        matches!(self, Self::SubjectIssuer | Self::NotificationSink).then_some(20)
    }
}

/// Where something stands in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: Arc<Path>,
    pub(super) line: u64,
    pub(super) column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Why the files cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) place: Option<Place>,
    pub(super) why: String,
}

impl Fault {
    pub(super) fn at(place: &Place, why: impl Into<String>) -> Self {
        Self { place: Some(place.clone()), why: why.into() }
    }

    pub(super) fn of(why: impl Into<String>) -> Self {
        Self { place: None, why: why.into() }
    }

    /// As one member of a JSON report.
    pub(super) fn to_json(&self) -> Value {
        let place = self.place.as_ref();
        serde_json::json!({
            "file": place.map(|place| place.file.display().to_string()),
            "line": place.map(|place| place.line), "column": place.map(|place| place.column),
            "message": self.why,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

/// Something that an object names and that has to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) kind: Kind,
    pub(super) key: String,
    pub(super) place: Place,
}

/// Where a secret is, and where it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedSecret {
    pub(super) source: SecretSource,
    pub(super) place: Place,
}

/// An object as the files want it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) kind: Kind,
    /// Its slug, identifier or name.
    pub(super) key: String,
    pub(super) place: Place,
    /// Where its fields stand.
    pub(super) places: BTreeMap<String, Place>,
    /// What is written, as it would be stored. What is not written is left as it is.
    pub(super) fields: Map<String, Value>,
    pub(super) references: Vec<Reference>,
    /// The secrets of a provider.
    pub(super) secrets: BTreeMap<String, NamedSecret>,
    /// The secrets that a provider cannot do without.
    pub(super) needs: BTreeSet<String>,
    /// The text of a policy.
    pub(super) template: Option<Template>,
}

impl Item {
    pub(super) fn new(kind: Kind, key: &str, place: Place) -> Self {
        Self {
            kind,
            key: key.trim().to_owned(),
            place,
            places: BTreeMap::new(),
            fields: Map::new(),
            references: Vec::new(),
            secrets: BTreeMap::new(),
            needs: BTreeSet::new(),
            template: None,
        }
    }

    /// The place of the field that a text begins with, else of the object.
    pub(super) fn place_of(&self, why: &str) -> &Place {
        let begins = |name: &str| {
            let rest = why.strip_prefix(name);
            rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
        };
        let named = self.places.iter().filter(|(name, _)| begins(name));
        named.max_by_key(|(name, _)| name.len()).map_or(&self.place, |(_, place)| place)
    }

    pub(super) fn text(&self, field: &str) -> &str {
        self.fields.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn flag(&self, field: &str) -> Option<bool> {
        self.fields.get(field).and_then(Value::as_bool)
    }

    /// The texts of a list.
    pub(super) fn texts(&self, field: &str) -> Vec<String> {
        texts(self.fields.get(field))
    }
}

/// The texts of a list.
pub(super) fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A zone as the files want it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DesiredZone {
    pub(super) item: Item,
    /// The kinds whose lists are written.
    pub(super) managed: BTreeSet<Kind>,
    pub(super) items: Vec<Item>,
}

/// What the files want.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Desired {
    pub(super) settings: Vec<Item>,
    pub(super) zones: Vec<DesiredZone>,
}

/// An object as the Admin API has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) key: String,
    pub(super) fields: Map<String, Value>,
    /// The names of a provider's sealed secrets.
    pub(super) secret_keys: BTreeSet<String>,
    /// The version of a policy that is the newest.
    pub(super) version_id: Option<String>,
    /// The newest version of a policy set.
    pub(super) newest: Option<SetVersion>,
    /// The active version of a policy set.
    pub(super) active: Option<SetVersion>,
}

/// A version of a policy set. Its policies are named; one whose version is not the newest says which it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct SetVersion {
    pub(super) id: String,
    pub(super) policies: Vec<String>,
}

/// A zone as the Admin API has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ActualZone {
    pub(super) id: String,
    pub(super) fields: Map<String, Value>,
    pub(super) rows: BTreeMap<Kind, Vec<Row>>,
    /// How many clients that registered themselves are alive.
    pub(super) live_registered: u64,
}

/// A setting as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ActualSetting {
    pub(super) value: i64,
    pub(super) most: i64,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Actual {
    pub(super) settings: BTreeMap<String, ActualSetting>,
    /// By slug.
    pub(super) zones: BTreeMap<String, ActualZone>,
}

impl ActualZone {
    pub(super) fn rows(&self, kind: Kind) -> &[Row] {
        self.rows.get(&kind).map(Vec::as_slice).unwrap_or_default()
    }
}

/// What a generated secret is called among files: nothing but letters, digits, `-`, `_` and `.` stands as it is.
pub(super) fn file_name(key: &str) -> PathBuf {
    let mut name = String::new();
    for byte in key.bytes() {
        let plain =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && !name.is_empty());
        if plain {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_lead_nowhere_else() {
        for (key, expected) in [
            ("orders-agent", "orders-agent"),
            ("../x", "%2E.%2Fx"),
            (".", "%2E"),
            ("a b.c", "a%20b.c"),
            ("ü", "%C3%BC"),
        ] {
            assert_eq!(file_name(key), PathBuf::from(expected), "{key}");
        }
    }
}
