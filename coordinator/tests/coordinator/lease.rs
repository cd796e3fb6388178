//! Leases and heartbeats (contract §5).

use crate::support::{Answer, World, text};
use http::Method;
use serde_json::{Value, json};

struct Service {
    world: World,
    token: String,
    id: String,
}

impl Service {
    async fn new() -> Self {
        let world = World::new().await;
        let token = world.token("a", "").await;
        let body = json!({ "application_id": "a", "lifecycle": "service" });
        let id = text(&world.start(&token, body).await.ok(), "agent_session_id");
        Self { world, token, id }
    }

    async fn post(&self, verb: &str, body: Option<Value>) -> Answer {
        let path = format!("/zones/z1/agents/{}/{verb}", self.id);
        self.world.ask(Method::POST, &path, &self.token, body).await
    }

    async fn beat(&self, generation: i64) -> Answer {
        self.post("heartbeat", Some(json!({ "status": "healthy", "lease_generation": generation }))).await
    }

    async fn set(&self, assignment: &str) {
        self.world.sql(&format!("UPDATE sessions SET {assignment} WHERE id = '{}'", self.id)).await;
    }
}

#[tokio::test]
async fn coordinator_23_16_take_over_and_fence() {
    let service = Service::new().await;
    let beat = service.beat(1).await.ok();
    assert_eq!(beat["agent"]["lease_generation"], 1);
    assert_eq!((&beat["service"], &beat["active_invocations"]), (&Value::Null, &json!(0)));
    assert!(beat["agent"]["heartbeat_deadline_at"].as_str().unwrap().ends_with('Z'));
    let taken = service.post("lease", None).await.ok();
    assert_eq!((&taken["status"], &taken["lease_generation"]), (&json!("active"), &json!(2)));
    assert_eq!(service.beat(1).await.code(), (409, "session_lease_fenced"));
    assert_eq!(service.beat(2).await.status, 200);
    let events = service.world.texts("SELECT event_json FROM audit_outbox").await;
    assert_eq!(events.len(), 2, "a start and a take-over; beats leave nothing");
}

#[tokio::test]
async fn coordinator_23_15_heartbeat_refusals() {
    let service = Service::new().await;
    for body in
        [json!({}), json!({ "lease_generation": 0 }), json!({ "lease_generation": 1, "status": "dead" })]
    {
        assert_eq!(service.post("heartbeat", Some(body)).await.code(), (400, "invalid_body"));
    }
    let unknown = json!({ "lease_generation": 1, "service_id": "x" });
    assert_eq!(service.post("heartbeat", Some(unknown)).await.code(), (404, "agent_service_not_found"));
    let task = service.world.task(&service.token, None, "inherit").await;
    for verb in ["heartbeat", "lease"] {
        let path = format!("/zones/z1/agents/{task}/{verb}");
        let body = Some(json!({ "lease_generation": 1 }));
        let answer = service.world.ask(Method::POST, &path, &service.token, body).await;
        assert_eq!(answer.code(), (409, "session_not_service"));
    }
    // A suspended service may keep its lease, and stays suspended.
    service.set("status = 'suspended', heartbeat_deadline_at = 1").await;
    assert_eq!(service.beat(1).await.ok()["agent"]["status"], "suspended");
    assert_eq!(service.post("lease", None).await.code(), (409, "session_suspended"));
    service.set("status = 'terminated', terminated_at = 1").await;
    assert_eq!(service.beat(1).await.code(), (409, "session_not_live"));
    assert_eq!(service.post("lease", None).await.code(), (409, "session_not_live"));
}

#[tokio::test]
async fn contract_5_a_lost_lease_suspends_and_is_refused() {
    for verb in ["heartbeat", "lease"] {
        let service = Service::new().await;
        service.set("heartbeat_deadline_at = 1").await;
        let answer = service.post(verb, Some(json!({ "lease_generation": 1 }))).await;
        assert_eq!(answer.code(), (409, "session_lease_expired"), "{verb}");
        assert_eq!(
            service.world.status("sessions", &service.id).await,
            "suspended",
            "committed all the same"
        );
        assert_eq!(service.world.number("SELECT COUNT(*) FROM revoked_anchors").await, 1);
    }
}

#[tokio::test]
async fn contract_5_a_user_who_is_gone_ends_the_service() {
    for verb in ["heartbeat", "lease"] {
        let world = World::new().await;
        let token = world.token("a", "").await;
        let user = world.claims("z1", "a", Some("ada@idp")).await;
        let proof = world.keys.sign(&user).await.unwrap();
        let body = json!({ "application_id": "a", "lifecycle": "service", "subject_token": proof });
        let id = text(&world.start(&token, body).await.ok(), "agent_session_id");
        world.sql(&format!("UPDATE authority_records SET expires_at = 1 WHERE id = '{}'", user.sid)).await;
        let service = Service { world, token, id };
        let answer = service.post(verb, Some(json!({ "lease_generation": 1 }))).await;
        assert_eq!(answer.code(), (409, "session_subject_inactive"), "{verb}");
        assert_eq!(service.world.status("sessions", &service.id).await, "terminated");
    }
}
