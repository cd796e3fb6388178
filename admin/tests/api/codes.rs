//! The error reference of the Admin API is held to the code: every code of the source is in `docs/errors.md` with its
//! status, and is asserted by a test of this crate. (What any test is answered is held to the page by `common`.)

use crate::common::{BOOTSTRAP, bench, errors, id};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

/// All Rust below a folder of this crate, as one text.
fn sources(folder: &str) -> String {
    fn collect(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut text = String::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut text);
    text
}

fn without_space(text: &str) -> String {
    text.split_whitespace().collect()
}

/// What stands as a text right after one of these, where a refusal is made.
fn made(source: &str) -> BTreeSet<&str> {
    let makers = [
        "Problem::invalid(\"",
        "Problem::forbidden(\"",
        "Problem::absent(\"",
        "Problem::conflict(\"",
        "Problem::unprocessable(\"",
        ".parse(\"",
        "Problem::new(StatusCode::BAD_GATEWAY,\"",
        "Problem::new(StatusCode::INTERNAL_SERVER_ERROR,\"",
        "Problem::new(StatusCode::METHOD_NOT_ALLOWED,\"",
        "Problem::new(StatusCode::PAYLOAD_TOO_LARGE,\"",
        "Problem::new(StatusCode::SERVICE_UNAVAILABLE,\"",
        "Problem::new(StatusCode::TOO_MANY_REQUESTS,\"",
        "Problem::new(StatusCode::UNAUTHORIZED,\"",
        "Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE,\"",
        "Problem::of_write(error,\"",
        "too_often(\"",
        "to_json,\"",
    ];
    let after = |maker: &'static str| source.split(maker).skip(1).filter_map(|rest| rest.split('"').next());
    makers.into_iter().flat_map(after).collect()
}

#[test]
fn every_error_code_stands_in_the_reference() {
    let source = without_space(&sources("src"));
    let page = errors();
    let named: BTreeSet<&str> = page.iter().map(|(_, code)| code.as_str()).collect();
    let made = made(&source);
    assert!(made.len() > 80, "the source is read: {}", made.len());
    let missing: Vec<_> = made.difference(&named).collect();
    assert!(missing.is_empty(), "not in docs/errors.md: {missing:?}");
    // What every service answers is made in the store.
    let elsewhere = ["rate_limited"];
    for code in named.iter().filter(|code| !elsewhere.contains(code)) {
        assert!(
            source.contains(&format!("\"{code}\"")),
            "{code} is in docs/errors.md and nowhere in the code"
        );
    }
}

#[test]
fn every_error_code_is_asserted_by_a_test() {
    let tests = without_space(&sources("tests"));
    for (status, code) in errors() {
        let asserted = tests.contains(&format!("({status},\"{code}\")"))
            || tests.contains(&format!("({status},\"{code}\","));
        assert!(asserted, "no test asserts {status} {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_codes_of_what_is_not_there() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let at = |rest: &str| format!("/v1/zones/{zone}{rest}");
    let set = id(&bench.post(&at("/policy-sets"), json!({ "name": "s" })).await.ok());
    let workload = id(&bench.post(&at("/workloads"), json!({ "name": "w" })).await.ok());
    let managed = json!({ "name": "a", "registration_method": "managed" });
    let application = id(&bench.post(&at("/applications"), managed).await.ok());
    let provider = bench.provider(&zone, "p").await;
    let resource = id(&bench.resource(&zone, &provider, "r").await);
    bench
        .execute(
            "DELETE FROM secret_store; UPDATE applications SET client_secret_hash = NULL; \
             UPDATE resources SET scopes_json = 'x'",
        )
        .await;
    let secret = json!({ "client_secret": "a-secret-of-the-caller-with-32-characters" });
    for (method, path, body, expected) in [
        ("GET", at("/grants/none"), None, (404, "grant_not_found")),
        (
            "GET",
            at(&format!("/policy-sets/{set}/versions/none")),
            None,
            (404, "policy_set_version_not_found"),
        ),
        ("GET", at(&format!("/workloads/{workload}/secret")), None, (404, "workload_secret_not_stored")),
        (
            "PATCH",
            at(&format!("/applications/{application}")),
            Some(secret),
            (400, "client_secret_not_configured"),
        ),
        ("GET", at(&format!("/resources/{resource}")), None, (500, "internal_error")),
        (
            "PUT",
            "/v1/mint-rate-limit".to_owned(),
            Some(json!({ "limit_per_minute": 1_000_000 })),
            (400, "rate_limit_above_ceiling"),
        ),
        (
            "PUT",
            "/v1/audit-retention".to_owned(),
            Some(json!({ "retention_days": 1_000_000 })),
            (400, "retention_above_limit"),
        ),
    ] {
        let answer = bench.call(BOOTSTRAP, method, &path, body).await;
        assert_eq!(answer.code(), expected, "{method} {path}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_6_codes_of_endpoints_that_may_not_be_used() {
    // Nobody allowed this installation to call the machine that it runs on.
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let config = json!({
        "token_endpoint": "https://localhost:9/token", "authorization_endpoint": "https://localhost:9/authorize",
        "redirect_uri": "http://localhost:3000/callback", "client_id": "c", "client_secret": "cs-5ca1ab1e",
    });
    let body = json!({ "name": "IdP", "kind": "oauth2_authorization_code", "config_json": config });
    let provider = id(&bench.post(&format!("/v1/zones/{zone}/providers"), body).await.ok());
    let connections = format!("/v1/zones/{zone}/provider-connections");
    let begin = json!({ "provider_id": provider });
    let authorize = format!("{connections}/oauth/authorize");
    let state = bench.post(&authorize, begin.clone()).await.ok()["state"].as_str().unwrap().to_owned();
    let back = format!("{connections}/oauth/callback?state={state}&code=c");
    let answer = bench.call("", "GET", &back, None).await;
    assert_eq!(answer.code(), (400, "provider_token_endpoint_not_allowed"), "{}", answer.body);
    // As an earlier version may have let it be configured.
    let removed = "UPDATE providers SET config_json = json_remove(config_json, '$.authorization_endpoint')";
    bench.execute(removed).await;
    let answer = bench.post(&authorize, begin).await;
    assert_eq!(answer.code(), (400, "provider_authorization_endpoint_invalid"), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_19_03_a_zone_is_checked_by_one_at_a_time() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/audit-integrity/check");
    let mut outcomes = BTreeSet::new();
    let mut running = tokio::task::JoinSet::new();
    let bench = std::sync::Arc::new(bench);
    for _ in 0..16 {
        let (bench, path) = (std::sync::Arc::clone(&bench), path.clone());
        running.spawn(async move {
            let answer = bench.call(BOOTSTRAP, "POST", &path, None).await;
            let code = answer.body["error"].as_str().unwrap_or("").to_owned();
            (answer.status.as_u16(), code)
        });
    }
    while let Some(outcome) = running.join_next().await {
        outcomes.insert(outcome.unwrap());
    }
    let of = |(status, code): (u16, &str)| (status, code.to_owned());
    assert_eq!(outcomes, BTreeSet::from([of((200, "")), of((409, "audit_check_running"))]));
}
