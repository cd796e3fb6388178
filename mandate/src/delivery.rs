//! How gateways deliver their events: the body of a delivery is signed and hashed in the module, so every byte counts.
//!
//! What many events have in common is said once, in `shared`, and each of them says by `as` which of it is its own: a number,
//! or two of them where what a mandate and what a request have in common are told apart. What is its own stands in a
//! row: `columns` says once what each place of it means, and a place that says nothing is `null`, or not there at the end.
//!
//! | column | what it means |
//! |---|---|
//! | `as` | the shared objects that the event goes on from |
//! | `decision` | a number that the name of the decision ends with, after the worker and its incarnation |
//! | `metadata.<name>` | a member of the event's metadata |
//! | `<name>` | a member of the event |
//!
//! Events may also stand in `events`, as objects; they come first.

use serde_json::{Map, Value};

/// The member by which an event says which of the shared objects it goes on from.
pub const SHARED_BY: &str = "as";
/// The member of an event's metadata with the name of the decision.
pub const DECISION_ID: &str = "decision_id";
/// The column with the number of the decision.
const DECISION: &str = "decision";
/// What stands before the name of a member of the event's metadata.
const IN_METADATA: &str = "metadata.";
/// As many shared objects may one event go on from.
pub const MAX_PARTS: usize = 2;
/// More columns than events have members.
const MAX_COLUMNS: usize = 64;

/// The event's object, and the metadata in it.
type Members = Map<String, Value>;

/// What a place in a row means.
#[derive(Debug, PartialEq, Eq)]
pub enum Column {
    /// The number that the name of the decision ends with; the name is the member [`DECISION_ID`] of the metadata.
    Decision,
    /// A member of the event, [`SHARED_BY`] among them.
    Member(String),
    /// A member of the event's metadata.
    Metadata(String),
}

/// What the places of rows mean.
#[derive(Debug)]
pub struct Columns {
    columns: Vec<Column>,
    /// How the names of this worker's decisions begin, where its incarnation is a number.
    decisions: Option<String>,
}

/// How the names of a worker's decisions begin.
#[must_use]
pub fn decision_prefix(worker: &str, incarnation: u64) -> String {
    format!("{worker}-{incarnation:x}-")
}

impl Columns {
    /// Reads the names of columns. `None` where one stands twice or has no meaning: what could be read in two ways is not
    /// read. `decisions`: see [`decision_prefix`].
    #[must_use]
    pub fn read(names: &[String], decisions: Option<String>) -> Option<Self> {
        if names.len() > MAX_COLUMNS {
            return None;
        }
        let mut columns = Vec::with_capacity(names.len());
        for name in names {
            let column = match (name.as_str(), name.strip_prefix(IN_METADATA)) {
                (DECISION, _) => Column::Decision,
                // The metadata itself could not be told from its members.
                ("" | "metadata", _) | (_, Some("")) => return None,
                (_, Some(member)) => Column::Metadata(member.to_owned()),
                (member, None) => Column::Member(member.to_owned()),
            };
            if columns.contains(&column) {
                return None;
            }
            columns.push(column);
        }
        Some(Self { columns, decisions })
    }

    /// What each place means.
    #[must_use]
    pub fn places(&self) -> &[Column] {
        &self.columns
    }

    /// How the names of this worker's decisions begin, where its incarnation is a number.
    #[must_use]
    pub fn decisions(&self) -> Option<&str> {
        self.decisions.as_deref()
    }

    /// A row as an event's own members. `None` where it has more places than there are columns, or names no decision.
    fn event(&self, row: Vec<Value>) -> Option<Members> {
        if row.len() > self.columns.len() {
            return None;
        }
        let (mut event, mut metadata) = (Map::new(), Map::new());
        for (column, value) in self.columns.iter().zip(row).filter(|(_, value)| !value.is_null()) {
            match column {
                Column::Decision => {
                    let name = format!("{}{:x}", self.decisions.as_ref()?, value.as_u64()?);
                    // A name that stands there as well could be another one.
                    if metadata.insert(DECISION_ID.to_owned(), Value::String(name)).is_some() {
                        return None;
                    }
                }
                Column::Metadata(member) => {
                    if metadata.insert(member.clone(), value).is_some() {
                        return None;
                    }
                }
                Column::Member(member) => {
                    event.insert(member.clone(), value);
                }
            }
        }
        if !metadata.is_empty() {
            event.insert("metadata".to_owned(), Value::Object(metadata));
        }
        Some(event)
    }
}

/// An event with all its members: its own, and those of the shared objects that it names. Members of `metadata` are put
/// together; else what comes later counts, and its own last. `None` where it names none of them, or has metadata that is no
/// object.
fn whole(shared: &[Members], mut event: Members) -> Option<Members> {
    let parts = match event.remove(SHARED_BY) {
        None => return Some(event),
        Some(Value::Array(numbers)) if (1..=MAX_PARTS).contains(&numbers.len()) => numbers,
        Some(number) => vec![number],
    };
    let mut whole = Map::new();
    for number in parts {
        let part = shared.get(usize::try_from(number.as_u64()?).ok()?)?;
        add(&mut whole, part.clone())?;
    }
    add(&mut whole, event)?;
    Some(whole)
}

fn add(whole: &mut Members, mut more: Members) -> Option<()> {
    let metadata = more.remove("metadata");
    whole.extend(more);
    match (metadata, whole.get_mut("metadata")) {
        (None, _) => {}
        (Some(Value::Object(more)), Some(Value::Object(metadata))) => metadata.extend(more),
        (Some(more), None) => {
            whole.insert("metadata".to_owned(), more);
        }
        (Some(_), Some(_)) => return None,
    }
    Some(())
}

/// All events of a delivery, each with all its members; `None` where it is no delivery.
#[must_use]
pub fn events(delivery: &Value) -> Option<Vec<Value>> {
    let list =
        |name: &str| delivery.get(name).map_or(Some(&[][..]), |list| Some(list.as_array()?.as_slice()));
    let objects = |name: &str| -> Option<Vec<Members>> {
        list(name)?.iter().map(|item| item.as_object().cloned()).collect()
    };
    let (shared, mut events) = (objects("shared")?, objects("events")?);
    let names = list("columns")?.iter().map(|name| name.as_str().map(str::to_owned));
    let worker = delivery.get("worker").and_then(Value::as_str);
    let incarnation = delivery.get("incarnation").and_then(Value::as_u64);
    let decisions = worker.zip(incarnation).map(|(worker, incarnation)| decision_prefix(worker, incarnation));
    let columns = Columns::read(&names.collect::<Option<Vec<_>>>()?, decisions)?;
    for row in list("rows")? {
        events.push(columns.event(row.as_array()?.clone())?);
    }
    events.into_iter().map(|event| whole(&shared, event).map(Value::Object)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_shared_is_added_and_its_own_counts() {
        let shared = json!({"zone_id": "z", "reason": "x", "metadata": {"role": "resource", "jti": "j"}});
        let delivery = |events: Value| json!({"shared": [{}, shared, {"metadata": {"jti": "l"}}, {"metadata": 1}], "events": events});
        let told = events(&delivery(json!([
            {"as": 1, "seq": 1, "metadata": {"latency_ms": 3, "jti": "k"}},
            {"as": 1, "seq": 2, "reason": "y"},
            {"as": 0, "seq": 3, "metadata": {"latency_ms": 4}},
            {"seq": 4},
            {"as": [1, 2], "seq": 5, "metadata": {"latency_ms": 5}},
            {"as": [3], "seq": 6},
        ])));
        let expected = json!([
            {"zone_id": "z", "reason": "x", "seq": 1, "metadata": {"role": "resource", "jti": "k", "latency_ms": 3}},
            {"zone_id": "z", "reason": "y", "seq": 2, "metadata": {"role": "resource", "jti": "j"}},
            {"seq": 3, "metadata": {"latency_ms": 4}},
            {"seq": 4},
            {"zone_id": "z", "reason": "x", "seq": 5, "metadata": {"role": "resource", "jti": "l", "latency_ms": 5}},
            {"seq": 6, "metadata": 1},
        ]);
        assert_eq!(told.map(Value::Array), Some(expected));
        for bad in [
            json!([{"as": 4}]),
            json!([{"as": -1}]),
            json!([{"as": "1"}]),
            json!([{"as": null}]),
            json!([{"as": []}]),
            json!([{"as": [4]}]),
            json!([{"as": [[1]]}]),
            json!([{"as": [0, 0, 0]}]),
            json!([{"as": [1, 3]}]),
            json!([{"as": 1, "metadata": 1}]),
            json!([1]),
            json!({}),
        ] {
            assert_eq!(events(&delivery(bad.clone())), None, "{bad}");
        }
        assert_eq!(events(&json!({"events": [{"as": 0}]})), None);
        assert_eq!(events(&json!({"shared": {}, "events": []})), None);
    }

    #[test]
    fn rows_say_the_same_as_objects() {
        let delivery = |columns: Value, rows: Value| {
            events(&json!({
                "worker": "w", "incarnation": 26, "shared": [{"zone_id": "z", "metadata": {"role": "resource"}}],
                "columns": columns, "rows": rows, "events": [{"seq": 1}],
            }))
        };
        let columns = json!(["as", "seq", "decision", "metadata.latency_ms", "metadata.trace_id"]);
        let told = delivery(columns.clone(), json!([[0, 2, 255, 7], [null, 3], [0, 4, null, 8, "t"], []]));
        let expected = json!([
            {"seq": 1},
            {"zone_id": "z", "seq": 2, "metadata": {"role": "resource", "decision_id": "w-1a-ff", "latency_ms": 7}},
            {"seq": 3},
            {"zone_id": "z", "seq": 4, "metadata": {"role": "resource", "latency_ms": 8, "trace_id": "t"}},
            {},
        ]);
        assert_eq!(told.map(Value::Array), Some(expected));
        for rows in
            [json!([[0, 2, 1, 7, "t", 1]]), json!([[0, 2, "1"]]), json!([[1]]), json!([{}]), json!({})]
        {
            assert_eq!(delivery(columns.clone(), rows.clone()), None, "{rows}");
        }
        for columns in [
            json!(["seq", "seq"]),
            json!(["decision", "decision"]),
            json!(["metadata"]),
            json!(["metadata."]),
            json!([""]),
            json!([1]),
            json!({}),
            json!(vec!["x"; MAX_COLUMNS + 1]),
        ] {
            assert_eq!(delivery(columns.clone(), json!([])), None, "{columns}");
        }
        let twice = json!(["decision", "metadata.decision_id"]);
        assert_eq!(delivery(twice, json!([[1, "x"]])), None);
        let nameless = json!({"incarnation": "x", "worker": "w", "columns": ["decision"], "rows": [[1]]});
        assert_eq!(events(&nameless), None);
    }
}
