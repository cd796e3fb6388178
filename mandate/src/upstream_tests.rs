//! Contract gateway §A13 to §A15: where a request goes, and with which credential.

use super::*;

fn path(raw: &str) -> DecodedPath {
    DecodedPath::parse(raw.as_bytes()).unwrap()
}

#[test]
fn a14_addresses() {
    for (url, scheme, authority) in [
        ("http://upstream.example", Scheme::Http, "upstream.example"),
        ("https://Upstream.Example:8443/base?x=1#frag", Scheme::Https, "upstream.example:8443"),
        ("HTTP://127.0.0.1:9000", Scheme::Http, "127.0.0.1:9000"),
        ("http://10.1.2.3", Scheme::Http, "10.1.2.3"),
        ("http://100.64.0.1/", Scheme::Http, "100.64.0.1"),
        ("http://[fc00::1]:80/", Scheme::Http, "[fc00::1]:80"),
        ("http://localhost:/", Scheme::Http, "localhost"),
    ] {
        let parsed = UpstreamUrl::parse(url).unwrap();
        assert_eq!((parsed.scheme(), parsed.authority().as_str()), (scheme, authority), "{url}");
    }
    for url in [
        "",
        "upstream.example",
        "ftp://a",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://u:p@host/",
        "http://a b/",
        "http://host:0/",
        "http://host:99999/",
        "http://host:8o/",
        "http://ho%73t/",
        "http://[::1",
        "http://[::1]x/",
        "http://[1.2.3.4]/",
        "http://169.254.169.254/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://[fe80::1]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[::]/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://169.254.43518/",
        "http://host/../x",
        "http://host/%zz",
        "http://a\r\nb/",
    ] {
        assert!(UpstreamUrl::parse(url).is_err(), "{url}");
    }
}

#[test]
fn a15_path_join() {
    for (url, request, target) in [
        ("http://h", "/a/b", "/a/b"),
        ("http://h/", "", "/"),
        ("http://h", "/a//b/", "/a//b/"),
        ("http://h/base/", "/", "/base/"),
        ("http://h/base", "/a", "/base/a"),
        ("http://h/base/", "/a/", "/base/a"),
        ("http://h/base", "//a//b", "/base/a/b"),
        ("http://h", "/a%2Fb", "/a/b"),
        ("http://h", "/%C3%A9%20x", "/%C3%A9%20x"),
        ("http://h", "/a%3Fb%23c", "/a%3Fb%23c"),
    ] {
        let url_parsed = UpstreamUrl::parse(url).unwrap();
        assert_eq!(url_parsed.target(&path(request), None, None).unwrap(), target, "{url} {request}");
    }
}

#[test]
fn a15_query_merge() {
    for (url, query, credential, target) in [
        ("http://h", Some("b=2&a=1"), None, "/?a=1&b=2"),
        ("http://h", Some(""), None, "/"),
        ("http://h?k=own", Some("k=mine&z=1&z=0"), None, "/?k=own&z=1&z=0"),
        ("http://h", Some("api_key=mine"), Some(("api_key", "s e&c")), "/?api_key=s+e%26c"),
        ("http://h?api_key=own", None, Some(("api_key", "secret")), "/?api_key=secret"),
        ("http://h", Some("q=a+b%20c&flag"), None, "/?flag=&q=a+b+c"),
        ("http://h", Some("q=%FF"), None, "/?q=%FF"),
    ] {
        let parsed = UpstreamUrl::parse(url).unwrap();
        let got = parsed.target(&path("/"), query.map(str::as_bytes), credential).unwrap();
        assert_eq!(got, target, "{url} {query:?}");
    }
    let parsed = UpstreamUrl::parse("http://h").unwrap();
    for query in ["a=1;b=2", "a=%zz", "%", "a=%2"] {
        let got = parsed.target(&path("/"), Some(query.as_bytes()), None);
        assert_eq!(got, Err(UpstreamError::Query), "{query}");
    }
}

#[test]
fn a13_credentials() {
    let directive = |mode: &str| Directive {
        auth_mode: mode.to_owned(),
        provider_token: "secret".to_owned(),
        ..Directive::default()
    };
    let header = |name: &str, value: &str| Credential {
        header: Some((name.to_owned(), value.to_owned())),
        ..Credential::default()
    };
    for (directive, expected) in [
        (directive("none"), Ok(Credential::default())),
        (directive("caracal_jwt"), Ok(header("authorization", "Bearer jwt"))),
        (
            Directive { auth_header: "X-Auth".into(), auth_scheme: "JWT".into(), ..directive("caracal_jwt") },
            Ok(header("x-auth", "JWT jwt")),
        ),
        (directive("provider_oauth"), Ok(header("authorization", "secret"))),
        (
            Directive { auth_scheme: "Basic".into(), ..directive("provider_oauth") },
            Ok(header("authorization", "Basic secret")),
        ),
        (
            Directive { auth_header: "X-Api-Key".into(), ..directive("provider_apikey") },
            Ok(header("x-api-key", "secret")),
        ),
        (
            Directive {
                auth_location: "query".into(),
                query_param_name: "key".into(),
                ..directive("provider_apikey")
            },
            Ok(Credential { query: Some(("key".into(), "secret".into())), ..Credential::default() }),
        ),
        (
            Directive { forward_caracal_identity: true, ..directive("provider_oauth") },
            Ok(Credential { identity: Some("jwt".into()), ..header("authorization", "secret") }),
        ),
        (
            Directive { auth_location: "query".into(), ..directive("provider_apikey") },
            Err(UpstreamError::CredentialParameter),
        ),
        (directive("surprise"), Err(UpstreamError::AuthMode)),
        (directive(""), Err(UpstreamError::AuthMode)),
        (
            Directive { auth_header: "Host".into(), ..directive("provider_apikey") },
            Err(UpstreamError::CredentialHeader),
        ),
        (
            Directive { auth_header: "X-Caracal-Identity".into(), ..directive("caracal_jwt") },
            Err(UpstreamError::CredentialHeader),
        ),
        (
            Directive { provider_token: "a\r\nb: c".into(), ..directive("provider_oauth") },
            Err(UpstreamError::Secret),
        ),
        (
            Directive { provider_token: String::new(), ..directive("provider_oauth") },
            Err(UpstreamError::Secret),
        ),
        (
            Directive { auth_scheme: "A\r\nB".into(), ..directive("provider_oauth") },
            Err(UpstreamError::Secret),
        ),
    ] {
        assert!(directive.credential("jwt") == expected, "{directive:?}");
    }
}

#[test]
fn a13_directives_are_read_strictly() {
    use serde_json::json;
    let good = json!({
        "url": "http://h", "auth_mode": "provider_apikey", "auth_location": "query", "auth_header": null,
        "query_param_name": "key", "provider_token": "s", "allowed_token_hosts": ["h"], "provider_id": "p",
        "connection_id": "c", "forward_caracal_identity": true, "expires_at": 5, "later": {},
    });
    let directive = Directive::from_json(&good).unwrap();
    assert_eq!((directive.url.as_str(), directive.provider_token.as_str()), ("http://h", "s"));
    assert_eq!((directive.allowed_token_hosts.len(), directive.forward_caracal_identity), (1, true));
    assert!(directive.auth_header.is_empty());
    for (member, wrong) in [
        ("url", json!(7)),
        ("provider_token", json!([])),
        ("allowed_token_hosts", json!("h")),
        ("allowed_token_hosts", json!([7])),
        ("forward_caracal_identity", json!("true")),
    ] {
        let mut changed = good.clone();
        changed[member] = wrong;
        assert!(Directive::from_json(&changed).is_none(), "{member}");
    }
    assert!(Directive::from_json(&json!([])).is_none());
}

#[test]
fn a5_row_17_token_hosts() {
    let url = UpstreamUrl::parse("https://Api.Example:443").unwrap();
    for (hosts, allowed) in [(vec![], true), (vec![" API.example "], true), (vec!["other.example"], false)] {
        let hosts: Vec<String> = hosts.into_iter().map(str::to_owned).collect();
        assert_eq!(url.allowed_by(&hosts), allowed, "{hosts:?}");
    }
}

#[test]
fn a10_form_is_sorted_and_escaped() {
    assert_eq!(form_encode(&[("b", b"x y"), ("a", b"urn:z/1")]), "a=urn%3Az%2F1&b=x+y");
}

#[test]
fn d4_the_name_of_a_cluster_tells_resource_and_destination_apart() {
    let name = |zone: &str, resource: &str, url: &str| {
        let (zone, resource) = (ZoneId::new(zone).unwrap(), ResourceIdentifier::new(resource).unwrap());
        UpstreamUrl::parse(url).unwrap().cluster_name(&zone, &resource)
    };
    assert_eq!(
        name("z1", "resource://orders", "https://API.example/base?x=1"),
        "upstream|z1|resource://orders|https|api.example|443"
    );
    let same = name("z1", "r", "http://[fd00::1]/");
    assert_eq!(same, "upstream|z1|r|http|fd00::1|80");
    assert_eq!(name("z1", "r", "http://[fd00::1]:80/other"), same);
    for (zone, resource, url) in [
        ("z2", "r", "http://[fd00::1]/"),
        ("z1", "r|http|x|80", "http://[fd00::1]/"),
        ("z1", "r", "https://[fd00::1]:80/"),
        ("z1", "r", "http://[fd00::2]/"),
        ("z1", "r", "http://[fd00::1]:81/"),
    ] {
        assert_ne!(name(zone, resource, url), same, "{zone} {resource} {url}");
    }
}
