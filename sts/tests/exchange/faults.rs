//! The storage fails: nothing is granted, nobody is called a stranger, and no budget of failures is spent
//! (contract sts §26.4, §27.19, §28.20).

use crate::approvals::SUBJECT;
use crate::support::{Answer, Form, GatewayCall, World};
use axum::body::Body;
use axum::http::Request;
use serde_json::json;

const RECORDS: &str = "SELECT COUNT(*) FROM authority_records";

impl World {
    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn failures(&self) -> i64 {
        self.number("SELECT COUNT(*) FROM counters WHERE key LIKE 'auth-failures:%'").await
    }
}

/// Every table that an exchange touches is taken away in turn.
#[tokio::test(flavor = "multi_thread")]
async fn sts_27_19_a_table_that_is_gone_is_503_and_no_failed_authentication() {
    let world = World::new().await;
    world.mandate().await;
    // Table; does a mint need it; does a use.
    let cases = [
        ("applications", true, true),
        ("zones", true, true),
        ("resources", true, true),
        ("providers", true, true),
        ("sessions", true, true),
        ("delegation_edges", true, true),
        ("authority_records", true, true),
        ("counters", true, true),
        ("audit_outbox", true, true),
        ("used_once", false, true),
        ("approvals", false, false),
        ("signing_keys", false, false),
    ];
    for (table, mint, usage) in cases {
        let token = world.mandate().await;
        let records = world.number(RECORDS).await;
        world.sql(&format!("ALTER TABLE {table} RENAME TO away")).await;
        let minted = world.exchange(&Form::mint()).await;
        let wrong = world.exchange(&Form::mint().with("client_secret", "wrong")).await;
        let used = world.present(&token).await;
        world.sql(&format!("ALTER TABLE away RENAME TO {table}")).await;
        for (what, answer, needed) in [("mint", &minted, mint), ("use", &used, usage)] {
            if needed {
                assert_eq!(
                    answer.error(),
                    (503, "sts_unavailable"),
                    "{what} without {table}: {}",
                    answer.body
                );
            } else {
                answer.granted();
            }
        }
        let granted = i64::from(!mint) + i64::from(!usage);
        assert_eq!(world.number(RECORDS).await, records + granted, "{table}");
        // A secret is known to be wrong only while secrets can be read and its failure be written down.
        if ["applications", "zones", "counters", "audit_outbox"].contains(&table) {
            assert_eq!(wrong.error(), (503, "sts_unavailable"), "{table}: {}", wrong.body);
            assert_eq!(world.failures().await, 0, "{table}");
        } else {
            assert_eq!(wrong.error(), (401, "access_denied"), "{table}: {}", wrong.body);
            world.sql("DELETE FROM counters WHERE key LIKE 'auth-failures:%'").await;
        }
        if usage {
            world.present(&token).await.granted();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_27_19_without_a_database_every_answer_says_so() {
    let world = World::gated(SUBJECT).await;
    let (id, binding) = world.held().await;
    let user = world.user().await;
    world.activate("3", crate::support::POLICY).await;
    let token = world.mandate().await;
    let before = world.failures().await;
    world.store.close().await;
    let yes = json!({ "decision": "approved", "binding": binding });
    let answers = [
        ("bootstrap", world.exchange(&Form::bootstrap()).await),
        ("mint", world.exchange(&Form::mint()).await),
        ("a wrong secret", world.exchange(&Form::bootstrap().with("client_secret", "wrong")).await),
        ("no such application", world.exchange(&Form::bootstrap().with("application_id", "nobody")).await),
        ("another zone", world.exchange(&Form::bootstrap().with("application_id", "b1")).await),
        ("use", world.present(&token).await),
        ("not a mandate", world.present("a.b.c").await),
        ("the key set", world.get("/.well-known/jwks.json?zone_id=z1").await),
        ("an approval", world.get(&format!("/approvals/{id}?wait=25")).await),
        ("a decision", world.decide(&id, &user, yes).await),
        ("the feed", world.send(GatewayCall::poll("gateway=g1")).await),
    ];
    for (name, answer) in answers {
        assert_eq!(answer.error(), (503, "sts_unavailable"), "{name}: {}", answer.body);
        assert_eq!(answer.header("www-authenticate"), "", "{name}");
    }
    let ready = world.get("/ready").await;
    assert_eq!((ready.status, &ready.body["reason"]), (503, &json!("postgres_unreachable")));
    assert_eq!(world.get("/health").await.status, 200);
    let world = world.restarted().await;
    assert_eq!(world.failures().await, before, "an outage is nobody's failure");
    world.present(&token).await.granted();
}

/// A commit that fails grants nothing, even where everything before it went well.
#[tokio::test(flavor = "multi_thread")]
async fn sts_27_19_another_process_that_keeps_the_database_locked() {
    let world = World::new().await;
    let token = world.mandate().await;
    let records = world.number(RECORDS).await;
    let other = world.opened_again().await;
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let (held, holding) = tokio::sync::oneshot::channel::<()>();
    let keeper = tokio::spawn(async move {
        let kept: Result<(), caracal_store::StoreError> = other
            .store
            .write(move |_| {
                Box::pin(async move {
                    let _ = held.send(());
                    let _ = told.await;
                    Ok(())
                })
            })
            .await;
        kept.unwrap();
    });
    holding.await.unwrap();
    let mint = world.spawn(Form::mint().request());
    let used = world.present(&token).await;
    let minted = mint.await.unwrap();
    assert_eq!(minted.error(), (503, "sts_unavailable"), "{}", minted.body);
    assert_eq!(used.error(), (503, "sts_unavailable"), "{}", used.body);
    tell.send(()).unwrap();
    keeper.await.unwrap();
    assert_eq!(world.number(RECORDS).await, records);
    world.present(&token).await.granted();
    assert_eq!(world.failures().await, 0);
}

/// What is written to a file that is deleted is lost: nothing is granted there.
#[tokio::test(flavor = "multi_thread")]
async fn sts_27_19_a_database_whose_file_is_deleted() {
    let world = World::new().await;
    let token = world.mandate().await;
    let (records, failures) = (world.number(RECORDS).await, world.failures().await);
    let moved = world.move_database("moved.db");
    for _ in 0..2 {
        let answers = [
            ("mint", world.exchange(&Form::mint()).await),
            ("use", world.present(&token).await),
            ("a wrong secret", world.exchange(&Form::mint().with("client_secret", "wrong")).await),
        ];
        for (name, answer) in answers {
            assert_eq!(answer.error(), (503, "sts_unavailable"), "{name}: {}", answer.body);
        }
        assert_eq!(world.get("/ready").await.status, 503);
    }
    assert!(!world.database().exists(), "nobody makes another file in its place");
    std::fs::rename(moved, world.database()).unwrap();
    assert_eq!(world.get("/ready").await.status, 200);
    assert_eq!((world.number(RECORDS).await, world.failures().await), (records, failures));
    world.present(&token).await.granted();
}
