//! Evidence: every decision becomes an event, and an event is kept until Audit acknowledges it.
//!
//! The filter has no disk, so each worker numbers its events and holds a bounded number of them. A
//! request needs a place in the buffer before it is decided; when there is none, it is refused (or, if
//! the operator chose so, goes on without evidence, and the gap in the numbers shows that).

use std::collections::VecDeque;

use caracal_mandate::gateway_signature::{GatewayKey, to_hex};
use caracal_mandate::mcp::McpName;
use caracal_mandate::verdict::DenyReason;
use serde_json::Value;

use crate::config::{AuditConfig, FilterConfig};
use crate::host::{AnswerSize, CallToken, Host, Level};
use crate::metrics;
use crate::pause::Pause;
use crate::signed::{SignedCall, send};

/// Where events go.
pub const PATH: &str = "/internal/audit/gateway-events";
/// An event older than this is sent on the next tick, in milliseconds.
const MAX_DELAY_MS: u64 = 200;
/// As many events are sent without waiting.
const BATCH: usize = 100;
/// The most events in one call.
const MAX_BATCH: usize = 1_000;
/// The most bytes of events in one call; Audit takes four times as many.
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// The longest pause after failed deliveries, in milliseconds.
const MAX_BACKOFF_MS: u64 = 5_000;

/// One decision (contract gateway §A18).
#[derive(Clone, Debug)]
pub struct Event {
    /// Position in this worker's events, from 1.
    pub seq: u64,
    /// Unix milliseconds.
    pub occurred_at: u64,
    /// The zone, as far as it is known for certain.
    pub zone_id: Option<String>,
    /// The request.
    pub request_id: String,
    /// `gateway_resource_request`, `gateway_denied` or `gateway_dry_run`. Of a replay the STS tells, where it is found.
    pub event_type: &'static str,
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// `executed`, `refused`, `cancelled` or `dry_run`.
    pub evaluation_status: &'static str,
    /// The reason's code, for a deny.
    pub reason: Option<&'static str>,
    /// More about the request. Never path, query, header, body or token; of an MCP request, what it calls.
    pub metadata: Metadata,
}

/// What an event says about its request.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// `gateway` or `resource`.
    pub role: &'static str,
    /// The acting application.
    pub application_id: Option<String>,
    /// The resource.
    pub resource: Option<String>,
    /// First eight bytes of SHA-256 of the token, in hex.
    pub subject_fingerprint: Option<String>,
    /// `user` or `application`.
    pub subject_kind: Option<&'static str>,
    /// The mandate's id.
    pub jti: Option<String>,
    /// The HTTP method.
    pub method: String,
    /// The status that the caller got; 0 when none was sent.
    pub gateway_status: u16,
    /// `success`, `redirect`, `client_error`, `server_error` or `unknown`.
    pub result_class: Option<&'static str>,
    /// Milliseconds to the response headers.
    pub latency_ms: u64,
    /// Bytes of the response body.
    pub response_bytes: u64,
    /// The trace.
    pub trace_id: Option<String>,
    /// The upstream's host.
    pub upstream_host: Option<String>,
    /// How the credential travelled.
    pub auth_mode: Option<String>,
    /// Whose credential it was.
    pub provider_id: Option<String>,
    /// Through which connection.
    pub connection_id: Option<String>,
    /// Why the stream was cut off.
    pub interrupted: Option<DenyReason>,
    /// Why only the STS could decide.
    pub doubt: Option<&'static str>,
    /// The name of the decision.
    pub decision_id: Option<String>,
    /// `filter`, or `sts` where it was asked about this request.
    pub decided_by: Option<&'static str>,
    /// The messages of an MCP request, up to the one that was refused.
    pub mcp: Vec<McpName>,
}

/// Writes the members of a JSON object; what is absent is left out. Every request's event is written, so nothing is built
/// in between.
struct Members(String);

impl Members {
    /// An object with room for so many bytes.
    fn new(room: usize) -> Self {
        let mut text = String::with_capacity(room);
        text.push('{');
        Self(text)
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    fn text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.name(name);
            push_text(&mut self.0, text);
        }
    }

    fn number(&mut self, name: &str, number: u64) {
        self.raw(name, &number.to_string());
    }

    /// A member whose value is JSON already.
    fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.0.push_str(json);
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
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

impl Event {
    /// The event as it is sent: JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut members = Members::new(768);
        members.number("seq", self.seq);
        members.number("occurred_at", self.occurred_at);
        members.text("zone_id", self.zone_id.as_deref());
        members.text("request_id", Some(&self.request_id));
        members.text("event_type", Some(self.event_type));
        members.text("decision", Some(self.decision));
        members.text("evaluation_status", Some(self.evaluation_status));
        members.text("reason", self.reason);
        members.raw("metadata", &self.metadata.to_json());
        members.end()
    }
}

impl Metadata {
    fn to_json(&self) -> String {
        let mut members = Members::new(512);
        members.text("role", Some(self.role));
        members.text("application_id", self.application_id.as_deref());
        members.text("resource", self.resource.as_deref());
        members.text("subject_fingerprint", self.subject_fingerprint.as_deref());
        members.text("subject_kind", self.subject_kind);
        members.text("jti", self.jti.as_deref());
        members.text("method", Some(&self.method));
        members.number("gateway_status", u64::from(self.gateway_status));
        members.text("result_class", self.result_class);
        members.number("latency_ms", self.latency_ms);
        members.number("response_bytes", self.response_bytes);
        members.text("trace_id", self.trace_id.as_deref());
        members.text("upstream_host", self.upstream_host.as_deref());
        members.text("auth_mode", self.auth_mode.as_deref());
        members.text("provider_id", self.provider_id.as_deref());
        members.text("connection_id", self.connection_id.as_deref());
        members.text("doubt", self.doubt);
        members.text("decision_id", self.decision_id.as_deref());
        members.text("decided_by", self.decided_by);
        if !self.mcp.is_empty() {
            members.raw("mcp", &mcp_json(&self.mcp));
        }
        if let Some(reason) = self.interrupted {
            let expired = reason == DenyReason::Expiring;
            members.raw(if expired { "expiry_interrupted" } else { "revocation_interrupted" }, "true");
        }
        members.end()
    }
}

fn mcp_json(names: &[McpName]) -> String {
    let names: Vec<String> = names
        .iter()
        .map(|name| {
            let mut members = Members::new(64);
            members.text("method", Some(&name.method));
            members.text("tool", name.tool.as_deref());
            members.end()
        })
        .collect();
    format!("[{}]", names.join(","))
}

/// An event that waits for Audit, as it will be sent.
struct Waiting {
    seq: u64,
    occurred_at: u64,
    json: String,
}

/// Whether a request may go on as far as evidence is concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// A place is reserved; [`Evidence::record`] fills it, [`Evidence::release`] gives it back.
    Reserved,
    /// There is no place, and the operator wants traffic more than evidence.
    Unrecorded,
    /// There is no place: refuse.
    Backlog,
}

/// The events of one worker.
pub struct Evidence {
    config: AuditConfig,
    gateway: String,
    worker: String,
    incarnation: u64,
    pending: VecDeque<Waiting>,
    reserved: usize,
    last_seq: u64,
    decisions: u64,
    in_flight: Option<CallToken>,
    /// How many events the next call may hold: fewer after Audit refused a call as such.
    batch_limit: usize,
    failures: u32,
    pause: Pause,
}

impl Evidence {
    /// No events yet. Worker and incarnation are new with every start of the VM.
    #[must_use]
    pub fn new(host: &dyn Host, config: &FilterConfig) -> Self {
        let mut worker = [0_u8; 8];
        if !host.random(&mut worker) {
            host.log(Level::Warn, "caracal evidence: no random source to name this worker by");
        }
        Self {
            config: config.audit.clone(),
            gateway: config.gateway_id.to_string(),
            worker: to_hex(&worker),
            incarnation: host.now(),
            pending: VecDeque::new(),
            reserved: 0,
            last_seq: 0,
            decisions: 0,
            in_flight: None,
            batch_limit: MAX_BATCH,
            failures: 0,
            pause: Pause::default(),
        }
    }

    /// The name of this worker, new with every start of the VM.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// A name for the next decision that nothing else has.
    pub fn next_decision(&mut self) -> String {
        self.decisions += 1;
        format!("{}-{:x}-{:x}", self.worker, self.incarnation, self.decisions)
    }

    /// Asks for a place before a request is decided.
    pub fn admit(&mut self, host: &dyn Host) -> Admission {
        if self.pending.len() + self.reserved < self.config.capacity {
            self.reserved += 1;
            return Admission::Reserved;
        }
        self.last_seq += 1;
        host.count(metrics::EVIDENCE_DROPPED, 1);
        if self.config.deny_on_backlog { Admission::Backlog } else { Admission::Unrecorded }
    }

    /// Fills a reserved place. The event's number is given here.
    ///
    /// Refusals of callers that proved nothing take no more than half of the places while events wait, so that nobody
    /// without a mandate can make those with one wait. What is left out shows as a gap in the numbers.
    pub fn record(&mut self, host: &dyn Host, mut event: Event) {
        self.release();
        self.last_seq += 1;
        event.seq = self.last_seq;
        if event.metadata.application_id.is_none() && self.pending.len() >= self.config.capacity / 2 {
            host.count(metrics::EVIDENCE_DROPPED, 1);
            return;
        }
        let Event { seq, occurred_at, .. } = event;
        self.pending.push_back(Waiting { seq, occurred_at, json: event.to_json() });
    }

    /// Gives a reserved place back.
    pub fn release(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// How many events wait for Audit.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Sends what is due. Only a root context may call this: the answer arrives where the call started.
    pub fn on_tick(&mut self, host: &dyn Host, key: &GatewayKey) {
        let now = host.now();
        let Some(oldest) = self.pending.front() else { return };
        let waits = Pause::new(oldest.occurred_at, MAX_DELAY_MS);
        let due = self.pending.len() >= BATCH || waits.is_over(now);
        if due && self.in_flight.is_none() && self.pause.is_over(now) {
            self.deliver(host, key);
        }
    }

    /// Takes Audit's answer; forgets what it acknowledged.
    pub fn on_answer(&mut self, host: &dyn Host, key: &GatewayKey, token: CallToken, size: AnswerSize) {
        if self.in_flight != Some(token) {
            return;
        }
        self.in_flight = None;
        let answer = host.answer(size);
        if answer.as_ref().is_some_and(|answer| matches!(answer.status, 400 | 413)) {
            self.shrink(host);
            return;
        }
        let answer = answer.filter(|answer| answer.status == 200);
        let answer: Option<Value> = answer.and_then(|answer| caracal_mandate::json::parse(&answer.body).ok());
        let acknowledged = answer.and_then(|answer| answer.get("acknowledged").and_then(Value::as_u64));
        let Some(acknowledged) = acknowledged else {
            self.fail(host, "Audit does not acknowledge");
            return;
        };
        let before = self.pending.len();
        while self.pending.front().is_some_and(|event| event.seq <= acknowledged) {
            self.pending.pop_front();
        }
        let gone = before - self.pending.len();
        if gone == 0 {
            self.fail(host, "Audit acknowledges nothing new");
            return;
        }
        self.failures = 0;
        self.batch_limit = MAX_BATCH;
        host.count(metrics::EVIDENCE_ACKNOWLEDGED, u64::try_from(gone).unwrap_or(u64::MAX));
        if self.pending.len() >= BATCH {
            self.deliver(host, key);
        }
    }

    fn deliver(&mut self, host: &dyn Host, key: &GatewayKey) {
        let events = self.next_batch();
        let mut batch = Members::new(events.len() + 256);
        batch.text("gateway", Some(&self.gateway));
        batch.text("worker", Some(&self.worker));
        batch.number("incarnation", self.incarnation);
        batch.raw("events", &events);
        let body = batch.end();
        let call = SignedCall {
            server: &self.config.server,
            method: "POST",
            path: PATH,
            content_type: Some("application/json"),
            body: body.as_bytes(),
            request_id: None,
            timeout_ms: self.config.server.timeout_ms,
        };
        match send(host, key, &call) {
            Ok(token) => self.in_flight = Some(token),
            Err(error) => self.fail(host, &error.to_string()),
        }
    }

    /// The oldest events as a JSON array: as many as one call may hold, and at least one.
    fn next_batch(&self) -> String {
        let mut events = String::from("[");
        for event in self.pending.iter().take(self.batch_limit) {
            let first = events.len() == 1;
            if !first && events.len().saturating_add(event.json.len()) > MAX_BATCH_BYTES {
                break;
            }
            if !first {
                events.push(',');
            }
            events.push_str(&event.json);
        }
        events.push(']');
        events
    }

    /// Audit refused the call itself: the next one holds fewer events. An event that is refused on its own will never
    /// be taken; it goes, and the gap in the numbers tells of it.
    fn shrink(&mut self, host: &dyn Host) {
        let sent = self.batch_limit.min(self.pending.len());
        if sent <= 1 {
            self.pending.pop_front();
            host.count(metrics::EVIDENCE_DROPPED, 1);
        }
        self.batch_limit = (sent / 2).max(1);
        self.fail(host, "Audit refused the events as malformed or too large");
    }

    fn fail(&mut self, host: &dyn Host, problem: &str) {
        self.failures = self.failures.saturating_add(1);
        self.pause = Pause::after_failures(host.now(), self.failures, MAX_BACKOFF_MS);
        host.count(metrics::EVIDENCE_ERRORS, 1);
        let message = format!(
            "caracal evidence: delivery to cluster {} failed: {problem}; {} events wait",
            self.config.server.cluster,
            self.pending.len()
        );
        host.log(Level::Warn, &message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_event_says_is_the_same_json_whatever_is_in_it() {
        for text in
            ["plain", "", "quote\" back\\slash", "line\nend\t\u{0}\u{1f}", "käse 🦀", "\u{7f}\u{2028}"]
        {
            let mcp = vec![
                McpName { method: text.to_owned(), tool: Some(text.to_owned()) },
                McpName { method: "m".to_owned(), tool: None },
            ];
            let metadata = Metadata {
                role: "resource",
                method: text.to_owned(),
                jti: Some(text.to_owned()),
                gateway_status: 200,
                mcp,
                interrupted: Some(DenyReason::Revoked),
                ..Metadata::default()
            };
            let event = Event {
                seq: u64::MAX,
                occurred_at: 7,
                zone_id: None,
                request_id: text.to_owned(),
                event_type: "gateway_denied",
                decision: "deny",
                evaluation_status: "refused",
                reason: Some("revoked"),
                metadata,
            };
            let read: Value = serde_json::from_str(&event.to_json()).unwrap();
            let expected = serde_json::json!({
                "seq": u64::MAX, "occurred_at": 7, "request_id": text, "event_type": "gateway_denied",
                "decision": "deny", "evaluation_status": "refused", "reason": "revoked",
                "metadata": {
                    "role": "resource", "jti": text, "method": text, "gateway_status": 200, "latency_ms": 0,
                    "response_bytes": 0, "mcp": [{ "method": text, "tool": text }, { "method": "m" }],
                    "revocation_interrupted": true,
                },
            });
            assert_eq!(read, expected);
        }
    }
}
