//! A user of an external OpenID provider, an agent that works for them through the official Python SDK 1.0.0, and the
//! user's revocation. The provider is a process of its own, over TLS under an authority of its own.

use caracal_mandate::claims::Claims;
use caracal_mandate::jws::CompactJws;
use caracal_tests::{Collector, Options, Script, Stack, Upstream, World};
use reqwest::Method;
use serde_json::{Value, json};

const USER: &str = "auth0|u-1";

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn federation_a_user_their_agent_and_their_revocation() {
    let folder = tempfile::tempdir().unwrap();
    let mut provider = Script::plain(&["provider.py", folder.path().to_str().unwrap()]);
    let issuer = provider.said().await;
    let collector = Collector::start().await;
    let mut options = Options::calling_this_machine(&folder.path().join("ca.pem"));
    options.environment.extend(collector.environment());
    let stack = Stack::start_with(options).await;
    let upstream = Upstream::start().await;
    let world = World::configure(&stack, &upstream).await;
    let made = world.operate(Method::POST, &world.path("subject-issuers"), issuer).await;
    assert!(made["id"].is_string());

    let token = provider.ask(&format!("{USER} 0")).await;
    let mut script = world.script(&["federation.py"]);
    script.tell(text(&token)).await;
    // Signed by a key that was published after Caracal fetched the others, and a user that nobody expects.
    script.tell(text(&provider.ask(&format!("{USER} 0 rsa-2")).await)).await;
    script.tell(text(&provider.ask("caracal:shared 0").await)).await;
    let before = script.said().await;
    assert_eq!(before["call"], 200, "{before}");
    assert!((1..=600).contains(&before["expires_in"].as_i64().unwrap()), "{before}");
    assert_ne!(before["unproved"], "done", "a record without its mandate proves nothing");
    assert_eq!(before["rotated"], "done");
    assert_eq!(before["stranger"], "invalid_token");
    let held = CompactJws::split(text(&before["held"]).as_bytes()).unwrap().payload().unwrap();
    let held = Claims::from_json(&held).unwrap();
    assert_eq!(held.root_sid.as_str(), text(&before["record"]), "the mandate names the user's record");
    assert_eq!(upstream.seen().len(), 1);

    let body = json!({ "subject_id": USER, "reason": "left the company" });
    let revoked = world.operate(Method::POST, &world.path("subjects/revoke"), body).await;
    assert_eq!(revoked["sessions"], 2, "{revoked}");
    assert_eq!(revoked["authority_records"], 2, "the user had signed in twice: {revoked}");

    script.tell("revoked").await;
    script.tell(text(&provider.ask(&format!("{USER} 5")).await)).await;
    let after = script.said().await;
    assert_eq!(after["held"], json!([401, "invalid_token"]), "{after}");
    assert_eq!(after["mint"], "access_denied");
    assert_ne!(after["start"], "done", "the user's mandate starts no more sessions");
    assert_eq!(after["same_token"], "invalid_token", "a token from before the revocation does not count");
    assert_eq!(after["signed_in_again"], "done");
    assert_eq!(upstream.seen().len(), 1, "nothing passed after the revocation");
    script.end().await;
    provider.end().await;
    call_is_traced(&collector, &[USER, text(&token), text(&before["held"])]).await;
}

/// The call for the provider's keys belongs to the request that needed them, and no trace says who the user is.
async fn call_is_traced(collector: &Collector, secrets: &[&str]) {
    let calls = collector.wait_for(1, |span| span.attributes.contains_key("server.address")).await;
    let call = &calls[0];
    let shown = ["http.request.method", "server.address", "http.response.status_code"];
    assert_eq!(shown.map(|name| call.attributes[name].as_str()), ["GET", "localhost", "200"]);
    let above = collector.wait_for(1, |span| span.id == call.parent).await;
    let above = (above[0].trace.as_str(), above[0].name.as_str(), above[0].service.as_str());
    assert_eq!(above, (call.trace.as_str(), "POST /oauth/2/token", "caracal-sts"));
    for (_, body) in collector.got() {
        for secret in secrets {
            assert!(!body.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "who the user is");
        }
    }
}
