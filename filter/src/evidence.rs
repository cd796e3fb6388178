//! Evidence: every decision becomes an event, and an event is kept until Audit acknowledges it.
//!
//! The filter has no disk, so each worker numbers its events and holds a bounded number of them. A
//! request needs a place in the buffer before it is decided; when there is none, it is refused (or, if
//! the operator chose so, goes on without evidence, and the gap in the numbers shows that).

use std::collections::VecDeque;

use caracal_mandate::gateway_signature::{GatewayKey, to_hex};
use caracal_mandate::mcp::McpName;
use caracal_mandate::verdict::DenyReason;
use serde_json::{Map, Value};

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

/// Collects the members of a JSON object; what is absent or empty is left out.
struct Members(Map<String, Value>);

impl Members {
    fn text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.0.insert(name.to_owned(), Value::String(text.to_owned()));
        }
    }

    fn number(&mut self, name: &str, number: u64) {
        self.0.insert(name.to_owned(), Value::Number(number.into()));
    }
}

impl Event {
    /// The event as it is sent.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut members = Members(Map::new());
        members.number("seq", self.seq);
        members.number("occurred_at", self.occurred_at);
        members.text("zone_id", self.zone_id.as_deref());
        members.text("request_id", Some(&self.request_id));
        members.text("event_type", Some(self.event_type));
        members.text("decision", Some(self.decision));
        members.text("evaluation_status", Some(self.evaluation_status));
        members.text("reason", self.reason);
        members.0.insert("metadata".to_owned(), self.metadata.to_json());
        Value::Object(members.0)
    }
}

impl Metadata {
    fn to_json(&self) -> Value {
        let mut members = Members(Map::new());
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
            let names = self.mcp.iter().map(|name| {
                let mut members = Members(Map::new());
                members.text("method", Some(&name.method));
                members.text("tool", name.tool.as_deref());
                Value::Object(members.0)
            });
            members.0.insert("mcp".to_owned(), Value::Array(names.collect()));
        }
        if let Some(reason) = self.interrupted {
            let expired = reason == DenyReason::Expiring;
            let name = if expired { "expiry_interrupted" } else { "revocation_interrupted" };
            members.0.insert(name.to_owned(), Value::Bool(true));
        }
        Value::Object(members.0)
    }
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
    pending: VecDeque<Event>,
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
        self.pending.push_back(event);
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
        let mut batch = Members(Map::new());
        batch.text("gateway", Some(&self.gateway));
        batch.text("worker", Some(&self.worker));
        batch.number("incarnation", self.incarnation);
        batch.0.insert("events".to_owned(), Value::Array(self.next_batch()));
        let body = serde_json::to_vec(&Value::Object(batch.0)).unwrap_or_default();
        let call = SignedCall {
            server: &self.config.server,
            method: "POST",
            path: PATH,
            content_type: Some("application/json"),
            body: &body,
            request_id: None,
            timeout_ms: self.config.server.timeout_ms,
        };
        match send(host, key, &call) {
            Ok(token) => self.in_flight = Some(token),
            Err(error) => self.fail(host, &error.to_string()),
        }
    }

    /// The oldest events, as many as one call may hold, and at least one.
    fn next_batch(&self) -> Vec<Value> {
        let mut bytes = 0_usize;
        let mut events = Vec::new();
        for event in self.pending.iter().take(self.batch_limit) {
            let event = event.to_json();
            bytes = bytes.saturating_add(event.to_string().len());
            if bytes > MAX_BATCH_BYTES && !events.is_empty() {
                break;
            }
            events.push(event);
        }
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
