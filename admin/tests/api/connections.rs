//! Provider connections, and providers of the OAuth kinds (contract admin-audit §5.5, §5.6), against a real token endpoint.

use crate::common::{Answer, BOOTSTRAP, Bench, bench, bench_calling, id};
use crate::idp::{ACCESS, CLIENT_SECRET, Idp, REFRESH};
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use std::collections::BTreeMap;

struct Setting {
    idp: Idp,
    bench: Bench,
    zone: String,
    /// Of persons.
    provider: String,
    path: String,
}

async fn setting(more: &Value) -> Setting {
    let idp = Idp::start().await;
    let bench = bench_calling(idp.https.egress()).await;
    let zone = bench.zone("Z").await;
    let body = json!({ "name": "IdP", "kind": "oauth2_authorization_code", "config_json": idp.config(more) });
    let provider = id(&bench.post(&format!("/v1/zones/{zone}/providers"), body).await.ok());
    let path = format!("/v1/zones/{zone}/provider-connections");
    Setting { idp, bench, zone, provider, path }
}

impl Setting {
    async fn import(&self, more: &Value) -> Answer {
        let mut body = json!({ "provider_id": self.provider, "access_token": ACCESS });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.bench.post(&self.path, body).await
    }

    async fn begin(&self) -> (String, BTreeMap<String, String>) {
        let body = json!({ "provider_id": self.provider, "subject_id": "u1" });
        let answer = self.bench.post(&format!("{}/oauth/authorize", self.path), body).await.ok();
        let url = answer["authorization_url"].as_str().unwrap().to_owned();
        let (_, query) = url.split_once('?').unwrap();
        let query: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        assert_eq!(answer["state"], query["state"].as_str());
        (url, query)
    }

    /// The return of a browser: no token of ours.
    async fn comes_back(&self, query: &str) -> Answer {
        self.bench.call("", "GET", &format!("{}/oauth/callback?{query}", self.path), None).await
    }

    async fn ledger(&self) -> Vec<(String, Value)> {
        let rows: Vec<String> = sqlx::query_scalar("SELECT event_json FROM audit_outbox ORDER BY rowid")
            .fetch_all(&mut *self.bench.store.read().await.unwrap())
            .await
            .unwrap();
        let events = rows.iter().map(|row| serde_json::from_str::<Value>(row).unwrap());
        events
            .map(|event| (event["event_type"].as_str().unwrap().to_owned(), event["metadata_json"].clone()))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_6_import_list_and_read() {
    let setting = setting(&json!({})).await;
    let (bench, path) = (&setting.bench, &setting.path);
    let shared = setting.import(&json!({})).await;
    assert_eq!(shared.status.as_u16(), 201);
    let shared = shared.ok();
    assert_eq!(shared["subject_id"], "caracal:shared");
    assert_eq!((&shared["status"], &shared["expires_at"]), (&json!("active"), &Value::Null));
    let members: Vec<&String> = shared.as_object().unwrap().keys().collect();
    let wire =
        ["created_at", "expires_at", "id", "provider_id", "status", "subject_id", "updated_at", "zone_id"];
    assert_eq!(members, wire);
    let own = json!({ "subject_id": "u1", "refresh_token": REFRESH, "expires_at": "2030-01-01T00:00:00Z" });
    let first = setting.import(&own).await.ok();
    assert_eq!(first["expires_at"], "2030-01-01T00:00:00.000Z");
    let again = setting.import(&own).await.ok();
    assert_eq!(again["id"], first["id"], "an active one is replaced, not doubled");
    let listed = bench.get(path).await.ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    for (query, count) in [
        ("subject_id=u1", 1),
        ("status=active", 2),
        ("status=revoked", 0),
        (&format!("provider_id={}", setting.provider), 2),
        ("provider_id=other", 0),
    ] {
        let listed = bench.get(&format!("{path}?{query}")).await.ok();
        assert_eq!(listed["items"].as_array().unwrap().len(), count, "{query}");
    }
    assert_eq!(bench.get(&format!("{path}?status=odd")).await.code(), (400, "invalid_query"));
    let read = bench.get(&format!("{path}/{}", id(&first))).await.ok();
    assert_eq!((&read["renewable"], &read["refreshed_at"]), (&json!(true), &Value::Null));
    assert_eq!(bench.get(&format!("{path}/none")).await.code(), (404, "provider_connection_not_found"));
    let overview = format!("/v1/zones/{}/subjects/overview?subject_id=u1", setting.zone);
    bench
        .execute(&format!(
            "INSERT INTO applications (id, zone_id, name, registration_method, created_at, updated_at) \
             VALUES ('a1', '{0}', 'A', 'managed', 0, 0); \
             INSERT INTO authority_records (id, zone_id, session_type, subject_id, application_id, status, expires_at, \
             authenticated_at, created_at) VALUES ('r1', '{0}', 'user', 'u1', 'a1', 'active', 9000000000000, 0, 0)",
            setting.zone
        ))
        .await;
    let overview = bench.get(&overview).await.ok();
    assert_eq!(overview["connections"][0]["provider_name"], "IdP");
    let everything = format!("{listed}{read}{overview}{shared}");
    assert!(!everything.contains(ACCESS) && !everything.contains(REFRESH));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_6_what_is_no_connection() {
    let setting = setting(&json!({})).await;
    let other = setting.bench.provider(&setting.zone, "Mandate").await;
    let cases = [
        (json!({ "access_token": "" }), (400, "invalid_provider_connection")),
        (json!({ "access_token": "a\nb" }), (400, "invalid_provider_connection")),
        (json!({ "access_token": 7 }), (400, "invalid_provider_connection")),
        (json!({ "subject_id": "" }), (400, "invalid_provider_connection")),
        (json!({ "expires_at": "tomorrow" }), (400, "invalid_provider_connection")),
        (json!({ "expires_at": "2020-01-01T00:00:00Z" }), (400, "invalid_provider_connection")),
        (json!({ "provider_id": other }), (400, "provider_connection_unsupported")),
        (json!({ "provider_id": "none" }), (404, "provider_not_found")),
    ];
    for (more, code) in cases {
        assert_eq!(setting.import(&more).await.code(), code, "{more}");
    }
    let elsewhere = json!({ "provider_id": setting.provider, "access_token": ACCESS });
    let nowhere = setting.bench.post("/v1/zones/nowhere/provider-connections", elsewhere.clone()).await;
    assert_eq!(nowhere.code(), (404, "zone_not_found"));
    let zone = setting.bench.zone("Other").await;
    let answer = setting.bench.post(&format!("/v1/zones/{zone}/provider-connections"), elsewhere).await;
    assert_eq!(answer.code(), (404, "provider_not_found"), "a provider of another zone");
    let reader = setting.bench.token(Some(&setting.zone), "read").await;
    let refused = setting.bench.call(&reader, "POST", &setting.path, Some(json!({}))).await;
    assert_eq!(refused.code(), (403, "admin_token_read_only"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_18_25_revoking_here_wins_whatever_the_provider_says() {
    let with_endpoint = |idp: &Idp| json!({ "revocation_endpoint": idp.https.url("/revoke") });
    for (endpoint, status, expected) in
        [(false, 200, "unsupported"), (true, 200, "revoked"), (true, 503, "failed")]
    {
        let setting = setting(&json!({})).await;
        let (bench, path) = (&setting.bench, &setting.path);
        if endpoint {
            let config = setting.idp.config(&with_endpoint(&setting.idp));
            let provider = format!("/v1/zones/{}/providers/{}", setting.zone, setting.provider);
            bench.patch(&provider, json!({ "config_json": config })).await.ok();
        }
        let resource = bench.resource(&setting.zone, &setting.provider, "Orders").await;
        setting.import(&json!({ "subject_id": "u1", "refresh_token": REFRESH })).await.ok();
        setting.idp.says(status, json!({}));
        let before = bench.last_change().await;
        let body = json!({ "provider_id": setting.provider, "subject_id": "u1" });
        let revoked = bench.post(&format!("{path}/revoke"), body.clone()).await;
        assert_eq!(revoked.status.as_u16(), 200);
        let revoked = revoked.ok();
        assert_eq!(revoked["upstream_revocation"], expected);
        assert_eq!((&revoked["status"], &revoked["renewable"]), (&json!("revoked"), &json!(false)));
        let changes = bench.changes_after(before).await;
        assert_eq!(changes, [json!({ "kind": "resource", "id": id(&resource) })], "the epoch is raised");
        let asked = setting.idp.asked.lock().unwrap().clone();
        assert_eq!(asked.len(), usize::from(endpoint));
        if let Some((at, form)) = asked.first() {
            assert_eq!((at.as_str(), form["token"].as_str()), ("/revoke", REFRESH));
        }
        let held = "SELECT COUNT(*) FROM provider_connections WHERE access_token_envelope IS NOT NULL";
        assert_eq!(bench.number(held).await, 0, "its tokens are gone");
        let again = bench.post(&format!("{path}/revoke"), body).await;
        assert_eq!(again.code(), (404, "provider_connection_not_found"));
        assert!(setting.ledger().await.iter().any(|(kind, _)| kind == "provider_connection_revoked"));
        let odd = bench.post(&format!("{path}/revoke"), json!({ "provider": 1 })).await;
        assert_eq!(odd.code(), (400, "invalid_provider_connection_revoke"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_8_who_is_cut_off_is_disconnected() {
    let setting = setting(&json!({})).await;
    setting.import(&json!({ "subject_id": "u1" })).await.ok();
    setting.import(&json!({ "subject_id": "u2" })).await.ok();
    setting
        .bench
        .execute(&format!(
            "INSERT INTO authority_records (id, zone_id, session_type, subject_id, application_id, status, expires_at, \
             authenticated_at, created_at) VALUES ('r1', '{}', 'user', 'u1', 'a1', 'active', 9000000000000, 0, 0)",
            setting.zone
        ))
        .await;
    let path = format!("/v1/zones/{}/subjects/revoke", setting.zone);
    let done = setting.bench.post(&path, json!({ "subject_id": "u1" })).await.ok();
    assert_eq!(done["connections"], 1);
    let active = setting.bench.get(&format!("{}?status=active", setting.path)).await.ok();
    assert_eq!(active["items"].as_array().unwrap().len(), 1);
    assert_eq!(active["items"][0]["subject_id"], "u2");
    let provider = format!("/v1/zones/{}/providers/{}", setting.zone, setting.provider);
    assert_eq!(setting.bench.delete(&provider).await.status.as_u16(), 204);
    let active = setting.bench.get(&format!("{}?status=active", setting.path)).await.ok();
    assert_eq!(active["items"], json!([]), "an archived provider keeps nobody's tokens");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_6_the_browser_flow() {
    let setting = setting(&json!({ "authorization_params": { "prompt": "consent" } })).await;
    let (url, query) = setting.begin().await;
    assert!(url.starts_with(&setting.idp.https.url("/authorize?")), "{url}");
    let expected = [
        ("client_id", "c 1"),
        ("code_challenge_method", "S256"),
        ("prompt", "consent"),
        ("redirect_uri", "http://localhost:3000/callback"),
        ("response_type", "code"),
        ("scope", "read offline"),
    ];
    for (name, value) in expected {
        assert_eq!(query[name], value);
    }
    assert_eq!((query["state"].len(), query["code_challenge"].len()), (43, 43));
    let back = format!("state={}&code=the+code", query["state"]);
    let answer = setting.comes_back(&back).await;
    assert_eq!(answer.status.as_u16(), 201, "{}", answer.body);
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    let row = answer.ok();
    assert_eq!((&row["subject_id"], &row["renewable"]), (&json!("u1"), &json!(true)));
    let (at, form) = setting.idp.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(at, "/token");
    assert_eq!(form["grant_type"], "authorization_code");
    assert_eq!(form["code"], "the code");
    assert_eq!(form["redirect_uri"], "http://localhost:3000/callback");
    let hash = aws_lc_sha256(form["code_verifier"].as_bytes());
    assert_eq!(hash, query["code_challenge"], "the verifier is the challenge's (RFC 7636)");
    let again = setting.comes_back(&back).await;
    assert_eq!(again.code(), (400, "oauth_state_expired"), "a state is good for one use");
    let records = setting.bench.get(&format!("/v1/zones/{}/admin-audit", setting.zone)).await.ok();
    let records = records["items"].as_array().unwrap();
    let own = records.iter().find(|row| row["path"].as_str().unwrap().ends_with("/oauth/callback")).unwrap();
    assert_eq!((&own["entity_type"], &own["entity_id"]), (&json!("provider-connections"), &row["id"]));
    assert_eq!(
        own["actor_name"],
        records.last().unwrap()["actor_name"],
        "it is the change of whoever began it"
    );
    assert!(setting.ledger().await.iter().any(|(kind, _)| kind == "provider_connected"));
}

fn aws_lc_sha256(bytes: &[u8]) -> String {
    use base64::Engine as _;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash.as_ref())
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_18_24_what_ends_a_flow() {
    let bad = |status: u16, body: Value| Some((status, body));
    let mac = json!({ "access_token": ACCESS, "token_type": "mac" });
    let cases = [
        ("code=c", None, (400, "invalid_oauth_callback")),
        ("state=unknown&code=c", None, (400, "oauth_state_expired")),
        ("state={}", None, (400, "authorization_code_required")),
        ("state={}&error=access_denied", None, (400, "provider_oauth_denied")),
        (
            "state={}&code=c",
            bad(400, json!({ "error": "invalid_grant" })),
            (502, "provider_token_exchange_failed"),
        ),
        ("state={}&code=c", bad(200, json!({})), (502, "provider_token_response_invalid")),
        ("state={}&code=c", bad(200, mac), (502, "provider_token_type_unsupported")),
    ];
    for (query, says, code) in cases {
        let setting = setting(&json!({})).await;
        let (_, begun) = setting.begin().await;
        if let Some((status, body)) = says {
            setting.idp.says(status, body);
        }
        let query = query.replace("{}", &begun["state"]);
        assert_eq!(setting.comes_back(&query).await.code(), code, "{query}");
        assert_eq!(setting.bench.number("SELECT COUNT(*) FROM provider_connections").await, 0, "{query}");
        if query.contains(&begun["state"]) {
            let again = setting.comes_back(&format!("state={}&code=c", begun["state"])).await;
            assert_eq!(again.code(), (400, "oauth_state_expired"), "{query}: it is over");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_18_24_a_flow_belongs_to_its_zone_its_time_and_its_beginner() {
    let setting = setting(&json!({})).await;
    let (_, begun) = setting.begin().await;
    let other = setting.bench.zone("Other").await;
    let path =
        format!("/v1/zones/{other}/provider-connections/oauth/callback?state={}&code=c", begun["state"]);
    let answer = setting.bench.call("", "GET", &path, None).await;
    assert_eq!(answer.code(), (400, "oauth_state_mismatch"));
    let spoilt = [
        ("UPDATE provider_oauth_flows SET expires_at = 1", (400, "oauth_state_expired")),
        ("UPDATE provider_oauth_flows SET verifier_envelope = 'x'", (400, "oauth_state_invalid")),
        ("UPDATE admin_tokens SET revoked_at = 1", (400, "oauth_state_expired")),
    ];
    for (sql, code) in spoilt {
        let (_, begun) = setting.begin().await;
        setting.bench.execute(sql).await;
        let answer = setting.comes_back(&format!("state={}&code=c", begun["state"])).await;
        assert_eq!(answer.code(), code, "{sql}");
    }
    assert!(setting.idp.asked.lock().unwrap().is_empty());
    for (method, path, code) in [
        ("HEAD", format!("{}/oauth/callback?state=x", setting.path), 401),
        ("POST", format!("{}/oauth/callback?state=x", setting.path), 401),
        ("GET", setting.path.clone(), 401),
    ] {
        let answer = setting.bench.call("", method, &path, None).await;
        assert_eq!(answer.status.as_u16(), code, "{method} {path} needs a token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_6_a_browser_gets_a_page_with_nothing_of_the_request_in_it() {
    let setting = setting(&json!({})).await;
    let (_, begun) = setting.begin().await;
    let get = async |query: String| {
        let request = Request::get(format!("{}/oauth/callback?{query}", setting.path))
            .header("accept", "text/html,application/xhtml+xml")
            .body(Body::empty())
            .unwrap();
        setting.bench.send(request).await
    };
    let good = get(format!("state={}&code=c", begun["state"])).await;
    assert_eq!(good.status.as_u16(), 201);
    assert!(good.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(good.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let bad = get("state=%3Cscript%3E&code=c".to_owned()).await;
    assert_eq!(bad.status.as_u16(), 400);
    let page = bad.body.as_str().unwrap();
    assert!(page.contains("oauth_state_expired") && !page.contains("<script>"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_6_what_no_flow_begins_with() {
    let setting = setting(&json!({})).await;
    let path = format!("{}/oauth/authorize", setting.path);
    let mandate = setting.bench.provider(&setting.zone, "Mandate").await;
    let cases = [
        (json!({}), (400, "invalid_provider_oauth_authorize")),
        (json!({ "provider_id": "none" }), (404, "provider_not_found")),
        (json!({ "provider_id": mandate }), (400, "provider_connection_unsupported")),
    ];
    for (body, code) in cases {
        assert_eq!(setting.bench.post(&path, body.clone()).await.code(), code, "{body}");
    }
    setting.bench.execute("UPDATE providers SET config_json = '{}' WHERE kind LIKE 'oauth2%'").await;
    let answer = setting.bench.post(&path, json!({ "provider_id": setting.provider })).await;
    assert_eq!(answer.code(), (400, "invalid_provider_config"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_18_21_patches_of_oauth_providers_keep_or_replace_all_secrets() {
    let bench = bench().await;
    let zone = bench.zone("Z").await;
    let base = json!({ "token_endpoint": "https://idp.example.com/token", "client_id": "c" });
    let with = |more: Value| {
        let mut config = base.clone();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let kind = "oauth2_client_credentials";
    let create = |config: Value| json!({ "name": "P", "kind": kind, "config_json": config });
    let path = format!("/v1/zones/{zone}/providers");
    let missing = bench.post(&path, create(base.clone())).await;
    assert_eq!(missing.code(), (400, "invalid_provider_config"));
    assert!(missing.body["error_description"].as_str().unwrap().contains("client_secret"));
    let made = bench.post(&path, create(with(json!({ "client_secret": CLIENT_SECRET })))).await.ok();
    assert_eq!(made["secret_config_keys"], json!(["client_secret"]));
    assert_eq!(made["config_json"]["allowed_token_hosts"], json!(["idp.example.com"]));
    assert!(!made.to_string().contains(CLIENT_SECRET));
    let own = format!("{path}/{}", id(&made));
    let patch = async |config: Value| bench.patch(&own, json!({ "config_json": config })).await;
    let kept = patch(with(json!({ "scopes": ["a"] }))).await.ok();
    assert_eq!(kept["secret_config_keys"], json!(["client_secret"]));
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let signs = json!({ "client_auth_method": "private_key_jwt" });
    let refused = patch(with(signs.clone())).await;
    assert_eq!(refused.code(), (400, "invalid_provider_config"), "the sealed secret is another");
    let mut signing = signs.clone();
    signing["private_key"] = key.into();
    let signed = patch(with(signing)).await.ok();
    assert_eq!(signed["secret_config_keys"], json!(["private_key"]), "the sealed document is replaced whole");
    patch(with(signs.clone())).await.ok();
    let mut strange = signs;
    let certificate = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
    strange["certificate"] = certificate.into();
    let refused = patch(with(strange)).await;
    assert_eq!(refused.code(), (400, "invalid_provider_config"), "the certificate is another key's");
    let without = bench.patch(&own, json!({ "kind": "none", "config_json": {} })).await.ok();
    assert_eq!(without["secret_config_keys"], json!([]));
    assert_eq!(bench.number("SELECT COUNT(*) FROM secret_store").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_13_2_nothing_secret_is_stored_open_or_recorded() {
    let setting = setting(&json!({})).await;
    setting.import(&json!({ "refresh_token": REFRESH })).await.ok();
    let (_, begun) = setting.begin().await;
    let mut text = String::new();
    let mut connection = setting.bench.store.read().await.unwrap();
    for sql in [
        "SELECT COALESCE(payload_json, '') || path FROM admin_audit_events",
        "SELECT event_json FROM audit_outbox",
        "SELECT COALESCE(access_token_envelope, '') || COALESCE(refresh_token_envelope, '') FROM provider_connections",
        "SELECT envelope FROM secret_store",
        "SELECT state_hash || verifier_envelope FROM provider_oauth_flows",
        "SELECT config_json FROM providers",
    ] {
        let rows: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut *connection).await.unwrap();
        assert!(!rows.is_empty(), "{sql}");
        text.extend(rows);
    }
    for secret in [ACCESS, REFRESH, CLIENT_SECRET, BOOTSTRAP, begun["state"].as_str()] {
        assert!(!text.contains(secret), "{secret}");
    }
}
