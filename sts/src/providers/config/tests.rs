//! What each kind takes, and what none does.

use super::*;
use serde_json::{Value, json};

fn parsed(kind: &str, config: &Value) -> Result<ProviderConfig, ConfigError> {
    ProviderConfig::parse(Kind::parse(kind).unwrap(), config)
}

fn client(more: &Value) -> Value {
    let mut config = json!({ "token_endpoint": "https://idp.example.com/token", "client_id": "c1" });
    let members = config.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    config
}

fn user(more: &Value) -> Value {
    let mut config = client(&json!({
        "authorization_endpoint": "https://idp.example.com/authorize",
        "redirect_uri": "http://localhost:3000/callback",
    }));
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

#[test]
fn contract_sts_22_1_placement_by_kind() {
    let header = |name: &str, scheme: Option<&str>| Placement::Header {
        name: name.to_owned(),
        scheme: scheme.map(str::to_owned),
    };
    let cases = [
        ("api_key", json!({ "header_name": "X-Key" }), header("X-Key", None)),
        (
            "api_key",
            json!({ "header_name": "X-Key", "auth_scheme": "Token" }),
            header("X-Key", Some("Token")),
        ),
        (
            "api_key",
            json!({ "auth_location": "query", "query_param_name": "key" }),
            Placement::Query { name: "key".to_owned() },
        ),
        ("bearer_token", json!({}), header("Authorization", Some("Bearer"))),
        (
            "bearer_token",
            json!({ "auth_header": "X-Token", "auth_scheme": "Token" }),
            header("X-Token", Some("Token")),
        ),
        ("http_basic", json!({ "username": "u" }), header("Authorization", Some("Basic"))),
        ("oauth2_client_credentials", client(&json!({})), header("Authorization", Some("Bearer"))),
        (
            "oauth2_authorization_code",
            user(&json!({ "auth_scheme": "DPoP" })),
            header("Authorization", Some("DPoP")),
        ),
    ];
    for (kind, config, placement) in cases {
        assert_eq!(parsed(kind, &config).unwrap().placement, placement, "{kind} {config}");
    }
}

#[test]
fn contract_sts_22_1_hosts_reach_the_gateway_for_static_kinds_alone() {
    let hosts = json!(["API.example.com", "idp.example.com"]);
    let cases = [
        ("api_key", json!({ "header_name": "X", "allowed_token_hosts": hosts }), 2),
        ("bearer_token", json!({ "allowed_token_hosts": hosts }), 2),
        ("http_basic", json!({ "username": "u", "allowed_token_hosts": hosts }), 2),
        ("oauth2_client_credentials", client(&json!({ "allowed_token_hosts": hosts })), 0),
    ];
    for (kind, config, count) in cases {
        let found = parsed(kind, &config).unwrap().allowed_token_hosts;
        assert_eq!(found.len(), count, "{kind}");
        assert!(found.iter().all(|host| !host.contains('A')), "{kind}");
    }
}

#[test]
fn contract_sts_22_3_what_no_configuration_may_say() {
    let service = "oauth2_client_credentials";
    let person = "oauth2_authorization_code";
    let cases = [
        ("api_key", json!({}), "header_name"),
        ("api_key", json!({ "header_name": "X-Caracal-Resource" }), "header_name"),
        ("api_key", json!({ "header_name": "a b" }), "header_name"),
        ("api_key", json!({ "header_name": 1 }), "config_json"),
        ("api_key", json!({ "header_name": "X", "auth_scheme": "1x" }), "auth_scheme"),
        ("api_key", json!({ "auth_location": "body" }), "auth_location"),
        ("api_key", json!({ "auth_location": "query" }), "query_param_name"),
        ("api_key", json!({ "auth_location": "query", "query_param_name": "a&b" }), "query_param_name"),
        (
            "api_key",
            json!({ "auth_location": "query", "query_param_name": "a", "auth_scheme": "T" }),
            "auth_scheme",
        ),
        ("bearer_token", json!({ "auth_header": "Host" }), "auth_header"),
        ("bearer_token", json!({ "allowed_token_hosts": ["a..b"] }), "allowed_token_hosts"),
        ("bearer_token", json!({ "allowed_token_hosts": ["-a.b"] }), "allowed_token_hosts"),
        ("bearer_token", json!({ "allowed_token_hosts": ["a/b"] }), "allowed_token_hosts"),
        ("bearer_token", json!({ "allowed_token_hosts": ["a".repeat(254)] }), "allowed_token_hosts"),
        ("http_basic", json!({}), "username"),
        ("http_basic", json!({ "username": "a:b" }), "username"),
        (service, json!({ "client_id": "c" }), "token_endpoint"),
        (service, client(&json!({ "token_endpoint": "http://idp.example.com/t" })), "token_endpoint"),
        (service, client(&json!({ "token_endpoint": "https://u:p@idp.example.com/t" })), "token_endpoint"),
        (service, client(&json!({ "allowed_token_hosts": ["other.example.com"] })), "token_endpoint"),
        (service, json!({ "token_endpoint": "https://idp.example.com/t" }), "client_id"),
        (service, client(&json!({ "client_auth_method": "magic" })), "config_json"),
        (service, client(&json!({ "grant_type": "password" })), "grant_type"),
        (
            service,
            client(&json!({ "grant_type": "jwt_bearer", "client_auth_method": "private_key_jwt" })),
            "client_auth_method",
        ),
        (service, client(&json!({ "grant_type": "jwt_bearer", "resource": "r" })), "resource"),
        (service, client(&json!({ "assertion_subject": "s" })), "assertion_subject"),
        (service, client(&json!({ "assertion_audience": "s" })), "assertion_audience"),
        (service, client(&json!({ "key_id": "k" })), "key_id"),
        (service, client(&json!({ "certificate": "c" })), "certificate"),
        (service, client(&json!({ "token_params": { "scope": "x" } })), "token_params"),
        (service, client(&json!({ "token_params": { "refresh_token": "x" } })), "token_params"),
        (service, client(&json!({ "token_params": { "a": "" } })), "token_params"),
        (service, client(&json!({ "token_params": { "a b": "x" } })), "token_params"),
        (service, client(&json!({ "scopes": ["a b"] })), "scopes"),
        (person, client(&json!({})), "authorization_endpoint"),
        (
            person,
            user(&json!({ "authorization_endpoint": "http://idp.example.com/a" })),
            "authorization_endpoint",
        ),
        (person, user(&json!({ "redirect_uri": "/callback" })), "redirect_uri"),
        (person, user(&json!({ "redirect_uri": "https://a.example/#x" })), "redirect_uri"),
        (person, user(&json!({ "client_auth_method": "private_key_jwt" })), "client_auth_method"),
        (
            person,
            user(&json!({ "revocation_endpoint": "https://elsewhere.example/r" })),
            "revocation_endpoint",
        ),
        (person, user(&json!({ "authorization_params": { "state": "x" } })), "authorization_params"),
    ];
    for (kind, config, member) in cases {
        assert_eq!(parsed(kind, &config).unwrap_err().member, member, "{kind} {config}");
    }
}

#[test]
fn contract_sts_22_3_defaults() {
    let config = parsed("oauth2_client_credentials", &client(&json!({}))).unwrap();
    let Source::Service(service) = config.source else { panic!("no service token") };
    assert_eq!(service.endpoint.client_auth, ClientAuth::ClientSecretBasic);
    assert_eq!(service.endpoint.hosts, ["idp.example.com"]);
    assert!(!service.endpoint.any_token_type);
    let config = parsed("oauth2_client_credentials", &client(&json!({ "grant_type": "jwt_bearer" })));
    let Source::Service(service) = config.unwrap().source else { panic!("no service token") };
    assert_eq!(service.endpoint.client_auth, ClientAuth::None);
    assert_eq!(Kind::parse("from_the_future"), None);
}
