//! A gateway mandate is used up in the transaction of what it is used for.

use crate::support::{Form, GatewayCall, World, claims_of};

async fn present_fifty_times(world: &World, token: &str) -> (usize, usize) {
    let calls: Vec<_> =
        (0..50).map(|_| world.spawn(GatewayCall::new(Form::usage(token)).request())).collect();
    let (mut granted, mut replayed) = (0, 0);
    for call in calls {
        let answer = call.await.unwrap();
        match answer.status {
            200 => granted += 1,
            _ => {
                assert_eq!(
                    (answer.error(), answer.description()),
                    ((401, "invalid_token"), "token replay detected")
                );
                replayed += 1;
            }
        }
    }
    (granted, replayed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_at_once_use_a_mandate_once() {
    let world = World::new().await;
    let token = world.mandate().await;
    let records = world.number("SELECT COUNT(*) FROM authority_records").await;
    assert_eq!(present_fifty_times(&world, &token).await, (1, 49));
    assert_eq!(world.number("SELECT COUNT(*) FROM authority_records").await, records + 1);
    let events = world.events().await;
    let replays: Vec<_> = events.iter().filter(|event| event["event_type"] == "replay_detected").collect();
    assert_eq!(replays.len(), 49);
    // It is remembered by what the mandate says, so that every use of it looks in the same place.
    let (claims, used) = (claims_of(&token), "SELECT COUNT(*) FROM used_once WHERE key");
    let until = (claims["exp"].as_i64().unwrap() + 60) * 1000;
    let jti = claims["jti"].as_str().unwrap();
    assert_eq!(world.number(&format!("{used} = 'mandate:{jti}' AND until = {until}")).await, 1);
    assert_eq!(world.number(&format!("{used} LIKE 'mandate:%'")).await, 1);
    for event in replays {
        assert_eq!((&event["decision"], &event["evaluation_status"]), (&"deny".into(), &"anomaly".into()));
        assert_eq!(event["metadata_json"]["jti"], claims_of(&token)["jti"]);
        assert_eq!(event["metadata_json"]["resource"], "resource://orders");
    }
    let world = world.restarted().await;
    assert_eq!(present_fifty_times(&world, &token).await, (0, 50), "a restart forgets nothing");
}

/// Keys, policy and connections are all read for the first time, by more callers than there are connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_at_once_after_a_restart() {
    let world = World::new().await;
    let token = world.mandate().await;
    let world = world.restarted().await;
    assert_eq!(present_fifty_times(&world, &token).await, (1, 49));
}
