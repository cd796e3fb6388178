//! What has to be done so that what there is becomes what the files want. Nothing here reads or writes anything.

use super::desire::is_one_name;
use super::item::{Actual, ActualZone, Desired, DesiredZone, Fault, Item, Kind, Row};
use super::plan_zone::{ZoneContext, plan_items};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What is to be done beside making and changing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Remove what the files do not name.
    pub(super) prune: bool,
    /// The files name every zone there is to be.
    pub(super) all_zones: bool,
    /// Send secrets of providers although nothing else differs.
    pub(super) resend_secrets: bool,
}

/// What is done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Act {
    Create,
    Change,
    Unchanged,
    /// It is there, the files do not name it, and it stays.
    Extra,
    Remove,
}

/// How a field differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Difference {
    pub(super) field: String,
    pub(super) from: Value,
    pub(super) to: Value,
}

/// How it is done, where a body alone does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum How {
    #[default]
    Plain,
    /// A version that is there already decides from now on.
    Activate { version: String },
    /// A new version of a policy set.
    Version { activate: bool },
    /// Grants never change: another takes the place of these.
    Grant { make: bool, end: Vec<String> },
}

/// What is done with one object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) act: Act,
    pub(super) zone: Option<String>,
    pub(super) kind: Kind,
    pub(super) key: String,
    pub(super) differences: Vec<Difference>,
    /// What else comes of it.
    pub(super) note: Option<String>,
    pub(super) how: How,
    pub(super) send_secrets: bool,
    pub(super) item: Option<Item>,
    /// The id of what is there.
    pub(super) id: Option<String>,
}

impl Step {
    pub(super) fn new(act: Act, zone: Option<&str>, kind: Kind, key: &str) -> Self {
        Self {
            act,
            zone: zone.map(str::to_owned),
            kind,
            key: key.to_owned(),
            differences: Vec::new(),
            note: None,
            how: How::Plain,
            send_secrets: false,
            item: None,
            id: None,
        }
    }

    /// Does it write?
    pub(super) fn writes(&self) -> bool {
        matches!(self.act, Act::Create | Act::Change | Act::Remove)
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.kind.word(), self.key)
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "action": self.act, "zone": self.zone, "kind": self.kind, "key": self.key,
            "fields": self.differences, "note": self.note,
        })
    }
}

/// All of it, in the order in which it is done.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
}

impl Plan {
    pub(super) fn count(&self, act: Act) -> usize {
        self.steps.iter().filter(|step| step.act == act).count()
    }

    /// Is everything as the files want it?
    pub(super) fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| step.act == Act::Unchanged)
    }

    pub(super) fn summary(&self) -> Value {
        json!({
            "create": self.count(Act::Create), "change": self.count(Act::Change),
            "unchanged": self.count(Act::Unchanged), "extra": self.count(Act::Extra),
            "remove": self.count(Act::Remove),
        })
    }
}

/// Compares. Everything that can be known to fail is a fault, and then there is no plan.
pub(super) fn plan(desired: &Desired, actual: &Actual, wishes: Wishes) -> Result<Plan, Vec<Fault>> {
    let (mut plan, mut faults, mut leaving) = (Plan::default(), Vec::new(), Vec::new());
    for setting in &desired.settings {
        plan.steps.push(plan_setting(setting, actual, &mut faults));
    }
    for zone in &desired.zones {
        let there = actual.zones.get(&zone.item.key);
        plan.steps.push(plan_zone(zone, there, &mut faults));
        let leaves = leaving_rows(zone, there, wishes);
        let context = ZoneContext { zone, there, wishes, leaves: &leaves };
        plan.steps.extend(plan_items(&context, &mut faults));
        leaving.extend(leaves);
    }
    if wishes.all_zones {
        for (slug, zone) in &actual.zones {
            if desired.zones.iter().all(|wanted| wanted.item.key != *slug) {
                let mut step = Step::new(leave(wishes), None, Kind::Zone, slug);
                step.id = Some(zone.id.clone());
                step.note =
                    Some("everything in it is out of reach afterwards, and the slug stays taken".to_owned());
                leaving.push(step);
            }
        }
    }
    plan.steps.extend(leaving);
    if faults.is_empty() { Ok(plan) } else { Err(faults) }
}

fn leave(wishes: Wishes) -> Act {
    if wishes.prune { Act::Remove } else { Act::Extra }
}

fn plan_setting(item: &Item, actual: &Actual, faults: &mut Vec<Fault>) -> Step {
    let mut step = Step::new(Act::Unchanged, None, Kind::Setting, &item.key);
    let wanted = item.fields.get("value").and_then(Value::as_i64).unwrap_or_default();
    if let Some(setting) = actual.settings.get(&item.key) {
        if wanted > setting.most {
            let why = format!("{} is at most {} in this installation", item.key, setting.most);
            faults.push(Fault::at(&item.place, why));
        }
        if wanted != setting.value {
            step.act = Act::Change;
            step.differences = vec![difference("value", json!(setting.value), json!(wanted))];
        }
    }
    step.item = Some(item.clone());
    step
}

fn plan_zone(zone: &DesiredZone, there: Option<&ActualZone>, faults: &mut Vec<Fault>) -> Step {
    let item = &zone.item;
    let mut step = Step::new(Act::Create, None, Kind::Zone, &item.key);
    match there {
        None => step.differences = all_of(&item.fields),
        Some(there) => {
            step.id = Some(there.id.clone());
            step.differences = differences(&item.fields, &there.fields);
            let registration_ends =
                step.differences.iter().any(|one| one.field == "dcr_enabled" && one.to == json!(false));
            if registration_ends && there.live_registered > 0 {
                let why = format!(
                    "{} registered clients are alive: end registration through the Admin API, which asks for `dcr_shutdown`",
                    there.live_registered
                );
                faults.push(Fault::at(item.place_of("dcr_enabled"), why));
            }
            step.act = if step.differences.is_empty() { Act::Unchanged } else { Act::Change };
        }
    }
    step.item = Some(item.clone());
    step
}

/// What is there and is not named, of the kinds whose lists are written: last made first.
fn leaving_rows(zone: &DesiredZone, there: Option<&ActualZone>, wishes: Wishes) -> Vec<Step> {
    let Some(there) = there else { return Vec::new() };
    let mut leaving = Vec::new();
    for kind in Kind::OF_ZONE.into_iter().rev().filter(|kind| zone.managed.contains(kind)) {
        for row in there.rows(kind) {
            let named = zone.items.iter().any(|item| item.kind == kind && item.key == row.key);
            if !named {
                let mut step = Step::new(leave(wishes), Some(&zone.item.key), kind, &row.key);
                step.id = Some(row.id.clone());
                step.note = note_of_removal(kind, row);
                leaving.push(step);
            }
        }
    }
    leaving
}

fn note_of_removal(kind: Kind, row: &Row) -> Option<String> {
    let note = match kind {
        Kind::Application => "its sessions end, and its secret is gone",
        Kind::Grant => "everything ends that this user has in the zone",
        Kind::PolicySet if row.active.is_some() => "it decides in the zone; without it everything is denied",
        _ => return None,
    };
    Some(note.to_owned())
}

pub(super) fn difference(field: &str, from: Value, to: Value) -> Difference {
    Difference { field: field.to_owned(), from, to }
}

/// What is written, as differences from nothing.
pub(super) fn all_of(fields: &Map<String, Value>) -> Vec<Difference> {
    fields.iter().map(|(name, value)| difference(name, Value::Null, value.clone())).collect()
}

/// The fields that are written and stand otherwise.
pub(super) fn differences(wanted: &Map<String, Value>, there: &Map<String, Value>) -> Vec<Difference> {
    let mut found = Vec::new();
    for (name, value) in wanted {
        let before = there.get(name).cloned().unwrap_or_default();
        if !is_same(name, value, &before) {
            found.push(difference(name, before, value.clone()));
        }
    }
    found
}

/// Lists of which the order says nothing are compared as sets.
fn is_same(field: &str, one: &Value, other: &Value) -> bool {
    let unordered =
        ["bindings", "event_types", "operations", "policies", "scopes", "traits"].contains(&field);
    match (one.as_array(), other.as_array()) {
        (Some(one), Some(other)) if unordered => {
            let sorted = |list: &[Value]| {
                let mut texts: Vec<String> = list.iter().map(Value::to_string).collect();
                texts.sort_unstable();
                texts.dedup();
                texts
            };
            sorted(one) == sorted(other)
        }
        _ => one == other,
    }
}

/// Is a name taken by something whose name differs in case alone?
pub(super) fn taken_by<'a>(kind: Kind, key: &str, there: &'a [Row]) -> Option<&'a Row> {
    there.iter().find(|row| row.key != key && is_one_name(kind, &row.key, key))
}
