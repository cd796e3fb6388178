//! The least that a service can do which is asked about every request: it looks the whole request line and token up.

use crate::error::Error;
use crate::upstream::whole_request;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

const YES: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const NO: &[u8] = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";

/// Starts it; it lives as long as this process. It says yes to reading with this mandate, and to nothing else.
pub(crate) fn start(mandate: &str) -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let header: Arc<str> = format!("\r\nauthorization: Bearer {mandate}\r\n").into();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let header = Arc::clone(&header);
            thread::spawn(move || answer(stream, &header));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, header: &str) {
    let (mut seen, mut buffer) = (Vec::new(), [0u8; 8192]);
    while let Ok(count) = stream.read(&mut buffer) {
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { return };
        seen.extend_from_slice(read);
        while let Some(end) = whole_request(&seen) {
            let verdict = if is_granted(seen.get(..end).unwrap_or_default(), header) { YES } else { NO };
            seen.drain(..end);
            if stream.write_all(verdict).is_err() {
                return;
            }
        }
    }
}

fn is_granted(request: &[u8], header: &str) -> bool {
    let request = String::from_utf8_lossy(request);
    request.starts_with("GET /v1/orders HTTP/1.1\r\n") && request.contains(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_request_is_granted() {
        let header = "\r\nauthorization: Bearer good\r\n";
        let request = |line: &str, token: &str| format!("{line}\r\nauthorization: Bearer {token}\r\n\r\n");
        let cases = [
            ("GET /v1/orders HTTP/1.1", "good", true),
            ("GET /v1/orders HTTP/1.1", "goods", false),
            ("GET /v1/orders HTTP/1.1", "bad", false),
            ("POST /v1/orders HTTP/1.1", "good", false),
        ];
        for (line, token, expected) in cases {
            assert_eq!(is_granted(request(line, token).as_bytes(), header), expected, "{line} {token}");
        }
    }
}
