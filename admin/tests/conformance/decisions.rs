//! From a denial to the policy that mends it, and what an activation does to mandates that were minted before.

use crate::common::{Bench, bench};
use crate::policy::{activate, policy, version};
use crate::sts::{Governed, claims, document, granted, refusal};
use serde_json::{Value, json};

async fn governed(bench: &Bench) -> Governed {
    Governed::new(bench, "z", json!({ "name": "p", "kind": "caracal_mandate" })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_explained_simulated_against_its_mend_and_mended() {
    let bench = bench().await;
    let governed = governed(&bench).await;
    let zone = &governed.zone;
    let path = |rest: &str| format!("/v1/zones/{zone}/{rest}");
    governed.decide(&bench, &document(&governed.application, &["orders:read"])).await;
    granted(governed.mint("orders:read", "r1", &[]).await);
    // Denied, and told why.
    let denied = governed.mint("orders:write", "r2", &[]).await;
    assert_eq!(refusal(&denied), (403, "policy denied (role_scope_mismatch)"));
    // Explained, with the input that the decision was made of.
    let why = bench.get(&path("audit/by-request/r2/explain")).await.ok();
    assert_eq!((&why["final_decision"], why["denied"].as_array().unwrap().len()), (&json!("deny"), 1));
    assert_eq!(why["denied"][0]["reason"], "role_scope_mismatch");
    let input = &why["denied"][0]["policy_input"];
    assert_eq!(input["context"]["requested_scopes"], json!(["orders:write"]));
    // Mended: validated, and simulated with that input before it decides anything.
    let mended = document(&governed.application, &["orders:read", "orders:write"]);
    let valid = bench.post("/v1/policies/validate", json!({ "content": mended })).await.ok();
    assert_eq!(valid["preview"]["rules"], json!(["app_ids", "grants"]));
    let candidate = policy(&bench, zone, "mended", &mended).await;
    let candidate = version(&bench, zone, &governed.set, &[&candidate]).await;
    let active = bench.get(&path(&format!("policy-sets/{}", governed.set))).await.ok();
    let simulate = async |version: &Value| {
        let body = json!({ "version_id": version, "input": input });
        bench.post(&path(&format!("policy-sets/{}/simulate", governed.set)), body).await.ok()
    };
    let as_it_is = simulate(&active["active_version_id"]).await;
    assert_eq!(
        (&as_it_is["result"]["decision"], &as_it_is["explanation"]["reason"]),
        (&json!("deny"), &json!("role_scope_mismatch"))
    );
    let as_it_would_be = simulate(&json!(candidate)).await;
    assert_eq!(as_it_would_be["result"]["decision"], "allow", "{as_it_would_be}");
    assert_eq!((&as_it_would_be["would_activate"], &as_it_would_be["warnings"]), (&json!(true), &json!([])));
    let still = governed.mint("orders:write", "r3", &[]).await;
    assert_eq!(refusal(&still), (403, "policy denied (role_scope_mismatch)"), "trying out changes nothing");
    // Activated: the very next request is decided by it, and its evidence names it.
    let activated = activate(&bench, zone, &governed.set, &candidate).await.ok();
    let status = bench.get(activated["status_url"].as_str().unwrap()).await.ok();
    assert_eq!(status["propagation_status"], "loaded");
    granted(governed.mint("orders:write", "r4", &[]).await);
    let events = bench.get(&path("audit/by-request/r4")).await.ok();
    assert_eq!(events[0]["policy_set_version_id"], json!(candidate));
    assert_eq!(events[0]["manifest_sha"], status["manifest_sha256"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activation_judges_anew_what_was_minted_before() {
    let bench = bench().await;
    let governed = governed(&bench).await;
    let both = document(&governed.application, &["orders:read", "orders:write"]);
    let wide = governed.decide(&bench, &both).await;
    let (reads, writes) = (
        granted(governed.mint("orders:read", "m1", &[]).await),
        granted(governed.mint("orders:write", "m2", &[]).await),
    );
    let derived = granted(
        governed.present(&granted(governed.mint("orders:write", "m3", &[]).await), "POST", "u0").await,
    );
    let before = claims(&reads)["authority_epoch"].as_i64().unwrap();
    // A policy that leaves reading only. What is not allowed any more ends, and what still is goes on.
    governed.decide(&bench, &document(&governed.application, &["orders:read"])).await;
    let epochs = "SELECT policy_epoch FROM zones";
    assert!(bench.number(epochs).await > before, "the mandates are older than the policy");
    for _ in 0..2 {
        let refused = governed.present(&writes, "POST", "u1").await;
        assert_eq!(refusal(&refused), (403, "policy denied (role_scope_mismatch)"));
    }
    let stale = governed.check(&derived).await;
    assert_ne!((stale.status.as_u16(), &stale.body["active"]), (200, &json!(true)), "{}", stale.body);
    granted(governed.present(&reads, "GET", "u2").await);
    // Back to the older version: what was denied was never used up, so it serves again, once.
    assert_eq!(activate(&bench, &governed.zone, &governed.set, &wide).await.status, 202);
    granted(governed.present(&writes, "POST", "u3").await);
    assert_ne!(governed.present(&writes, "POST", "u4").await.status, 200, "used up");
    // No policy at all denies everything that is still there.
    let last = granted(governed.mint("orders:read", "m4", &[]).await);
    let path = format!("/v1/zones/{}/policy-sets/{}", governed.zone, governed.set);
    assert_eq!(bench.delete(&path).await.status, 204);
    let refused = governed.present(&last, "GET", "u5").await;
    assert_eq!(refusal(&refused), (403, "policy denied (no_active_policy_set)"));
    let refused = governed.mint("orders:read", "m5", &[]).await;
    assert_eq!(refusal(&refused), (403, "policy denied (no_active_policy_set)"));
}
