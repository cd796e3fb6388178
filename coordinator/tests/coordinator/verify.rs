//! `POST /v1/verify` (contract §9), and old routes (contract §25).

use crate::support::{Answer, World};
use caracal_mandate::claims::{ChainHop, Claims, MandateUse};
use http::Method;
use serde_json::{Value, json};

async fn verify(world: &World, body: Value) -> Answer {
    world.ask(Method::POST, "/v1/verify", "", Some(body)).await
}

#[tokio::test]
async fn contract_9_verify_tells_the_claims_of_what_stands() {
    let world = World::new().await;
    let claims = world.claims("z1", "a", None).await;
    let token = world.keys.sign(&claims).await.unwrap();
    let expected = json!({ "valid": true, "claims": {
        "sub": "a", "zoneId": "z1", "clientId": "a", "authorityRecordId": claims.sid,
        "rootAuthorityRecordId": claims.sid, "use": "session", "subType": "application", "jti": claims.jti,
        "issuedAt": claims.iat, "expiresAt": claims.exp, "scope": "agent:lifecycle",
    } });
    for body in [
        json!({ "zone_id": "z1", "token": token }),
        json!({ "zone_id": "z1", "authorization": format!("Bearer {token}") }),
        json!({ "zone_id": "z1", "authorization": format!("Bearer {token}"), "token": token,
            "required_scope": "agent:lifecycle", "require_session": false, "require_delegation": false }),
    ] {
        assert_eq!(verify(&world, body).await.ok(), expected);
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM audit_outbox").await, 0, "a look leaves nothing");
}

#[tokio::test]
async fn contract_9_verify_tells_session_and_delegation() {
    let world = World::new().await;
    let mut claims = world.claims("z1", "a", None).await;
    let hop = |session: &str, edge: Option<&str>| ChainHop {
        application_id: "a".parse().unwrap(),
        agent_session_id: Some(session.parse().unwrap()),
        delegation_edge_id: edge.map(|edge| edge.parse().unwrap()),
    };
    claims.agent_session_id = Some("s2".parse().unwrap());
    claims.delegation_edge_id = Some("e".parse().unwrap());
    claims.delegation_path = vec!["e".parse().unwrap()];
    claims.delegation_chain = vec![hop("s1", Some("e")), hop("s2", None)];
    (claims.hop_count, claims.delegation_graph_epoch) = (1, 7);
    let token = world.keys.sign(&claims).await.unwrap();
    let ask = json!({ "zone_id": "z1", "token": token, "require_session": true, "require_delegation": true });
    let told = verify(&world, ask.clone()).await.ok()["claims"].clone();
    assert_eq!((&told["sessionId"], &told["delegationId"]), (&json!("s2"), &json!("e")));
    assert_eq!(
        (&told["delegationPath"], &told["hopCount"], &told["graphEpoch"]),
        (&json!(["e"]), &json!(1), &json!(7))
    );
    let last = json!({ "applicationId": "a", "sessionId": "s2" });
    assert_eq!(told["delegationChain"][1], last);
    // What it rests on is gone: it is valid no more, though its time still runs.
    world.sql("INSERT INTO revoked_anchors (zone_id, kind, id, until) VALUES ('z1', 'delegation_edge', 'e', 9e15)").await;
    assert_eq!(verify(&world, ask).await.code(), (401, "token_invalid"));
}

#[tokio::test]
async fn contract_9_verify_refusals() {
    let world = World::new().await;
    let claims = world.claims("z1", "a", None).await;
    let sign = |change: fn(&mut Claims)| {
        let (mut claims, keys) = (claims.clone(), world.keys.clone());
        change(&mut claims);
        async move { keys.sign(&claims).await.unwrap() }
    };
    let token = sign(|_| ()).await;
    let other = sign(|claims| claims.jti = "other".parse().unwrap()).await;
    for (body, expected) in [
        (json!({}), (400, "invalid_request")),
        (json!({ "token": token }), (400, "invalid_request")),
        (json!({ "zone_id": "../z1", "token": token }), (400, "invalid_request")),
        (json!({ "zone_id": "z1", "token": token, "aud": "x" }), (400, "invalid_request")),
        (json!({ "zone_id": "z1", "token": 7 }), (400, "invalid_request")),
        (json!({ "zone_id": "z1", "token": token, "require_session": "yes" }), (400, "invalid_request")),
        (
            json!({ "zone_id": "z1", "token": token, "authorization": format!("Bearer {other}") }),
            (400, "invalid_request"),
        ),
        (json!({ "zone_id": "z1" }), (400, "missing_token")),
        (json!({ "zone_id": "z1", "token": "" }), (400, "missing_token")),
        (json!({ "zone_id": "z1", "authorization": format!("Basic {token}") }), (400, "missing_token")),
        (json!({ "zone_id": "z1", "token": "a.b.c" }), (401, "token_invalid")),
        (json!({ "zone_id": "z1", "token": "x".repeat(4097) }), (401, "token_invalid")),
        (json!({ "zone_id": "z2", "token": token }), (401, "token_invalid")),
        (json!({ "zone_id": "z1", "token": token, "required_scope": "x" }), (401, "token_invalid")),
        (json!({ "zone_id": "z1", "token": token, "require_session": true }), (401, "token_invalid")),
        (json!({ "zone_id": "z1", "token": token, "require_delegation": true }), (401, "token_invalid")),
        (
            json!({ "zone_id": "z1", "token": sign(|c| c.usage = MandateUse::Gateway).await }),
            (401, "token_invalid"),
        ),
        (
            json!({ "zone_id": "z1", "token": sign(|c| c.usage = MandateUse::Resource).await }),
            (401, "token_invalid"),
        ),
        (
            json!({ "zone_id": "z1", "token": sign(|c| c.aud = vec!["x".into()]).await }),
            (401, "token_invalid"),
        ),
        (json!({ "zone_id": "z1", "token": sign(|c| c.exp = c.iat - 100).await }), (401, "token_invalid")),
    ] {
        let answer = verify(&world, body.clone()).await;
        assert_eq!(answer.code(), expected, "{body}");
        assert_eq!(answer.body["valid"], false);
        assert!(answer.body["request_id"].is_string());
    }
    world.sql("UPDATE authority_records SET status = 'revoked', revoked_at = 1").await;
    let answer = verify(&world, json!({ "zone_id": "z1", "token": token })).await;
    assert_eq!(answer.code(), (401, "token_invalid"));
    world.store.close().await;
    let answer = verify(&world, json!({ "zone_id": "z1", "token": token })).await;
    assert_eq!(answer.code(), (503, "coordinator_unavailable"), "no answer is no yes");
}

#[tokio::test]
async fn contract_25_routes_of_a_former_version_name_their_successor() {
    let world = World::new().await;
    for (path, now) in
        [("/v1/begin", "POST /zones/{zone}/agents"), ("/v1/end", "DELETE /zones/{zone}/agents/{session}")]
    {
        let answer = world.ask(Method::POST, path, "", Some(json!({}))).await;
        assert_eq!(answer.code(), (404, "not_found"));
        assert!(answer.body["detail"].as_str().unwrap().ends_with(now), "{path}");
    }
    let answer = world.ask(Method::POST, "/v1/nothing", "", Some(json!({}))).await;
    assert_eq!((answer.code(), answer.body.get("detail")), ((404, "not_found"), None));
}
