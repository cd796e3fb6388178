//! Contract admin-audit §18, 17 to 20, 22 and 23: resources and providers.

use crate::common::{BOOTSTRAP, bench, id};
use serde_json::{Value, json};

fn resource(provider: &str, identifier: &str) -> Value {
    json!({
        "identifier": identifier, "scopes": ["a", "b"], "credential_provider_id": provider,
        "upstream_url": "https://upstream.example",
        "operations": [{ "method": "GET", "path": "/x", "scope": "a" }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_17_nobody_takes_the_audience_of_the_control_plane() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let provider = bench.provider(&zone, "p").await;
    let path = format!("/v1/zones/{zone}/resources");
    let other = id(&bench.post(&path, resource(&provider, "resource://x")).await.ok());
    for token in [BOOTSTRAP.to_owned(), bench.token(Some(&zone), "write").await] {
        let body = Some(resource(&provider, "caracal-control"));
        let refused = bench.call(&token, "POST", &path, body).await;
        assert_eq!(refused.code(), (400, "invalid_resource_identifier"));
        let body = Some(json!({ "identifier": "caracal-control" }));
        let refused = bench.call(&token, "PATCH", &format!("{path}/{other}"), body).await;
        assert_eq!(refused.code(), (400, "invalid_resource_identifier"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_18_operations_stay_within_the_scopes_also_when_these_change() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let provider = bench.provider(&zone, "p").await;
    let path = format!("/v1/zones/{zone}/resources");
    let one = format!("{path}/{}", id(&bench.post(&path, resource(&provider, "resource://x")).await.ok()));
    let row = bench.get(&one).await.ok();
    let operation =
        |method: &str, at: &str, scope: &str| json!({ "method": method, "path": at, "scope": scope });
    let cases = [
        (json!([operation("GET", "/x", "c")]), "operation_scope_not_in_resource_scopes"),
        (json!([operation("get", "/x", "a"), operation("GET", "/x ", "b")]), "operation_duplicate"),
        (json!([operation("GET", "x", "a")]), "operation_path_must_be_absolute"),
        (json!([operation(" ", "/x", "a")]), "operation_method_and_path_required"),
        (json!([operation("GET", " ", "a")]), "operation_method_and_path_required"),
    ];
    for (operations, code) in cases {
        let mut body = resource(&provider, "resource://new");
        body["operations"] = operations.clone();
        assert_eq!(bench.post(&path, body).await.code(), (400, code), "{operations}");
        let answer = bench.patch(&one, json!({ "operations": operations })).await;
        assert_eq!(answer.code(), (400, code), "{operations}");
    }
    let narrowed = bench.patch(&one, json!({ "scopes": ["b"] })).await;
    assert_eq!(narrowed.code(), (400, "operation_scope_not_in_resource_scopes"));
    assert_eq!(bench.get(&one).await.ok(), row);
    let both = json!({ "scopes": ["b"], "operations": [operation("GET", "/x", "b")] });
    assert_eq!(bench.patch(&one, both).await.ok()["scopes"], json!(["b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_19_identifiers_of_resources() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let provider = bench.provider(&zone, "p").await;
    let path = format!("/v1/zones/{zone}/resources");
    for wrong in
        ["https://user:pass@x.example", "https://user@x.example", "/orders", "orders", "provider://x", ""]
    {
        let answer = bench.post(&path, resource(&provider, wrong)).await;
        assert_eq!(answer.code().0, 400, "{wrong}");
    }
    let named = |name: &str| {
        let mut body = resource(&provider, "");
        body.as_object_mut().unwrap().remove("identifier");
        body["name"] = name.into();
        body
    };
    for expected in ["resource://orders", "resource://orders-2", "resource://orders-3"] {
        assert_eq!(bench.post(&path, named("Orders!")).await.ok()["identifier"], expected);
    }
    let second = bench.get(&path).await.ok()["items"][1]["id"].as_str().unwrap().to_owned();
    assert_eq!(bench.delete(&format!("{path}/{second}")).await.status, 204);
    let next = bench.post(&path, named("orders")).await.ok();
    assert_eq!(next["identifier"], "resource://orders-4", "what is archived keeps its generated name");
    let counted = bench.number("SELECT resource_count FROM zones").await;
    assert_eq!(counted, bench.number("SELECT COUNT(*) FROM resources WHERE archived_at IS NULL").await);
    bench.execute("UPDATE zones SET resource_count = 99999").await;
    let last = id(&bench.post(&path, resource(&provider, "resource://last")).await.ok());
    let full = bench.post(&path, resource(&provider, "resource://more")).await;
    assert_eq!(full.code(), (409, "resource_quota_exceeded"));
    assert_eq!(
        bench.number("SELECT resource_count FROM zones").await,
        100_000,
        "what was refused is not counted"
    );
    assert_eq!(bench.delete(&format!("{path}/{last}")).await.status, 204);
    bench.post(&path, resource(&provider, "resource://more")).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_20_secrets_of_providers_are_one_line_and_bare() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/providers");
    let bearer = |token: &str| json!({ "name": "p", "kind": "bearer_token", "config_json": { "bearer_token": token } });
    for wrong in ["", "  ", "a\nb", "a\u{7f}b", "a\u{0}b", "Bearer x", "bearer x"] {
        let answer = bench.post(&path, bearer(wrong)).await;
        assert_eq!(answer.code(), (400, "invalid_provider_config"), "{wrong:?}");
        assert!(wrong.trim().is_empty() || !answer.body.to_string().contains("Bearer x"), "never told");
    }
    let made = bench.post(&path, bearer("  t-1\n")).await.ok();
    let place = format!("zones/{zone}/providers/{}/secretConfig", id(&made));
    let sql = format!("SELECT envelope FROM secret_store WHERE ref = '{place}'");
    let envelope: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_one(&mut *bench.store.read().await.unwrap())
        .await
        .unwrap();
    let sealed: Value = serde_json::from_slice(&bench.vault.open(&envelope, &place).unwrap()).unwrap();
    assert_eq!(sealed, json!({ "bearer_token": "t-1" }), "trimmed");
    let key = json!({ "name": "k", "kind": "api_key",
        "config_json": { "header_name": "X-Key", "auth_scheme": "Token", "api_key": "Token x" } });
    assert_eq!(bench.post(&path, key).await.code(), (400, "invalid_provider_config"), "the scheme twice");
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let service = json!({ "name": "s", "kind": "oauth2_client_credentials", "config_json": {
        "token_endpoint": "https://idp.example/token", "client_id": "c",
        "client_auth_method": "private_key_jwt", "private_key": pem } });
    let row = bench.post(&path, service).await.ok();
    assert_eq!(row["secret_config_keys"], json!(["private_key"]), "a key has many lines");
    assert!(!row.to_string().contains("PRIVATE KEY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_22_providers_of_oauth_that_contradict_themselves() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/providers");
    let (own, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let certificate =
        rcgen::CertificateParams::new(vec!["c".to_owned()]).unwrap().self_signed(&other).unwrap();
    let service = |more: Value| {
        let mut config = json!({ "token_endpoint": "https://idp.example/token", "client_id": "c" });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "name": "p", "kind": "oauth2_client_credentials", "config_json": config })
    };
    let person = |more: Value| {
        let mut config = json!({
            "token_endpoint": "https://idp.example/token", "client_id": "c", "client_secret": "s",
            "authorization_endpoint": "https://idp.example/authorize", "redirect_uri": "https://c.example/cb",
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "name": "p", "kind": "oauth2_authorization_code", "config_json": config })
    };
    let signed = |certificate: String| {
        service(json!({ "client_auth_method": "private_key_jwt", "private_key": own.serialize_pem(),
            "certificate": certificate }))
    };
    let cases = [
        service(json!({ "client_secret": "s", "token_params": { "grant_type": "password" } })),
        person(json!({ "authorization_params": { "state": "x" } })),
        person(json!({ "authorization_params": { "code_challenge": "x" } })),
        service(json!({ "grant_type": "jwt_bearer", "client_auth_method": "private_key_jwt",
            "private_key": own.serialize_pem() })),
        signed(certificate.pem()),
        person(json!({ "revocation_endpoint": "https://elsewhere.example/revoke" })),
    ];
    for body in cases {
        let answer = bench.post(&path, body.clone()).await;
        assert_eq!(answer.code(), (400, "invalid_provider_config"), "{}", body["config_json"]);
        assert!(answer.body["error_description"].is_string());
    }
    let fitting = rcgen::CertificateParams::new(vec!["c".to_owned()]).unwrap().self_signed(&own).unwrap();
    bench.post(&path, signed(fitting.pem())).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_23_no_address_is_called_that_is_not_public() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/providers");
    let body = |endpoint: &str| {
        json!({ "name": "p", "kind": "oauth2_client_credentials",
            "config_json": { "token_endpoint": endpoint, "client_id": "c", "client_secret": "s" } })
    };
    for literal in [
        "http://idp.example/token",
        "https://127.0.0.1/token",
        "https://10.0.0.1/token",
        "https://169.254.169.254/token",
        "https://[::1]/token",
        "https://[::ffff:10.0.0.1]/token",
        "https://[64:ff9b::a00:1]/token",
        "https://[fe80::1]/token",
    ] {
        assert_eq!(
            bench.post(&path, body(literal)).await.code(),
            (400, "invalid_provider_config"),
            "{literal}"
        );
    }
    // A name that resolves to this machine: known only where it is called.
    let made = id(&bench.post(&path, body("https://localhost/token")).await.ok());
    let probed = bench.post(&format!("{path}/{made}/test"), json!({})).await.ok();
    assert_eq!(
        (&probed["status"], &probed["detail"]),
        (&json!("config_error"), &json!("egress_address_refused"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mcp_of_a_resource_is_read_strictly_and_stays_within_its_scopes() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let provider = bench.provider(&zone, "p").await;
    let path = format!("/v1/zones/{zone}/resources");
    let mcp = json!({
        "path": "/mcp", "methods": [{ "name": "tools/list", "scopes": [] }],
        "tools": [{ "name": "find", "scopes": ["a", "b"] }], "stream": ["a"], "responses": [], "max_body_bytes": 1024,
    });
    let mut body = resource(&provider, "resource://x");
    assert_eq!(bench.post(&path, body.clone()).await.ok()["mcp"], Value::Null);
    body["identifier"] = json!("resource://tools");
    body["mcp"] = mcp.clone();
    let made = bench.post(&path, body.clone()).await.ok();
    assert_eq!(made["mcp"], mcp);
    let one = format!("{path}/{}", id(&made));
    let with = |pointer: &str, value: Value| {
        let mut mcp = mcp.clone();
        let (above, name) = pointer.rsplit_once('/').unwrap();
        mcp.pointer_mut(above).unwrap()[name] = value;
        mcp
    };
    let twice = json!([{ "name": "find", "scopes": [] }, { "name": "find", "scopes": [] }]);
    let many: Vec<Value> = (0..513).map(|n| json!({ "name": format!("t{n}"), "scopes": [] })).collect();
    for (wrong, place) in [
        (with("/path", json!("mcp")), "mcp.path"),
        (with("/path", json!("/a/../mcp")), "mcp.path"),
        (with("/path", json!("/m%63p")), "mcp.path"),
        (with("/tools", twice), "mcp.tools[1].name"),
        (with("/tools", json!(many)), "mcp.tools"),
        (with("/tools", json!([{ "name": "", "scopes": [] }])), "mcp.tools[0].name"),
        (with("/tools", json!([{ "name": "x\ny", "scopes": [] }])), "mcp.tools[0].name"),
        (with("/tools", json!([{ "name": "x".repeat(129), "scopes": [] }])), "mcp.tools[0].name"),
        (with("/tools", json!([{ "name": "x", "scopes": ["c"] }])), "mcp.tools[0].scopes"),
        (with("/methods", json!([{ "name": "tools/call", "scopes": [] }])), "mcp.methods[0].name"),
        (with("/stream", json!(["c"])), "mcp.stream"),
        (with("/end", json!(["c"])), "mcp.end"),
        (with("/responses", json!(["c"])), "mcp.responses"),
        (with("/max_body_bytes", json!(0)), "mcp.max_body_bytes"),
        (with("/max_body_bytes", json!(524_289)), "mcp.max_body_bytes"),
        (with("/tool", json!([])), "tool"),
        (json!({}), "path"),
        (json!("mcp"), "mcp"),
    ] {
        for answer in [
            bench.patch(&one, json!({ "mcp": wrong })).await,
            bench.post(&path, extended(&body, &wrong)).await,
        ] {
            assert_eq!(answer.code(), (400, "invalid_resource"), "{wrong}");
            assert!(
                answer.body["error_description"].as_str().unwrap().contains(place),
                "{wrong}: {}",
                answer.body
            );
        }
    }
    // Scopes cannot be taken away under what needs them.
    let narrowed = json!({ "scopes": ["a"] });
    assert_eq!(bench.patch(&one, narrowed).await.code(), (400, "invalid_resource"));
    assert_eq!(
        bench.patch(&one, json!({ "name": "tools" })).await.ok()["mcp"],
        mcp,
        "what is not named stays"
    );
    assert_eq!(bench.patch(&one, json!({ "mcp": null })).await.ok()["mcp"], Value::Null);
}

fn extended(body: &Value, mcp: &Value) -> Value {
    let mut body = body.clone();
    body["identifier"] = json!("resource://new");
    body["mcp"] = mcp.clone();
    body
}
