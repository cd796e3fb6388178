//! What a gateway delivers ([`caracal_mandate::delivery`]), read from the body straight into what the ledger takes: the
//! values of rows are borrowed from the body, and what events share is read once for all of them.

mod cell;
mod metadata;
mod part;
#[cfg(test)]
mod tests;

use self::cell::{Cell, Rows};
use self::metadata::{Diagnostics, Metadata, Own, Stamp};
use self::part::{Field, Fields, Part, Shape};
use crate::sealed::{Facts, Sealed};
use caracal_mandate::delivery::{Columns, MAX_PARTS, SHARED_BY, decision_prefix};
use caracal_mandate::id::{GatewayId, ZoneId};
use caracal_mandate::json::Strict;
use caracal_store::ids;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The most events in one call.
const MAX_EVENTS: usize = 1_000;
/// The most bytes of JSON that one shared object may have.
const MAX_SHARED: usize = 16 * 1024;
/// The longest name of a worker, an incarnation, a type, a status, a reason or a request, in bytes.
const MAX_NAME: usize = 128;

/// Why a body is no delivery.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    #[error("columns: one stands twice or has no meaning")]
    Columns,
    #[error("events[{index}]{fault}")]
    Event { index: usize, fault: Fault },
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("{list}[{index}]: no object")]
    NoObject { list: &'static str, index: usize },
    #[error("rows[{index}]: does not fit the columns")]
    Row { index: usize },
    #[error("shared[{index}]: at most {MAX_SHARED} bytes")]
    Shared { index: usize },
    #[error("events and rows: at most {MAX_EVENTS} in one call")]
    TooMany,
}

/// What is wrong with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error(".{0}: is not what it has to be")]
    Malformed(&'static str),
    #[error(".{0}: is missing")]
    Missing(&'static str),
    #[error(".seq: {seq} does not follow {last}")]
    Order { seq: u64, last: u64 },
    #[error(": a number is out of range")]
    Range,
    #[error(".as: not one of what is shared")]
    Shared,
    #[error(": a member has no meaning, or the metadata is no object")]
    Strange,
    #[error(".{0}: stands there under two names")]
    Twice(&'static str),
}

/// One delivery.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delivery<'a> {
    gateway: GatewayId,
    worker: Name,
    incarnation: Incarnation,
    /// What events have in common, so that it is said once.
    #[serde(default)]
    shared: Vec<Strict>,
    /// What the places of the rows mean.
    #[serde(default)]
    columns: Vec<String>,
    /// Events as rows, after those that are objects.
    #[serde(default, borrow)]
    rows: Rows<'a>,
    #[serde(default)]
    events: Vec<Strict>,
}

/// Which start of the worker it was: a number or a name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Incarnation {
    Name(Name),
    Number(u64),
}

/// A short text without control characters.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if is_name(&text) {
            Ok(Self(text))
        } else {
            Err(format!("a name has 1 to {MAX_NAME} bytes and no control characters"))
        }
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Which worker's events, as the database names it.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) gateway: String,
    pub(crate) worker: String,
    pub(crate) incarnation: String,
}

/// An event and its number, ready for the ledger.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) seq: i64,
    pub(crate) event: Sealed,
}

impl<'a> Delivery<'a> {
    /// Reads a body. A member that stands twice could be read in two ways, and is refused at any depth.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, DeliveryError> {
        Ok(serde_json::from_slice(body)?)
    }

    /// Whose events they are.
    pub(crate) fn stream(&self) -> Stream {
        Stream {
            gateway: self.gateway.to_string(),
            worker: self.worker.0.clone(),
            incarnation: match &self.incarnation {
                Incarnation::Name(name) => name.0.clone(),
                Incarnation::Number(number) => number.to_string(),
            },
        }
    }

    /// The events, each with all its members, as the ledger takes them at `now`. Numbers have to rise, else nothing could be
    /// said about what is missing; and what is shared must not make more of a small call than a call may hold.
    pub(crate) fn events(&mut self, stream: &Stream, now: i64) -> Result<Vec<Told>, DeliveryError> {
        let count = self.events.len().saturating_add(self.rows.len());
        if count > MAX_EVENTS {
            return Err(DeliveryError::TooMany);
        }
        let decisions = match &self.incarnation {
            Incarnation::Name(_) => None,
            Incarnation::Number(number) => Some(decision_prefix(&self.worker.0, *number)),
        };
        let shared = objects("shared", &mut self.shared)?;
        if let Some(index) = shared.iter().position(|object| size(object) > MAX_SHARED) {
            return Err(DeliveryError::Shared { index });
        }
        let shared: Vec<Part> = shared.into_iter().map(Part::of).collect();
        let columns = Columns::read(&self.columns, decisions).ok_or(DeliveryError::Columns)?;
        let shape = Shape::of(&columns);
        let objects: Vec<(Option<Cell<'_>>, Part)> = objects("events", &mut self.events)?
            .into_iter()
            .map(|mut object| (object.remove(SHARED_BY).map(Cell::from), Part::of(object)))
            .collect();
        let stamp = Stamp::new(&stream.gateway, &stream.worker, &stream.incarnation);
        let mut whole = Whole { shared: &shared, stamp: &stamp, now, last: 0, zone: None };
        let mut told = Vec::with_capacity(count);
        for (index, (shared_by, part)) in objects.iter().enumerate() {
            let mut own = Fields::default();
            own.add(part);
            let event = match part.is_strange {
                false => whole.event(own, shared_by.as_ref(), Own::Object(&part.metadata)),
                true => Err(Fault::Strange),
            };
            told.push(event.map_err(|fault| DeliveryError::Event { index, fault })?);
        }
        for (index, row) in self.rows.iter().enumerate() {
            let (own, shared_by) = shape.read(row).map_err(|_| DeliveryError::Row { index })?;
            let event = whole.event(own, shared_by, Own::Row(&shape, row));
            let index = objects.len() + index;
            told.push(event.map_err(|fault| DeliveryError::Event { index, fault })?);
        }
        Ok(told)
    }
}

fn objects(list: &'static str, values: &mut Vec<Strict>) -> Result<Vec<Map<String, Value>>, DeliveryError> {
    let object = |(index, Strict(value))| match value {
        Value::Object(object) => Ok(object),
        _ => Err(DeliveryError::NoObject { list, index }),
    };
    std::mem::take(values).into_iter().enumerate().map(object).collect()
}

fn size(object: &Map<String, Value>) -> usize {
    serde_json::to_vec(object).map_or(usize::MAX, |json| json.len())
}

/// Puts events together.
struct Whole<'d> {
    shared: &'d [Part],
    stamp: &'d Stamp,
    now: i64,
    /// The number of the last event.
    last: u64,
    /// A text that is known to be a zone's id.
    zone: Option<&'d str>,
}

impl<'d> Whole<'d> {
    fn event(
        &mut self,
        own: Fields<'d>,
        shared_by: Option<&'d Cell<'d>>,
        metadata: Own<'d>,
    ) -> Result<Told, Fault> {
        let (mut fields, mut shared) = (Fields::default(), [&[][..]; MAX_PARTS]);
        for (part, metadata) in self.parts(shared_by)?.into_iter().flatten().zip(&mut shared) {
            if part.is_strange {
                return Err(Fault::Strange);
            }
            fields.add(part);
            *metadata = &part.metadata;
        }
        fields.extend(own);
        let seq = number(one(&fields, Field::Seq, None, "seq")?, "seq")?;
        let occurred_at = one(&fields, Field::OccurredAt, Some(Field::Time), "occurred_at")?;
        let occurred_at = number(occurred_at, "occurred_at")?;
        let zone = self.zone(one(&fields, Field::ZoneId, Some(Field::Zone), "zone_id")?)?;
        let decision = decision(fields.get(Field::Decision))?;
        let reason = optional_name(&fields, Field::Reason, "reason")?;
        if seq <= self.last {
            return Err(Fault::Order { seq, last: self.last });
        }
        self.last = seq;
        let signed = |number: u64| i64::try_from(number).map_err(|_| Fault::Range);
        let facts = Facts {
            id: &ids::new_id(),
            zone_id: zone.unwrap_or("unknown"),
            event_type: name(&fields, Field::EventType, "event_type")?,
            request_id: name(&fields, Field::RequestId, "request_id")?,
            decision,
            policy_set_version_id: None,
            manifest_sha: None,
            evaluation_status: optional_name(&fields, Field::EvaluationStatus, "evaluation_status")?
                .unwrap_or("complete"),
            occurred_at: signed(occurred_at)?,
            ingested_at: self.now,
        };
        let metadata = Metadata { shared, own: metadata, stamp: self.stamp, seq, reason };
        let seq = signed(seq)?;
        let policies = Value::Array(Vec::new());
        Ok(Told { seq, event: Sealed::write(facts, &policies, &Diagnostics(reason), Some(&metadata)) })
    }

    /// The shared parts that an event names.
    fn parts(&self, shared_by: Option<&Cell<'_>>) -> Result<[Option<&'d Part>; MAX_PARTS], Fault> {
        let part = |number: Option<u64>| {
            let index = number.and_then(|number| usize::try_from(number).ok());
            index.and_then(|index| self.shared.get(index)).map(Some).ok_or(Fault::Shared)
        };
        match shared_by {
            None => Ok([None, None]),
            Some(Cell::Number(number)) => Ok([part(Some(*number))?, None]),
            Some(Cell::Other(Value::Array(numbers))) => match numbers.as_slice() {
                [one] => Ok([part(one.as_u64())?, None]),
                [one, two] => Ok([part(one.as_u64())?, part(two.as_u64())?]),
                _ => Err(Fault::Shared),
            },
            Some(_) => Err(Fault::Shared),
        }
    }

    /// The zone, as far as it is known for certain.
    fn zone(&mut self, cell: Option<&'d Cell<'d>>) -> Result<Option<&'d str>, Fault> {
        let Some(text) = optional_text(cell, "zone_id")? else { return Ok(None) };
        if self.zone != Some(text) {
            ZoneId::new(text).map_err(|_| Fault::Malformed("zone_id"))?;
            self.zone = Some(text);
        }
        Ok(Some(text))
    }
}

/// A member that has two names, of which an event uses one.
fn one<'e>(
    fields: &Fields<'e>,
    field: Field,
    other: Option<Field>,
    name: &'static str,
) -> Result<Option<&'e Cell<'e>>, Fault> {
    match (fields.get(field), other.and_then(|other| fields.get(other))) {
        (Some(_), Some(_)) => Err(Fault::Twice(name)),
        (cell, other) => Ok(cell.or(other)),
    }
}

fn number(cell: Option<&Cell<'_>>, name: &'static str) -> Result<u64, Fault> {
    match cell {
        None => Err(Fault::Missing(name)),
        Some(Cell::Number(number)) => Ok(*number),
        Some(_) => Err(Fault::Malformed(name)),
    }
}

fn optional_text<'e>(cell: Option<&'e Cell<'e>>, name: &'static str) -> Result<Option<&'e str>, Fault> {
    match cell {
        None | Some(Cell::Null) => Ok(None),
        Some(Cell::Text(text)) => Ok(Some(text.as_ref())),
        Some(_) => Err(Fault::Malformed(name)),
    }
}

fn optional_name<'e>(
    fields: &Fields<'e>,
    field: Field,
    name: &'static str,
) -> Result<Option<&'e str>, Fault> {
    let text = optional_text(fields.get(field), name)?;
    if text.is_none_or(is_name) { Ok(text) } else { Err(Fault::Malformed(name)) }
}

fn name<'e>(fields: &Fields<'e>, field: Field, name: &'static str) -> Result<&'e str, Fault> {
    optional_name(fields, field, name)?.ok_or(Fault::Missing(name))
}

/// `allow` or `deny`.
fn decision(cell: Option<&Cell<'_>>) -> Result<&'static str, Fault> {
    match cell {
        None => Err(Fault::Missing("decision")),
        Some(Cell::Text(text)) if text == "allow" => Ok("allow"),
        Some(Cell::Text(text)) if text == "deny" => Ok("deny"),
        Some(_) => Err(Fault::Malformed("decision")),
    }
}
