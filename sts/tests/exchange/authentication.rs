//! Contract sts §9: who asks.

use crate::support::{Form, PEER_SECRET, World};

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_9_applications_and_secrets() {
    let world = World::new().await;
    let form = Form::bootstrap();
    let refused = [
        ("wrong secret", form.clone().with("client_secret", "wrong")),
        ("empty secret", form.clone().with("client_secret", "")),
        ("no secret", form.clone().without("client_secret")),
        ("another's secret", form.clone().with("client_secret", PEER_SECRET)),
        ("no such application", form.clone().with("application_id", "nobody")),
        ("malformed id", form.clone().with("application_id", "no body")),
        ("without a secret of its own", form.clone().with("application_id", "a3")),
        (
            "without a secret, with none sent",
            form.clone().with("application_id", "a3").without("client_secret"),
        ),
        ("archived", form.clone().with("application_id", "gone")),
        ("expired", form.clone().with("application_id", "late")),
        (
            "the stored hash for a secret",
            form.clone().with("client_secret", &world.vault.hash(crate::support::SECRET)),
        ),
    ];
    let mut bodies = Vec::new();
    for (name, form) in refused {
        let answer = world.exchange(&form).await;
        assert_eq!(answer.error(), (401, "access_denied"), "{name}");
        bodies.push(answer.description().to_owned());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "no cause is told from another: {bodies:?}");
    world.exchange(&form).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_11_contract_9_2_another_zone_is_named_to_whoever_has_the_secret() {
    let world = World::new().await;
    let form = Form::bootstrap().with("application_id", "b1");
    let answer = world.exchange(&form).await;
    assert_eq!(answer.error(), (403, "zone_invalid"));
    assert!(answer.description().contains("z1") && answer.description().contains("z2"), "{}", answer.body);
    let wrong = world.exchange(&form.clone().with("client_secret", "wrong")).await;
    assert_eq!(wrong.error(), (401, "access_denied"));
    assert!(!wrong.description().contains("z2"));
    let nowhere = world.exchange(&Form::bootstrap().with("zone_id", "z9")).await;
    assert_eq!(nowhere.error(), (403, "zone_invalid"));
    world.sql("UPDATE zones SET archived_at = 1 WHERE id = 'z1'").await;
    assert_eq!(world.exchange(&Form::bootstrap()).await.error(), (401, "access_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_20_contract_9_4_sixty_one_failures_lock_one_application_out() {
    let world = World::new().await;
    let wrong = Form::bootstrap().with("client_secret", "wrong");
    for number in 1..=60 {
        assert_eq!(world.exchange(&wrong).await.error(), (401, "access_denied"), "failure {number}");
    }
    // Good credentials spend nothing and clear nothing.
    world.exchange(&Form::bootstrap()).await.granted();
    let locked = world.exchange(&wrong).await;
    assert_eq!(locked.error(), (429, "provider_rate_limited"));
    assert_eq!(locked.header("retry-after"), "60");
    let good = world.exchange(&Form::bootstrap()).await;
    assert_eq!(good.error(), (429, "provider_rate_limited"));
    assert!((1..=60).contains(&good.header("retry-after").parse::<u32>().unwrap()));
    let peer = Form::bootstrap()
        .with("application_id", "a2")
        .with("client_secret", PEER_SECRET)
        .with("resource", "resource://peer");
    world.exchange(&peer).await.granted();
    assert_eq!(
        world.exchange(&Form::bootstrap().with("application_id", "b1")).await.error(),
        (403, "zone_invalid")
    );

    let world = world.restarted().await;
    assert_eq!(world.exchange(&Form::bootstrap()).await.status, 429, "a restart does not open the lock");
    world
        .sql("UPDATE counters SET window_start = window_start - 60000 WHERE key LIKE 'auth-failures:%'")
        .await;
    world.exchange(&Form::bootstrap()).await.granted();
    assert_eq!(world.exchange(&wrong).await.error(), (401, "access_denied"), "a new window begins");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_9_4_an_application_that_does_not_exist_is_locked_out_alike() {
    let world = World::new().await;
    let form = Form::bootstrap().with("application_id", "nobody");
    let attempts: Vec<_> = (0..80).map(|_| world.spawn(form.request())).collect();
    let mut statuses = Vec::new();
    for attempt in attempts {
        statuses.push(attempt.await.unwrap().status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 60);
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 20);
}
