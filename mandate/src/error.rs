//! The error body that every service and the filter answer with.

use serde::{Deserialize, Serialize};

/// `{"error", "error_description", "requestId"}`; the last two are left out when empty (contract sts §5, gateway A17).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The machine-readable code, such as `access_denied`.
    pub error: String,
    /// A text for people. No client branches on it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error_description: String,
    /// The request that was refused.
    #[serde(default, rename = "requestId", skip_serializing_if = "String::is_empty")]
    pub request_id: String,
}

impl ErrorBody {
    /// A body from its parts.
    pub fn new(
        error: impl Into<String>,
        error_description: impl Into<String>,
        request_id: impl Into<String>,
    ) -> Self {
        Self {
            error: error.into(),
            error_description: error_description.into(),
            request_id: request_id.into(),
        }
    }

    /// The JSON text. A struct of three strings always serialises; were it not to, an empty object says so.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_sts_5_body_shape() {
        assert_eq!(
            ErrorBody::new("access_denied", "no", "r-1").to_json(),
            r#"{"error":"access_denied","error_description":"no","requestId":"r-1"}"#
        );
        assert_eq!(ErrorBody::new("access_denied", "", "").to_json(), r#"{"error":"access_denied"}"#);
    }
}
