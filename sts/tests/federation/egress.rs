//! Contract sts §22.3: requests that leave the installation, against a real server.

use crate::https::Https;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::routing::{get, post};
use caracal_store::egress::{Egress, EgressError, EgressOptions, EgressSetupError, Hosts, Limits};
use http_body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

const LIMITS: Limits = Limits::bytes(1000);

/// Status and length, or the reason why there is no answer.
type Got = Result<(u16, usize), &'static str>;

/// A body that never ends and does not say how long it is.
struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 600])))))
    }
}

async fn server() -> Https {
    let echo = |headers: HeaderMap, body: String| async move {
        let header = |name| headers.get(name).map_or("", |value: &HeaderValue| value.to_str().unwrap());
        format!("{}|{}|{body}", header(header::AUTHORIZATION), header(header::CONTENT_TYPE))
    };
    let routes = Router::new()
        .route("/whole", get(|| async { "x".repeat(1000) }))
        .route("/long", get(|| async { "x".repeat(1001) }))
        .route("/endless", get(|| async { Body::new(Endless) }))
        .route("/moved", get(|| async { (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, "/whole")]) }))
        .route("/failed", get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "why") }))
        .route("/never", get(std::future::pending::<()>))
        .route("/echo", post(echo));
    Https::start(routes).await
}

fn only(hosts: &[&str]) -> Vec<String> {
    hosts.iter().map(|host| (*host).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_22_3_answers_are_bounded_and_redirects_are_not_followed() {
    let server = server().await;
    let egress = server.egress();
    let cases: [(&str, Got); 5] = [
        ("/whole", Ok((200, 1000))),
        ("/failed", Ok((500, 3))),
        ("/long", Err("egress_response_too_large")),
        ("/endless", Err("egress_response_too_large")),
        ("/moved", Err("egress_redirect_refused")),
    ];
    for (path, expected) in cases {
        let reply = egress.get(&server.url(path), Hosts::Any, LIMITS).await;
        let got = reply.map(|reply| (reply.status, reply.body.len())).map_err(|error| error.reason());
        assert_eq!(got, expected, "{path}");
    }
    let soon = Limits { timeout: Duration::from_millis(50), ..LIMITS };
    let reply = egress.get(&server.url("/never"), Hosts::Any, soon).await;
    assert_eq!(reply.unwrap_err(), EgressError::Timeout { host: "localhost".to_owned() });
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_22_3_a_form_is_sent_as_it_is_and_never_shown() {
    let server = server().await;
    let mut secret = HeaderValue::from_static("Basic c2VjcmV0");
    secret.set_sensitive(true);
    let form = [("grant_type", "client_credentials"), ("scope", "a b&c=d"), ("é", "")];
    let reply = server
        .egress()
        .post_form(&server.url("/echo"), Hosts::Any, &[(header::AUTHORIZATION, secret)], &form, LIMITS)
        .await
        .unwrap();
    assert_eq!(
        String::from_utf8(reply.body.clone()).unwrap(),
        "Basic c2VjcmV0|application/x-www-form-urlencoded|\
         grant_type=client_credentials&scope=a+b%26c%3Dd&%C3%A9="
    );
    assert!(!format!("{reply:?}").contains("c2VjcmV0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_22_3_hosts_and_addresses() {
    let server = server().await;
    let url = server.url("/whole");
    let default = Egress::new(EgressOptions::default()).unwrap();
    let private = EgressOptions::new(&only(&["localhost"]), &[], None).unwrap();
    let private = Egress::new(private).unwrap();
    let own = server.egress();
    let elsewhere = server.egress_to(&only(&["other.example"]));
    let named = server.egress_to(&only(&["LOCALHOST"]));
    let list = [only(&["LocalHost"]), only(&["localhost.example", "host"]), only(&[])];
    let cases: [(&str, &Egress, Hosts<'_>, Result<u16, &str>); 8] = [
        ("named for this machine", &own, Hosts::Any, Ok(200)),
        ("named in other letters", &named, Hosts::Only(&list[0]), Ok(200)),
        ("by default", &default, Hosts::Any, Err("egress_address_refused")),
        ("a private host is not this machine", &private, Hosts::Any, Err("egress_address_refused")),
        ("another host is named", &elsewhere, Hosts::Any, Err("egress_address_refused")),
        ("in the call's list", &own, Hosts::Only(&list[0]), Ok(200)),
        ("not in the call's list", &own, Hosts::Only(&list[1]), Err("egress_host_not_allowed")),
        ("an empty list", &own, Hosts::Only(&list[2]), Err("egress_host_not_allowed")),
    ];
    for (name, egress, hosts, expected) in cases {
        let reply = egress.get(&url, hosts, LIMITS).await;
        assert_eq!(reply.map(|reply| reply.status).map_err(|error| error.reason()), expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_22_3_only_certificates_of_trusted_authorities() {
    let (server, other) = (server().await, server().await);
    let reply = other.egress().get(&server.url("/whole"), Hosts::Any, LIMITS).await;
    assert_eq!(reply.unwrap_err().reason(), "egress_connect_failed");
    // The certificate is for another name.
    let address = server.url("/whole").replace("localhost", "127.0.0.1");
    let egress = server.egress_to(&only(&["127.0.0.1"]));
    assert_eq!(egress.get(&address, Hosts::Any, LIMITS).await.unwrap_err().reason(), "egress_connect_failed");
}

#[test]
fn sts_22_3_an_authority_that_cannot_be_read_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let broken = "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n";
    let cases = [
        (folder.path().join("missing.pem"), false),
        (folder.path().to_owned(), false),
        (write("empty.pem", ""), true),
        (write("text.pem", "no certificate"), true),
        (write("broken.pem", broken), true),
    ];
    for (path, readable) in cases {
        let options = EgressOptions::new(&[], &[], Some(path.clone())).unwrap();
        let error = Egress::new(options).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        let expected = matches!(error, EgressSetupError::ExtraCaInvalid { .. });
        assert_eq!(expected, readable, "{}: {error}", path.display());
    }
}
