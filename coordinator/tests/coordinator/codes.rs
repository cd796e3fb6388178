//! Every error code is reached, with its status, by a request (contract §2 to §10).

use crate::support::{Answer, OPERATOR, World, text};
use caracal_coordinator::Limits;
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Where the codes are.
const SOURCE: &str = include_str!("../../src/failure.rs");
/// Their reference.
const REFERENCE: &str = include_str!("../../../docs/errors.md");

/// Codes that no request reaches, because every mandate names a record and the operator is not let in where they
/// stand. Tests beside the code reach them.
const BESIDE_THE_CODE: [&str; 2] = ["authority_record_required", "subject_session_id_required"];

/// Codes and their statuses, as the source has them.
fn known() -> BTreeSet<(u16, String)> {
    let rows = SOURCE.lines().filter_map(|line| {
        let (_, rest) = line.strip_prefix("    ")?.split_once(" = ")?;
        let (status, word) = rest.strip_suffix("\",")?.split_once(" \"")?;
        Some((status.parse().ok()?, word.to_owned()))
    });
    rows.collect()
}

#[derive(Default)]
struct Reached(BTreeSet<(u16, String)>);

impl Reached {
    #[track_caller]
    fn code(&mut self, code: &str, answer: &Answer) {
        assert_eq!(answer.code().1, code, "{}", answer.body);
        self.0.insert((answer.status.as_u16(), code.to_owned()));
    }
}

fn with(body: &Value, more: &Value) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn contract_2_every_error_code_is_reached_with_its_status() {
    let mut reached = Reached::default();
    callers(&mut reached).await;
    starts(&mut reached).await;
    limits(&mut reached).await;
    lives(&mut reached).await;
    delegations(&mut reached).await;
    invocations(&mut reached).await;
    keys(&mut reached).await;
    let known = known();
    assert!(known.len() > 80, "the source is read");
    let missed: Vec<_> =
        known.difference(&reached.0).filter(|(_, code)| !BESIDE_THE_CODE.contains(&code.as_str())).collect();
    assert_eq!(missed, Vec::<&(u16, String)>::new());
    let other: Vec<_> = reached.0.difference(&known).map(|(_, code)| code.as_str()).collect();
    assert_eq!(other, ["invalid_request", "missing_token", "token_invalid", "coordinator_unavailable"]);
}

#[test]
fn every_error_code_stands_in_the_reference() {
    let (_, section) = REFERENCE.split_once("## The Coordinator").expect("a section on the Coordinator");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    for (status, code) in known() {
        let row = section.lines().any(|line| line.starts_with(&format!("| {status} | `{code}` |")));
        assert!(row, "{status} {code} is not in docs/errors.md");
    }
}

#[test]
fn every_route_stands_in_its_description() {
    const PAGE: &str = include_str!("../../../docs/coordinator.md");
    for operation in caracal_coordinator::operations() {
        let route = operation.path;
        assert!(PAGE.contains(&format!("{route}`")), "{route} is not in docs/coordinator.md");
    }
}

async fn callers(reached: &mut Reached) {
    let world = World::new().await;
    let (a, other) = (world.token("a", "").await, world.token("other", "").await);
    let mut bare = world.claims("z1", "a", None).await;
    bare.scope = String::new();
    let bare = world.keys.sign(&bare).await.unwrap();
    let list = "/zones/z1/agents";
    for (path, token, code) in [
        (list, "", "missing_token"),
        (list, "x", "invalid_token"),
        (list, bare.as_str(), "missing_scope"),
        (list, &other, "zone_mismatch"),
        ("/zones/z1/agents/a%20b", &a, "invalid_params"),
        ("/zones/z1/agents?limit=0", &a, "invalid_query"),
        ("/zones/z1/agents?cursor=gone", &a, "invalid_cursor"),
        ("/zones/z1/agents/gone", &a, "session_not_found"),
        ("/zones/z1/delegations/gone/impact", &a, "coordinator_admin_required"),
        ("/zones/z1/delegations/gone/impact", OPERATOR, "delegation_not_found"),
        ("/zones/z1/invocations/gone", &a, "invocation_not_found"),
        ("/stats", &a, "operator_token_required"),
        ("/nowhere", &a, "not_found"),
    ] {
        reached.code(code, &world.ask(Method::GET, path, token, None).await);
    }
    reached.code("method_not_allowed", &world.ask(Method::PUT, list, &a, None).await);
    let big = Some(json!({ "application_id": "x".repeat(262_144) }));
    reached.code("body_too_large", &world.ask(Method::POST, list, &a, big).await);
    let requeue = format!("/zones/z1/outbox/{}/requeue", caracal_store::ids::new_id());
    reached.code("dead_outbox_not_found", &world.ask(Method::POST, &requeue, OPERATOR, None).await);
    for (body, code) in [
        (json!({ "zone_id": "z1" }), "missing_token"),
        (json!({}), "invalid_request"),
        (json!({ "zone_id": "z1", "token": "x" }), "token_invalid"),
    ] {
        reached.code(code, &world.ask(Method::POST, "/v1/verify", "", Some(body)).await);
    }
    world.sql("UPDATE applications SET archived_at = 1 WHERE id = 'a'").await;
    reached.code("identity_revoked", &world.ask(Method::GET, list, &a, None).await);
    world.store.close().await;
    let gone = world.ask(Method::GET, list, OPERATOR, None).await;
    reached.code("coordinator_unavailable", &gone);
}

async fn starts(reached: &mut Reached) {
    let world = World::new().await;
    let (a, b, d) = (world.token("a", "").await, world.token("b", "").await, world.token("d", "").await);
    let for_gone = world.token("a", "coordinator.spawn_for:gone").await;
    let under = world.token("a", "coordinator.spawn_under:d").await;
    let user = world.claims("z1", "a", Some("ada@idp")).await;
    let proof = world.keys.sign(&user).await.unwrap();
    let theirs = world.claims("z1", "b", Some("ada@idp")).await;
    let theirs = world.keys.sign(&theirs).await.unwrap();
    let task = world.task(&a, None, "none").await;
    let narrowed = world.task(&a, Some(&task), "none").await;
    let other = world.task(&a, None, "none").await;
    let first = world.edge(&a, &task, &narrowed, json!({})).await;
    world.edge(&a, &other, &narrowed, json!({})).await;
    let bound = text(&world.start(&d, json!({ "application_id": "d" })).await.ok(), "agent_session_id");
    let revoke = format!("/zones/z1/delegations/{first}/revoke");
    for (token, application, more, code) in [
        (&a, "a", json!({ "ttl_seconds": 0 }), "invalid_body"),
        (&a, "b", json!({}), "application_ownership_required"),
        (&for_gone, "gone", json!({}), "application_not_found"),
        (&a, "a", json!({ "subject_token": "x" }), "invalid_subject_proof"),
        (&a, "a", json!({ "subject_session_id": user.sid }), "subject_proof_required"),
        (&a, "a", json!({ "subject_session_id": "x", "subject_token": proof }), "subject_proof_mismatch"),
        (&a, "a", json!({ "subject_token": theirs }), "subject_proof_application_mismatch"),
        (&d, "d", json!({ "lifecycle": "service" }), "dcr_application_cannot_host_service"),
        (&d, "d", json!({ "parent_id": task }), "dcr_application_cannot_be_child"),
        (&d, "d", json!({}), "dcr_application_already_bound"),
        (&under, "a", json!({ "parent_id": bound }), "dcr_application_cannot_start_child"),
        (&a, "a", json!({ "parent_id": "gone" }), "parent_not_found"),
        (&a, "a", json!({ "parent_id": task, "lifecycle": "service" }), "task_session_cannot_start_service"),
        (&b, "b", json!({ "parent_id": task }), "parent_ownership_required"),
        (&a, "a", json!({ "parent_id": narrowed }), "inherit_parent_edge_ambiguous"),
        (
            &a,
            "a",
            json!({ "parent_id": narrowed, "inherit_parent_edge_id": "gone" }),
            "inherit_parent_edge_not_active",
        ),
    ] {
        let body = with(&json!({ "application_id": application }), &more);
        reached.code(code, &world.start(token, body).await);
    }
    reached.code("issuer_ownership_required", &world.ask(Method::PATCH, &revoke, &b, None).await);
}

async fn limits(reached: &mut Reached) {
    let few = Limits {
        sessions_per_zone: 4,
        sessions_per_application: 3,
        children: 1,
        depth: 1,
        ..Limits::default()
    };
    let world = World::with(few).await;
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    let root = world.task(&a, None, "none").await;
    let child = world.task(&a, Some(&root), "none").await;
    let start = |token: &str, application: &str, parent: Option<&str>| {
        let (world, token) = (&world, token.to_owned());
        let body = json!({ "application_id": application, "parent_id": parent });
        async move { world.start(&token, body).await }
    };
    reached.code("session_children_limit_exceeded", &start(&a, "a", Some(&root)).await);
    reached.code("session_depth_limit_exceeded", &start(&a, "a", Some(&child)).await);
    world.task(&a, None, "none").await;
    reached.code("session_limit_exceeded", &start(&a, "a", None).await);
    start(&b, "b", None).await.ok();
    reached.code("session_zone_limit_exceeded", &start(&b, "b", None).await);
}

async fn lives(reached: &mut Reached) {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let root = world.task(&token, None, "none").await;
    let child = world.task(&token, Some(&root), "none").await;
    let service = || async {
        let body = json!({ "application_id": "a", "lifecycle": "service" });
        text(&world.start(&token, body).await.ok(), "agent_session_id")
    };
    let ask = |method: Method, rest: String, body: Value| {
        let (world, token) = (&world, token.clone());
        async move { world.ask(method, &format!("/zones/z1/agents/{rest}"), &token, Some(body)).await }
    };
    reached.code(
        "session_not_found_or_not_suspended",
        &ask(Method::PATCH, format!("{root}/resume"), json!({})).await,
    );
    ask(Method::PATCH, format!("{root}/suspend"), json!({})).await.ok();
    reached.code(
        "session_not_found_or_not_active",
        &ask(Method::PATCH, format!("{root}/suspend"), json!({})).await,
    );
    reached
        .code("session_ancestor_not_active", &ask(Method::PATCH, format!("{child}/resume"), json!({})).await);
    let beat = json!({ "lease_generation": 1 });
    reached.code("session_not_service", &ask(Method::POST, format!("{root}/heartbeat"), beat.clone()).await);
    let lasting = service().await;
    let heartbeat = format!("{lasting}/heartbeat");
    reached.code("lease_generation_required", &ask(Method::DELETE, lasting.clone(), json!({})).await);
    let stale = json!({ "lease_generation": 7 });
    reached.code("session_lease_fenced", &ask(Method::POST, heartbeat.clone(), stale).await);
    let unknown = json!({ "lease_generation": 1, "service_id": "gone" });
    reached.code("agent_service_not_found", &ask(Method::POST, heartbeat.clone(), unknown).await);
    world.sql(&format!("UPDATE sessions SET heartbeat_deadline_at = 1 WHERE id = '{lasting}'")).await;
    reached.code("session_lease_expired", &ask(Method::POST, heartbeat.clone(), beat.clone()).await);
    reached.code("session_suspended", &ask(Method::POST, format!("{lasting}/lease"), json!({})).await);
    ask(Method::DELETE, lasting.clone(), beat.clone()).await;
    reached.code("session_not_live", &ask(Method::POST, heartbeat, beat.clone()).await);
    let user = world.claims("z1", "a", Some("ada@idp")).await;
    let proof = world.keys.sign(&user).await.unwrap();
    let body = json!({ "application_id": "a", "lifecycle": "service", "subject_token": proof });
    let of_user = text(&world.start(&token, body).await.ok(), "agent_session_id");
    world.sql(&format!("UPDATE authority_records SET expires_at = 1 WHERE id = '{}'", user.sid)).await;
    reached.code("session_subject_inactive", &ask(Method::POST, format!("{of_user}/heartbeat"), beat).await);
}

async fn delegations(reached: &mut Reached) {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let mut tasks = Vec::new();
    for _ in 0..5 {
        tasks.push(world.task(&token, None, "none").await);
    }
    let more = |hops: u32, ttl: u32| json!({ "constraints": { "max_hops": hops }, "ttl_seconds": ttl });
    world.edge(&token, &tasks[0], &tasks[1], more(5, 300)).await;
    world.edge(&token, &tasks[1], &tasks[2], more(4, 200)).await;
    world.edge(&token, &tasks[3], &tasks[2], more(4, 200)).await;
    let (free, bound, twice) = (&tasks[0], &tasks[1], &tasks[2]);
    let resources = json!({ "resources": ["resource://invoices"] });
    for (source, target, more, code) in [
        (free, bound, json!({ "constraints": { "x": 1 } }), "invalid_delegation_constraint"),
        (free, bound, json!({ "constraints": { "max_hops": 0 } }), "invalid_max_hops"),
        (free, bound, json!({ "constraints": { "max_depth": 0 } }), "invalid_max_depth"),
        (free, bound, json!({ "constraints": { "budget": 1 } }), "invalid_budget"),
        (free, bound, json!({ "constraints": { "ttl_seconds": 0 } }), "invalid_ttl_seconds"),
        (free, bound, json!({ "constraints": { "policy_approved": 0 } }), "invalid_policy_approved"),
        (free, bound, json!({ "constraints": { "expires_at": 0 } }), "invalid_expires_at"),
        (free, bound, json!({ "constraints": { "broad_reason": "" } }), "invalid_broad_reason"),
        (free, bound, json!({ "constraints": { "resources": [] } }), "invalid_resources"),
        (free, bound, json!({ "ttl_seconds": "-" }), "delegation_expiry_required"),
        (free, bound, json!({ "expires_at": "2020-01-01T00:00:00Z" }), "delegation_expired"),
        (free, free, json!({}), "self_delegation_denied"),
        (free, bound, json!({ "resource_id": null }), "broad_delegation_permission_required"),
        (free, &"gone".to_owned(), json!({}), "delegation_endpoint_not_found"),
        (free, bound, json!({ "receiver_application_id": "b" }), "delegation_application_mismatch"),
        (free, bound, json!({ "resource_id": "gone" }), "resource_not_found"),
        (free, bound, json!({ "constraints": resources }), "delegation_resource_scope_mismatch"),
        (free, bound, json!({ "scopes": ["x"] }), "delegation_scopes_exceed_resource"),
        (twice, &tasks[4], json!({}), "parent_delegation_ambiguous"),
        (bound, &tasks[4], json!({ "parent_edge_id": "gone" }), "parent_delegation_not_active"),
        (bound, &tasks[4], json!({ "ttl_seconds": 301 }), "delegation_exceeds_parent_authority"),
        (bound, free, more(2, 60), "delegation_cycle_denied"),
    ] {
        reached.code(code, &world.delegate(&token, source, target, more).await);
    }
}

async fn invocations(reached: &mut Reached) {
    let world = World::new().await;
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    let body = json!({ "application_id": "a", "endpoint_url": "http://agent.test" });
    let service = world.ask(Method::POST, "/zones/z1/agent-services", &a, Some(body)).await.ok();
    let call = json!({ "service_id": service["id"], "idempotency_key": "k", "method": "plan" });
    let path = "/zones/z1/invocations";
    reached.code("invoker_ownership_required", &world.ask(Method::POST, path, &b, Some(call.clone())).await);
    let id = text(&world.ask(Method::POST, path, &a, Some(call)).await.ok(), "id");
    let step = |verb: &str, body: Value| {
        let (world, token, path) = (&world, a.clone(), format!("{path}/{id}/{verb}"));
        async move { world.ask(Method::PATCH, &path, &token, Some(body)).await }
    };
    reached.code("invocation_not_completable", &step("complete", json!({ "status": "succeeded" })).await);
    step("cancel", json!({})).await.ok();
    reached.code("invocation_not_cancelable", &step("cancel", json!({})).await);
    reached.code("invocation_not_startable", &step("start", json!({})).await);
    let world = World::with(Limits { invocations_per_minute: 1, ..Limits::default() }).await;
    let a = world.token("a", "").await;
    let body = json!({ "application_id": "a", "endpoint_url": "http://agent.test" });
    let service = world.ask(Method::POST, "/zones/z1/agent-services", &a, Some(body)).await.ok();
    for number in 0..100 {
        let key = format!("k{number}");
        let call = json!({ "service_id": service["id"], "idempotency_key": key, "method": "plan" });
        let answer = world.ask(Method::POST, path, &a, Some(call)).await;
        // A minute may end in between, and then one more is let through.
        if answer.status.as_u16() == 429 {
            assert!(number > 0 && answer.headers.contains_key("retry-after"));
            reached.code("rate_limited", &answer);
            break;
        }
    }
}

async fn keys(reached: &mut Reached) {
    let world = World::with(Limits { receipts: 1, ..Limits::default() }).await;
    let token = world.token("a", "").await;
    let start = |keys: &'static [&'static str], ttl: u32| {
        let (world, token) = (&world, token.clone());
        let headers: Vec<(&str, &str)> = keys.iter().map(|key| ("idempotency-key", *key)).collect();
        let body = Some(json!({ "application_id": "a", "ttl_seconds": ttl }));
        async move { world.ask_with(Method::POST, "/zones/z1/agents", &token, body, &headers).await }
    };
    reached.code("idempotency_key_invalid", &start(&[""], 60).await);
    reached.code("idempotency_key_multiple", &start(&["k", "k"], 60).await);
    let session = text(&start(&["k"], 60).await.ok(), "agent_session_id");
    reached.code("idempotency_key_conflict", &start(&["k"], 61).await);
    reached.code("idempotency_receipt_limit_exceeded", &start(&["l"], 60).await);
    world.ask(Method::DELETE, &format!("/zones/z1/agents/{session}"), &token, None).await.ok();
    reached.code("idempotency_result_inactive", &start(&["k"], 60).await);
}
