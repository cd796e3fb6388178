//! An event made ready for its place in a chain: the canonical text of what its hash covers, written once, and where in it
//! the columns of its row stand.

use crate::canonical;
use caracal_store::audit::AuditEvent;
use caracal_store::many::Bound;
use std::ops::Range;

/// What most events need, in bytes.
const USUAL: usize = 1_536;

/// How many columns [`Sealed::row`] has.
pub(crate) const COLUMNS: usize = 13;

/// An event with the canonical text of what its hash covers ([`crate::query`] says what that is).
#[derive(Debug)]
pub(crate) struct Sealed {
    /// The canonical text, and after it the texts that look different there.
    text: String,
    content: usize,
    id: Place,
    zone_id: Place,
    event_type: Place,
    request_id: Place,
    decision: Place,
    policy_set_version_id: Option<Place>,
    manifest_sha: Option<Place>,
    evaluation_status: Place,
    determining_policies_json: Place,
    diagnostics_json: Place,
    metadata_json: Option<Place>,
    occurred_at: i64,
    ingested_at: i64,
}

/// Where a text stands.
type Place = Range<usize>;

/// The texts and times of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) id: &'a str,
    pub(crate) zone_id: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) request_id: &'a str,
    pub(crate) decision: &'a str,
    pub(crate) policy_set_version_id: Option<&'a str>,
    pub(crate) manifest_sha: Option<&'a str>,
    pub(crate) evaluation_status: &'a str,
    pub(crate) occurred_at: i64,
    pub(crate) ingested_at: i64,
}

/// What writes a value as canonical JSON.
pub(crate) trait Json {
    fn write(&self, text: &mut String);
}

impl Json for serde_json::Value {
    fn write(&self, text: &mut String) {
        canonical::write(text, self);
    }
}

/// Writes the canonical text of an event.
struct Pen<'a> {
    text: String,
    /// What looks different there.
    escaped: Vec<&'a str>,
}

/// Where a text stands, or which of those that look different it is.
enum Written {
    Plain(Place),
    Escaped(usize),
}

impl<'a> Pen<'a> {
    fn string(&mut self, name: &str, string: &'a str) -> Written {
        self.text.push_str(name);
        let start = self.text.len() + 1;
        if canonical::write_string(&mut self.text, string) {
            return Written::Plain(start..start + string.len());
        }
        self.escaped.push(string);
        Written::Escaped(self.escaped.len() - 1)
    }

    fn optional(&mut self, name: &str, string: Option<&'a str>) -> Option<Written> {
        if string.is_none() {
            self.text.push_str(name);
            self.text.push_str("null");
        }
        string.map(|string| self.string(name, string))
    }

    fn json(&mut self, name: &str, json: &impl Json) -> Place {
        self.text.push_str(name);
        let start = self.text.len();
        json.write(&mut self.text);
        start..self.text.len()
    }

    fn integer(&mut self, name: &str, integer: i64) {
        self.text.push_str(name);
        canonical::write_integer(&mut self.text, integer);
    }

    /// Where a text stands as it is.
    fn place(&mut self, written: Written) -> Place {
        match written {
            Written::Plain(place) => place,
            Written::Escaped(number) => {
                let start = self.text.len();
                self.text.push_str(self.escaped.get(number).copied().unwrap_or_default());
                start..self.text.len()
            }
        }
    }
}

impl Sealed {
    /// Makes an event ready: beside the writer where that can be, whose time everyone shares.
    pub(crate) fn new(event: &AuditEvent, ingested_at: i64) -> Self {
        let facts = Facts {
            id: &event.id,
            zone_id: &event.zone_id,
            event_type: &event.event_type,
            request_id: &event.request_id,
            decision: &event.decision,
            policy_set_version_id: event.policy_set_version_id.as_deref(),
            manifest_sha: event.manifest_sha.as_deref(),
            evaluation_status: &event.evaluation_status,
            occurred_at: event.occurred_at,
            ingested_at,
        };
        let (policies, diagnostics) = (&event.determining_policies_json, &event.diagnostics_json);
        Self::write(facts, policies, diagnostics, event.metadata_json.as_ref())
    }

    /// The same of an event in parts. Members stand in the order of canonical JSON.
    pub(crate) fn write(
        facts: Facts<'_>,
        policies: &impl Json,
        diagnostics: &impl Json,
        metadata: Option<&impl Json>,
    ) -> Self {
        let mut pen = Pen { text: String::with_capacity(USUAL), escaped: Vec::new() };
        let decision = pen.string("{\"decision\":", facts.decision);
        let determining_policies_json = pen.json(",\"determining_policies_json\":", policies);
        let diagnostics_json = pen.json(",\"diagnostics_json\":", diagnostics);
        let evaluation_status = pen.string(",\"evaluation_status\":", facts.evaluation_status);
        let event_type = pen.string(",\"event_type\":", facts.event_type);
        let id = pen.string(",\"id\":", facts.id);
        pen.integer(",\"ingested_at\":", facts.ingested_at);
        let manifest_sha = pen.optional(",\"manifest_sha\":", facts.manifest_sha);
        let metadata_json = metadata.map(|metadata| pen.json(",\"metadata_json\":", metadata));
        if metadata_json.is_none() {
            pen.text.push_str(",\"metadata_json\":null");
        }
        pen.integer(",\"occurred_at\":", facts.occurred_at);
        let policy_set_version_id = pen.optional(",\"policy_set_version_id\":", facts.policy_set_version_id);
        let request_id = pen.string(",\"request_id\":", facts.request_id);
        let zone_id = pen.string(",\"zone_id\":", facts.zone_id);
        pen.text.push('}');
        Self {
            content: pen.text.len(),
            id: pen.place(id),
            zone_id: pen.place(zone_id),
            event_type: pen.place(event_type),
            request_id: pen.place(request_id),
            decision: pen.place(decision),
            policy_set_version_id: policy_set_version_id.map(|written| pen.place(written)),
            manifest_sha: manifest_sha.map(|written| pen.place(written)),
            evaluation_status: pen.place(evaluation_status),
            determining_policies_json,
            diagnostics_json,
            metadata_json,
            occurred_at: facts.occurred_at,
            ingested_at: facts.ingested_at,
            text: pen.text,
        }
    }

    /// The canonical text of what its hash covers.
    pub(crate) fn content(&self) -> &str {
        self.at(&(0..self.content))
    }

    /// The zone in whose chain it stands.
    pub(crate) fn zone(&self) -> &str {
        self.at(&self.zone_id)
    }

    fn at(&self, place: &Place) -> &str {
        self.text.get(place.clone()).unwrap_or_default()
    }

    /// Its columns: `id, zone_id, event_type, request_id, decision, policy_set_version_id, manifest_sha, evaluation_status,
    /// determining_policies_json, diagnostics_json, metadata_json, occurred_at, ingested_at`.
    pub(crate) fn row(&self) -> [Bound<'_>; COLUMNS] {
        let text = |place: &Place| Bound::Text(self.at(place));
        let optional = |place: &Option<Place>| place.as_ref().map_or(Bound::Null, text);
        [
            text(&self.id),
            text(&self.zone_id),
            text(&self.event_type),
            text(&self.request_id),
            text(&self.decision),
            optional(&self.policy_set_version_id),
            optional(&self.manifest_sha),
            text(&self.evaluation_status),
            text(&self.determining_policies_json),
            text(&self.diagnostics_json),
            optional(&self.metadata_json),
            Bound::Number(self.occurred_at),
            Bound::Number(self.ingested_at),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::content_of;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z0-9-]{0,12}",
            ".{0,6}",
            Just("quote\" back\\ line\n \u{0}\u{7f}\u{2028} 🦀".to_owned())
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            text().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(text(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The text that is hashed, and the columns that are stored, are those of the event as a tree, which whoever verifies
        /// makes of the row.
        #[test]
        fn what_is_hashed_and_stored_is_the_event(
            texts in prop::collection::vec(text(), 8),
            optional in prop::collection::vec(any::<bool>(), 3),
            trees in prop::collection::vec(value(), 3),
            times in any::<(i64, i64)>(),
        ) {
            let [id, zone, kind, request, decision, status, version, manifest]: [String; 8] = texts.try_into().unwrap();
            let [policies, diagnostics, metadata]: [Value; 3] = trees.try_into().unwrap();
            let mut event = AuditEvent::new(&zone, &kind, &request, &decision, times.0).with_status(&status);
            event.id = id;
            event.policy_set_version_id = optional[0].then_some(version);
            event.manifest_sha = optional[1].then_some(manifest);
            event.metadata_json = optional[2].then_some(metadata);
            event.determining_policies_json = policies;
            event.diagnostics_json = diagnostics;
            let sealed = Sealed::new(&event, times.1);
            prop_assert_eq!(sealed.content(), canonical::to_text(&content_of(&event, times.1)));
            prop_assert_eq!(sealed.zone(), &event.zone_id);
            let metadata = event.metadata_json.as_ref().map(canonical::to_text);
            let (policies, diagnostics) =
                (canonical::to_text(&event.determining_policies_json), canonical::to_text(&event.diagnostics_json));
            prop_assert_eq!(sealed.row(), [
                Bound::Text(&event.id),
                Bound::Text(&event.zone_id),
                Bound::Text(&event.event_type),
                Bound::Text(&event.request_id),
                Bound::Text(&event.decision),
                event.policy_set_version_id.as_deref().into(),
                event.manifest_sha.as_deref().into(),
                Bound::Text(&event.evaluation_status),
                Bound::Text(&policies),
                Bound::Text(&diagnostics),
                metadata.as_deref().into(),
                Bound::Number(event.occurred_at),
                Bound::Number(times.1),
            ]);
        }
    }

    #[test]
    fn the_canonical_text_of_an_event_does_not_change() {
        let metadata = json!({"resource": "https://a", "latency_ms": 3, "gateway_seq": 1, "tool": "say \"hi\"\n", "x": 1.50});
        let mut event =
            AuditEvent::new("z", "gateway_denied", "r", "deny", 1_795_251_661_007).with_metadata(metadata);
        event.id = "0199c0de-5eed-7000-8000-000000000001".to_owned();
        event.diagnostics_json = json!([{"reason": "revoked"}]);
        let expected = r#"{"decision":"deny","determining_policies_json":[],"diagnostics_json":[{"reason":"revoked"}],"evaluation_status":"complete","event_type":"gateway_denied","id":"0199c0de-5eed-7000-8000-000000000001","ingested_at":1795251661010,"manifest_sha":null,"metadata_json":{"gateway_seq":1,"latency_ms":3,"resource":"https://a","tool":"say \"hi\"\n","x":1.5},"occurred_at":1795251661007,"policy_set_version_id":null,"request_id":"r","zone_id":"z"}"#;
        assert_eq!(Sealed::new(&event, 1_795_251_661_010).content(), expected);
    }
}
