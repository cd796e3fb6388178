//! The platform decision contract: its source, version and hash.
//!
//! The rules live in `sts/policy/decision.rego`; they are the same for every zone and are joined with the zone's data
//! documents at each bundle compilation (contract sts §14.1).

use std::sync::LazyLock;

use super::sha256_hex;

/// Version of the decision rules, as it is bound into approvals and shown in diagnostics (contract sts §14.1).
pub const DECISION_CONTRACT_VERSION: &str = "2026-07-12";

/// The Rego source of the decision contract.
pub const DECISION_CONTRACT_SOURCE: &str = include_str!("../../policy/decision.rego");

/// Version of the policy input document; also the schema version of data documents (contract sts §14.2).
pub const POLICY_SCHEMA_VERSION: &str = "2026-05-20";

/// The Rego package of the contract and of every data document.
pub const POLICY_PACKAGE: &str = "caracal.authz";

/// The names that a data document may define, in alphabetical order (contract sts §14.1).
pub const DATA_DOCUMENT_NAMES: [&str; 6] =
    ["app_ids", "approval_tiers", "confinement", "grants", "restrict", "risk"];

/// Lower-case hexadecimal SHA-256 of [`DECISION_CONTRACT_SOURCE`].
#[must_use]
pub fn decision_contract_sha256() -> &'static str {
    static HASH: LazyLock<String> = LazyLock::new(|| sha256_hex(DECISION_CONTRACT_SOURCE.as_bytes()));
    &HASH
}
