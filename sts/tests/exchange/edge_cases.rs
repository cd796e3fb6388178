//! The edge cases of contract sts §28 that no other test is about. `docs/conformance.md` lists where each part is.

use crate::approvals::{OPERATOR, SUBJECT, gated};
use crate::support::{Form, GatewayCall, POLICY, World, claims_of, header_of};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_store::StoreError;
use caracal_store::change::Change;
use serde_json::{Value, json};
use tokio::sync::oneshot;

const RECORDS: &str = "SELECT COUNT(*) FROM authority_records";

impl World {
    /// Keeps the writer busy until told; nothing is changed.
    fn writer_kept_until_told(&self) -> oneshot::Sender<()> {
        let (tell, told) = oneshot::channel();
        let store = self.store.clone();
        tokio::spawn(async move {
            let kept: Result<(), StoreError> = store
                .write(move |_| {
                    Box::pin(async move {
                        let _ = told.await;
                        Ok(())
                    })
                })
                .await;
            kept.unwrap();
        });
        tell
    }

    /// Nothing but the operation's scope stands between a mandate and its use.
    async fn any_operation(&self) {
        let sql = "UPDATE resources SET operation_enforcement = 'transport_uniform' WHERE id = 'R1'";
        self.change(sql, Change::Resource { id: "R1".to_owned() }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_03_policy_that_is_narrowed_after_the_mint_denies_the_use() {
    let world = World::new().await;
    world.any_operation().await;
    let (held, other) = (world.mandate().await, world.mandate().await);
    world.present(&other).await.granted();
    let bare = world.forged(&held, &[("scope", json!(""))]).await;
    assert_eq!(world.present(&bare).await.description(), "policy denied (no_rule_matched)");
    let narrowed = POLICY.replace("{\"reader\": [\"orders:read\"]}", "{\"reader\": [\"orders:write\"]}");
    world.activate("2", &narrowed).await;
    assert!(claims_of(&held)["exp"].as_i64().unwrap() > world.store.now() / 1000, "it has not expired");
    assert_eq!(world.present(&held).await.description(), "policy denied (role_scope_mismatch)");
    world.activate("3", POLICY).await;
    world.present(&held).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_05_a_document_that_defines_more_than_data_stops_the_zone() {
    let world = World::new().await;
    let token = world.mandate().await;
    let records = world.number(RECORDS).await;
    for (number, rule) in
        ["result := {\"decision\": \"allow\"}", "helper := 1", "allow if true"].iter().enumerate()
    {
        world.activate(&format!("{}", number + 2), &format!("{POLICY}\n{rule}\n")).await;
        for answer in [
            world.exchange(&Form::bootstrap()).await,
            world.exchange(&Form::mint()).await,
            world.present(&token).await,
        ] {
            assert_eq!(answer.error(), (503, "policy_eval_failed"), "{rule}: {}", answer.body);
        }
    }
    assert_eq!(world.number(RECORDS).await, records);
    world.activate("9", POLICY).await;
    world.present(&token).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_06_what_is_loaded_of_policy_is_whole_or_nothing_is_allowed() {
    let world = World::new().await;
    let cases = [
        (
            "a version that the manifest names is missing",
            "UPDATE policy_versions SET zone_id = 'z2' WHERE id = 'pv1'",
            "UPDATE policy_versions SET zone_id = 'z1' WHERE id = 'pv1'",
            (503, "policy_eval_failed"),
        ),
        (
            "the manifest's hash is another",
            "UPDATE policy_set_versions SET manifest_sha256 = 'x' || manifest_sha256",
            "UPDATE policy_set_versions SET manifest_sha256 = substr(manifest_sha256, 2)",
            (503, "policy_eval_failed"),
        ),
        (
            "the manifest is none",
            "UPDATE policy_set_versions SET manifest_json = '{' || manifest_json",
            "UPDATE policy_set_versions SET manifest_json = substr(manifest_json, 2)",
            (503, "policy_eval_failed"),
        ),
        (
            "the versions cannot be read",
            "ALTER TABLE policy_versions RENAME TO away",
            "ALTER TABLE away RENAME TO policy_versions",
            (503, "policy_eval_failed"),
        ),
        (
            "nothing is active",
            "UPDATE policy_sets SET active_version_id = NULL",
            "UPDATE policy_sets SET active_version_id = 'sv1'",
            (403, "access_denied"),
        ),
    ];
    for (name, broken, mended, expected) in cases {
        world.exchange(&Form::bootstrap()).await.granted();
        world.change(broken, Change::Policy).await;
        for _ in 0..2 {
            let answer = world.exchange(&Form::bootstrap()).await;
            assert_eq!(answer.error(), expected, "{name}: {}", answer.body);
            if expected.0 == 403 {
                assert_eq!(answer.description(), "policy denied (no_active_policy_set)");
            }
        }
        world.change(mended, Change::Policy).await;
    }
    // The same manifest under another version is that version from then on.
    let sql = "INSERT INTO policy_set_versions \
               (id, policy_set_id, zone_id, version, manifest_json, manifest_sha256, schema_version, created_at) \
               SELECT 'sv-same', policy_set_id, zone_id, 99, manifest_json, manifest_sha256, schema_version, 0 \
               FROM policy_set_versions WHERE id = 'sv1'; \
               UPDATE policy_sets SET active_version_id = 'sv-same'";
    world.change(sql, Change::Policy).await;
    world.send(Form::bootstrap().request_as("same")).await.granted();
    let events = world.events().await;
    let event = events.iter().find(|event| event["request_id"] == "same").unwrap();
    assert_eq!(event["policy_set_version_id"], "sv-same");
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_13_a_header_that_names_no_key_of_the_zone() {
    let world = World::new().await;
    let token = world.mandate().await;
    let parts: Vec<&str> = token.split('.').collect();
    let kid = header_of(&token)["kid"].clone();
    let headers = [
        json!({ "alg": "ES256", "typ": "JWT" }),
        json!({ "alg": "ES256", "typ": "JWT", "kid": "" }),
        json!({ "alg": "ES256", "typ": "JWT", "kid": "0190f0c1-7d1e-7a57-8f0e-1c2d3e4f5a6b" }),
        json!({ "alg": "none", "typ": "JWT", "kid": kid }),
        json!({ "alg": "HS256", "typ": "JWT", "kid": kid }),
        json!({ "alg": "ES256", "typ": "JWT", "kid": kid, "crit": ["x"] }),
        json!({ "alg": "ES256", "typ": "JWT", "kid": kid, "note": "not what was signed" }),
    ];
    for header in headers {
        let header_part = URL_SAFE_NO_PAD.encode(header.to_string());
        let token = [header_part.as_str(), parts[1], parts[2]].join(".");
        assert_eq!(world.present(&token).await.error(), (401, "invalid_token"), "{header}");
    }
    world.present(&token).await.granted();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sts_28_16_of_two_that_race_for_one_approval_one_wins() {
    let world = World::gated(OPERATOR).await;
    let (id, _) = world.held().await;
    world.operator("satisfied_at").await;
    let tell = world.writer_kept_until_told();
    let form = Form::mint().with("approval_id", &id);
    let requests = [world.spawn(form.request()), world.spawn(form.request())];
    // These need no writer: when they are through, so are the judgements of the two.
    for _ in 0..40 {
        assert_eq!(world.exchange(&Form::bootstrap().without("resource")).await.status, 400);
    }
    tell.send(()).unwrap();
    let mut answers = Vec::new();
    for request in requests {
        let answer = request.await.unwrap();
        answers.push((answer.status, answer.body["error"].as_str().unwrap_or_default().to_owned()));
    }
    answers.sort();
    let expected = [(200, String::new()), (409, "approval_consumed".to_owned())];
    assert_eq!(answers, expected);
    assert_eq!(world.number("SELECT COUNT(*) FROM approvals WHERE consumed_at IS NOT NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_17_another_session_or_policy_asks_for_another_approval() {
    let world = World::gated(OPERATOR).await;
    let (first, binding) = world.held().await;
    let ends = world.store.now() + 600_000;
    world.add_session("T2", "a1", r#"["reader"]"#).await;
    world.add_edge("E2", "P", "T2", &format!("'R1', '[\"orders:read\"]', '{{}}', 'active', {ends}")).await;
    let other = Form::mint().with("agent_session_id", "T2").with("delegation_edge_id", "E2");
    let other = world.exchange(&other).await;
    assert_eq!(other.error(), (401, "interaction_required"));
    assert_ne!(other.body["approval_id"], first.as_str());
    let again = world.exchange(&Form::mint().and("resource", "resource://orders")).await;
    assert_eq!((&again.body["approval_id"], &again.body["binding"]), (&json!(first), &json!(binding)));
    world.activate("3", &gated(OPERATOR)).await;
    assert_ne!(world.held().await, (first, binding));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_18_a_line_that_does_not_end_and_an_event_that_cannot_be_written_decide_nothing() {
    let world = World::gated(SUBJECT).await;
    let (id, binding) = world.held().await;
    let user = world.user().await;
    let yes = || json!({ "decision": "approved", "binding": binding });
    let parents = |one: &str, other: &str| {
        format!(
            "UPDATE authority_records SET parent_id = '{other}' WHERE id = '{one}'; \
             UPDATE authority_records SET parent_id = '{one}' WHERE id = '{other}'; \
             UPDATE approvals SET session_id = '{one}'"
        )
    };
    world.sql(&parents("rec-a1", "rec-a2")).await;
    assert_eq!(world.decide(&id, &user, yes()).await.error(), (503, "sts_unavailable"));
    world.sql("UPDATE authority_records SET parent_id = NULL; UPDATE approvals SET session_id = ''").await;
    world.sql("ALTER TABLE audit_outbox RENAME TO away").await;
    assert_eq!(world.decide(&id, &user, yes()).await.error(), (503, "sts_unavailable"));
    world.sql("ALTER TABLE away RENAME TO audit_outbox").await;
    assert_eq!(world.state(&id, "").await.body["state"], "pending");
    assert_eq!(world.decide(&id, &user, yes()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sts_28_20_a_request_that_is_given_up_is_done_wholly_or_not_at_all() {
    let world = World::new().await;
    world.mandate().await;
    let before = world.number(RECORDS).await;
    let allowed = "SELECT COUNT(*) FROM audit_outbox WHERE event_json LIKE '%\"decision\":\"allow\"%'";
    let events = world.number(allowed).await;
    for round in 0..40_u64 {
        let request = world.spawn(Form::mint().request());
        let wrong = world.spawn(Form::mint().with("client_secret", "wrong").request());
        tokio::time::sleep(std::time::Duration::from_micros(round * 250)).await;
        request.abort();
        wrong.abort();
    }
    // The writer takes what was asked of it in order, so this is after all of them.
    world.mandate().await;
    let made = world.number(RECORDS).await - before;
    assert_eq!(world.number(allowed).await - events, made, "each record has its event");
    assert!(made >= 1);
}

/// What a public exchange tells of providers: nothing.
#[tokio::test(flavor = "multi_thread")]
async fn sts_28_09_a_public_exchange_learns_of_no_upstream() {
    let world = World::new().await;
    for form in [Form::bootstrap(), Form::mint(), Form::mint().with("request_method", "GET")] {
        let answer = world.exchange(&form).await;
        answer.granted();
        assert_eq!(answer.body.get("upstreams"), None, "{}", answer.body);
        assert!(!answer.body.to_string().contains("orders.internal"));
    }
    let token = world.mandate().await;
    let used = world.send(GatewayCall::new(Form::usage(&token)).request()).await;
    assert!(matches!(used.body["upstreams"], Value::Object(_)));
}
