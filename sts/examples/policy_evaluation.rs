//! Prints how long one policy decision takes on this machine: `cargo run --release -p caracal-sts --example
//! policy_evaluation`.

use std::time::Instant;

use caracal_sts::policy::{Bundle, PolicyInput};

const ROUNDS: usize = 20_000;

const CONSTANT: &str = r#"package caracal.authz
app_ids := {"billing": "app-1"}
grants := {"resource://orders": {"application": "billing", "roles": {"payer": ["orders:pay", "orders:read"]}}}
confinement := [{"label_prefix": "customer:", "scopes": ["orders:read"]}]
risk := [{"scope": "orders:pay", "tier": "money"}]
approval_tiers := [{"tier": "other"}]
"#;

const COMPUTED: &str =
    "package caracal.authz\nimport rego.v1\nrestrict contains \"x\" if input.principal.id == \"app-9\"\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mint: PolicyInput = serde_json::from_value(serde_json::json!({
        "principal": {"type": "Application", "id": "app-1", "zone_id": "z", "labels": ["payer"]},
        "resource": {"type": "Resource", "id": "r", "identifier": "resource://orders", "scopes": ["orders:pay"]},
        "action": {"id": "TokenExchange"},
        "delegation_edge": {"id": "e", "source_session_id": "s", "target_session_id": "t", "scopes": ["orders:pay"]},
        "context": {"actor_claims": {}, "agent_session_id": "t", "requested_scopes": ["orders:pay"]},
    }))?;
    for (name, documents) in [
        ("constant documents", vec![("a", CONSTANT)]),
        ("computed documents", vec![("a", CONSTANT), ("b", COMPUTED)]),
    ] {
        let started = Instant::now();
        let bundle = Bundle::compile(&documents)?;
        let compiled = started.elapsed();
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let decision = bundle.evaluate(&mint)?;
            times.push(started.elapsed());
            if !decision.is_allow() {
                return Err(format!("denied: {decision:?}").into());
            }
        }
        times.sort_unstable();
        let at = |share: usize| times.get(ROUNDS * share / 1_000).copied().unwrap_or_default();
        println!(
            "{name}: compiled in {compiled:?}; p50 {:?}, p99 {:?}, p99.9 {:?}",
            at(500),
            at(990),
            at(999)
        );
    }
    Ok(())
}
