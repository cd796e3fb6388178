//! Contract sts §18 to §20 and §31: what a mandate says, its record, and the key set.

use crate::support::{Form, GatewayCall, ISSUER, LEDGER, ORDERS, World, claims_of, header_of};
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

/// The claims without those that differ from mint to mint, which are checked here.
fn settled(token: &str) -> (Value, String) {
    let mut claims = claims_of(token);
    let claims_object = claims.as_object_mut().unwrap();
    let sid = claims_object.remove("sid").unwrap().as_str().unwrap().to_owned();
    for id in [&sid, claims_object.remove("jti").unwrap().as_str().unwrap()] {
        assert_eq!((id.len(), id.chars().nth(14)), (36, Some('7')), "a UUIDv7: {id}");
    }
    let (exp, iat) = (claims_object.remove("exp").unwrap(), claims_object.remove("iat").unwrap());
    claims_object.insert("life".into(), (exp.as_i64().unwrap() - iat.as_i64().unwrap()).into());
    // Ours beyond the contract: how fresh the judgement was.
    assert!(claims_object.remove("authority_epoch").unwrap().as_u64().unwrap() > 0);
    (claims, sid)
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_18_and_19_and_31_claims_and_records_of_the_three_classes() {
    let world = World::new().await;
    let token = world.exchange(&Form::bootstrap()).await.granted();
    let (claims, s1) = settled(&token);
    let header = header_of(&token);
    let mut names: Vec<_> = header.as_object().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!(
        (names.join(" ").as_str(), &header["alg"], &header["typ"]),
        ("alg kid typ", &json!("ES256"), &json!("JWT"))
    );
    assert_eq!(
        claims,
        json!({
            "iss": ISSUER, "sub": "a1", "aud": [ISSUER], "zone_id": "z1", "client_id": "a1",
            "scope": "agent:lifecycle", "root_sid": s1, "use": "session", "sub_type": "application",
            "target": [ORDERS], "life": 900,
        })
    );

    let mandate = world.mandate().await;
    let (claims, s2) = settled(&mandate);
    let delegated = json!({
        "agent_session_id": "T", "delegation_edge_id": "E", "source_session_id": "P", "target_session_id": "T",
        "delegation_path": ["E"], "hop_count": 1, "delegation_graph_epoch": 7,
        "delegation_chain": [
            { "application_id": "a1", "agent_session_id": "P", "delegation_edge_id": "E" },
            { "application_id": "a1", "agent_session_id": "T" },
        ],
    });
    let with_delegation = |mut claims: Value| {
        claims.as_object_mut().unwrap().extend(delegated.as_object().unwrap().clone());
        claims
    };
    assert_eq!(
        claims,
        with_delegation(json!({
            "iss": ISSUER, "sub": "a1", "aud": [ISSUER], "zone_id": "z1", "client_id": "a1", "scope": "orders:read",
            "root_sid": s2, "use": "gateway", "sub_type": "application", "target": [ORDERS], "life": 300,
        }))
    );

    let answer = world.send(GatewayCall::new(Form::usage(&mandate)).request()).await;
    let (mut claims, s3) = settled(&answer.granted());
    let life = claims.as_object_mut().unwrap().remove("life").unwrap().as_i64().unwrap();
    assert!((1..=300).contains(&life), "{life}");
    assert_eq!(
        claims,
        with_delegation(json!({
            "iss": ISSUER, "sub": "a1", "aud": [ORDERS], "zone_id": "z1", "client_id": "a1", "scope": "orders:read",
            "root_sid": s2, "use": "resource", "sub_type": "application", "target": [ORDERS],
        }))
    );
    assert_eq!(
        answer.body["upstreams"],
        json!({ ORDERS: {
            "url": "https://orders.internal", "auth_mode": "caracal_jwt", "auth_header": "Authorization",
            "auth_scheme": "Bearer", "provider_id": "p-mandate",
        } })
    );
    // Contract sts §18: one record each; only the resource mandate's has a parent.
    for (sid, parent) in [(&s1, String::new()), (&s2, String::new()), (&s3, s2.clone())] {
        let rows = world
            .number(&format!(
                "SELECT COUNT(*) FROM authority_records WHERE id = '{sid}' AND zone_id = 'z1' AND session_type = 'application' \
                 AND subject_id = 'a1' AND application_id = 'a1' AND coalesce(parent_id, '') = '{parent}' \
                 AND status = 'active' AND expires_at > authenticated_at"
            ))
            .await;
        assert_eq!(rows, 1, "{sid}");
    }
    assert!(mandate.len() < 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_19_3_the_requested_scope_stands_as_it_was_asked() {
    let world = World::new().await;
    world
        .sql(r#"UPDATE delegation_edges SET scopes_json = '["orders:read","orders:write"]' WHERE id = 'E'"#)
        .await;
    for scope in ["orders:read orders:read", "orders:read  orders:read"] {
        let answer = world.exchange(&Form::mint().with("scope", scope)).await;
        assert_eq!(
            (answer.claims()["scope"].as_str(), answer.body["scope"].as_str()),
            (Some(scope), Some(scope))
        );
    }
    // A gateway that asks for a scope of its own is told by policy that it may not.
    let narrowed = Form::usage(&world.mandate().await).with("scope", "orders:read");
    assert_eq!(world.send(GatewayCall::new(narrowed).request()).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mandate_may_be_used_again_only_where_all_its_resources_allow_it() {
    let world = World::new().await;
    let ends = world.store.now() + 600_000;
    world.add_edge("EL", "P", "T", &format!("'R2', '[\"ledger:read\"]', '{{}}', 'active', {ends}")).await;
    let ledger =
        Form::mint().with("delegation_edge_id", "EL").with("scope", "ledger:read").with("resource", LEDGER);
    let answer = world.exchange(&ledger).await;
    let token = answer.granted();
    assert_eq!(claims_of(&token)["multi_use"], true);
    assert!(claims_of(&world.mandate().await).get("multi_use").is_none());
    assert!(
        world.exchange(&Form::bootstrap().with("resource", LEDGER)).await.claims().get("multi_use").is_none()
    );
    let usage = || GatewayCall::new(Form::usage(&token).with("resource", LEDGER));
    for _ in 0..3 {
        let used = world.send(usage().request()).await;
        assert!(used.claims().get("multi_use").is_none(), "a resource mandate is for the resource");
    }
    // The operator takes it back: from then on once more and never again.
    world.sql("UPDATE resources SET mandate_use = 'single' WHERE id = 'R2'").await;
    world.send(usage().request()).await.granted();
    assert_eq!(world.send(usage().request()).await.error(), (401, "invalid_token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_20_key_set() {
    let world = World::new().await;
    let get =
        |query: &str| Request::get(format!("/.well-known/jwks.json{query}")).body(Body::empty()).unwrap();
    let cases = [
        ("", (400, "invalid_token")),
        ("?zone_id=", (400, "invalid_token")),
        ("?zone_id=none", (404, "resource_not_found")),
        ("?zone_id=a%20b", (404, "resource_not_found")),
        ("?zone_id=z1", (404, "resource_not_found")),
    ];
    for (query, expected) in cases {
        assert_eq!(world.send(get(query)).await.error(), expected, "{query}");
    }
    let kid = header_of(&world.mandate().await)["kid"].clone();
    let answer = world.send(get("?zone_id=z1")).await;
    assert_eq!(answer.header("cache-control"), "public, max-age=300, must-revalidate");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let keys = answer.body["keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[0]["kid"]), (1, &kid));
    let mut members: Vec<_> = keys[0].as_object().unwrap().keys().cloned().collect();
    members.sort();
    assert_eq!(members.join(" "), "alg crv kid kty use x y");
    for (member, value) in [("kty", "EC"), ("crv", "P-256"), ("use", "sig"), ("alg", "ES256")] {
        assert_eq!(keys[0][member], value);
    }
    assert_eq!((keys[0]["x"].as_str().unwrap().len(), keys[0]["y"].as_str().unwrap().len()), (43, 43));
    for _ in 0..2 {
        world.keys.rotate(&crate::support::zone(), "rotation").await.unwrap().unwrap();
    }
    let answer = world.send(get("?zone_id=z1")).await;
    assert_eq!(answer.body["keys"].as_array().unwrap().len(), 2, "never more than two");
    assert_eq!(header_of(&world.mandate().await)["kid"], answer.body["keys"][0]["kid"], "newest first");
    let head = Request::head("/.well-known/jwks.json?zone_id=z1").body(Body::empty()).unwrap();
    assert_eq!(world.send(head).await.status, 200);
}
