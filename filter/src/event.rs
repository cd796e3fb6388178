//! One decision as Audit is told of it: JSON in two parts. What it has in common with other events of the worker is written
//! down and sent once for many of them ([`caracal_mandate::delivery`]); the rest is its own.

use std::borrow::Cow;

use caracal_mandate::delivery::SHARED_BY;
use caracal_mandate::mcp::McpName;
use caracal_mandate::verdict::DenyReason;
use serde_json::Value;

/// One decision (contract gateway §A18). Never path, query, header, body or token; of an MCP request, what it calls.
#[derive(Clone, Debug, Default)]
pub struct Event<'a> {
    /// Unix milliseconds.
    pub occurred_at: u64,
    /// The zone, as far as it is known for certain.
    pub zone_id: Option<&'a str>,
    /// The request.
    pub request_id: &'a str,
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
    pub application_id: Option<&'a str>,
    /// The resource.
    pub resource: Option<&'a str>,
    /// First eight bytes of SHA-256 of the token, in hex.
    pub subject_fingerprint: Option<&'a str>,
    /// `user` or `application`.
    pub subject_kind: Option<&'static str>,
    /// The mandate's id.
    pub jti: Option<&'a str>,
    /// The HTTP method.
    pub method: Cow<'a, str>,
    /// The status that the caller got; 0 when none was sent.
    pub gateway_status: u16,
    /// `success`, `redirect`, `client_error`, `server_error` or `unknown`.
    pub result_class: Option<&'static str>,
    /// Milliseconds to the response headers.
    pub latency_ms: u64,
    /// Bytes of the response body.
    pub response_bytes: u64,
    /// The trace.
    pub trace_id: Option<&'a str>,
    /// The upstream's host.
    pub upstream_host: Option<&'a str>,
    /// How the credential travelled.
    pub auth_mode: Option<&'a str>,
    /// Whose credential it was.
    pub provider_id: Option<&'a str>,
    /// Through which connection.
    pub connection_id: Option<&'a str>,
    /// Why the stream was cut off.
    pub interrupted: Option<DenyReason>,
    /// Why only the STS could decide.
    pub doubt: Option<&'static str>,
    /// The name of the decision.
    pub decision_id: Option<&'a str>,
    /// `filter`, or `sts` where it was asked about this request.
    pub decided_by: Option<&'static str>,
    /// The messages of an MCP request, up to the one that was refused.
    pub mcp: &'a [McpName],
}

impl Event<'_> {
    /// Writes what other events may say as well: a JSON object.
    pub fn write_shared(&self, json: &mut String) {
        let mut event = Members::begin(json);
        event.text("zone_id", self.zone_id);
        event.word("event_type", Some(self.event_type));
        event.word("decision", Some(self.decision));
        event.word("evaluation_status", Some(self.evaluation_status));
        event.word("reason", self.reason);
        let mut metadata = event.object("metadata");
        metadata.word("role", Some(self.role));
        metadata.text("application_id", self.application_id);
        metadata.text("resource", self.resource);
        metadata.text("subject_fingerprint", self.subject_fingerprint);
        metadata.word("subject_kind", self.subject_kind);
        metadata.text("jti", self.jti);
        metadata.text("method", Some(&self.method));
        metadata.number("gateway_status", u64::from(self.gateway_status));
        metadata.word("result_class", self.result_class);
        metadata.text("upstream_host", self.upstream_host);
        metadata.text("auth_mode", self.auth_mode);
        metadata.text("provider_id", self.provider_id);
        metadata.text("connection_id", self.connection_id);
        metadata.word("doubt", self.doubt);
        metadata.word("decided_by", self.decided_by);
        metadata.end();
        event.end();
    }

    /// Writes what it says alone, as the event with this number: the members of an object, after the one that names what
    /// it shares.
    pub fn write_own(&self, seq: u64, json: &mut String) {
        let mut event = Members::go_on(json);
        event.number("seq", seq);
        event.number("occurred_at", self.occurred_at);
        event.text("request_id", Some(self.request_id));
        let mut metadata = event.object("metadata");
        metadata.number("latency_ms", self.latency_ms);
        metadata.number("response_bytes", self.response_bytes);
        metadata.text("trace_id", self.trace_id);
        metadata.text("decision_id", self.decision_id);
        if !self.mcp.is_empty() {
            metadata.name("mcp");
            write_mcp(self.mcp, metadata.json);
        }
        if let Some(reason) = self.interrupted {
            let expired = reason == DenyReason::Expiring;
            metadata.raw(if expired { "expiry_interrupted" } else { "revocation_interrupted" }, "true");
        }
        metadata.end();
        event.end();
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

/// Writes an event whole, by what it shares (the object of this number) and what is its own.
pub(crate) fn write_whole(shared: usize, own: &str, json: &mut String) {
    let mut event = Members::begin(json);
    event.number(SHARED_BY, u64::try_from(shared).unwrap_or(u64::MAX));
    json.push_str(own);
}

/// Writes the members of a JSON object; what is absent is left out. Every request's event is written, so nothing is built
/// in between.
pub(crate) struct Members<'a> {
    pub(crate) json: &'a mut String,
    first: bool,
}

impl<'a> Members<'a> {
    pub(crate) fn begin(json: &'a mut String) -> Self {
        json.push('{');
        Self { json, first: true }
    }

    fn go_on(json: &'a mut String) -> Self {
        Self { json, first: false }
    }

    fn object(&mut self, name: &str) -> Members<'_> {
        self.name(name);
        Members::begin(self.json)
    }

    fn name(&mut self, name: &str) {
        self.json.push_str(if self.first { "\"" } else { ",\"" });
        self.first = false;
        self.json.push_str(name);
        self.json.push_str("\":");
    }

    pub(crate) fn text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.name(name);
            push_text(self.json, text);
        }
    }

    /// Text of our own, which needs no escapes.
    fn word(&mut self, name: &str, word: Option<&'static str>) {
        if let Some(word) = word {
            self.name(name);
            self.json.push('"');
            self.json.push_str(word);
            self.json.push('"');
        }
    }

    pub(crate) fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        push_decimal(self.json, number);
    }

    /// A list of what is JSON already.
    pub(crate) fn list<'b>(&mut self, name: &str, items: impl Iterator<Item = &'b str>) {
        self.name(name);
        let mut next = "[";
        for item in items {
            self.json.push_str(next);
            self.json.push_str(item);
            next = ",";
        }
        self.json.push_str(if next == "[" { "[]" } else { "]" });
    }

    /// A member whose value is JSON already.
    pub(crate) fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.json.push_str(json);
    }

    pub(crate) fn end(self) {
        self.json.push('}');
    }
}

/// Text as JSON. Nearly all of it needs no escapes.
fn push_text(json: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&Value::from(text).to_string());
    }
}

fn push_decimal(json: &mut String, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        count += 1;
        if number == 0 {
            break;
        }
    }
    let digits = digits.get(digits.len() - count..).unwrap_or_default();
    json.push_str(std::str::from_utf8(digits).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_mandate::delivery;

    /// An event as Audit reads it.
    fn told(event: &Event<'_>, seq: u64) -> Value {
        let (mut shared, mut own, mut whole) = (String::new(), String::new(), String::new());
        event.write_shared(&mut shared);
        event.write_own(seq, &mut own);
        write_whole(0, &own, &mut whole);
        let delivery = format!("{{\"shared\":[{shared}],\"events\":[{whole}]}}");
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
                occurred_at: 7,
                request_id: text,
                event_type: "gateway_denied",
                decision: "deny",
                evaluation_status: "refused",
                reason: Some("revoked"),
                role: "resource",
                method: text.into(),
                jti: Some(text),
                gateway_status: 200,
                mcp: &mcp,
                interrupted: Some(DenyReason::Revoked),
                ..Event::default()
            };
            let expected = serde_json::json!({
                "seq": u64::MAX, "occurred_at": 7, "request_id": text, "event_type": "gateway_denied",
                "decision": "deny", "evaluation_status": "refused", "reason": "revoked",
                "metadata": {
                    "role": "resource", "jti": text, "method": text, "gateway_status": 200, "latency_ms": 0,
                    "response_bytes": 0, "mcp": [{ "method": text, "tool": text }, { "method": "m" }],
                    "revocation_interrupted": true,
                },
            });
            assert_eq!(told(&event, u64::MAX), expected);
        }
    }

    #[test]
    fn numbers_are_as_they_are_formatted() {
        for number in [0, 1, 9, 10, 99, 100, 1_700_000_000_000, u64::MAX - 1, u64::MAX] {
            let mut json = String::new();
            push_decimal(&mut json, number);
            assert_eq!(json, number.to_string());
        }
    }
}
