//! Contract admin-audit §18, 32 to 36: the ledger, the record of changes, and how they are read.

use crate::common::{BOOTSTRAP, CHAIN_KEY, bench, id};
use crate::tell;
use caracal_admin::verify_admin_chain;
use caracal_audit::Ledger;
use caracal_audit::chain::ChainKey;
use caracal_audit::verify::verify_zone;
use caracal_store::audit::AuditEvent;
use serde_json::{Value, json};

fn exchange(zone: &str, request: &str, decision: &str, at: i64) -> AuditEvent {
    AuditEvent::new(zone, "token_exchange", request, decision, at)
}

fn key() -> ChainKey {
    ChainKey::new(CHAIN_KEY.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_32_no_cell_is_a_formula_and_fields_are_known() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let of = |label: &str, reason: &str, at: i64| {
        let facts =
            json!({ "agent_labels": [label, "ops"], "reason": reason, "application_name": "a,\"b\"\r\nc" });
        exchange(&zone, &format!("r{at}"), "deny", at).with_metadata(facts)
    };
    tell(&bench, vec![of("=cmd|' /C calc'!A0", "+1", 1), of("-2+3", "@SUM(A1)", 2), of("plain", "\tx", 3)])
        .await;
    let path = format!("/v1/zones/{zone}/audit");
    let csv = bench.get(&format!("{path}?format=csv&fields=agent_labels,reason,application_name")).await;
    let name = "\"a,\"\"b\"\"\r\nc\"";
    let expected = format!(
        "agent_labels,reason,application_name\r\nplain ops,'\tx,{name}\r\n'-2+3 ops,'@SUM(A1),{name}\r\n\
         '=cmd|' /C calc'!A0 ops,'+1,{name}\r\n"
    );
    assert_eq!(csv.body, Value::from(expected));
    for wrong in ["unknown", "reason,unknown", ",", "reason;"] {
        let answer = bench.get(&format!("{path}?fields={wrong}&cursor=broken")).await;
        assert_eq!(answer.code(), (400, "invalid_fields"), "{wrong}: before anything else");
    }
    let full = bench.get(&format!("{path}?limit=2")).await.ok();
    assert!(full["next_cursor"].is_string());
    let last = bench.get(&format!("{path}?limit=3")).await.ok();
    assert_eq!(last["next_cursor"], Value::Null, "and none where nothing follows");
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_33_explain_tells_each_denial_and_hides_what_is_secret() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let denial = |at: i64, resource: &str, reason: &str| {
        let facts = json!({
            "application_id": "app", "resource": resource, "requested_scopes": ["a"], "session_id": "rec",
            "client_secret": "cs_x", "deep": { "Authorization": "Bearer x" }, "reason": reason,
        });
        exchange(&zone, "r1", "deny", at).with_metadata(facts)
    };
    tell(
        &bench,
        vec![
            exchange(&zone, "r1", "allow", 1),
            denial(2, "resource://one", "first"),
            denial(3, "resource://two", "second"),
            exchange(&zone, "r1", "allow", 4),
            exchange(&zone, "r2", "pending", 5),
            exchange(&zone, "r2", "allow", 6),
        ],
    )
    .await;
    let path = format!("/v1/zones/{zone}/audit/by-request");
    let why = bench.get(&format!("{path}/r1/explain")).await.ok();
    assert_eq!((&why["final_decision"], why["events"].as_array().unwrap().len()), (&json!("deny"), 4));
    let denied = why["denied"].as_array().unwrap();
    let told: Vec<_> = denied
        .iter()
        .map(|denial| (&denial["reason"], &denial["policy_input"]["resource"]["identifier"]))
        .collect();
    assert_eq!(
        told,
        [(&json!("first"), &json!("resource://one")), (&json!("second"), &json!("resource://two"))]
    );
    for denial in denied {
        assert_eq!(denial["metadata"]["session_id"], "[redacted]");
        assert_eq!(denial["metadata"]["deep"]["Authorization"], "[redacted]");
        assert_eq!(denial["policy_input"]["context"]["session_id"], "rec", "for it is evaluated again");
    }
    assert!(!why.to_string().contains("cs_x") && !why.to_string().contains("Bearer x"));
    let allowed = bench.get(&format!("{path}/r2/explain")).await.ok();
    assert_eq!((&allowed["final_decision"], &allowed["denied"]), (&json!("allow"), &json!([])));
    for rest in ["r3", "r3/explain"] {
        assert_eq!(bench.get(&format!("{path}/{rest}")).await.code(), (404, "request_not_found"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_34_no_value_no_secret_name_and_no_nul_breaks_the_record() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let provider = bench.provider(&zone, "p").await;
    let path = format!("/v1/zones/{zone}/resources");
    let made = bench.resource(&zone, &provider, "orders").await;
    let odd = json!({ "name": "worth-hiding", "un\u{0}known": 1, "password": "worth-hiding" });
    bench.patch(&format!("{path}/{}", id(&made)), odd).await.ok();
    let body = json!({ "name": "a", "registration_method": "managed" });
    let application = id(&bench.post(&format!("/v1/zones/{zone}/applications"), body).await.ok());
    let secret = json!({ "client_secret": "worth-hiding-with-more-than-32-characters" });
    bench.patch(&format!("/v1/zones/{zone}/applications/{application}"), secret).await.ok();
    bench.call(BOOTSTRAP, "PATCH", &format!("/v1/zones/{zone}/applications/x%00y"), Some(json!({}))).await;
    let record = bench.get(&format!("/v1/zones/{zone}/admin-audit")).await.ok();
    assert!(!record.to_string().contains("worth-hiding"));
    let items = record["items"].as_array().unwrap();
    let payloads: Vec<&Value> =
        items.iter().filter(|item| item["method"] == "PATCH").map(|item| &item["payload_json"]).collect();
    assert_eq!(payloads[0]["error"], "invalid_params");
    assert_eq!(
        (&payloads[1]["changed_fields"], &payloads[1]["secret_rotated"], &payloads[1]["change_kind"]),
        (&json!([]), &json!(true), &json!("secret_rotation"))
    );
    assert_eq!(payloads[2]["changed_fields"], json!(["name", "un\u{0}known"]));
    let report = verify_admin_chain(&bench.store, &key(), Some(&zone)).await.unwrap();
    assert!(report.findings.is_empty() && report.checked == u64::try_from(items.len()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_35_an_event_is_taken_once_and_what_contradicts_it_is_told() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let event =
        exchange(&zone, "r\u{0}1", "deny", 1).with_metadata(json!({ "b": 1, "a": "n\u{0}l", "none": null }));
    let path = format!("/v1/zones/{zone}/audit");
    let list = async || bench.get(&path).await.ok()["items"].as_array().unwrap().clone();
    tell(&bench, vec![event.clone()]).await;
    let first = list().await;
    tell(&bench, vec![event.clone()]).await;
    assert_eq!(list().await, first, "the same again is the same");
    assert_eq!(bench.number("SELECT COUNT(*) FROM audit_outbox").await, 0);
    let mut same = event.clone();
    same.metadata_json = Some(json!({ "none": null, "a": "n\u{0}l", "b": 1 }));
    tell(&bench, vec![same]).await;
    assert_eq!(list().await, first, "also with its members in another order");
    let contradicted = AuditEvent { decision: "allow".to_owned(), ..event.clone() };
    tell(&bench, vec![contradicted]).await;
    let told = list().await;
    assert_eq!((told.len(), &told[1]), (2, &first[0]), "what was there first stays");
    assert_eq!(told[0]["evaluation_status"], "content_mismatch");
    assert_eq!(told[0]["metadata_json"]["event_id"], json!(event.id));
    // What the ledger cannot take waits, and is taken whole afterwards.
    bench.execute("ALTER TABLE audit_events RENAME TO gone").await;
    tell(&bench, vec![exchange(&zone, "r2", "allow", 2)]).await;
    assert_eq!(bench.get(&path).await.code(), (503, "database_unavailable"));
    assert_eq!(bench.number("SELECT COUNT(*) FROM audit_outbox").await, 1);
    bench.execute("ALTER TABLE gone RENAME TO audit_events").await;
    assert_eq!(list().await.len(), 3);
    let report = verify_zone(&bench.store, &key(), &zone).await.unwrap();
    assert_eq!((report.checked, report.findings.len()), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn admin_18_36_any_number_of_processes_take_events_without_a_leader() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let ledgers: Vec<Ledger> = (0..4).map(|_| Ledger::new(bench.store.clone(), CHAIN_KEY.to_vec())).collect();
    let mut tasks = Vec::new();
    for ledger in ledgers {
        for _ in 0..5 {
            let ledger = ledger.clone();
            tasks.push(tokio::spawn(async move { ledger.catch_up().await.unwrap() }));
        }
    }
    for round in 0..10 {
        tell(&bench, (0..10).map(|n| exchange(&zone, &format!("r{round}-{n}"), "allow", n)).collect()).await;
    }
    // One that goes away in the middle leaves the rest to the others.
    tasks.iter().step_by(3).for_each(tokio::task::JoinHandle::abort);
    for task in tasks {
        let _ = task.await;
    }
    let list = bench.get(&format!("/v1/zones/{zone}/audit?limit=1000")).await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 100);
    let report = verify_zone(&bench.store, &key(), &zone).await.unwrap();
    assert_eq!((report.checked, report.findings.len()), (100, 0), "one chain without a gap");
}
