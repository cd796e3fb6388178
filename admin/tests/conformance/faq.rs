//! The questions of users that the Admin API answers, by their numbers.

use crate::common::{Bench, bench, id};
use crate::policy::{activate, set, version};
use crate::sts::{Governed, claims, document, granted, refusal};
use crate::tell;
use caracal_store::audit::AuditEvent;
use serde_json::{Value, json};

fn mandate_provider() -> Value {
    json!({ "name": "p", "kind": "caracal_mandate" })
}

async fn reading(bench: &Bench, name: &str) -> Governed {
    let governed = Governed::new(bench, name, mandate_provider()).await;
    governed.decide(bench, &document(&governed.application, &["orders:read"])).await;
    governed
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_003_a_zone_has_its_own_keys_policies_and_evidence() {
    let bench = bench().await;
    let (one, other) = (reading(&bench, "one").await, reading(&bench, "other").await);
    let token = granted(one.mint("orders:read", "r1", &[]).await);
    let foreign = granted(other.mint("orders:read", "r2", &[]).await);
    assert_ne!(claims(&token)["zone_id"], claims(&foreign)["zone_id"]);
    let kid = |token: &str| token.split('.').next().unwrap().to_owned();
    assert_ne!(kid(&token), kid(&foreign), "signed by different keys");
    assert_ne!(other.present(&token, "GET", "r3").await.status, 200, "nothing crosses");
    let path = |governed: &Governed, rest: &str| format!("/v1/zones/{}/{rest}", governed.zone);
    for (governed, own, foreign) in [(&one, "r1", "r2"), (&other, "r2", "r1")] {
        let trace = |request: &str| path(governed, &format!("audit/by-request/{request}"));
        assert_eq!(bench.get(&trace(own)).await.status, 200);
        assert_eq!(bench.get(&trace(foreign)).await.code(), (404, "request_not_found"));
    }
    // What is switched off in one zone stands in the other.
    assert_eq!(bench.delete(&path(&one, &format!("policy-sets/{}", one.set))).await.status, 204);
    assert_eq!(one.mint("orders:read", "r4", &[]).await.status, 403);
    granted(other.mint("orders:read", "r5", &[]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_004_customers_are_zones_that_the_api_makes_and_keeps_apart() {
    let bench = bench().await;
    let automation = bench.token(None, "write").await;
    let mut customers = Vec::new();
    for name in ["Acme", "Globex"] {
        let made = bench.call(&automation, "POST", "/v1/zones", Some(json!({ "name": name }))).await.ok();
        let token = json!({ "name": name, "scope": "zone", "zone_id": made["id"] });
        let token = bench.call(&automation, "POST", "/v1/admin-tokens", Some(token)).await.ok();
        customers.push((id(&made), token["token"].as_str().unwrap().to_owned()));
    }
    // The same names everywhere: they do not get into each other's way.
    for (zone, token) in &customers {
        let path = |rest: &str| format!("/v1/zones/{zone}/{rest}");
        let make =
            async |rest: &str, body: Value| bench.call(token, "POST", &path(rest), Some(body)).await.ok();
        make("applications", json!({ "name": "agent", "registration_method": "managed" })).await;
        let provider = id(&make("providers", mandate_provider()).await);
        let resource = json!({
            "identifier": "resource://orders", "scopes": ["a"], "credential_provider_id": provider,
            "upstream_url": "https://orders.example",
        });
        make("resources", resource).await;
    }
    for (zone, _) in &customers {
        for (other, token) in &customers {
            for rest in ["applications", "resources", "audit", "admin-audit"] {
                let answer = bench.call(token, "GET", &format!("/v1/zones/{zone}/{rest}"), None).await;
                let expected = if zone == other { (200, "") } else { (403, "admin_token_zone_mismatch") };
                assert_eq!(answer.code(), expected, "{rest}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_007_a_managed_application_lasts_and_a_registered_one_ends() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/applications");
    bench.patch(&format!("/v1/zones/{zone}"), json!({ "dcr_enabled": true })).await.ok();
    let managed = bench.post(&path, json!({ "name": "m", "registration_method": "managed" })).await.ok();
    let before = bench.store.now();
    let client = bench.post(&format!("{path}/dcr"), json!({ "name": "c" })).await.ok();
    let after = bench.store.now();
    let sql = "SELECT expires_at FROM applications WHERE registration_method = 'dcr'";
    let ends = bench.number(sql).await;
    assert!((before + 3_600_000..=after + 3_600_000).contains(&ends), "an hour at the most");
    assert_eq!(bench.get(&format!("{path}/{}", id(&managed))).await.ok()["expires_at"], Value::Null);
    assert!(client["expires_at"].is_string());
    for body in [json!({ "expires_at": null }), json!({ "registration_method": "managed" })] {
        let kept = bench.patch(&format!("{path}/{}", id(&client)), body).await;
        assert_eq!(kept.code(), (400, "invalid_application"), "it cannot be made to last");
    }
    let rotated = bench.post(&format!("{path}/{}/rotate-secret", id(&client)), json!({})).await;
    assert!(rotated.body["expires_at"].is_string() || rotated.status == 404, "{}", rotated.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_009_targets_are_resources_and_credentials_are_providers() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = |rest: &str| format!("/v1/zones/{zone}/{rest}");
    let provider = json!({ "name": "keyed", "kind": "api_key",
        "config_json": { "header_name": "X-Key", "api_key": "k-of-the-upstream" } });
    let provider = bench.post(&path("providers"), provider).await.ok();
    let resource = |name: &str| {
        json!({
            "name": name, "scopes": ["a"], "credential_provider_id": provider["id"],
            "upstream_url": format!("https://{name}.example"), "api_key": "k-in-the-wrong-place",
        })
    };
    for name in ["one", "two"] {
        let row = bench.post(&path("resources"), resource(name)).await.ok();
        assert_eq!(row["credential_provider_id"], provider["id"], "one credential, many targets");
        assert!(row.get("api_key").is_none() && row.get("config_json").is_none());
    }
    assert!(provider.get("upstream_url").is_none() && provider.get("scopes").is_none());
    assert_eq!(provider["secret_config_keys"], json!(["api_key"]));
    for rest in ["resources", "providers", "admin-audit"] {
        let read = bench.get(&path(rest)).await.ok().to_string();
        assert!(!read.contains("k-of-the") && !read.contains("k-in-the"), "{rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_010_the_identifier_stays_where_the_upstream_moves() {
    let bench = bench().await;
    let governed = reading(&bench, "z").await;
    let token = granted(governed.mint("orders:read", "r1", &[]).await);
    let path = format!("/v1/zones/{}/resources/{}", governed.zone, id(&governed.resource));
    let moved = bench.patch(&path, json!({ "upstream_url": "https://orders-2.example/base" })).await.ok();
    assert_eq!(moved["identifier"], "resource://orders");
    let used = governed.present(&token, "GET", "r2").await;
    assert_eq!(used.status, 200, "what was minted before serves");
    assert!(used.body.to_string().contains("https://orders-2.example/base"), "{}", used.body);
    assert_eq!(claims(&token)["target"], json!(["resource://orders"]));
    for request in ["r1", "r2"] {
        let trace = format!("/v1/zones/{}/audit/by-request/{request}", governed.zone);
        let events = bench.get(&trace).await.ok();
        let resource = events[0]["metadata_json"]["resource"].to_string();
        assert!(resource.contains("\"resource://orders\""), "evidence goes on: {resource}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_011_a_scope_says_what_may_be_done_and_the_resource_with_what() {
    let bench = bench().await;
    let governed = Governed::new(&bench, "z", mandate_provider()).await;
    let both = document(&governed.application, &["orders:read", "orders:write"]);
    governed.decide(&bench, &both).await;
    for (scope, method, status) in [
        ("orders:read", "GET", 200),
        ("orders:read", "POST", 403),
        ("orders:write", "POST", 200),
        ("orders:write", "GET", 403),
        ("orders:write", "DELETE", 403),
    ] {
        let token = granted(governed.mint(scope, &caracal_store::ids::new_id(), &[]).await);
        let answer = governed.present(&token, method, &caracal_store::ids::new_id()).await;
        assert_eq!(answer.status, status, "{scope} {method} {}", answer.body);
    }
    let undeclared = governed.mint("orders:fly", "r9", &[]).await;
    assert_eq!(undeclared.status.as_u16() / 100, 4, "{}", undeclared.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_012_a_grant_opens_nothing_and_policy_decides() {
    let bench = bench().await;
    let governed = Governed::new(&bench, "z", mandate_provider()).await;
    let grant = json!({
        "application_id": governed.application, "user_id": "ann", "resource_id": governed.resource["id"],
        "scopes": ["orders:read", "orders:write"],
    });
    let path = |rest: &str| format!("/v1/zones/{}/{rest}", governed.zone);
    let grant = id(&bench.post(&path("grants"), grant).await.ok());
    assert_eq!(governed.mint("orders:read", "r1", &[]).await.status, 403, "a grant alone");
    governed.decide(&bench, &document(&governed.application, &["orders:read"])).await;
    granted(governed.mint("orders:read", "r2", &[]).await);
    assert_eq!(governed.mint("orders:write", "r3", &[]).await.status, 403, "policy says less than the grant");
    assert_eq!(bench.delete(&path(&format!("grants/{grant}"))).await.status, 204);
    granted(governed.mint("orders:read", "r4", &[]).await);
    let why = bench.get(&path("audit/by-request/r3/explain")).await.ok();
    assert_eq!(why["denied"][0]["reason"], "role_scope_mismatch", "the trace says what to mend");
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_013_what_proves_an_application_is_not_what_opens_an_upstream() {
    let bench = bench().await;
    let upstream = "t-that-opens-the-upstream";
    let provider =
        json!({ "name": "p", "kind": "bearer_token", "config_json": { "bearer_token": upstream } });
    let governed = Governed::new(&bench, "z", provider).await;
    governed.decide(&bench, &document(&governed.application, &["orders:read"])).await;
    let forged = governed.mint("orders:read", "r1", &[("client_secret", upstream)]).await;
    assert_eq!(forged.status, 401);
    let minted = governed.mint("orders:read", "r2", &[]).await;
    assert!(!minted.body.to_string().contains(upstream), "an agent gets a mandate, never the credential");
    let token = granted(minted);
    assert!(!claims(&token).to_string().contains(upstream));
    let used = governed.present(&token, "GET", "r3").await;
    assert!(used.body.to_string().contains(upstream), "the gateway, which signs, gets it: {}", used.body);
    assert!(!used.body.to_string().contains(&governed.secret));
    for rest in ["audit", "admin-audit"] {
        let told = bench.get(&format!("/v1/zones/{}/{rest}", governed.zone)).await.ok().to_string();
        assert!(!told.contains(upstream) && !told.contains(&governed.secret), "{rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_014_persons_connect_to_providers_that_ask_them_only() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = |rest: &str| format!("/v1/zones/{zone}/{rest}");
    let endpoints =
        json!({ "token_endpoint": "https://idp.example/token", "client_id": "c", "client_secret": "s" });
    let mut of_person = endpoints.clone();
    of_person["authorization_endpoint"] = "https://idp.example/authorize".into();
    of_person["redirect_uri"] = "https://c.example/cb".into();
    let kinds = [
        ("api_key", json!({ "header_name": "X-Key", "api_key": "k" }), 400),
        ("bearer_token", json!({ "bearer_token": "t" }), 400),
        ("oauth2_client_credentials", endpoints, 400),
        ("oauth2_authorization_code", of_person, 201),
    ];
    for (kind, config, status) in kinds {
        let body = json!({ "name": kind, "kind": kind, "config_json": config });
        let provider = id(&bench.post(&path("providers"), body).await.ok());
        for subject in ["ann", "bob"] {
            let body = json!({ "provider_id": provider, "subject_id": subject, "access_token": subject });
            let answer = bench.post(&path("provider-connections"), body).await;
            assert_eq!(answer.status, status, "{kind} {}", answer.body);
            if status == 400 {
                assert_eq!(answer.code().1, "provider_connection_unsupported");
            }
        }
    }
    let list = bench.get(&path("provider-connections?subject_id=ann")).await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "everyone has their own");
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_015_everything_is_managed_in_one_place() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    for subject in [
        "applications",
        "workloads",
        "resources",
        "providers",
        "provider-connections",
        "grants",
        "subjects",
        "subject-issuers",
        "policies",
        "policy-sets",
        "approvals",
        "revocations",
        "sessions",
        "authority-records",
        "audit",
        "admin-audit",
    ] {
        let list = bench.get(&format!("/v1/zones/{zone}/{subject}")).await.ok();
        assert!(list["items"].is_array(), "{subject}");
        assert!(list.as_object().unwrap().contains_key("next_cursor"), "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_016_the_trace_tells_who_refused() {
    let bench = bench().await;
    let governed = reading(&bench, "z").await;
    // The STS: authenticated, but policy says no. The gateway: a mandate, but not for this.
    let by_policy = governed.mint("orders:write", "r1", &[]).await;
    let token = granted(governed.mint("orders:read", "r2", &[]).await);
    let at_the_gateway = governed.present(&token, "POST", "r3").await;
    assert_eq!(refusal(&by_policy), (403, "policy denied (role_scope_mismatch)"));
    assert_eq!(at_the_gateway.status, 403);
    assert_ne!(refusal(&by_policy), refusal(&at_the_gateway));
    let why = async |request: &str| {
        let path = format!("/v1/zones/{}/audit/by-request/{request}/explain", governed.zone);
        bench.get(&path).await.ok()["denied"][0].clone()
    };
    let (first, second) = (why("r1").await, why("r3").await);
    assert_eq!(first["reason"], "role_scope_mismatch");
    assert_ne!(second["reason"], first["reason"]);
    assert_eq!(second["evaluation_status"], "operation_not_permitted", "{second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_017_what_a_diagnosis_is_made_of() {
    let bench = bench().await;
    let governed = reading(&bench, "z").await;
    governed.mint("orders:write", "r1", &[]).await;
    for path in ["/health", "/ready"] {
        assert_eq!(bench.call("", "GET", path, None).await.ok(), json!({ "ok": true }), "{path}");
    }
    let path = |rest: &str| format!("/v1/zones/{}/{rest}", governed.zone);
    let overview = bench.get(&path("overview")).await.ok();
    assert_eq!(overview["policy_sets"], json!({ "total": 1, "enforcing": 1, "active_name": "all" }));
    assert_eq!(overview["decisions_24h"], json!({ "allowed": 0, "denied": 1 }));
    assert_eq!(overview["recent_events"][0]["request_id"], "r1");
    let recent = bench.get(&path("audit?decision=deny")).await.ok();
    assert_eq!(recent["items"][0]["request_id"], "r1");
    assert_eq!(bench.get(&path("audit/by-request/r1")).await.ok().as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_018_where_an_event_is_and_where_there_is_none() {
    let bench = bench().await;
    let (governed, other) = (reading(&bench, "z").await, bench.zone("other").await);
    granted(governed.mint("orders:read", "r1", &[]).await);
    let found = async |zone: &str, query: &str| {
        let list = bench.get(&format!("/v1/zones/{zone}/audit?request_id=r1{query}")).await.ok();
        list["items"].as_array().unwrap().len()
    };
    let zone = &governed.zone;
    for (zone, query, count) in [
        (zone.as_str(), "", 1),
        (&other, "", 0),
        (zone, "&until=2020-01-01T00:00:00.000Z", 0),
        (zone, "&since=2099-01-01T00:00:00.000Z", 0),
        (zone, "&decision=deny", 0),
        (zone, "&event_type=token_exchange", 1),
    ] {
        assert_eq!(found(zone, query).await, count, "{query}");
    }
    // What never reached a boundary left nothing; what waits for the ledger is taken when it is asked for.
    let unknown = bench.get(&format!("/v1/zones/{zone}/audit/by-request/never-came")).await;
    assert_eq!(unknown.code(), (404, "request_not_found"));
    tell(&bench, vec![AuditEvent::new(zone, "token_exchange", "r1", "allow", bench.store.now())]).await;
    assert_eq!(bench.number("SELECT COUNT(*) FROM audit_outbox").await, 1, "a backlog");
    assert_eq!(found(zone, "").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_020_events_name_the_session_that_acted() {
    let bench = bench().await;
    let governed = reading(&bench, "z").await;
    let zone = &governed.zone;
    let twin = format!("T2{zone}");
    bench
        .execute(&format!(
            "INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, lifecycle, labels_json, status, \
               depth, ttl_seconds, started_at, last_active_at, updated_at) \
             SELECT '{twin}', zone_id, application_id, subject_authority_record_id, lifecycle, labels_json, status, depth, \
               ttl_seconds, started_at, last_active_at, updated_at FROM sessions WHERE id = 'T{zone}'; \
             INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id, \
               receiver_application_id, resource_id, scopes_json, constraints_json, status, expires_at, created_at, \
               updated_at) SELECT 'E2{zone}', zone_id, source_session_id, '{twin}', issuer_application_id, \
               receiver_application_id, resource_id, scopes_json, constraints_json, status, expires_at, created_at, \
               updated_at FROM delegation_edges WHERE id = 'E{zone}'; \
             UPDATE zones SET authority_epoch = authority_epoch + 1"
        ))
        .await;
    granted(governed.mint("orders:read", "r1", &[]).await);
    let edge = format!("E2{zone}");
    let more = [("agent_session_id", twin.as_str()), ("delegation_edge_id", edge.as_str())];
    granted(governed.mint("orders:read", "r2", &more).await);
    let of = async |query: &str| {
        let list = bench.get(&format!("/v1/zones/{zone}/audit?{query}")).await.ok();
        let items = list["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["request_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of(&format!("session_id=T{zone}")).await, ["r1"]);
    assert_eq!(of(&format!("session_id={twin}")).await, ["r2"]);
    assert_eq!(of("label=reader").await, ["r2", "r1"], "and all of a role by its label");
}

#[tokio::test(flavor = "multi_thread")]
async fn faq_010_a_policy_names_the_identifier_and_not_the_place() {
    let bench = bench().await;
    let governed = Governed::new(&bench, "z", mandate_provider()).await;
    let by_place = document(&governed.application, &["orders:read"])
        .replace("resource://orders", "https://orders-1.example");
    let name = crate::policy::policy(&bench, &governed.zone, "by-place", &by_place).await;
    let other = set(&bench, &governed.zone, "by-place").await;
    let version = version(&bench, &governed.zone, &other, &[&name]).await;
    assert_eq!(activate(&bench, &governed.zone, &other, &version).await.status, 202);
    assert_eq!(governed.mint("orders:read", "r1", &[]).await.status, 403);
}
