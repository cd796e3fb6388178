//! What was taken away is never granted, however the two race.

use crate::support::{Form, GatewayCall, World, edge_revoked, revocation_of_edge, session_anchor, zone};
use caracal_store::StoreError;
use caracal_store::change::Change;
use sqlx::AssertSqlSafe;
use tokio::sync::oneshot;

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_between_mint_and_use_denies_the_use() {
    let revocations = [
        ("session suspended", "UPDATE sessions SET status = 'suspended' WHERE id = 'T'"),
        ("source terminated", "UPDATE sessions SET status = 'terminated', terminated_at = 1 WHERE id = 'P'"),
        ("edge revoked", "UPDATE delegation_edges SET status = 'revoked', revoked_at = 1 WHERE id = 'E'"),
        ("record revoked", "UPDATE authority_records SET status = 'revoked' WHERE id NOT LIKE 'rec-%'"),
        ("application archived", "UPDATE applications SET archived_at = 1 WHERE id = 'a1'"),
        ("resource archived", "UPDATE resources SET archived_at = 1 WHERE id = 'R1'"),
        ("provider archived", "UPDATE providers SET archived_at = 1 WHERE id = 'p-mandate'"),
        ("zone archived", "UPDATE zones SET archived_at = 1 WHERE id = 'z1'"),
    ];
    for (name, sql) in revocations {
        let world = World::new().await;
        let token = world.mandate().await;
        world.change(sql, Change::Revoked { anchors: session_anchor("T") }).await;
        let answer = world.send(GatewayCall::new(Form::usage(&token)).request()).await;
        assert!(matches!(answer.status, 401 | 403), "{name}: {} {}", answer.status, answer.body);
        assert_eq!(
            world.number("SELECT COUNT(*) FROM used_once WHERE key LIKE 'mandate:%'").await,
            0,
            "{name}"
        );
    }
}

impl World {
    /// Keeps the writer busy until told, then makes the change in that same transaction; answers how many records there
    /// were at that moment. Whatever is asked afterwards waits behind it.
    async fn change_once_told(
        &self,
        sql: String,
        change: Change,
    ) -> (oneshot::Sender<()>, tokio::task::JoinHandle<i64>) {
        let ((tell, told), (begin, begun)) = (oneshot::channel(), oneshot::channel());
        let store = self.store.clone();
        let changed = tokio::spawn(async move {
            let records: Result<i64, StoreError> = store
                .write(move |tx| {
                    Box::pin(async move {
                        let _ = begin.send(());
                        let _ = told.await;
                        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx.connection()).await?;
                        tx.record_change(&zone(), &change).await?;
                        Ok(sqlx::query_scalar("SELECT COUNT(*) FROM authority_records")
                            .fetch_one(&mut *tx.connection())
                            .await?)
                    })
                })
                .await;
            records.unwrap()
        });
        begun.await.unwrap();
        (tell, changed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sts_27_11_a_revocation_that_overtakes_judged_requests_denies_them_all() {
    let world = World::new().await;
    let mandates = [world.mandate().await, world.mandate().await, world.mandate().await];
    let (tell, changed) = world.change_once_told(revocation_of_edge("E"), edge_revoked("E")).await;
    // These are judged while the edge stands, and queue for the writer.
    let mut requests: Vec<_> = (0..20).map(|_| world.spawn(Form::mint().request())).collect();
    requests.extend(mandates.iter().map(|token| world.spawn(GatewayCall::new(Form::usage(token)).request())));
    // These need no writer: when they are through, so are most of the judgements above.
    for _ in 0..40 {
        assert_eq!(world.exchange(&Form::bootstrap().without("resource")).await.status, 400);
    }
    tell.send(()).unwrap();
    let records = changed.await.unwrap();
    for request in requests {
        let answer = request.await.unwrap();
        assert_eq!(answer.error(), (403, "access_denied"), "{}", answer.body);
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM authority_records").await, records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sts_27_25_a_policy_that_overtakes_judged_requests_decides_them() {
    let world = World::new().await;
    world.exchange(&Form::mint()).await.granted();
    let sql = "UPDATE policy_sets SET active_version_id = NULL".to_owned();
    let (tell, changed) = world.change_once_told(sql, Change::Policy).await;
    let requests: Vec<_> = (0..10).map(|_| world.spawn(Form::mint().request())).collect();
    for _ in 0..20 {
        assert_eq!(world.exchange(&Form::bootstrap().without("resource")).await.status, 400);
    }
    tell.send(()).unwrap();
    changed.await.unwrap();
    for request in requests {
        assert_eq!(request.await.unwrap().description(), "policy denied (no_active_policy_set)");
    }
}

/// Mints and revocations in any order: after the commit of a revocation no record is ever made.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn minting_against_revoking() {
    let world = World::new().await;
    let ends = world.store.now() + 3_600_000;
    let mut granted = 0;
    for round in 0..12 {
        let edge = format!("race{round}");
        world
            .add_edge(&edge, "P", "T", &format!("'R1', '[\"orders:read\"]', '{{}}', 'active', {ends}"))
            .await;
        let form = Form::mint().with("delegation_edge_id", &edge);
        let mut requests: Vec<_> = (0..15).map(|_| world.spawn(form.request())).collect();
        let (tell, changed) = world.change_once_told(revocation_of_edge(&edge), edge_revoked(&edge)).await;
        requests.extend((0..15).map(|_| world.spawn(form.request())));
        tell.send(()).unwrap();
        let records = changed.await.unwrap();
        assert_eq!(world.exchange(&form).await.error(), (403, "access_denied"));
        for request in requests {
            let answer = request.await.unwrap();
            granted += u32::from(answer.status == 200);
            assert!(matches!(answer.status, 200 | 403), "{}", answer.body);
        }
        assert_eq!(world.number("SELECT COUNT(*) FROM authority_records").await, records, "round {round}");
    }
    assert!(granted <= 12 * 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mandate_carries_the_epoch_that_it_was_judged_at() {
    let world = World::new().await;
    world.mandate().await;
    let epoch = |sql: &'static str| world.number(sql);
    let before = epoch("SELECT authority_epoch FROM zones WHERE id = 'z1'").await;
    let claims = world.exchange(&Form::mint()).await.claims();
    assert_eq!(claims["authority_epoch"], before);
    world.change("SELECT 1", Change::Revoked { anchors: session_anchor("Y") }).await;
    let claims = world.exchange(&Form::mint()).await.claims();
    assert_eq!(claims["authority_epoch"], before + 1);
}
