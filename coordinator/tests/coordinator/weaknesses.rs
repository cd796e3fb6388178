//! Where the reference is weak or its documents are wrong (contract §24), and what was once stricter (contract §25), as
//! far as no section's own tests show it. A real STS stands beside the Coordinator.

use crate::mint::Both;
use crate::support::{World, text};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

const READ: (&str, &str) = ("orders", "orders:read");

fn narrow(scopes: &[&str], hops: u32, ttl: u32) -> Value {
    json!({ "scopes": scopes, "constraints": { "max_hops": hops }, "ttl_seconds": ttl })
}

fn id(started: &Value) -> String {
    text(started, "agent_session_id")
}

#[tokio::test]
async fn coordinator_24_07_a_suspended_session_mints_nothing_and_a_resumed_one_does() {
    let both = Both::new().await;
    let token = both.bootstrap("a").await;
    let root = id(&both.start(&token, "a", json!({})).await);
    let user = both.world.claims("z1", "a", Some("ada@idp")).await;
    let proof = both.world.keys.sign(&user).await.unwrap();
    let child = json!({ "parent_id": root, "parent_authority": "none", "labels": ["reader"], "subject_token": proof });
    let child = id(&both.start(&token, "a", child).await);
    let edge = both.world.edge(&token, &root, &child, narrow(&["orders:read"], 1, 60)).await;
    let mint = || both.mint("a", (&child, &edge), READ);
    assert_eq!(mint().await.status, 200);
    for session in [&child, &root] {
        both.patch(&token, &format!("agents/{session}/suspend")).await;
        assert_eq!(mint().await.code(), (403, "access_denied"));
        both.patch(&token, &format!("agents/{session}/resume")).await;
        assert_eq!(mint().await.status, 200, "also for a user's session: no record was revoked");
    }
}

#[tokio::test]
async fn coordinator_24_08_a_revoked_delegation_leaves_all_others() {
    let both = Both::new().await;
    let token = both.bootstrap("a").await;
    let root = id(&both.start(&token, "a", json!({})).await);
    let (child, first) = both.narrowed(&token, &root, "reader", narrow(&["orders:read"], 2, 60)).await;
    let second = both.world.edge(&token, &root, &child, narrow(&["orders:read"], 1, 60)).await;
    let heir = json!({ "parent_id": child, "labels": ["reader"], "inherit_parent_edge_id": first });
    let heir = both.start(&token, "a", heir).await;
    let below = text(&heir, "delegation_edge_id");
    both.patch(&token, &format!("delegations/{first}/revoke")).await;
    let sessions = [(child.clone(), first, 403), (child, second, 200), (id(&heir), below, 403)];
    for (session, edge, status) in sessions {
        let answer = both.mint("a", (&session, &edge), READ).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.body);
        assert_eq!(both.world.status("sessions", &session).await, "active");
    }
    // The application's own mandate stands as before.
    both.start(&token, "a", json!({})).await;
}

#[tokio::test]
async fn coordinator_24_20_a_new_delegation_makes_no_mandate_stale() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (one, other) = (world.task(&token, None, "none").await, world.task(&token, None, "none").await);
    let epochs = || world.number("SELECT graph_epoch * 1000 + authority_epoch FROM zones WHERE id = 'z1'");
    let before = epochs().await;
    let edge = world.edge(&token, &one, &other, narrow(&["orders:read"], 2, 60)).await;
    world.start(&token, json!({ "application_id": "a", "parent_id": other })).await.ok();
    assert_eq!(epochs().await, before, "nobody lost anything");
    world.ask(Method::PATCH, &format!("/zones/z1/delegations/{edge}/revoke"), &token, None).await.ok();
    assert_eq!(epochs().await, before + 1001, "one loss, however many lost something by it");
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_24_22_nothing_is_minted_after_the_answer_of_a_revocation() {
    let both = Arc::new(Both::new().await);
    let token = both.bootstrap("a").await;
    let root = id(&both.start(&token, "a", json!({})).await);
    for by in ["delegation", "session", "suspension"] {
        let (child, edge) = both.narrowed(&token, &root, "reader", narrow(&["orders:read"], 1, 60)).await;
        let answered = Arc::new(AtomicBool::new(false));
        let mut minters = JoinSet::new();
        for _ in 0..4 {
            let (both, answered) = (Arc::clone(&both), Arc::clone(&answered));
            let (child, edge) = (child.clone(), edge.clone());
            minters.spawn(async move {
                let (mut granted, mut late) = (0, 0);
                loop {
                    let after = answered.load(Ordering::SeqCst);
                    let answer = both.mint("a", (&child, &edge), READ).await;
                    match (after, answer.code()) {
                        (false, (200, _)) => granted += 1,
                        (false, (403, _)) => {}
                        (true, code) => {
                            assert_eq!(code, (403, "access_denied"));
                            late += 1;
                        }
                        (_, code) => panic!("{code:?}"),
                    }
                    if late == 3 {
                        return granted;
                    }
                }
            });
        }
        // Some were minted, so there is a race to lose.
        while both.grants().await.iter().filter(|grant| grant["agent_session_id"] == child.as_str()).count()
            < 3
        {
            tokio::task::yield_now().await;
        }
        match by {
            "delegation" => both.patch(&token, &format!("delegations/{edge}/revoke")).await,
            "suspension" => both.patch(&token, &format!("agents/{child}/suspend")).await,
            _ => {
                both.world.ask(Method::DELETE, &format!("/zones/z1/agents/{child}"), &token, None).await.ok()
            }
        };
        answered.store(true, Ordering::SeqCst);
        let mut granted = 0;
        while let Some(minter) = minters.join_next().await {
            granted += minter.unwrap();
        }
        assert!(granted >= 3, "{by}");
    }
}

#[tokio::test]
async fn contract_25_scopes_are_trimmed_single_and_sorted() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let (one, other) = (world.task(&token, None, "none").await, world.task(&token, None, "none").await);
    let scopes = json!({ "scopes": [" orders:write", "orders:read ", "orders:write"] });
    let made = world.delegate(&token, &one, &other, scopes).await.ok();
    assert_eq!(made["scopes"], json!(["orders:read", "orders:write"]));
}
