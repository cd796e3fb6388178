//! What the HTTP faces of all services share: the error answer, the request id, the server and its limits.

mod connection;
mod draining;
mod rate;
mod server;

pub use rate::{Peer, RateLimit, TooMany, peer_of};
pub use server::{ConnectionLimits, Server, ServerLimits};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use caracal_mandate::error::ErrorBody;
use std::borrow::Cow;

/// The header that names a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A refusal: status, code and a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The `error` member.
    pub code: Cow<'static, str>,
    /// The `error_description` member; left out when empty.
    pub description: Cow<'static, str>,
    /// The `requestId` member; left out when empty.
    pub request_id: String,
    /// When it is worth trying again, seconds: the header `Retry-After`.
    pub retry_after: Option<u32>,
    /// Further members of the body, such as `details`.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Refusal {
    /// A refusal with a code and no more.
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code: code.into(),
            description: Cow::Borrowed(""),
            request_id: String::new(),
            retry_after: None,
            extra: serde_json::Map::new(),
        }
    }

    /// The refusal with a text for people.
    #[must_use]
    pub fn because(mut self, description: impl Into<Cow<'static, str>>) -> Self {
        self.description = description.into();
        self
    }

    /// The refusal with the request's id in its body.
    #[must_use]
    pub fn of_request(mut self, request_id: &str) -> Self {
        request_id.clone_into(&mut self.request_id);
        self
    }

    /// The refusal with the time after which to try again, seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The refusal with one more member in its body.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<serde_json::Value>) -> Self {
        self.extra.insert(member.to_owned(), value.into());
        self
    }

    /// The store did not do its part: 503, and the cause goes to the log.
    pub fn unavailable(error: &crate::StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "sts_unavailable").because("state is not available")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        crate::trace::refused(&self.code);
        let body = ErrorBody::new(self.code, self.description, self.request_id);
        let mut value = serde_json::to_value(body).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.extend(self.extra);
        }
        let mut response = (self.status, axum::Json(value)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The id of the current request, put there by [`identify_requests`].
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Keeps the caller's request id where its shape is allowed, makes one where not, and echoes it.
pub async fn identify_requests(mut request: Request, next: Next) -> Response {
    let given = header_text(request.headers(), &REQUEST_ID).filter(|text| crate::ids::is_request_id(text));
    let id = given.map_or_else(crate::ids::new_id, str::to_owned);
    let value = HeaderValue::from_str(&id).ok();
    request.extensions_mut().insert(RequestId(id));
    let mut response = next.run(request).await;
    if let Some(value) = value {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// A header's first value, if it is text.
pub fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The bearer token of `Authorization`, trimmed; `None` if it is missing, empty, or longer than 4096 bytes.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?;
    caracal_mandate::header::bearer(value.as_bytes()).ok()
}

/// The whole body, if it is no longer than `limit` bytes.
pub async fn read_body(body: Body, limit: usize) -> Result<Vec<u8>, BodyError> {
    match axum::body::to_bytes(body, limit).await {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(error) if is_length_limit(&error) => Err(BodyError::TooLarge),
        Err(_) => Err(BodyError::Broken),
    }
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The caller went away or sent no proper body.
    #[error("the body could not be read")]
    Broken,
    /// More bytes than allowed.
    #[error("the body is too large")]
    TooLarge,
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit exceeded") {
            return true;
        }
        cause = error.source();
    }
    false
}
