//! The one STS call of a gateway request: what is sent, and what every outcome means
//! (contract gateway §A10).

use caracal_mandate::claims::Claims;
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::upstream::{Directive, form_encode};
use caracal_mandate::verdict::DenyReason;
use serde_json::Value;

use crate::config::Server;
use crate::host::{Answer, CallToken, Host};
use crate::reply::Refusal;
use crate::signed::{SignedCall, send};

/// The exchange endpoint.
pub const PATH: &str = "/oauth/2/token";
/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// What the STS says when a mandate was used before.
const REPLAY: &str = "token replay detected";

/// What is exchanged.
#[derive(Clone, Copy)]
pub struct Exchange<'a> {
    /// The inbound mandate's claims.
    pub claims: &'a Claims,
    /// The inbound mandate.
    pub token: &'a str,
    /// The resource's identifier.
    pub resource: &'a str,
    /// The method as received.
    pub method: &'a [u8],
    /// The path, decoded once, without query.
    pub path: &'a [u8],
    /// The request's id.
    pub request_id: &'a str,
    /// Whether the STS spends the mandate.
    pub burn: bool,
}

/// What the STS granted.
#[derive(Clone)]
pub struct Granted {
    /// The derived `use=resource` mandate.
    pub access_token: String,
    /// Where to go and with which credential.
    pub directive: Directive,
}

/// Starts the call.
///
/// # Errors
/// A [`Refusal`] when the call cannot be started.
pub fn start(
    host: &dyn Host,
    key: &GatewayKey,
    server: &Server,
    exchange: &Exchange<'_>,
) -> Result<CallToken, Refusal> {
    let mut fields: Vec<(&str, &[u8])> = vec![
        ("grant_type", b"urn:ietf:params:oauth:grant-type:token-exchange"),
        ("zone_id", exchange.claims.zone_id.as_str().as_bytes()),
        ("application_id", exchange.claims.client_id.as_str().as_bytes()),
        ("subject_token", exchange.token.as_bytes()),
        ("subject_token_type", b"urn:ietf:params:oauth:token-type:access_token"),
        ("resource", exchange.resource.as_bytes()),
        ("request_method", exchange.method),
        ("request_path", exchange.path),
        ("gateway_request_id", exchange.request_id.as_bytes()),
    ];
    if exchange.burn {
        fields.push(("gateway_burn_jti", b"1"));
    }
    let body = form_encode(&fields);
    let call = SignedCall {
        server,
        method: "POST",
        path: PATH,
        content_type: Some("application/x-www-form-urlencoded"),
        body: body.as_bytes(),
        request_id: Some(exchange.request_id),
        timeout_ms: server.timeout_ms,
    };
    send(host, key, &call).map_err(|_| DenyReason::StsUnreachable.into())
}

/// Reads the outcome; `None` is a failure in transport.
///
/// # Errors
/// The [`Refusal`] to answer with.
pub fn outcome(answer: Option<Answer>, resource: &str) -> Result<Granted, Refusal> {
    let answer = answer.ok_or(DenyReason::StsUnreachable)?;
    if answer.status != 200 {
        return Err(refused(&answer));
    }
    if !answer.is_json() || answer.body.len() > MAX_ANSWER_BYTES {
        return Err(DenyReason::StsInvalid.into());
    }
    let success: Value = serde_json::from_slice(&answer.body).map_err(|_| DenyReason::StsInvalid)?;
    let access_token = success.get("access_token").and_then(Value::as_str).unwrap_or_default();
    if access_token.is_empty() {
        return Err(DenyReason::StsInvalid.into());
    }
    let directive = success.get("upstreams").and_then(|upstreams| upstreams.get(resource));
    let directive = directive.ok_or(DenyReason::UpstreamMissing)?;
    let directive = Directive::from_json(directive).ok_or(DenyReason::StsInvalid)?;
    if directive.url.is_empty() {
        return Err(DenyReason::UpstreamMissing.into());
    }
    Ok(Granted { access_token: access_token.to_owned(), directive })
}

fn refused(answer: &Answer) -> Refusal {
    let status = answer.status;
    // A success that is not 200, or something informational, is no answer to an exchange.
    if !(300..=599).contains(&status) {
        return DenyReason::StsInvalid.into();
    }
    let body: Value = if answer.body.len() <= MAX_ANSWER_BYTES {
        serde_json::from_slice(&answer.body).unwrap_or_default()
    } else {
        Value::Null
    };
    let text = |name| body.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    match text("error") {
        Some(error) => {
            let description = text("error_description").unwrap_or_default();
            let replay = status == 401 && description == REPLAY;
            let reason = if replay { DenyReason::Replay } else { DenyReason::StsRefused };
            Refusal { reason, status, error: error.to_owned(), description: description.to_owned() }
        }
        // Envoy's own answers in the place of a server that is silent or gone.
        None if status == 504 => DenyReason::StsTimeout.into(),
        None if status == 502 || status == 503 => DenyReason::StsUnreachable.into(),
        None => Refusal {
            reason: DenyReason::StsInvalid,
            status,
            error: "sts_unavailable".to_owned(),
            description: status_text(status).to_owned(),
        },
    }
}

fn status_text(status: u16) -> &'static str {
    match status {
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        _ => "unexpected status",
    }
}

/// Stops asking an STS that keeps failing.
#[derive(Debug, Default)]
pub struct Circuit {
    failures: u32,
    open_until: u64,
}

/// Counted failures that open the circuit.
const FAILURES_TO_OPEN: u32 = 3;
/// How long it stays open, in milliseconds.
const OPEN_MS: u64 = 10_000;

impl Circuit {
    /// Whether nothing may be sent now (unix milliseconds).
    #[must_use]
    pub fn is_open(&self, now: u64) -> bool {
        now < self.open_until
    }

    /// A success closes the circuit for good.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A failure counts when the STS could not do its work; a refusal does not. `true` when the circuit
    /// opened. The count stays after the pause, so that the next failure opens it again.
    pub fn failed(&mut self, refusal: &Refusal, now: u64) -> bool {
        // An answer that cannot be read says nothing about the STS: one resource's must not close the way for all others.
        let unreadable = refusal.reason == DenyReason::StsInvalid;
        if unreadable || refusal.error != "sts_unavailable" || refusal.status < 500 {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES_TO_OPEN {
            return false;
        }
        self.open_until = now.saturating_add(OPEN_MS);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, media_type: &str, body: &str) -> Option<Answer> {
        Some(Answer { status, media_type: media_type.to_owned(), body: body.as_bytes().to_vec() })
    }

    #[test]
    fn a10_outcomes() {
        let json = "application/json";
        let big = format!(r#"{{"access_token":"t","pad":"{}"}}"#, "x".repeat(17 * 1024));
        for (answer, status, error, description) in [
            (None, 502, "sts_unavailable", "sts unavailable"),
            (answer(503, "text/plain", "no healthy upstream"), 502, "sts_unavailable", "sts unavailable"),
            (answer(504, "text/plain", "upstream request timeout"), 504, "sts_unavailable", "sts timeout"),
            (answer(500, "text/html", "<h1>"), 500, "sts_unavailable", "Internal Server Error"),
            (answer(302, "", ""), 302, "sts_unavailable", "Found"),
            (answer(204, "", ""), 502, "sts_unavailable", "sts response invalid"),
            (
                answer(403, json, r#"{"error":"access_denied","error_description":"no","approval_id":"a"}"#),
                403,
                "access_denied",
                "no",
            ),
            (answer(503, json, r#"{"error":"policy_eval_failed"}"#), 503, "policy_eval_failed", ""),
            (
                answer(401, json, r#"{"error":"invalid_token","error_description":"token replay detected"}"#),
                401,
                "invalid_token",
                "token replay detected",
            ),
            (answer(400, json, "{}"), 400, "sts_unavailable", "Bad Request"),
            (answer(200, "text/html", "{}"), 502, "sts_unavailable", "sts response invalid"),
            (answer(200, json, "{}"), 502, "sts_unavailable", "sts response invalid"),
            (answer(200, json, "nonsense"), 502, "sts_unavailable", "sts response invalid"),
            (answer(200, json, &big), 502, "sts_unavailable", "sts response invalid"),
            (
                answer(200, json, r#"{"access_token":"t"}"#),
                403,
                "access_denied",
                "resource upstream not configured",
            ),
            (
                answer(200, json, r#"{"access_token":"t","upstreams":{"r":{"url":""}}}"#),
                403,
                "access_denied",
                "resource upstream not configured",
            ),
        ] {
            let shown = format!("{answer:?}");
            let Err(refusal) = outcome(answer, "r") else { panic!("{shown}") };
            let got = (refusal.status, refusal.error.as_str(), refusal.description.as_str());
            assert_eq!(got, (status, error, description), "{shown}");
        }
        let good = r#"{"access_token":"t","upstreams":{"r":{"url":"http://u","auth_mode":"none"}},"more":1}"#;
        for media_type in [json, "application/vnd.x+json"] {
            let granted =
                outcome(answer(200, media_type, good), "r").unwrap_or_else(|_| panic!("{media_type}"));
            assert_eq!((granted.access_token.as_str(), granted.directive.url.as_str()), ("t", "http://u"));
        }
    }

    #[test]
    fn a10_circuit() {
        let failure = Refusal::from(DenyReason::StsUnreachable);
        let mut denial = Refusal::from(DenyReason::StsRefused);
        denial.status = 503;
        denial.error = "policy_eval_failed".to_owned();
        let mut circuit = Circuit::default();
        for _ in 0..5 {
            assert!(!circuit.failed(&denial, 0));
        }
        assert!(!circuit.failed(&failure, 0));
        assert!(!circuit.failed(&failure, 0));
        assert!(!circuit.is_open(0));
        assert!(circuit.failed(&failure, 0));
        assert!(circuit.is_open(9_999));
        assert!(!circuit.is_open(10_000));
        assert!(circuit.failed(&failure, 10_000), "the next single failure opens it again");
        circuit.succeeded();
        assert!(!circuit.is_open(10_001));
        assert!(!circuit.failed(&failure, 10_001));
    }
}
