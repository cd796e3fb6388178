//! Answers that the filter gives in the upstream's place (contract gateway §A17).

use caracal_mandate::error::ErrorBody;
use caracal_mandate::verdict::DenyReason;

/// What the caller is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The reason, for evidence and metrics.
    pub reason: DenyReason,
    /// The HTTP status.
    pub status: u16,
    /// The `error` member.
    pub error: String,
    /// The `error_description` member.
    pub description: String,
}

impl Refusal {
    /// How many bytes it takes beside its own, at most.
    pub(crate) fn more_bytes(&self) -> usize {
        let texts = self.error.capacity().saturating_add(self.description.capacity());
        // Two allocations.
        texts.saturating_add(32)
    }

    /// The body, newline-terminated.
    #[must_use]
    pub fn body(&self, request_id: &str) -> String {
        let mut body = ErrorBody::new(self.error.as_str(), self.description.as_str(), request_id).to_json();
        body.push('\n');
        body
    }
}

impl From<DenyReason> for Refusal {
    fn from(reason: DenyReason) -> Self {
        Self {
            reason,
            status: reason.status(),
            error: reason.error().to_owned(),
            description: reason.description().to_owned(),
        }
    }
}
