//! Contract sts §14.1, §14.3 and §14.4: what makes a bundle, and what it answers.

use caracal_sts::policy::bundle::MAX_DOCUMENTS;
use caracal_sts::policy::{
    Bundle, BundleError, Decision, Effect, EvaluationError, PolicyInput, decision_contract_sha256,
    manifest_sha256,
};
use serde_json::{Value, json};

use crate::support::{ORDERS, ZONE, bootstrap, document, mint, usage, zone};

#[test]
fn sts_28_05_section_14_1_only_the_six_names_may_be_defined() {
    for name in ["app_ids", "grants", "confinement", "restrict", "risk", "approval_tiers"] {
        let bundle = Bundle::compile(&[("d", document(&format!("{name} := {{}}")))]);
        assert!(bundle.is_ok(), "{name}: {bundle:?}");
    }
    for (rules, code) in [
        ("result := {\"decision\": \"allow\"}", "data_document_must_not_define_result"),
        ("default result := {\"decision\": \"allow\"}", "data_document_must_not_define_result"),
        ("result[\"decision\"] := \"allow\"", "data_document_must_not_define_result"),
        ("helper := 1", "data_document_rule_not_allowed:helper"),
        ("helper(x) := x", "data_document_rule_not_allowed:helper"),
        ("zone_open if true", "data_document_rule_not_allowed:zone_open"),
        ("allowing_policies contains \"x\"", "data_document_rule_not_allowed:allowing_policies"),
        ("grants := {} allow := true", "data_document_rule_not_allowed:allow"),
        (
            "grants := data.caracal.authz.result",
            "data_document_reference_not_allowed:data.caracal.authz.result",
        ),
        ("grants := data", "data_document_reference_not_allowed:data"),
        ("grants := data[\"caracal\"]", "data_document_reference_not_allowed:data"),
        (
            "grants := data.caracal.authz[\"result\"]",
            "data_document_reference_not_allowed:data.caracal.authz",
        ),
        ("grants := bindings_document", "data_document_reference_not_allowed:bindings_document"),
        ("restrict := numbers.range(1, 2)", "forbidden_builtin:numbers.range"),
        ("restrict := rand.intn(\"x\", 2)", "forbidden_builtin:rand.intn"),
        ("restrict := rand[\"intn\"](\"x\", 2)", "data_document_reference_not_allowed:rand"),
    ] {
        match Bundle::compile(&[("good", ZONE.to_owned()), ("bad", document(rules))]) {
            Err(BundleError::Document { id, error }) => {
                assert_eq!((id.as_str(), error.code().as_str()), ("bad", code), "{rules}")
            }
            other => panic!("{rules}: {other:?}"),
        }
    }
}

#[test]
fn section_14_1_the_loading_gate_needs_no_marker_but_the_package() {
    assert!(Bundle::compile(&[("d", "package caracal.authz\ngrants := {}")]).is_ok());
    assert!(Bundle::compile(&[("d", "package caracal.authz\n")]).is_ok());
    let error = Bundle::compile(&[("d", "package other\ngrants := {}")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "policy document d: the package must be `caracal.authz` (line 1, column 9)"
    );
}

#[test]
fn section_14_1_documents_that_disagree_fail_the_evaluation() {
    let values = |first: &str, second: &str| {
        Bundle::compile(&[("zone", ZONE.to_owned()), ("a", document(first)), ("b", document(second))])
            .unwrap()
    };
    let agree = values("restrict := []", "restrict := []");
    assert_eq!(agree.evaluate(&bootstrap("app-1")).unwrap().effect, Effect::Allow);
    let merged = values("restrict contains \"a\" if false", "restrict contains \"b\" if false");
    assert_eq!(merged.evaluate(&bootstrap("app-1")).unwrap().effect, Effect::Allow);
    let one_of_two = values("restrict contains \"a\" if false", "restrict contains \"b\"");
    assert_eq!(one_of_two.evaluate(&bootstrap("app-1")).unwrap().reason.unwrap(), "restriction_active");
    for (first, second) in [
        ("restrict := []", "restrict := [1]"),
        ("app_ids := {}", "confinement := []"),
        ("risk := []", "risk := [1]"),
        ("restrict := []", "restrict contains 1"),
        ("restrict := []", "restrict := [1] if input.principal.id"),
    ] {
        let bundle = values(first, second);
        let machine = bundle.evaluate(&bootstrap("app-1"));
        assert!(matches!(machine, Err(EvaluationError::Engine(_))), "{first} / {second}: {machine:?}");
        assert!(matches!(bundle.evaluate(&PolicyInput::default()), Err(EvaluationError::Engine(_))));
    }
}

#[test]
fn section_14_4_no_documents_deny_everything() {
    let bundle = Bundle::compile::<&str, &str>(&[]).unwrap();
    assert!(bundle.is_deny_all());
    for input in [PolicyInput::default(), bootstrap("app-1"), usage(&["payer"], &[ORDERS], "r:pay")] {
        let decision = bundle.evaluate(&input).unwrap();
        assert_eq!(decision, Decision::deny("no_active_policy_set"));
        assert_eq!(decision.diagnostics, [json!({"reason": "no_active_policy_set"})]);
        assert_eq!(bundle.interpreter().unwrap().evaluate(&input).unwrap(), decision);
    }
}

#[test]
fn section_14_4_manifest_hash() {
    // Of the text `[{"policy_version_id":"a"},{"policy_version_id":"b"}]` and of `[]`.
    assert_eq!(
        manifest_sha256(&["a", "b"]),
        "f0d49a884b0ae8c28968620acd2ac3dba6322946874c8b9df063339accc43462"
    );
    assert_ne!(manifest_sha256(&["a", "b"]), manifest_sha256(&["b", "a"]));
    assert_eq!(
        manifest_sha256::<&str>(&[]),
        "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    );
    assert_eq!(decision_contract_sha256().len(), 64);
}

#[test]
fn sts_28_07_section_14_3_only_complete_allows_and_denials_are_decisions() {
    let result = |decision: &str, status: &str| json!({"decision": decision, "evaluation_status": status, "determining_policies": [], "diagnostics": []});
    assert_eq!(Decision::from_result(Some(result("allow", "complete"))).unwrap().effect, Effect::Allow);
    assert_eq!(Decision::from_result(Some(result("deny", "complete"))).unwrap().effect, Effect::Deny);
    assert_eq!(Decision::from_result(None).unwrap().effect, Effect::Deny);
    let mut texts = result("allow", "complete");
    texts["determining_policies"] = json!(["caracal-bootstrap"]);
    let mut absent = result("allow", "complete");
    absent["diagnostics"] = Value::Null;
    for bad in [
        result("allow", "partial"),
        result("deny", ""),
        result("Allow", "complete"),
        result("", "complete"),
        texts,
        absent,
        json!({}),
        json!("allow"),
        Value::Null,
    ] {
        assert!(Decision::from_result(Some(bad.clone())).is_err(), "{bad}");
    }
}

#[test]
fn section_16_1_gates_of_every_form() {
    let gates = |required: Value| {
        let mut decision = Decision::deny("x");
        decision.diagnostics = vec![json!({"risk": []}), json!({"step_up_required": required})];
        let tiers: Vec<String> = decision.approval_gates().into_iter().map(|gate| gate.tier).collect();
        tiers
    };
    assert_eq!(gates(json!("mfa")), ["mfa"]);
    assert_eq!(
        gates(json!({"type": "human_approval", "tiers": [{"tier": "a"}, {}, {"tier": "b"}]})),
        ["a", "b"]
    );
    for unreadable in [json!(true), json!({}), json!({"tiers": []}), json!({"tiers": [{"approver": "any"}]})]
    {
        assert_eq!(gates(unreadable.clone()), [""], "{unreadable}");
    }
    assert!(Decision::deny("x").approval_gates().is_empty());
}

#[test]
fn bundles_have_bounds() {
    let many: Vec<(String, &str)> =
        (0..=MAX_DOCUMENTS).map(|index| (index.to_string(), "package caracal.authz\n")).collect();
    assert_eq!(Bundle::compile(&many).unwrap_err(), BundleError::TooManyDocuments(257));
    assert!(Bundle::compile(&many[1..]).is_ok());
    assert_eq!(
        Bundle::compile(&[("a", ZONE), ("a", ZONE)]).unwrap_err(),
        BundleError::DuplicateId("a".to_owned())
    );
}

#[test]
fn an_evaluation_that_runs_away_is_an_error_and_the_next_one_is_not() {
    let pairs = "some a in input.principal.labels; some b in input.principal.labels; some c in input.principal.labels; some d in input.principal.labels; concat(\"\", [a, b, c, d]) == \"never\"";
    let bundle = Bundle::compile(&[
        ("zone", ZONE.to_owned()),
        ("slow", document(&format!("restrict contains a if {{ {pairs} }}"))),
    ])
    .unwrap();
    let mut heavy = bootstrap("app-1");
    heavy.principal.labels = (0..400).map(|index| format!("label-{index}")).collect();
    assert!(matches!(bundle.evaluate(&heavy), Err(EvaluationError::Engine(_))));
    assert_eq!(bundle.evaluate(&bootstrap("app-1")).unwrap().effect, Effect::Allow);
}

#[test]
fn evaluations_leave_nothing_behind_for_the_next_one() {
    let bundle = zone();
    for _ in 0..3 {
        assert!(bundle.evaluate(&mint(&["payer"], &["r:pay"], &["r:pay"])).unwrap().is_allow());
        assert!(!bundle.evaluate(&mint(&[], &["r:pay"], &["r:pay"])).unwrap().is_allow());
        assert!(bundle.evaluate(&bootstrap("app-1")).unwrap().is_allow());
        assert!(!bundle.evaluate(&PolicyInput::default()).unwrap().is_allow());
    }
}

#[test]
fn one_bundle_serves_many_threads_and_many_bundles_one_thread() {
    let bundle = zone();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(bundle.evaluate(&bootstrap("app-1")).unwrap().is_allow()));
        }
    });
    let replaced: Vec<Bundle> = (0..300).map(|_| bundle.clone()).collect();
    drop(replaced);
    for round in 0..12 {
        let next = Bundle::compile(&[("d", document(&format!("restrict := [{round}]")))]).unwrap();
        assert_eq!(next.evaluate(&bootstrap("app-1")).unwrap().reason.unwrap(), "restriction_active");
        assert!(bundle.evaluate(&bootstrap("app-1")).unwrap().is_allow());
    }
}

#[test]
fn a_document_on_one_long_line_loads_and_costs_no_more() {
    let grants: serde_json::Map<String, Value> = (0..3_000)
        .map(|index| {
            let roles = json!({"payer": ["r:pay"]});
            (format!("resource://r{index}"), json!({"application": "billing", "roles": roles}))
        })
        .collect();
    let source =
        document(&format!("app_ids := {{\"billing\":\"app-1\"}}\ngrants := {}", Value::Object(grants)));
    let bundle = Bundle::compile(&[("big", source)]).unwrap();
    let mut input = mint(&["payer"], &["r:pay"], &["r:pay"]);
    input.resource.identifier = "resource://r2999".to_owned();
    assert!(bundle.evaluate(&input).unwrap().is_allow());
}
