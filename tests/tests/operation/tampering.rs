//! A row of the ledger is changed in the database file of a running Caracal: it is found, told of, and makes the ledger
//! unready until an operator takes note of it.

use caracal_tests::{Stack, Upstream, World, python};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Changes the database file, as who has the disk can.
fn change(stack: &Stack, sql: &str) {
    let script =
        "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1], timeout=30) as db: db.execute(sys.argv[2])";
    let file = stack.folder().join("caracal.db");
    assert!(Path::new(&file).exists());
    let done = Command::new(python()).args(["-c", script]).arg(&file).arg(sql).status().unwrap();
    assert!(done.success());
}

async fn ready(stack: &Stack, world: &World) -> (u16, Value) {
    let answer = world.http.get(format!("{}/ready", stack.url("audit"))).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_of_the_database_file_is_found_and_told_of() {
    let (mut stack, upstream) = (Stack::start().await, Upstream::start().await);
    let mut world = World::configure(&stack, &upstream).await;
    world.bootstrap().await;
    assert!(!world.audit("event_type=token_exchange").await.is_empty());
    let check = world.path("audit-integrity/check");
    let seen = world.operate(Method::POST, &check, Value::Null).await;
    assert_eq!((&seen["status"], &seen["open_findings"]), (&json!("intact"), &json!(0)));
    assert_eq!(ready(&stack, &world).await, (200, json!({ "ready": true })));

    // While it runs, found where someone asks.
    let changed = format!(
        "UPDATE audit_events SET decision = 'deny' WHERE zone_id = '{}' AND event_type = 'token_exchange'",
        world.zone
    );
    change(&stack, &changed);
    let seen = world.operate(Method::POST, &check, Value::Null).await;
    assert_eq!((&seen["status"], &seen["findings"][0]["fault"]), (&json!("tampered"), &json!("content")));
    assert_eq!(seen["findings"][0]["zone_id"], world.zone.as_str());
    let unready = (503, json!({ "ready": false, "reason": "ledger_tampered" }));
    assert_eq!(ready(&stack, &world).await, unready);
    let all = world.operate(Method::GET, "/v1/audit-integrity", Value::Null).await;
    assert_eq!(all["status"], "tampered");
    assert_eq!(world.audit("event_type=audit_tamper_detected").await.len(), 1);

    let noted = world.operate(Method::POST, "/v1/audit-integrity/acknowledge", Value::Null).await;
    assert_eq!(noted["acknowledged"], seen["open_findings"]);
    assert_eq!(ready(&stack, &world).await.0, 200);

    // While it is away, found when it starts: this time in the record of changes.
    stack.kill().await;
    let renamed =
        format!("UPDATE admin_audit_events SET actor_name = 'nobody' WHERE chain_key = '{}'", world.zone);
    change(&stack, &renamed);
    stack.restart().await;
    world.moved_to(&stack);
    let found = async {
        while ready(&stack, &world).await != unready {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), found).await.expect("it was not found");
    let all = world.operate(Method::GET, "/v1/audit-integrity", Value::Null).await;
    assert_eq!(
        (&all["findings"][0]["chain"], &all["findings"][0]["fault"]),
        (&json!("changes"), &json!("content"))
    );
}
