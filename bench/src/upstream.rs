//! An upstream that says yes, on a thread of its own.

use crate::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

const YES: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

const EMPTY: &[u8] = b"0\r\n\r\n";

/// Starts it; it lives as long as this process.
pub(crate) fn start() -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

/// Answers requests without a body, or with an empty one in chunks, until the connection ends.
fn answer(mut stream: TcpStream) {
    let (mut seen, mut buffer) = (Vec::new(), [0u8; 4096]);
    while let Ok(count) = stream.read(&mut buffer) {
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { return };
        seen.extend_from_slice(read);
        while let Some(end) = whole_request(&seen) {
            seen.drain(..end);
            if stream.write_all(YES).is_err() {
                return;
            }
        }
    }
}

/// Where the first request ends, once all of it is there.
pub(crate) fn whole_request(seen: &[u8]) -> Option<usize> {
    let head = seen.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let is_chunked =
        String::from_utf8_lossy(seen.get(..head)?).to_ascii_lowercase().contains("\r\ntransfer-encoding:");
    let end = if is_chunked { head + EMPTY.len() } else { head };
    (seen.len() >= end).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_with_its_body() {
        let plain = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".as_slice();
        assert_eq!(whole_request(plain), Some(plain.len()));
        let chunked = b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET".as_slice();
        assert_eq!(whole_request(chunked), Some(chunked.len() - 3));
        assert_eq!(whole_request(&chunked[..chunked.len() - 5]), None);
    }
}
