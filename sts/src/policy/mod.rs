//! The policy engine: what a zone's operators wrote down decides whether an exchange may happen.
//!
//! Operators write *data documents* ([`document`]): who owns a resource, which role holds which scope, whom to confine,
//! what is frozen, what is risky. The platform's *decision contract* ([`contract`]) owns every decision. A [`Bundle`]
//! is both, compiled once; it turns a [`PolicyInput`] into a [`Decision`]. An evaluation that fails is an
//! [`EvaluationError`], never a denial: the caller answers 503, so that a broken policy is not mistaken for a verdict.
//!
//! ```
//! use caracal_sts::policy::{Bundle, Effect, PolicyInput};
//!
//! let bundle = Bundle::compile(&[("v1", "package caracal.authz\n\napp_ids := {\"billing\": \"app-1\"}\n")])?;
//! let decision = bundle.evaluate(&PolicyInput::default())?;
//! assert_eq!(decision.effect, Effect::Deny);
//! assert_eq!(decision.reason.as_deref(), Some("no_rule_matched"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod bundle;
pub mod contract;
pub mod decision;
pub mod document;
mod engine;
pub mod input;
mod shape;
mod source_text;
mod worker;

pub use bundle::{Bundle, BundleError, Interpreter, manifest_sha256};
pub use contract::{DECISION_CONTRACT_VERSION, POLICY_SCHEMA_VERSION, decision_contract_sha256};
pub use decision::{ApprovalGate, Approver, Decision, Effect, Privacy};
pub use document::{PolicyDocument, Preview, ValidationError, ValidationErrorKind};
pub use engine::EvaluationError;
pub use input::PolicyInput;

use aws_lc_rs::digest;

/// Lower-case hexadecimal SHA-256 of `bytes`.
fn sha256_hex(bytes: &[u8]) -> String {
    caracal_mandate::gateway_signature::to_hex(digest::digest(&digest::SHA256, bytes).as_ref())
}
