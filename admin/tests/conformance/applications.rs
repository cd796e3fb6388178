//! Contract admin-audit §18, 10, 12, 13, 15 and 16: zones, applications, their secrets and traits.

use crate::common::{BOOTSTRAP, Bench, bench, id};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn managed(name: &str) -> Value {
    json!({ "name": name, "registration_method": "managed" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn admin_18_10_zones_made_at_once_share_no_slug() {
    let bench = std::sync::Arc::new(bench().await);
    let make = |body: Value| {
        let bench = bench.clone();
        tokio::spawn(async move { bench.post("/v1/zones", body).await })
    };
    let named: Vec<_> = (0..12).map(|_| make(json!({ "name": "Orders & Co" }))).collect();
    let mut slugs = BTreeSet::new();
    for made in named {
        slugs.insert(made.await.unwrap().ok()["slug"].as_str().unwrap().to_owned());
    }
    let mut expected: BTreeSet<String> = (2..=12).map(|number| format!("orders-co-{number}")).collect();
    expected.insert("orders-co".to_owned());
    assert_eq!(slugs, expected);
    let explicit: Vec<_> = (0..6).map(|_| make(json!({ "name": "x", "slug": "mine" }))).collect();
    let mut codes = Vec::new();
    for made in explicit {
        let answer = made.await.unwrap();
        codes.push((answer.code().0, answer.code().1.to_owned()));
    }
    assert_eq!(codes.iter().filter(|(status, _)| *status == 201).count(), 1);
    let refused: Vec<_> = codes.iter().filter(|(status, _)| *status != 201).collect();
    assert!(refused.iter().all(|code| **code == (409, "zone_slug_conflict".to_owned())), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_12_a_zone_has_a_thousand_live_clients_and_bad_bodies_cost_nothing() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    bench.patch(&format!("/v1/zones/{zone}"), json!({ "dcr_enabled": true })).await.ok();
    let path = format!("/v1/zones/{zone}/applications/dcr");
    for _ in 0..30 {
        assert_eq!(bench.post(&path, json!({ "name": "" })).await.code(), (400, "invalid_application"));
    }
    bench
        .execute(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
             INSERT INTO applications (id, zone_id, name, registration_method, expires_at, created_at, updated_at) \
             SELECT 'c' || i, '{zone}', 'c', 'dcr', CASE WHEN i = 1 THEN 1 ELSE 9999999999999 END, 0, 0 FROM n"
        ))
        .await;
    assert_eq!(bench.post(&path, json!({ "name": "c" })).await.status, 201, "one has expired");
    assert_eq!(bench.post(&path, json!({ "name": "c" })).await.code(), (429, "dcr_limit_exceeded"));
}

/// The secret that the application has according to the custody, and whether it still proves the application.
async fn stands(bench: &Bench, application: &str, secret: &str) -> bool {
    let sql = format!("SELECT client_secret_hash FROM applications WHERE id = '{application}'");
    let hash: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_one(&mut *bench.store.read().await.unwrap())
        .await
        .unwrap();
    bench.vault.matches(secret, &hash)
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_13_what_cannot_be_sealed_does_not_happen() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/applications");
    let made = bench.post(&path, managed("a")).await.ok();
    let (one, secret) = (format!("{path}/{}", id(&made)), made["client_secret"].as_str().unwrap());
    let workload = bench.post(&format!("/v1/zones/{zone}/workloads"), json!({ "name": "w" })).await.ok();
    let provider = json!({ "name": "p", "kind": "bearer_token", "config_json": { "bearer_token": "t" } });
    bench.execute("ALTER TABLE secret_store RENAME TO gone").await;
    let own = json!({ "name": "renamed", "client_secret": "a-secret-of-the-caller-with-32-characters" });
    let attempts = [
        ("POST", path.clone(), managed("b")),
        ("POST", format!("{one}/rotate-secret"), json!({})),
        ("PATCH", one.clone(), own),
        ("DELETE", one.clone(), json!({})),
        ("GET", format!("{one}/client-secret"), json!({})),
        ("POST", format!("/v1/zones/{zone}/workloads"), json!({ "name": "w2" })),
        ("POST", format!("/v1/zones/{zone}/workloads/{}/rotate-secret", id(&workload)), json!({})),
        ("POST", format!("/v1/zones/{zone}/providers"), provider),
    ];
    let before = bench.last_change().await;
    for (method, path, body) in attempts {
        let answer = bench.call(BOOTSTRAP, method, &path, Some(body)).await;
        assert_eq!(answer.code(), (503, "database_unavailable"), "{method} {path}");
        assert!(!answer.body.to_string().contains("cs_"));
    }
    assert_eq!(bench.last_change().await, before);
    bench.execute("ALTER TABLE gone RENAME TO secret_store").await;
    let list = bench.get(&path).await.ok();
    assert_eq!((list["items"].as_array().unwrap().len(), &list["items"][0]["name"]), (1, &json!("a")));
    assert_eq!(bench.get(&format!("/v1/zones/{zone}/providers")).await.ok()["items"], json!([]));
    assert!(stands(&bench, &id(&made), secret).await, "the old secret still counts");
    assert_eq!(bench.get(&format!("{one}/client-secret")).await.ok()["client_secret"], secret);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_14_no_event_no_secret() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let made = bench.post(&format!("/v1/zones/{zone}/applications"), managed("a")).await.ok();
    let workload = bench.post(&format!("/v1/zones/{zone}/workloads"), json!({ "name": "w" })).await.ok();
    let paths = [
        format!("/v1/zones/{zone}/applications/{}/client-secret", id(&made)),
        format!("/v1/zones/{zone}/workloads/{}/secret", id(&workload)),
    ];
    bench.execute("ALTER TABLE audit_outbox RENAME TO gone").await;
    for path in &paths {
        let answer = bench.get(path).await;
        assert_eq!(answer.code(), (503, "database_unavailable"), "{path}");
        assert!(answer.body.get("client_secret").is_none() && answer.body.get("secret").is_none());
    }
    bench.execute("ALTER TABLE gone RENAME TO audit_outbox").await;
    for path in &paths {
        bench.get(path).await.ok();
    }
    assert_eq!(bench.number("SELECT COUNT(*) FROM audit_outbox").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn admin_18_15_a_name_belongs_to_one_managed_application_however_many_ask() {
    let bench = std::sync::Arc::new(bench().await);
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/applications");
    let asked: Vec<_> = ["Ärger", "ärger", "ÄRGER", "Ärger ", " ärGer", "ÄrgeR"]
        .map(|name| {
            let (bench, path) = (bench.clone(), path.clone());
            tokio::spawn(async move { bench.post(&path, managed(name)).await })
        })
        .into();
    let (mut made, mut taken) = (Vec::new(), 0);
    for answer in asked {
        let answer = answer.await.unwrap();
        match answer.code() {
            (201, _) => made.push(id(&answer.body)),
            code => {
                assert_eq!(code, (409, "application_name_taken"));
                taken += 1;
            }
        }
    }
    assert_eq!((made.len(), taken), (1, 5));
    let other = id(&bench.post(&path, managed("other")).await.ok());
    let renamed = bench.patch(&format!("{path}/{other}"), json!({ "name": "ärger" })).await;
    assert_eq!(renamed.code(), (409, "application_name_taken"));
    let own = bench.patch(&format!("{path}/{}", made[0]), json!({ "name": "ärger" })).await;
    assert_eq!(own.status, 200, "its own name in other letters");
    assert_eq!(bench.delete(&format!("{path}/{}", made[0])).await.status, 204);
    assert_eq!(bench.patch(&format!("{path}/{other}"), json!({ "name": "ärger" })).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_16_traits() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/applications");
    let of_zone = bench.token(Some(&zone), "write").await;
    let long = format!("t{}", "x".repeat(128));
    let longest = format!("t{}", "x".repeat(127));
    let cases: &[(&str, Value, &str)] = &[
        (BOOTSTRAP, json!(["a", "b", "a"]), "trait_duplicate"),
        (BOOTSTRAP, json!([""]), "trait_invalid"),
        (BOOTSTRAP, json!(["a b"]), "trait_invalid"),
        (BOOTSTRAP, json!([long]), "trait_invalid"),
        (BOOTSTRAP, json!(["control:scope:fly"]), "trait_invalid"),
        (BOOTSTRAP, json!(["control:scope:control:fly:read"]), "trait_invalid"),
        (BOOTSTRAP, json!(["control:scope:control:app:fly"]), "trait_invalid"),
        (BOOTSTRAP, json!(["control:scope:"]), "trait_invalid"),
        (BOOTSTRAP, json!(["control:max-ttl:60", "control:max-ttl:300"]), "trait_invalid"),
        (BOOTSTRAP, json!(["control:max-ttl:901"]), "trait_invalid"),
        (BOOTSTRAP, json!(["control:expires:tomorrow"]), "trait_invalid"),
        (BOOTSTRAP, json!(["control:fly"]), "trait_invalid"),
        (&of_zone, json!(["control:invoke"]), "trait_forbidden"),
        (&of_zone, json!(["caracal.sys:operator"]), "trait_forbidden"),
        (&of_zone, json!(["team:a", longest]), ""),
        (
            BOOTSTRAP,
            json!([
                "control:invoke",
                "control:scope:control:app:write",
                "control:scope:control:policy-set:read",
                "control:max-ttl:900",
                "control:expires:2030-01-01T00:00:00.000Z",
            ]),
            "",
        ),
    ];
    for (number, (token, traits, code)) in cases.iter().enumerate() {
        let body =
            json!({ "name": format!("a{number}"), "registration_method": "managed", "traits": traits });
        let answer = bench.call(token, "POST", &path, Some(body)).await;
        let expected = if code.is_empty() { (201, "") } else { (403, *code) };
        assert_eq!(answer.code(), expected, "{traits}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_10_registrations_are_archived_a_day_after_their_time() {
    let bench = bench().await;
    let zone = id(&bench.post("/v1/zones", json!({ "name": "z", "dcr_enabled": true })).await.ok());
    let path = format!("/v1/zones/{zone}/applications");
    let mut made = Vec::new();
    for name in ["a", "b", "c"] {
        made.push(id(&bench.post(&format!("{path}/dcr"), json!({ "name": name })).await.ok()));
    }
    let managed = json!({ "name": "kept", "registration_method": "managed" });
    made.push(id(&bench.post(&path, managed).await.ok()));
    let day = 24 * 60 * 60 * 1000;
    let now = bench.store.now();
    for (application, over_since) in
        [(&made[0], day + 1_000), (&made[1], day + 1_000), (&made[2], day - 60_000)]
    {
        let sql =
            format!("UPDATE applications SET expires_at = {} WHERE id = '{application}'", now - over_since);
        bench.execute(&sql).await;
    }
    assert_eq!(caracal_admin::archive_expired_registrations(&bench.store).await.unwrap(), 2);
    assert_eq!(
        caracal_admin::archive_expired_registrations(&bench.store).await.unwrap(),
        0,
        "safe to run again"
    );
    let listed = async |query: &str| {
        let items = bench.get(&format!("{path}{query}")).await.ok();
        items["items"].as_array().unwrap().iter().map(|item| item["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, ["kept", "c"]);
    assert_eq!(listed("?status=archived").await.len(), 2);
    let events = bench.get(&format!("/v1/zones/{zone}/audit?event_type=registrations_archived")).await.ok();
    assert_eq!(events["items"][0]["metadata_json"]["applications"], 2);
}
