use super::*;
use crate::Config;
use caracal_mandate::anchor::Anchor;
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::AgentSessionId;
use caracal_store::Store;
use caracal_store::egress::{Egress, EgressOptions};
use caracal_store::keys::ZoneKeys;
use caracal_store::secrets::Vault;
use std::sync::atomic::{AtomicBool, Ordering};

const VAULT_KEY: &str = "8f3c1a5e77b2904dd1c6e8f0a4b35d29c07e91f2638ab4d5e6f70819a2b3c4d5";
const NO_WAIT: Duration = Duration::ZERO;
/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

struct World {
    _dir: tempfile::TempDir,
    sts: Sts,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
        let vault = Vault::new(VAULT_KEY, None, b"hash key of the tests").unwrap();
        let sts = Sts::new(Config {
            store: store.clone(),
            keys: ZoneKeys::new(store, vault.clone()),
            vault,
            issuer: "http://sts:8080".to_owned(),
            gateway_key: GatewayKey::from_hex(&"cd".repeat(32)).unwrap(),
            mint_limit_per_minute: 1,
            control_audience: "caracal-control".to_owned(),
            max_grant_ttl_seconds: 3600,
            admin_token: None,
            egress: Egress::new(EgressOptions::default()).unwrap(),
        });
        let this = Self { _dir: dir, sts };
        let sql =
            "INSERT INTO zones (id, name, slug, created_at, updated_at) VALUES ('z1', 'z1', 'z1', 0, 0)";
        this.change(sql, Change::Zone).await;
        this
    }

    async fn change(&self, sql: &'static str, change: Change) {
        let written: Result<(), StoreError> = self
            .sts
            .store()
            .write(move |tx| {
                Box::pin(async move {
                    sqlx::query(sql).execute(&mut *tx.connection()).await?;
                    tx.record_change(&ZoneId::new("z1").unwrap(), &change).await?;
                    Ok(())
                })
            })
            .await;
        written.unwrap();
    }

    async fn revoke(&self, session: &str) {
        let anchors = vec![Anchor::AgentSession(AgentSessionId::new(session).unwrap())];
        self.change("UPDATE zones SET updated_at = 1", Change::Revoked { anchors }).await;
    }
}

fn revoked(answer: &FeedResponse) -> Vec<String> {
    answer.zones.iter().flat_map(|zone| &zone.revoked).map(|revoked| revoked.anchor.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_a_gateway_that_is_behind_asks_comes_in_the_same_answer() {
    let world = World::new().await;
    let since = world.sts.generation().await.unwrap();
    world.revoke("one").await;
    let gather = world.revoke("two");
    let answer = world.sts.feed_gathering(since, LONG, gather).await.unwrap();
    assert_eq!((answer.previous, answer.generation), (since, Generation(since.0 + 2)));
    assert_eq!(revoked(&answer).len(), 2, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_waits_is_told_at_once_and_so_is_one_that_knows_nothing() {
    let world = World::new().await;
    let gathered = AtomicBool::new(false);
    let gather = || async { gathered.store(true, Ordering::SeqCst) };
    // Nothing changed, for as long as it waits.
    let since = world.sts.generation().await.unwrap();
    let answer = world.sts.feed_gathering(since, NO_WAIT, gather()).await.unwrap();
    assert_eq!((answer.previous, answer.generation), (since, since));
    // The change comes while it waits.
    let waiting = world.sts.feed_gathering(since, LONG, gather());
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut waiting).await.is_err());
    world.revoke("one").await;
    let answer = waiting.await.unwrap();
    assert_eq!((answer.generation, revoked(&answer).len()), (Generation(since.0 + 1), 1));
    let answer = world.sts.feed_gathering(Generation(0), LONG, gather()).await.unwrap();
    assert!(answer.snapshot);
    assert!(!gathered.load(Ordering::SeqCst));
}
