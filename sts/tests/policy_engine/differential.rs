//! The virtual machine and the interpreter agree on everything that a request can look like.
//!
//! The machine has once let a failing universal quantifier pass, so an engine update is a security matter: this test
//! walks a grid of requests over several zones and allows no difference, neither in decisions nor in errors.

use caracal_sts::policy::{Bundle, Effect, PolicyInput};
use serde_json::json;

use crate::support::{LEDGER, ORDERS, ZONE, document, mint, on, usage, workload};

const RULES: [&str; 12] = [
    "confinement := []",
    "restrict := {}\nrisk := [{\"scope\": \"r:pay\", \"tier\": \"money\"}]\napproval_tiers := [{\"tier\": \"money\", \"approver\": \"any\"}]",
    "confinement := [{\"label_prefix\": \"customer:\", \"scopes\": [\"r:read\"]}]",
    "confinement := [{\"label_prefix\": \"customer:\"}, 7]",
    "restrict contains \"frozen\" if \"reader\" in input.principal.labels",
    "restrict := {\"frozen\"}",
    "risk := [{\"scope\": \"r:pay\", \"tier\": \"a\"}, {\"scope\": \"r:pay\", \"tier\": \"b\"}]",
    "risk := [{\"scope\": \"r:pay\"}]\napproval_tiers := 4",
    "approval_tiers := [{\"tier\": \"t\", \"ttl_seconds\": 0.5}]",
    CONTRADICTION,
    "risk := [{\"scope\": scope, \"tier\": \"every\"} | some scope in input.context.requested_scopes]\napproval_tiers := [{\"tier\": \"every\"}]",
    "confinement := [{\"label_prefix\": prefix, \"scopes\": [\"r:pay\"]} | some prefix in input.principal.labels]",
];

/// Gives `grants` another value than the zone does.
const CONTRADICTION: &str = r#"grants := {"resource://orders": {"application": "books", "roles": {}}}"#;

const LABELS: [&[&str]; 5] =
    [&[], &["payer"], &["reader"], &["payer", "customer:acme"], &["reader", "payer"]];
const SCOPES: [&[&str]; 6] = [
    &[],
    &["agent:lifecycle"],
    &["r:pay"],
    &["r:read"],
    &["r:pay", "r:read", "r:pay"],
    &["r:pay", "agent:lifecycle"],
];
const EDGES: [Option<&[&str]>; 4] = [None, Some(&[]), Some(&["r:pay"]), Some(&["r:pay", "r:read"])];

fn requests() -> Vec<PolicyInput> {
    let mut requests = Vec::new();
    for labels in LABELS {
        for scopes in SCOPES {
            for edge in EDGES {
                for in_session in [true, false] {
                    let mut input = mint(labels, edge.unwrap_or_default(), scopes);
                    if edge.is_none() {
                        input.delegation_edge = None;
                    }
                    if !in_session {
                        input.context.agent_session_id.clear();
                    }
                    requests.push(on(LEDGER, input.clone()));
                    requests.push(input);
                }
            }
        }
        for carried in ["r:pay", "r:read  r:pay", "", " "] {
            for target in [&[ORDERS][..], &[LEDGER, ORDERS], &[]] {
                requests.push(usage(labels, target, carried));
                requests.push(on(LEDGER, usage(labels, target, carried)));
            }
        }
    }
    for claims in
        [json!({}), json!({"scope": 3, "delegation_edge_id": 4}), json!({"target": ORDERS, "sub": null})]
    {
        let mut input = usage(&["payer"], &[ORDERS], "r:pay");
        input.context.subject_claims = claims.as_object().cloned().unwrap_or_default();
        requests.push(input);
    }
    requests.extend(SCOPES.iter().map(|scopes| workload(scopes)));
    requests.push(PolicyInput::default());
    for request in &mut requests {
        request.principal.lifecycle = "service".to_owned();
    }
    requests
}

#[derive(Debug, Default)]
struct Tally {
    compared: usize,
    allowed: usize,
    denied: usize,
    failed: usize,
}

fn compare(rules: &str) -> Tally {
    let mut tally = Tally::default();
    let bundle = Bundle::compile(&[("zone", ZONE.to_owned()), ("rules", document(rules))]).unwrap();
    let mut interpreter = bundle.interpreter().unwrap();
    for request in requests() {
        tally.compared += 1;
        match (bundle.evaluate(&request), interpreter.evaluate(&request)) {
            (Ok(machine), Ok(interpreted)) => {
                assert_eq!(machine, interpreted, "{rules}\n{request:?}");
                match machine.effect {
                    Effect::Allow => tally.allowed += 1,
                    Effect::Deny => tally.denied += 1,
                }
            }
            (Err(_), Err(_)) => tally.failed += 1,
            // Documents that contradict each other fail every evaluation, also one that would not have read them.
            (Err(_), Ok(_)) if rules == CONTRADICTION => tally.failed += 1,
            (machine, interpreted) => panic!("{machine:?}\n{interpreted:?}\n{rules}\n{request:?}"),
        }
    }
    tally
}

#[test]
fn machine_and_interpreter_agree_everywhere() {
    let mut total = Tally::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = RULES
            .chunks(3)
            .map(|part| scope.spawn(|| part.iter().map(|rules| compare(rules)).collect::<Vec<_>>()))
            .collect();
        for tally in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
            total.compared += tally.compared;
            total.allowed += tally.allowed;
            total.denied += tally.denied;
            total.failed += tally.failed;
        }
    });
    println!("{total:?}");
    assert!(total.compared >= 4_096, "{total:?}");
    assert!(total.allowed > 0 && total.denied > 0 && total.failed > 0, "{total:?}");
}
