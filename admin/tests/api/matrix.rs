//! The authorisation matrix, and what holds for every route of a kind: both made of the table of routes, so that no
//! route is left out.

use crate::common::{BOOTSTRAP, Bench, bench, id};
use axum::body::Body;
use axum::http::Request;
use caracal_admin::{Right, document, operations};
use caracal_store::openapi::{Operation, Verb, components_used};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Who asks: a token, what it may do, and whether it is bound to the zone that is asked about.
struct Caller {
    token: String,
    capability: &'static str,
    bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Nowhere,
    Here,
    Elsewhere,
}

async fn callers(bench: &Bench, here: &str, elsewhere: &str) -> Vec<Caller> {
    let mut all = Vec::new();
    for capability in ["read", "approve", "write", "admin"] {
        for (bound, zone) in
            [(Bound::Nowhere, None), (Bound::Here, Some(here)), (Bound::Elsewhere, Some(elsewhere))]
        {
            all.push(Caller { token: bench.token(zone, capability).await, capability, bound });
        }
    }
    let known =
        |token: &str, capability| Caller { token: token.to_owned(), capability, bound: Bound::Nowhere };
    all.extend([known(BOOTSTRAP, "bootstrap"), known("unknown", "none"), known("", "none")]);
    all
}

/// The code that the declared right refuses this caller with; `None` where it lets it through.
fn declared(right: Right, operation: &Operation, caller: &Caller) -> Option<&'static str> {
    let changes = operation.verb != Verb::Get;
    const READ: &str = "admin_token_read_only";
    const APPROVE: &str = "admin_token_approve_only";
    if right == Right::Open {
        return None;
    }
    let refused = match (right, caller.capability) {
        (_, "none") => return Some("invalid_admin_token"),
        (_, "bootstrap") | (Right::Known | Right::Read, _) => None,
        (Right::Write | Right::Decide, "read") => return Some(READ),
        (Right::Administer, "read") if changes => return Some(READ),
        (Right::Write, "approve") => return Some(APPROVE),
        (Right::Administer, "approve") if changes => return Some(APPROVE),
        (Right::Decide, "write" | "admin") => return Some("approve_capability_required"),
        // What a route asks for itself comes after the question for the zone.
        (Right::Administer, "read") => Some(READ),
        (Right::Administer, "approve") => Some(APPROVE),
        (Right::Administer, "write") => Some("admin_capability_required"),
        _ => None,
    };
    let in_reach = match caller.bound {
        Bound::Nowhere => true,
        Bound::Here => operation.path.starts_with("/v1/zones/{zone}"),
        Bound::Elsewhere => false,
    };
    if in_reach || right == Right::Known { refused } else { Some("admin_token_zone_mismatch") }
}

/// The template with ids in it; what it names besides the zone does not exist.
fn filled(operation: &Operation, zone: &str) -> String {
    let parts = operation.path.split('/').map(|part| match part {
        "{zone}" => zone,
        part if part.starts_with('{') => "none",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_2_4_every_route_asks_for_the_right_that_it_declares() {
    const CODES: [&str; 7] = [
        "admin_capability_required",
        "invalid_admin_token",
        "admin_token_read_only",
        "admin_token_approve_only",
        "admin_token_zone_mismatch",
        "approve_capability_required",
        "bootstrap_credential_required",
    ];
    let bench = bench().await;
    let (here, elsewhere) = (bench.zone("here").await, bench.zone("elsewhere").await);
    let callers = callers(&bench, &here, &elsewhere).await;
    let mut operations = operations();
    // The zone goes last, since it is gone then.
    operations
        .sort_by_key(|operation| (operation.verb == Verb::Delete, std::cmp::Reverse(operation.path.len())));
    for operation in &operations {
        let right = Right::of(operation).unwrap_or_else(|| panic!("{} declares no right", operation.path));
        for caller in &callers {
            let body = operation.body.as_ref().map(|_| json!({}));
            let (method, path) = (operation.verb.as_str(), filled(operation, &here));
            let answer = bench.call(&caller.token, method, &path, body).await;
            let code = answer.body["error"].as_str().filter(|code| CODES.contains(code));
            let expected = declared(right, operation, caller);
            assert_eq!(
                code, expected,
                "{method} {path} ({right:?}) with {} bound {:?}: {} {}",
                caller.capability, caller.bound, answer.status, answer.body
            );
            let status = match expected {
                None => continue,
                Some("invalid_admin_token") => 401,
                Some(_) => 403,
            };
            assert_eq!(answer.status.as_u16(), status, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_19_5_retention_secrets_and_tokens_that_approve_take_more_than_reading_or_writing() {
    let elevated: BTreeSet<&str> = operations()
        .iter()
        .filter(|operation| {
            let right = Right::of(operation);
            let said = operation.extensions.iter().any(|(name, _)| *name == "x-caracal-elevated");
            said || matches!(right, Some(Right::Administer | Right::Decide))
        })
        .map(|operation| operation.name)
        .collect();
    let expected = [
        "acknowledge_audit_findings",
        "approve",
        "create_admin_token",
        "reject",
        "reveal_application_secret",
        "reveal_workload_secret",
        "set_audit_retention",
    ];
    assert_eq!(elevated, BTreeSet::from(expected));
    let bench = bench().await;
    let (write, admin) = (bench.token(None, "write").await, bench.token(None, "admin").await);
    let elevated = Some("admin_capability_required");
    for (capability, with_write, with_admin) in [
        ("read", None, None),
        ("write", None, None),
        ("approve", elevated, None),
        ("admin", Some("bootstrap_credential_required"), Some("bootstrap_credential_required")),
    ] {
        let body = json!({ "name": "t", "scope": "global", "capability": capability });
        for (token, refused) in [(&*write, with_write), (&*admin, with_admin), (BOOTSTRAP, None)] {
            let answer = bench.call(token, "POST", "/v1/admin-tokens", Some(body.clone())).await;
            match refused {
                None => assert_eq!(answer.status.as_u16(), 201, "{capability}: {}", answer.body),
                Some(code) => assert_eq!(answer.code(), (403, code), "{capability}"),
            }
        }
    }
    // In its own zone it shows secrets, and nothing of the installation is its own.
    let (zone, other) = (bench.zone("z").await, bench.zone("other").await);
    let here = bench.token(Some(&zone), "admin").await;
    let made = json!({ "name": "a", "registration_method": "managed" });
    let applications = format!("/v1/zones/{zone}/applications");
    let application = bench.call(&here, "POST", &applications, Some(made)).await.ok();
    let secret = format!("{applications}/{}/client-secret", id(&application));
    for (token, expected) in [(&here, None), (&admin, None), (&write, elevated)] {
        let answer = bench.call(token, "GET", &secret, None).await;
        match expected {
            None => assert_eq!(answer.ok()["client_secret"], application["client_secret"]),
            Some(code) => assert_eq!(answer.code(), (403, code)),
        }
    }
    let elsewhere = format!("/v1/zones/{other}/applications/none/client-secret");
    for (method, path, body) in [
        ("GET", elsewhere.as_str(), None),
        ("PUT", "/v1/audit-retention", Some(json!({ "retention_days": 7 }))),
        ("POST", "/v1/audit-integrity/acknowledge", None),
    ] {
        let answer = bench.call(&here, method, path, body.clone()).await;
        assert_eq!(answer.code(), (403, "admin_token_zone_mismatch"), "{method} {path}");
    }
    let days = Some(json!({ "retention_days": 7 }));
    let set = bench.call(&admin, "PUT", "/v1/audit-retention", days.clone()).await.ok();
    assert_eq!(set["retention_days"], 7);
    let refused = bench.call(&write, "PUT", "/v1/audit-retention", days).await;
    assert_eq!(refused.code(), (403, "admin_capability_required"));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_json_is_400_with_its_place_on_every_route_that_takes_a_body() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let mut tried = 0;
    for operation in operations().iter().filter(|operation| operation.body.is_some()) {
        let request = Request::builder()
            .method(operation.verb.as_str())
            .uri(filled(operation, &zone))
            .header("authorization", format!("Bearer {BOOTSTRAP}"))
            .header("content-type", "application/json")
            .body(Body::from("{\n  \"name\": \"x\",,\n}"))
            .unwrap();
        let answer = bench.send(request).await;
        assert_eq!(answer.code(), (400, "invalid_body"), "{}: {}", operation.path, answer.body);
        assert_eq!(answer.body["details"], json!({ "line": 2, "column": 15 }), "{}", operation.path);
        tried += 1;
    }
    assert!(tried > 20, "{tried}");
}

/// What is made twice where a route refuses the second with 409.
fn doubles(provider: &str) -> Vec<(&'static str, Value)> {
    let policy = "# caracal:data-document\npackage caracal.authz\n\nimport rego.v1\n\nrestrict := {}\n";
    vec![
        ("create_zone", json!({ "name": "a", "slug": "taken" })),
        ("create_application", json!({ "name": "a", "registration_method": "managed" })),
        ("create_provider", json!({ "identifier": "provider://taken", "kind": "caracal_mandate" })),
        (
            "create_resource",
            json!({
                "identifier": "resource://taken", "scopes": ["a"], "credential_provider_id": provider,
                "upstream_url": "http://127.0.0.1:9000", "operations": [],
                "operation_enforcement": "transport_uniform",
            }),
        ),
        ("create_workload", json!({ "name": "a" })),
        ("create_policy", json!({ "name": "a", "content": policy })),
        ("create_policy_set", json!({ "name": "a" })),
        (
            "create_subject_issuer",
            json!({ "issuer": "https://i.example", "jwks_url": "https://i.example/k", "audience": "a" }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_is_409_on_every_route_that_makes_something() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let provider = bench.provider(&zone, "p").await;
    let doubles = doubles(&provider);
    for operation in operations() {
        let makes = operation.verb == Verb::Post
            && operation.name.starts_with("create_")
            // Sinks may be alike; theirs is the limit.
            && operation.name != "create_notification_sink"
            && operation.answers.iter().any(|answer| answer.status == 409);
        if !makes {
            continue;
        }
        let body = doubles.iter().find(|(name, _)| *name == operation.name);
        let (_, body) = body.unwrap_or_else(|| panic!("{} has no double to try", operation.name));
        let path = filled(&operation, &zone);
        bench.post(&path, body.clone()).await.ok();
        let again = bench.post(&path, body.clone()).await;
        assert_eq!(again.status.as_u16(), 409, "{}: {}", operation.name, again.body);
    }
}

/// Rows for the lists: more than one each, made as fast as it goes, so that many have the same millisecond.
async fn fill(bench: &Bench, zone: &str) -> String {
    let provider = bench.provider(zone, "p").await;
    let mut set = String::new();
    let policy = "# caracal:data-document\npackage caracal.authz\n\nimport rego.v1\n\nrestrict := {}\n";
    for n in 0..3 {
        let name = format!("n{n}");
        bench.zone(&name).await;
        bench.provider(zone, &name).await;
        bench.token(Some(zone), "read").await;
        let resource = bench.resource(zone, &provider, &name).await;
        let post =
            async |rest: &str, body: Value| bench.post(&format!("/v1/zones/{zone}{rest}"), body).await.ok();
        let application =
            post("/applications", json!({ "name": name, "registration_method": "managed" })).await;
        let user = json!({
            "application_id": id(&application), "user_id": name, "resource_id": id(&resource),
            "scopes": ["orders:read"],
        });
        post("/grants", user).await;
        post("/workloads", json!({ "name": name })).await;
        let issuer = json!({
            "issuer": format!("https://{name}.example"), "jwks_url": "https://i.example/k", "audience": "a",
        });
        post("/subject-issuers", issuer).await;
        let made = post("/policies", json!({ "name": name, "content": policy })).await;
        set = id(&post("/policy-sets", json!({ "name": name })).await);
        for _ in 0..2 {
            let manifest = json!({ "manifest": [{ "policy_version_id": made["version_id"] }] });
            post(&format!("/policy-sets/{set}/versions"), manifest).await;
        }
        let selector = json!({ "selector": { "by": "subject", "id": name }, "reason": "test" });
        post("/revocations", selector).await;
        post(&format!("/applications/{}/rotate-secret", id(&application)), json!({})).await;
        let secret = format!("/v1/zones/{zone}/applications/{}/client-secret", id(&application));
        bench.get(&secret).await.ok();
    }
    set
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_3_1_pages_of_one_row_are_the_whole_list_on_every_route_with_a_cursor() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let set = fill(&bench, &zone).await;
    // The ledger takes in what waits when it is read.
    bench.get(&format!("/v1/zones/{zone}/audit")).await.ok();
    let mut walked = BTreeSet::new();
    for operation in operations() {
        if !operation.query.iter().any(|(name, _)| *name == "cursor?") {
            continue;
        }
        let path = filled(&operation, &zone).replace("/policy-sets/none/", &format!("/policy-sets/{set}/"));
        let whole = bench.get(&path).await.ok()["items"].as_array().unwrap().clone();
        let (mut pages, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = bench.get(&format!("{path}?limit=1&cursor={cursor}")).await.ok();
            pages.extend(page["items"].as_array().unwrap().clone());
            assert!(pages.len() <= whole.len(), "{path} does not end");
            match page["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(pages, whole, "{path}");
        if whole.len() > 1 {
            walked.insert(operation.name);
        }
        for bad in ["x", "%00", "eyJ9"] {
            let answer = bench.get(&format!("{path}?cursor={bad}")).await;
            assert_eq!(answer.code(), (400, "invalid_cursor"), "{path}?cursor={bad}");
        }
    }
    assert!(walked.len() >= 13, "lists with more than one row: {walked:?}");
}

#[test]
fn every_route_is_described_once_and_wholly() {
    let document = document();
    let operations = operations();
    let names: BTreeSet<&str> = operations.iter().map(|operation| operation.name).collect();
    assert_eq!(names.len(), operations.len(), "a name is there twice");
    let components = document["components"]["schemas"].as_object().unwrap();
    let declared: BTreeSet<String> = components.keys().cloned().collect();
    assert_eq!(components_used(&document), declared, "what is referred to is what there is");
    for operation in &operations {
        let at = format!("{} {}", operation.verb.as_str(), operation.path);
        assert!(operation.answers.iter().any(|answer| (200..300).contains(&answer.status)), "{at}");
        let open = Right::of(operation) == Some(Right::Open);
        assert_eq!(operation.security.is_none(), open, "{at}");
        let guarded = operation.answers.iter().filter(|answer| matches!(answer.status, 401 | 403)).count();
        assert!(open || guarded == 2, "{at}");
    }
}
