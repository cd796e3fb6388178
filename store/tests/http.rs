//! The HTTP server's limits, over real sockets (contract sts §1).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path};
use axum::routing::{get, post};
use caracal_store::http::{BodyError, ConnectionLimits, Server, ServerLimits, read_body};
use caracal_store::metrics::Service;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const SHORT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(600);

/// Limits of which none is met, for a test to shorten the one that it is about.
fn unlimited() -> ServerLimits {
    ServerLimits {
        connection: ConnectionLimits { header_read: LONG, body_read: LONG, write: LONG, idle: LONG },
        shutdown: LONG,
        ..ServerLimits::default()
    }
}

fn router() -> Router {
    Router::new()
        .route("/", get(|| async { "here" }))
        .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
        .route("/panic", get(|| async { if true { panic!("on purpose") } else { "" } }))
        .route(
            "/sleep/{ms}",
            get(|Path(ms): Path<u64>| async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                "slept"
            }),
        )
        .route("/large", get(|| async { vec![b'x'; 64 << 20] }))
        .route(
            "/body",
            post(|body: Body| async move {
                match read_body(body, 1 << 20).await {
                    Ok(body) => body.len().to_string(),
                    Err(BodyError::TooLarge) => "too large".to_owned(),
                    Err(_) => "broken".to_owned(),
                }
            }),
        )
}

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

async fn start(limits: ServerLimits) -> Running {
    start_as(Service::Audit, limits).await
}

async fn start_as(service: Service, limits: ServerLimits) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let stopped = async {
        let _ = stopped.await;
    };
    let server = Server::new(service).with_limits(limits);
    let served = tokio::spawn(server.serve(listener, router(), stopped));
    Running { address, stop, served }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Reads one answer with a `content-length`: its status and body.
async fn answer(socket: &mut TcpStream) -> (u16, String) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned)
                })
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned());
            }
        }
        let mut more = [0; 4096];
        let read = socket.read(&mut more).await.unwrap();
        assert!(read > 0, "the connection ended within an answer: {text:?}");
        bytes.extend_from_slice(&more[..read]);
    }
}

async fn ask(socket: &mut TcpStream, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    answer(socket).await
}

/// Whether the other side ended the connection, without a word.
async fn is_ended(socket: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(socket.read(&mut byte).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn one_address_leaves_room_for_others() {
    let server = start(ServerLimits { connections_per_address: 2, ..unlimited() }).await;
    let mut held = [server.connect().await, server.connect().await];
    for socket in &mut held {
        assert_eq!(ask(socket, "/").await.0, 200);
    }
    assert!(is_ended(&mut server.connect().await).await, "one too many");
    assert_eq!(ask(&mut held[0], "/").await.0, 200);
    // What it gives back, it may have again.
    drop(held);
    let again = async {
        loop {
            let mut socket = server.connect().await;
            let sent = socket.write_all(REQUEST).await;
            let mut first = [0; 8];
            if sent.is_ok() && socket.read_exact(&mut first).await.is_ok() {
                return first;
            }
        }
    };
    assert_eq!(&tokio::time::timeout(LONG, again).await.unwrap(), b"HTTP/1.1");
}

#[tokio::test]
async fn contract_sts_1_a_head_that_comes_in_drops_is_cut_off() {
    let mut limits = unlimited();
    limits.connection.header_read = SHORT;
    let server = start(limits).await;
    // Whether it is the first request of its connection or not.
    for begun in [false, true] {
        let mut socket = server.connect().await;
        if begun {
            assert_eq!(ask(&mut socket, "/").await.0, 200);
        }
        let (mut reads, mut writes) = socket.into_split();
        let dripping = tokio::spawn(async move {
            while writes.write_all(b"x").await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
        });
        let mut byte = [0];
        assert!(matches!(reads.read(&mut byte).await, Ok(0) | Err(_)), "cut off");
        dripping.abort();
    }
}

#[tokio::test]
async fn contract_sts_1_a_connection_that_says_nothing_is_cut_off() {
    let mut limits = unlimited();
    limits.connection.idle = SHORT;
    let server = start(limits).await;
    assert!(is_ended(&mut server.connect().await).await);
}

#[tokio::test]
async fn contract_sts_1_a_connection_opened_in_advance_is_kept_like_an_idle_one() {
    let mut limits = unlimited();
    limits.connection.header_read = SHORT;
    let server = start(limits).await;
    let mut socket = server.connect().await;
    tokio::time::sleep(SHORT * 3).await;
    assert_eq!(ask(&mut socket, "/").await, (200, "here".to_owned()));
}

#[tokio::test]
async fn contract_sts_1_an_idle_connection_is_kept_and_used_again() {
    let mut limits = unlimited();
    limits.connection.header_read = SHORT;
    let server = start(limits).await;
    let mut socket = server.connect().await;
    for _ in 0..3 {
        assert_eq!(ask(&mut socket, "/").await, (200, "here".to_owned()));
        tokio::time::sleep(SHORT * 2).await;
    }
}

#[tokio::test]
async fn contract_sts_1_an_idle_connection_ends() {
    let mut limits = unlimited();
    limits.connection.idle = SHORT;
    let server = start(limits).await;
    let mut socket = server.connect().await;
    assert_eq!(ask(&mut socket, "/").await.0, 200);
    assert!(is_ended(&mut socket).await);
}

#[tokio::test]
async fn contract_sts_1_a_long_poll_outlives_every_time() {
    let mut limits = unlimited();
    limits.connection = ConnectionLimits { header_read: SHORT, body_read: SHORT, write: SHORT, idle: SHORT };
    let server = start(limits).await;
    let mut socket = server.connect().await;
    assert_eq!(ask(&mut socket, "/sleep/900").await, (200, "slept".to_owned()));
    assert_eq!(ask(&mut socket, "/").await.0, 200, "and is used again");
}

#[tokio::test]
async fn contract_sts_1_who_leaves_a_long_poll_ends_its_handler() {
    let server = start(unlimited()).await;
    let mut socket = server.connect().await;
    socket.write_all(b"GET /sleep/60000000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    drop(socket);
    server.stop.send(()).unwrap();
    // Without an end of the handler this would last as long as the shutdown may.
    server.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn contract_sts_1_a_body_that_does_not_come_is_given_up() {
    let mut limits = unlimited();
    limits.connection.body_read = SHORT;
    let server = start(limits).await;
    let mut socket = server.connect().await;
    let head = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nxx";
    socket.write_all(head).await.unwrap();
    assert_eq!(answer(&mut socket).await, (200, "broken".to_owned()));
    assert!(is_ended(&mut socket).await, "what is left of the body is no request");
    let mut socket = server.connect().await;
    socket.write_all(head).await.unwrap();
    socket.write_all(b"xxx").await.unwrap();
    assert_eq!(answer(&mut socket).await, (200, "5".to_owned()));
}

#[tokio::test]
async fn contract_sts_1_an_answer_that_is_not_taken_is_given_up() {
    let mut limits = unlimited();
    limits.connection.write = SHORT;
    let server = start(limits).await;
    let mut socket = server.connect().await;
    socket.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(SHORT * 4).await;
    let mut taken = Vec::new();
    let _ = socket.read_to_end(&mut taken).await;
    assert!(taken.len() < 64 << 20, "{} bytes", taken.len());
}

#[tokio::test]
async fn contract_sts_1_a_head_has_at_most_16_kib() {
    let server = start(unlimited()).await;
    for (padding, status) in [(15 << 10, 200), (17 << 10, 431)] {
        let mut socket = server.connect().await;
        let padding = "x".repeat(padding);
        let request = format!("GET / HTTP/1.1\r\nhost: x\r\nx-padding: {padding}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(answer(&mut socket).await.0, status);
    }
}

#[tokio::test]
async fn contract_sts_1_a_panic_is_internal_error() {
    let server = start(unlimited()).await;
    let mut socket = server.connect().await;
    assert_eq!(ask(&mut socket, "/panic").await, (500, r#"{"error":"internal_error"}"#.to_owned()));
    assert_eq!(ask(&mut socket, "/").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_1_half_open_connections_do_not_keep_others_out() {
    let mut limits = unlimited();
    limits.connection.header_read = SHORT;
    limits.connections = 200;
    let server = start(limits).await;
    let mut half_open = Vec::new();
    for _ in 0..1000 {
        let mut socket = server.connect().await;
        socket.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
        half_open.push(socket);
    }
    let mut honest = server.connect().await;
    assert_eq!(ask(&mut honest, "/").await, (200, "here".to_owned()));
    for mut socket in half_open {
        assert!(is_ended(&mut socket).await);
    }
}

#[tokio::test]
async fn no_more_connections_than_allowed_are_open() {
    let mut limits = unlimited();
    limits.connections = 2;
    let server = start(limits).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    assert_eq!(ask(&mut first, "/").await.0, 200);
    assert_eq!(ask(&mut second, "/").await.0, 200);
    let mut third = server.connect().await;
    third.write_all(REQUEST).await.unwrap();
    let waits = tokio::time::timeout(SHORT, answer(&mut third)).await;
    assert!(waits.is_err(), "it has no place yet");
    drop(first);
    assert_eq!(answer(&mut third).await.0, 200);
}

#[tokio::test]
async fn contract_sts_1_a_stop_lets_requests_finish_and_idle_connections_go() {
    let server = start(unlimited()).await;
    let (mut idle, mut busy) = (server.connect().await, server.connect().await);
    assert_eq!(ask(&mut idle, "/").await.0, 200);
    busy.write_all(b"GET /sleep/400 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(SHORT).await;
    server.stop.send(()).unwrap();
    assert!(is_ended(&mut idle).await);
    assert_eq!(answer(&mut busy).await, (200, "slept".to_owned()));
    assert!(is_ended(&mut busy).await);
    server.served.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn contract_admin_1_2_a_service_that_ends_says_that_it_drains() {
    for (service, ready) in [
        (Service::Admin, r#"{"draining":true,"ok":false}"#),
        (Service::Audit, r#"{"ready":false,"reason":"draining"}"#),
        (Service::Coordinator, r#"{"draining":true,"ok":false}"#),
        (Service::Sts, r#"{"ok":false,"ready":false,"reason":"draining"}"#),
    ] {
        let server = start_as(service, unlimited()).await;
        let mut busy = server.connect().await;
        busy.write_all(b"GET /sleep/400 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        tokio::time::sleep(SHORT).await;
        server.stop.send(()).unwrap();
        for (path, status, body) in
            [("/ready", 503, ready), ("/health", 200, r#"{"ok":true}"#), ("/", 503, r#"{"error":"draining""#)]
        {
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            let (answered, text) = ask(&mut socket, path).await;
            assert!(answered == status && text.starts_with(body), "{path}: {answered} {text}");
            assert!(is_ended(&mut socket).await, "one request, and no more");
        }
        assert_eq!(answer(&mut busy).await, (200, "slept".to_owned()));
        server.served.await.unwrap().unwrap();
        assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
    }
}

#[tokio::test]
async fn contract_sts_1_a_stop_does_not_wait_for_ever() {
    let mut limits = unlimited();
    limits.shutdown = SHORT;
    let server = start(limits).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /sleep/60000000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(SHORT).await;
    server.stop.send(()).unwrap();
    server.served.await.unwrap().unwrap();
    assert!(is_ended(&mut busy).await);
}

#[tokio::test]
async fn a_handler_knows_the_other_side() {
    let server = start(unlimited()).await;
    let mut socket = server.connect().await;
    let own = socket.local_addr().unwrap().to_string();
    assert_eq!(ask(&mut socket, "/peer").await, (200, own));
}

#[tokio::test]
async fn requests_that_come_together_are_answered_in_order() {
    let server = start(unlimited()).await;
    let mut socket = server.connect().await;
    socket
        .write_all(b"GET /sleep/50 HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let (_, body) = answer(&mut socket).await;
    assert!(body.starts_with("slept"));
    if !body.contains("here") {
        assert_eq!(answer(&mut socket).await.1, "here");
    }
}
