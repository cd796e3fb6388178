//! Contract sts §14.2: which keys the input document has, and how lenient its reading is.

use caracal_sts::policy::input::DelegationEdge;
use caracal_sts::policy::{EvaluationError, PolicyInput};
use serde_json::{Value, json};

use crate::support::{mint, usage, zone};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn section_14_2_empty_values_have_no_key() {
    let bare = serde_json::to_value(PolicyInput::default()).unwrap();
    assert_eq!(keys(&bare), ["action", "context", "principal", "resource", "schema_version"]);
    assert_eq!(keys(&bare["principal"]), ["id", "type", "zone_id"]);
    assert_eq!(keys(&bare["resource"]), ["id", "identifier", "scopes", "type"]);
    assert_eq!(keys(&bare["action"]), ["id"]);
    assert_eq!(keys(&bare["context"]), ["actor_claims", "challenge_resolved", "requested_scopes"]);
    assert_eq!(bare["resource"]["type"], "Resource");
    assert_eq!(bare["schema_version"], "2026-05-20");

    let mut empty_edge =
        PolicyInput { delegation_edge: Some(DelegationEdge::default()), ..PolicyInput::default() };
    empty_edge.delegation_edge.as_mut().unwrap().constraints_json = json!({});
    assert_eq!(keys(&serde_json::to_value(&empty_edge).unwrap()["delegation_edge"]), ["id"]);

    let minted = serde_json::to_value(mint(&["payer"], &["r:pay"], &["r:pay", "r:pay"])).unwrap();
    assert_eq!(
        keys(&minted["context"]),
        ["actor_claims", "agent_session_id", "challenge_resolved", "delegation_edge_id", "requested_scopes"]
    );
    assert_eq!(minted["context"]["requested_scopes"], json!(["r:pay", "r:pay"]));
    assert_eq!(keys(&serde_json::to_value(usage(&[], &[], "")).unwrap()["action"]), ["id", "method", "path"]);
}

#[test]
fn section_14_2_what_is_written_reads_back_and_null_is_empty() {
    for input in
        [PolicyInput::default(), mint(&["payer"], &["r:pay"], &["r:pay"]), usage(&["a"], &["b"], "c")]
    {
        let text = serde_json::to_string(&input).unwrap();
        assert_eq!(serde_json::from_str::<PolicyInput>(&text).unwrap(), input);
    }
    let sparse: PolicyInput = serde_json::from_value(json!({
        "principal": {"id": "app-1", "labels": null}, "resource": null, "unknown": 1,
        "context": {"requested_scopes": null, "subject_claims": null},
    }))
    .unwrap();
    assert_eq!(sparse.principal.id, "app-1");
    assert!(sparse.context.requested_scopes.is_empty() && sparse.context.subject_claims.is_empty());
    assert_eq!(
        zone().evaluate(&serde_json::from_value(json!({})).unwrap()).unwrap().reason.unwrap(),
        "no_rule_matched"
    );
}

#[test]
fn sts_28_07_section_14_2_another_schema_version_is_an_error() {
    let with = |version: &str| PolicyInput { schema_version: version.to_owned(), ..PolicyInput::default() };
    assert!(zone().evaluate(&with("")).is_ok());
    assert_eq!(
        zone().evaluate(&with("2026-03-01")),
        Err(EvaluationError::SchemaVersion("2026-03-01".to_owned()))
    );
}
