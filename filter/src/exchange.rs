//! The one STS call of a request: what is sent, and what every outcome means (contract gateway §A10).
//!
//! An exchange spends a mandate and answers with what to forward. A check asks no more than whether a mandate still
//! stands; it spends and mints nothing, so it is for mandates that may be used more than once.

use caracal_mandate::claims::MandateUse;
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::upstream::{Directive, form_encode};
use caracal_mandate::verdict::{DenyReason, Judged};
use serde_json::Value;

use crate::config::Server;
use crate::host::{Answer, CallToken, Host};
use crate::reply::Refusal;
use crate::signed::{SignedCall, send};

/// The exchange endpoint.
pub const EXCHANGE_PATH: &str = "/oauth/2/token";
/// Where a mandate is checked.
pub const CHECK_PATH: &str = "/internal/gateway/check";
/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// What the STS says when a mandate was used before.
const REPLAY: &str = "token replay detected";

/// What the STS is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Question {
    /// Does the mandate still stand?
    Check,
    /// May it be used, and how does the request go on? `burn`: the STS spends it.
    Exchange {
        /// Whether this was its only use.
        burn: bool,
    },
}

/// The request that the STS is asked about.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// What is asked.
    pub question: Question,
    /// The inbound mandate's claims.
    pub claims: &'a Judged,
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
    /// The request's trace, for an exchange.
    pub traceparent: Option<&'a str>,
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
    asked: &Asked<'_>,
) -> Result<CallToken, Refusal> {
    let mut fields: Vec<(&str, &[u8])> = vec![
        ("grant_type", b"urn:ietf:params:oauth:grant-type:token-exchange"),
        ("zone_id", asked.claims.zone_id.as_str().as_bytes()),
        ("application_id", asked.claims.client_id.as_str().as_bytes()),
        ("subject_token", asked.token.as_bytes()),
        ("subject_token_type", b"urn:ietf:params:oauth:token-type:access_token"),
        ("resource", asked.resource.as_bytes()),
        ("request_method", asked.method),
        ("request_path", asked.path),
        ("gateway_request_id", asked.request_id.as_bytes()),
    ];
    let path = match asked.question {
        Question::Exchange { burn } => {
            if burn {
                fields.push(("gateway_burn_jti", b"1"));
            }
            EXCHANGE_PATH
        }
        Question::Check => {
            let gateway = asked.claims.usage == MandateUse::Gateway;
            fields.push(("mandate_use", if gateway { b"gateway" } else { b"resource" }));
            CHECK_PATH
        }
    };
    let body = form_encode(&fields);
    let call = SignedCall {
        server,
        method: "POST",
        path,
        content_type: Some("application/x-www-form-urlencoded"),
        body: body.as_bytes(),
        request_id: Some(asked.request_id),
        traceparent: asked.traceparent,
        timeout_ms: server.timeout_ms,
    };
    send(host, key, &call).map_err(|_| DenyReason::StsUnreachable.into())
}

/// Why the STS does not let a request go on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// What the caller is told.
    pub refusal: Refusal,
    /// Whether the STS will say the same as long as policy stays as it is.
    pub lasting: bool,
}

impl<T: Into<Refusal>> From<T> for Refused {
    fn from(refusal: T) -> Self {
        Self { refusal: refusal.into(), lasting: false }
    }
}

/// Reads the outcome of a check; `None` is a failure in transport.
///
/// # Errors
/// Why it is not allowed.
pub fn checked(answer: Option<Answer>) -> Result<(), Refused> {
    let answer = answer.ok_or(DenyReason::StsUnreachable)?;
    if answer.status != 200 {
        return Err(refused(&answer));
    }
    let body: Value = caracal_mandate::json::parse(&answer.body).unwrap_or_default();
    match body.get("active") {
        Some(Value::Bool(true)) if answer.is_json() => Ok(()),
        _ => Err(DenyReason::StsInvalid.into()),
    }
}

/// Reads the outcome of an exchange; `None` is a failure in transport.
///
/// # Errors
/// Why it is not granted.
pub fn outcome(answer: Option<Answer>, resource: &str) -> Result<Granted, Refused> {
    let answer = answer.ok_or(DenyReason::StsUnreachable)?;
    if answer.status != 200 {
        return Err(refused(&answer));
    }
    if !answer.is_json() || answer.body.len() > MAX_ANSWER_BYTES {
        return Err(DenyReason::StsInvalid.into());
    }
    let success: Value = caracal_mandate::json::parse(&answer.body).map_err(|_| DenyReason::StsInvalid)?;
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

fn refused(answer: &Answer) -> Refused {
    let status = answer.status;
    // A success that is not 200, or something informational, is no answer to an exchange.
    if !(300..=599).contains(&status) {
        return DenyReason::StsInvalid.into();
    }
    let body: Value = if answer.body.len() <= MAX_ANSWER_BYTES {
        caracal_mandate::json::parse(&answer.body).unwrap_or_default()
    } else {
        Value::Null
    };
    let text = |name| body.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    match text("error") {
        Some(error) => {
            let description = text("error_description").unwrap_or_default();
            let replay = status == 401 && description == REPLAY;
            let reason = if replay { DenyReason::Replay } else { DenyReason::StsRefused };
            let refusal =
                Refusal { reason, status, error: error.to_owned(), description: description.to_owned() };
            Refused { refusal, lasting: body.get("lasting") == Some(&Value::Bool(true)) }
        }
        // Envoy's own answers in the place of a server that is silent or gone.
        None if status == 504 => DenyReason::StsTimeout.into(),
        None if status == 502 || status == 503 => DenyReason::StsUnreachable.into(),
        None => Refusal {
            reason: DenyReason::StsInvalid,
            status,
            error: "sts_unavailable".to_owned(),
            description: status_text(status).to_owned(),
        }
        .into(),
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
            let Err(Refused { refusal, lasting: false }) = outcome(answer, "r") else { panic!("{shown}") };
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
    fn a_check_allows_by_one_answer_only() {
        let json = "application/json";
        assert!(checked(answer(200, json, r#"{"active":true}"#)).is_ok());
        for (status, media_type, body) in [
            (200, json, r#"{"active":false}"#),
            (200, json, r#"{"active":"true"}"#),
            (200, json, "{}"),
            (200, "text/plain", r#"{"active":true}"#),
            (204, json, r#"{"active":true}"#),
        ] {
            let refused = checked(answer(status, media_type, body)).unwrap_err();
            assert_eq!(refused, Refused::from(DenyReason::StsInvalid), "{status} {media_type} {body}");
        }
        assert_eq!(checked(None).unwrap_err(), DenyReason::StsUnreachable.into());
        let denied = r#"{"error":"access_denied","error_description":"policy denied (x)","lasting":true}"#;
        let refused = checked(answer(403, json, denied)).unwrap_err();
        assert!(refused.lasting && refused.refusal.status == 403);
    }
}
