//! Cases 20 and 23 to 25: what the STS answers, where a request goes, and what comes back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use caracal_tests::{Raw, RawStream, Reply, now_ms};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::stand_in::{Bed, MAX_BODY, ORDERS, STS_TIMEOUT, stand_in};
use crate::{
    ADDRESS, BODY, BUILD, CIRCUIT_OPEN, HOST, MISSING, NO_UPSTREAM, OPERATION, Refusal, STS_AWAY,
    STS_INVALID, UPSTREAM_TIMEOUT, eventually, is,
};

#[test]
fn gateway_e_20_answers_of_the_sts() {
    stand_in(async |bed| {
        let big = json!({ "access_token": "t", "upstreams": {}, "pad": "x".repeat(17 * 1_024) });
        let more = json!({
            "error": "interaction_required", "error_description": "wait", "approval_id": "a1", "authorization_url": "u",
        });
        let cases: Vec<(&str, Reply, Refusal)> = vec![
            ("a denial", Reply::json(403, &json!({ "error": "access_denied" })), (403, "access_denied", "")),
            ("more than it should", Reply::json(401, &more), (401, "interaction_required", "wait")),
            (
                "policy",
                Reply::json(503, &json!({ "error": "policy_eval_failed" })),
                (503, "policy_eval_failed", ""),
            ),
            (
                "no JSON",
                Reply::new(500, "text/html", "<h1>"),
                (500, "sts_unavailable", "Internal Server Error"),
            ),
            ("elsewhere", Reply::new(302, "text/html", ""), (302, "sts_unavailable", "Found")),
            ("200 as HTML", Reply::new(200, "text/html", "{}"), STS_INVALID),
            ("no token", Reply::json(200, &json!({ "upstreams": {} })), STS_INVALID),
            ("17 KiB", Reply::json(200, &big), STS_INVALID),
            ("no upstream", Reply::json(200, &json!({ "access_token": "t", "upstreams": {} })), NO_UPSTREAM),
        ];
        for (what, reply, refusal) in cases {
            bed.sts.answer(reply);
            is(what, &bed.send(&bed.bearer(&bed.mandate())).await, refusal);
            // Nothing that counts as a failure stays.
            bed.grant(&bed.plain());
            bed.passes("in between", &bed.bearer(&bed.mandate())).await;
        }
        // Too slow: the gateway does not wait for ever, and what comes late changes nothing.
        let mut slow = Reply::json(200, &json!({}));
        slow.after = STS_TIMEOUT * 2;
        bed.sts.answer(slow);
        let since = Instant::now();
        bed.refuses_after_asking(
            "slow",
            &bed.bearer(&bed.mandate()),
            (504, "sts_unavailable", "sts timeout"),
        )
        .await;
        assert!(since.elapsed() < STS_TIMEOUT * 2);
        // Denials count for nothing, three failures close the way, and after the pause a single one closes it again.
        let (denial, failure) =
            (Reply::json(403, &json!({ "error": "access_denied" })), Reply::new(503, "text/plain", "none"));
        bed.grant(&bed.plain());
        bed.passes("the count begins", &bed.bearer(&bed.mandate())).await;
        for reply in [&failure, &denial, &failure, &denial, &failure] {
            bed.sts.answer(reply.clone());
            let answered = bed.send(&bed.bearer(&bed.mandate())).await;
            assert_eq!(answered.status, if reply.status == 403 { 403 } else { STS_AWAY.0 });
        }
        bed.refuses("three failures", &bed.bearer(&bed.mandate()), CIRCUIT_OPEN, "sts_circuit_open").await;
        bed.clock.step(11);
        bed.sts.answer(failure);
        eventually("the end of the pause", async || {
            let answered = bed.send(&bed.bearer(&bed.mandate())).await;
            (answered.status == STS_AWAY.0).then_some(())
        })
        .await;
        bed.refuses("the fourth", &bed.bearer(&bed.mandate()), CIRCUIT_OPEN, "sts_circuit_open").await;
        bed.clock.step(22);
        bed.grant(&bed.plain());
        eventually("the end of the second pause", async || {
            (bed.send(&bed.bearer(&bed.mandate())).await.status == 200).then_some(())
        })
        .await;
    });
}

#[test]
fn gateway_e_23_directives_that_may_not_be_followed() {
    stand_in(async |bed| {
        let directive = |change: &Value| {
            let mut directive = bed.plain();
            directive["auth_mode"] = json!("provider_apikey");
            directive["provider_token"] = json!("secret");
            for (name, value) in change.as_object().unwrap() {
                directive[name] = value.clone();
            }
            directive
        };
        let header = |name: &str| json!({ "auth_header": name });
        for (change, refusal) in [
            (json!({ "auth_mode": "mind_reading" }), BUILD),
            (json!({ "auth_mode": "" }), BUILD),
            (header("Host"), BUILD),
            (header("X-Caracal-Identity"), BUILD),
            (header("X-Forwarded-For"), BUILD),
            (header("Transfer-Encoding"), BUILD),
            (header("x bad"), BUILD),
            (header(":path"), BUILD),
            (json!({ "auth_location": "query" }), BUILD),
            (json!({ "auth_location": "query", "query_param_name": "" }), BUILD),
            (json!({ "provider_token": "a\r\nx-evil: 1" }), BUILD),
            (json!({ "provider_token": "" }), BUILD),
            (json!({ "auth_scheme": "a\nb" }), BUILD),
            (json!({ "allowed_token_hosts": ["other.example"] }), HOST),
            (json!({ "allowed_token_hosts": "all" }), STS_INVALID),
            (json!({ "url": 7 }), STS_INVALID),
            (json!({ "url": "" }), NO_UPSTREAM),
        ] {
            bed.grant(&directive(&change));
            bed.refuses_after_asking(&change.to_string(), &bed.bearer(&bed.mandate()), refusal).await;
        }
        // The provider's value takes the place of the caller's; the mandate stays behind.
        bed.grant(&directive(&json!({ "auth_location": "query", "query_param_name": "api_key" })));
        bed.passes("a query", &bed.open("GET", "/v1?api_key=mine&b=2&a=1")).await;
        let seen = bed.upstream.seen();
        assert_eq!(seen.last().unwrap().target, "/v1?a=1&api_key=secret&b=2");
        assert!(!seen.last().unwrap().headers.contains_key("authorization"));
        bed.grant(&directive(&json!({ "auth_header": "X-Api-Key" })));
        bed.passes("a header", &bed.open("GET", "/v1").with("x-api-key", "mine")).await;
        let seen = bed.upstream.seen();
        let values: Vec<_> = seen.last().unwrap().headers.get_all("x-api-key").iter().collect();
        assert_eq!(values, ["secret"]);
        assert!(!seen.last().unwrap().headers.contains_key("authorization"));
    });
}

#[test]
fn gateway_e_24_addresses_that_may_not_be_called() {
    stand_in(async |bed| {
        for url in [
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
            "http://0.0.0.0/",
            "http://224.0.0.1/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::]/",
            "http://[ff02::1]/",
            "http://100.100.100.200/",
            "http://user@127.0.0.1/",
            "file:///etc/passwd",
            "http:///x",
            "127.0.0.1",
        ] {
            bed.grant(&json!({ "url": url, "auth_mode": "none" }));
            bed.refuses_after_asking(url, &bed.bearer(&bed.mandate()), ADDRESS).await;
        }
        // A name is judged by what it resolves to when it is called: this one is this machine, which is allowed.
        let port = bed.upstream.address.port();
        bed.grant(&json!({ "url": format!("http://localhost:{port}"), "auth_mode": "none" }));
        bed.passes("a name", &bed.bearer(&bed.mandate())).await;
        // Other ways to write the address of the metadata service are names, and resolve to nothing or to it.
        for host in ["0xa9fea9fe", "2852039166", "0251.0376.0251.0376"] {
            bed.grant(&json!({ "url": format!("http://{host}/"), "auth_mode": "none" }));
            bed.refuses_after_asking(host, &bed.bearer(&bed.mandate()), ADDRESS).await;
        }
        // A redirect is not followed, and does not tell where it leads.
        bed.grant(&json!({ "url": format!("http://{}/far", bed.upstream.address), "auth_mode": "none" }));
        let answered = bed.send(&bed.open("GET", "/")).await;
        assert_eq!(answered.status, 302);
        for name in ["location", "content-location", "refresh", "server", "x-powered-by"] {
            assert_eq!(answered.header(name), None, "{name}");
        }
        assert_eq!(answered.header("set-cookie"), Some("kept=1"));
        bed.grant(&json!({ "url": format!("http://{}/near", bed.upstream.address), "auth_mode": "none" }));
        assert_eq!(bed.send(&bed.open("GET", "/")).await.header("location"), Some("/v1/orders/7"));
    });
}

/// An upstream that takes one request at a time and does as it is told with it; tells when the gateway ended it.
async fn scripted(answer: &'static [&'static str]) -> (SocketAddr, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ended = ended.clone();
            tokio::spawn(async move {
                follow(stream, answer).await;
                let _ = ended.send(());
            });
        }
    });
    (address, told)
}

/// Writes the answer, and its last piece again and again, until the other side ends the connection.
async fn follow(mut stream: TcpStream, answer: &[&str]) {
    let mut request = [0; 4_096];
    if stream.read(&mut request).await.unwrap_or(0) == 0 {
        return;
    }
    for piece in answer {
        if stream.write_all(piece.as_bytes()).await.is_err() {
            return;
        }
    }
    loop {
        tokio::select! {
            read = stream.read(&mut request) => if read.unwrap_or(0) == 0 { return },
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                if let Some(piece) = answer.last() && stream.write_all(piece.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

const EVENTS: &[&str] = &[
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    "e\r\ndata: tick-1\n\n\r\n",
    "e\r\ndata: tick-2\n\n\r\n",
];

/// A stream of events that has begun.
async fn stream(bed: &Bed, events: SocketAddr, change: impl FnOnce(&mut Value)) -> RawStream {
    bed.grant(&json!({ "url": format!("http://{events}"), "auth_mode": "none" }));
    let mut stream = bed.bearer(&bed.signed(change)).open(bed.gateway.address()).await;
    stream.until("tick-2").await;
    stream
}

#[test]
fn gateway_e_25_bodies_streams_and_methods() {
    stand_in(async |bed| {
        bodies(bed).await;
        methods(bed).await;
        operations(bed).await;
        streams(bed).await;
    });
}

async fn bodies(bed: &Bed) {
    let largest = vec![b'x'; MAX_BODY];
    bed.passes("the largest body", &bed.open("POST", "/v1").body(&largest)).await;
    assert_eq!(bed.upstream.seen().last().unwrap().body.len(), MAX_BODY);
    bed.refuses_after_asking(
        "one byte more",
        &bed.open("POST", "/v1").body(&[&largest[..], b"x"].concat()),
        BODY,
    )
    .await;
    let chunk = format!("{:x}\r\n{}\r\n", MAX_BODY, "x".repeat(MAX_BODY));
    let mut chunked = bed.open("POST", "/v1").with("transfer-encoding", "chunked");
    chunked.body = [chunk.as_bytes(), b"1\r\nx\r\n0\r\n\r\n"].concat();
    let seen = bed.upstream.seen().len();
    is("in chunks", &bed.send(&chunked).await, BODY);
    assert_eq!(bed.upstream.seen().len(), seen, "the upstream never has it whole");
}

async fn methods(bed: &Bed) {
    let seen = bed.upstream.seen().len();
    let upgrade = bed.open("GET", "/v1").with("connection", "upgrade").with("upgrade", "websocket");
    let upgrade =
        upgrade.with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==").with("sec-websocket-version", "13");
    let answered = bed.send(&upgrade).await;
    assert_eq!((answered.status, answered.refusal().1.as_str()), (403, "access_denied"));
    let connect = Raw { target: b"upstream.example:443".to_vec(), ..bed.open("CONNECT", "/") };
    let answered = bed.send(&connect).await;
    assert!(answered.status >= 400, "{answered:?}");
    bed.refuses("OPTIONS without a bearer", &Raw::new("OPTIONS", "/v1"), MISSING, "missing_bearer").await;
    assert_eq!(bed.upstream.seen().len(), seen);
    let head = bed.send(&bed.open("HEAD", "/v1")).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let undeclared = Raw { method: "HEAD".to_owned(), ..bed.bearer(&bed.mandate()) };
    assert_eq!(bed.send(&undeclared).await.status, 403);
    bed.passes("OPTIONS with one", &bed.open("OPTIONS", "/v1")).await;
}

async fn operations(bed: &Bed) {
    let asks = |target: &str| Raw { target: target.as_bytes().to_vec(), ..bed.bearer(&bed.mandate()) };
    for target in ["/v1/orders/", "/V1/orders", "/v1/Orders", "/v1/orders/x", "//v1/orders", "/v1"] {
        bed.refuses(target, &asks(target), OPERATION, "operation_not_permitted").await;
    }
    let lower = Raw { method: "get".to_owned(), ..bed.bearer(&bed.mandate()) };
    let answered = bed.send(&lower).await;
    assert!(matches!(answered.status, 400 | 403), "another method: {answered:?}");
    let unscoped = Raw { method: "POST".to_owned(), ..bed.bearer(&bed.mandate()) };
    bed.refuses("a scope that is missing", &unscoped.body(b""), OPERATION, "scope_missing").await;
    bed.passes("a query", &asks("/v1/orders?x=/../y")).await;
    bed.passes("an encoded slash", &asks("/v1/a%2Fb")).await;
}

async fn streams(bed: &Bed) {
    let (events, mut ended) = scripted(EVENTS).await;
    // A piece arrives as soon as it is there, and not with the next ones.
    let mut running = stream(bed, events, |_| {}).await;
    let revoked = json!([{ "kind": "agent_session", "id": "streaming", "until": now_ms() + 60_000 }]);
    let mut cut = stream(bed, events, |claims| claims["agent_session_id"] = json!("streaming")).await;
    let [mut zone, other] = bed.zones();
    zone["revoked"] = revoked;
    bed.sts.feed(vec![zone, other]);
    let answered = cut.rest().await;
    assert!(answered.status == 200 && !answered.complete, "cut off in the middle: {answered:?}");
    tokio::time::timeout(Duration::from_secs(10), ended.recv()).await.expect("the upstream hears of it");
    running.until("tick-2\n\n\r\ne\r\ndata: tick-2").await;
    eventually("the evidence of the cut", async || {
        bed.sts.events().iter().any(|event| event["metadata"]["revocation_interrupted"] == true).then_some(())
    })
    .await;
    // A caller that goes away takes the upstream's stream along.
    drop(running);
    tokio::time::timeout(Duration::from_secs(10), ended.recv()).await.expect("the upstream hears of it");
    // One that goes away while the STS is asked leaves its evidence, and nothing is forwarded.
    let mut slow = Reply::json(200, &json!({}));
    slow.after = Duration::from_millis(500);
    bed.sts.answer(slow);
    let (asked, seen) = (bed.sts.exchanges().len(), bed.upstream.seen().len());
    let leaving = bed.bearer(&bed.mandate()).open(bed.gateway.address()).await;
    eventually("the question", async || (bed.sts.exchanges().len() > asked).then_some(())).await;
    drop(leaving);
    eventually("the evidence", async || {
        bed.sts.events().iter().any(|event| event["evaluation_status"] == "cancelled").then_some(())
    })
    .await;
    assert_eq!(bed.upstream.seen().len(), seen);
    // An upstream that says nothing does not hold a caller for ever.
    let (silent, _ended) = scripted(&[]).await;
    bed.grant(&json!({ "url": format!("http://{silent}"), "auth_mode": "none" }));
    is("silence", &bed.send(&bed.bearer(&bed.mandate())).await, UPSTREAM_TIMEOUT);
    assert!(
        bed.sts
            .exchanges()
            .iter()
            .all(|form| form["resource"] == ORDERS || form["resource"] == crate::stand_in::OPEN)
    );
}
