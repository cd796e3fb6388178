//! The check of mandates that a gateway may use more than once.

use crate::support::{Answer, Form, GatewayCall, LEDGER, World, claims_of};
use caracal_store::change::Change;

const PATH: &str = "/internal/gateway/check";
const LEDGER_POLICY: &str = r#"# caracal:data-document
package caracal.authz
import rego.v1
app_ids := {"orders-app": "a1"}
grants := {"resource://ledger": {"application": "orders-app", "roles": {"nobody": ["ledger:read"]}}}
"#;

fn call(form: Form, usage: &str) -> GatewayCall {
    GatewayCall { path: PATH.to_owned(), ..GatewayCall::new(form.with("mandate_use", usage)) }
}

impl World {
    async fn send_check(&self, call: &GatewayCall) -> Answer {
        let mut request = call.request();
        *request.uri_mut() = PATH.parse().unwrap();
        self.send(request).await
    }

    async fn check(&self, token: &str, usage: &str) -> Answer {
        self.send_check(&call(Form::usage(token).with("resource", LEDGER), usage)).await
    }

    /// A mandate for the ledger, which takes it more than once, and the one that is derived from it.
    async fn for_ledger(&self) -> (String, String) {
        let ends = self.store.now() + 3_600_000;
        self.add_edge("L", "P", "T", &format!("'R2', '[\"ledger:read\"]', '{{}}', 'active', {ends}")).await;
        let form = Form::mint().with("scope", "ledger:read").with("resource", LEDGER);
        let mandate = self.exchange(&form.with("delegation_edge_id", "L")).await.granted();
        let usage = Form::usage(&mandate).with("resource", LEDGER);
        let derived = self.send(GatewayCall::new(usage).request()).await.granted();
        (mandate, derived)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_is_active_and_nothing_is_minted_or_used_up() {
    let world = World::new().await;
    let (mandate, derived) = world.for_ledger().await;
    let records = world.number("SELECT COUNT(*) FROM authority_records").await;
    for _ in 0..3 {
        for (token, usage) in [(&mandate, "gateway"), (&derived, "resource")] {
            let answer = world.check(token, usage).await;
            assert_eq!((answer.status, &answer.body["active"]), (200, &true.into()), "{}", answer.body);
            assert_eq!(answer.header("cache-control"), "no-store");
            assert!(answer.body.get("access_token").is_none());
        }
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM authority_records").await, records);
    let events = world.events().await;
    let checks: Vec<_> = events.iter().filter(|event| event["event_type"] == "mandate_check").collect();
    assert_eq!(checks.len(), 6);
    assert!(checks.iter().all(|event| event["decision"] == "allow"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mandate_for_one_use_is_never_checked_and_never_used_up_by_it() {
    let world = World::new().await;
    let mandate = world.mandate().await;
    let answer = world.send_check(&call(Form::usage(&mandate), "gateway")).await;
    assert_eq!(answer.error(), (403, "access_denied"));
    assert!(answer.description().contains("exchanged, not checked"), "{}", answer.body);
    world.send(GatewayCall::new(Form::usage(&mandate)).request()).await.granted();
    // The derived one is a resource's: it stands as long as what it rests on.
    let (multi, _) = world.for_ledger().await;
    world
        .change(
            "UPDATE resources SET mandate_use = 'single' WHERE id = 'R2'",
            Change::Resource { id: "R2".into() },
        )
        .await;
    assert_eq!(
        world.check(&multi, "gateway").await.error(),
        (403, "access_denied"),
        "the resource is not any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_classes_are_not_mixed_up() {
    let world = World::new().await;
    let (mandate, derived) = world.for_ledger().await;
    for (token, usage) in [(&mandate, "resource"), (&derived, "gateway")] {
        assert_eq!(world.check(token, usage).await.error(), (401, "invalid_token"), "{usage}");
    }
    for usage in ["session", "", "Resource"] {
        assert_eq!(world.check(&mandate, usage).await.error(), (400, "invalid_token"), "{usage}");
    }
    // An exchange takes no resource's mandate, whatever else the form says.
    let form = Form::usage(&derived).with("resource", LEDGER).with("mandate_use", "resource");
    assert_eq!(world.send(GatewayCall::new(form).request()).await.error(), (401, "invalid_token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_gateway_may_ask_and_only_once() {
    let world = World::new().await;
    let (mandate, _) = world.for_ledger().await;
    let form = || Form::usage(&mandate).with("resource", LEDGER);
    let good = call(form(), "gateway");
    assert_eq!(world.send_check(&good).await.status, 200);
    assert_eq!(world.send_check(&good).await.error(), (401, "access_denied"), "the nonce is used up");
    let elsewhere = GatewayCall { path: "/oauth/2/token".to_owned(), ..call(form(), "gateway") };
    assert_eq!(world.send_check(&elsewhere).await.error(), (401, "access_denied"), "signed for another path");
    let mut unsigned = form().with("mandate_use", "gateway").request();
    *unsigned.uri_mut() = PATH.parse().unwrap();
    assert_eq!(world.send(unsigned).await.error(), (401, "access_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_ends_a_mandate_ends_its_check() {
    type End = (&'static str, fn(&str) -> String);
    let ends: [End; 4] = [
        ("the delegation", |_| {
            "UPDATE delegation_edges SET status = 'revoked', revoked_at = 1 WHERE id = 'L'".into()
        }),
        ("the session", |_| "UPDATE sessions SET status = 'suspended' WHERE id = 'T'".into()),
        ("the application", |_| "UPDATE applications SET archived_at = 1 WHERE id = 'a1'".into()),
        ("the record", |sid| format!("UPDATE authority_records SET status = 'revoked' WHERE id = '{sid}'")),
    ];
    for (name, end) in ends {
        let world = World::new().await;
        let (mandate, derived) = world.for_ledger().await;
        let sid = claims_of(&mandate)["sid"].as_str().unwrap().to_owned();
        world.sql(&end(&sid)).await;
        for (token, usage) in [(&mandate, "gateway"), (&derived, "resource")] {
            let answer = world.check(token, usage).await;
            assert!(matches!(answer.status, 401 | 403), "{name} {usage}: {} {}", answer.status, answer.body);
            assert!(answer.body.get("lasting").is_none(), "{name}: a suspended session may resume");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_policy_lasts_as_long_as_the_policy() {
    let world = World::new().await;
    let (mandate, derived) = world.for_ledger().await;
    world.activate("2", LEDGER_POLICY).await;
    for (token, usage) in [(&mandate, "gateway"), (&derived, "resource")] {
        let answer = world.check(token, usage).await;
        assert_eq!(answer.error(), (403, "access_denied"), "{usage}");
        assert_eq!(answer.body["lasting"], true, "{usage}: {}", answer.body);
        assert!(answer.description().starts_with("policy denied ("), "{}", answer.body);
    }
    let events = world.events().await;
    let denied =
        events.iter().filter(|event| event["event_type"] == "mandate_check" && event["decision"] == "deny");
    assert_eq!(denied.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_derived_mandate_may_be_kept_where_the_mandate_may_be_used_again() {
    let world = World::new().await;
    let single = world.mandate().await;
    let answer = world.send(GatewayCall::new(Form::usage(&single)).request()).await;
    let directive = &answer.body["upstreams"]["resource://orders"];
    assert_eq!(
        (&directive["auth_mode"], &directive["cache_until"]),
        (&"caracal_jwt".into(), &serde_json::Value::Null)
    );
    let (mandate, _) = world.for_ledger().await;
    let form = || Form::usage(&mandate).with("resource", LEDGER);
    let none = world.send(GatewayCall::new(form()).request()).await;
    assert!(none.body["upstreams"][LEDGER].get("cache_until").is_none(), "nothing to keep: {}", none.body);
    world
        .change(
            "UPDATE resources SET credential_provider_id = 'p-mandate' WHERE id = 'R2'",
            Change::Resource { id: "R2".into() },
        )
        .await;
    let answer = world.send(GatewayCall::new(form()).request()).await;
    let end = answer.claims()["exp"].as_i64().unwrap();
    assert_eq!(answer.body["upstreams"][LEDGER]["cache_until"].as_i64().unwrap(), end - 30);
}
