//! What one request leaves behind: collected along the way, turned into an event at its end.

use caracal_mandate::claims::SubjectType;
use caracal_mandate::gateway_signature::to_hex;
use caracal_mandate::header;
use caracal_mandate::id::ResourceIdentifier;
use caracal_mandate::mcp::McpName;
use caracal_mandate::upstream::Directive;
use caracal_mandate::verdict::{DenyReason, Doubt, VerifiedMandate};

use crate::config::Role;
use crate::evidence::{Event, Metadata};
use crate::forward::Inbound;
use crate::reply::Refusal;

/// The record of a request. It starts as an allow that was executed.
pub struct Record {
    started: u64,
    zone_id: Option<String>,
    event_type: &'static str,
    decision: &'static str,
    evaluation_status: &'static str,
    reason: Option<&'static str>,
    metadata: Metadata,
}

/// As much of a method as is written down.
const MAX_METHOD_BYTES: usize = 32;

impl Record {
    /// An empty record of a request that started now (unix milliseconds).
    #[must_use]
    pub fn new(started: u64, role: Role) -> Self {
        Self {
            started,
            zone_id: None,
            event_type: "gateway_resource_request",
            decision: "allow",
            evaluation_status: "executed",
            reason: None,
            metadata: Metadata { role: role.name(), decided_by: Some("filter"), ..Metadata::default() },
        }
    }

    /// The name of this decision, by which logs and evidence find each other.
    pub fn begin(&mut self, decision_id: String) {
        self.metadata.decision_id = Some(decision_id);
    }

    /// What the headers say.
    pub fn request(&mut self, inbound: &Inbound) {
        let method = inbound.method();
        let shown = method.get(..MAX_METHOD_BYTES).unwrap_or(method);
        self.metadata.method = String::from_utf8_lossy(shown).into_owned();
        let traceparent = inbound.first("traceparent").filter(|value| header::valid_traceparent(value));
        self.metadata.trace_id =
            traceparent.and_then(|value| value.get(3..35)).map(|id| String::from_utf8_lossy(id).into_owned());
    }

    /// What was found out on the way to the decision. Only a verified mandate says who acted.
    pub fn decision(&mut self, resource: Option<&ResourceIdentifier>, mandate: Option<&VerifiedMandate>) {
        self.metadata.resource = resource.map(ToString::to_string);
        let Some(VerifiedMandate { claims, fingerprint, .. }) = mandate else { return };
        self.metadata.subject_fingerprint = Some(to_hex(fingerprint));
        self.zone_id = Some(claims.zone_id.to_string());
        self.metadata.application_id = Some(claims.client_id.to_string());
        self.metadata.jti = Some(claims.jti.to_string());
        self.metadata.subject_kind = Some(match claims.sub_type {
            SubjectType::Application => "application",
            SubjectType::User => "user",
        });
    }

    /// What the messages of an MCP request call.
    pub fn mcp(&mut self, names: Vec<McpName>) {
        self.metadata.mcp = names;
    }

    /// Why the STS is asked.
    pub fn doubt(&mut self, doubt: Doubt) {
        self.metadata.doubt = match doubt {
            Doubt::CredentialMissing => Some("credential_missing"),
            Doubt::FilterBehind => Some("filter_behind"),
            Doubt::PolicyChanged => Some("policy_changed"),
            Doubt::SingleUse => Some("single_use"),
            _ => None,
        };
    }

    /// The STS is asked about this very request.
    pub fn asked(&mut self) {
        self.metadata.decided_by = Some("sts");
    }

    /// How the STS lets the request go on.
    pub fn directive(&mut self, directive: &Directive) {
        let named = |text: &String| if text.is_empty() { None } else { Some(text.clone()) };
        self.metadata.auth_mode = named(&directive.auth_mode);
        self.metadata.provider_id = named(&directive.provider_id);
        self.metadata.connection_id = named(&directive.connection_id);
    }

    /// Where the request goes.
    pub fn upstream(&mut self, host: String) {
        self.metadata.upstream_host = Some(host);
    }

    /// Response headers arrived.
    pub fn answered(&mut self, now: u64, status: u16) {
        self.metadata.latency_ms = now.saturating_sub(self.started);
        self.metadata.gateway_status = status;
        self.metadata.result_class = Some(match status {
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
        self.metadata.response_bytes = self.metadata.response_bytes.saturating_add(bytes);
    }

    /// The stream was cut off.
    pub fn interrupt(&mut self, reason: DenyReason) {
        self.metadata.interrupted = Some(reason);
    }

    /// Why the stream was cut off, if it was.
    #[must_use]
    pub fn interrupted(&self) -> Option<DenyReason> {
        self.metadata.interrupted
    }

    /// The request was refused.
    pub fn refused(&mut self, now: u64, refusal: &Refusal) {
        self.event_type = "gateway_denied";
        self.decision = "deny";
        self.evaluation_status = "refused";
        self.reason = Some(refusal.reason.label());
        self.metadata.latency_ms = now.saturating_sub(self.started);
        self.metadata.gateway_status = refusal.status;
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
        if self.metadata.subject_fingerprint.is_none() {
            let token = inbound.first("authorization").and_then(|value| header::bearer(value).ok());
            self.metadata.subject_fingerprint = token.map(|token| header::fingerprint(token.as_bytes()));
        }
    }

    /// The event. `zone` is what the operator bound, for requests without a verified mandate.
    #[must_use]
    pub fn to_event(&self, request_id: &str, zone: Option<String>) -> Event {
        Event {
            seq: 0,
            occurred_at: self.started,
            zone_id: self.zone_id.clone().or(zone),
            request_id: request_id.to_owned(),
            event_type: self.event_type,
            decision: self.decision,
            evaluation_status: self.evaluation_status,
            reason: self.reason,
            metadata: self.metadata.clone(),
        }
    }
}
