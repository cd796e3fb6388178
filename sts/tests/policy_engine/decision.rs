//! Contract sts §15: predicates, allow rules, deny reasons in their precedence, and the worked outcomes.

use caracal_sts::policy::{Approver, Bundle, Effect, EvaluationError, PolicyInput, Privacy};
use serde_json::json;

use crate::support::{LEDGER, ORDERS, bootstrap, mint, on, usage, with_claim, workload, zone, zone_with};

pub(crate) const PAY_ONLY: &[&str] = &["r:pay"];

/// `allow:<policy>`, `deny:<reason>` or `error:<reason>`, the same by machine and by interpreter.
fn outcome(bundle: &Bundle, input: &PolicyInput) -> String {
    let machine = bundle.evaluate(input);
    let interpreted = bundle.interpreter().unwrap().evaluate(input);
    match (machine, interpreted) {
        (Ok(decision), interpreted) => {
            assert_eq!(Ok(&decision), interpreted.as_ref());
            match decision.effect {
                Effect::Allow => {
                    assert_eq!(decision.reason, None);
                    format!("allow:{}", decision.determining_policies.join("+"))
                }
                Effect::Deny => {
                    let reason = decision.reason.unwrap();
                    assert_eq!(decision.determining_policies, Vec::<String>::new());
                    assert_eq!(decision.diagnostics, [json!({ "reason": reason })]);
                    format!("deny:{reason}")
                }
            }
        }
        (Err(EvaluationError::Incomplete { status, reason }), interpreted) => {
            assert_eq!(interpreted, Err(EvaluationError::Incomplete { status, reason: reason.clone() }));
            format!("error:{reason}")
        }
        (Err(error), interpreted) => {
            assert!(interpreted.is_err(), "{error} but {interpreted:?}");
            "error:engine".to_owned()
        }
    }
}

pub(crate) fn check(bundle: &Bundle, rows: &[(&str, PolicyInput, &str)]) {
    for (what, input, expected) in rows {
        assert_eq!(outcome(bundle, input), *expected, "{what}");
    }
}

#[test]
fn section_15_5_worked_outcomes() {
    check(
        &zone(),
        &[
            ("lifecycle scope on an owned resource", bootstrap("app-1"), "allow:caracal-bootstrap"),
            ("lifecycle scope on another's resource", on(LEDGER, bootstrap("app-1")), "deny:no_rule_matched"),
            ("delegated mint", mint(&["payer"], PAY_ONLY, PAY_ONLY), "allow:caracal-billing-mint"),
            (
                "edge does not carry it",
                mint(&["payer"], &["r:read"], PAY_ONLY),
                "deny:delegation_scope_exceeded",
            ),
            ("use", usage(&["payer"], &[ORDERS], "r:pay"), "allow:caracal-billing-use"),
            (
                "use after the role lost it",
                usage(&["reader"], &[ORDERS], "r:pay"),
                "deny:role_scope_mismatch",
            ),
            (
                "use elsewhere",
                on(LEDGER, usage(&["payer"], &[ORDERS], "r:pay")),
                "deny:mandate_target_mismatch",
            ),
            ("use without a scope", usage(&["payer"], &[ORDERS], ""), "deny:no_rule_matched"),
            (
                "use without a delegation",
                with_claim(usage(&["payer"], &[ORDERS], "r:pay"), "delegation_edge_id", json!(null)),
                "deny:no_rule_matched",
            ),
        ],
    );
    let confined = zone_with(r#"confinement := [{"label_prefix": "customer:", "scopes": ["r:read"]}]"#);
    check(
        &confined,
        &[
            (
                "confined label",
                mint(&["payer", "customer:acme"], PAY_ONLY, PAY_ONLY),
                "deny:confinement_violation",
            ),
            ("other label", mint(&["payer"], PAY_ONLY, PAY_ONLY), "allow:caracal-billing-mint"),
        ],
    );
}

#[test]
fn section_15_2_ownership() {
    let shared_key = zone_with("confinement := []");
    check(
        &shared_key,
        &[
            ("unknown application", bootstrap("app-9"), "deny:no_rule_matched"),
            ("no application id", bootstrap(""), "deny:no_rule_matched"),
            (
                "resource without a grant",
                on("resource://none", mint(&["payer"], PAY_ONLY, PAY_ONLY)),
                "deny:resource_not_granted",
            ),
            (
                "someone else's resource",
                on(LEDGER, mint(&["payer"], PAY_ONLY, PAY_ONLY)),
                "deny:resource_not_granted",
            ),
        ],
    );
    for (documents, expected) in [
        (r#"grants := {"resource://orders": {"application": "b"}}"#, "deny:no_rule_matched"),
        (
            "app_ids := {\"b\": \"app-1\"}\ngrants := {\"resource://orders\": {\"application\": \"app-1\"}}",
            "deny:no_rule_matched",
        ),
        (
            "app_ids := {\"b\": \"\"}\ngrants := {\"resource://orders\": {\"application\": \"b\"}}",
            "deny:no_rule_matched",
        ),
        (
            "app_ids := [\"app-1\"]\ngrants := {\"resource://orders\": {\"application\": 0}}",
            "deny:no_rule_matched",
        ),
        ("app_ids := {\"b\": \"app-1\"}\ngrants := {\"resource://orders\": \"b\"}", "deny:no_rule_matched"),
        (
            "app_ids := {\"a\": \"app-1\", \"b\": \"app-1\"}\ngrants := {\"resource://orders\": {\"application\": \"b\"}}",
            "allow:caracal-bootstrap",
        ),
    ] {
        let bundle = Bundle::compile(&[("d", crate::support::document(documents))]).unwrap();
        assert_eq!(outcome(&bundle, &bootstrap("app-1")), expected, "{documents}");
    }
}

#[test]
fn section_15_2_request_shapes() {
    let with = |change: fn(&mut PolicyInput), mut input: PolicyInput| {
        change(&mut input);
        input
    };
    let add = |input: PolicyInput, scope: &str| {
        let mut input = input;
        input.context.requested_scopes.push(scope.to_owned());
        input
    };
    let lifecycle = "agent:lifecycle";
    check(
        &zone(),
        &[
            (
                "lifecycle twice is still a set of one",
                add(bootstrap("app-1"), lifecycle),
                "allow:caracal-bootstrap",
            ),
            ("lifecycle and business", add(bootstrap("app-1"), "r:read"), "deny:no_rule_matched"),
            (
                "nothing asked",
                with(|i| i.context.requested_scopes.clear(), bootstrap("app-1")),
                "deny:no_rule_matched",
            ),
            (
                "bootstrap inside a session",
                with(|i| i.context.agent_session_id = "s".into(), bootstrap("app-1")),
                "deny:no_rule_matched",
            ),
            (
                "bootstrap with a subject",
                with_claim(bootstrap("app-1"), "sub", json!("u")),
                "deny:no_rule_matched",
            ),
            (
                "direct business mint",
                with(|i| i.context.requested_scopes = vec!["r:read".into()], bootstrap("app-1")),
                "deny:no_rule_matched",
            ),
            (
                "session without delegation",
                with(|i| i.delegation_edge = None, mint(&["payer"], PAY_ONLY, PAY_ONLY)),
                "deny:no_rule_matched",
            ),
            (
                "edge without an id",
                with(
                    |i| i.delegation_edge.as_mut().unwrap().id.clear(),
                    mint(&["payer"], PAY_ONLY, PAY_ONLY),
                ),
                "deny:no_rule_matched",
            ),
            (
                "edge without a session",
                with(|i| i.context.agent_session_id.clear(), mint(&["payer"], PAY_ONLY, PAY_ONLY)),
                "deny:no_rule_matched",
            ),
            (
                "mint with lifecycle",
                add(mint(&["payer"], &["r:pay", lifecycle], PAY_ONLY), lifecycle),
                "deny:no_rule_matched",
            ),
            ("mint of nothing", mint(&["payer"], PAY_ONLY, &[]), "deny:no_rule_matched"),
            (
                "mint with a subject",
                with_claim(mint(&["payer"], PAY_ONLY, PAY_ONLY), "sub", json!("u")),
                "deny:no_rule_matched",
            ),
            (
                "workload of another action",
                with(|i| i.action.id = "TokenExchange".into(), workload(PAY_ONLY)),
                "deny:no_rule_matched",
            ),
            (
                "application that injects",
                with(|i| i.principal.kind = "Application".into(), workload(PAY_ONLY)),
                "deny:no_rule_matched",
            ),
            (
                "workload in a session",
                with(|i| i.context.agent_session_id = "s".into(), workload(PAY_ONLY)),
                "deny:no_rule_matched",
            ),
            ("workload", workload(PAY_ONLY), "allow:caracal-workload-mint"),
            ("workload without scopes", workload(&[]), "allow:caracal-workload-mint"),
            (
                "use that asks for scopes",
                add(usage(&["payer"], &[ORDERS], "r:pay"), "r:pay"),
                "deny:no_rule_matched",
            ),
            (
                "use with an empty edge",
                with_claim(usage(&["payer"], &[ORDERS], "r:pay"), "delegation_edge_id", json!("")),
                "deny:no_rule_matched",
            ),
            (
                "use with a scope array",
                with_claim(usage(&["payer"], &[ORDERS], "r:pay"), "scope", json!(["r:pay"])),
                "deny:no_rule_matched",
            ),
            (
                "use with wide spaces",
                usage(&["payer"], &[ORDERS], "  r:pay   r:read "),
                "allow:caracal-billing-use",
            ),
            (
                "target as text",
                with_claim(usage(&["payer"], &[], "r:pay"), "target", json!(ORDERS)),
                "deny:mandate_target_mismatch",
            ),
            (
                "no target",
                with_claim(usage(&["payer"], &[], "r:pay"), "target", json!(null)),
                "deny:mandate_target_mismatch",
            ),
            ("one target of two", usage(&["payer"], &[LEDGER, ORDERS], "r:pay"), "allow:caracal-billing-use"),
        ],
    );
}

#[test]
fn sts_28_02_section_15_2_roles_are_matched_exactly_and_never_added_up() {
    let split = zone_with("confinement := []");
    let both: &[&str] = &["r:pay", "r:write"];
    check(
        &split,
        &[
            ("no labels", mint(&[], PAY_ONLY, PAY_ONLY), "deny:role_scope_mismatch"),
            ("label that is no role", mint(&["payers"], PAY_ONLY, PAY_ONLY), "deny:role_scope_mismatch"),
            (
                "one role has it all",
                mint(&["x", "payer"], &["r:pay", "r:read"], &["r:read", "r:pay"]),
                "allow:caracal-billing-mint",
            ),
            (
                "duplicates",
                mint(&["reader"], &["r:read"], &["r:read", "r:read"]),
                "allow:caracal-billing-mint",
            ),
            ("no role has both", mint(&["payer", "reader"], both, both), "deny:role_scope_mismatch"),
        ],
    );
    let two_roles = Bundle::compile(&[(
        "d",
        crate::support::document(
            r#"app_ids := {"billing": "app-1"}
grants := {"resource://orders": {"application": "billing", "roles": {"a": ["r:pay"], "b": ["r:write"], "c": "r:pay"}}}"#,
        ),
    )])
    .unwrap();
    check(
        &two_roles,
        &[
            ("two halves are not a whole", mint(&["a", "b"], both, both), "deny:role_scope_mismatch"),
            ("one half alone", mint(&["a", "b"], both, PAY_ONLY), "allow:caracal-billing-mint"),
            ("scopes as text", mint(&["c"], PAY_ONLY, PAY_ONLY), "deny:role_scope_mismatch"),
            ("use: two halves", usage(&["a", "b"], &[ORDERS], "r:pay r:write"), "deny:role_scope_mismatch"),
        ],
    );
}

#[test]
fn section_15_2_confinement_rules_all_hold() {
    let request = || mint(&["payer", "customer:acme"], &["r:pay", "r:read"], &["r:pay"]);
    for (confinement, expected) in [
        ("[]", "allow"),
        ("{}", "allow"),
        (r#"[{"label_prefix": "customer:", "scopes": ["r:pay"]}]"#, "allow"),
        (
            r#"[{"label_prefix": "customer:", "scopes": ["r:pay", "r:x"]}, {"label_prefix": "pay", "scopes": ["r:pay"]}]"#,
            "allow",
        ),
        (
            r#"[{"label_prefix": "customer:", "scopes": ["r:pay"]}, {"label_prefix": "pay", "scopes": ["r:read"]}]"#,
            "deny",
        ),
        (r#"[{"label_prefix": "Customer:", "scopes": []}]"#, "allow"),
        (r#"[{"label_prefix": "acme", "scopes": []}]"#, "allow"),
        (r#"[{"label_prefix": "", "scopes": ["r:read"]}]"#, "deny"),
        (r#"[{"label_prefix": "customer:", "scopes": []}]"#, "deny"),
        (r#"[{"label_prefix": "customer:"}]"#, "deny"),
        (r#"[{"label_prefix": "customer:", "scopes": "r:pay"}]"#, "deny"),
        (r#"[{"label_prefix": "other:"}]"#, "allow"),
        (r#"[{"scopes": ["r:pay"]}]"#, "deny"),
        (r#"[{"label_prefix": 7, "scopes": ["r:pay"]}]"#, "deny"),
        (r#"["customer:"]"#, "deny"),
        (r#""customer:""#, "deny"),
        ("false", "deny"),
        ("null", "deny"),
    ] {
        let bundle = zone_with(&format!("confinement := {confinement}"));
        let expected =
            if expected == "allow" { "allow:caracal-billing-mint" } else { "deny:confinement_violation" };
        assert_eq!(outcome(&bundle, &request()), expected, "{confinement}");
        // Confinement is a rule for mints only (§15.3).
        assert_eq!(outcome(&bundle, &bootstrap("app-1")), "allow:caracal-bootstrap", "{confinement}");
        assert_eq!(outcome(&bundle, &usage(&["payer"], &[ORDERS], "r:pay")), "allow:caracal-billing-use");
    }
}

#[test]
fn section_15_2_any_element_freezes_the_zone() {
    let requests = || {
        [
            bootstrap("app-1"),
            bootstrap("app-9"),
            mint(&["payer"], PAY_ONLY, PAY_ONLY),
            workload(PAY_ONLY),
            usage(&["payer"], &[ORDERS], "r:pay"),
            PolicyInput::default(),
        ]
    };
    for restrict in [
        r#"restrict := {"incident"}"#,
        r#"restrict := ["incident"]"#,
        r#"restrict := {"incident": true}"#,
        r#"restrict contains "incident""#,
        r#"restrict contains "incident" if input.schema_version"#,
        "restrict := true",
        "restrict := null",
        r#"restrict := """#,
        "risk := 1\napproval_tiers := 1\nrestrict := [null]",
    ] {
        let bundle = zone_with(restrict);
        for input in requests() {
            assert_eq!(outcome(&bundle, &input), "deny:restriction_active", "{restrict} {input:?}");
        }
    }
    for restrict in [
        "restrict := []",
        "restrict := {}",
        "restrict := set()",
        r#"restrict contains "x" if input.principal.id == "app-9""#,
    ] {
        assert_eq!(
            outcome(&zone_with(restrict), &bootstrap("app-1")),
            "allow:caracal-bootstrap",
            "{restrict}"
        );
    }
}

#[test]
fn sts_28_02_section_15_4_deny_reasons_in_their_precedence() {
    // Each step repairs the cause of the one before, so each reason is seen with all later causes present.
    let request = |edge: &[&str]| mint(&["customer:acme"], edge, PAY_ONLY);
    let broken = r#"confinement := [{"label_prefix": "customer:", "scopes": ["r:read"]}]"#;
    let step = |rules: &str, input: PolicyInput| outcome(&zone_with(rules), &input);
    let bad_both = format!("{broken}\nrisk := 1\napproval_tiers := 1");
    let bad_tiers = format!("{broken}\napproval_tiers := 1");
    assert_eq!(
        step(&format!("restrict := [1]\n{bad_both}"), on(LEDGER, request(&[]))),
        "deny:restriction_active"
    );
    assert_eq!(step(&bad_both, on(LEDGER, request(&[]))), "deny:malformed_risk_data");
    assert_eq!(step(&bad_tiers, on(LEDGER, request(&[]))), "deny:malformed_approval_data");
    assert_eq!(step(broken, on(LEDGER, request(&[]))), "deny:resource_not_granted");
    assert_eq!(step(broken, request(&[])), "deny:delegation_scope_exceeded");
    assert_eq!(step(broken, request(PAY_ONLY)), "deny:confinement_violation");
    assert_eq!(step("confinement := []", request(PAY_ONLY)), "deny:role_scope_mismatch");

    assert_eq!(step("restrict := [1]\nrisk := 1", workload(PAY_ONLY)), "deny:restriction_active");
    assert_eq!(step(&bad_both, workload(PAY_ONLY)), "deny:malformed_risk_data");
    assert_eq!(step(&bad_tiers, workload(PAY_ONLY)), "deny:malformed_approval_data");

    let presented = |target: &str| on(LEDGER, usage(&["reader"], &[target], "r:pay"));
    assert_eq!(step("restrict := [1]", presented(ORDERS)), "deny:restriction_active");
    assert_eq!(step(&bad_both, presented(ORDERS)), "deny:mandate_target_mismatch");
    assert_eq!(step(&bad_both, presented(LEDGER)), "deny:resource_not_granted");
    assert_eq!(step(&bad_both, usage(&["reader"], &[ORDERS], "r:pay")), "deny:role_scope_mismatch");
}

#[test]
fn sts_28_04_section_15_2_malformed_risk_and_approval_data_stop_mints_only() {
    let risk = [
        "1",
        "{}",
        r#"{"scope": "r:pay", "tier": "money"}"#,
        r#"["r:pay"]"#,
        r#"[{"scope": "r:pay"}]"#,
        r#"[{"tier": "money"}]"#,
        r#"[{"scope": "", "tier": "money"}]"#,
        r#"[{"scope": "r:pay", "tier": ""}]"#,
        r#"[{"scope": 1, "tier": "money"}]"#,
        r#"[{"scope": "r:pay", "tier": null}]"#,
        r#"[{"scope": "r:other", "tier": "x"}, null]"#,
        "false",
        "null",
    ];
    let tiers = [
        "1",
        "{}",
        r#"["money"]"#,
        "[{}]",
        r#"[{"tier": ""}]"#,
        r#"[{"tier": 3}]"#,
        r#"[{"tier": "t", "approver": "boss"}]"#,
        r#"[{"tier": "t", "approver": null}]"#,
        r#"[{"tier": "t", "privacy": "hidden"}]"#,
        r#"[{"tier": "t", "ttl_seconds": 0}]"#,
        r#"[{"tier": "t", "ttl_seconds": -5}]"#,
        r#"[{"tier": "t", "ttl_seconds": 1.5}]"#,
        r#"[{"tier": "t", "ttl_seconds": "60"}]"#,
        r#"[{"tier": "t"}, {"tier": "u", "ttl_seconds": null}]"#,
    ];
    let rows = risk.iter().map(|value| (format!("risk := {value}"), "deny:malformed_risk_data")).chain(
        tiers.iter().map(|value| (format!("approval_tiers := {value}"), "deny:malformed_approval_data")),
    );
    for (rules, expected) in rows {
        let bundle = zone_with(&rules);
        assert_eq!(outcome(&bundle, &mint(&["payer"], PAY_ONLY, PAY_ONLY)), expected, "{rules}");
        assert_eq!(outcome(&bundle, &workload(PAY_ONLY)), expected, "{rules}");
        assert_eq!(outcome(&bundle, &bootstrap("app-1")), "allow:caracal-bootstrap", "{rules}");
        assert_eq!(
            outcome(&bundle, &usage(&["payer"], &[ORDERS], "r:pay")),
            "allow:caracal-billing-use",
            "{rules}"
        );
    }
    for rules in [
        "risk := []\napproval_tiers := []",
        r#"approval_tiers := [{"tier": "t", "approver": "any", "privacy": "anonymous", "ttl_seconds": 900.0, "note": 1}]"#,
    ] {
        assert_eq!(outcome(&zone_with(rules), &workload(PAY_ONLY)), "allow:caracal-workload-mint", "{rules}");
    }
}

#[test]
fn sts_28_04_section_15_3_mint_diagnostics() {
    let bundle = zone_with(
        r#"risk := [
	{"scope": "r:pay", "tier": "money"},
	{"scope": "r:pay", "tier": "money"},
	{"scope": "r:read", "tier": "plain"},
	{"scope": "r:other", "tier": "rare"},
]
approval_tiers := [
	{"tier": "money", "approver": "subject", "ttl_seconds": 600, "privacy": "pseudonymous"},
	{"tier": "money", "approver": "subject", "ttl_seconds": 600, "privacy": "pseudonymous"},
	{"tier": "money"},
	{"tier": "rare"},
]"#,
    );
    let decision =
        bundle.evaluate(&mint(&["payer"], &["r:pay", "r:read"], &["r:read", "r:pay", "r:read"])).unwrap();
    assert_eq!(decision.effect, Effect::Allow);
    assert_eq!(
        decision.diagnostics,
        [
            json!({"step_up_required": {"type": "human_approval", "tiers": [
                {"tier": "money", "approver": "subject", "ttl_seconds": 600, "privacy": "pseudonymous"},
                {"tier": "money"},
            ]}}),
            json!({"risk": [
                {"scope": "r:pay", "tier": "money"},
                {"scope": "r:read", "tier": "plain"},
                {"scope": "r:read", "tier": "plain"},
            ]}),
        ]
    );
    let gates = decision.approval_gates();
    assert_eq!(gates.len(), 2);
    assert_eq!(
        (gates[1].approver, gates[1].privacy, gates[1].ttl_seconds),
        (Approver::Operator, Privacy::Identified, None)
    );
    assert_eq!(
        (gates[0].approver, gates[0].privacy, gates[0].ttl_seconds),
        (Approver::Subject, Privacy::Pseudonymous, Some(600))
    );

    let classified_only = bundle.evaluate(&mint(&["payer"], &["r:read"], &["r:read"])).unwrap();
    assert_eq!(classified_only.diagnostics, [json!({"risk": [{"scope": "r:read", "tier": "plain"}]})]);
    assert!(classified_only.approval_gates().is_empty());

    let injected = bundle.evaluate(&workload(&["r:other"])).unwrap();
    assert_eq!(injected.determining_policies, ["caracal-workload-mint"]);
    assert_eq!(injected.approval_gates()[0].tier, "rare");

    for unclassified in [workload(&["r:none"]), bootstrap("app-1"), usage(&["payer"], &[ORDERS], "r:pay")] {
        assert_eq!(bundle.evaluate(&unclassified).unwrap().diagnostics, Vec::<serde_json::Value>::new());
    }
}

#[test]
fn section_15_3_one_scope_in_two_tiers_is_an_error_where_it_matters() {
    let bundle = zone_with(r#"risk := [{"scope": "r:pay", "tier": "a"}, {"scope": "r:pay", "tier": "b"}]"#);
    check(
        &bundle,
        &[
            (
                "requested and otherwise allowed",
                mint(&["payer"], PAY_ONLY, PAY_ONLY),
                "error:conflicting_risk_data",
            ),
            ("injected", workload(PAY_ONLY), "error:conflicting_risk_data"),
            (
                "requested but denied anyway",
                mint(&["payer"], &[], PAY_ONLY),
                "deny:delegation_scope_exceeded",
            ),
            ("not requested", mint(&["payer"], &["r:read"], &["r:read"]), "allow:caracal-billing-mint"),
            ("bootstrap", bootstrap("app-1"), "allow:caracal-bootstrap"),
            ("use", usage(&["payer"], &[ORDERS], "r:pay"), "allow:caracal-billing-use"),
        ],
    );
}

#[test]
fn section_15_4_two_rules_that_claim_one_request_are_an_error() {
    let bundle = Bundle::compile(&[(
        "d",
        crate::support::document(
            "app_ids := {\"w\": \"workload-1\"}\ngrants := {\"resource://orders\": {\"application\": \"w\"}}",
        ),
    )])
    .unwrap();
    check(
        &bundle,
        &[
            ("owner and workload at once", workload(&["agent:lifecycle"]), "error:conflicting_rules"),
            ("business scope", workload(PAY_ONLY), "allow:caracal-workload-mint"),
        ],
    );
}

#[test]
fn section_14_1_computed_documents_are_evaluated_not_ignored() {
    let bundle = Bundle::compile(&[(
        "d",
        crate::support::document(
            r#"app_ids[key] := id if some key, id in {"billing": "app-1"}

grants := {"resource://orders": {"application": "billing", "roles": roles}} if {
	input.principal.registration_method == "managed"
	roles := {"payer": ["r:pay"]}
}

confinement := [{"label_prefix": "", "scopes": ["r:read"]}] if "confined" in input.principal.labels
"#,
        ),
    )])
    .unwrap();
    let mut unmanaged = bootstrap("app-1");
    unmanaged.principal.registration_method = "dcr".into();
    check(
        &bundle,
        &[
            ("condition holds", bootstrap("app-1"), "allow:caracal-bootstrap"),
            ("condition does not hold", unmanaged, "deny:no_rule_matched"),
            ("mint", mint(&["payer"], PAY_ONLY, PAY_ONLY), "allow:caracal-billing-mint"),
            (
                "conditional confinement",
                mint(&["payer", "confined"], PAY_ONLY, PAY_ONLY),
                "deny:confinement_violation",
            ),
        ],
    );
}
