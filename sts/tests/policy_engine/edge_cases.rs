//! The edge cases of contract sts §28 that the decision contract alone decides.

use caracal_sts::policy::input::Action;
use caracal_sts::policy::{Bundle, Effect, PolicyInput};
use serde_json::json;

use crate::decision::{PAY_ONLY, check};
use crate::support::{LEDGER, ORDERS, document, mint, on, usage, with_claim, workload, zone_with};

#[test]
fn sts_28_01_several_keys_of_one_application_are_one_identity() {
    let owner = |key: &str| {
        let documents = format!(
            "app_ids := {{\"billing\": \"app-1\", \"billing-old\": \"app-1\", \"books\": \"app-2\"}}\n\
             grants := {{\"resource://orders\": {{\"application\": \"{key}\", \"roles\": {{\"payer\": [\"r:pay\"]}}}}}}"
        );
        Bundle::compile(&[("d", document(&documents))]).unwrap()
    };
    let request = || mint(&["payer"], PAY_ONLY, PAY_ONLY);
    let presented = || usage(&["payer"], &[ORDERS], "r:pay");
    for (key, mints, uses) in [
        ("billing", "allow:caracal-billing-mint", "allow:caracal-billing-use"),
        ("billing-old", "allow:caracal-billing-old-mint", "allow:caracal-billing-old-use"),
        ("books", "deny:resource_not_granted", "deny:resource_not_granted"),
        ("nobody", "deny:resource_not_granted", "deny:resource_not_granted"),
    ] {
        check(&owner(key), &[(key, request(), mints), (key, presented(), uses)]);
    }
}

#[test]
fn sts_28_02_each_gate_denies_alone_and_names_itself() {
    let confined = zone_with(r#"confinement := [{"label_prefix": "customer:", "scopes": ["r:read"]}]"#);
    check(
        &confined,
        &[
            ("all gates open", mint(&["payer"], PAY_ONLY, PAY_ONLY), "allow:caracal-billing-mint"),
            ("the edge", mint(&["payer"], &["r:read"], PAY_ONLY), "deny:delegation_scope_exceeded"),
            ("confinement", mint(&["payer", "customer:x"], PAY_ONLY, PAY_ONLY), "deny:confinement_violation"),
            ("the role", mint(&["reader"], PAY_ONLY, PAY_ONLY), "deny:role_scope_mismatch"),
            ("the grant", on(LEDGER, mint(&["payer"], PAY_ONLY, PAY_ONLY)), "deny:resource_not_granted"),
        ],
    );
}

#[test]
fn sts_28_08_a_workload_needs_no_grant_and_passes_no_gate() {
    let bare = |rules: &str| Bundle::compile(&[("d", document(rules))]).unwrap();
    let gate =
        "risk := [{\"scope\": \"r:pay\", \"tier\": \"money\"}]\napproval_tiers := [{\"tier\": \"money\"}]";
    let other_action = PolicyInput {
        action: Action { id: "TokenExchange".into(), ..Default::default() },
        ..workload(PAY_ONLY)
    };
    check(
        &bare("grants := {}"),
        &[
            ("no grants at all", workload(PAY_ONLY), "allow:caracal-workload-mint"),
            ("another action", other_action, "deny:no_rule_matched"),
            (
                "on behalf of a subject",
                with_claim(workload(PAY_ONLY), "sub", json!("u")),
                "deny:no_rule_matched",
            ),
        ],
    );
    check(&bare("restrict := [1]"), &[("frozen", workload(PAY_ONLY), "deny:restriction_active")]);
    let gated = bare(gate).evaluate(&workload(PAY_ONLY)).unwrap();
    assert_eq!((gated.effect, gated.approval_gates().len()), (Effect::Allow, 1));
}
