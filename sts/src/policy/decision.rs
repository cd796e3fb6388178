//! What an evaluation answers: allow or deny, why, and which approvals an allow still waits for.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::engine::EvaluationError;

/// The two outcomes of a complete evaluation. Exhaustive: there is no third.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// An allow rule matched. Approval gates may still hold the mint back.
    Allow,
    /// No allow rule matched.
    Deny,
}

/// A complete policy decision (contract sts §14.3).
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Allow or deny.
    pub effect: Effect,
    /// Names of the rules that allowed; empty for a denial (contract sts §15.3).
    pub determining_policies: Vec<String>,
    /// The diagnostics objects as the contract emitted them.
    pub diagnostics: Vec<Value>,
    /// The first `reason` among the diagnostics of a denial (contract sts §15.4).
    pub reason: Option<String>,
}

impl Decision {
    /// A denial with one reason and nothing else.
    #[must_use]
    pub fn deny(reason: &str) -> Self {
        Self {
            effect: Effect::Deny,
            determining_policies: Vec::new(),
            diagnostics: vec![json!({ "reason": reason })],
            reason: Some(reason.to_owned()),
        }
    }

    /// Reads the `result` document of an evaluation; `None` stands for an undefined result, which denies.
    ///
    /// # Errors
    ///
    /// Everything but `allow` or `deny` together with status `complete` is an error, never a denial.
    pub fn from_result(result: Option<Value>) -> Result<Self, EvaluationError> {
        let Some(result) = result else {
            return Ok(Self {
                effect: Effect::Deny,
                determining_policies: Vec::new(),
                diagnostics: Vec::new(),
                reason: None,
            });
        };
        let diagnostics = objects(&result, "diagnostics")?;
        let reason = diagnostics
            .iter()
            .find_map(|entry| entry.get("reason").and_then(Value::as_str))
            .map(str::to_owned);
        match result.get("evaluation_status").and_then(Value::as_str) {
            Some("complete") => {}
            status => {
                return Err(EvaluationError::Incomplete {
                    status: status.unwrap_or("absent").to_owned(),
                    reason: reason.unwrap_or_else(|| "no reason given".to_owned()),
                });
            }
        }
        let effect = match result.get("decision").and_then(Value::as_str) {
            Some("allow") => Effect::Allow,
            Some("deny") => Effect::Deny,
            _ => {
                return Err(EvaluationError::MalformedResult {
                    what: "`decision` is neither allow nor deny",
                });
            }
        };
        let determining_policies = objects(&result, "determining_policies")?
            .iter()
            .filter_map(|entry| entry.get("policy").and_then(Value::as_str))
            .map(str::to_owned)
            .collect();
        let reason = reason.filter(|_| effect == Effect::Deny);
        Ok(Self { effect, determining_policies, diagnostics, reason })
    }

    /// Whether an allow rule matched.
    #[must_use]
    pub fn is_allow(&self) -> bool {
        self.effect == Effect::Allow
    }

    /// The determining policies in their wire form: `[{"policy": <name>}]`.
    #[must_use]
    pub fn determining_policies_json(&self) -> Value {
        self.determining_policies.iter().map(|name| json!({ "policy": name })).collect()
    }

    /// The `result` document of this decision, as simulations show it (contract sts §14.6).
    #[must_use]
    pub fn to_result_json(&self) -> Value {
        json!({
            "decision": self.effect,
            "determining_policies": self.determining_policies_json(),
            "evaluation_status": "complete",
            "diagnostics": self.diagnostics,
        })
    }

    /// The approvals that this decision asks for, in the order of its diagnostics (contract sts §16.1).
    ///
    /// Reads the object form `{"type", "tiers": [declaration]}` leniently (a declaration without a tier is skipped),
    /// and the older form, a bare tier name, as that tier with default terms. A `step_up_required` in a shape that is
    /// neither still asks: it becomes one gate without a tier name, so an unreadable gate cannot open.
    #[must_use]
    pub fn approval_gates(&self) -> Vec<ApprovalGate> {
        self.diagnostics.iter().filter_map(|entry| entry.get("step_up_required")).flat_map(gates_of).collect()
    }
}

/// One approval that has to be given before a mint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalGate {
    /// Name of the tier.
    pub tier: String,
    /// Who may approve.
    pub approver: Approver,
    /// How long the hold may wait, in seconds, where the declaration says so.
    pub ttl_seconds: Option<u64>,
    /// How the approver is recorded.
    pub privacy: Privacy,
}

/// Who may settle an approval (contract sts §16.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Approver {
    /// Either of the two.
    Any,
    /// An operator of the zone; also what an absent or unknown name means.
    #[default]
    Operator,
    /// The person on whose behalf the request runs.
    Subject,
}

/// How the approver of a hold is recorded, from the weakest to the strongest protection (contract sts §16.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Privacy {
    /// By name; also what an absent or unknown name means.
    #[default]
    Identified,
    /// By a pseudonym of the zone.
    Pseudonymous,
    /// Not at all.
    Anonymous,
}

fn gates_of(required: &Value) -> Vec<ApprovalGate> {
    let plain = |tier: &str| ApprovalGate {
        tier: tier.to_owned(),
        approver: Approver::default(),
        ttl_seconds: None,
        privacy: Privacy::default(),
    };
    if let Some(tier) = required.as_str() {
        return vec![plain(tier)];
    }
    let declarations = required.get("tiers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let gates: Vec<ApprovalGate> =
        declarations.iter().filter_map(Value::as_object).filter_map(gate).collect();
    if gates.is_empty() { vec![plain("")] } else { gates }
}

fn gate(declaration: &Map<String, Value>) -> Option<ApprovalGate> {
    let tier = declaration.get("tier")?.as_str().filter(|tier| !tier.is_empty())?;
    let approver = match declaration.get("approver").and_then(Value::as_str) {
        Some("any") => Approver::Any,
        Some("subject") => Approver::Subject,
        _ => Approver::Operator,
    };
    let privacy = match declaration.get("privacy").and_then(Value::as_str) {
        Some("anonymous") => Privacy::Anonymous,
        Some("pseudonymous") => Privacy::Pseudonymous,
        _ => Privacy::Identified,
    };
    let ttl_seconds = declaration.get("ttl_seconds").and_then(whole_seconds).filter(|seconds| *seconds > 0);
    Some(ApprovalGate { tier: tier.to_owned(), approver, ttl_seconds, privacy })
}

/// Policies may write `900.0`; the contract has already refused fractions. A float cast saturates.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole_seconds(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_f64().filter(|seconds| seconds.fract() == 0.0).map(|seconds| seconds as u64))
}

fn objects(result: &Value, key: &'static str) -> Result<Vec<Value>, EvaluationError> {
    let entries = result
        .get(key)
        .and_then(Value::as_array)
        .filter(|entries| entries.iter().all(Value::is_object))
        .ok_or(EvaluationError::MalformedResult { what: key })?;
    Ok(entries.clone())
}
