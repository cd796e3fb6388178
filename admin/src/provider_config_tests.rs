//! What each kind takes, and what none does.

use super::*;
use serde_json::json;

fn checked(kind: &str, config: &Value) -> Result<Config, Problem> {
    check(kind, config.as_object().unwrap().clone())
}

fn with(mut base: Value, more: &Value) -> Value {
    base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    base
}

fn service(more: &Value) -> Value {
    with(json!({ "token_endpoint": "https://IdP.example.com/token", "client_id": "c" }), more)
}

fn person(more: &Value) -> Value {
    let ends = json!({
        "authorization_endpoint": "https://idp.example.com/authorize", "redirect_uri": "https://c.example/cb",
    });
    with(service(&ends), more)
}

fn new_key() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

#[test]
fn contract_admin_5_5_what_each_kind_takes() {
    let key = new_key();
    let good = [
        ("none", json!({}), vec![]),
        ("caracal_mandate", json!({}), vec![]),
        ("api_key", json!({ "header_name": "X-Api-Key", "api_key": " k " }), vec!["api_key"]),
        (
            "api_key",
            json!({ "auth_location": "query", "query_param_name": "key", "api_key": "k" }),
            vec!["api_key"],
        ),
        ("api_key", json!({ "header_name": "Authorization", "auth_scheme": "Token" }), vec!["api_key"]),
        (
            "bearer_token",
            json!({ "bearer_token": "t", "allowed_token_hosts": ["API.example.com"] }),
            vec!["bearer_token"],
        ),
        ("http_basic", json!({ "username": "u", "password": "p" }), vec!["password"]),
        ("oauth2_client_credentials", service(&json!({ "client_secret": "s" })), vec!["client_secret"]),
        ("oauth2_client_credentials", service(&json!({ "client_auth_method": "none" })), vec![]),
        (
            "oauth2_client_credentials",
            service(&json!({ "client_auth_method": "private_key_jwt", "private_key": key, "key_id": "k" })),
            vec!["private_key"],
        ),
        (
            "oauth2_client_credentials",
            service(&json!({ "grant_type": "jwt_bearer", "private_key": key, "assertion_subject": "s" })),
            vec!["private_key"],
        ),
        (
            "oauth2_client_credentials",
            service(&json!({
                "grant_type": "jwt_bearer", "client_auth_method": "client_secret_post", "private_key": key,
                "client_secret": "s",
            })),
            vec!["client_secret", "private_key"],
        ),
        (
            "oauth2_client_credentials",
            service(&json!({
                "scopes": ["a", "b"], "audience": "x", "resource": "r", "token_params": { "tenant": "t" },
                "auth_header": "X-Token", "auth_scheme": "Token", "allow_runtime_injection": true,
            })),
            vec!["client_secret"],
        ),
        ("oauth2_authorization_code", person(&json!({ "client_secret": "s" })), vec!["client_secret"]),
        (
            "oauth2_authorization_code",
            person(&json!({
                "client_auth_method": "none", "revocation_endpoint": "https://idp.example.com/revoke",
                "authorization_params": { "prompt": "consent" },
            })),
            vec![],
        ),
    ];
    for (kind, config, needs) in good {
        let found = checked(kind, &config).unwrap_or_else(|error| panic!("{kind} {config}: {error:?}"));
        assert_eq!(found.needs, needs, "{kind} {config}");
        for key in secret_keys(found.kind) {
            assert!(!found.public.contains_key(*key), "{kind}");
            assert_eq!(found.secret.contains_key(*key), config.get(key).is_some(), "{kind}");
        }
    }
    let trimmed = checked("api_key", &json!({ "header_name": "X", "api_key": " k " })).unwrap();
    assert_eq!(trimmed.secret["api_key"], "k");
    let hosts = checked("bearer_token", &json!({ "allowed_token_hosts": ["API.example.com"] })).unwrap();
    assert_eq!(hosts.public["allowed_token_hosts"], json!(["api.example.com"]));
    let hosts = checked("oauth2_client_credentials", &service(&json!({}))).unwrap();
    assert_eq!(hosts.public["allowed_token_hosts"], json!(["idp.example.com"]));
}

#[test]
fn contract_admin_5_5_what_no_kind_takes() {
    let key = new_key();
    let (of_service, of_person) = ("oauth2_client_credentials", "oauth2_authorization_code");
    let bad = [
        ("oauth3", json!({})),
        ("none", json!({ "a": 1 })),
        ("api_key", json!({ "api_key": "k" })),
        ("api_key", json!({ "header_name": "X-Caracal-Resource" })),
        ("api_key", json!({ "header_name": "content-language" })),
        ("api_key", json!({ "header_name": "Host" })),
        ("api_key", json!({ "header_name": "a b" })),
        ("api_key", json!({ "header_name": "A", "query_param_name": "b" })),
        ("api_key", json!({ "header_name": "A", "bearer_token": "b" })),
        ("api_key", json!({ "header_name": "A", "api_key": "" })),
        ("api_key", json!({ "header_name": "A", "api_key": "a\nb" })),
        ("api_key", json!({ "header_name": "A", "auth_scheme": "Token", "api_key": "token x" })),
        ("api_key", json!({ "auth_location": "query", "query_param_name": "a&b" })),
        ("api_key", json!({ "auth_location": "query", "query_param_name": "a", "auth_scheme": "X" })),
        ("bearer_token", json!({ "bearer_token": "Bearer x" })),
        ("bearer_token", json!({ "bearer_token": 1 })),
        ("bearer_token", json!({ "allowed_token_hosts": ["127.0.0.1"] })),
        ("bearer_token", json!({ "allowed_token_hosts": [] })),
        ("bearer_token", json!({ "forward_caracal_identity": "yes" })),
        ("http_basic", json!({ "password": "p" })),
        ("http_basic", json!({ "username": "a:b", "password": "p" })),
        (of_service, json!({ "client_id": "c" })),
        (of_service, service(&json!({ "token_endpoint": "http://idp.example.com/token" }))),
        (of_service, service(&json!({ "token_endpoint": "https://10.0.0.1/token" }))),
        (of_service, service(&json!({ "client_auth_method": "magic" }))),
        (of_service, service(&json!({ "client_auth_method": "private_key_jwt", "private_key": "no key" }))),
        (of_service, service(&json!({ "private_key": key }))),
        (of_service, service(&json!({ "key_id": "k" }))),
        (
            of_service,
            service(&json!({ "grant_type": "jwt_bearer", "client_auth_method": "private_key_jwt" })),
        ),
        (of_service, service(&json!({ "grant_type": "jwt_bearer", "resource": "r" }))),
        (
            of_service,
            service(
                &json!({ "client_auth_method": "private_key_jwt", "private_key": key, "certificate": key }),
            ),
        ),
        (of_service, service(&json!({ "scopes": "a b" }))),
        (of_service, service(&json!({ "scopes": [""] }))),
        (of_service, service(&json!({ "token_params": { "client_secret": "x" } }))),
        (of_service, service(&json!({ "token_params": { "a": 1 } }))),
        (of_service, service(&json!({ "redirect_uri": "https://c.example/cb" }))),
        (of_service, service(&json!({ "allowed_token_hosts": ["other.example.com"] }))),
        (of_person, service(&json!({}))),
        (of_person, person(&json!({ "redirect_uri": "/relative" }))),
        (of_person, person(&json!({ "client_auth_method": "private_key_jwt" }))),
        (of_person, person(&json!({ "revocation_endpoint": "https://other.example.com/revoke" }))),
        (of_person, person(&json!({ "authorization_params": { "redirect_uri": "x" } }))),
        (of_person, person(&json!({ "allow_runtime_injection": true }))),
    ];
    for (kind, config) in bad {
        assert!(checked(kind, &config).is_err(), "{kind} {config}");
    }
}
