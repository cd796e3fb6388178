//! Contract admin-audit §18, 1 to 9: who may ask what.

use crate::common::{BOOTSTRAP, bench, id};
use aws_lc_rs::hmac;
use axum::body::Body;
use axum::http::Request;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

const DOCUMENT: &str = "# caracal:data-document\npackage caracal.authz\n\nrestrict := {}\n";

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_01_a_read_token_changes_nothing_and_may_validate() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let before = bench.last_change().await;
    for token in [bench.token(None, "read").await, bench.token(Some(&zone), "read").await] {
        for (method, path) in [
            ("POST", format!("/v1/zones/{zone}/applications")),
            ("PATCH", format!("/v1/zones/{zone}")),
            ("DELETE", format!("/v1/zones/{zone}")),
            ("PUT", format!("/v1/zones/{zone}/workloads/x")),
            ("POST", "/v1/admin-tokens".to_owned()),
            ("POST", format!("/v1/zones/{zone}/policy-sets/x/activate")),
        ] {
            let answer = bench.call(&token, method, &path, Some(json!({ "name": "x" }))).await;
            assert_eq!(answer.code(), (403, "admin_token_read_only"), "{method} {path}");
        }
        let body = Some(json!({ "content": DOCUMENT }));
        let answer = bench.call(&token, "POST", "/v1/policies/validate", body).await;
        assert_eq!(answer.ok()["valid"], true);
    }
    assert_eq!(bench.last_change().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_02_to_change_and_to_decide_are_two_rights() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let (write, approve) = (bench.token(None, "write").await, bench.token(Some(&zone), "approve").await);
    let decide = format!("/v1/zones/{zone}/approvals/none/approve");
    let change = format!("/v1/zones/{zone}/applications");
    let absent = (404, "approval_not_found");
    for (token, decides, changes) in [
        (write.as_str(), (403, "approve_capability_required"), (400, "invalid_application")),
        (&approve, absent, (403, "admin_token_approve_only")),
        (BOOTSTRAP, absent, (400, "invalid_application")),
    ] {
        assert_eq!(bench.call(token, "POST", &decide, Some(json!({}))).await.code(), decides);
        assert_eq!(bench.call(token, "POST", &change, Some(json!({}))).await.code(), changes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_03_a_zone_token_stays_in_its_zone() {
    let bench = bench().await;
    let (own, other) = (bench.zone("own").await, bench.zone("other").await);
    let token = bench.token(Some(&own), "write").await;
    for path in [
        format!("/v1/zones/{other}"),
        format!("/v1/zones/{other}/audit"),
        "/v1/zones".to_owned(),
        "/v1/admin-tokens".to_owned(),
        "/v1/admin-audit".to_owned(),
        "/v1/audit-retention".to_owned(),
        "/v1/zones/%ff".to_owned(),
        format!("/v1/zones/{own}%00"),
        format!("/v1/zones/%2e%2e/{own}"),
        format!("/v1/zones//{own}"),
    ] {
        let answer = bench.call(&token, "GET", &path, None).await;
        assert_eq!(answer.code(), (403, "admin_token_zone_mismatch"), "{path}");
    }
    for path in ["/v1/policy-templates", &format!("/v1/zones/{own}")] {
        assert_eq!(bench.call(&token, "GET", path, None).await.status, 200, "{path}");
    }
    let body = Some(json!({ "content": DOCUMENT }));
    assert_eq!(bench.call(&token, "POST", "/v1/policies/validate", body).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_04_neither_a_refusal_nor_an_acceptance_is_remembered() {
    let bench = bench().await;
    let token = "cat_not-known-yet";
    let ask = async || bench.call(token, "GET", "/v1/zones", None).await.status.as_u16();
    assert_eq!(ask().await, 401);
    let hash = bench.vault.hash(token);
    bench
        .execute(&format!(
            "INSERT INTO admin_tokens (id, name, token_hash, scope, capability, created_by, created_at) \
             VALUES ('t', 't', '{hash}', 'global', 'read', 'test', 0)"
        ))
        .await;
    let asked = (0..20).map(|_| {
        let request = Request::get("/v1/zones").header("authorization", format!("Bearer {token}"));
        bench.send(request.body(Body::empty()).unwrap())
    });
    for answer in asked {
        assert_eq!(answer.await.status, 200, "known from now on");
    }
    assert_eq!(bench.delete("/v1/admin-tokens/t").await.status, 204);
    assert_eq!(ask().await, 401, "and over at once");
}

/// A request with the bearer and the header of the Console's accounts.
async fn with_account(bench: &crate::common::Bench, token: &str, path: &str) -> (u16, String) {
    let request = Request::get(path)
        .header("authorization", format!("Bearer {token}"))
        .header("x-caracal-account", "v1.YWNjb3VudA.9999999999.c2lnbmF0dXJl");
    let answer = bench.send(request.body(Body::empty()).unwrap()).await;
    let (status, code) = answer.code();
    (status, code.to_owned())
}

/// The three tokens that the reference's Console derives from the bootstrap credential.
fn derived() -> [String; 3] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, BOOTSTRAP.as_bytes());
    ["read-only", "write", "approve"].map(|capability| {
        let tag = hmac::sign(&key, format!("caracal:console:{capability}:v1").as_bytes());
        format!("cat_{}", URL_SAFE_NO_PAD.encode(tag))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_06_no_token_can_be_derived_from_another() {
    let bench = bench().await;
    for token in derived() {
        for path in ["/v1/zones", "/v1/admin-tokens"] {
            assert_eq!(with_account(&bench, &token, path).await.0, 401, "{path}");
        }
    }
    assert_eq!(with_account(&bench, BOOTSTRAP, "/v1/zones").await.0, 200, "a token of its own ignores it");
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_07_an_account_header_neither_opens_nor_closes_anything() {
    let bench = bench().await;
    let (own, other) = (bench.zone("own").await, bench.zone("other").await);
    let token = bench.token(Some(&own), "read").await;
    let mismatch = (403, "admin_token_zone_mismatch".to_owned());
    assert_eq!(with_account(&bench, &token, &format!("/v1/zones/{own}")).await.0, 200);
    for path in [format!("/v1/zones/{other}"), "/v1/zones".to_owned(), "/v1/unlisted".to_owned()] {
        assert_eq!(with_account(&bench, &token, &path).await, mismatch, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_08_a_system_zone_is_read_by_id_and_changed_by_the_bootstrap_credential_alone() {
    let bench = bench().await;
    let write = bench.token(None, "write").await;
    let by_name = id(&bench.post("/v1/zones", json!({ "name": "CARACAL.Sys/Internal" })).await.ok());
    let by_slug =
        id(&bench.post("/v1/zones", json!({ "name": "S", "slug": "caracal-sys-other" })).await.ok());
    let listed = bench.get("/v1/zones").await.ok();
    assert_eq!(listed["items"], json!([]));
    for zone in [by_name, by_slug] {
        let path = format!("/v1/zones/{zone}");
        assert_eq!(bench.call(&write, "GET", &path, None).await.status, 200);
        for (method, rest) in [
            ("PATCH", ""),
            ("DELETE", ""),
            ("POST", "/applications"),
            ("PUT", "/workloads/x"),
            ("POST", "/policy-sets/x/simulate"),
            ("POST", "/subjects/revoke"),
        ] {
            let answer = bench.call(&write, method, &format!("{path}{rest}"), Some(json!({}))).await;
            assert_eq!(answer.code(), (403, "system_zone_read_only"), "{method} {rest}");
        }
        assert_eq!(bench.patch(&path, json!({ "operator_governed": true })).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_09_only_global_write_tokens_manage_tokens_and_none_makes_more_than_it_is() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let tokens = [
        (bench.token(None, "read").await, "admin_token_read_only"),
        (bench.token(None, "approve").await, "admin_token_approve_only"),
        (bench.token(Some(&zone), "write").await, "admin_token_zone_mismatch"),
    ];
    let before = bench.number("SELECT COUNT(*) FROM admin_tokens").await;
    let one = "/v1/admin-tokens/00000000-0000-0000-0000-000000000000";
    for (token, code) in tokens {
        let body = Some(json!({ "name": "t", "scope": "global" }));
        assert_eq!(bench.call(&token, "POST", "/v1/admin-tokens", body).await.code(), (403, code));
        assert_eq!(bench.call(&token, "DELETE", one, None).await.code(), (403, code));
    }
    let write = bench.token(None, "write").await;
    let body = json!({ "name": "t", "scope": "global", "capability": "approve" });
    let refused = bench.call(&write, "POST", "/v1/admin-tokens", Some(body)).await;
    assert_eq!(refused.code(), (403, "admin_capability_required"), "no way around the second pair of eyes");
    assert_eq!(bench.number("SELECT COUNT(*) FROM admin_tokens").await, before + 1);
}
