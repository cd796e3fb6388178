//! Approvals of what workloads ask for (contract sts §16.4 to §16.7, §23).

use crate::https::before;
use crate::idp::{Idp, Script};
use crate::launcher::{Verdict, WORKLOAD, fields, orders, request};
use crate::support::World;
use serde_json::json;

fn gated(gates: &str) -> String {
    format!(
        "package caracal.authz\nimport rego.v1\nrisk := [{{\"scope\": \"orders:read\", \"tier\": \"high\"}}]\n\
         approval_tiers := [{gates}]\n"
    )
}

const OPERATOR: &str = r#"{"tier": "high"}"#;

async fn world(gates: &str) -> World {
    let world = World::new().await.with_workload(&json!([orders()])).await;
    let config = json!({ "allow_runtime_injection": true, "header_name": "X-Api-Key" });
    world.provide("api_key", &config, &json!({ "api_key": "key-1" })).await;
    world.activate("2", &gated(gates)).await;
    world
}

impl World {
    /// The hold of the workload's wish.
    async fn waits(&self, request_id: &str) -> String {
        let answer = self.credential(&[], request_id).await;
        assert_eq!(answer.error(), (401, "interaction_required"), "{}", answer.body);
        answer.body["approval_id"].as_str().unwrap().to_owned()
    }

    async fn decided(&self, column: &str) {
        self.sql(&format!("UPDATE approvals SET {column} = 1, approver_subject_id = 'admin:t'")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_16_5_the_hold_of_a_workload() {
    let world = world(OPERATOR).await;
    let answer = world.credential(&[], "c-1").await;
    assert_eq!(answer.error(), (401, "interaction_required"));
    assert_eq!(answer.header("www-authenticate"), "Bearer error=\"interaction_required\"");
    assert_eq!((&answer.body["requestId"], &answer.body["state"]), (&json!("c-1"), &json!("pending")));
    assert_eq!(answer.header("x-request-id"), "");
    assert_eq!(
        world.verdicts("c-1").await,
        ["token_exchange deny/approval_required", "step_up_issued pending/complete"]
    );
    let issued = world.told("c-1").await;
    assert_eq!(issued["metadata_json"]["workload_id"], WORKLOAD);
    assert_eq!(issued["metadata_json"]["challenge_id"], answer.body["approval_id"]);
    // The same wish waits for the same approval, and another workload's for another.
    assert_eq!(world.waits("c-2").await, answer.body["approval_id"]);
    assert_eq!(world.verdicts("c-2").await, ["token_exchange deny/approval_required"]);
    let other = world.credential_of_other(&[], "c-3").await;
    assert_ne!(other.body["approval_id"], answer.body["approval_id"]);
    assert_eq!(world.number("SELECT COUNT(*) FROM approvals WHERE application_id IS NULL").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_16_4_what_an_approval_of_a_workload_is_worth() {
    // What is done to the hold, what is answered when its id is presented, and when it is not.
    let late = "UPDATE approvals SET expires_at = 1";
    let cases: [(&str, Verdict, Verdict, &str); 4] = [
        ("", (401, "interaction_required"), (401, "interaction_required"), ""),
        ("satisfied_at", (200, ""), (200, ""), "token_exchange allow/complete"),
        (
            "rejected_at",
            (403, "access_denied"),
            (403, "access_denied"),
            "token_exchange deny/approval_rejected",
        ),
        (late, (401, "access_denied"), (401, "interaction_required"), "token_exchange deny/approval_expired"),
    ];
    for (column, with_id, without_id, told) in cases {
        for (presents, expected) in [(true, with_id), (false, without_id)] {
            let world = world(OPERATOR).await;
            let id = world.waits("first").await;
            match column {
                "" => {}
                sql if sql == late => world.sql(sql).await,
                column => world.decided(column).await,
            }
            let more: &[(&str, &str)] = if presents { &[("approval_id", &id)] } else { &[] };
            let answer = world.credential(more, "c").await;
            assert_eq!(answer.error(), expected, "{column} {presents}: {}", answer.body);
            if presents && !told.is_empty() {
                assert!(world.verdicts("c").await.contains(&told.to_owned()), "{column}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_16_9_an_approval_of_a_workload_releases_one_credential() {
    let world = world(OPERATOR).await;
    let id = world.waits("first").await;
    world.decided("satisfied_at").await;
    let asking: Vec<_> = (0..8)
        .map(|number| {
            let all = fields(&[("env", "ORDERS_KEY"), ("approval_id", id.as_str())]);
            world.spawn(request("/v1/run/credential", &all, &format!("c-{number}")))
        })
        .collect();
    let mut given = 0;
    for answer in asking {
        let answer = answer.await.unwrap();
        match answer.error() {
            (200, _) => given += 1,
            (409, "approval_consumed") => {}
            other => panic!("{other:?}: {}", answer.body),
        }
    }
    assert_eq!(given, 1);
    // It is not answered once more, and what follows waits for an approval of its own.
    assert_eq!(world.credential(&[("approval_id", &id)], "again").await.error(), (409, "approval_consumed"));
    assert_eq!(world.verdicts("again").await, ["token_exchange deny/approval_already_consumed"]);
    assert_ne!(world.waits("next").await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_16_2_an_approval_is_for_this_workload_and_this_wish() {
    let changes = [
        "UPDATE workloads SET bindings_json = REPLACE(bindings_json, 'orders:read', 'orders:write')",
        "UPDATE approvals SET principal_id = 'another'",
        "UPDATE approvals SET zone_id = 'z2'",
        "policy",
    ];
    for change in changes {
        let world = world(OPERATOR).await;
        let id = world.waits("first").await;
        world.decided("satisfied_at").await;
        match change {
            "policy" => world.activate("3", &format!("{}# another\n", gated(OPERATOR))).await,
            sql => world.sql(sql).await,
        }
        let answer = world.credential(&[("approval_id", &id)], "c").await;
        assert_eq!(answer.error(), (401, "access_denied"), "{change}: {}", answer.body);
        assert_eq!(world.verdicts("c").await, ["token_exchange deny/approval_invalid"], "{change}");
    }
    let world = world(OPERATOR).await;
    let id = world.waits("first").await;
    world.decided("satisfied_at").await;
    let other = world.credential_of_other(&[("approval_id", &id)], "c").await;
    assert_eq!(other.error(), (401, "access_denied"));
    for id in ["nonsense", "0190f0c1-7d1e-4a57-8f0e-1c2d3e4f5a6b"] {
        assert_eq!(
            world.credential(&[("approval_id", id)], "d").await.error(),
            (401, "access_denied"),
            "{id}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_16_1_gates_that_nobody_can_open() {
    let world = world(r#"{"tier": "high"}, {"tier": "high", "approver": "subject"}"#).await;
    assert_eq!(world.credential(&[], "c").await.error(), (403, "access_denied"));
    assert_eq!(world.verdicts("c").await, ["token_exchange deny/approval_class_conflict"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_23_policy_that_changes_after_the_approval_was_presented() {
    let idp = Idp::start(Script::token("service-1", 600)).await;
    let world = world(OPERATOR).await.calling(idp.https.egress());
    let mut config = idp.client(&json!({ "allowed_token_hosts": ["localhost"] }));
    config["allow_runtime_injection"] = true.into();
    world.provide("oauth2_client_credentials", &config, &json!({ "client_secret": "cs" })).await;
    let id = world.waits("first").await;
    world.decided("satisfied_at").await;
    idp.holds_answers();
    let all = fields(&[("env", "ORDERS_KEY"), ("approval_id", id.as_str())]);
    let mut answer = world.spawn(request("/v1/run/credential", &all, "c"));
    before(&mut answer, idp.was_asked(1)).await;
    world.activate("3", &format!("{}# another\n", gated(OPERATOR))).await;
    idp.answers_again();
    assert_eq!(answer.await.unwrap().error(), (409, "access_denied"));
    assert_eq!(world.verdicts("c").await, ["token_exchange deny/approval_policy_changed"]);
    assert_eq!(world.number("SELECT COUNT(*) FROM approvals WHERE consumed_at IS NULL").await, 1, "it stays");
}

/// A credential that cannot be fetched does not use the approval up.
#[tokio::test(flavor = "multi_thread")]
async fn sts_28_16_a_failure_after_the_approval_does_not_burn_it() {
    let world = world(OPERATOR).await;
    let id = world.waits("first").await;
    world.decided("satisfied_at").await;
    let sealed = world.vault.seal(b"{}", "zones/z1/providers/p-idp/secretConfig").unwrap();
    let before = "SELECT COUNT(*) FROM approvals WHERE consumed_at IS NULL";
    world.sql("CREATE TABLE kept AS SELECT * FROM secret_store").await;
    world.sql(&format!("UPDATE secret_store SET envelope = '{sealed}', version = version + 1")).await;
    assert_eq!(world.credential(&[("approval_id", &id)], "c").await.error(), (502, "http_request_failed"));
    assert_eq!(world.number(before).await, 1);
    world.sql("UPDATE secret_store SET envelope = (SELECT envelope FROM kept), version = version + 1").await;
    assert_eq!(world.credential(&[("approval_id", &id)], "d").await.body["credential"], "key-1");
}
