//! Contract sts §3 to §6: the request itself.

use crate::support::{FORM, Form, ORDERS, World};
use axum::body::Body;
use axum::http::Request;

fn raw(body: impl Into<Body>) -> Request<Body> {
    Request::post("/oauth/2/token").header("content-type", FORM).body(body.into()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_4_form_rules_in_their_order() {
    let world = World::new().await;
    let form = Form::bootstrap();
    let json = Request::post("/oauth/2/token").header("content-type", "application/json");
    let query = Request::post("/oauth/2/token?x=1").header("content-type", "application/json");
    let charset = Request::post("/oauth/2/token?")
        .header("content-type", "Application/X-WWW-Form-Urlencoded; charset=utf-8");
    let padding = "x".repeat(65_537);
    let cases = [
        ("query before media type", query.body(Body::from("a=%")).unwrap(), (400, "invalid_token")),
        ("media type before body", json.body(Body::from(padding.clone())).unwrap(), (415, "invalid_token")),
        (
            "no media type",
            Request::post("/oauth/2/token").body(Body::empty()).unwrap(),
            (415, "invalid_token"),
        ),
        ("too large", raw(padding.clone()), (413, "payload_too_large")),
        (
            "largest",
            raw(format!("{}&pad={}", form.encoded(), "x".repeat(65_536 - form.encoded().len() - 5))),
            (200, ""),
        ),
        (
            "one more",
            raw(format!("{}&pad={}", form.encoded(), "x".repeat(65_536 - form.encoded().len() - 4))),
            (413, "payload_too_large"),
        ),
        ("bad escape", raw(format!("{}&a=%zz", form.encoded())), (400, "invalid_token")),
        ("field twice", form.clone().and("zone_id", "z1").request(), (400, "invalid_token")),
        ("unknown field twice", form.clone().and("u", "1").and("u", "1").request(), (400, "invalid_token")),
        ("unknown field once", form.clone().and("u", "1").request(), (200, "")),
        ("resource twice", form.clone().and("resource", ORDERS).request(), (200, "")),
        ("charset is ignored", charset.body(Body::from(form.encoded())).unwrap(), (200, "")),
        ("empty", raw(""), (400, "invalid_token")),
    ];
    for (name, request, expected) in cases {
        let answer = world.send(request).await;
        assert_eq!(answer.error(), expected, "{name}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_5_an_error_names_its_request_and_is_never_cached() {
    let world = World::new().await;
    for (given, echoed) in [(Some("req-1"), true), (Some("two words"), false), (None, false)] {
        let mut request = Form::bootstrap().with("grant_type", "password").request();
        if let Some(id) = given {
            request.headers_mut().insert("x-request-id", id.parse().unwrap());
        }
        let answer = world.send(request).await;
        let id = answer.header("x-request-id");
        assert_eq!(answer.body["requestId"], id);
        assert_eq!(Some(id) == given, echoed, "{given:?} became {id:?}");
        assert!(!id.is_empty() && !answer.description().is_empty());
        assert_eq!(
            (answer.header("cache-control"), answer.header("content-type")),
            ("no-store", "application/json")
        );
    }
    let missing = world.send(Request::get("/nothing").body(Body::empty()).unwrap()).await;
    assert_eq!(missing.status, 404);
    let method = world.send(Request::get("/oauth/2/token").body(Body::empty()).unwrap()).await;
    assert_eq!((method.status, method.header("allow")), (405, "POST"));
    for path in ["/health", "/ready"] {
        assert_eq!(world.send(Request::get(path).body(Body::empty()).unwrap()).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_6_parameters() {
    let world = World::new().await;
    let form = Form::bootstrap();
    let id_token = "urn:ietf:params:oauth:token-type:id_token";
    let access = "urn:ietf:params:oauth:token-type:access_token";
    let cases = [
        (form.clone().without("grant_type"), (400, "invalid_token")),
        (form.clone().with("grant_type", "client_credentials"), (400, "invalid_token")),
        (form.clone().with("grant_type", "refresh_token"), (400, "invalid_token")),
        (form.clone().with("zone_id", " z1 "), (200, "")),
        (form.clone().without("zone_id"), (401, "access_denied")),
        (form.clone().with("application_id", " a1 "), (200, "")),
        (form.clone().with("application_id", " "), (400, "invalid_token")),
        (form.clone().with("client_secret", &format!(" {}", crate::support::SECRET)), (401, "access_denied")),
        (form.clone().without("resource"), (400, "invalid_token")),
        (form.clone().with("resource", "  "), (400, "invalid_token")),
        (form.clone().and("resource", ""), (400, "invalid_token")),
        (form.clone().with("resource", " resource://orders "), (200, "")),
        (form.clone().with("ttl_seconds", "abc"), (400, "invalid_token")),
        (form.clone().with("ttl_seconds", "1.5"), (400, "invalid_token")),
        (form.clone().with("ttl_seconds", "0"), (200, "")),
        (form.clone().with("ttl_seconds", ""), (200, "")),
        (form.clone().with("subject_token", "x"), (400, "invalid_token")),
        (form.clone().with("subject_token_type", access), (400, "invalid_token")),
        (form.clone().with("subject_token_type", "urn:x").and("subject_token", "x"), (400, "invalid_token")),
        (form.clone().with("subject_token_type", id_token).and("subject_token", "x"), (400, "invalid_token")),
        (
            form.clone()
                .without("resource")
                .without("scope")
                .with("subject_token_type", id_token)
                .and("subject_token", "x"),
            (401, "invalid_token"),
        ),
        (form.clone().with("actor_token", ""), (400, "invalid_token")),
        (form.clone().with("client_assertion", ""), (400, "invalid_token")),
        (form.clone().with("client_assertion_type", ""), (400, "invalid_token")),
        (form.clone().with("scope", "bad\"scope"), (400, "invalid_token")),
    ];
    for (form, expected) in cases {
        let answer = world.exchange(&form).await;
        assert_eq!(answer.error(), expected, "{form:?}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_6_the_answer_to_a_grant() {
    let world = World::new().await;
    let answer = world.exchange(&Form::bootstrap()).await;
    answer.granted();
    let mut body = answer.body.clone();
    body.as_object_mut().unwrap().remove("access_token");
    assert_eq!(
        body,
        serde_json::json!({
            "token_type": "Bearer", "expires_in": 900, "scope": "agent:lifecycle",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "target_resources": [ORDERS],
        })
    );
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!((answer.header("cache-control"), answer.header("pragma")), ("no-store", "no-cache"));
}

/// Each request has two faults; the one that is checked first is told.
#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_8_the_order_of_checks() {
    let world = World::new().await;
    let form = Form::bootstrap();
    let wrong = |form: Form| form.with("client_secret", "wrong");
    let session = world.exchange(&form).await.granted();
    let public = |form: Form| {
        form.with("subject_token", &session).with("subject_token_type", crate::support::ACCESS_TOKEN)
    };
    let cases = [
        ("§8.3 before §8.7", form.clone().with("actor_token", "").without("grant_type"), 400, "actor_token"),
        ("§8.4 before §8.7", form.clone().with("ttl_seconds", "x").without("grant_type"), 400, "ttl_seconds"),
        ("§8.6 before §8.7", form.clone().with("resource", "").without("grant_type"), 400, "a resource"),
        (
            "§8.7 before §8.8",
            form.clone().without("grant_type").with("subject_token", "x"),
            400,
            "unsupported",
        ),
        ("§8.8 before §8.10", wrong(form.clone()).with("subject_token", "x"), 400, "subject_token_type"),
        ("§8.10 before §8.12", wrong(form.clone()).without("resource"), 401, "client authentication"),
        ("§8.10 before §8.22", wrong(form.clone()).with("ttl_seconds", "3601"), 401, "client authentication"),
        (
            "§8.14 before §8.18",
            public(form.clone()).with("subject_token", "x.y.z").with("resource", "resource://none"),
            401,
            "",
        ),
        (
            "§8.16 before §8.17",
            Form::mint().with("approval_id", "x").with("agent_session_id", "Y"),
            401,
            "the approval",
        ),
        (
            "§8.17 before §8.18",
            Form::mint().with("agent_session_id", "none").with("resource", "resource://none"),
            403,
            "the agent session",
        ),
        (
            "§8.20 before §8.21",
            public(form.clone().without("scope")).with("resource", "resource://none"),
            403,
            "the resource is not known",
        ),
        // §32: a time to live that may not be is told before anything is judged.
        (
            "§8.22 before §8.18",
            form.clone().with("ttl_seconds", "3601").with("resource", "resource://none"),
            400,
            "ttl_seconds",
        ),
    ];
    for (name, form, status, text) in cases {
        let answer = world.exchange(&form).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        assert!(answer.description().starts_with(text), "{name}: {}", answer.body);
    }
}
