//! Who may ask, how often, and what the manifest says.

use crate::launcher::{Fields, LAUNCH, SECRET, Verdict, WORKLOAD, fields, orders, request};
use crate::support::{FORM, World};
use axum::body::Body;
use axum::http::Request;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn sts_23_the_manifest_is_as_it_is_stored() {
    let more = json!({
        "env": "LEDGER", "resource": "resource://ledger", "optional": true, "on_failure": "warn", "later": { "a": [1] },
    });
    let bindings = json!([orders(), more]);
    let world = World::new().await.with_workload(&bindings).await;
    let answer = world.manifest(&fields(&[]), "m-1").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body, json!({ "zone_id": "z1", "workload_id": WORKLOAD, "bindings": bindings }));
    assert_eq!((answer.header("cache-control"), answer.header("x-request-id")), ("no-store", ""));
    let event = world.told("m-1").await;
    assert_eq!((&event["event_type"], &event["decision"]), (&json!("run_launch"), &json!("allow")));
    let metadata = json!({
        "workload_id": WORKLOAD, "workload_name": "Nightly", "binding_count": 2, "launch_id": LAUNCH,
    });
    assert_eq!(event["metadata_json"], metadata);
    assert!(!world.everything_stored().await.contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_23_who_is_refused() {
    let world = World::new().await.with_workload(&json!([orders()])).await;
    let failed = ["run_launch deny/workload_auth_failed"];
    let nothing: [&str; 0] = [];
    let cases: [(&str, Fields<'_>, Verdict, &[&str]); 7] = [
        ("no id", vec![("secret", SECRET)], (400, "invalid_token"), &nothing),
        ("blank id", vec![("workload_id", " "), ("secret", SECRET)], (400, "invalid_token"), &nothing),
        ("no secret", vec![("workload_id", WORKLOAD)], (400, "invalid_token"), &nothing),
        ("unknown", vec![("workload_id", "nobody"), ("secret", SECRET)], (401, "access_denied"), &nothing),
        ("wrong secret", vec![("workload_id", WORKLOAD), ("secret", "x")], (401, "access_denied"), &failed),
        ("untrimmed", vec![("workload_id", WORKLOAD), ("secret", " ws ")], (401, "access_denied"), &failed),
        ("field twice", fields(&[("secret", "x")]), (400, "invalid_token"), &nothing),
    ];
    let mut texts = Vec::new();
    for (number, (name, fields, expected, events)) in cases.into_iter().enumerate() {
        for path in ["/v1/run/manifest", "/v1/run/credential"] {
            let id = format!("r-{number}{}", path.len());
            let all = [fields.as_slice(), &[("env", "ORDERS_KEY")]].concat();
            let answer = world.send(request(path, &all, &id)).await;
            assert_eq!(answer.error(), expected, "{name} {path}: {}", answer.body);
            assert_eq!(world.verdicts(&id).await, events, "{name} {path}");
            assert_eq!(answer.body.get("requestId"), None, "{name} {path}");
            if answer.status == 401 {
                texts.push(answer.body.to_string());
            }
        }
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "one text for every cause: {texts:?}");
    world.sql("UPDATE zones SET archived_at = 1 WHERE id = 'z1'").await;
    assert_eq!(world.manifest(&fields(&[]), "archived").await.error(), (401, "access_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_4_the_forms_of_launchers() {
    let world = World::new().await.with_workload(&json!([orders()])).await;
    let good = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields(&[])).finish();
    let post = |target: &str, media: &str, body: String| {
        Request::post(target).header("content-type", media).body(Body::from(body)).unwrap()
    };
    for path in ["/v1/run/manifest", "/v1/run/credential"] {
        let query = format!("{path}?a=1");
        let cases = [
            (post(&query, FORM, good.clone()), (400, "invalid_token")),
            (post(path, "application/json", good.clone()), (415, "invalid_token")),
            (post(path, FORM, "x".repeat(65_537)), (413, "payload_too_large")),
            (post(path, FORM, "a=%zz".to_owned()), (400, "invalid_token")),
        ];
        for (request, expected) in cases {
            assert_eq!(world.send(request).await.error(), expected);
        }
        let get = Request::get(path).body(Body::empty()).unwrap();
        assert_eq!(world.send(get).await.status, 405);
    }
    let odd = Request::post("/v1/run/manifest")
        .header("content-type", FORM)
        .header("x-request-id", "odd")
        .header("x-caracal-launch-id", "not-a-uuid")
        .body(Body::from(good))
        .unwrap();
    assert_eq!(world.send(odd).await.status, 200);
    assert_eq!(world.told("odd").await["metadata_json"].get("launch_id"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_23_bindings_that_are_none() {
    let world = World::new().await.with_workload(&json!([])).await;
    assert_eq!(world.manifest(&fields(&[]), "none").await.error(), (404, "resource_not_found"));
    assert_eq!(world.credential(&[], "none-2").await.error(), (404, "resource_not_found"));
    for broken in ["{", "{}", "null"] {
        world.sql(&format!("UPDATE workloads SET bindings_json = '{broken}'")).await;
        assert_eq!(world.manifest(&fields(&[]), "x").await.error(), (500, "internal_error"), "{broken}");
        assert_eq!(world.credential(&[], "y").await.error(), (500, "internal_error"), "{broken}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_23_each_workload_has_its_own_limit_and_it_counts_before_the_secret() {
    let world = World::with_mint_limit(3).await.with_workload(&json!([orders()])).await;
    let wrong = [("workload_id", WORKLOAD), ("secret", "wrong")];
    for _ in 0..3 {
        assert_eq!(world.manifest(&wrong, "r").await.error(), (401, "access_denied"));
    }
    let limited = (429, "provider_rate_limited");
    let answer = world.manifest(&fields(&[]), "r").await;
    assert_eq!(answer.error(), limited);
    assert_ne!(answer.header("retry-after"), "");
    // The other door and the other workload count for themselves.
    assert_eq!(world.credential(&[], "r").await.error(), (403, "access_denied"));
    assert_eq!(world.credential_of_other(&[], "r").await.error(), (403, "access_denied"));
    // Ids that are made up share one limit, so they fill nothing and tell nothing.
    let mut answers = Vec::new();
    for number in 0..4 {
        let id = format!("made-up-{number}");
        answers.push(world.manifest(&[("workload_id", id.as_str()), ("secret", "s")], "r").await.status);
    }
    assert_eq!(answers, [401, 401, 401, 429]);
    assert_eq!(world.number("SELECT COUNT(*) FROM counters WHERE key LIKE 'rl:run-%made%'").await, 0);
}
