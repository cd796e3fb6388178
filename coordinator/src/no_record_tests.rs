//! What a caller without an authority record is told. None gets so far: every mandate names one, and the operator is
//! let in elsewhere only. So these are asked behind the door.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::caller::Caller;
use crate::config::{Config, Limits};
use crate::counters::Counters;
use crate::failure::{Code, Failure};
use crate::{lease, subject};
use caracal_mandate::id::ZoneId;
use caracal_store::Store;
use caracal_store::keys::ZoneKeys;
use caracal_store::model::{AgentSession, Lifecycle, SessionStatus};
use caracal_store::secrets::Vault;
use serde_json::json;

const KEY: &str = "8f3c1a5e77b2904dd1c6e8f0a4b35d29c07e91f2638ab4d5e6f70819a2b3c4d5";

async fn store(dir: &tempfile::TempDir) -> Store {
    Store::open_file(&dir.path().join("caracal.db")).await.unwrap()
}

fn operator() -> Caller {
    Caller::operator(ZoneId::new("z1").unwrap())
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, Failure>, code: Code) {
    match result {
        Err(Failure::Refused(refusal)) => assert_eq!(refusal.code, code),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn contract_4_3_row_2_a_session_stands_on_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let config = Config {
        keys: ZoneKeys::new(store.clone(), Vault::new(KEY, None, b"h").unwrap()),
        store,
        issuer: "http://sts.test".to_owned(),
        operator_token: None,
        limits: Limits::default(),
        counters: Counters::default(),
        groups: crate::Groups::default(),
    };
    let resolved = subject::resolve(&config, &operator(), &"a".parse().unwrap(), None, None).await;
    assert_refused(resolved, Code::SubjectSessionIdRequired);
}

#[tokio::test]
async fn contract_5_1_a_lease_is_renewed_on_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let session = AgentSession {
        id: "s".parse().unwrap(),
        zone_id: ZoneId::new("z1").unwrap(),
        application_id: "a".parse().unwrap(),
        parent_id: None,
        subject_authority_record_id: "r".parse().unwrap(),
        lifecycle: Lifecycle::Service,
        labels: Vec::new(),
        metadata: json!({}),
        status: SessionStatus::Active,
        depth: 0,
        max_children: 10,
        child_count: 0,
        ttl_seconds: None,
        started_at: 0,
        last_active_at: 0,
        updated_at: 0,
        last_heartbeat_at: Some(0),
        heartbeat_deadline_at: Some(i64::MAX),
        lease_generation: 1,
        terminated_at: None,
        termination_reason: None,
    };
    let checked: Result<(), Failure> = store(&dir)
        .await
        .write(move |tx| Box::pin(async move { lease::check_record(tx, &operator(), &session).await }))
        .await;
    assert_refused(checked, Code::AuthorityRecordRequired);
}
