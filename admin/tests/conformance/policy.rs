//! Contract admin-audit §18, 26 to 29: policy sets, their activation and what is told of it.

use crate::common::{Answer, Bench, bench, id};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) const DOCUMENT: &str =
    "# caracal:data-document\npackage caracal.authz\n\nimport rego.v1\n\nrestrict := {}\n";

/// The id of the first version of a new policy.
pub(crate) async fn policy(bench: &Bench, zone: &str, name: &str, content: &str) -> String {
    let body = json!({ "name": name, "content": content });
    let made = bench.post(&format!("/v1/zones/{zone}/policies"), body).await.ok();
    made["version_id"].as_str().unwrap().to_owned()
}

/// A new set.
pub(crate) async fn set(bench: &Bench, zone: &str, name: &str) -> String {
    id(&bench.post(&format!("/v1/zones/{zone}/policy-sets"), json!({ "name": name })).await.ok())
}

/// A version of a set that holds these policy versions.
pub(crate) async fn version(bench: &Bench, zone: &str, set: &str, policies: &[&str]) -> String {
    let manifest: Vec<Value> = policies.iter().map(|id| json!({ "policy_version_id": id })).collect();
    let path = format!("/v1/zones/{zone}/policy-sets/{set}/versions");
    id(&bench.post(&path, json!({ "manifest": manifest })).await.ok())
}

pub(crate) async fn activate(bench: &Bench, zone: &str, set: &str, version: &str) -> Answer {
    let path = format!("/v1/zones/{zone}/policy-sets/{set}/activate");
    bench.post(&path, json!({ "version_id": version })).await
}

const ACTIVE: &str = "SELECT COUNT(*) FROM policy_sets WHERE active_version_id IS NOT NULL";

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_26_policy_versions_of_another_schema_are_in_no_manifest() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let (own, old) = (policy(&bench, &zone, "p", DOCUMENT).await, policy(&bench, &zone, "q", DOCUMENT).await);
    bench
        .execute(&format!("UPDATE policy_versions SET schema_version = '2020-01-01' WHERE id = '{old}'"))
        .await;
    let set = set(&bench, &zone, "s").await;
    let manifest = json!({ "manifest": [{ "policy_version_id": own }, { "policy_version_id": old }] });
    let refused = bench.post(&format!("/v1/zones/{zone}/policy-sets/{set}/versions"), manifest).await;
    assert_eq!(refused.code(), (422, "invalid_policy_contract"));
    assert!(refused.body["error_description"].as_str().unwrap().contains("2020-01-01"));
    assert_eq!(bench.number("SELECT COUNT(*) FROM policy_set_versions").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_27_what_does_not_compile_is_neither_stored_nor_activated_and_simulate_says_so() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let document = policy(&bench, &zone, "p", DOCUMENT).await;
    let set = set(&bench, &zone, "s").await;
    let version = version(&bench, &zone, &set, &[&document]).await;
    bench.execute("UPDATE policy_versions SET content = 'package other'").await;
    let before = bench.last_change().await;
    let path = format!("/v1/zones/{zone}/policy-sets/{set}");
    let manifest = json!({ "manifest": [{ "policy_version_id": document }] });
    let refused = bench.post(&format!("{path}/versions"), manifest).await;
    assert_eq!(refused.code(), (422, "invalid_policy_bundle"));
    assert_eq!(activate(&bench, &zone, &set, &version).await.code(), (422, "invalid_policy_bundle"));
    assert_eq!((bench.last_change().await, bench.number(ACTIVE).await), (before, 0));
    let input = json!({
        "schema_version": "2026-05-20", "principal": { "id": "a", "zone_id": zone }, "action": { "id": "TokenExchange" },
        "resource": { "identifier": "resource://x", "scopes": ["a"] }, "context": { "requested_scopes": ["a"] },
    });
    let body = json!({ "version_id": version, "input": input });
    let simulated = bench.post(&format!("{path}/simulate"), body).await;
    assert_eq!(simulated.status, 200);
    let simulated = simulated.ok();
    assert_eq!(
        (&simulated["explanation"]["evaluation"], &simulated["result"], &simulated["would_activate"]),
        (&json!("failed"), &Value::Null, &json!(false))
    );
    let warning = simulated["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("sts_simulation_failed:"), "{warning}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn admin_18_28_one_set_decides_however_many_are_activated_at_once() {
    let bench = Arc::new(bench().await);
    let zone = bench.zone("z").await;
    let document = policy(&bench, &zone, "p", DOCUMENT).await;
    let mut sets = Vec::new();
    for number in 0..4 {
        let set = set(&bench, &zone, &format!("s{number}")).await;
        let version = version(&bench, &zone, &set, &[&document]).await;
        sets.push((set, version));
    }
    let before = bench.last_change().await;
    let asked: Vec<_> = (0..3)
        .flat_map(|_| sets.clone())
        .map(|(set, version)| {
            let (bench, zone) = (bench.clone(), zone.clone());
            tokio::spawn(async move { activate(&bench, &zone, &set, &version).await.status })
        })
        .collect();
    for status in asked {
        assert_eq!(status.await.unwrap(), 202);
    }
    assert_eq!(bench.number(ACTIVE).await, 1);
    assert_eq!(bench.changes_after(before).await, vec![json!({ "kind": "policy" }); 12]);
    // A set that is archived meanwhile is not activated, and leaves nothing active.
    let (set, version) = &sets[0];
    let path = format!("/v1/zones/{zone}/policy-sets/{set}");
    let racing: Vec<_> = (0..6)
        .map(|number| {
            let (bench, zone, path) = (bench.clone(), zone.clone(), path.clone());
            let (set, version) = (set.clone(), version.clone());
            tokio::spawn(async move {
                if number == 3 {
                    bench.delete(&path).await
                } else {
                    activate(&bench, &zone, &set, &version).await
                }
            })
        })
        .collect();
    for answer in racing {
        let answer = answer.await.unwrap();
        let allowed = [(202, ""), (204, ""), (404, "policy_set_binding_not_found")];
        assert!(allowed.contains(&answer.code()), "{:?}", answer.code());
    }
    assert_eq!(activate(&bench, &zone, set, version).await.code(), (404, "policy_set_binding_not_found"));
    let archived =
        "SELECT COUNT(*) FROM policy_sets WHERE archived_at IS NOT NULL AND active_version_id IS NOT NULL";
    assert_eq!(bench.number(archived).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_28_a_version_that_is_gone_and_a_set_that_is_archived() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let documents = [policy(&bench, &zone, "p", DOCUMENT).await, policy(&bench, &zone, "q", DOCUMENT).await];
    let (first, second) = (set(&bench, &zone, "first").await, set(&bench, &zone, "second").await);
    let stands = version(&bench, &zone, &first, &[&documents[0]]).await;
    let torn = version(&bench, &zone, &second, &[&documents[0], &documents[1]]).await;
    assert_eq!(activate(&bench, &zone, &first, &stands).await.status, 202);
    bench.execute(&format!("DELETE FROM policy_versions WHERE id = '{}'", documents[1])).await;
    let before = bench.last_change().await;
    let refused = activate(&bench, &zone, &second, &torn).await;
    assert_eq!(refused.code(), (409, "referenced_policy_version_missing"));
    assert!(refused.body["error_description"].as_str().unwrap().contains(&documents[1]));
    assert_eq!((bench.last_change().await, bench.number(ACTIVE).await), (before, 1), "the other one stays");
    assert_eq!(bench.delete(&format!("/v1/zones/{zone}/policy-sets/{first}")).await.status, 204);
    assert_eq!(bench.number(ACTIVE).await, 0, "nothing decides, so everything is denied");
    assert_eq!(bench.changes_after(before).await, [json!({ "kind": "policy" })]);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_29_what_is_told_of_an_activation() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let document = policy(&bench, &zone, "p", DOCUMENT).await;
    let set = set(&bench, &zone, "s").await;
    let (older, newer) =
        (version(&bench, &zone, &set, &[&document]).await, version(&bench, &zone, &set, &[&document]).await);
    let path = format!("/v1/zones/{zone}/policy-sets/{set}/activation-status");
    assert_eq!(bench.get(&path).await.code(), (404, "active_policy_set_version_not_found"));
    let nowhere = format!("/v1/zones/{zone}/policy-sets/none/activation-status");
    assert_eq!(bench.get(&nowhere).await.code(), (404, "policy_set_binding_not_found"));
    let activated = activate(&bench, &zone, &set, &older).await.ok();
    let notice = activated["outbox_id"].as_str().unwrap();
    let elsewhere = bench.zone("other").await;
    assert!(!elsewhere.is_empty());
    for (query, propagation, outbox, sts) in [
        (String::new(), "loaded", "dispatched", "loaded"),
        (format!("?outbox_id={notice}"), "loaded", "dispatched", "loaded"),
        ("?outbox_id=999999".to_owned(), "waiting_for_outbox", "missing", "loaded"),
        ("?outbox_id=no-number".to_owned(), "waiting_for_outbox", "missing", "loaded"),
        ("?outbox_id=1".to_owned(), "failed", "mismatch", "loaded"),
        (
            format!("?version_id={newer}&outbox_id={notice}"),
            "waiting_for_activation",
            "dispatched",
            "not_loaded",
        ),
    ] {
        let status = bench.get(&format!("{path}{query}")).await.ok();
        let told = (&status["propagation_status"], &status["outbox"]["state"], &status["sts"]["state"]);
        assert_eq!(told, (&json!(propagation), &json!(outbox), &json!(sts)), "{query}");
        assert_eq!(status["active_version_id"], json!(older), "{query}");
    }
    let unknown = bench.get(&format!("{path}?version_id=none")).await;
    assert_eq!(unknown.code(), (404, "active_policy_set_version_not_found"));
}
