//! The metadata of an event as it goes into the ledger: what its parts say, and which gateway delivered it, merged in the
//! order of canonical JSON.

use super::cell::Cell;
use super::part::{Member, Shape, Slot};
use crate::canonical;
use crate::sealed::Json;
use std::cmp::Ordering;

/// What tells of the gateway, in metadata of every event that it delivers.
#[derive(Debug)]
pub(super) struct Stamp {
    gateway: String,
    worker: String,
    incarnation: String,
}

impl Stamp {
    pub(super) fn new(gateway: &str, worker: &str, incarnation: &str) -> Self {
        let member = |name: &str, value: &str| {
            let mut json = format!("\"{name}\":");
            canonical::write_string(&mut json, value);
            json
        };
        Self {
            gateway: member("gateway_id", gateway),
            worker: member("gateway_worker", worker),
            incarnation: member("gateway_incarnation", incarnation),
        }
    }
}

/// The metadata of one event: what comes later counts.
pub(super) struct Metadata<'e> {
    /// Of shared parts.
    pub(super) shared: [&'e [Member]; 2],
    pub(super) own: Own<'e>,
    pub(super) stamp: &'e Stamp,
    pub(super) seq: u64,
    pub(super) reason: Option<&'e str>,
}

/// What an event says itself.
#[derive(Clone, Copy)]
pub(super) enum Own<'e> {
    Object(&'e [Member]),
    Row(&'e Shape<'e>, &'e [Cell<'e>]),
}

/// A member that is still to be written.
#[derive(Clone, Copy)]
enum Told<'e> {
    /// Name and value.
    Json(&'e str),
    Cell(&'e Slot<'e>, &'e Cell<'e>),
    Seq(u64),
    Reason(&'e str),
}

/// Members in the order of canonical JSON.
type Run<'e, 'r> = &'r [(&'e str, Told<'e>)];

impl Json for Metadata<'_> {
    fn write(&self, text: &mut String) {
        let mut told = Vec::with_capacity(32);
        for part in self.shared {
            told.extend(part.iter().map(named));
        }
        let [first, second] = self.shared.map(<[Member]>::len);
        match self.own {
            Own::Object(members) => told.extend(members.iter().map(named)),
            Own::Row(shape, row) => {
                let cells = shape.slots.iter().filter_map(|slot| Some((slot, row.get(slot.index)?)));
                let said = cells.filter(|(_, cell)| **cell != Cell::Null);
                told.extend(said.map(|(slot, cell)| (slot.name, Told::Cell(slot, cell))));
            }
        }
        let own = told.len() - first - second;
        told.extend([
            ("gateway_id", Told::Json(&self.stamp.gateway)),
            ("gateway_incarnation", Told::Json(&self.stamp.incarnation)),
            ("gateway_seq", Told::Seq(self.seq)),
            ("gateway_worker", Told::Json(&self.stamp.worker)),
        ]);
        told.extend(self.reason.map(|reason| ("reason", Told::Reason(reason))));
        let (shared, rest) = told.split_at_checked(first + second).unwrap_or_default();
        let (first, second) = shared.split_at_checked(first).unwrap_or_default();
        let (own, stamp) = rest.split_at_checked(own).unwrap_or_default();
        let mut runs = [first, second, own, stamp];
        let mut separator = '{';
        while let Some(told) = next(&mut runs) {
            text.push(separator);
            separator = ',';
            told.write(text);
        }
        text.push('}');
    }
}

fn named(member: &Member) -> (&str, Told<'_>) {
    (&member.name, Told::Json(&member.json))
}

/// Takes the first of all members; where several runs have it, that of the last one.
fn next<'e>(runs: &mut [Run<'e, '_>]) -> Option<Told<'e>> {
    let mut first: Option<(&str, Told<'e>)> = None;
    for (name, told) in runs.iter().filter_map(|run| run.first()) {
        if first.is_none_or(|(first, _)| canonical::compare(name, first) != Ordering::Greater) {
            first = Some((*name, *told));
        }
    }
    let (first, told) = first?;
    for run in runs {
        if let Some(((name, _), rest)) = run.split_first()
            && *name == first
        {
            *run = rest;
        }
    }
    Some(told)
}

impl Told<'_> {
    fn write(&self, text: &mut String) {
        match self {
            Self::Json(json) => text.push_str(json),
            Self::Cell(slot, cell) => {
                text.push_str(&slot.key);
                match (slot.decisions, cell) {
                    (Some(prefix), Cell::Number(number)) => {
                        canonical::write_string(text, &format!("{prefix}{number:x}"));
                    }
                    (_, cell) => cell.write(text),
                }
            }
            Self::Seq(seq) => {
                text.push_str("\"gateway_seq\":");
                canonical::write_integer(text, seq);
            }
            Self::Reason(reason) => {
                text.push_str("\"reason\":");
                canonical::write_string(text, reason);
            }
        }
    }
}

impl Json for Cell<'_> {
    fn write(&self, text: &mut String) {
        match self {
            Self::Null => text.push_str("null"),
            Self::Number(number) => canonical::write_integer(text, number),
            Self::Text(string) => {
                canonical::write_string(text, string);
            }
            Self::Other(value) => canonical::write(text, value),
        }
    }
}

/// Why an event was refused, as its diagnostics tell it.
pub(super) struct Diagnostics<'e>(pub(super) Option<&'e str>);

impl Json for Diagnostics<'_> {
    fn write(&self, text: &mut String) {
        let Some(reason) = self.0 else { return text.push_str("[]") };
        text.push_str("[{\"reason\":");
        canonical::write_string(text, reason);
        text.push_str("}]");
    }
}
