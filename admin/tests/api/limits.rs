//! How often the Admin API may be asked, in whose name it acts, and settings of the whole installation (contract
//! admin-audit §2.5, §3.3, §5.17).

use crate::common::{Answer, BOOTSTRAP, Bench, bench, config, id};
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use caracal_admin::{Limits, router_with, seed};
use caracal_store::Store;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tower::ServiceExt as _;

/// The Admin API with limits of a test's own, called from an address.
struct Limited {
    dir: tempfile::TempDir,
    router: axum::Router,
}

impl Limited {
    async fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let router = open(&dir, limits).await;
        Self { dir, router }
    }

    /// A second process on the same store.
    async fn replica(&self, limits: Limits) -> axum::Router {
        open(&self.dir, limits).await
    }
}

async fn open(dir: &tempfile::TempDir, limits: Limits) -> axum::Router {
    let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
    let config = config(&store, BOOTSTRAP);
    seed(&config).await.unwrap();
    router_with(config, limits)
}

async fn ask(router: &axum::Router, peer: &str, token: &str, path: &str) -> Answer {
    let mut request = Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
    if let Some((_, forwarded)) = peer.split_once(" for ") {
        request = request.header("x-forwarded-for", forwarded);
    }
    let mut request = request.body(Body::empty()).unwrap();
    let address: SocketAddr = format!("{}:9", peer.split(' ').next().unwrap()).parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(address));
    let response = router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
}

/// Asks as often as a minute allows and once more, even if a minute ends meanwhile: the last answers of each round.
async fn exhaust(
    router: &axum::Router,
    peer: &str,
    token: &str,
    path: &str,
    allowed: u32,
) -> (Answer, Answer) {
    loop {
        let minute = || caracal_store::clock::now() / 60_000;
        let begun = minute();
        let mut last = ask(router, peer, token, path).await;
        for _ in 1..allowed {
            last = ask(router, peer, token, path).await;
        }
        let above = ask(router, peer, token, path).await;
        if minute() == begun {
            return (last, above);
        }
    }
}

fn limits() -> Limits {
    Limits { requests_per_minute: 0, failures_per_minute: 0, ready_per_minute: 0, ..Limits::default() }
}

fn assert_too_many(answer: &Answer) {
    assert_eq!(answer.code(), (429, "rate_limited"));
    let retry: u32 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&retry), "{retry}");
    assert!(answer.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn contract_admin_2_5_requests_of_one_address() {
    let admin = Limited::start(Limits { requests_per_minute: 5, ..limits() }).await;
    let unknown = "no-token-of-anyone";
    let (last, above) = exhaust(&admin.router, "192.0.2.1", unknown, "/v1/zones", 5).await;
    assert_eq!(last.code(), (401, "invalid_admin_token"));
    assert_too_many(&above);
    assert_eq!(above.headers["x-content-type-options"], "nosniff");
    assert_eq!(above.headers["cache-control"], "no-store");
    assert_eq!(ask(&admin.router, "192.0.2.2", BOOTSTRAP, "/v1/zones").await.status, 200, "another address");
    assert_eq!(ask(&admin.router, "192.0.2.1", BOOTSTRAP, "/health").await.status, 200, "never limited");
}

#[tokio::test]
async fn contract_admin_2_5_requests_of_one_token() {
    let admin = Limited::start(Limits { requests_per_minute: 5, ..limits() }).await;
    loop {
        let minute = || caracal_store::clock::now() / 60_000;
        let begun = minute();
        for peer in 1..=5 {
            ask(&admin.router, &format!("192.0.2.{peer}"), BOOTSTRAP, "/v1/zones").await;
        }
        let above = ask(&admin.router, "192.0.2.9", BOOTSTRAP, "/v1/zones").await;
        if minute() != begun {
            continue;
        }
        assert_too_many(&above);
        let store = Store::open_file(&admin.dir.path().join("caracal.db")).await.unwrap();
        let mut connection = store.read().await.unwrap();
        let recorded: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM admin_audit_events WHERE status_code = 429")
                .fetch_one(&mut *connection)
                .await
                .unwrap();
        assert_eq!(recorded, 0, "who asks too often does not fill the record");
        return;
    }
}

#[tokio::test]
async fn contract_admin_2_5_failed_authentications_of_one_address_in_all_processes() {
    let few = Limits { failures_per_minute: 3, ..limits() };
    let admin = Limited::start(few).await;
    let replica = admin.replica(few).await;
    let unknown = "no-token-of-anyone";
    let (last, above) = exhaust(&admin.router, "192.0.2.1", unknown, "/v1/zones", 3).await;
    assert_eq!(last.code(), (401, "invalid_admin_token"));
    assert_too_many(&above);
    loop {
        let minute = || caracal_store::clock::now() / 60_000;
        let begun = minute();
        for _ in 0..4 {
            ask(&admin.router, "192.0.2.2", unknown, "/v1/zones").await;
        }
        let elsewhere = ask(&replica, "192.0.2.2", unknown, "/v1/zones").await;
        if minute() == begun {
            assert_too_many(&elsewhere);
            break;
        }
    }
    // Whoever has a token is not kept out by who has none.
    assert_eq!(ask(&admin.router, "192.0.2.1", BOOTSTRAP, "/v1/zones").await.status, 200);
}

#[tokio::test]
async fn contract_admin_2_5_readiness_of_one_address() {
    let admin = Limited::start(Limits { ready_per_minute: 2, ..limits() }).await;
    for _ in 0..5 {
        assert_eq!(ask(&admin.router, "192.0.2.1", "", "/health").await.status, 200);
    }
    assert_eq!(ask(&admin.router, "192.0.2.1", "", "/ready").await.status, 200, "only /ready counts");
    let (last, above) = exhaust(&admin.router, "192.0.2.3", "", "/ready", 2).await;
    assert_eq!(last.status, 200);
    assert_too_many(&above);
    assert_eq!(ask(&admin.router, "192.0.2.3", "", "/health").await.status, 200);
}

#[tokio::test]
async fn contract_admin_1_3_a_proxy_is_trusted_only_where_an_operator_says_so() {
    for trust_proxy in [false, true] {
        let admin = Limited::start(Limits { requests_per_minute: 2, trust_proxy, ..limits() }).await;
        let (_, above) = exhaust(&admin.router, "192.0.2.1 for 203.0.113.1", "x", "/v1/zones", 2).await;
        assert_too_many(&above);
        let other = ask(&admin.router, "192.0.2.1 for 203.0.113.2", "x", "/v1/zones").await;
        assert_eq!(other.status.as_u16(), if trust_proxy { 401 } else { 429 });
    }
}

async fn put(bench: &Bench, token: &str, path: &str, body: Value) -> Answer {
    bench.call(token, "PUT", path, Some(body)).await
}

#[tokio::test]
async fn contract_admin_5_17_settings_lower_what_the_process_was_started_with() {
    let bench = bench().await;
    for (path, member, ceiling, most, too_high) in [
        ("/v1/audit-retention", "retention_days", "max_days", 365, "retention_above_limit"),
        ("/v1/mint-rate-limit", "limit_per_minute", "max_per_minute", 1000, "rate_limit_above_ceiling"),
    ] {
        let untouched = bench.get(path).await.ok();
        let expected = json!({ member: most, ceiling: most, "updated_by": null, "updated_at": null });
        assert_eq!(untouched, expected);
        for (body, code) in [
            (json!({ member: most + 1 }), too_high),
            (json!({ member: 0 }), "invalid_body"),
            (json!({ member: 1.5 }), "invalid_body"),
            (json!({ member: 7, "more": 1 }), "invalid_body"),
            (json!({}), "invalid_body"),
        ] {
            let answer = put(&bench, BOOTSTRAP, path, body.clone()).await;
            assert_eq!(answer.code(), (400, code), "{path} {body}");
            if code == too_high {
                assert_eq!(answer.body[ceiling], most);
            }
        }
        let set = put(&bench, BOOTSTRAP, path, json!({ member: 7 })).await.ok();
        assert_eq!(set[member], 7);
        assert!(set["updated_by"].as_str().unwrap().starts_with("admin:"));
        assert!(set["updated_at"].is_string());
        assert_eq!(bench.get(path).await.ok(), set);
        let again = put(&bench, BOOTSTRAP, path, json!({ member: most })).await.ok();
        assert_eq!(again[member], most);
        let record = &bench.get("/v1/admin-audit").await.ok()["items"][0];
        assert_eq!(record["method"], "PUT");
        assert_eq!(record["entity_type"], "settings");
        assert_eq!(format!("/v1/{}", record["entity_id"].as_str().unwrap()), path);
        assert_eq!(record["payload_json"]["changed_fields"], json!([member]));
    }
}

#[tokio::test]
async fn contract_admin_5_17_a_value_above_a_lowered_ceiling_is_not_read() {
    let bench = bench().await;
    bench
        .execute("INSERT INTO settings (name, value, updated_at) VALUES ('mint_limit_per_minute', 99999, 0)")
        .await;
    assert_eq!(bench.get("/v1/mint-rate-limit").await.ok()["limit_per_minute"], 1000);
}

#[tokio::test]
async fn contract_admin_5_17_who_may_change_settings() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let (retention, mint) = (json!({ "retention_days": 30 }), json!({ "limit_per_minute": 30 }));
    for (scope, capability, of_retention, of_mint) in [
        (None, "write", (403, "admin_capability_required"), (200, "")),
        (None, "admin", (200, ""), (200, "")),
        (None, "read", (403, "admin_token_read_only"), (403, "admin_token_read_only")),
        (None, "approve", (403, "admin_token_approve_only"), (403, "admin_token_approve_only")),
        (
            Some(zone.as_str()),
            "write",
            (403, "admin_token_zone_mismatch"),
            (403, "admin_token_zone_mismatch"),
        ),
    ] {
        let token = bench.token(scope, capability).await;
        let answer = put(&bench, &token, "/v1/audit-retention", retention.clone()).await;
        assert_eq!(answer.code(), of_retention, "{scope:?} {capability}");
        let answer = put(&bench, &token, "/v1/mint-rate-limit", mint.clone()).await;
        assert_eq!(answer.code(), of_mint, "{scope:?} {capability}");
    }
    assert_eq!(bench.get("/v1/audit-retention").await.ok()["retention_days"], 30);
    assert_eq!(put(&bench, BOOTSTRAP, "/v1/audit-retention", retention).await.status, 200);
}

/// A request with headers that say in whose name it is.
async fn on_behalf(
    bench: &Bench,
    token: &str,
    method: &str,
    path: &str,
    body: Value,
    headers: &[(&str, &str)],
) -> Value {
    let mut request =
        Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.header("content-type", "application/json");
    bench.send(request.body(Body::from(body.to_string())).unwrap()).await.ok()
}

const FOR_ADA: (&str, &str) = ("x-caracal-authorized-by", "Ada Lovelace");
const BY_OPERATOR: (&str, &str) = ("x-caracal-created-via", "operator");

#[tokio::test]
async fn contract_admin_3_3_rows_say_in_whose_name_they_were_made() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/workloads");
    let made = |name: &'static str, headers: Vec<(&'static str, &'static str)>| {
        let (bench, path) = (&bench, path.clone());
        async move { on_behalf(bench, BOOTSTRAP, "POST", &path, json!({ "name": name }), &headers).await }
    };
    let plain = made("plain", vec![]).await;
    assert!(plain["created_by"].as_str().unwrap().starts_with("admin:"));
    assert_eq!(plain["created_via_operator"], false);
    let ada = made("ada", vec![FOR_ADA]).await;
    assert_eq!((&ada["created_by"], &ada["created_via_operator"]), (&json!("Ada Lovelace"), &json!(false)));
    let both = made("both", vec![FOR_ADA, BY_OPERATOR]).await;
    assert_eq!((&both["created_by"], &both["created_via_operator"]), (&json!("Ada Lovelace"), &json!(true)));
    let hostile = made("hostile", vec![("x-caracal-authorized-by", "<script>")]).await;
    assert_eq!(hostile["created_by"], plain["created_by"], "a name of another shape is not taken");
    let other = made("other", vec![("x-caracal-created-via", "console")]).await;
    assert_eq!(other["created_via_operator"], false);
    // What is answered is what is stored.
    for row in [&plain, &ada, &both, &hostile, &other] {
        let read = bench.get(&format!("{path}/{}", id(row))).await.ok();
        for member in ["created_by", "created_via_operator", "updated_by", "updated_via_operator"] {
            assert_eq!(read[member], row[member], "{member} of {}", row["name"]);
        }
    }
    let one = format!("{path}/{}", id(&plain));
    let changed =
        on_behalf(&bench, BOOTSTRAP, "PUT", &one, json!({ "name": "x" }), &[FOR_ADA, BY_OPERATOR]).await;
    assert_eq!(changed["updated_by"], "Ada Lovelace");
    assert_eq!(
        (&changed["updated_via_operator"], &changed["created_via_operator"]),
        (&json!(true), &json!(false))
    );
    let again = on_behalf(&bench, BOOTSTRAP, "PUT", &one, json!({ "name": "y" }), &[]).await;
    assert_eq!(again["updated_via_operator"], false, "the mark is that of the last change");
    assert_eq!(again["updated_by"], plain["created_by"]);
    // Where the zone does not want the mark, none is set.
    bench.patch(&format!("/v1/zones/{zone}"), json!({ "operator_coauthor_badge": false })).await.ok();
    assert_eq!(made("unmarked", vec![BY_OPERATOR]).await["created_via_operator"], false);
}

#[tokio::test]
async fn contract_admin_3_3_the_record_names_the_token_whoever_stands_behind_it() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/workloads");
    on_behalf(&bench, BOOTSTRAP, "POST", &path, json!({ "name": "w" }), &[FOR_ADA]).await;
    let record = &bench.get(&format!("/v1/zones/{zone}/admin-audit")).await.ok()["items"][0];
    assert_eq!(record["actor_name"], "bootstrap");
    assert!(!record.to_string().contains("Ada"));
}

#[tokio::test]
async fn contract_admin_3_3_a_name_gives_nobody_the_rights_of_the_bootstrap_credential() {
    let bench = bench().await;
    let writer = bench.token(None, "write").await;
    let body = json!({ "name": "t", "scope": "global", "capability": "write" });
    let disguised = [("x-caracal-authorized-by", "env-bootstrap")];
    let minted = on_behalf(&bench, &writer, "POST", "/v1/admin-tokens", body, &disguised).await;
    let token = minted["token"].as_str().unwrap();
    let answer = put(&bench, token, "/v1/audit-retention", json!({ "retention_days": 1 })).await;
    assert_eq!(answer.code(), (403, "admin_capability_required"));
}

#[tokio::test]
async fn contract_admin_3_3_versions_say_how_they_were_made_and_leave_their_policy_as_it_was_made() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let document = "# caracal:data-document\npackage caracal.authz\n\nrestrict := {}\n";
    let policies = format!("/v1/zones/{zone}/policies");
    let sets = format!("/v1/zones/{zone}/policy-sets");
    let send = async |path: &str, body: Value, by: &[(&str, &str)]| {
        on_behalf(&bench, BOOTSTRAP, "POST", path, body, by).await
    };
    for (name, first, second) in [("a", &[][..], &[BY_OPERATOR][..]), ("b", &[BY_OPERATOR], &[])] {
        let made = send(&policies, json!({ "name": name, "content": document }), first).await;
        let one = format!("{policies}/{}", id(&made));
        send(&format!("{one}/versions"), json!({ "content": document }), second).await;
        let policy = bench.get(&one).await.ok();
        let flags = |at: usize| policy["versions"][at]["created_via_operator"].as_bool().unwrap();
        assert_eq!((flags(1), flags(0)), (!first.is_empty(), !second.is_empty()), "newest first");
        assert_eq!(policy["created_via_operator"], !first.is_empty(), "{name}");
        assert_eq!(policy["updated_via_operator"], !second.is_empty(), "{name}");

        let set = send(&sets, json!({ "name": name }), first).await;
        let versions = format!("{sets}/{}/versions", id(&set));
        let manifest = json!({ "manifest": [{ "policy_version_id": made["version_id"] }] });
        send(&versions, manifest, second).await;
        let listed = bench.get(&versions).await.ok();
        assert_eq!(listed["items"][0]["created_via_operator"], !second.is_empty(), "{name}");
        let set = bench.get(&format!("{sets}/{}", id(&set))).await.ok();
        assert_eq!(set["created_via_operator"], !first.is_empty(), "{name}");
    }
}
