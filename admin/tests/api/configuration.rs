//! Zones, applications, providers and resources (contract admin-audit §5.1 to §5.5).

use crate::common::{BOOTSTRAP, bench, id};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_1_zones() {
    let bench = bench().await;
    let row = bench.post("/v1/zones", json!({ "name": "  My Zone " })).await.ok();
    assert_eq!((&row["name"], &row["slug"]), (&json!("My Zone"), &json!("my-zone")));
    assert_eq!(
        (&row["dcr_enabled"], &row["operator_coauthor_badge"], &row["operator_governed"]),
        (&json!(false), &json!(true), &json!(false))
    );
    assert!(row["created_at"].as_str().unwrap().ends_with('Z'));
    assert!(row["created_by"].as_str().unwrap().starts_with("admin:"));
    assert_eq!(bench.changes_after(0).await, [json!({ "kind": "zone" })]);
    assert_eq!(bench.post("/v1/zones", json!({ "name": "my zone" })).await.ok()["slug"], "my-zone-2");
    let path = format!("/v1/zones/{}", id(&row));
    assert_eq!(bench.get(&path).await.ok(), row);
    let cases: &[(&str, &str, Value, (u16, &str))] = &[
        ("POST", "/v1/zones", json!({ "name": "" }), (400, "invalid_zone")),
        ("POST", "/v1/zones", json!({ "name": "x".repeat(121) }), (400, "invalid_zone")),
        ("POST", "/v1/zones", json!({ "name": "x", "slug": "A" }), (400, "invalid_zone")),
        ("POST", "/v1/zones", json!({ "name": "x", "owner": 1 }), (400, "invalid_zone")),
        ("POST", "/v1/zones", json!({ "name": "x", "slug": "my-zone" }), (409, "zone_slug_conflict")),
        ("PATCH", &path, json!({}), (400, "no_fields")),
        ("PATCH", &path, json!({ "slug": "my-zone-2" }), (409, "zone_slug_conflict")),
        ("PATCH", &path, json!({ "dcr_shutdown": "keep_live" }), (400, "dcr_shutdown_not_applicable")),
        (
            "PATCH",
            &path,
            json!({ "dcr_enabled": true, "dcr_shutdown": "keep_live" }),
            (400, "dcr_shutdown_not_applicable"),
        ),
        ("PATCH", "/v1/zones/nowhere", json!({ "name": "x" }), (404, "zone_not_found")),
        ("DELETE", "/v1/zones/nowhere", json!({}), (404, "zone_not_found")),
        ("GET", "/v1/zones/nowhere", json!({}), (404, "zone_not_found")),
        ("GET", "/v1/zones/nowhere/dcr-status", json!({}), (404, "zone_not_found")),
        ("GET", "/v1/zones?limit=0", json!({}), (400, "invalid_query")),
        ("GET", "/v1/zones?limit=501", json!({}), (400, "invalid_query")),
        ("GET", "/v1/zones?cursor=bm8", json!({}), (400, "invalid_cursor")),
    ];
    for &(method, path, ref body, code) in cases {
        assert_eq!(
            bench.call(BOOTSTRAP, method, path, Some(body.clone())).await.code(),
            code,
            "{method} {path} {body}"
        );
    }
    let patched = bench.patch(&path, json!({ "name": "B", "operator_governed": true })).await.ok();
    assert_eq!(
        (&patched["name"], &patched["operator_governed"], &patched["slug"]),
        (&json!("B"), &json!(true), &json!("my-zone"))
    );
    let before = bench.last_change().await;
    assert_eq!(bench.delete(&path).await.status, 204);
    assert_eq!(bench.changes_after(before).await, [json!({ "kind": "zone_gone" })]);
    assert_eq!(bench.get(&path).await.code(), (404, "zone_not_found"));
    assert_eq!(
        bench.post("/v1/zones", json!({ "name": "x", "slug": "my-zone" })).await.code().0,
        409,
        "a slug stays taken"
    );
    for rest in ["applications", "providers", "resources", "policies", "policy-sets"] {
        let answer = bench.post(&format!("{path}/{rest}"), json!({})).await;
        assert_eq!(answer.code(), (404, "zone_not_found"), "{rest}: before the body is looked at");
        let list = bench.get(&format!("/v1/zones/nowhere/{rest}")).await.ok();
        assert_eq!(list, json!({ "items": [], "next_cursor": null }), "{rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_11_switching_registration_off_needs_a_choice() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}");
    let register = format!("{path}/applications/dcr");
    assert_eq!(bench.post(&register, json!({ "name": "c" })).await.code(), (403, "dcr_disabled"));
    bench.patch(&path, json!({ "dcr_enabled": true })).await.ok();
    let client = bench.post(&register, json!({ "name": "c", "expires_in": 60 })).await.ok();
    assert_eq!(client["registration_method"], "dcr");
    assert!(client["client_secret"].as_str().unwrap().starts_with("cs_"));
    let status = bench.get(&format!("{path}/dcr-status")).await.ok();
    assert_eq!(status, json!({ "id": zone, "dcr_enabled": true, "live_dcr_applications": 1 }));
    let refused = bench.patch(&path, json!({ "dcr_enabled": false })).await;
    assert_eq!(refused.code(), (409, "dcr_shutdown_required"));
    assert_eq!(refused.body["details"]["live_dcr_applications"], 1);
    bench.patch(&path, json!({ "dcr_enabled": false, "dcr_shutdown": "keep_live" })).await.ok();
    let application = format!("{path}/applications/{}", id(&client));
    assert_eq!(bench.get(&application).await.status, 200);
    let before = bench.last_change().await;
    bench.patch(&path, json!({ "dcr_enabled": false, "dcr_shutdown": "revoke_live" })).await.ok();
    assert_eq!(bench.get(&application).await.code(), (404, "application_not_found"));
    let anchors = json!([{ "kind": "application", "id": id(&client) }]);
    assert_eq!(bench.changes_after(before).await, [json!({ "kind": "revoked", "anchors": anchors })]);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_12_registration() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    bench.patch(&format!("/v1/zones/{zone}"), json!({ "dcr_enabled": true })).await.ok();
    let path = format!("/v1/zones/{zone}/applications/dcr");
    for body in
        [json!({}), json!({ "name": "c", "expires_in": 0 }), json!({ "name": "c", "expires_in": 3601 })]
    {
        assert_eq!(bench.post(&path, body).await.code(), (400, "invalid_application"));
    }
    let client = bench.post(&path, json!({ "name": "c" })).await.ok();
    let secret = format!("/v1/zones/{zone}/applications/{}/client-secret", id(&client));
    assert_eq!(bench.get(&secret).await.code(), (404, "application_not_found"), "shown once");
    assert_eq!(bench.number("SELECT COUNT(*) FROM secret_store").await, 0);
    let answer = bench.post("/v1/zones/nowhere/applications/dcr", json!({ "name": "c" })).await;
    assert_eq!(answer.code(), (404, "zone_not_found"));
    let mut limited = false;
    for _ in 0..1000 {
        match bench.post(&path, json!({ "name": "c" })).await.code() {
            (201, _) => {}
            refused => {
                assert_eq!(refused, (429, "dcr_rate_limit_exceeded"));
                limited = true;
                break;
            }
        }
    }
    assert!(limited);
    let count = bench.number("SELECT MAX(count) FROM counters").await;
    assert!(count <= 10, "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_2_applications() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/applications");
    let body = json!({ "name": "Agent", "registration_method": "managed", "traits": ["team:a"] });
    let created = bench.post(&path, body).await.ok();
    let secret = created["client_secret"].as_str().unwrap().to_owned();
    assert_eq!(secret.len(), 3 + 43);
    assert!(created.get("client_secret_hash").is_none());
    let one = format!("{path}/{}", id(&created));
    let row = bench.get(&one).await.ok();
    assert_eq!((&row["traits"], &row["expires_at"]), (&json!(["team:a"]), &Value::Null));
    assert!(row.get("client_secret").is_none());
    let hash: String = sqlx::query_scalar("SELECT client_secret_hash FROM applications")
        .fetch_one(&mut *bench.store.read().await.unwrap())
        .await
        .unwrap();
    assert!(bench.vault.matches(&secret, &hash));
    let managed = |name: &str| json!({ "name": name, "registration_method": "managed" });
    let with = |traits: Value| json!({ "name": "t", "registration_method": "managed", "traits": traits });
    let many: Vec<String> = (0..65).map(|number| format!("t{number}")).collect();
    let cases: &[(&str, &str, Value, (u16, &str))] = &[
        ("POST", &path, managed("AGENT"), (409, "application_name_taken")),
        ("POST", &path, json!({ "name": "x" }), (400, "invalid_application")),
        ("POST", &path, json!({ "name": "x", "registration_method": "dcr" }), (400, "invalid_application")),
        ("POST", &path, managed(""), (400, "invalid_application")),
        ("POST", &path, with(json!(many)), (403, "trait_count_exceeded")),
        ("POST", &path, with(json!(["1x"])), (403, "trait_invalid")),
        ("POST", &path, with(json!(["a", "a"])), (403, "trait_duplicate")),
        ("POST", &path, with(json!(["control:max-ttl:59"])), (403, "trait_invalid")),
        ("POST", &path, with(json!(["control:max-ttl:60", "control:max-ttl:90"])), (403, "trait_invalid")),
        ("POST", &path, with(json!(["control:expires:soon"])), (403, "trait_invalid")),
        ("POST", &path, with(json!(["control:other"])), (403, "trait_invalid")),
        ("PATCH", &one, json!({}), (400, "no_fields")),
        ("PATCH", &one, json!({ "client_secret": "short" }), (400, "invalid_application")),
        ("PATCH", &one, json!({ "expires_at": 1 }), (400, "invalid_application")),
        ("GET", &format!("{path}?status=gone"), json!({}), (400, "invalid_query")),
        ("PATCH", &format!("{path}/x"), json!({ "name": "x" }), (404, "application_not_found")),
        ("DELETE", &format!("{path}/x"), json!({}), (404, "application_not_found")),
        ("POST", &format!("{path}/x/rotate-secret"), json!({}), (404, "application_not_found")),
        ("GET", &format!("{path}/x/client-secret"), json!({}), (404, "application_not_found")),
    ];
    for &(method, path, ref body, code) in cases {
        assert_eq!(
            bench.call(BOOTSTRAP, method, path, Some(body.clone())).await.code(),
            code,
            "{method} {path} {body}"
        );
    }
    // Traits are for global actors, and some of them may only be given by one.
    let zone_write = bench.token(Some(&zone), "write").await;
    assert!(bench.call(&zone_write, "GET", &one, None).await.ok().get("traits").is_none());
    let forbidden = bench.call(&zone_write, "POST", &path, Some(with(json!(["control:invoke"])))).await;
    assert_eq!(forbidden.code(), (403, "trait_forbidden"));
    bench.post(&path, with(json!(["control:invoke", "control:max-ttl:300"]))).await.ok();
    // Rotation, a secret of the caller's, and what the custody gives back.
    let reveal = format!("{one}/client-secret");
    assert_eq!(bench.get(&reveal).await.ok(), json!({ "client_secret": secret }));
    // What is being judged by the old secret is judged anew.
    let generation = *bench.store.changes().borrow();
    let rotated = bench.call(BOOTSTRAP, "POST", &format!("{one}/rotate-secret"), None).await.ok();
    assert_eq!(*bench.store.changes().borrow(), generation + 1);
    assert_ne!(rotated["client_secret"], json!(secret));
    assert_eq!(bench.get(&reveal).await.ok()["client_secret"], rotated["client_secret"]);
    let own = "a-secret-of-the-caller-with-32-characters";
    bench.patch(&one, json!({ "client_secret": own, "traits": [] })).await.ok();
    assert_eq!(bench.get(&reveal).await.ok()["client_secret"], own);
    assert_eq!(bench.get(&one).await.ok()["traits"], json!([]));
    assert_eq!(bench.number("SELECT COUNT(*) FROM secret_store WHERE envelope LIKE '%caller%'").await, 0);
    bench.execute("DELETE FROM secret_store").await;
    assert_eq!(bench.get(&reveal).await.code(), (404, "client_secret_not_stored"));
    // The end: gateways are told, the name is free again.
    let before = bench.last_change().await;
    assert_eq!(bench.delete(&one).await.status, 204);
    let anchors = json!([{ "kind": "application", "id": id(&created) }]);
    assert_eq!(bench.changes_after(before).await, [json!({ "kind": "revoked", "anchors": anchors })]);
    assert_eq!(bench.get(&one).await.code(), (404, "application_not_found"));
    let archived = bench.get(&format!("{path}?status=archived")).await.ok();
    assert_eq!(archived["items"][0]["id"], created["id"]);
    bench.post(&path, managed("agent")).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_14_a_reveal_is_in_the_ledger_and_not_for_readers() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let body = json!({ "name": "a", "registration_method": "managed" });
    let created = bench.post(&format!("/v1/zones/{zone}/applications"), body).await.ok();
    let path = format!("/v1/zones/{zone}/applications/{}/client-secret", id(&created));
    for (capability, code) in [
        ("read", "admin_token_read_only"),
        ("approve", "admin_token_approve_only"),
        ("write", "admin_capability_required"),
    ] {
        let token = bench.token(None, capability).await;
        assert_eq!(bench.call(&token, "GET", &path, None).await.code(), (403, code));
    }
    bench.get(&path).await.ok();
    let events = bench.get(&format!("/v1/zones/{zone}/audit?event_type=credential_revealed")).await.ok();
    assert_eq!(events["items"].as_array().unwrap().len(), 1);
    let metadata = &events["items"][0]["metadata_json"];
    assert_eq!(metadata["application_name"], "a");
    assert!(metadata["actor"].as_str().unwrap().starts_with("admin:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_5_providers() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/providers");
    let row = bench.post(&path, json!({ "name": "My Provider", "kind": "none" })).await.ok();
    assert_eq!(row["identifier"], "provider://my-provider");
    assert_eq!((&row["config_json"], &row["secret_config_keys"]), (&json!({}), &json!([])));
    let second = bench.post(&path, json!({ "name": "My provider", "kind": "caracal_mandate" })).await.ok();
    assert_eq!(second["identifier"], "provider://my-provider-2");
    let one = format!("{path}/{}", id(&row));
    let cases: &[(&str, &str, Value, (u16, &str))] = &[
        ("POST", &path, json!({ "kind": "none" }), (400, "invalid_provider")),
        ("POST", &path, json!({ "name": " ", "kind": "none" }), (400, "invalid_provider")),
        ("POST", &path, json!({ "name": "x" }), (400, "invalid_provider")),
        ("POST", &path, json!({ "identifier": "x", "kind": "none" }), (400, "invalid_provider_identifier")),
        (
            "POST",
            &path,
            json!({ "identifier": "provider://a--b", "kind": "none" }),
            (400, "invalid_provider_identifier"),
        ),
        (
            "POST",
            &path,
            json!({ "identifier": "provider://my-provider", "kind": "none" }),
            (409, "provider_identifier_conflict"),
        ),
        ("POST", &path, json!({ "name": "x", "kind": "api_key" }), (400, "invalid_provider_config")),
        (
            "POST",
            &path,
            json!({ "name": "x", "kind": "none", "config_json": { "a": 1 } }),
            (400, "invalid_provider_config"),
        ),
        (
            "POST",
            &path,
            json!({ "name": "x", "kind": "none", "check": true }),
            (400, "provider_check_unsupported"),
        ),
        ("PATCH", &one, json!({}), (400, "no_fields")),
        ("PATCH", &one, json!({ "kind": "none" }), (400, "provider_config_required")),
        ("PATCH", &one, json!({ "kind": "api_key", "config_json": {} }), (400, "invalid_provider_config")),
        (
            "PATCH",
            &one,
            json!({ "identifier": "provider://my-provider-2" }),
            (409, "provider_identifier_conflict"),
        ),
        ("PATCH", &format!("{path}/x"), json!({ "name": "x" }), (404, "provider_not_found")),
        ("GET", &format!("{path}/x"), json!({}), (404, "provider_not_found")),
        ("DELETE", &format!("{path}/x"), json!({}), (404, "provider_not_found")),
    ];
    for &(method, path, ref body, code) in cases {
        assert_eq!(
            bench.call(BOOTSTRAP, method, path, Some(body.clone())).await.code(),
            code,
            "{method} {path} {body}"
        );
    }
    let refused = bench.post(&path, json!({ "name": "x", "kind": "oauth3" })).await;
    let why = refused.body["error_description"].as_str().unwrap();
    assert!(why.contains("oauth3") && why.contains("none, caracal_mandate"), "{why}");
    let resource = bench.resource(&zone, &id(&row), "orders").await;
    let before = bench.last_change().await;
    bench.patch(&one, json!({ "name": "New" })).await.ok();
    assert!(bench.changes_after(before).await.is_empty());
    bench.patch(&one, json!({ "kind": "caracal_mandate", "config_json": {} })).await.ok();
    assert_eq!(bench.delete(&one).await.status, 204);
    assert_eq!(
        bench.changes_after(before).await,
        [
            json!({ "kind": "resource", "id": resource["id"] }),
            json!({ "kind": "resource_gone", "identifier": "resource://orders" })
        ]
    );
    assert_eq!(bench.get(&one).await.code(), (404, "provider_not_found"));
    bench.post(&path, json!({ "identifier": "provider://my-provider", "kind": "none" })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_4_resources() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let provider = bench.provider(&zone, "p").await;
    let path = format!("/v1/zones/{zone}/resources");
    let before = bench.last_change().await;
    let row = bench.resource(&zone, &provider, "Orders").await;
    assert_eq!((&row["identifier"], &row["mandate_use"]), (&json!("resource://orders"), &json!("single")));
    assert_eq!(row["operation_enforcement"], "enforced");
    assert_eq!(row["operations"], json!([{ "method": "GET", "path": "/orders", "scope": "orders:read" }]));
    assert_eq!(bench.changes_after(before).await, [json!({ "kind": "resource", "id": row["id"] })]);
    let one = format!("{path}/{}", id(&row));
    let base = json!({
        "identifier": "https://other.example", "scopes": ["a", "b", "a"], "credential_provider_id": provider,
        "upstream_url": "https://other.example/base", "mandate_use": "multi",
        "operation_enforcement": "transport_uniform", "unknown": "is ignored",
    });
    let other = bench.post(&path, base.clone()).await.ok();
    assert_eq!((&other["scopes"], &other["mandate_use"]), (&json!(["a", "b"]), &json!("multi")));
    assert_eq!(other["name"], "https://other.example");
    let with = |name: &str, value: Value| {
        let mut body = base.clone();
        body["identifier"] = json!("resource://new");
        body[name] = value;
        body
    };
    let without = |name: &str| {
        let mut body = with("x", json!(1));
        body.as_object_mut().unwrap().remove(name);
        body
    };
    let operation =
        |method: &str, at: &str, scope: &str| json!({ "method": method, "path": at, "scope": scope });
    let pattern =
        |kind: &str, at: &str| json!([{ "method": "GET", "path": at, "scope": "a", "match": kind }]);
    let cases: &[(&str, &str, Value, (u16, &str))] = &[
        ("POST", &path, without("identifier"), (400, "invalid_resource")),
        ("POST", &path, without("scopes"), (400, "invalid_resource")),
        ("POST", &path, with("scopes", json!([])), (400, "invalid_resource")),
        ("POST", &path, with("scopes", json!(["a b"])), (400, "invalid_resource")),
        ("POST", &path, with("mandate_use", json!("twice")), (400, "invalid_resource")),
        ("POST", &path, with("upstream_url", json!("ftp://x")), (400, "invalid_resource")),
        ("POST", &path, with("identifier", json!("provider://x")), (400, "invalid_resource_identifier")),
        ("POST", &path, with("identifier", json!("https://u@x")), (400, "invalid_resource_identifier")),
        ("POST", &path, without("credential_provider_id"), (400, "credential_provider_required")),
        ("POST", &path, without("upstream_url"), (400, "upstream_url_required")),
        ("POST", &path, with("credential_provider_id", json!("x")), (404, "provider_not_found")),
        (
            "POST",
            &path,
            with("identifier", json!("resource://orders")),
            (409, "resource_identifier_conflict"),
        ),
        ("POST", &path, with("check", json!(true)), (400, "resource_verification_unsupported")),
        (
            "POST",
            &path,
            with("operations", json!([operation("", "/x", "a")])),
            (400, "operation_method_and_path_required"),
        ),
        (
            "POST",
            &path,
            with("operations", json!([operation("GET", "x", "a")])),
            (400, "operation_path_must_be_absolute"),
        ),
        (
            "POST",
            &path,
            with("operations", json!([operation("GET", "/x", "c")])),
            (400, "operation_scope_not_in_resource_scopes"),
        ),
        (
            "POST",
            &path,
            with("operations", json!([operation("GET", "/x", "a"), operation("get", " /x ", "b")])),
            (400, "operation_duplicate"),
        ),
        ("POST", &path, with("operations", pattern("regex", "/x")), (400, "invalid_resource")),
        ("POST", &path, with("operations", pattern("template", "/x")), (400, "invalid_resource")),
        ("POST", &path, with("operations", pattern("template", "/x/{a}b")), (400, "invalid_resource")),
        ("POST", &path, with("operations", pattern("prefix", "/x/../y")), (400, "invalid_resource")),
        ("PATCH", &one, json!({ "unknown": 1 }), (400, "no_fields")),
        (
            "PATCH",
            &one,
            json!({ "scopes": ["orders:write"] }),
            (400, "operation_scope_not_in_resource_scopes"),
        ),
        ("PATCH", &one, json!({ "upstream_url": null }), (400, "upstream_url_required")),
        ("PATCH", &one, json!({ "credential_provider_id": null }), (400, "credential_provider_required")),
        ("PATCH", &one, json!({ "credential_provider_id": "x" }), (404, "provider_not_found")),
        (
            "PATCH",
            &one,
            json!({ "identifier": "https://other.example" }),
            (409, "resource_identifier_conflict"),
        ),
        ("PATCH", &format!("{path}/x"), json!({ "name": "x" }), (404, "resource_not_found")),
        ("GET", &format!("{path}/x"), json!({}), (404, "resource_not_found")),
        ("DELETE", &format!("{path}/x"), json!({}), (404, "resource_not_found")),
    ];
    let count = bench.last_change().await;
    for &(method, path, ref body, code) in cases {
        assert_eq!(
            bench.call(BOOTSTRAP, method, path, Some(body.clone())).await.code(),
            code,
            "{method} {path} {body}"
        );
    }
    assert_eq!(bench.last_change().await, count, "what is refused changes nothing");
    assert_eq!(bench.get(&one).await.ok(), row);
    let patched = bench
        .patch(
            &one,
            json!({
                "identifier": "resource://moved", "scopes": ["orders:read"], "mandate_use": "multi",
                "operations": [
                    { "method": "put", "path": "/x", "scope": "orders:read" },
                    { "method": "put", "path": "/x/{id}", "scope": "orders:read", "match": "template" },
                    { "method": "put", "path": "/x", "scope": "orders:read", "match": "prefix" },
                ],
            }),
        )
        .await
        .ok();
    let kinds: Vec<_> =
        patched["operations"].as_array().unwrap().iter().map(|operation| &operation["match"]).collect();
    assert_eq!(kinds, [&Value::Null, &json!("template"), &json!("prefix")]);
    assert_eq!(
        (&patched["mandate_use"], &patched["operations"][0]["method"]),
        (&json!("multi"), &json!("PUT"))
    );
    assert_eq!(patched["name"], "Orders");
    assert_eq!(bench.delete(&one).await.status, 204);
    assert_eq!(
        bench.changes_after(count).await,
        [
            json!({ "kind": "resource_gone", "identifier": "resource://orders" }),
            json!({ "kind": "resource", "id": row["id"] }),
            json!({ "kind": "resource_gone", "identifier": "resource://moved" }),
        ]
    );
    assert_eq!(bench.get(&format!("{path}?status=archived")).await.ok()["items"][0]["id"], row["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_3_1_pages_lose_nothing_at_equal_times() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    for number in 0..11 {
        let body = json!({ "name": format!("a{number}"), "registration_method": "managed" });
        bench.post(&format!("/v1/zones/{zone}/applications"), body).await.ok();
    }
    bench.execute("UPDATE applications SET created_at = 1795251661007").await;
    let mut seen = Vec::new();
    let mut query = String::new();
    loop {
        let page = bench.get(&format!("/v1/zones/{zone}/applications?limit=4{query}")).await.ok();
        seen.extend(page["items"].as_array().unwrap().iter().map(id));
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("&cursor={cursor}"),
            None => break,
        }
    }
    let mut sorted = seen.clone();
    sorted.sort();
    sorted.dedup();
    sorted.reverse();
    assert_eq!((seen.len(), seen), (11, sorted));
}
