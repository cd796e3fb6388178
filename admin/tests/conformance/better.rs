//! What contract admin-audit §19 asks to do better than the reference.

use crate::common::{bench, id};
use crate::tell;
use caracal_store::audit::AuditEvent;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn admin_19_06_items_show_their_place_in_the_chain_and_csv_has_pages() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let labelled = |n: i64, label: &str| {
        let event = AuditEvent::new(&zone, "token_exchange", &format!("r{n}"), "allow", n);
        event.with_metadata(json!({ "agent_labels": [label] }))
    };
    let labels = ["a,b", "say \"no\"", "{x}", "a'b", "a%"];
    tell(&bench, (0..5).zip(labels).map(|(n, label)| labelled(n, label)).collect()).await;
    let path = format!("/v1/zones/{zone}/audit");
    let items = bench.get(&path).await.ok()["items"].as_array().unwrap().clone();
    let seqs: Vec<_> = items.iter().map(|item| item["chain_seq"].as_str().unwrap().to_owned()).collect();
    assert_eq!(seqs, ["5", "4", "3", "2", "1"]);
    assert!(items.iter().all(|item| item["content_sha256"].as_str().unwrap().len() == 64));
    // Every label is found as it is, and as nothing else.
    for (label, encoded) in labels.iter().zip(["a%2Cb", "say%20%22no%22", "%7Bx%7D", "a%27b", "a%25"]) {
        let found = bench.get(&format!("{path}?label={encoded}")).await.ok();
        let requests: Vec<_> = found["items"].as_array().unwrap().iter().collect();
        assert_eq!(requests.len(), 1, "{label}");
        assert_eq!(requests[0]["metadata_json"]["agent_labels"], json!([label]));
    }
    let (mut lines, mut query) = (Vec::new(), String::new());
    loop {
        let page = bench.get(&format!("{path}?format=csv&fields=request_id&limit=2{query}")).await;
        lines.extend(page.body.as_str().unwrap().lines().skip(1).map(str::to_owned));
        match page.headers.get("x-next-cursor") {
            Some(cursor) => query = format!("&cursor={}", cursor.to_str().unwrap()),
            None => break,
        }
    }
    assert_eq!(lines, ["r4", "r3", "r2", "r1", "r0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_19_09_a_sealed_secret_opens_in_its_own_place_only() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let mut paths = Vec::new();
    for name in ["a", "b"] {
        let body = json!({ "name": name, "registration_method": "managed" });
        let made = bench.post(&format!("/v1/zones/{zone}/applications"), body).await.ok();
        paths.push(format!("/v1/zones/{zone}/applications/{}/client-secret", id(&made)));
    }
    let workload = bench.post(&format!("/v1/zones/{zone}/workloads"), json!({ "name": "w" })).await.ok();
    paths.push(format!("/v1/zones/{zone}/workloads/{}/secret", id(&workload)));
    // Who can write to the database puts everyone's envelope where another one's was.
    bench
        .execute(
            "CREATE TABLE old AS SELECT ref, envelope FROM secret_store; \
             UPDATE secret_store SET envelope = (SELECT o.envelope FROM old o WHERE o.ref <> secret_store.ref LIMIT 1); \
             DROP TABLE old",
        )
        .await;
    for path in paths {
        let answer = bench.get(&path).await;
        assert_eq!(answer.code(), (502, "secret_backend_unavailable"), "{path}");
        let members = answer.body.as_object().unwrap();
        assert!(!members.contains_key("client_secret") && !members.contains_key("secret"), "{members:?}");
    }
    let told = bench.get(&format!("/v1/zones/{zone}/audit")).await.ok();
    assert_ne!(told["items"], Value::Null);
}
