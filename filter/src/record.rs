//! What one request leaves behind: collected along the way, turned into an event at its end.

use std::borrow::Cow;
use std::rc::Rc;

use caracal_mandate::claims::SubjectType;
use caracal_mandate::header;
use caracal_mandate::id::ResourceIdentifier;
use caracal_mandate::mcp::McpName;
use caracal_mandate::upstream::Directive;
use caracal_mandate::verdict::{DenyReason, Doubt, VerifiedMandate};

use crate::config::Role;
use crate::event::{Common, Event, Presented};
use crate::forward::Inbound;
use crate::reply::Refusal;

/// The record of a request. It starts as an allow that was executed.
pub struct Record {
    started: u64,
    role: Role,
    mandate: Option<Rc<VerifiedMandate>>,
    resource: Option<ResourceIdentifier>,
    /// What evidence calls a token by that was not verified.
    fingerprint: Option<[u8; 8]>,
    event_type: &'static str,
    decision: &'static str,
    evaluation_status: &'static str,
    reason: Option<&'static str>,
    status: u16,
    result_class: Option<&'static str>,
    latency_ms: u64,
    response_bytes: u64,
    upstream_host: Option<String>,
    auth_mode: Option<String>,
    provider_id: Option<String>,
    connection_id: Option<String>,
    interrupted: Option<DenyReason>,
    doubt: Option<&'static str>,
    decision_number: Option<u64>,
    decided_by: &'static str,
    mcp: Vec<McpName>,
}

/// As much of a method as is written down.
const MAX_METHOD_BYTES: usize = 32;

impl Record {
    /// An empty record.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            started: 0,
            role,
            mandate: None,
            resource: None,
            fingerprint: None,
            event_type: "gateway_resource_request",
            decision: "allow",
            evaluation_status: "executed",
            reason: None,
            status: 0,
            result_class: None,
            latency_ms: 0,
            response_bytes: 0,
            upstream_host: None,
            auth_mode: None,
            provider_id: None,
            connection_id: None,
            interrupted: None,
            doubt: None,
            decision_number: None,
            decided_by: "filter",
            mcp: Vec::new(),
        }
    }

    /// The request starts now (unix milliseconds).
    pub fn start(&mut self, now: u64) {
        self.started = now;
    }

    /// The number of this decision: by its name logs and evidence find each other.
    pub fn begin(&mut self, decision_number: u64) {
        self.decision_number = Some(decision_number);
    }

    /// What was found out on the way to the decision. Only a verified mandate says who acted.
    pub fn decision(&mut self, resource: Option<ResourceIdentifier>, mandate: Option<Rc<VerifiedMandate>>) {
        self.resource = resource;
        if let Some(mandate) = mandate {
            self.mandate = Some(mandate);
        }
    }

    /// What the messages of an MCP request call.
    pub fn mcp(&mut self, names: Vec<McpName>) {
        self.mcp = names;
    }

    /// Why the STS is asked.
    pub fn doubt(&mut self, doubt: Doubt) {
        self.doubt = match doubt {
            Doubt::CredentialMissing => Some("credential_missing"),
            Doubt::FilterBehind => Some("filter_behind"),
            Doubt::PolicyChanged => Some("policy_changed"),
            Doubt::SingleUse => Some("single_use"),
            _ => None,
        };
    }

    /// The STS is asked about this very request.
    pub fn asked(&mut self) {
        self.decided_by = "sts";
    }

    /// How the STS lets the request go on.
    pub fn directive(&mut self, directive: &Directive) {
        let named = |text: &String| if text.is_empty() { None } else { Some(text.clone()) };
        self.auth_mode = named(&directive.auth_mode);
        self.provider_id = named(&directive.provider_id);
        self.connection_id = named(&directive.connection_id);
    }

    /// Where the request goes.
    pub fn upstream(&mut self, host: String) {
        self.upstream_host = Some(host);
    }

    /// Response headers arrived.
    pub fn answered(&mut self, now: u64, status: u16) {
        self.latency_ms = now.saturating_sub(self.started);
        self.status = status;
        self.result_class = Some(match status {
            200..=299 => "success",
            300..=399 => "redirect",
            400..=499 => "client_error",
            500..=599 => "server_error",
            _ => "unknown",
        });
    }

    /// Part of the response's body passed.
    pub fn body(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.response_bytes = self.response_bytes.saturating_add(bytes);
    }

    /// The stream was cut off.
    pub fn interrupt(&mut self, reason: DenyReason) {
        self.interrupted = Some(reason);
    }

    /// Why the stream was cut off, if it was.
    #[must_use]
    pub fn interrupted(&self) -> Option<DenyReason> {
        self.interrupted
    }

    /// The request was refused.
    pub fn refused(&mut self, now: u64, refusal: &Refusal) {
        self.event_type = "gateway_denied";
        self.decision = "deny";
        self.evaluation_status = "refused";
        self.reason = Some(refusal.reason.label());
        self.latency_ms = now.saturating_sub(self.started);
        self.status = refusal.status;
    }

    /// The request would be refused, and passes. `false` when that was known already: the first reason counts.
    pub fn tried(&mut self, refusal: &Refusal) -> bool {
        if self.reason.is_some() {
            return false;
        }
        self.event_type = "gateway_dry_run";
        self.evaluation_status = "dry_run";
        self.reason = Some(refusal.reason.label());
        true
    }

    /// The caller went away before anything was decided.
    pub fn cancelled(&mut self) {
        self.event_type = "gateway_denied";
        self.decision = "deny";
        self.evaluation_status = "cancelled";
        self.reason = Some("client_cancelled");
    }

    /// What a request without a verified mandate presented.
    pub fn presented(&mut self, inbound: &Inbound) {
        if self.mandate.is_none() {
            let token = inbound.first("authorization").and_then(|value| header::bearer(value).ok());
            self.fingerprint = token.map(|token| header::fingerprint(token.as_bytes()));
        }
    }

    /// The event. `zone` is what the operator bound, for requests without a verified mandate.
    #[must_use]
    pub fn to_event<'a>(&'a self, inbound: &'a Inbound, zone: Option<&'a str>) -> Event<'a> {
        let method = inbound.method();
        let shown = method.get(..MAX_METHOD_BYTES).unwrap_or(method);
        let traceparent = inbound.first("traceparent").filter(|value| header::valid_traceparent(value));
        let trace_id = traceparent.and_then(|value| std::str::from_utf8(value.get(3..35)?).ok());
        let claims = self.mandate.as_ref().map(|mandate| &mandate.claims);
        let text = |text: &'a Option<String>| text.as_deref().map(Cow::Borrowed);
        let common = Common {
            zone_id: claims.map(|claims| claims.zone_id.as_str()).or(zone).map(Cow::Borrowed),
            event_type: self.event_type,
            decision: self.decision,
            evaluation_status: self.evaluation_status,
            reason: self.reason,
            role: self.role.name(),
            application_id: claims.map(|claims| Cow::Borrowed(claims.client_id.as_str())),
            resource: self.resource.as_ref().map(|resource| Cow::Borrowed(resource.as_str())),
            subject_kind: claims.map(|claims| match claims.sub_type {
                SubjectType::Application => "application",
                SubjectType::User => "user",
            }),
            method: Some(String::from_utf8_lossy(shown)),
            gateway_status: self.status,
            result_class: self.result_class,
            upstream_host: text(&self.upstream_host),
            auth_mode: text(&self.auth_mode),
            provider_id: text(&self.provider_id),
            connection_id: text(&self.connection_id),
            doubt: self.doubt,
            decided_by: Some(self.decided_by),
        };
        let verified = self.mandate.as_ref().map(|mandate| mandate.fingerprint);
        let presented = Presented {
            subject_fingerprint: verified.or(self.fingerprint),
            jti: claims.map(|claims| Cow::Borrowed(claims.jti.as_str())),
        };
        Event {
            common,
            presented,
            occurred_at: self.started,
            request_id: inbound.request_id(),
            latency_ms: self.latency_ms,
            response_bytes: self.response_bytes,
            trace_id,
            interrupted: self.interrupted,
            decision_number: self.decision_number,
            mcp: &self.mcp,
        }
    }
}
