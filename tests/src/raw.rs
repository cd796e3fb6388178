//! Requests to the byte, for what a well-behaved client would never send.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A request as it is written.
#[derive(Debug, Clone)]
pub struct Raw {
    pub method: String,
    pub target: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// An answer as it was read.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body ended as it had announced, and not in the middle.
    pub complete: bool,
}

impl Raw {
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.as_bytes().to_vec(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header; the same name may stand more than once.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Adds a body and its length.
    #[must_use]
    pub fn body(self, body: &[u8]) -> Self {
        let mut raw = self.with("content-length", body.len().to_string());
        raw.body = body.to_vec();
        raw
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes =
            [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\nhost: gateway\r\n"].concat();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it over a connection of its own, and reads the whole answer.
    pub async fn send(&self, to: SocketAddr) -> Answered {
        let mut stream = self.open(to).await;
        stream.rest().await
    }

    /// Sends it over a connection of its own.
    pub async fn open(&self, to: SocketAddr) -> RawStream {
        let mut stream = TcpStream::connect(to).await.unwrap();
        // An answer may come, and the connection end, before all is written.
        let _ = stream.write_all(&self.to_bytes()).await;
        RawStream { stream, read: Vec::new(), head: self.method == "HEAD" }
    }
}

/// An answer on its way.
pub struct RawStream {
    stream: TcpStream,
    read: Vec<u8>,
    head: bool,
}

impl RawStream {
    /// Writes more of the request.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads until this text is there.
    pub async fn until(&mut self, text: &str) {
        while !self.read.windows(text.len()).any(|window| window == text.as_bytes()) {
            assert!(self.more().await, "ended before {text:?}: {}", String::from_utf8_lossy(&self.read));
        }
    }

    /// Reads to the end of the answer.
    pub async fn rest(&mut self) -> Answered {
        loop {
            if let Some(answered) = parse(&self.read, self.head, false) {
                return answered;
            }
            if !self.more().await {
                return parse(&self.read, self.head, true).unwrap_or_default();
            }
        }
    }

    async fn more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.read);
        match tokio::time::timeout(Duration::from_secs(60), read).await.expect("no answer") {
            Ok(count) => count > 0,
            Err(_) => false,
        }
    }
}

/// The answer in these bytes; `None` while it is not whole. At the `end` of the connection what is there counts.
fn parse(bytes: &[u8], head: bool, end: bool) -> Option<Answered> {
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let rest = &bytes[at + 4..];
    let find =
        |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let (body, complete) = match (find("content-length"), find("transfer-encoding")) {
        _ if head => (Vec::new(), true),
        (Some(length), _) => {
            let length: usize = length.parse().ok()?;
            (rest[..rest.len().min(length)].to_vec(), rest.len() >= length)
        }
        (None, Some("chunked")) => dechunk(rest),
        (None, _) => (rest.to_vec(), end),
    };
    (complete || end).then_some(Answered { status, headers, body, complete })
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
        let Ok(size) = usize::from_str_radix(String::from_utf8_lossy(&rest[..at]).trim(), 16) else { break };
        if size == 0 {
            return (body, true);
        }
        let chunk = &rest[at + 2..];
        body.extend_from_slice(&chunk[..chunk.len().min(size)]);
        if chunk.len() < size + 2 {
            break;
        }
        rest = &chunk[size + 2..];
    }
    (body, false)
}

impl Answered {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Status, `error` and `error_description` of a refusal, whose form is checked.
    #[track_caller]
    pub fn refusal(&self) -> (u16, String, String) {
        let shown = String::from_utf8_lossy(&self.body).into_owned();
        assert_eq!(self.header("content-type"), Some("application/json"), "{} {shown}", self.status);
        let body: Value =
            serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{} {shown}", self.status));
        let members = body.as_object().unwrap_or_else(|| panic!("{} {shown}", self.status));
        let known = |name: &String| matches!(name.as_str(), "error" | "error_description" | "requestId");
        assert!(members.keys().all(known), "{shown}");
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(self.header("x-request-id").unwrap_or_default(), text("requestId"), "{shown}");
        assert!(!text("error").is_empty() && !text("requestId").is_empty(), "{shown}");
        (self.status, text("error"), text("error_description"))
    }
}
