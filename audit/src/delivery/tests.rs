//! Deliveries are read here and, as trees, member by member as `caracal_mandate::delivery` tells it: what is refused, what is
//! hashed and what is stored are the same.

use super::{Delivery, is_name};
use crate::canonical;
use crate::query::content_of;
use crate::sealed::Sealed;
use caracal_mandate::delivery;
use caracal_mandate::id::{GatewayId, ZoneId};
use caracal_store::audit::AuditEvent;
use caracal_store::many::Bound;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

const NOW: i64 = 1_795_251_661_010;

/// A delivery as a tree.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tree {
    gateway: GatewayId,
    worker: Name,
    incarnation: Incarnation,
    #[serde(default, rename = "shared")]
    _shared: Vec<Map<String, Value>>,
    #[serde(default, rename = "columns")]
    _columns: Vec<String>,
    #[serde(default, rename = "rows")]
    _rows: Vec<Vec<Value>>,
    #[serde(default, rename = "events")]
    _events: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Incarnation {
    Name(Name),
    Number(u64),
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        if is_name(&text) { Ok(Self(text)) } else { Err("no name") }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WholeEvent {
    seq: u64,
    #[serde(alias = "time")]
    occurred_at: u64,
    #[serde(alias = "zone")]
    zone_id: Option<ZoneId>,
    request_id: Name,
    event_type: Name,
    decision: Decision,
    #[serde(default)]
    evaluation_status: Option<Name>,
    #[serde(default)]
    reason: Option<Name>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Allow,
    Deny,
}

/// The events of a body by way of trees.
fn by_trees(body: &[u8]) -> Option<Vec<(u64, AuditEvent)>> {
    let value = caracal_mandate::json::parse(body).ok()?;
    let tree = Tree::deserialize(value.clone()).ok()?;
    let mut events = Vec::new();
    let mut last = 0;
    for event in delivery::events(&value)? {
        let event = WholeEvent::deserialize(event).ok()?;
        if event.seq <= last || i64::try_from(event.seq).is_err() {
            return None;
        }
        last = event.seq;
        events.push((event.seq, event.audited(&tree)?));
    }
    Some(events)
}

impl WholeEvent {
    fn audited(self, tree: &Tree) -> Option<AuditEvent> {
        let zone = self.zone_id.as_ref().map_or("unknown", ZoneId::as_str);
        let decision = match self.decision {
            Decision::Allow => "allow",
            Decision::Deny => "deny",
        };
        let at = i64::try_from(self.occurred_at).ok()?;
        let mut event = AuditEvent::new(zone, &self.event_type.0, &self.request_id.0, decision, at);
        if let Some(status) = self.evaluation_status {
            event.evaluation_status = status.0;
        }
        let mut metadata = self.metadata;
        if let Some(Name(reason)) = self.reason {
            event.diagnostics_json = json!([{ "reason": reason }]);
            metadata.insert("reason".to_owned(), Value::from(reason));
        }
        let incarnation = match &tree.incarnation {
            Incarnation::Name(name) => name.0.clone(),
            Incarnation::Number(number) => number.to_string(),
        };
        for (name, value) in [
            ("gateway_id", json!(tree.gateway)),
            ("gateway_worker", json!(tree.worker.0)),
            ("gateway_incarnation", json!(incarnation)),
            ("gateway_seq", json!(self.seq)),
        ] {
            metadata.insert(name.to_owned(), value);
        }
        Some(event.with_metadata(Value::Object(metadata)))
    }
}

/// Reads a body in both ways. Answers how many events it has; `None` where it is refused.
fn read_both_ways(body: &[u8]) -> Option<usize> {
    let by_trees = by_trees(body);
    let read = Delivery::read(body).and_then(|mut delivery| {
        let stream = delivery.stream();
        delivery.events(&stream, NOW)
    });
    let text = String::from_utf8_lossy(body);
    let (told, expected) = match (read, by_trees) {
        (Ok(told), Some(expected)) => (told, expected),
        (Err(_), None) => return None,
        (read, by_trees) => panic!("{read:?}, and by trees {by_trees:?}: {text}"),
    };
    assert_eq!(told.len(), expected.len(), "{text}");
    for (told, (seq, mut event)) in told.iter().zip(expected) {
        let Bound::Text(id) = told.event.row()[0] else { panic!("an id is a text") };
        event.id = id.to_owned();
        assert_eq!(u64::try_from(told.seq), Ok(seq), "{text}");
        assert_eq!(told.event.content(), canonical::to_text(&content_of(&event, NOW)), "{text}");
        assert_eq!(told.event.row(), Sealed::new(&event, NOW).row(), "{text}");
    }
    Some(told.len())
}

/// Bytes that choose what is in a delivery.
struct Choices(std::vec::IntoIter<u8>);

impl Choices {
    /// Once in so many times.
    fn seldom(&mut self, times: u8) -> bool {
        self.0.next().unwrap_or(1).is_multiple_of(times)
    }

    fn one<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::from(self.0.next().unwrap_or(0)) % all.len()]
    }

    fn text(&mut self) -> String {
        let texts = ["a", "z-1", "quote\" back\\", "käse 🦀", "\u{fb33}", "\u{7f}", "", "line\nend"];
        if self.seldom(12) { (*self.one(&texts)).to_owned() } else { (*self.one(&texts[..5])).to_owned() }
    }

    fn value(&mut self) -> Value {
        match self.one(&[0, 1, 2, 3, 4, 5, 6, 7, 8]) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(-7),
            3 => json!(1.5),
            4 => json!(u64::MAX),
            5 => json!([1, {"b": self.text(), "a": []}]),
            6 => json!({"x": {"z": 1, "y": null}}),
            _ => json!(self.text()),
        }
    }

    /// A value that a member may have, most of the time.
    fn of_member(&mut self, name: &str) -> Value {
        if self.seldom(50) {
            return self.value();
        }
        match name {
            "seq" | "occurred_at" | "time" => json!(self.one(&[1, 2, 1_795_251_661_007_u64])),
            "zone_id" | "zone" => self.one(&[json!("z1"), json!("z2"), Value::Null]).clone(),
            "decision" => json!(self.one(&["allow", "deny"])),
            "reason" | "evaluation_status" => {
                if self.seldom(4) {
                    Value::Null
                } else {
                    json!("revoked")
                }
            }
            _ => json!(self.one(&["r-1", "gateway_denied", "say \"x\""])),
        }
    }

    fn metadata(&mut self) -> Value {
        if self.seldom(60) {
            return self.value();
        }
        let names =
            ["role", "jti", "reason", "gateway_id", "decision_id", "gateway_seq", "ä", "😀", "\u{fb33}"];
        let count = *self.one(&[0, 1, 2, 4, 6]);
        (0..count).map(|_| ((*self.one(&names)).to_owned(), self.value())).collect::<Map<_, _>>().into()
    }

    /// Some members of an event.
    fn members(&mut self, names: &[&str], each: u8) -> Map<String, Value> {
        let mut members = Map::new();
        for name in names {
            if !self.seldom(each) {
                members.insert((*name).to_owned(), self.of_member(name));
            }
        }
        if self.seldom(40) {
            let name = *self.one(&["extra", "as", "time", "zone", ""]);
            members.insert(name.to_owned(), self.of_member("time"));
        }
        if !self.seldom(3) {
            members.insert("metadata".to_owned(), self.metadata());
        }
        members
    }

    fn shared_by(&mut self) -> Value {
        if self.seldom(40) {
            return self.one(&[json!(9), json!([]), json!([0, 1, 0]), json!("0"), json!([0, null])]).clone();
        }
        self.one(&[json!(0), json!([0]), json!([0, 1]), json!([1, 0]), json!([0, 2])]).clone()
    }

    fn delivery(&mut self) -> Value {
        let most =
            ["occurred_at", "zone_id", "request_id", "event_type", "decision", "evaluation_status", "reason"];
        let shared =
            json!([self.members(&most, 20), self.members(&["request_id"], 2), self.members(&most[6..], 2)]);
        let mut columns =
            vec!["as", "seq", "occurred_at", "request_id", "metadata.latency_ms", "decision", "metadata.jti"];
        for column in [
            "metadata.decision_id",
            "metadata.reason",
            "metadata.gateway_seq",
            "reason",
            "zone",
            "zone_id",
            "x",
        ] {
            if self.seldom(4) {
                columns.push(column);
            }
        }
        if self.seldom(60) {
            columns.push(*self.one(&["seq", "metadata", "", "metadata.", "decision"]));
        }
        let mut seq = 0;
        let mut events = Vec::new();
        for _ in 0..*self.one(&[0, 0, 1, 2]) {
            seq += if self.seldom(40) { 0 } else { 1 };
            let mut event = self.members(&most, 30);
            event.insert("seq".to_owned(), json!(seq));
            if self.seldom(3) {
                event.insert("as".to_owned(), self.shared_by());
            }
            events.push(event);
        }
        let mut rows = Vec::new();
        for _ in 0..*self.one(&[0, 1, 2, 5]) {
            seq += u64::from(*self.one(&[1_u8, 1, 1, 7]));
            let mut row = Vec::new();
            for column in &columns {
                row.push(match *column {
                    "as" => self.shared_by(),
                    "seq" if !self.seldom(60) => json!(seq),
                    "seq" => json!(self.one(&[0, 1, u64::MAX])),
                    "decision" if self.seldom(2) => Value::Null,
                    "decision" => self.one(&[json!(0), json!(255), json!(u64::MAX)]).clone(),
                    "occurred_at" | "reason" | "zone" | "zone_id" | "x" if !self.seldom(8) => Value::Null,
                    "metadata.decision_id" if !self.seldom(8) => Value::Null,
                    column if column.starts_with("metadata.") => self.value(),
                    column => self.of_member(column),
                });
            }
            row.truncate(*self.one(&[20, 20, 7, 5, 4]));
            if self.seldom(60) {
                row.resize(21, json!(1));
            }
            rows.push(row);
        }
        let incarnation = self.one(&[json!(26), json!(26), json!(26), json!("i \"1\"")]).clone();
        let mut delivery = json!({
            "gateway": "gw-1", "worker": "w\\0", "incarnation": incarnation,
            "shared": shared, "columns": columns, "rows": rows, "events": events,
        });
        if self.seldom(40) {
            let name =
                *self.one(&["gateway", "worker", "incarnation", "shared", "columns", "rows", "events", "x"]);
            delivery[name] = self.value();
        }
        delivery
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn a_delivery_says_the_same_as_its_trees(bytes in prop::collection::vec(any::<u8>(), 200..600), spaces: bool) {
        let delivery = Choices(bytes.into_iter()).delivery();
        let text = if spaces { serde_json::to_string_pretty(&delivery) } else { serde_json::to_string(&delivery) };
        read_both_ways(text.unwrap().as_bytes());
    }
}

#[test]
fn most_of_what_is_compared_is_taken() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let bytes = prop::collection::vec(any::<u8>(), 400..600);
    let mut taken = 0;
    for _ in 0..200 {
        let bytes = proptest::strategy::ValueTree::current(&bytes.new_tree(&mut runner).unwrap());
        let delivery = Choices(bytes.into_iter()).delivery();
        taken +=
            usize::from(read_both_ways(delivery.to_string().as_bytes()).is_some_and(|events| events > 0));
    }
    assert!(taken > 40, "{taken} of 200");
}

#[test]
fn what_is_no_delivery_is_refused_in_both_ways() {
    let whole = r#"{"gateway":"g","worker":"w","incarnation":1,"shared":[{"zone_id":"z","event_type":"t","decision":"deny","metadata":{"a":{"b":1}}}],
        "columns":["as","seq","occurred_at","request_id","metadata.x"],"rows":[[0,1,2,"r",{"a":[{"b":1}]}]],
        "events":[]}"#;
    assert_eq!(read_both_ways(whole.as_bytes()), Some(1));
    for (part, other) in [
        // A member that stands twice, wherever it is.
        ("\"worker\":\"w\"", "\"worker\":\"w\",\"worker\":\"w\""),
        ("\"zone_id\":\"z\"", "\"zone_id\":\"z\",\"zone_id\":\"z\""),
        ("{\"b\":1}}}]", "{\"b\":1,\"b\":1}}}]"),
        ("[{\"b\":1}]", "[{\"b\":1,\"b\":2}]"),
        ("\"events\":[]", "\"events\":[{\"seq\":1,\"seq\":1}]"),
        // What is not JSON, or more than that.
        ("\"events\":[]}", "\"events\":[]"),
        ("\"events\":[]}", "\"events\":[]}{}"),
        ("\"events\":[]", "\"events\":[],"),
        ("\"r\"", "\"\\ud800\""),
        ("\"r\"", "\"a\nb\""),
        // Another kind of value.
        ("\"events\":[]", "\"events\":null"),
        ("\"events\":[]", "\"events\":{}"),
        ("\"events\":[]", "\"events\":[null]"),
        ("\"events\":[]", "\"events\":[1]"),
        ("\"events\":[]", "\"more\":[]"),
        ("[[0,", "[[0.0,"),
        ("[[0,1,", "[[0,1.0,"),
        ("[[0,1,", "[[0,-1,"),
        ("[[0,1,", "[[0,99999999999999999999,"),
        ("[[0,1,", "[0,[0,1,"),
        ("[[0,1,2,", "[[0,1,18446744073709551615,"),
        ("\"deny\"", "\"Deny\""),
        ("\"z\"", "\"../z\""),
        ("\"incarnation\":1", "\"incarnation\":1.5"),
        ("\"incarnation\":1", "\"incarnation\":{\"a\":1}"),
        ("\"gateway\":\"g\"", "\"gateway\":\"a b\""),
    ] {
        assert!(whole.contains(part), "{part}");
        assert_eq!(read_both_ways(whole.replacen(part, other, 1).as_bytes()), None, "{part} {other}");
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert_eq!(read_both_ways(whole.replacen("[{\"b\":1}]", &deep, 1).as_bytes()), None);
    assert_eq!(read_both_ways(b"[]"), None);
    assert_eq!(read_both_ways(b"\xff"), None);
}
