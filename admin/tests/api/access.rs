//! Who may ask what, and how requests travel (contract admin-audit §1, §2, §5.16).

use crate::common::{BOOTSTRAP, bench, config, id};
use axum::body::Body;
use axum::http::Request;
use caracal_admin::{SeedError, seed};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_2_4_matrix_of_tokens_and_routes() {
    let bench = bench().await;
    let (own, other) = (bench.zone("own").await, bench.zone("other").await);
    let write = bench.token(None, "write").await;
    let read = bench.token(None, "read").await;
    let approve = bench.token(None, "approve").await;
    let zone_write = bench.token(Some(&own), "write").await;
    let zone_read = bench.token(Some(&own), "read").await;
    let tokens = [BOOTSTRAP, &write, &read, &approve, &zone_write, &zone_read, "unknown", ""];
    const NO: &str = "invalid_admin_token";
    const READ: &str = "admin_token_read_only";
    const APPROVE: &str = "admin_token_approve_only";
    const ZONE: &str = "admin_token_zone_mismatch";
    const DECIDE: &str = "approve_capability_required";
    const PASS: &str = "";
    let none = "00000000-0000-0000-0000-000000000000";
    // Per route: the code that the gate gives each of the tokens above; empty where it lets them through.
    let on_zone = |zone: &str, rest: &str| format!("/v1/zones/{zone}{rest}");
    let reading = [PASS, PASS, PASS, PASS, PASS, PASS, NO, NO];
    let reading_other = [PASS, PASS, PASS, PASS, ZONE, ZONE, NO, NO];
    let changing = [PASS, PASS, READ, APPROVE, PASS, READ, NO, NO];
    let changing_other = [PASS, PASS, READ, APPROVE, ZONE, READ, NO, NO];
    let mut routes = vec![
        ("GET", "/v1/zones".to_owned(), reading_other),
        ("POST", "/v1/zones".to_owned(), changing_other),
        ("GET", "/v1/admin-tokens".to_owned(), reading_other),
        ("POST", "/v1/admin-tokens".to_owned(), changing_other),
        ("DELETE", format!("/v1/admin-tokens/{none}"), changing_other),
        ("GET", "/v1/admin-audit".to_owned(), reading_other),
        ("GET", "/v1/policy-templates".to_owned(), reading),
        ("POST", "/v1/policies/validate".to_owned(), reading),
        ("GET", "/v1/unknown".to_owned(), reading_other),
        ("GET", on_zone("%2e%2e", ""), reading_other),
        (
            "POST",
            on_zone(&own, &format!("/approvals/{none}/approve")),
            [PASS, DECIDE, READ, PASS, DECIDE, READ, NO, NO],
        ),
        (
            "POST",
            on_zone(&other, &format!("/approvals/{none}/reject")),
            [PASS, DECIDE, READ, PASS, DECIDE, READ, NO, NO],
        ),
    ];
    let reads = [
        "",
        "/dcr-status",
        "/applications",
        "/applications/x",
        "/providers",
        "/providers/x",
        "/resources",
        "/resources/x",
        "/policies",
        "/policies/x",
        "/policy-sets",
        "/policy-sets/x",
        "/policy-sets/x/versions",
        "/policy-sets/x/versions/y",
        "/policy-sets/x/activation-status",
        "/audit",
        "/audit/by-request/r",
        "/audit/by-request/r/explain",
        "/admin-audit",
        "/sessions",
        "/authority-records",
    ];
    let changes = [
        ("PATCH", ""),
        ("POST", "/applications"),
        ("POST", "/applications/dcr"),
        ("PATCH", "/applications/x"),
        ("DELETE", "/applications/x"),
        ("POST", "/applications/x/rotate-secret"),
        ("POST", "/providers"),
        ("PATCH", "/providers/x"),
        ("DELETE", "/providers/x"),
        ("POST", "/resources"),
        ("PATCH", "/resources/x"),
        ("DELETE", "/resources/x"),
        ("POST", "/policies"),
        ("POST", "/policies/x/versions"),
        ("DELETE", "/policies/x"),
        ("POST", "/policy-sets"),
        ("DELETE", "/policy-sets/x"),
        ("POST", "/policy-sets/x/versions"),
        ("POST", "/policy-sets/x/activate"),
        ("POST", "/policy-sets/x/simulate"),
    ];
    for rest in reads {
        routes.push(("GET", on_zone(&own, rest), reading));
        routes.push(("GET", on_zone(&other, rest), reading_other));
    }
    for (method, rest) in changes {
        routes.push((method, on_zone(&own, rest), changing));
        routes.push((method, on_zone(&other, rest), changing_other));
    }
    let gate = [NO, READ, APPROVE, ZONE, DECIDE];
    for (method, path, expected) in routes {
        for (token, expected) in tokens.iter().zip(expected) {
            let body = (method != "GET").then(|| json!({}));
            let answer = bench.call(token, method, &path, body).await;
            let code = answer.body["error"].as_str().unwrap_or("").to_owned();
            let refused = if gate.contains(&code.as_str()) { code.as_str() } else { "" };
            assert_eq!(
                refused, expected,
                "{method} {path} with {token:?}: {} {}",
                answer.status, answer.body
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_05_a_long_bearer_and_other_schemes_are_no_token() {
    let bench = bench().await;
    let long = "x".repeat(4097);
    for header in ["Bearer ", "Basic abc", &format!("Bearer {long}"), BOOTSTRAP] {
        let request = Request::get("/v1/zones").header("authorization", header).body(Body::empty()).unwrap();
        assert_eq!(bench.send(request).await.code(), (401, "invalid_admin_token"), "{header:.20}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_1_transport() {
    let bench = bench().await;
    let request = |id: &str| {
        let request = Request::get("/v1/zones").header("authorization", format!("Bearer {BOOTSTRAP}"));
        request.header("x-request-id", id).body(Body::empty()).unwrap()
    };
    let answer = bench.send(request("my:request-1")).await;
    assert_eq!(answer.headers["x-request-id"], "my:request-1");
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers["referrer-policy"], "no-referrer");
    assert_ne!(bench.send(request("my request")).await.headers["x-request-id"], "my request");
    for path in ["/health", "/ready"] {
        assert_eq!(bench.call("", "GET", path, None).await.body, json!({ "ok": true }), "{path}");
    }
    assert_eq!(bench.call("", "GET", "/elsewhere", None).await.code(), (404, "not_found"));
    assert_eq!(bench.get("/v1/elsewhere").await.code(), (404, "not_found"));
    assert_eq!(bench.get("/v1/zones/a%20b").await.code(), (400, "invalid_params"));
    assert_eq!(bench.call(BOOTSTRAP, "PUT", "/v1/zones", None).await.code(), (405, "method_not_allowed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_1_1_bodies_that_are_none() {
    let bench = bench().await;
    let send = async |body: Vec<u8>, media: &str| {
        let request = Request::post("/v1/zones").header("authorization", format!("Bearer {BOOTSTRAP}"));
        bench.send(request.header("content-type", media).body(Body::from(body)).unwrap()).await
    };
    let answer = send(b"{\"name\":\n  tru}".to_vec(), "application/json").await;
    assert_eq!(answer.code(), (400, "invalid_body"));
    assert_eq!(answer.body["details"]["line"], 2);
    assert!(answer.body["error_description"].as_str().unwrap().contains("line 2 column"));
    assert_eq!(send(Vec::new(), "application/json").await.code(), (400, "invalid_body"));
    assert_eq!(send(b"[]".to_vec(), "application/json; charset=utf-8").await.code(), (400, "invalid_zone"));
    assert_eq!(send(b"{}".to_vec(), "text/plain").await.code(), (415, "unsupported_media_type"));
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(1024 * 1024));
    assert_eq!(send(large.into_bytes(), "application/json").await.code(), (413, "body_too_large"));
    // Nothing is parsed for someone who is not known.
    let request = Request::post("/v1/zones").body(Body::from("{")).unwrap();
    assert_eq!(bench.send(request).await.code(), (401, "invalid_admin_token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_2_2_the_bootstrap_credential_is_one() {
    let bench = bench().await;
    let seeded = |token: &str| {
        let config = config(&bench.store, token);
        async move { seed(&config).await }
    };
    assert!(matches!(seeded("short").await, Err(SeedError::TooShort)));
    assert!(matches!(seeded(&format!(" {BOOTSTRAP}")).await, Err(SeedError::WhiteSpace)));
    seeded(BOOTSTRAP).await.unwrap();
    assert_eq!(bench.number("SELECT COUNT(*) FROM admin_tokens").await, 1);
    let next = "another-bootstrap-token-of-more-than-32-characters";
    seeded(next).await.unwrap();
    assert_eq!(bench.get("/v1/zones").await.code(), (401, "invalid_admin_token"));
    assert_eq!(bench.call(next, "GET", "/v1/zones", None).await.status, 200);
    let stored = bench.number("SELECT COUNT(*) FROM admin_tokens WHERE token_hash LIKE '%token%'").await;
    assert_eq!(stored, 0, "only hashes are stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_16_admin_tokens() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let write = bench.token(None, "write").await;
    let zone_write = bench.token(Some(&zone), "write").await;
    let cases: Vec<(&str, Value, (u16, &str))> = vec![
        (BOOTSTRAP, json!({ "name": "t", "scope": "zone" }), (400, "zone_id_required")),
        (
            BOOTSTRAP,
            json!({ "name": "t", "scope": "global", "zone_id": zone }),
            (400, "zone_id_not_allowed_for_global"),
        ),
        (BOOTSTRAP, json!({ "name": "t", "scope": "zone", "zone_id": "nowhere" }), (404, "zone_not_found")),
        (BOOTSTRAP, json!({ "name": "", "scope": "global" }), (400, "invalid_admin_token_request")),
        (BOOTSTRAP, json!({ "name": "t", "scope": "global", "x": 1 }), (400, "invalid_admin_token_request")),
        (
            &write,
            json!({ "name": "t", "scope": "global", "capability": "approve" }),
            (403, "admin_capability_required"),
        ),
        (
            &write,
            json!({ "name": "t", "scope": "global", "capability": "admin" }),
            (403, "bootstrap_credential_required"),
        ),
        (&zone_write, json!({ "name": "t", "scope": "global" }), (403, "admin_token_zone_mismatch")),
    ];
    for (token, body, code) in cases {
        let answer = bench.call(token, "POST", "/v1/admin-tokens", Some(body.clone())).await;
        assert_eq!(answer.code(), code, "{body}");
    }
    let list = bench.get("/v1/admin-tokens").await.ok();
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    assert!(items.iter().all(|item| item.get("token").is_none() && item.get("token_hash").is_none()));
    let of = |name: &str, scope: &str| {
        let found = items.iter().find(|item| item["name"] == name && item["scope"] == scope);
        found.unwrap()["id"].as_str().unwrap().to_owned()
    };
    let bootstrap =
        bench.call(&write, "DELETE", &format!("/v1/admin-tokens/{}", of("bootstrap", "global")), None).await;
    assert_eq!(bootstrap.code(), (409, "admin_token_not_revocable"));
    let path = format!("/v1/admin-tokens/{}", of("t", "zone"));
    assert_eq!(bench.delete(&path).await.status, 204);
    assert_eq!(bench.delete(&path).await.code(), (404, "admin_token_not_found"));
    let answer = bench.call(&zone_write, "GET", &format!("/v1/zones/{zone}"), None).await;
    assert_eq!(answer.code(), (401, "invalid_admin_token"), "a revoked token ends at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_4_1_reserved_names() {
    let bench = bench().await;
    let zone = bench.zone("plain").await;
    let provider = bench.provider(&zone, "p").await;
    let write = bench.token(None, "write").await;
    let at = |rest: &str| format!("/v1/zones/{zone}{rest}");
    let resource = json!({
        "identifier": "caracal-sys://x", "scopes": ["a"], "credential_provider_id": provider,
        "upstream_url": "https://x.example", "operation_enforcement": "transport_uniform",
    });
    let document = "# caracal:data-document\npackage caracal.authz\n\nrestrict := {}\n";
    let application = json!({ "name": " caracal.sys/a", "registration_method": "managed" });
    let cases: Vec<(&str, String, Value)> = vec![
        ("POST", "/v1/zones".into(), json!({ "name": "Caracal.SYS/x" })),
        ("POST", "/v1/zones".into(), json!({ "name": "x", "slug": "caracal-sys-x" })),
        ("POST", "/v1/zones".into(), json!({ "name": "caracal sys x" })),
        ("PATCH", at(""), json!({ "slug": "caracal-sys-x" })),
        ("PATCH", at(""), json!({ "name": "caracal.sys/x" })),
        ("POST", at("/applications"), application.clone()),
        ("POST", at("/applications/dcr"), json!({ "name": "caracal.sys/a" })),
        ("POST", at("/providers"), json!({ "identifier": "provider://caracal-sys-a", "kind": "none" })),
        ("POST", at("/providers"), json!({ "name": "Caracal Sys A", "kind": "none" })),
        ("POST", at("/resources"), resource.clone()),
        ("POST", at("/policies"), json!({ "name": "caracal.sys/p", "content": document })),
    ];
    for (method, path, body) in cases {
        let answer = bench.call(&write, method, &path, Some(body.clone())).await;
        assert_eq!(answer.code(), (409, "reserved_namespace"), "{method} {path} {body}");
    }
    // The bootstrap credential may; and then nobody else may change what is inside.
    bench.post(&at("/applications"), application).await.ok();
    bench.post(&at("/resources"), resource).await.ok();
    let system = bench.post("/v1/zones", json!({ "name": "s", "slug": "caracal-sys-internal" })).await.ok();
    let system = id(&system);
    let listed = bench.get("/v1/zones").await.ok();
    assert!(listed["items"].as_array().unwrap().iter().all(|item| item["id"] != system.as_str()));
    let path = format!("/v1/zones/{system}");
    assert_eq!(bench.call(&write, "GET", &path, None).await.status, 200);
    let body = Some(json!({ "name": "x" }));
    assert_eq!(bench.call(&write, "PATCH", &path, body).await.code(), (403, "system_zone_read_only"));
    assert_eq!(bench.patch(&path, json!({ "name": "x" })).await.status, 200);
}
