//! The error reference is held to the code: every code and reason of Audit's source stands in `docs/errors.md` with its status,
//! nothing else stands there, and every code is reached by a request.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use axum::body::Body;
use axum::http::{Request, StatusCode};
use caracal_audit::Audit;
use caracal_mandate::gateway_signature::{
    GatewayKey, NONCE_HEADER, SIGNATURE_HEADER, Signed, TIMESTAMP_HEADER,
};
use caracal_store::{Store, ids};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use tower::ServiceExt as _;

const PATH: &str = "/internal/audit/gateway-events";

/// All source of this crate without white space, and without its tests.
fn source() -> String {
    let text = source_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    text.split_whitespace().collect()
}

fn source_below(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts = entries.filter(|path| !path.ends_with("tests.rs")).map(|path| match path.is_dir() {
        true => source_below(&path),
        false => {
            let text = std::fs::read_to_string(path).unwrap();
            text.split_once("#[cfg(test)]\nmod tests {").map_or(text.clone(), |(source, _)| source.to_owned())
        }
    });
    texts.collect()
}

/// What refusals are made with: status and code.
fn made() -> BTreeSet<(u16, String)> {
    let source = source();
    let one = |rest: &str| {
        let (status, rest) = rest.split_once(",\"").expect("a status and a code");
        let status = match status {
            "BAD_REQUEST" => StatusCode::BAD_REQUEST,
            "NOT_FOUND" => StatusCode::NOT_FOUND,
            "PAYLOAD_TOO_LARGE" => StatusCode::PAYLOAD_TOO_LARGE,
            "SERVICE_UNAVAILABLE" => StatusCode::SERVICE_UNAVAILABLE,
            "UNAUTHORIZED" => StatusCode::UNAUTHORIZED,
            other => panic!("{other} is not known here"),
        };
        (status.as_u16(), rest.split('"').next().unwrap().to_owned())
    };
    source.split("Refusal::new(StatusCode::").skip(1).map(one).collect()
}

/// The rows of the reference's section on Audit, by cells: those of its first table, and those of its second.
fn reference() -> [Vec<Vec<String>>; 2] {
    const PAGE: &str = include_str!("../../docs/errors.md");
    let (_, section) = PAGE.split_once("\n## Audit\n").expect("a section on Audit");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let (first, second) = section.split_once("`GET /health`").expect("a table of reasons");
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("| ")).skip(1).map(cells).collect();
    [rows(first), rows(second)]
}

#[test]
fn every_error_code_stands_in_the_reference_and_nothing_else() {
    let rows = reference()[0].iter().map(|row| (row[1].parse().unwrap(), row[2].clone())).collect();
    assert_eq!(made(), rows);
}

#[test]
fn every_reason_of_not_being_ready_stands_in_the_reference_and_nothing_else() {
    let source = source();
    let after = |mark: &'static str| {
        source.split(mark).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned())
    };
    let (_, ready) = source.split_once("asyncfnready(").expect("what tells whether it is ready");
    let (ready, _) = ready.split_once("Ok(false)=>None").expect("where it is ready");
    let reasons = ready.split("Some(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    let mut made: BTreeSet<String> = reasons.chain(after("\"reason\":\"")).collect();
    assert_eq!(made.len(), 3, "the source is read: {made:?}");
    // What every service answers is made in the store.
    made.insert("draining".to_owned());
    let rows: BTreeSet<String> = reference()[1].iter().map(|row| row[1].clone()).collect();
    assert_eq!(made, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_code_is_reached_with_its_status() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
    let key = GatewayKey::from_hex(&"ab".repeat(32)).unwrap();
    let audit = Audit::new(store.clone(), b"chain-key-of-32-bytes-or-more-00".to_vec(), key.clone());
    let ask = async |request: Request<Body>| {
        let response = audit.router().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        (status, body["error"].as_str().unwrap().to_owned())
    };
    let signed = |body: &str| {
        let (timestamp, nonce) = ((store.now() / 1000).to_string(), ids::new_id());
        let parts = Signed {
            timestamp: &timestamp,
            nonce: &nonce,
            method: "POST",
            path: PATH,
            body: body.as_bytes(),
        };
        Request::post(PATH)
            .header(TIMESTAMP_HEADER, &timestamp)
            .header(NONCE_HEADER, &nonce)
            .header(SIGNATURE_HEADER, key.sign(&parts))
            .body(Body::from(body.to_owned()))
            .unwrap()
    };
    let delivery = r#"{"gateway":"g1","worker":"w1","incarnation":7,"events":[]}"#;
    let mut reached = BTreeSet::new();
    reached.insert(ask(Request::get("/nowhere").body(Body::empty()).unwrap()).await);
    reached.insert(ask(Request::post(PATH).body(Body::from(delivery)).unwrap()).await);
    reached.insert(ask(signed("{}")).await);
    reached.insert(ask(signed(&" ".repeat(4 * 1024 * 1024 + 1))).await);
    store.close().await;
    reached.insert(ask(signed(delivery)).await);
    assert_eq!(reached, made());
}
