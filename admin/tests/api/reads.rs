//! The ledger, the record of changes, sessions and authority records (contract admin-audit §6 and §13).

use crate::common::{BOOTSTRAP, Bench, CHAIN_KEY, bench, id};
use caracal_admin::verify_admin_chain;
use caracal_audit::chain::ChainKey;
use caracal_store::StoreError;
use caracal_store::audit::AuditEvent;
use serde_json::{Value, json};

async fn tell(bench: &Bench, events: Vec<AuditEvent>) {
    bench
        .store
        .write(move |tx| {
            Box::pin(async move {
                for event in &events {
                    tx.audit(event).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .await
        .unwrap();
}

fn exchange(zone: &str, request: &str, decision: &str, at: i64) -> AuditEvent {
    let mut event = AuditEvent::new(zone, "token_exchange", request, decision, at).with_metadata(json!({
        "application_id": "app", "resource": "resource://x", "requested_scopes": ["a"], "session_id": "rec",
        "agent_session_id": "ses", "agent_labels": ["ops"], "application_registration_method": "managed",
    }));
    event.determining_policies_json = json!([{ "policy": "grants" }]);
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_6_1_list() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    tell(&bench, (0..5).map(|n| exchange(&zone, &format!("r{n}"), "allow", 1_000 + n)).collect()).await;
    let list = async |query: &str| bench.get(&format!("/v1/zones/{zone}/audit{query}")).await;
    let all = list("").await.ok();
    let item = &all["items"][0];
    assert_eq!(
        (&item["request_id"], &item["occurred_at"]),
        (&json!("r4"), &json!("1970-01-01T00:00:01.004Z"))
    );
    assert_eq!(item["metadata_json"]["session_id"], "[redacted]");
    assert_eq!(item["chain_seq"], "5");
    let count = async |query: &str| list(query).await.ok()["items"].as_array().unwrap().len();
    let cases = [
        ("?since=1970-01-01T00:00:01.003Z", 2),
        ("?until=1970-01-01T00:00:01.003Z", 3),
        ("?request_id=r2", 1),
        ("?decision=deny", 0),
        ("?decision=partial", 0),
        ("?event_type=token_exchange,other", 5),
        ("?application_id=app", 5),
        ("?session_id=ses", 5),
        ("?authority_record_id=rec", 5),
        ("?label=ops", 5),
        ("?label=op", 0),
        ("?limit=2", 2),
    ];
    for (query, expected) in cases {
        assert_eq!(count(query).await, expected, "{query}");
    }
    let errors = [
        ("?since=yesterday", "invalid_query"),
        ("?decision=maybe", "invalid_query"),
        ("?limit=1001", "invalid_query"),
        ("?format=xml", "invalid_query"),
        ("?cursor=x", "invalid_cursor"),
        ("?fields=id,nothing", "invalid_fields"),
        ("?fields=,", "invalid_fields"),
    ];
    for (query, code) in errors {
        assert_eq!(list(query).await.code(), (400, code), "{query}");
    }
    let flat = list("?fields=request_id,determining_policies,application_id,tier&limit=1").await.ok();
    let expected = json!({ "request_id": "r4", "determining_policies": ["grants"], "application_id": "app", "tier": null });
    assert_eq!(flat["items"][0], expected);
    let next = flat["next_cursor"].as_str().unwrap();
    assert_eq!(list(&format!("?limit=1&cursor={next}")).await.ok()["items"][0]["request_id"], "r3");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_6_3_explain() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let denied = exchange(&zone, "r1", "deny", 2);
    tell(&bench, vec![exchange(&zone, "r1", "allow", 3), denied, exchange(&zone, "r2", "allow", 4)]).await;
    let path = format!("/v1/zones/{zone}/audit/by-request");
    let events = bench.get(&format!("{path}/r1")).await.ok();
    assert_eq!(
        events.as_array().unwrap().iter().map(|e| e["decision"].as_str().unwrap()).collect::<Vec<_>>(),
        ["deny", "allow"]
    );
    let why = bench.get(&format!("{path}/r1/explain")).await.ok();
    assert_eq!((&why["final_decision"], why["denied"].as_array().unwrap().len()), (&json!("deny"), 1));
    assert_eq!(why["denied"][0]["metadata"]["session_id"], "[redacted]");
    let expected = json!({
        "schema_version": "2026-05-20",
        "principal": {
            "type": "Application", "id": "app", "zone_id": zone, "registration_method": "managed",
            "agent_session_id": "ses", "labels": ["ops"],
        },
        "resource": { "type": "Resource", "identifier": "resource://x", "scopes": ["a"] },
        "action": { "id": "TokenExchange" },
        "context": {
            "actor_claims": {}, "requested_scopes": ["a"], "challenge_resolved": false, "session_id": "rec",
            "agent_session_id": "ses",
        },
        "session": { "id": "rec" },
    });
    assert_eq!(why["denied"][0]["policy_input"], expected);
    assert_eq!(why["denied"][0]["reason"], "complete", "nothing more is told");
    assert_eq!(bench.get(&format!("{path}/r2/explain")).await.ok()["final_decision"], "allow");
    let mut kept = exchange(&zone, "r3", "deny", 5);
    let input = json!({ "principal": { "id": "app" }, "session": { "id": "rec" } });
    let facts = kept.metadata_json.as_mut().unwrap();
    (facts["policy_input"], facts["reason"]) = (input.clone(), "approval_required".into());
    let mut by_policy = exchange(&zone, "r4", "deny", 6);
    by_policy.diagnostics_json = json!([{ "risk": [] }, { "reason": "role_scope_mismatch" }]);
    tell(&bench, vec![kept, by_policy]).await;
    let why = bench.get(&format!("{path}/r3/explain")).await.ok();
    let denied = &why["denied"][0];
    assert_eq!((&denied["reason"], &denied["policy_input"]), (&json!("approval_required"), &input));
    assert!(denied["metadata"].get("policy_input").is_none(), "it is told once");
    let why = bench.get(&format!("{path}/r4/explain")).await.ok();
    assert_eq!(why["denied"][0]["reason"], "role_scope_mismatch");
    for rest in ["none", "none/explain"] {
        assert_eq!(bench.get(&format!("{path}/{rest}")).await.code(), (404, "request_not_found"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_13_every_change_has_its_record_and_refusals_too() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}");
    let body = json!({ "name": "a", "registration_method": "managed" });
    let application = id(&bench.post(&format!("{path}/applications"), body).await.ok());
    let one = format!("{path}/applications/{application}");
    bench.patch(&one, json!({ "client_secret": "x".repeat(40), "name": "b" })).await.ok();
    bench.call(BOOTSTRAP, "POST", &format!("{one}/rotate-secret"), None).await.ok();
    bench.delete(&one).await;
    bench.get(&one).await;
    bench.patch(&path, json!({})).await;
    let list = bench.get(&format!("{path}/admin-audit")).await.ok();
    let items = list["items"].as_array().unwrap();
    let said: Vec<_> = items
        .iter()
        .rev()
        .map(|item| {
            let payload = &item["payload_json"];
            let kind = payload["change_kind"].as_str().or(payload["error"].as_str()).unwrap();
            (item["method"].as_str().unwrap(), item["status_code"].as_i64().unwrap(), kind)
        })
        .collect();
    assert_eq!(
        said,
        [
            ("POST", 201, "create"),
            ("POST", 201, "create"),
            ("PATCH", 200, "secret_rotation"),
            ("POST", 200, "secret_rotation"),
            ("DELETE", 204, "delete"),
            ("GET", 404, "application_not_found"),
            ("PATCH", 400, "no_fields"),
        ]
    );
    let rotation = &items[items.len() - 3];
    assert_eq!(rotation["payload_json"]["changed_fields"], json!(["name"]));
    assert_eq!(rotation["payload_json"]["secret_rotated"], true);
    assert_eq!(
        (&rotation["entity_type"], &rotation["entity_id"]),
        (&json!("applications"), &json!(application))
    );
    assert_eq!((&rotation["chain_seq"], &rotation["signed"]), (&json!("3"), &json!(true)));
    assert!(!list.to_string().contains(&"x".repeat(40)), "no value is recorded");
    for (query, count) in [
        ("?method=DELETE", 1),
        ("?entity_type=applications", 4),
        ("?actor_id=nobody", 0),
        ("?until=2000-01-01T00:00:00Z", 0),
    ] {
        let found = bench.get(&format!("{path}/admin-audit{query}")).await.ok();
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{query}");
    }
    assert_eq!(bench.get(&format!("{path}/admin-audit?method=GET")).await.code(), (400, "invalid_query"));
    // What belongs to no zone can be read as well; who is unknown leaves nothing.
    bench.get("/v1/zones/nowhere").await;
    bench.call("unknown", "GET", &path, None).await;
    let global = bench.get("/v1/admin-audit").await.ok();
    let paths: Vec<_> =
        global["items"].as_array().unwrap().iter().map(|item| item["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/v1/zones/nowhere"]);
    let key = ChainKey::new(CHAIN_KEY.to_vec());
    let report = verify_admin_chain(&bench.store, &key, Some(&zone)).await.unwrap();
    assert!(report.findings.is_empty() && report.checked > 6, "{report:?}");
    bench.execute("UPDATE admin_audit_events SET actor_name = 'someone' WHERE chain_seq = 2").await;
    let report = verify_admin_chain(&bench.store, &key, Some(&zone)).await.unwrap();
    assert_eq!(report.findings.iter().map(|finding| finding.chain_seq).collect::<Vec<_>>(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_34_no_change_without_its_record() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    bench.execute("ALTER TABLE admin_audit_events RENAME TO gone").await;
    let before = bench.last_change().await;
    let answer = bench.patch(&format!("/v1/zones/{zone}"), json!({ "name": "other" })).await;
    assert_eq!(answer.code(), (503, "database_unavailable"));
    assert_eq!(bench.delete(&format!("/v1/zones/{zone}")).await.code().0, 503);
    assert_eq!(bench.last_change().await, before);
    bench.execute("ALTER TABLE gone RENAME TO admin_audit_events").await;
    assert_eq!(bench.get(&format!("/v1/zones/{zone}")).await.ok()["name"], "z");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_6_4_and_6_5_records_and_sessions() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let body = json!({ "name": "a", "registration_method": "managed" });
    let application = id(&bench.post(&format!("/v1/zones/{zone}/applications"), body).await.ok());
    bench
        .execute(&format!(
            "INSERT INTO authority_records (id, zone_id, session_type, subject_id, application_id, parent_id, status, \
             expires_at, authenticated_at, claims_json, created_at) VALUES \
             ('r0', '{zone}', 'application', 'app', '{application}', NULL, 'active', 9000, 1, '{{}}', 1000), \
             ('r1', '{zone}', 'application', 'app', '{application}', NULL, 'active', 9000000000000, 1, '{{}}', 1000), \
             ('r2', '{zone}', 'user', 'u', '{application}', 'r1', 'revoked', 9000, 1, '{{\"iss\":\"https://idp\"}}', 1000);
             INSERT INTO sessions (id, zone_id, application_id, parent_id, subject_authority_record_id, lifecycle, \
             labels_json, status, depth, ttl_seconds, started_at, last_active_at, updated_at) VALUES \
             ('s1', '{zone}', '{application}', NULL, 'r1', 'task', '[\"ops\",\"a\"]', 'active', 0, 60, 5, 5, 5), \
             ('s2', '{zone}', '{application}', 's1', 'r2', 'task', '[\"Ops\"]', 'suspended', 1, 60, 5, 5, 5)"
        ))
        .await;
    let found = async |path: &str| {
        let list = bench.get(&format!("/v1/zones/{zone}/{path}")).await.ok();
        let name = if path.starts_with("sessions") { "session_id" } else { "authority_record_id" };
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i[name].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let cases: [(&str, &[&str]); 14] = [
        ("authority-records", &["r2", "r1", "r0"]),
        ("authority-records?kind=user", &["r2"]),
        ("authority-records?status=active", &["r1"]),
        ("authority-records?status=expired", &["r0"]),
        ("authority-records?subject_id=u", &["r2"]),
        ("authority-records?authority_record_id=r1", &["r1"]),
        ("sessions", &["s2", "s1"]),
        ("sessions?status=active", &["s1"]),
        ("sessions?lifecycle=service", &[]),
        ("sessions?parent_session_id=s1", &["s2"]),
        ("sessions?subject_id=u", &["s2"]),
        ("sessions?label=ops", &["s1"]),
        ("sessions?label=ops,a", &[]),
        ("sessions?label=%22%7B", &[]),
    ];
    for (path, expected) in cases {
        assert_eq!(found(path).await, expected, "{path}");
    }
    let over = bench.get(&format!("/v1/zones/{zone}/authority-records?authority_record_id=r0")).await.ok();
    assert_eq!(over["items"][0]["status"], "expired", "whatever is written in its row");
    let sessions = bench.get(&format!("/v1/zones/{zone}/sessions?limit=1")).await.ok();
    let user = &sessions["items"][0];
    assert_eq!(
        (&user["federated_user_id"], &user["federated_user_issuer"]),
        (&json!("u"), &json!("https://idp"))
    );
    let next = sessions["next_cursor"].as_str().unwrap();
    let rest = bench.get(&format!("/v1/zones/{zone}/sessions?limit=1&cursor={next}")).await.ok();
    assert_eq!((&rest["items"][0]["session_id"], &rest["next_cursor"]), (&json!("s1"), &Value::Null));
    assert_eq!(rest["items"][0]["federated_user_id"], Value::Null);
    for path in ["sessions?status=gone", "authority-records?kind=robot"] {
        assert_eq!(
            bench.get(&format!("/v1/zones/{zone}/{path}")).await.code(),
            (400, "invalid_query"),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_3_2_csv() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    tell(&bench, vec![exchange(&zone, "r1", "allow", 1_000), exchange(&zone, "r2", "deny", 1_001)]).await;
    let path = format!("/v1/zones/{zone}");
    let answer = bench.get(&format!("{path}/audit?format=csv&fields=request_id,decision&limit=1")).await;
    assert_eq!(answer.body, "request_id,decision\r\nr2,deny\r\n");
    assert_eq!(answer.headers["content-type"], "text/csv; charset=utf-8");
    assert_eq!(
        answer.headers["content-disposition"].to_str().unwrap(),
        format!("attachment; filename=\"audit-{zone}.csv\"")
    );
    let next = answer.headers["x-next-cursor"].to_str().unwrap();
    let answer = bench.get(&format!("{path}/audit?format=csv&fields=request_id&limit=1&cursor={next}")).await;
    assert_eq!(answer.body, "request_id\r\nr1\r\n");
    assert!(!answer.headers.contains_key("x-next-cursor"), "the last page");
    for (rest, first) in [
        (
            "audit",
            "id,occurred_at,event_type,decision,evaluation_status,request_id,ingested_at,policy_set_id,",
        ),
        ("admin-audit", "id,request_id,actor_id,"),
        ("authority-records", "authority_record_id,authority_record_type,subject_id,"),
        ("sessions", "session_id,application_id,parent_session_id,"),
    ] {
        let answer = bench.get(&format!("{path}/{rest}?format=csv")).await;
        assert!(answer.body.as_str().unwrap().starts_with(first), "{rest}: a header also without rows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_1_overview() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let provider = bench.provider(&zone, "p").await;
    bench.resource(&zone, &provider, "orders").await;
    tell(&bench, vec![exchange(&zone, "old", "deny", 1_000)]).await;
    let now = bench.store.now();
    tell(&bench, (0..12).map(|n| exchange(&zone, &format!("r{n}"), "allow", now - n)).collect()).await;
    let seen = bench.get(&format!("/v1/zones/{zone}/overview")).await.ok();
    assert_eq!(seen["applications"], json!({ "total": 0, "expired": 0, "expiring_soon": 0 }));
    assert_eq!(seen["resources"], json!({ "total": 1, "unenforced": 0 }));
    assert_eq!(seen["providers"], json!({ "total": 1 }));
    assert_eq!(seen["policy_sets"], json!({ "total": 0, "enforcing": 0, "active_name": null }));
    assert_eq!(seen["decisions_24h"], json!({ "allowed": 12, "denied": 0 }));
    assert_eq!(seen["recent_events"].as_array().unwrap().len(), 10);
    assert_eq!(seen["recent_events"][0]["request_id"], "r0");
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_020_agent_sessions_is_the_old_name_of_sessions_and_lists_what_ended() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let body = json!({ "name": "a", "registration_method": "managed" });
    let application = id(&bench.post(&format!("/v1/zones/{zone}/applications"), body).await.ok());
    bench
        .execute(&format!(
            "INSERT INTO authority_records (id, zone_id, session_type, subject_id, application_id, status, \
             expires_at, authenticated_at, created_at) VALUES \
             ('r1', '{zone}', 'application', '{application}', '{application}', 'active', 9000, 1, 1000);
             INSERT INTO sessions (id, zone_id, application_id, parent_id, subject_authority_record_id, lifecycle, \
             labels_json, status, depth, ttl_seconds, started_at, last_active_at, updated_at, terminated_at) VALUES \
             ('s1', '{zone}', '{application}', NULL, 'r1', 'task', '[\"ops\"]', 'active', 0, 60, 5, 5, 5, NULL), \
             ('s2', '{zone}', '{application}', 's1', 'r1', 'task', '[\"ops\"]', 'terminated', 1, 60, 5, 5, 5, 6), \
             ('s3', '{zone}', '{application}', 's1', 'r1', 'task', '[]', 'expired', 1, 60, 5, 5, 5, 6)"
        ))
        .await;
    for (query, expected) in [
        ("", vec!["s3", "s2", "s1"]),
        ("?status=terminated", vec!["s2"]),
        ("?status=expired", vec!["s3"]),
        ("?label=ops", vec!["s2", "s1"]),
        ("?parent_id=s1", vec!["s3", "s2"]),
        ("?lifecycle=service", vec![]),
    ] {
        let list = bench.get(&format!("/v1/zones/{zone}/agent-sessions{query}")).await.ok();
        let ids: Vec<&str> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["session_id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, expected, "{query}");
    }
    let csv = bench.get(&format!("/v1/zones/{zone}/agent-sessions?format=csv")).await;
    let csv = csv.body.as_str().unwrap().to_owned();
    let first: Vec<&str> = csv.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(first, ["session_id", "s3", "s2", "s1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_6_6_fields_of_changes_are_chosen_and_flat() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/admin-audit");
    let made = json!({ "name": "a", "registration_method": "managed", "traits": ["team:blue"] });
    bench.post(&format!("/v1/zones/{zone}/applications"), made).await.ok();
    let chosen =
        bench.get(&format!("{path}?fields=change_kind,entity_type,changed_fields&limit=1")).await.ok();
    let expected = json!({
        "change_kind": "create", "entity_type": "applications",
        "changed_fields": ["name", "registration_method", "traits"],
    });
    assert_eq!(chosen["items"], json!([expected]));
    let csv = bench.get(&format!("{path}?format=csv&limit=1")).await.body.as_str().unwrap().to_owned();
    let (header, row) = csv.split_once("\r\n").unwrap();
    let columns = "id,request_id,actor_id,actor_name,actor_scope,action,method,path,entity_type,entity_id,status_code,\
                   occurred_at,chain_seq,signed,change_kind,changed_fields";
    assert_eq!(header, columns);
    assert!(row.ends_with(",true,create,name registration_method traits\r\n"), "{row}");
    for fields in ["payload_json", "", "name", "zone_id"] {
        let answer = bench.get(&format!("{path}?fields={fields}")).await;
        if fields.is_empty() {
            assert!(answer.ok()["items"][0]["payload_json"].is_object(), "none is named, so all are there");
        } else {
            assert_eq!(answer.code(), (400, "invalid_fields"), "{fields}");
        }
    }
}
