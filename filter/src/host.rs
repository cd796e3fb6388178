//! What the filter needs from its host, and Envoy as that host.
//!
//! This is the only file that touches `proxy_wasm::hostcalls`. Those wrappers panic on every status
//! that they do not expect, and a panic takes the whole VM down, so each call here is made only in a
//! phase where the host cannot answer anything else, values travel as bytes, and what may be absent is
//! an `Option`. Everything above works on [`Host`] and is tested natively.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, LogLevel, MapType, MetricType};

/// All headers of one direction, in order. Names are lower case.
pub type Headers = Vec<(String, Vec<u8>)>;

/// How important a log line is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// Something an operator may want to know.
    Info,
    /// Something that works, but not as it should.
    Warn,
    /// Something that refuses traffic.
    Error,
}

/// Which headers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// From the caller.
    Request,
    /// To the caller.
    Response,
}

/// An HTTP call to a cluster.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// All headers, pseudo-headers first.
    pub headers: Vec<(&'a str, &'a str)>,
    /// The body; empty means none.
    pub body: &'a [u8],
    /// Milliseconds until the host answers in the server's place.
    pub timeout_ms: u64,
}

/// Names a call until its answer arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CallToken(pub u32);

/// The host could not even start the call: unknown cluster, or nothing to send it to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("call could not be started")]
pub struct CallError;

/// How big an answer is, as the host announces it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AnswerSize {
    /// Number of headers; 0 when the call failed in transport.
    pub headers: usize,
    /// Bytes of the body.
    pub body: usize,
}

/// An answer to a [`Call`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The media type, without parameters and in lower case.
    pub media_type: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the body is JSON by its media type.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.media_type == "application/json" || self.media_type.ends_with("+json")
    }
}

/// What the filter needs from its host.
pub trait Host {
    /// Unix milliseconds.
    fn now(&self) -> u64;
    /// Fills `bytes` from a cryptographic source; `false` when there is none.
    #[must_use]
    fn random(&self, bytes: &mut [u8]) -> bool;
    /// An environment variable of the VM.
    fn environment(&self, name: &str) -> Option<String>;
    /// Writes a log line.
    fn log(&self, level: Level, message: &str);
    /// The plugin configuration of `size` bytes.
    fn configuration(&self, size: usize) -> Vec<u8>;
    /// Asks for a tick every so many milliseconds.
    fn tick_every(&self, millis: u64);
    /// All headers.
    fn headers(&self, direction: Direction) -> Headers;
    /// The value of a header that stands there once, such as a pseudo-header.
    fn header(&self, direction: Direction, name: &str) -> Option<Vec<u8>>;
    /// Replaces all headers of a name by one.
    fn set_header(&self, direction: Direction, name: &str, value: &[u8]);
    /// Removes all headers of a name.
    fn remove_header(&self, direction: Direction, name: &str);
    /// The first bytes of the request's body, of which so many are there. Only while the body is being handled.
    fn request_body(&self, size: usize) -> Vec<u8>;
    /// A property of the stream.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;
    /// Notes something about the stream for access logs and other filters, as filter state `wasm.<key>`.
    fn filter_state(&self, key: &str, value: &str);
    /// Reads what any VM of this `vm_id` shared.
    fn shared(&self, key: &str) -> Option<Vec<u8>>;
    /// Shares a value with all VMs of this `vm_id`.
    fn share(&self, key: &str, value: &[u8]);
    /// Answers the caller in the upstream's place. The caller of this function must stop the stream.
    fn reply(&self, status: u16, headers: &[(&str, &str)], body: &[u8]);
    /// Lets a paused request go on.
    fn resume(&self);
    /// Cuts the response off.
    fn reset(&self);
    /// Cuts another stream's response off, by its context. What follows in this callback is about that stream.
    fn reset_stream(&self, context: u32);
    /// Starts a call; its answer arrives at the context that is active now.
    ///
    /// # Errors
    /// [`CallError`].
    fn call(&self, call: &Call<'_>) -> Result<CallToken, CallError>;
    /// The answer that is being delivered; `None` when the call failed in transport.
    fn answer(&self, size: AnswerSize) -> Option<Answer>;
    /// Calls a function that only this host has.
    fn foreign(&self, function: &str, arguments: &[u8]) -> Option<Vec<u8>>;
    /// Adds to a counter.
    fn count(&self, metric: &str, by: u64);
    /// Sets a gauge.
    fn gauge(&self, metric: &str, value: u64);
}

/// Envoy.
#[derive(Default)]
pub struct EnvoyHost {
    /// The few dozen names that are in use, with the host's ids.
    metrics: RefCell<Vec<(String, u32)>>,
}

impl EnvoyHost {
    fn metric(&self, kind: MetricType, name: &str) -> Option<u32> {
        let mut metrics = self.metrics.borrow_mut();
        if let Some((_, id)) = metrics.iter().find(|(known, _)| known == name) {
            return Some(*id);
        }
        let id = hostcalls::define_metric(kind, name).ok()?;
        metrics.push((name.to_owned(), id));
        Some(id)
    }
}

fn map_type(direction: Direction) -> MapType {
    match direction {
        Direction::Request => MapType::HttpRequestHeaders,
        Direction::Response => MapType::HttpResponseHeaders,
    }
}

fn call_header(name: &str) -> Option<Vec<u8>> {
    hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, name).ok().flatten()
}

impl Host for EnvoyHost {
    fn now(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn random(&self, bytes: &mut [u8]) -> bool {
        getrandom::fill(bytes).is_ok()
    }

    fn environment(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        let _ = hostcalls::log(level, message);
    }

    fn configuration(&self, size: usize) -> Vec<u8> {
        if size == 0 {
            return Vec::new();
        }
        hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size).ok().flatten().unwrap_or_default()
    }

    fn tick_every(&self, millis: u64) {
        let _ = hostcalls::set_tick_period(Duration::from_millis(millis));
    }

    fn headers(&self, direction: Direction) -> Headers {
        hostcalls::get_map_bytes(map_type(direction)).unwrap_or_default()
    }

    fn header(&self, direction: Direction, name: &str) -> Option<Vec<u8>> {
        hostcalls::get_map_value_bytes(map_type(direction), name).ok().flatten()
    }

    fn set_header(&self, direction: Direction, name: &str, value: &[u8]) {
        let _ = hostcalls::set_map_value_bytes(map_type(direction), name, Some(value));
    }

    fn remove_header(&self, direction: Direction, name: &str) {
        let _ = hostcalls::remove_map_value(map_type(direction), name);
    }

    fn request_body(&self, size: usize) -> Vec<u8> {
        if size == 0 {
            return Vec::new();
        }
        hostcalls::get_buffer(BufferType::HttpRequestBody, 0, size).ok().flatten().unwrap_or_default()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        hostcalls::get_property(path.to_vec()).ok().flatten()
    }

    fn filter_state(&self, key: &str, value: &str) {
        let _ = hostcalls::set_property(vec![key], Some(value.as_bytes()));
    }

    fn shared(&self, key: &str) -> Option<Vec<u8>> {
        hostcalls::get_shared_data(key).ok().and_then(|(value, _)| value)
    }

    fn share(&self, key: &str, value: &[u8]) {
        // Without a compare-and-swap number the host always takes the value.
        let _ = hostcalls::set_shared_data(key, Some(value), None);
    }

    fn reply(&self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let _ = hostcalls::send_http_response(u32::from(status), headers.to_vec(), Some(body));
    }

    fn resume(&self) {
        let _ = hostcalls::resume_http_request();
    }

    fn reset(&self) {
        let _ = hostcalls::reset_http_response();
    }

    fn reset_stream(&self, context: u32) {
        // Where the context is gone already, the stream is as well.
        if hostcalls::set_effective_context(context).is_ok() {
            let _ = hostcalls::reset_http_response();
        }
    }

    fn call(&self, call: &Call<'_>) -> Result<CallToken, CallError> {
        let body = if call.body.is_empty() { None } else { Some(call.body) };
        let timeout = Duration::from_millis(call.timeout_ms);
        hostcalls::dispatch_http_call(call.cluster, call.headers.clone(), body, Vec::new(), timeout)
            .map(CallToken)
            .map_err(|_| CallError)
    }

    fn answer(&self, size: AnswerSize) -> Option<Answer> {
        // After a transport failure there is no header map, and reading it would panic.
        if size.headers == 0 {
            return None;
        }
        let status = call_header(":status")?;
        let media_type = call_header("content-type").unwrap_or_default();
        let media_type = media_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let body = if size.body == 0 {
            Vec::new()
        } else {
            hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, size.body).ok().flatten()?
        };
        Some(Answer {
            status: std::str::from_utf8(&status).ok()?.parse().ok()?,
            media_type: String::from_utf8_lossy(media_type).to_ascii_lowercase(),
            body,
        })
    }

    fn foreign(&self, function: &str, arguments: &[u8]) -> Option<Vec<u8>> {
        hostcalls::call_foreign_function(function, Some(arguments)).ok().flatten()
    }

    fn count(&self, metric: &str, by: u64) {
        if let Some(id) = self.metric(MetricType::Counter, metric) {
            let _ = hostcalls::increment_metric(id, i64::try_from(by).unwrap_or(i64::MAX));
        }
    }

    fn gauge(&self, metric: &str, value: u64) {
        if let Some(id) = self.metric(MetricType::Gauge, metric) {
            let _ = hostcalls::record_metric(id, value);
        }
    }
}
