//! Who is let in (contract §3) and what a failed request looks like (contract §2).

use crate::support::{OPERATOR, World, text};
use axum::body::Body;
use http::{Method, Request};
use serde_json::json;

/// A token of this payload with a signature that is none.
fn unsigned(payload: &str) -> String {
    use base64::Engine as _;
    let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"ES256","kid":"k"}"#), part(payload), "A".repeat(86))
}

#[tokio::test]
async fn coordinator_23_28_who_is_let_in() {
    let world = World::new().await;
    let good = world.claims("z1", "a", None).await;
    let mut good = good;
    good.scope = "agent:lifecycle".to_owned();
    let list = "/zones/z1/agents";
    let sign = |change: fn(&mut caracal_mandate::claims::Claims)| {
        let mut claims = good.clone();
        change(&mut claims);
        let keys = world.keys.clone();
        async move { keys.sign(&claims).await.unwrap() }
    };
    let cases = [
        ("good", sign(|_| ()).await, (200, "")),
        ("none", String::new(), (401, "missing_token")),
        ("long", "x".repeat(4097), (401, "missing_token")),
        ("no jws", "abc".to_owned(), (401, "invalid_token")),
        ("no zone", unsigned(r#"{"use":"session"}"#), (401, "invalid_token")),
        ("zone", unsigned(r#"{"zone_id":"../z1"}"#), (401, "invalid_token")),
        ("issuer", sign(|c| c.iss = "http://else".into()).await, (401, "invalid_token")),
        ("audience", sign(|c| c.aud = vec!["x".into()]).await, (401, "invalid_token")),
        ("expired", sign(|c| c.exp = c.iat - 100).await, (401, "invalid_token")),
        (
            "use",
            sign(|c| c.usage = caracal_mandate::claims::MandateUse::Gateway).await,
            (401, "invalid_token"),
        ),
        (
            "resource use",
            sign(|c| c.usage = caracal_mandate::claims::MandateUse::Resource).await,
            (401, "invalid_token"),
        ),
        ("no sub", sign(|c| c.sub = String::new()).await, (401, "invalid_token")),
        ("no scope", sign(|c| c.scope = String::new()).await, (403, "missing_scope")),
        ("scope by prefix", sign(|c| c.scope = "agent:lifecycle2".into()).await, (403, "missing_scope")),
        ("no record", sign(|c| c.sid = "gone".parse().unwrap()).await, (401, "identity_revoked")),
        ("root gone", sign(|c| c.root_sid = "gone".parse().unwrap()).await, (401, "identity_revoked")),
        ("other application", sign(|c| c.client_id = "b".parse().unwrap()).await, (401, "identity_revoked")),
    ];
    for (name, token, expected) in &cases {
        let answer = world.ask(Method::GET, list, token, None).await;
        assert_eq!(answer.code(), *expected, "{name}: {}", answer.body);
    }
    let other_zone = world.token("other", "").await;
    assert_eq!(world.ask(Method::GET, list, &other_zone, None).await.code(), (403, "zone_mismatch"));
    let token = world.token("a", "").await;
    let path = "/zones/z1/agents/a%2Fb";
    assert_eq!(world.ask(Method::GET, path, &token, None).await.code(), (400, "invalid_params"));
    world.sql("UPDATE applications SET archived_at = 1 WHERE id = 'a'").await;
    assert_eq!(world.ask(Method::GET, list, &token, None).await.code(), (401, "identity_revoked"));
}

#[tokio::test]
async fn contract_3_1_a_forged_signature_is_refused() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (head, _) = token.rsplit_once('.').unwrap();
    let other = world.token("a", "").await;
    let (_, signature) = other.rsplit_once('.').unwrap();
    let answer = world.ask(Method::GET, "/zones/z1/agents", &format!("{head}.{signature}"), None).await;
    assert_eq!(answer.code(), (401, "invalid_token"));
}

#[tokio::test]
async fn contract_3_2_the_operator_token_opens_its_routes_only() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let session = world.task(&token, None, "inherit").await;
    let path = format!("/zones/z1/agents/{session}");
    assert!(world.ask(Method::GET, &path, OPERATOR, None).await.status.is_success());
    assert!(world.ask(Method::GET, "/zones/z1/delegations/active", OPERATOR, None).await.status.is_success());
    let refused = [
        (Method::POST, "/zones/z1/agents".to_owned()),
        (Method::POST, "/zones/z1/delegations".to_owned()),
        (Method::POST, format!("{path}/heartbeat")),
        (Method::POST, format!("{path}/lease")),
    ];
    for (method, path) in refused {
        let answer = world.ask(method, &path, OPERATOR, Some(json!({}))).await;
        assert_eq!(answer.code(), (401, "invalid_token"), "{path}");
    }
    assert_eq!(world.ask(Method::DELETE, &path, OPERATOR, None).await.status, 204);
}

#[tokio::test]
async fn contract_2_errors_are_objects_that_name_the_request() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let request = |method: Method, path: &str, body: &str| {
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .header("x-request-id", "req-1")
            .body(Body::from(body.to_owned()))
            .unwrap()
    };
    let big = format!("{{\"x\":\"{}\"}}", "x".repeat(262_144));
    let cases = [
        (Method::GET, "/nowhere", "", (404, "not_found")),
        (Method::PUT, "/zones/z1/agents", "", (405, "method_not_allowed")),
        (Method::POST, "/zones/z1/agents", "{\"a\": }", (400, "invalid_body")),
        (Method::POST, "/zones/z1/agents", "", (400, "invalid_body")),
        (Method::POST, "/zones/z1/agents", "[]", (400, "invalid_body")),
        (Method::POST, "/zones/z1/agents", big.as_str(), (413, "body_too_large")),
        (Method::GET, "/zones/z1/agents?limit=501", "", (400, "invalid_query")),
        (Method::GET, "/zones/z1/agents?status=dead", "", (400, "invalid_query")),
        (Method::GET, "/zones/z1/agents?cursor=gone", "", (400, "invalid_cursor")),
        (Method::GET, "/zones/z1/delegations/active?cursor=gone", "", (400, "invalid_cursor")),
    ];
    for (method, path, body, expected) in cases {
        let answer = world.send(request(method, path, body)).await;
        assert_eq!(answer.code(), expected, "{path}: {}", answer.body);
        assert_eq!(text(&answer.body, "request_id"), "req-1");
        assert_eq!(text(&answer.body, "requestId"), "req-1");
        assert_eq!(answer.headers["x-request-id"], "req-1");
    }
    let answer = world.send(request(Method::POST, "/zones/z1/agents", "{\n \"a\": }")).await;
    let issue = &answer.body["details"]["issues"][0];
    assert_eq!((issue["line"].as_u64(), issue["column"].as_u64()), (Some(2), Some(7)));
    assert_eq!(world.ask(Method::GET, "/health", "", None).await.ok(), json!({ "ok": true }));
    assert_eq!(world.ask(Method::GET, "/ready", "", None).await.ok(), json!({ "ok": true }));
}

#[tokio::test]
async fn contract_25_a_users_record_needs_its_proof() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let user = world.claims("z1", "a", Some("ada@idp")).await;
    let proof = world.keys.sign(&user).await.unwrap();
    let changed = |change: fn(&mut caracal_mandate::claims::Claims)| {
        let mut claims = user.clone();
        change(&mut claims);
        let keys = world.keys.clone();
        async move { keys.sign(&claims).await.unwrap() }
    };
    let record = user.sid.to_string();
    let start = |record: Option<String>, proof: Option<String>| {
        let mut body = json!({ "application_id": "a" });
        if let Some(record) = record {
            body["subject_session_id"] = record.into();
        }
        if let Some(proof) = proof {
            body["subject_token"] = proof.into();
        }
        world.start(&token, body)
    };
    let body = start(Some(record.clone()), Some(proof.clone())).await.ok();
    assert_eq!(text(&body, "subject_authority_record_id"), record);
    assert_eq!(text(&start(None, Some(proof.clone())).await.ok(), "subject_authority_record_id"), record);
    assert_eq!(start(Some(record.clone()), None).await.code(), (401, "subject_proof_required"));
    assert_eq!(start(Some("else".into()), Some(proof.clone())).await.code(), (400, "subject_proof_mismatch"));
    let cases = [
        ("junk", "a.b.c".to_owned(), (401, "invalid_subject_proof")),
        ("application's own", token.clone(), (401, "invalid_subject_proof")),
        ("scope", changed(|c| c.scope = "agent:lifecycle".into()).await, (401, "invalid_subject_proof")),
        ("target", changed(|c| c.target = vec!["x".into()]).await, (401, "invalid_subject_proof")),
        (
            "session",
            changed(|c| c.agent_session_id = Some("s".parse().unwrap())).await,
            (401, "invalid_subject_proof"),
        ),
        ("root", changed(|c| c.root_sid = "s".parse().unwrap()).await, (401, "invalid_subject_proof")),
        ("other subject", changed(|c| c.sub = "eve@idp".into()).await, (401, "invalid_subject_proof")),
        (
            "other application",
            changed(|c| c.client_id = "b".parse().unwrap()).await,
            (403, "subject_proof_application_mismatch"),
        ),
    ];
    for (name, proof, expected) in cases {
        assert_eq!(start(None, Some(proof)).await.code(), expected, "{name}");
    }
    world.sql(&format!("UPDATE authority_records SET status = 'revoked' WHERE id = '{record}'")).await;
    assert_eq!(start(Some(record), Some(proof)).await.code(), (404, "session_not_found"));
}
