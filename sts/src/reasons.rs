//! The words that metrics tell refusals and mandates apart by. They are fixed, so that the metrics stay bounded.

use caracal_mandate::claims::MandateUse;
use caracal_store::audit::AuditEvent;

/// No event tells of a refusal.
pub(crate) const UNRECORDED: &str = "unrecorded";
/// The event says something else.
const OTHER: &str = "other";

/// What events and decisions give as reasons (contract sts §15.4, §25.3). Whatever else they say is `other`.
const REASONS: [&str; 39] = [
    "anomaly",
    "approval_already_consumed",
    "approval_class_conflict",
    "approval_expired",
    "approval_invalid",
    "approval_policy_changed",
    "approval_rejected",
    "approval_required",
    "binding_rejected",
    "check_denied",
    "client_authentication_failed",
    "confinement_violation",
    "control_resource_requires_control_key",
    "credential_injection_denied",
    "credential_not_provisioned",
    "credential_refresh_failed",
    "delegation_scope_exceeded",
    "exchange_denied",
    "malformed_approval_data",
    "malformed_risk_data",
    "mandate_target_mismatch",
    "no_active_policy_set",
    "no_rule_matched",
    "operation_not_permitted",
    "policy_eval_failed",
    "provider_credential_unavailable",
    "provider_unavailable",
    "rate_limited",
    "resource_not_found",
    "resource_not_granted",
    "resource_outside_delegation",
    "restriction_active",
    "role_scope_mismatch",
    "scope_mismatch",
    "subject_federation_invalid",
    "subject_federation_rejected",
    "subject_rejected",
    "workload_auth_failed",
    "zone_invalid",
];

/// The reason that the first event which denies gives.
pub(crate) fn reason_of(events: &[AuditEvent]) -> &'static str {
    let Some(event) = events.iter().find(|event| event.decision == "deny") else { return UNRECORDED };
    let said = match event.evaluation_status.as_str() {
        // Policy was evaluated to the end: it says why.
        "complete" => event.diagnostics_json.pointer("/0/reason").and_then(serde_json::Value::as_str),
        status => Some(status),
    };
    REASONS.into_iter().find(|reason| Some(*reason) == said).unwrap_or(OTHER)
}

/// A reason that says more than the code that is answered.
pub(crate) fn telling(reason: &'static str) -> Option<&'static str> {
    Some(reason).filter(|reason| ![UNRECORDED, OTHER].contains(reason))
}

/// A mandate's `use` as a word.
pub(crate) fn usage(usage: MandateUse) -> &'static str {
    match usage {
        MandateUse::Gateway => "gateway",
        MandateUse::Resource => "resource",
        MandateUse::Session => "session",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn contract_sts_25_3_the_reason_of_a_refusal_is_one_of_a_few_words() {
        let event = |decision: &str, status: &str, diagnostics| {
            let mut event = AuditEvent::new("z", "token_exchange", "r", decision, 0).with_status(status);
            event.diagnostics_json = diagnostics;
            event
        };
        let allowed = event("allow", "complete", json!([]));
        for (events, reason) in [
            (vec![], UNRECORDED),
            (vec![allowed.clone()], UNRECORDED),
            (vec![allowed, event("deny", "scope_mismatch", json!([]))], "scope_mismatch"),
            (vec![event("deny", "complete", json!([{"reason": "no_rule_matched"}]))], "no_rule_matched"),
            (vec![event("deny", "complete", json!([{"reason": "user-7"}]))], "other"),
            (vec![event("deny", "complete", json!([]))], "other"),
            (vec![event("deny", "user-7", json!([]))], "other"),
        ] {
            assert_eq!(reason_of(&events), reason, "{events:?}");
        }
        assert!(REASONS.is_sorted());
    }
}
