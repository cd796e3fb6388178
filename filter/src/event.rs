//! One decision as Audit is told of it: JSON in three parts ([`caracal_mandate::delivery`]). What it has in common with other
//! requests of the worker, and with other requests with the same mandate, is written down and sent once for many of them;
//! the rest is its own, and becomes a row.

use std::borrow::Cow;

use caracal_mandate::gateway_signature::to_hex;
use caracal_mandate::mcp::McpName;
use caracal_mandate::verdict::DenyReason;

use crate::members::{Members, push_decimal, push_text};

/// What the places of a row mean: [`Event::write_own`] writes all of them but the first, which says what it shares.
pub(crate) const COLUMNS: &str = r#"["as","seq","occurred_at","request_id","metadata.latency_ms","metadata.response_bytes","decision","metadata.trace_id","metadata.mcp","metadata.revocation_interrupted","metadata.expiry_interrupted"]"#;

/// One decision (contract gateway §A18). Never path, query, header, body or token; of an MCP request, what it calls.
#[derive(Clone, Debug, Default)]
pub struct Event<'a> {
    /// What it shares with events of other mandates.
    pub common: Common<'a>,
    /// What it shares with events of the same one.
    pub presented: Presented<'a>,
    /// Unix milliseconds.
    pub occurred_at: u64,
    /// The request.
    pub request_id: &'a str,
    /// Milliseconds to the response headers.
    pub latency_ms: u64,
    /// Bytes of the response body.
    pub response_bytes: u64,
    /// The trace.
    pub trace_id: Option<&'a str>,
    /// Why the stream was cut off.
    pub interrupted: Option<DenyReason>,
    /// The number that the name of the decision ends with.
    pub decision_number: Option<u64>,
    /// The messages of an MCP request, up to the one that was refused.
    pub mcp: &'a [McpName],
}

/// Text that comes from outside.
type Text<'a> = Option<Cow<'a, str>>;

/// What a decision may have in common with decisions about other mandates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Common<'a> {
    /// The zone, as far as it is known for certain.
    pub zone_id: Text<'a>,
    /// `gateway_resource_request`, `gateway_denied` or `gateway_dry_run`. Of a replay the STS tells, where it is found.
    pub event_type: &'static str,
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// `executed`, `refused`, `cancelled` or `dry_run`.
    pub evaluation_status: &'static str,
    /// The reason's code, for a deny.
    pub reason: Option<&'static str>,
    /// `gateway` or `resource`.
    pub role: &'static str,
    /// The acting application.
    pub application_id: Text<'a>,
    /// The resource.
    pub resource: Text<'a>,
    /// `user` or `application`.
    pub subject_kind: Option<&'static str>,
    /// The HTTP method.
    pub method: Text<'a>,
    /// The status that the caller got; 0 when none was sent.
    pub gateway_status: u16,
    /// `success`, `redirect`, `client_error`, `server_error` or `unknown`.
    pub result_class: Option<&'static str>,
    /// The upstream's host.
    pub upstream_host: Text<'a>,
    /// How the credential travelled.
    pub auth_mode: Text<'a>,
    /// Whose credential it was.
    pub provider_id: Text<'a>,
    /// Through which connection.
    pub connection_id: Text<'a>,
    /// Why only the STS could decide.
    pub doubt: Option<&'static str>,
    /// `filter`, or `sts` where it was asked about this request.
    pub decided_by: Option<&'static str>,
}

/// The mandate that was presented.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presented<'a> {
    /// First eight bytes of SHA-256 of the token.
    pub subject_fingerprint: Option<[u8; 8]>,
    /// The mandate's id, once it was verified.
    pub jti: Text<'a>,
}

/// A part that events share. It is written once, and then only compared.
pub(crate) trait Shared {
    /// The part as it is kept.
    type Kept;

    fn is(&self, kept: &Self::Kept) -> bool;
    fn keep(&self) -> Self::Kept;
    /// Writes it as a JSON object.
    fn write(&self, json: &mut String);
}

fn kept(text: &Text<'_>) -> Text<'static> {
    text.as_ref().map(|text| Cow::Owned(text.clone().into_owned()))
}

impl Shared for Common<'_> {
    type Kept = Common<'static>;

    fn is(&self, kept: &Common<'static>) -> bool {
        self == kept
    }

    fn keep(&self) -> Common<'static> {
        Common {
            zone_id: kept(&self.zone_id),
            application_id: kept(&self.application_id),
            resource: kept(&self.resource),
            method: kept(&self.method),
            upstream_host: kept(&self.upstream_host),
            auth_mode: kept(&self.auth_mode),
            provider_id: kept(&self.provider_id),
            connection_id: kept(&self.connection_id),
            event_type: self.event_type,
            decision: self.decision,
            evaluation_status: self.evaluation_status,
            reason: self.reason,
            role: self.role,
            subject_kind: self.subject_kind,
            gateway_status: self.gateway_status,
            result_class: self.result_class,
            doubt: self.doubt,
            decided_by: self.decided_by,
        }
    }

    fn write(&self, json: &mut String) {
        let mut event = Members::begin(json);
        event.text("zone_id", self.zone_id.as_deref());
        event.word("event_type", Some(self.event_type));
        event.word("decision", Some(self.decision));
        event.word("evaluation_status", Some(self.evaluation_status));
        event.word("reason", self.reason);
        let mut metadata = event.object("metadata");
        metadata.word("role", Some(self.role));
        metadata.text("application_id", self.application_id.as_deref());
        metadata.text("resource", self.resource.as_deref());
        metadata.word("subject_kind", self.subject_kind);
        metadata.text("method", self.method.as_deref());
        metadata.number("gateway_status", u64::from(self.gateway_status));
        metadata.word("result_class", self.result_class);
        metadata.text("upstream_host", self.upstream_host.as_deref());
        metadata.text("auth_mode", self.auth_mode.as_deref());
        metadata.text("provider_id", self.provider_id.as_deref());
        metadata.text("connection_id", self.connection_id.as_deref());
        metadata.word("doubt", self.doubt);
        metadata.word("decided_by", self.decided_by);
        metadata.end();
        event.end();
    }
}

impl Presented<'_> {
    /// Whether no mandate was presented, so that there is nothing to say.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Presented::default()
    }
}

impl Shared for Presented<'_> {
    type Kept = Presented<'static>;

    fn is(&self, kept: &Presented<'static>) -> bool {
        self == kept
    }

    fn keep(&self) -> Presented<'static> {
        Presented { jti: kept(&self.jti), subject_fingerprint: self.subject_fingerprint }
    }

    fn write(&self, json: &mut String) {
        let mut event = Members::begin(json);
        let mut metadata = event.object("metadata");
        let fingerprint = self.subject_fingerprint.map(|bytes| to_hex(&bytes));
        metadata.text("subject_fingerprint", fingerprint.as_deref());
        metadata.text("jti", self.jti.as_deref());
        metadata.end();
        event.end();
    }
}

impl Event<'_> {
    /// Writes what it says alone, as the event with this number: its row after the place that says what it shares.
    pub fn write_own(&self, seq: u64, json: &mut String) {
        let mut row = Row { json, empty: 0 };
        row.number(seq);
        row.number(self.occurred_at);
        push_text(row.place(), self.request_id);
        row.number(self.latency_ms);
        row.number(self.response_bytes);
        match self.decision_number {
            Some(number) => row.number(number),
            None => row.skip(),
        }
        match self.trace_id {
            Some(trace) => push_text(row.place(), trace),
            None => row.skip(),
        }
        if self.mcp.is_empty() {
            row.skip();
        } else {
            write_mcp(self.mcp, row.place());
        }
        if let Some(reason) = self.interrupted {
            if reason == DenyReason::Expiring {
                row.skip();
            }
            row.place().push_str("true");
        }
    }
}

/// Writes the places of a row; those that stay empty at the end are left out.
struct Row<'a> {
    json: &'a mut String,
    empty: usize,
}

impl Row<'_> {
    fn skip(&mut self) {
        self.empty += 1;
    }

    fn place(&mut self) -> &mut String {
        for _ in 0..std::mem::take(&mut self.empty) {
            self.json.push_str(",null");
        }
        self.json.push(',');
        self.json
    }

    fn number(&mut self, number: u64) {
        push_decimal(self.place(), number);
    }
}

fn write_mcp(names: &[McpName], json: &mut String) {
    let mut next = '[';
    for name in names {
        json.push(next);
        next = ',';
        let mut members = Members::begin(json);
        members.text("method", Some(&name.method));
        members.text("tool", name.tool.as_deref());
        members.end();
    }
    json.push(']');
}

/// Writes the row of an event: what it shares (the object of this number, and that of its mandate), and what is its own.
pub(crate) fn write_row(common: usize, mandate: Option<usize>, own: &str, json: &mut String) {
    let number = |json: &mut String, number| push_decimal(json, u64::try_from(number).unwrap_or(u64::MAX));
    json.push('[');
    if let Some(mandate) = mandate {
        json.push('[');
        number(json, common);
        json.push(',');
        number(json, mandate);
        json.push(']');
    } else {
        number(json, common);
    }
    json.push_str(own);
    json.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_mandate::delivery;
    use serde_json::Value;

    /// An event as Audit reads it.
    fn told(event: &Event<'_>, seq: u64) -> Value {
        let [mut common, mut mandate, mut own, mut row] = [const { String::new() }; 4];
        event.common.write(&mut common);
        event.presented.write(&mut mandate);
        event.write_own(seq, &mut own);
        let shared = [common, mandate].join(",");
        write_row(0, (!event.presented.is_empty()).then_some(1), &own, &mut row);
        let delivery = format!(
            "{{\"worker\":\"w\",\"incarnation\":26,\"shared\":[{shared}],\"columns\":{COLUMNS},\"rows\":[{row}]}}"
        );
        delivery::events(&serde_json::from_str(&delivery).unwrap()).unwrap().remove(0)
    }

    #[test]
    fn what_an_event_says_is_the_same_json_whatever_is_in_it() {
        for text in
            ["plain", "", "quote\" back\\slash", "line\nend\t\u{0}\u{1f}", "käse 🦀", "\u{7f}\u{2028}"]
        {
            let mcp = vec![
                McpName { method: text.to_owned(), tool: Some(text.to_owned()) },
                McpName { method: "m".to_owned(), tool: None },
            ];
            let event = Event {
                common: Common {
                    event_type: "gateway_denied",
                    decision: "deny",
                    evaluation_status: "refused",
                    reason: Some("revoked"),
                    role: "resource",
                    method: Some(text.into()),
                    gateway_status: 200,
                    ..Common::default()
                },
                presented: Presented {
                    jti: Some(text.into()),
                    subject_fingerprint: Some([0, 1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xef]),
                },
                occurred_at: 7,
                request_id: text,
                decision_number: Some(255),
                mcp: &mcp,
                interrupted: Some(DenyReason::Revoked),
                ..Event::default()
            };
            let expected = serde_json::json!({
                "seq": u64::MAX, "occurred_at": 7, "request_id": text, "event_type": "gateway_denied",
                "decision": "deny", "evaluation_status": "refused", "reason": "revoked",
                "metadata": {
                    "role": "resource", "jti": text, "subject_fingerprint": "000123456789abef", "method": text, "gateway_status": 200, "latency_ms": 0,
                    "response_bytes": 0, "decision_id": "w-1a-ff", "mcp": [{ "method": text, "tool": text }, { "method": "m" }],
                    "revocation_interrupted": true,
                },
            });
            assert_eq!(told(&event, u64::MAX), expected);
        }
    }

    #[test]
    fn what_stands_at_the_end_of_a_row_or_is_absent_is_told_all_the_same() {
        let trace = Some("0af7651916cd43dd8448eb211c80319c");
        for (jti, trace_id) in [(None, None), (Some("j"), trace)] {
            for (reason, member) in [
                (None, None),
                (Some(DenyReason::Revoked), Some("revocation_interrupted")),
                (Some(DenyReason::Expiring), Some("expiry_interrupted")),
            ] {
                let presented = Presented { jti: jti.map(Cow::Borrowed), ..Presented::default() };
                let event =
                    Event { presented, request_id: "r", trace_id, interrupted: reason, ..Event::default() };
                let told = told(&event, 1);
                let metadata = told["metadata"].as_object().unwrap();
                let interrupted: Vec<&str> = metadata
                    .keys()
                    .filter(|name| name.ends_with("_interrupted"))
                    .map(String::as_str)
                    .collect();
                assert_eq!(interrupted, member.into_iter().collect::<Vec<_>>());
                let text = |name: &str| metadata.get(name).and_then(Value::as_str);
                assert_eq!((text("jti"), text("trace_id"), text("decision_id")), (jti, trace_id, None));
            }
        }
    }
}
