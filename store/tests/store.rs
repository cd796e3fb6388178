//! The store on a real SQLite file: group commit, durability, epochs, keys.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use caracal_mandate::anchor::Anchor;
use caracal_mandate::claims::{Claims, MandateUse, SubjectType};
use caracal_mandate::epoch::Generation;
use caracal_mandate::id::{AgentSessionId, ZoneId};
use caracal_store::change::{Change, changes_after, revoked_anchors};
use caracal_store::keys::{MandateError, ZoneKeys};
use caracal_store::model::Zone;
use caracal_store::once::OneUse;
use caracal_store::secrets::Vault;
use caracal_store::{Store, StoreError, WriteTx};

const KEY: &str = "8f3c1a5e77b2904dd1c6e8f0a4b35d29c07e91f2638ab4d5e6f70819a2b3c4d5";

fn zone() -> ZoneId {
    ZoneId::new("z1").unwrap()
}

async fn insert_zone(tx: &mut WriteTx<'_>, id: &str) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO zones (id, name, slug, created_at, updated_at) VALUES ($1, $1, $1, 0, 0)")
        .bind(id)
        .execute(&mut *tx.connection())
        .await?;
    Ok(())
}

async fn store_with_zone(dir: &tempfile::TempDir) -> Store {
    let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
    store.write(|tx| Box::pin(insert_zone(tx, "z1"))).await.unwrap();
    store
}

fn claims(store: &Store) -> Claims {
    let now = store.now() / 1000;
    serde_json::from_value(serde_json::json!({
        "iss": "http://sts", "sub": "a", "aud": ["http://sts"], "exp": now + 60, "iat": now, "jti": "j", "zone_id": "z1",
        "client_id": "a", "sid": "s", "root_sid": "s", "use": "session", "sub_type": "application"
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_piece_takes_back_its_own_writes_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with_zone(&dir).await;
    let writes = (0..200).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .write(move |tx| {
                    Box::pin(async move {
                        tx.use_once(&OneUse::new(format!("k{number}"), i64::MAX)).await?;
                        if number % 2 == 0 { Err(StoreError::corrupt("on purpose")) } else { Ok(number) }
                    })
                })
                .await
        })
    });
    let mut stored = 0;
    for write in writes.collect::<Vec<_>>() {
        stored += usize::from(write.await.unwrap().is_ok());
    }
    let mut connection = store.read().await.unwrap();
    let rows: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM used_once").fetch_one(&mut *connection).await.unwrap();
    assert_eq!((stored, rows), (100, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_used_once_is_used_once_by_fifty_at_a_time_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with_zone(&dir).await;
    let use_up = async |store: &Store| {
        let once = OneUse::new("jti:1".to_owned(), i64::MAX);
        store.write(move |tx| Box::pin(async move { tx.use_once(&once).await })).await.unwrap()
    };
    let attempts: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { use_up(&store).await })
        })
        .collect();
    let mut first = 0;
    for attempt in attempts {
        first += u32::from(attempt.await.unwrap());
    }
    assert_eq!(first, 1);
    store.close().await;
    let again = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
    assert!(!use_up(&again).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_raises_the_epoch_and_wakes_readers() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with_zone(&dir).await;
    let mut changes = store.changes();
    changes.mark_unchanged();
    let anchor = Anchor::AgentSession(AgentSessionId::new("s1").unwrap());
    let revoked = Change::Revoked { anchors: vec![anchor.clone()] };
    let change = revoked.clone();
    let epoch = store
        .write(move |tx| Box::pin(async move { tx.record_change(&zone(), &change).await }))
        .await
        .unwrap();
    changes.changed().await.unwrap();
    assert_eq!((epoch.0, *changes.borrow()), (1, 2));
    store
        .write(|tx| Box::pin(async move { tx.record_change(&zone(), &Change::Policy).await }))
        .await
        .unwrap();
    let mut connection = store.read().await.unwrap();
    let epochs = Zone::find(&mut connection, &zone()).await.unwrap().unwrap().epochs;
    assert_eq!((epochs.authority.0, epochs.policy.0), (2, 2));
    let log = changes_after(&mut connection, Generation(0)).await.unwrap();
    assert_eq!(log.iter().map(|entry| entry.3.clone()).collect::<Vec<_>>(), [revoked, Change::Policy]);
    assert_eq!(revoked_anchors(&mut connection, &zone(), store.now()).await.unwrap().len(), 1);
    drop(connection);
    let restored = Change::Restored { anchors: vec![anchor] };
    store.write(move |tx| Box::pin(async move { tx.record_change(&zone(), &restored).await })).await.unwrap();
    let mut connection = store.read().await.unwrap();
    assert_eq!(revoked_anchors(&mut connection, &zone(), store.now()).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_no_zone_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with_zone(&dir).await;
    let nowhere = ZoneId::new("nowhere").unwrap();
    let result =
        store.write(move |tx| Box::pin(async move { tx.record_change(&nowhere, &Change::Keys).await })).await;
    assert!(result.is_err());
    assert_eq!(*store.changes().borrow(), 1);
    let mut connection = store.read().await.unwrap();
    assert!(changes_after(&mut connection, Generation(0)).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_20_keys_are_made_once_rotate_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with_zone(&dir).await;
    let keys = ZoneKeys::new(store.clone(), Vault::new(KEY, None, b"h").unwrap());
    assert!(keys.verification_keys(&zone()).await.unwrap().is_empty());
    let claims = claims(&store);
    let signing: Vec<_> = (0..8)
        .map(|_| {
            let (keys, claims) = (keys.clone(), claims.clone());
            tokio::spawn(async move { keys.sign(&claims).await.unwrap() })
        })
        .collect();
    let mut token = String::new();
    for task in signing {
        token = task.await.unwrap();
    }
    assert_eq!(keys.verification_keys(&zone()).await.unwrap().len(), 1);
    let verify = |keys: ZoneKeys, token: String, usage| async move {
        keys.verify(&zone(), &token, "http://sts", usage).await
    };
    assert_eq!(
        verify(keys.clone(), token.clone(), MandateUse::Session).await.unwrap().sub_type,
        SubjectType::Application
    );
    let wrong = verify(keys.clone(), token.clone(), MandateUse::Gateway).await;
    assert!(matches!(wrong, Err(MandateError::Use)));
    let rotated = keys.rotate(&zone(), "r1").await.unwrap().unwrap();
    let set = keys.verification_keys(&zone()).await.unwrap();
    assert_eq!((set.len(), &set[0].kid), (2, &rotated));
    assert!(
        verify(keys.clone(), token.clone(), MandateUse::Session).await.is_ok(),
        "the older key has a grace"
    );
    keys.rotate(&zone(), "r2").await.unwrap().unwrap();
    assert!(matches!(verify(keys.clone(), token, MandateUse::Session).await, Err(MandateError::Signature)));
    let token = keys.sign(&claims).await.unwrap();
    store.close().await;
    let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
    let keys = ZoneKeys::new(store, Vault::new(KEY, None, b"h").unwrap());
    assert!(verify(keys, token, MandateUse::Session).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_10_1_a_gateways_mandate_is_known_as_signed_here_and_no_other_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with_zone(&dir).await;
    let keys = ZoneKeys::new(store.clone(), Vault::new(KEY, None, b"h").unwrap());
    let claims = Claims { usage: MandateUse::Gateway, ..claims(&store) };
    let verify = async |token: &str| keys.verify(&zone(), token, "http://sts", MandateUse::Gateway).await;
    let token = keys.sign(&claims).await.unwrap();
    // The first time it is known, the second time it is verified.
    for _ in 0..2 {
        assert_eq!(verify(&token).await.unwrap(), claims);
    }
    let signed = keys.sign(&claims).await.unwrap();
    let (unsigned, signature) = signed.rsplit_once('.').unwrap();
    let other = keys.sign(&Claims { sub: "somebody".to_owned(), ..claims.clone() }).await.unwrap();
    let (body_of_other, _) = other.rsplit_once('.').unwrap();
    for forged in [format!("{body_of_other}.{signature}"), format!("{unsigned}.{}", "A".repeat(86))] {
        assert!(matches!(verify(&forged).await, Err(MandateError::Signature)), "{forged}");
    }
    // What was signed by keys that do not count any more is not known by its bytes either.
    keys.rotate(&zone(), "r1").await.unwrap().unwrap();
    keys.rotate(&zone(), "r2").await.unwrap().unwrap();
    assert!(matches!(verify(&signed).await, Err(MandateError::Signature)));
}
