//! The constraints of a delegation, read strictly (contract coordinator §6.3).

use crate::failure::{Code, Failure};
use crate::start::MAX_TTL_SECONDS;
use caracal_mandate::narrow::MAX_HOPS;
use caracal_store::clock;
use caracal_store::model::Constraints;
use serde_json::{Map, Value};

const MAX_RESOURCES: usize = 64;
const MAX_REASON_CHARS: usize = 256;

/// Reads `constraints_json` and `constraints`; of a key that stands in both the latter counts.
pub(crate) fn parse(stored: Option<Value>, given: Option<Value>) -> Result<Constraints, Failure> {
    let mut members = Map::new();
    for object in [stored, given].into_iter().flatten() {
        match object {
            Value::Object(object) => members.extend(object),
            _ => {
                return Err(Failure::because(Code::InvalidDelegationConstraint, "constraints are an object"));
            }
        }
    }
    let mut constraints = Constraints::default();
    for (name, value) in members {
        match name.as_str() {
            "resources" => constraints.resources = resources(&value)?,
            "max_depth" => {
                constraints.max_depth = Some(number(&value, i64::from(MAX_HOPS), Code::InvalidMaxDepth)?)
            }
            "max_hops" => {
                constraints.max_hops = Some(number(&value, i64::from(MAX_HOPS), Code::InvalidMaxHops)?)
            }
            "ttl_seconds" => {
                constraints.ttl_seconds = Some(number(&value, MAX_TTL_SECONDS, Code::InvalidTtlSeconds)?);
            }
            "policy_approved" => {
                constraints.policy_approved = Some(value.as_bool().ok_or(Code::InvalidPolicyApproved)?);
            }
            "expires_at" => {
                let text = value.as_str().filter(|text| clock::parse_iso(text).is_some());
                constraints.expires_at = Some(text.ok_or(Code::InvalidExpiresAt)?.to_owned());
            }
            "broad_reason" => {
                let text =
                    value.as_str().filter(|text| (1..=MAX_REASON_CHARS).contains(&text.chars().count()));
                constraints.broad_reason = Some(text.ok_or(Code::InvalidBroadReason)?.to_owned());
            }
            "budget" => {
                let why = "no mandate can be minted under a budget, so no delegation is made with one";
                return Err(Failure::because(Code::InvalidBudget, why));
            }
            other => {
                let why = format!("{other:?} is not a constraint");
                return Err(Failure::because(Code::InvalidDelegationConstraint, why));
            }
        }
    }
    match (constraints.max_depth.take(), constraints.max_hops) {
        (Some(depth), Some(hops)) if depth != hops => {
            Err(Failure::because(Code::InvalidMaxHops, "max_depth and max_hops differ"))
        }
        (depth, hops) => {
            constraints.max_hops = hops.or(depth);
            Ok(constraints)
        }
    }
}

fn number(value: &Value, most: i64, code: Code) -> Result<u32, Failure> {
    let number = value.as_i64().filter(|number| (1..=most).contains(number));
    number
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| Failure::because(code, format!("is not an integer from 1 to {most}")))
}

/// An empty list would read as "no bound" to some and as "nothing" to others, so there is none.
fn resources(value: &Value) -> Result<Vec<String>, Failure> {
    let refuse = || {
        let why = format!("resources are a list of 1 to {MAX_RESOURCES} identifiers");
        Failure::because(Code::InvalidResources, why)
    };
    let items =
        value.as_array().filter(|items| (1..=MAX_RESOURCES).contains(&items.len())).ok_or_else(refuse)?;
    items
        .iter()
        .map(|item| item.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or_else(refuse))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn contract_6_3_constraints_are_strict() {
        let cases = [
            (json!({ "max_hops": 0 }), "invalid_max_hops"),
            (json!({ "max_hops": 11 }), "invalid_max_hops"),
            (json!({ "max_depth": 1.5 }), "invalid_max_depth"),
            (json!({ "max_depth": 2, "max_hops": 3 }), "invalid_max_hops"),
            (json!({ "ttl_seconds": 86_401 }), "invalid_ttl_seconds"),
            (json!({ "policy_approved": "yes" }), "invalid_policy_approved"),
            (json!({ "expires_at": "2026-11-21 09:00:00" }), "invalid_expires_at"),
            (json!({ "broad_reason": "" }), "invalid_broad_reason"),
            (json!({ "budget": 3 }), "invalid_budget"),
            (json!({ "resources": [] }), "invalid_resources"),
            (json!({ "resources": [7] }), "invalid_resources"),
            (json!({ "resource": "resource://a" }), "invalid_delegation_constraint"),
            (json!(["max_hops"]), "invalid_delegation_constraint"),
        ];
        for (value, code) in cases {
            match parse(None, Some(value.clone())) {
                Err(Failure::Refused(refusal)) => assert_eq!(refusal.code.as_str(), code, "{value}"),
                other => panic!("{value}: {other:?}"),
            }
        }
    }

    #[test]
    fn contract_6_3_constraints_win_over_constraints_json_and_depth_fills_hops() {
        let parsed =
            parse(Some(json!({ "max_depth": 2, "ttl_seconds": 5 })), Some(json!({ "ttl_seconds": 3 })));
        let expected = Constraints { max_hops: Some(2), ttl_seconds: Some(3), ..Constraints::default() };
        assert_eq!(parsed.unwrap(), expected);
    }
}
