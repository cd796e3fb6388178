//! Contract sts §14.6, §25 and admin-audit §6.3: a denial says why, with an input that can be evaluated again.

use crate::internal_policy::signed;
use crate::support::{Form, GatewayCall, LEDGER, POLICY, World};
use serde_json::{Value, json};

impl World {
    /// The denying events of a request: reason, and metadata.
    async fn denials(&self, request_id: &str) -> Vec<Value> {
        let events = self.events().await;
        let own = events.into_iter().filter(|event| event["request_id"] == request_id);
        own.filter(|event| event["decision"] == "deny").map(|event| event["metadata_json"].clone()).collect()
    }

    /// What a policy makes of an input.
    async fn simulate(&self, content: &str, input: &Value) -> Value {
        let body = json!({ "policies": [{ "id": "p", "content": content }], "input": input }).to_string();
        let answer = self.send(signed("POST", "/internal/policy/simulate", &body, self)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["result"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_25_a_denial_of_policy_can_be_evaluated_again_and_its_mend_proved() {
    let world = World::new().await;
    world.sql("UPDATE sessions SET labels_json = '[\"writer\"]' WHERE id = 'T'").await;
    let cases = [
        (Form::mint(), "role_scope_mismatch", POLICY.replace("{\"reader\"", "{\"writer\"")),
        (
            Form::bootstrap().with("resource", "resource://peer"),
            "no_rule_matched",
            POLICY
                .replace("\"orders-app\": \"a1\"", "\"orders-app\": \"a1\", \"peer-app\": \"a1\"")
                .replace("\"peer-app\": \"a2\"", "\"other\": \"a2\""),
        ),
    ];
    for (number, (form, reason, mended)) in cases.into_iter().enumerate() {
        let id = format!("denied-{number}");
        let answer = world.send(form.request_as(&id)).await;
        assert_eq!(answer.description(), format!("policy denied ({reason})"));
        let denials = world.denials(&id).await;
        assert_eq!((denials.len(), denials[0]["reason"].as_str()), (1, Some(reason)));
        let input = &denials[0]["policy_input"];
        let again = world.simulate(POLICY, input).await;
        assert_eq!(again["diagnostics"], json!([{ "reason": reason }]), "{input}");
        assert_eq!(world.simulate(&mended, input).await["decision"], "allow", "{input}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_25_an_input_that_is_kept_names_no_claim() {
    let world = World::new().await;
    let token = world.mandate().await;
    world.activate("2", &POLICY.replace("{\"reader\": [\"orders:read\"]}", "{\"reader\": []}")).await;
    let call = GatewayCall::new(Form::usage(&token));
    assert_eq!(world.send(call.request()).await.description(), "policy denied (role_scope_mismatch)");
    let denials = world.denials(&call.request_id).await;
    let context = &denials[0]["policy_input"]["context"];
    assert_eq!((&context["actor_claims"], context.get("subject_claims")), (&json!({}), None));
    assert_eq!(
        denials[0]["carried_scopes"],
        json!(["orders:read"]),
        "what the mandate carries is no claim of anyone"
    );
    let jti = crate::support::claims_of(&token)["jti"].as_str().unwrap().to_owned();
    assert!(!denials[0].to_string().contains(&jti));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_25_every_denial_says_why() {
    let world = World::new().await;
    let form = Form::bootstrap();
    let token = world.mandate().await;
    let cases = [
        (form.clone().with("resource", "resource://none"), "the resource is not known"),
        (form.clone().with("scope", "orders:fly"), "the resource does not declare a requested scope"),
        (form.clone().with("session_id", "rec-a2"), "session_id is not an active record"),
        (Form::mint().with("agent_session_id", "Y"), ""),
    ];
    for (number, (form, reason)) in cases.into_iter().enumerate() {
        let id = format!("why-{number}");
        world.send(form.request_as(&id)).await;
        let denials = world.denials(&id).await;
        let said = denials[0]["reason"].as_str().unwrap();
        assert!(!said.is_empty() && said.starts_with(reason), "{number}: {said}");
    }
    let usages = [
        (Form::usage(&token).with("request_method", "POST"), "the mandate does not carry orders:write"),
        (Form::usage(&token).with("request_path", "/v2"), "the resource declares no such operation"),
        (Form::usage(&token).with("resource", LEDGER), "the resource is outside the delegation"),
    ];
    for (form, reason) in usages {
        let call = GatewayCall::new(form);
        world.send(call.request()).await;
        assert_eq!(world.denials(&call.request_id).await[0]["reason"], reason);
    }
}
