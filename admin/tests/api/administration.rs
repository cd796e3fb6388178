//! Workloads, grants, issuers, subjects, sealed provider secrets (contract admin-audit §5.3, §5.5, §5.7 to §5.9).

use crate::common::{BOOTSTRAP, Bench, bench, id};
use serde_json::{Value, json};

async fn application(bench: &Bench, zone: &str) -> String {
    let body = json!({ "name": "a", "registration_method": "managed" });
    id(&bench.post(&format!("/v1/zones/{zone}/applications"), body).await.ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_3_workloads() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/workloads");
    let made = bench.post(&path, json!({ "name": "launcher" })).await.ok();
    assert!(made["secret"].as_str().unwrap().starts_with("ws_"));
    assert_eq!((&made["bindings"], &made["created_via_operator"]), (&json!([]), &json!(false)));
    let one = format!("{path}/{}", id(&made));
    let binding = |env: &str| json!({ "env": env, "resource": "resource://r" });
    let many: Vec<Value> = (0..65).map(|n| binding(&format!("E{n}"))).collect();
    let cases: &[(&str, &str, Value, (u16, &str))] = &[
        ("POST", &path, json!({ "name": "launcher" }), (409, "workload_name_taken")),
        ("POST", &path, json!({ "name": "x", "more": 1 }), (400, "invalid_workload")),
        ("PUT", &one, json!({}), (400, "no_fields")),
        ("PUT", &one, json!({ "bindings": [binding("1A")] }), (400, "invalid_credential_env")),
        ("PUT", &one, json!({ "bindings": [binding("ld_preload")] }), (400, "invalid_credential_env")),
        ("PUT", &one, json!({ "bindings": [binding("A"), binding("A")] }), (400, "duplicate_credential_env")),
        ("PUT", &one, json!({ "bindings": many }), (400, "invalid_workload")),
        ("PUT", &format!("{path}/none"), json!({ "name": "x" }), (404, "workload_not_found")),
    ];
    for &(method, path, ref body, code) in cases {
        let answer = bench.call(BOOTSTRAP, method, path, Some(body.clone())).await;
        assert_eq!(answer.code(), code, "{method} {path} {body}");
    }
    let bindings = json!([
        { "env": "A", "resource": "resource://r", "scopes": [], "on_failure": "warn" },
        { "env": "B", "resource": "resource://r", "scopes": ["s"], "optional": true, "on_failure": "warn" },
    ]);
    let body = json!({ "name": "renamed", "bindings": bindings });
    let row = bench.call(BOOTSTRAP, "PUT", &one, Some(body)).await.ok();
    let stored = json!([
        { "env": "A", "resource": "resource://r" },
        { "env": "B", "resource": "resource://r", "scopes": ["s"], "optional": true, "on_failure": "warn" },
    ]);
    assert_eq!((&row["name"], &row["bindings"]), (&json!("renamed"), &stored));
    let rotated = bench.call(BOOTSTRAP, "POST", &format!("{one}/rotate-secret"), None).await.ok();
    assert_ne!(rotated["secret"], made["secret"]);
    let secret = format!("{one}/secret");
    assert_eq!(bench.get(&secret).await.ok(), json!({ "secret": rotated["secret"] }));
    let reader = bench.token(None, "read").await;
    assert_eq!(bench.call(&reader, "GET", &secret, None).await.code(), (403, "admin_token_read_only"));
    assert_eq!(bench.number("SELECT COUNT(*) FROM audit_outbox").await, 1, "one reveal, one event");
    assert_eq!(bench.delete(&one).await.status, 204);
    assert_eq!(bench.get(&one).await.code(), (404, "workload_not_found"));
    assert_eq!(bench.number("SELECT COUNT(*) FROM secret_store").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_5_secrets_are_sealed_and_kept_by_a_patch_without_one() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/providers");
    let body = json!({ "name": "k", "kind": "api_key", "config_json": { "header_name": "X-Key", "api_key": "k-1" } });
    let row = bench.post(&path, body).await.ok();
    assert_eq!(row["config_json"], json!({ "header_name": "X-Key" }));
    assert_eq!(row["secret_config_keys"], json!(["api_key"]));
    let (one, place) =
        (format!("{path}/{}", id(&row)), format!("zones/{zone}/providers/{}/secretConfig", id(&row)));
    let sealed = async || {
        let envelope: Option<String> = sqlx::query_scalar("SELECT envelope FROM secret_store WHERE ref = $1")
            .bind(place.as_str())
            .fetch_optional(&mut *bench.store.read().await.unwrap())
            .await
            .unwrap();
        envelope.map(|envelope| {
            serde_json::from_slice::<Value>(&bench.vault.open(&envelope, &place).unwrap()).unwrap()
        })
    };
    assert_eq!(sealed().await, Some(json!({ "api_key": "k-1" })));
    let row = bench.patch(&one, json!({ "config_json": { "header_name": "X-Other" } })).await.ok();
    assert_eq!(
        (&row["config_json"]["header_name"], &row["secret_config_keys"][0]),
        (&json!("X-Other"), &json!("api_key"))
    );
    assert_eq!(sealed().await, Some(json!({ "api_key": "k-1" })));
    bench.patch(&one, json!({ "config_json": { "header_name": "X-Key", "api_key": "k-2" } })).await.ok();
    assert_eq!(sealed().await, Some(json!({ "api_key": "k-2" })));
    let refused = bench.patch(&one, json!({ "kind": "bearer_token", "config_json": {} })).await;
    assert_eq!(refused.code(), (400, "invalid_provider_config"), "another kind needs its own secret");
    let row = bench.patch(&one, json!({ "kind": "none", "config_json": {} })).await.ok();
    assert_eq!((&row["config_json"], &row["secret_config_keys"]), (&json!({}), &json!([])));
    assert_eq!(sealed().await, None);
    let recorded = bench.get(&format!("/v1/zones/{zone}/admin-audit")).await.ok().to_string();
    assert!(!recorded.contains("k-1") && !recorded.contains("k-2"), "{recorded}");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_7_grants() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let application = application(&bench, &zone).await;
    let provider = bench.provider(&zone, "p").await;
    let resource = id(&bench.resource(&zone, &provider, "orders").await);
    let path = format!("/v1/zones/{zone}/grants");
    let body = |scopes: Value| json!({ "application_id": application, "user_id": "u", "resource_id": resource, "scopes": scopes });
    let with = |name: &str, value: &str| {
        let mut body = body(json!(["orders:read"]));
        body[name] = value.into();
        body
    };
    let cases = [
        (body(json!([])), (400, "invalid_body")),
        (body(json!(["Orders:read"])), (400, "invalid_body")),
        (body(json!(["orders:delete"])), (403, "grant_scopes_exceed_resource")),
        (with("application_id", "none"), (404, "application_not_found")),
        (with("resource_id", "none"), (404, "resource_not_found")),
    ];
    for (body, code) in cases {
        assert_eq!(bench.post(&path, body.clone()).await.code(), code, "{body}");
    }
    let grant = bench.post(&path, body(json!(["orders:read", "orders:write"]))).await.ok();
    assert_eq!((&grant["status"], &grant["application_name"]), (&json!("active"), &Value::Null));
    for (query, count) in [
        ("", 1),
        ("?user_id=u", 1),
        ("?subject_id=u", 1),
        ("?user_id=v&subject_id=u", 0),
        ("?scopes=orders:read,orders:write", 1),
        ("?scopes=orders", 0),
        ("?status=revoked", 0),
    ] {
        let list = bench.get(&format!("{path}{query}")).await.ok();
        assert_eq!(list["items"].as_array().unwrap().len(), count, "{query}");
    }
    let one = format!("{path}/{}", id(&grant));
    for _ in 0..2 {
        assert_eq!(bench.delete(&one).await.status, 204, "also a second time");
    }
    assert_eq!(bench.get(&one).await.ok()["status"], "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_8_revoking_a_subject_ends_all_that_stems_from_it() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let app = application(&bench, &zone).await;
    // Two people: of the first a record, one exchanged for it, a tree of two sessions and a delegation between them.
    bench
        .execute(&format!(
            "INSERT INTO authority_records (id, zone_id, session_type, subject_id, application_id, parent_id, status, \
               expires_at, authenticated_at, claims_json, created_at) VALUES \
               ('r1', '{zone}', 'user', 'ann', '{app}', NULL, 'active', 9999999999999, 1, '{{\"iss\":\"i\"}}', 1), \
               ('r2', '{zone}', 'application', '{app}', '{app}', 'r1', 'active', 9999999999999, 1, '{{}}', 2), \
               ('r3', '{zone}', 'user', 'bob', '{app}', NULL, 'active', 9999999999999, 1, '{{}}', 3); \
             INSERT INTO sessions (id, zone_id, application_id, parent_id, subject_authority_record_id, lifecycle, \
               status, depth, ttl_seconds, started_at, last_active_at, updated_at, child_count) VALUES \
               ('s0', '{zone}', '{app}', NULL, 'r3', 'task', 'active', 0, 60, 1, 1, 1, 1), \
               ('s1', '{zone}', '{app}', 's0', 'r1', 'task', 'active', 1, 60, 1, 1, 1, 1), \
               ('s2', '{zone}', '{app}', 's1', 'r3', 'task', 'suspended', 2, 60, 1, 1, 1, 0); \
             INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id, \
               receiver_application_id, scopes_json, status, expires_at, created_at, updated_at) VALUES \
               ('d1', '{zone}', 's1', 's2', '{app}', '{app}', '[]', 'active', 9999999999999, 1, 1)"
        ))
        .await;
    let path = format!("/v1/zones/{zone}/subjects");
    let list = bench.get(&format!("{path}?kind=user")).await.ok();
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| &item["subject_id"]).collect();
    assert_eq!(names, ["bob", "ann"]);
    assert_eq!(list["items"][1]["issuer"], "i");
    assert_eq!(bench.get(&format!("{path}?search=AN")).await.ok()["items"].as_array().unwrap().len(), 1);
    let overview = bench.get(&format!("{path}/overview?subject_id=ann")).await.ok();
    assert_eq!(
        (&overview["governed"]["active"], &overview["subject"]["federated"]),
        (&json!(1), &json!(true))
    );
    let revoke = format!("{path}/revoke");
    assert_eq!(bench.post(&revoke, json!({})).await.code(), (400, "invalid_subject_revoke"));
    assert_eq!(bench.post(&revoke, json!({ "subject_id": "eve" })).await.code(), (404, "subject_not_found"));
    let before = bench.last_change().await;
    let cut = bench.post(&revoke, json!({ "subject_id": "ann" })).await.ok();
    let counts = json!({ "subject_id": "ann", "authority_records": 2, "sessions": 2, "delegations": 1, "connections": 0 });
    assert_eq!(cut, counts);
    let changes = bench.changes_after(before).await;
    let anchors = json!([
        { "kind": "agent_session", "id": "s1" }, { "kind": "agent_session", "id": "s2" },
        { "kind": "delegation_edge", "id": "d1" },
        { "kind": "authority_record", "id": "r1" }, { "kind": "authority_record", "id": "r2" },
    ]);
    assert_eq!(changes, [json!({ "kind": "revoked", "anchors": anchors })], "one change for all of it");
    assert_eq!(bench.number("SELECT COUNT(*) FROM sessions WHERE status = 'terminated'").await, 2);
    assert_eq!(bench.number("SELECT child_count FROM sessions WHERE id = 's0'").await, 0);
    let again = bench.post(&revoke, json!({ "subject_id": "ann" })).await.ok();
    assert_eq!((&again["authority_records"], &again["sessions"]), (&json!(0), &json!(0)));
    assert_eq!(bench.changes_after(before).await.len(), 1, "nothing more to tell");
    // An archived application takes the rest with it.
    assert_eq!(bench.delete(&format!("/v1/zones/{zone}/applications/{app}")).await.status, 204);
    assert_eq!(bench.number("SELECT COUNT(*) FROM sessions WHERE status = 'active'").await, 0);
    assert_eq!(bench.number("SELECT COUNT(*) FROM authority_records WHERE status = 'active'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_9_subject_issuers() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/subject-issuers");
    let body = |issuer: &str, keys: &str| json!({ "issuer": issuer, "jwks_url": keys, "audience": "a" });
    for wrong in
        ["http://i.example", "https://u@i.example", "https://i.example?q", "https://i.example#f", "i", ""]
    {
        assert_eq!(
            bench.post(&path, body(wrong, "https://i.example/k")).await.code(),
            (400, "invalid_subject_issuer")
        );
        assert_eq!(
            bench.post(&path, body("https://i.example", wrong)).await.code(),
            (400, "invalid_subject_issuer")
        );
    }
    let row = bench.post(&path, body("https://i.example", "https://i.example/k")).await.ok();
    let twice = bench.post(&path, body("https://i.example", "https://i.example/k")).await;
    assert_eq!(twice.code(), (409, "subject_issuer_exists"));
    let one = format!("{path}/{}", id(&row));
    let refused = bench.patch(&one, json!({ "issuer": "https://other.example" })).await;
    assert_eq!(refused.code(), (400, "invalid_subject_issuer"), "an issuer never changes");
    assert_eq!(bench.patch(&one, json!({ "audience": "b" })).await.ok()["audience"], "b");
    assert_eq!(bench.patch(&one, json!({})).await.status, 200);
    assert_eq!(bench.delete(&one).await.status, 204);
    assert_eq!(bench.get(&one).await.code(), (404, "subject_issuer_not_found"));
    for number in 0..20 {
        bench.post(&path, body(&format!("https://i{number}.example"), "https://i.example/k")).await.ok();
    }
    let full = bench.post(&path, body("https://full.example", "https://i.example/k")).await;
    assert_eq!(full.code(), (409, "subject_issuer_limit_reached"));
}
