//! Which credentials are given, and why others are not.

use crate::https::before;
use crate::idp::{Idp, Script};
use crate::launcher::{LAUNCH, SECRET, Verdict, WORKLOAD, fields, orders, request};
use crate::support::World;
use caracal_store::change::Change;
use serde_json::{Value, json};

fn allowed(more: &Value) -> Value {
    let mut config = json!({ "allow_runtime_injection": true });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

async fn world() -> World {
    World::new().await.with_workload(&json!([orders()])).await
}

/// A world whose orders take a token from this endpoint.
async fn served_by(idp: &Idp) -> World {
    let world = world().await.calling(idp.https.egress());
    let config = allowed(&idp.client(&json!({ "allowed_token_hosts": ["localhost"] })));
    world.provide("oauth2_client_credentials", &config, &json!({ "client_secret": "cs-1" })).await;
    world
}

async fn with_key() -> World {
    let world = world().await;
    let config = allowed(&json!({ "header_name": "X-Api-Key" }));
    world.provide("api_key", &config, &json!({ "api_key": "key-1" })).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_23_sealed_secrets_are_given_and_written_down_without_them() {
    let cases = [
        ("api_key", json!({ "header_name": "X-Api-Key" }), json!({ "api_key": "key-1" }), "key-1"),
        ("bearer_token", json!({}), json!({ "bearer_token": "token-1" }), "token-1"),
    ];
    for (kind, config, secrets, expected) in cases {
        let world = world().await;
        world.provide(kind, &allowed(&config), &secrets).await;
        let answer = world.credential(&[], "c-1").await;
        assert_eq!(
            (answer.status, &answer.body),
            (200, &json!({ "env": "ORDERS_KEY", "credential": expected }))
        );
        assert_eq!((answer.header("cache-control"), answer.header("x-request-id")), ("no-store", ""));
        assert_eq!(world.verdicts("c-1").await, ["token_exchange allow/complete"], "{kind}");
        let event = world.told("c-1").await;
        assert_eq!(event["determining_policies_json"], json!([{ "policy": "caracal-workload-mint" }]));
        assert_eq!(event["policy_set_version_id"], "sv1");
        let metadata = json!({
            "workload_id": WORKLOAD, "workload_name": "Nightly", "launch_id": LAUNCH, "env": "ORDERS_KEY",
            "resource": "resource://orders", "requested_scopes": ["orders:read"],
        });
        assert_eq!(event["metadata_json"], metadata);
        let stored = world.everything_stored().await;
        assert!(!stored.contains(expected) && !stored.contains(SECRET), "{kind}");
        assert_eq!(world.number("SELECT COUNT(*) FROM authority_records WHERE created_at > 0").await, 0);
    }
}

/// The end of a service's token is known, so it is told (contract sts §27.23).
#[tokio::test(flavor = "multi_thread")]
async fn sts_27_23_the_end_of_a_service_token_is_told() {
    let idp = Idp::start(Script::token("service-1", 600)).await;
    let world = served_by(&idp).await;
    let now = world.store.now() / 1000;
    let answer = world.credential(&[], "c-1").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["credential"], "service-1");
    let end = answer.body["expires_at"].as_i64().unwrap();
    assert!((now + 595..=now + 660).contains(&end), "{end} {now}");
    assert_eq!(world.credential(&[], "c-2").await.body["expires_at"], end);
    assert_eq!(idp.asked().len(), 1, "the token at hand is used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_23_what_is_not_injected() {
    let header = json!({ "header_name": "X-Api-Key" });
    let key = json!({ "api_key": "key-1" });
    let denied = |reason: &str| format!("credential_injection_denied/{reason}");
    let user = json!({
        "authorization_endpoint": "https://idp.example/authorize", "token_endpoint": "https://idp.example/token",
        "client_id": "c", "redirect_uri": "https://console.example/callback", "allowed_token_hosts": ["idp.example"],
    });
    let cases: Vec<(&str, &str, Value, Value, Verdict, String)> = vec![
        (
            "not allowed",
            "api_key",
            header.clone(),
            key.clone(),
            (403, "access_denied"),
            denied("runtime_injection_not_allowed"),
        ),
        (
            "allowed in words",
            "api_key",
            json!({ "header_name": "X-Api-Key", "allow_runtime_injection": "true" }),
            key.clone(),
            (403, "access_denied"),
            denied("runtime_injection_not_allowed"),
        ),
        (
            "no credential",
            "none",
            allowed(&json!({})),
            json!({}),
            (403, "access_denied"),
            denied("provider_kind_not_injectable"),
        ),
        (
            "a mandate",
            "caracal_mandate",
            allowed(&json!({})),
            json!({}),
            (403, "access_denied"),
            denied("provider_kind_not_injectable"),
        ),
        (
            "a user name",
            "http_basic",
            allowed(&json!({ "username": "u" })),
            json!({ "password": "p" }),
            (403, "access_denied"),
            denied("provider_kind_not_injectable"),
        ),
        (
            "a person's",
            "oauth2_authorization_code",
            allowed(&user),
            json!({ "client_secret": "s" }),
            (403, "access_denied"),
            denied("user_connection_not_injectable"),
        ),
        (
            "unknown kind",
            "from_the_future",
            allowed(&json!({})),
            json!({}),
            (403, "access_denied"),
            denied("provider_config_invalid"),
        ),
        (
            "broken config",
            "api_key",
            allowed(&json!({ "header_name": "a b" })),
            key.clone(),
            (403, "access_denied"),
            denied("provider_config_invalid"),
        ),
        (
            "no secret",
            "api_key",
            allowed(&header),
            json!({}),
            (502, "http_request_failed"),
            "provider_credential_unavailable/provider_secret_missing".to_owned(),
        ),
    ];
    for (name, kind, config, secrets, expected, told) in cases {
        let world = world().await;
        world.provide(kind, &config, &secrets).await;
        assert_eq!(world.credential(&[], "c").await.error(), expected, "{name}");
        let event = world.told("c").await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let got =
            format!("{}/{}", text(&event["evaluation_status"]), text(&event["metadata_json"]["reason"]));
        assert_eq!((event["decision"].as_str(), got), (Some("deny"), told), "{name}");
        assert_eq!(world.verdicts("c").await.len(), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_23_what_is_not_there() {
    let cases = [
        (
            "UPDATE resources SET archived_at = 1 WHERE id = 'R1'",
            (404, "resource_not_found"),
            "resource_not_found",
        ),
        (
            "UPDATE providers SET archived_at = 1 WHERE id = 'p-idp'",
            (403, "access_denied"),
            "provider_unavailable",
        ),
        (
            "UPDATE secret_store SET envelope = 'x'",
            (502, "http_request_failed"),
            "provider_credential_unavailable",
        ),
    ];
    for (sql, expected, status) in cases {
        let world = with_key().await;
        world.sql(sql).await;
        assert_eq!(world.credential(&[], "c").await.error(), expected, "{sql}");
        assert_eq!(world.verdicts("c").await, [format!("token_exchange deny/{status}")], "{sql}");
    }
    let world = with_key().await;
    let ask = |env: &'static str| {
        let all = fields(&[("env", env)]);
        request("/v1/run/credential", &all, "e")
    };
    for env in ["OTHER", "orders_key"] {
        assert_eq!(world.send(ask(env)).await.error(), (404, "resource_not_found"), "{env}");
    }
    assert_eq!(world.send(ask(" ")).await.error(), (400, "invalid_token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_08_policy_decides_for_workloads() {
    let head = "# caracal:data-document\npackage caracal.authz\nimport rego.v1\n";
    let conflict = "risk := [{\"scope\": \"orders:read\", \"tier\": \"a\"}, {\"scope\": \"orders:read\", \"tier\": \"b\"}]\n";
    let cases = [
        ("", (200, ""), "allow/complete", ""),
        (
            "restrict := [\"all\"]\n",
            (403, "access_denied"),
            "deny/complete",
            "policy denied (restriction_active)",
        ),
        ("risk := \"x\"\n", (403, "access_denied"), "deny/complete", "policy denied (malformed_risk_data)"),
        (conflict, (503, "policy_eval_failed"), "deny/policy_eval_failed", "policy could not be evaluated"),
    ];
    for (rules, expected, told, text) in cases {
        let world = with_key().await;
        world.activate("2", &format!("{head}{rules}")).await;
        let answer = world.credential(&[], "c").await;
        assert_eq!(answer.error(), expected, "{rules}: {}", answer.body);
        assert_eq!(answer.description(), text, "{rules}");
        assert_eq!(world.verdicts("c").await, [format!("token_exchange {told}")], "{rules}");
    }
    let world = with_key().await;
    world.change("UPDATE policy_sets SET active_version_id = NULL", Change::Policy).await;
    let answer = world.credential(&[], "c").await;
    assert_eq!((answer.status, answer.description()), (403, "policy denied (no_active_policy_set)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_23_a_failed_fetch_gives_nothing() {
    for script in [
        Script::Json(500, json!({})),
        Script::Json(200, json!({})),
        Script::Redirect("/elsewhere".to_owned()),
    ] {
        let idp = Idp::start(script.clone()).await;
        let world = served_by(&idp).await;
        let answer = world.credential(&[], "c").await;
        assert_eq!(answer.error(), (502, "http_request_failed"), "{script:?}");
        assert!(!answer.body.to_string().contains("localhost"), "{}", answer.body);
        assert_eq!(
            world.verdicts("c").await,
            ["token_exchange deny/provider_credential_unavailable"],
            "{script:?}"
        );
    }
}

/// What is taken away while the token endpoint is asked, is not given; what changes, is asked for anew.
#[tokio::test(flavor = "multi_thread")]
async fn sts_23_what_changes_while_the_credential_is_fetched_counts() {
    let restrict = "package caracal.authz\nimport rego.v1\nrestrict := [\"all\"]\n";
    let cases: [(&str, (u16, &str)); 5] = [
        ("UPDATE workloads SET secret_hash = 'x'", (401, "access_denied")),
        ("UPDATE zones SET archived_at = 1 WHERE id = 'z1'", (401, "access_denied")),
        ("UPDATE workloads SET bindings_json = '[]'", (404, "resource_not_found")),
        ("UPDATE providers SET config_json = '{}' WHERE id = 'p-idp'", (403, "access_denied")),
        ("restrict", (403, "access_denied")),
    ];
    for (change, expected) in cases {
        let idp = Idp::start(Script::token("service-1", 600)).await;
        let world = served_by(&idp).await;
        idp.holds_answers();
        let mut answer = world.spawn(request("/v1/run/credential", &fields(&[("env", "ORDERS_KEY")]), "c"));
        before(&mut answer, idp.was_asked(1)).await;
        if change == "restrict" {
            world.activate("2", restrict).await;
        } else {
            world.change(change, Change::Resource { id: "R1".to_owned() }).await;
        }
        idp.answers_again();
        assert_eq!(answer.await.unwrap().error(), expected, "{change}");
    }
    // Another key meanwhile: the new one is given, never the old one.
    let idp = Idp::start(Script::token("service-1", 600)).await;
    let world = served_by(&idp).await;
    idp.holds_answers();
    let mut answer = world.spawn(request("/v1/run/credential", &fields(&[("env", "ORDERS_KEY")]), "c"));
    before(&mut answer, idp.was_asked(1)).await;
    let key = allowed(&json!({ "header_name": "X-Api-Key" }));
    world.provide("api_key", &key, &json!({ "api_key": "key-2" })).await;
    idp.answers_again();
    assert_eq!(answer.await.unwrap().body["credential"], "key-2");
}
