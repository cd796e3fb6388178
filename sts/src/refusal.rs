//! How the STS says no: one code and one status per cause (contract sts §5).

use crate::providers::Renewal;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use caracal_store::StoreError;
use caracal_store::audit::AuditEvent;
use caracal_store::http::Refusal;
use std::borrow::Cow;

/// The code of what waits for an approval. It is told as a challenge, too.
pub(crate) const INTERACTION_REQUIRED: &str = "interaction_required";

/// A refusal, with the events that tell of it.
#[derive(Debug, Clone)]
pub(crate) struct Denial {
    /// The HTTP status.
    pub(crate) status: StatusCode,
    /// The `error` member.
    pub(crate) code: &'static str,
    /// The `error_description` member.
    pub(crate) description: Cow<'static, str>,
    /// When it is worth trying again, seconds.
    pub(crate) retry_after: Option<u16>,
    /// Further members of the body.
    pub(crate) extra: serde_json::Map<String, serde_json::Value>,
    /// Is it a failed authentication, of which only so many are allowed?
    pub(crate) counts_as_failure: bool,
    /// What is written down about it.
    pub(crate) events: Vec<AuditEvent>,
    /// No answer: a connection has to be renewed, and then the request is judged anew.
    pub(crate) renewal: Option<Box<Renewal>>,
    /// What was written down about it, as a label of the metrics.
    pub(crate) reason: &'static str,
}

impl Denial {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            description: description.into(),
            retry_after: None,
            extra: serde_json::Map::new(),
            counts_as_failure: false,
            events: Vec::new(),
            renewal: None,
            reason: crate::reasons::UNRECORDED,
        }
    }

    /// 400: the request itself is not one that the STS takes.
    pub(crate) fn malformed(description: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_token", description)
    }

    /// 401: who asks is not known. One text for every cause, so that nothing can be learnt from it.
    pub(crate) fn unauthenticated() -> Self {
        let text = "client authentication failed";
        Self { counts_as_failure: true, ..Self::new(StatusCode::UNAUTHORIZED, "access_denied", text) }
    }

    /// 401: the subject token is not accepted.
    pub(crate) fn subject(description: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_token", description)
    }

    /// 403: known, and not entitled.
    pub(crate) fn forbidden(description: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "access_denied", description)
    }

    /// 429: too often.
    pub(crate) fn too_often(description: &'static str, retry_after: u32) -> Self {
        let mut denial = Self::new(StatusCode::TOO_MANY_REQUESTS, "provider_rate_limited", description);
        denial.retry_after = Some(u16::try_from(retry_after).unwrap_or(u16::MAX));
        denial
    }

    /// 503: state is not available.
    pub(crate) fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "sts_unavailable", "state is not available")
    }

    /// 503 for whoever meets it: the connection has to be renewed first.
    pub(crate) fn renew_first(renewal: Renewal) -> Self {
        Self { renewal: Some(Box::new(renewal)), ..Self::unavailable() }
    }

    /// The denial with one more event.
    pub(crate) fn with_event(mut self, event: AuditEvent) -> Self {
        self.events.push(event);
        self
    }

    /// The answer.
    pub(crate) fn into_response(self, request_id: &str) -> Response {
        caracal_store::metrics::denied(self.code, self.reason);
        caracal_store::trace::refused(crate::reasons::telling(self.reason).unwrap_or(self.code));
        let mut refusal =
            Refusal::new(self.status, self.code).because(self.description).of_request(request_id);
        refusal.extra = self.extra;
        let mut response = refusal.into_response();
        if self.code == INTERACTION_REQUIRED {
            let challenge = HeaderValue::from_static("Bearer error=\"interaction_required\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<StoreError> for Denial {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed during an exchange");
        match error {
            // Trying again does not help.
            StoreError::Seal(_) => {
                let text = "a key of this installation cannot be used";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", text)
            }
            _ => Self::unavailable(),
        }
    }
}
