//! Bodies: read, parsed, and refused with a place and a reason.

use crate::problem::Problem;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use caracal_store::http::{BodyError, header_text, read_body};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// The largest body, in bytes (contract admin-audit §1).
const MAX_BODY: usize = 1024 * 1024;

/// A body as it was sent.
#[derive(Debug)]
pub(crate) struct Body(Vec<u8>);

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media = header_text(request.headers(), &header::CONTENT_TYPE).unwrap_or("application/json");
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let bytes = match read_body(request.into_body(), MAX_BODY).await {
            Ok(bytes) => bytes,
            Err(BodyError::TooLarge) => {
                let problem = Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large");
                return Err(problem.because(format!("a body has at most {MAX_BODY} bytes")));
            }
            Err(_) => return Err(Problem::invalid("invalid_body").because("the body could not be read")),
        };
        // Nothing is of no kind: clients name one all the same.
        if !bytes.is_empty() && media != "application/json" {
            let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
            return Err(problem.because("send application/json"));
        }
        Ok(Self(bytes))
    }
}

impl Body {
    /// A body of this JSON.
    pub(crate) fn of(value: &Value) -> Self {
        Self(value.to_string().into_bytes())
    }

    /// Was nothing sent?
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The body as JSON, and as what the route takes. What is no JSON is `invalid_body`; what is JSON of another shape is
    /// `code`. Both say where.
    pub(crate) fn parse<T: DeserializeOwned>(&self, code: &'static str) -> Result<(Value, T), Problem> {
        let located = |code, error: &serde_json::Error| {
            Problem::invalid(code)
                .because(error.to_string())
                .with("details", json!({ "line": error.line(), "column": error.column() }))
        };
        let value: Value =
            serde_json::from_slice(&self.0).map_err(|error| located("invalid_body", &error))?;
        if !value.is_object() {
            return Err(Problem::invalid(code).because("the body is no JSON object"));
        }
        let typed = serde_json::from_slice(&self.0).map_err(|error| located(code, &error))?;
        Ok((value, typed))
    }
}

/// A text without white space around it, of 1 to `MAX` characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Text<const MAX: usize>(pub(crate) String);

impl<const MAX: usize> TryFrom<String> for Text<MAX> {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let text = text.trim();
        if (1..=MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("a text of 1 to {MAX} characters without control characters is expected"))
        }
    }
}

/// A member that may be absent, null or there.
pub(crate) fn maybe_null<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// A patch that says nothing is refused (contract admin-audit §3.4).
pub(crate) fn require_fields(patch: &Value, known: &[&str]) -> Result<(), Problem> {
    if known.iter().any(|name| patch.get(name).is_some()) {
        Ok(())
    } else {
        Err(Problem::invalid("no_fields").because(format!("name at least one of {}", known.join(", "))))
    }
}
