//! Grants that are judged by what is kept and written together are the same grants, and no more of them.

use crate::support::{Answer, Form, GatewayCall, World};
use std::collections::BTreeMap;

async fn all(world: &World, requests: Vec<axum::http::Request<axum::body::Body>>) -> Vec<Answer> {
    let calls: Vec<_> = requests.into_iter().map(|request| world.spawn(request)).collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    answers
}

fn statuses(answers: &[Answer]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.status).or_default() += 1;
    }
    counts
}

/// Contract sts §12.5: the budget is exact, however many ask at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_budget_is_spent_to_the_last_mint_and_no_further() {
    let world = World::with_mint_limit(20).await;
    world.mandate().await;
    let answers = all(&world, (0..60).map(|_| Form::mint().request()).collect()).await;
    assert_eq!(statuses(&answers), BTreeMap::from([(200, 19), (429, 41)]));
    let spent = world.number("SELECT count FROM counters WHERE key LIKE 'mint:%'").await;
    assert_eq!(spent, 20, "who was refused spent nothing");
    let events = world.events().await;
    let limited = events.iter().filter(|event| event["evaluation_status"] == "rate_limited");
    assert_eq!(limited.count(), 41);
}

/// Each grant of a group has its own record, its own event and its own id.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_grant_of_a_group_is_written_down() {
    let world = World::new().await;
    world.mandate().await;
    let answers = all(&world, (0..100).map(|_| Form::mint().request()).collect()).await;
    let mut ids = std::collections::BTreeSet::new();
    for answer in answers {
        let claims = crate::support::claims_of(&answer.granted());
        let sid = claims["sid"].as_str().unwrap().to_owned();
        let stands =
            format!("SELECT COUNT(*) FROM authority_records WHERE id = '{sid}' AND status = 'active'");
        assert_eq!(world.number(&stands).await, 1);
        ids.insert(claims["jti"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 100);
    let granted = world.events().await.iter().filter(|event| event["decision"] == "allow").count();
    assert_eq!(granted, 101);
}

/// A gateway that sends one nonce with many mandates is heard once, and no mandate of the others is used up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_nonce_serves_one_request_and_burns_no_other_mandate() {
    let world = World::new().await;
    let mut mandates = Vec::new();
    for _ in 0..12 {
        mandates.push(world.mandate().await);
    }
    world.present(&mandates.pop().unwrap()).await.granted();
    let calls = mandates.iter().map(|token| {
        let mut call = GatewayCall::new(Form::usage(token));
        call.nonce = "the-same".to_owned();
        call.request()
    });
    let answers = all(&world, calls.collect()).await;
    assert_eq!(statuses(&answers), BTreeMap::from([(200, 1), (401, 10)]));
    let mut later = Vec::new();
    for token in &mandates {
        later.push(world.present(token).await);
    }
    assert_eq!(statuses(&later), BTreeMap::from([(200, 10), (401, 1)]));
}

/// A service that is heard lives on, although nothing of that is a change of authority.
#[tokio::test]
async fn a_service_that_was_heard_mints_on() {
    let world = World::new().await;
    let lease = |ends: i64| format!("ttl_seconds = NULL, heartbeat_deadline_at = {ends} WHERE id = 'T'");
    let ends = world.store.now() + 300;
    world.sql(&format!("UPDATE sessions SET lifecycle = 'service', {}", lease(ends))).await;
    while world.store.now() <= ends {
        world.exchange(&Form::mint()).await;
    }
    assert_eq!(world.exchange(&Form::mint()).await.error(), (403, "access_denied"), "its lease ran out");
    // The Coordinator's heartbeat: the zone's epoch stays as it is.
    let epoch = world.number("SELECT authority_epoch FROM zones WHERE id = 'z1'").await;
    let same_epoch = format!("UPDATE zones SET authority_epoch = {epoch} WHERE id = 'z1'");
    let ends = world.store.now() + 600_000;
    world.sql(&format!("UPDATE sessions SET {}; {same_epoch}", lease(ends))).await;
    for _ in 0..3 {
        world.exchange(&Form::mint()).await.granted();
    }
}

/// What another process changes counts with the very next request.
#[tokio::test]
async fn a_change_by_another_process_counts_at_once() {
    let (world, restore) = (World::new().await, "UPDATE resources SET archived_at = NULL WHERE id = 'R1'");
    let other = world.opened_again().await;
    for _ in 0..3 {
        world.exchange(&Form::mint()).await.granted();
        other.sql("UPDATE resources SET archived_at = 1 WHERE id = 'R1'").await;
        assert_eq!(world.exchange(&Form::mint()).await.error(), (403, "access_denied"));
        other.sql(restore).await;
    }
}
