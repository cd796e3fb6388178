//! One HTTP stream as the host sees it.

use std::collections::HashMap;

/// Headers in order; names are lower case.
pub type Headers = Vec<(String, Vec<u8>)>;

/// What the module tells the host to do with a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Pass on.
    Continue,
    /// Stop.
    Pause,
}

/// An answer in the upstream's place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u32,
    /// The headers.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}

/// One HTTP stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The request's headers, as they are now.
    pub request: Headers,
    /// The response's headers, as they are now.
    pub response: Headers,
    /// The bytes of the bodies that are being handled.
    pub request_body: Vec<u8>,
    /// The same of the response.
    pub response_body: Vec<u8>,
    /// Properties, by their path with `/` in between.
    pub properties: HashMap<String, Vec<u8>>,
    /// What the module noted as filter state.
    pub noted: HashMap<String, Vec<u8>>,
    /// The answer in the upstream's place, if there is one.
    pub replied: Option<Reply>,
    /// How often the module answered in the upstream's place.
    pub replies: u32,
    /// How often the module let a paused request go on.
    pub resumed: u32,
    /// Whether the module cut the response off.
    pub reset: bool,
    /// Whether the request headers went on to the upstream.
    pub forwarded: bool,
}

impl Stream {
    /// A stream with these request headers, from a caller on this machine.
    #[must_use]
    pub fn new(headers: &[(&str, &str)]) -> Self {
        let request = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        let mut stream = Self { request: request.collect(), ..Self::default() };
        stream.properties.insert("source/address".to_owned(), b"127.0.0.1:5000".to_vec());
        stream
    }

    /// The first value of a request header, as it is now.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let found = self.request.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }
}
