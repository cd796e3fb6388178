//! Contract sts §13: control keys.

use crate::support::{Form, ORDERS, World};
use serde_json::json;

fn control() -> Form {
    Form::bootstrap().without("zone_id").with("resource", "caracal-control").with("scope", "control:read")
}

impl World {
    async fn with_traits(traits: &[&str]) -> Self {
        let world = Self::new().await;
        let traits = json!(traits).to_string();
        world
            .sql(&format!(
                "UPDATE applications SET traits_json = '{traits}' WHERE id = 'a1'; \
                 UPDATE resources SET scopes_json = '[\"control:read\",\"control:write\"]' WHERE id = 'RC'"
            ))
            .await;
        world
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_12_contract_13_a_control_key_mints_by_its_traits_alone() {
    let traits = ["control:invoke", "control:scope:control:read", "control:max-ttl:60"];
    let world = World::with_traits(&traits).await;
    world.activate("2", "package caracal.authz\nrestrict := [\"all\"]\n").await;
    for form in [control(), control().with("zone_id", "z1"), control().with("ttl_seconds", "300")] {
        let claims = world.exchange(&form).await.claims();
        assert_eq!((&claims["use"], &claims["aud"]), (&json!("resource"), &json!(["caracal-control"])));
        assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("a1"), &json!("a1")));
        assert_eq!((&claims["zone_id"], &claims["scope"]), (&json!("z1"), &json!("control:read")));
        assert_eq!(claims["root_sid"], claims["sid"]);
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 60);
    }
    let answer = world.exchange(&control().with("ttl_seconds", "30")).await;
    assert_eq!(answer.body["expires_in"], 30);
    world.send(control().request_as("control")).await.granted();
    let events = world.events().await;
    let event = events.iter().find(|event| event["request_id"] == "control").unwrap();
    assert_eq!(event["determining_policies_json"], json!([{ "policy": "control-key" }]));
    assert_eq!(event["decision"], "allow");
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_12_contract_13_without_a_zone_only_a_pure_control_request_is_known() {
    let world = World::with_traits(&["control:invoke", "control:scope:control:read"]).await;
    let cases = [
        ("another resource", control().with("resource", ORDERS)),
        ("one more resource", control().and("resource", ORDERS)),
        ("another scope", control().with("scope", "control:read agent:lifecycle")),
        ("no scope", control().without("scope")),
        ("no resource", control().without("resource")),
        ("a session", control().with("agent_session_id", "T")),
        ("a record", control().with("session_id", "rec-a1")),
        ("a delegation", control().with("agent_session_id", "T").with("delegation_edge_id", "E")),
        ("a wrong secret", control().with("client_secret", "wrong")),
        ("no such application", control().with("application_id", "nobody")),
        ("no control key", control().with("application_id", "b1")),
    ];
    for (name, form) in cases {
        let answer = world.exchange(&form).await;
        assert_eq!(answer.error(), (401, "access_denied"), "{name}: {}", answer.body);
    }
    world.exchange(&control()).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_12_contract_13_what_a_control_key_lacks_it_does_not_get() {
    let read = "control:scope:control:read";
    let cases: [(&str, &[&str], &str); 6] = [
        ("no scope trait", &["control:invoke"], "control:read"),
        ("one scope too many", &["control:invoke", read], "control:read control:write"),
        ("expired", &["control:invoke", read, "control:expires:2020-01-01T00:00:00Z"], "control:read"),
        ("an end that is no time", &["control:invoke", read, "control:expires:soon"], "control:read"),
        ("no invoke", &[read], "control:read"),
        ("not declared", &["control:invoke", "control:scope:control:fly"], "control:fly"),
    ];
    for (name, traits, scope) in cases {
        let world = World::with_traits(traits).await;
        let form = control().with("zone_id", "z1").with("scope", scope);
        let answer = world.exchange(&form).await;
        assert_eq!(answer.error(), (403, "access_denied"), "{name}: {}", answer.body);
    }
}
