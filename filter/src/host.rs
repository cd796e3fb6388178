//! What the filter needs from its host, and Envoy as that host.
//!
//! Envoy is called here and nowhere else (by [`crate::abi`]). Values travel as bytes, what may be absent is an `Option`,
//! and no error ends the VM: where a decision rests on a call that failed, [`Host::failed`] says so, and nothing passes.
//! Everything above works on [`Host`] and is tested natively.

use std::cell::{Cell, RefCell};

use crate::abi::{self, Done, Status};
pub use crate::headers::Headers;

/// The ABI's numbers of what there is to read and write.
mod kind {
    pub(super) const REQUEST_HEADERS: u32 = 0;
    pub(super) const RESPONSE_HEADERS: u32 = 2;
    pub(super) const CALL_HEADERS: u32 = 6;
    pub(super) const REQUEST_BODY: u32 = 0;
    pub(super) const CALL_BODY: u32 = 4;
    pub(super) const CONFIGURATION: u32 = 7;
    pub(super) const REQUEST: u32 = 0;
    pub(super) const RESPONSE: u32 = 1;
    pub(super) const COUNTER: u32 = 0;
    pub(super) const GAUGE: u32 = 1;
    pub(super) const INFO: u32 = 2;
    pub(super) const WARN: u32 = 3;
    pub(super) const ERROR: u32 = 4;
}

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
    /// Asks for a tick every so many milliseconds; `false` when there will be none.
    #[must_use]
    fn tick_every(&self, millis: u64) -> bool;
    /// All headers.
    fn headers(&self, direction: Direction) -> Headers;
    /// The value of a header that stands there once, such as a pseudo-header.
    fn header(&self, direction: Direction, name: &str) -> Option<Vec<u8>>;
    /// Replaces all headers of a name by one.
    fn set_header(&self, direction: Direction, name: &str, value: &[u8]);
    /// Removes all headers of a name.
    fn remove_header(&self, direction: Direction, name: &[u8]);
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
    /// Whether headers or properties could not be read or written since this was asked last. Whatever was decided or
    /// prepared with them must not pass.
    #[must_use]
    fn failed(&self) -> bool;
    /// Adds to a counter. The host shows it before long, not at once.
    fn count(&self, metric: &str, by: u64);
    /// Sets a gauge.
    fn gauge(&self, metric: &str, value: u64);
    /// What a gauge was set to last, by whichever VM; 0 where that is not known. Unlike what is shared it comes without
    /// memory that the host has to ask for.
    fn gauge_now(&self, metric: &str) -> u64;
}

/// A metric that is in use.
struct Metric {
    name: String,
    /// The host's number for it.
    id: u32,
    /// What was counted and the host was not told of yet.
    untold: u64,
}

/// Envoy.
#[derive(Default)]
pub struct EnvoyHost {
    /// The few dozen that are in use.
    metrics: RefCell<Vec<Metric>>,
    failed: Cell<bool>,
    /// The context that the host calls about.
    context: Cell<u32>,
    /// Calls under way, with the contexts that made them.
    calls: RefCell<Vec<(u32, u32)>>,
}

impl EnvoyHost {
    fn metric(&self, kind: u32, name: &str, act: impl FnOnce(&mut Metric)) {
        let mut metrics = self.metrics.borrow_mut();
        if let Some(metric) = metrics.iter_mut().find(|metric| metric.name == name) {
            return act(metric);
        }
        if let Ok(id) = abi::define_metric(kind, name) {
            let mut metric = Metric { name: name.to_owned(), id, untold: 0 };
            act(&mut metric);
            metrics.push(metric);
        }
    }

    /// Tells the host what was counted since. What it does not take is told again the next time.
    pub(crate) fn flush(&self) {
        for metric in self.metrics.borrow_mut().iter_mut().filter(|metric| metric.untold > 0) {
            let by = i64::try_from(metric.untold).unwrap_or(i64::MAX);
            if abi::increment(metric.id, by).is_ok() {
                metric.untold = 0;
            }
        }
    }

    /// The host calls about this context.
    pub(crate) fn at(&self, context: u32) {
        self.context.set(context);
    }

    /// Makes a context the one that calls are about; `false` where it is gone.
    pub(crate) fn act_for(&self, context: u32) -> bool {
        abi::act_for(context).is_ok()
    }

    /// Which context made the call that is answered; the host's own word where that is not known.
    pub(crate) fn answered(&self, token: u32, told: u32) -> u32 {
        let mut calls = self.calls.borrow_mut();
        let at = calls.iter().position(|(known, _)| *known == token);
        at.map_or(told, |at| calls.swap_remove(at).1)
    }

    /// A context is gone; its calls will not be answered.
    pub(crate) fn forget_calls(&self, context: u32) {
        self.calls.borrow_mut().retain(|(_, caller)| *caller != context);
    }

    /// Remembers that a call failed on which a decision rests.
    fn needed<T>(&self, result: Result<T, Status>) -> Option<T> {
        if result.is_err() {
            self.failed.set(true);
        }
        result.ok()
    }
}

fn map_type(direction: Direction) -> u32 {
    match direction {
        Direction::Request => kind::REQUEST_HEADERS,
        Direction::Response => kind::RESPONSE_HEADERS,
    }
}

fn call_header(name: &str) -> Option<Vec<u8>> {
    abi::map_value(kind::CALL_HEADERS, name).ok()
}

impl Host for EnvoyHost {
    fn now(&self) -> u64 {
        // Where there is no time, nothing is fresh.
        abi::now().unwrap_or(0) / 1_000_000
    }

    fn random(&self, bytes: &mut [u8]) -> bool {
        getrandom::fill(bytes).is_ok()
    }

    fn environment(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Info => kind::INFO,
            Level::Warn => kind::WARN,
            Level::Error => kind::ERROR,
        };
        let _: Done = abi::log(level, message);
    }

    fn configuration(&self, size: usize) -> Vec<u8> {
        if size == 0 {
            return Vec::new();
        }
        abi::buffer(kind::CONFIGURATION, size).unwrap_or_default()
    }

    fn tick_every(&self, millis: u64) -> bool {
        u32::try_from(millis).is_ok_and(|millis| abi::tick_every(millis).is_ok())
    }

    fn headers(&self, direction: Direction) -> Headers {
        let pairs = self.needed(abi::map(map_type(direction))).and_then(Headers::read);
        pairs.unwrap_or_else(|| {
            self.failed.set(true);
            Headers::default()
        })
    }

    fn header(&self, direction: Direction, name: &str) -> Option<Vec<u8>> {
        match abi::map_value(map_type(direction), name) {
            Err(Status::NOT_FOUND) => None,
            result => self.needed(result),
        }
    }

    fn set_header(&self, direction: Direction, name: &str, value: &[u8]) {
        self.needed(abi::replace(map_type(direction), name, value));
    }

    fn remove_header(&self, direction: Direction, name: &[u8]) {
        self.needed(abi::remove(map_type(direction), name));
    }

    fn request_body(&self, size: usize) -> Vec<u8> {
        if size == 0 {
            return Vec::new();
        }
        abi::buffer(kind::REQUEST_BODY, size).unwrap_or_default()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        match abi::property(path) {
            Err(Status::NOT_FOUND) => None,
            result => self.needed(result),
        }
    }

    fn filter_state(&self, key: &str, value: &str) {
        let _: Done = abi::set_property(key, value.as_bytes());
    }

    fn shared(&self, key: &str) -> Option<Vec<u8>> {
        abi::shared(key).ok()
    }

    fn share(&self, key: &str, value: &[u8]) {
        let _: Done = abi::share(key, value);
    }

    fn reply(&self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let _: Done = abi::reply(u32::from(status), headers, body);
    }

    fn resume(&self) {
        let _: Done = abi::resume(kind::REQUEST);
    }

    fn reset(&self) {
        let _: Done = abi::close(kind::RESPONSE);
    }

    fn reset_stream(&self, context: u32) {
        // Where the context is gone already, the stream is as well.
        if self.act_for(context) {
            self.reset();
        }
    }

    fn call(&self, call: &Call<'_>) -> Result<CallToken, CallError> {
        let timeout = u32::try_from(call.timeout_ms).unwrap_or(u32::MAX);
        let token = abi::call(call.cluster, &call.headers, call.body, timeout).map_err(|_| CallError)?;
        self.calls.borrow_mut().push((token, self.context.get()));
        Ok(CallToken(token))
    }

    fn answer(&self, size: AnswerSize) -> Option<Answer> {
        // After a transport failure there is no header map.
        if size.headers == 0 {
            return None;
        }
        let status = call_header(":status")?;
        let media_type = call_header("content-type").unwrap_or_default();
        let media_type = media_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let body = if size.body == 0 { Vec::new() } else { abi::buffer(kind::CALL_BODY, size.body).ok()? };
        Some(Answer {
            status: std::str::from_utf8(&status).ok()?.parse().ok()?,
            media_type: String::from_utf8_lossy(media_type).to_ascii_lowercase(),
            body,
        })
    }

    fn foreign(&self, function: &str, arguments: &[u8]) -> Option<Vec<u8>> {
        abi::foreign(function, arguments).ok()
    }

    fn failed(&self) -> bool {
        self.failed.take()
    }

    fn count(&self, metric: &str, by: u64) {
        self.metric(kind::COUNTER, metric, |metric| metric.untold = metric.untold.saturating_add(by));
    }

    fn gauge(&self, metric: &str, value: u64) {
        // Always: all workers set the same one.
        self.metric(kind::GAUGE, metric, |metric| {
            let _: Done = abi::record(metric.id, value);
        });
    }

    fn gauge_now(&self, metric: &str) -> u64 {
        let mut value = 0;
        self.metric(kind::GAUGE, metric, |metric| value = abi::metric(metric.id).unwrap_or(0));
        value
    }
}
