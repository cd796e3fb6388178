//! What an event says, in parts: what it shares with others, and what is its own. What comes later counts.

use super::cell::Cell;
use crate::canonical;
use caracal_mandate::delivery::{Column, Columns, DECISION_ID, SHARED_BY};
use serde_json::{Map, Value};

/// A member of an event. A time and a zone have two names each, of which an event uses one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Seq,
    OccurredAt,
    Time,
    ZoneId,
    Zone,
    RequestId,
    EventType,
    Decision,
    EvaluationStatus,
    Reason,
}

const FIELDS: usize = 10;

impl Field {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "seq" => Self::Seq,
            "occurred_at" => Self::OccurredAt,
            "time" => Self::Time,
            "zone_id" => Self::ZoneId,
            "zone" => Self::Zone,
            "request_id" => Self::RequestId,
            "event_type" => Self::EventType,
            "decision" => Self::Decision,
            "evaluation_status" => Self::EvaluationStatus,
            "reason" => Self::Reason,
            _ => return None,
        })
    }
}

/// The members of an event, `metadata` aside.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields<'e>([Option<&'e Cell<'e>>; FIELDS]);

impl<'e> Fields<'e> {
    pub(super) fn get(&self, field: Field) -> Option<&'e Cell<'e>> {
        self.0.get(field as usize).copied().flatten()
    }

    pub(super) fn set(&mut self, field: Field, cell: &'e Cell<'e>) {
        if let Some(place) = self.0.get_mut(field as usize) {
            *place = Some(cell);
        }
    }

    /// Adds what a part says.
    pub(super) fn add(&mut self, part: &'e Part) {
        for (field, cell) in &part.fields {
            self.set(*field, cell);
        }
    }

    /// Adds other members.
    pub(super) fn extend(&mut self, more: Self) {
        for (place, cell) in self.0.iter_mut().zip(more.0) {
            *place = cell.or(*place);
        }
    }
}

/// A member of the metadata.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// Name and value as canonical JSON.
    pub(super) json: String,
}

/// What several events share, or what an event in `events` says itself.
#[derive(Debug)]
pub(super) struct Part {
    fields: Vec<(Field, Cell<'static>)>,
    /// In the order of canonical JSON.
    pub(super) metadata: Vec<Member>,
    /// Has it a member that no event may have?
    pub(super) is_strange: bool,
}

impl Part {
    pub(super) fn of(members: Map<String, Value>) -> Self {
        let mut part =
            Self { fields: Vec::with_capacity(members.len()), metadata: Vec::new(), is_strange: false };
        for (name, value) in members {
            match (Field::of(&name), value) {
                (Some(field), value) => part.fields.push((field, value.into())),
                (None, Value::Object(metadata)) if name == "metadata" => part.metadata = all(metadata),
                (None, _) => part.is_strange = true,
            }
        }
        part
    }
}

fn all(metadata: Map<String, Value>) -> Vec<Member> {
    let member = |(name, value): (String, Value)| {
        let mut json = key(&name);
        canonical::write(&mut json, &value);
        Member { name, json }
    };
    let mut members: Vec<Member> = metadata.into_iter().map(member).collect();
    members.sort_by(|a, b| canonical::compare(&a.name, &b.name));
    members
}

/// What stands before the value of a member.
fn key(name: &str) -> String {
    let mut key = String::with_capacity(name.len() + 64);
    canonical::write_string(&mut key, name);
    key.push(':');
    key
}

/// What the places of rows say.
#[derive(Debug)]
pub(super) struct Shape<'c> {
    places: Vec<Place>,
    /// The places that say members of the metadata, in the order of canonical JSON.
    pub(super) slots: Vec<Slot<'c>>,
}

/// What one place says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    SharedBy,
    Field(Field),
    Metadata,
    /// The end of the decision's name.
    Decision,
    /// All of it.
    DecisionId,
    /// Its end, of a worker whose decisions have no names.
    Nameless,
    /// A member that no event may have.
    Strange,
}

/// A place that says a member of the metadata.
#[derive(Debug)]
pub(super) struct Slot<'c> {
    pub(super) name: &'c str,
    /// What stands before its value.
    pub(super) key: String,
    /// Which place it is.
    pub(super) index: usize,
    /// How the decision's name begins, where this is the number at its end.
    pub(super) decisions: Option<&'c str>,
}

/// A row that does not fit the columns, or says what no event may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfit;

impl<'c> Shape<'c> {
    pub(super) fn of(columns: &'c Columns) -> Self {
        let mut shape = Self { places: Vec::new(), slots: Vec::new() };
        for (index, column) in columns.places().iter().enumerate() {
            let (place, name, decisions) = match (column, columns.decisions()) {
                (Column::Decision, None) => (Place::Nameless, None, None),
                (Column::Decision, decisions) => (Place::Decision, Some(DECISION_ID), decisions),
                (Column::Metadata(name), _) if name == DECISION_ID => {
                    (Place::DecisionId, Some(DECISION_ID), None)
                }
                (Column::Metadata(name), _) => (Place::Metadata, Some(name.as_str()), None),
                (Column::Member(name), _) if name == SHARED_BY => (Place::SharedBy, None, None),
                (Column::Member(name), _) => {
                    (Field::of(name).map_or(Place::Strange, Place::Field), None, None)
                }
            };
            shape.places.push(place);
            shape.slots.extend(name.map(|name| Slot { name, key: key(name), index, decisions }));
        }
        shape.slots.sort_by(|a, b| canonical::compare(a.name, b.name));
        shape
    }

    /// What a row says besides metadata, and which shared parts it names.
    pub(super) fn read<'e>(&self, row: &'e [Cell<'e>]) -> Result<(Fields<'e>, Option<&'e Cell<'e>>), Unfit> {
        if row.len() > self.places.len() {
            return Err(Unfit);
        }
        let (mut fields, mut shared_by, mut is_decided) = (Fields::default(), None, false);
        for (place, cell) in self.places.iter().zip(row).filter(|(_, cell)| **cell != Cell::Null) {
            match (place, cell) {
                (Place::SharedBy, cell) => shared_by = Some(cell),
                (Place::Field(field), cell) => fields.set(*field, cell),
                (Place::Metadata, _) => {}
                // A name that stands there as well could be another one.
                (Place::Decision, Cell::Number(_)) | (Place::DecisionId, _) if !is_decided => {
                    is_decided = true
                }
                _ => return Err(Unfit),
            }
        }
        Ok((fields, shared_by))
    }
}
