//! How the Admin API says no (contract admin-audit §1.1).

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use caracal_store::StoreError;
use caracal_store::http::Refusal;
use serde_json::Value;

/// A refusal on its way to the caller.
#[derive(Debug, Clone)]
pub(crate) struct Problem(Refusal);

/// The code of a refusal, for the record of it.
#[derive(Debug, Clone)]
pub(crate) struct RefusedWith(pub(crate) String);

impl Problem {
    pub(crate) fn new(status: StatusCode, code: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self(Refusal::new(status, code))
    }

    /// 400.
    pub(crate) fn invalid(code: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code)
    }

    /// 403.
    pub(crate) fn forbidden(code: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, code)
    }

    /// 404.
    pub(crate) fn absent(code: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, code)
    }

    /// 409.
    pub(crate) fn conflict(code: &'static str) -> Self {
        Self::new(StatusCode::CONFLICT, code)
    }

    /// 429.
    pub(crate) fn too_many(too_many: caracal_store::http::TooMany) -> Self {
        Self(too_many.refusal())
    }

    /// Its code, its text for people, and its details.
    pub(crate) fn into_parts(mut self) -> (String, String, Value) {
        let details = self.0.extra.remove("details").unwrap_or_default();
        (self.0.code.into_owned(), self.0.description.into_owned(), details)
    }

    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        self.0.status
    }

    /// 422.
    pub(crate) fn unprocessable(code: &'static str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code)
    }

    #[must_use]
    pub(crate) fn because(self, description: impl Into<String>) -> Self {
        Self(self.0.because(description.into()))
    }

    #[must_use]
    pub(crate) fn with(self, member: &str, value: impl Into<Value>) -> Self {
        Self(self.0.with(member, value))
    }

    /// What a uniqueness rule of the schema refused is `taken`; everything else stays what it is.
    pub(crate) fn of_write(error: impl Into<StoreError>, taken: &'static str) -> Self {
        let error = error.into();
        if error.is_unique_violation() { Self::conflict(taken) } else { error.into() }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        match error {
            StoreError::Corrupt { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
            StoreError::Seal(_) => Self::new(StatusCode::BAD_GATEWAY, "secret_backend_unavailable"),
            _ => Self::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable"),
        }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let code = RefusedWith(self.0.code.to_string());
        let mut response = self.0.into_response();
        response.extensions_mut().insert(code);
        response
    }
}
