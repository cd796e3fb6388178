//! Evidence: every decision becomes an event, and an event is kept until Audit acknowledges it.
//!
//! The filter has no disk, so each worker numbers its events and holds a bounded number of them. A
//! request needs a place in the buffer before it is decided; when there is none, it is refused (or, if
//! the operator chose so, goes on without evidence, and the gap in the numbers shows that).

use std::collections::VecDeque;
use std::rc::Rc;

use caracal_mandate::gateway_signature::{GatewayKey, to_hex};
use serde_json::Value;

use crate::config::{AuditConfig, FilterConfig};
use crate::event::{self, Common, Event, Presented, Shared};
use crate::host::{AnswerSize, CallToken, Host, Level};
use crate::members::Members;
use crate::metrics;
use crate::pause::Pause;
use crate::signed::{SignedCall, send};

/// Where events go.
pub const PATH: &str = "/internal/audit/gateway-events";
/// An event older than this is sent on the next tick, in milliseconds.
const MAX_DELAY_MS: u64 = 200;
/// As many events are sent without waiting.
const BATCH: usize = 100;
/// The most events in one call.
const MAX_BATCH: usize = 1_000;
/// The most bytes of events in one call; Audit takes four times as many.
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// The longest pause after failed deliveries, in milliseconds.
const MAX_BACKOFF_MS: u64 = 5_000;

/// How many shared parts are looked through for the one of an event.
const RECENTLY_SHARED: usize = 8;

/// A number in lower-case hex, without leading zeros.
fn push_hex(text: &mut String, number: u64) {
    let digits = (64 - (number | 1).leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        let nibble = u32::try_from((number >> (digit * 4)) & 15).unwrap_or_default();
        text.push(char::from_digit(nibble, 16).unwrap_or('0'));
    }
}

/// Parts that the latest events shared, newest first, with their texts.
struct Recent<T>(VecDeque<(T, Rc<str>)>);

impl<T> Recent<T> {
    /// The text of a part: that of an earlier event where both share the same.
    fn share(&mut self, part: &impl Shared<Kept = T>, draft: &mut String) -> Rc<str> {
        if let Some((_, text)) = self.0.iter().find(|(kept, _)| part.is(kept)) {
            return Rc::clone(text);
        }
        draft.clear();
        part.write(draft);
        let text: Rc<str> = draft.as_str().into();
        self.0.truncate(RECENTLY_SHARED - 1);
        self.0.push_front((part.keep(), Rc::clone(&text)));
        text
    }
}

/// Shared parts of one kind that a delivery has told already, with their numbers.
#[derive(Default)]
struct Told<'a>(Vec<(&'a Rc<str>, usize)>);

impl<'a> Told<'a> {
    /// The number of a part, if it was told lately.
    fn place(&self, part: &Rc<str>) -> Option<usize> {
        let mut latest = self.0.iter().rev().take(RECENTLY_SHARED);
        latest.find(|(known, _)| Rc::ptr_eq(known, part)).map(|(_, place)| *place)
    }

    /// The number of a part, which is told now unless it was before.
    fn tell(&mut self, part: &'a Rc<str>, shared: &mut Vec<&'a str>) -> usize {
        if let Some(place) = self.place(part) {
            return place;
        }
        let place = shared.len();
        shared.push(part);
        self.0.push((part, place));
        place
    }
}

/// An event that waits for Audit, as it will be sent.
struct Waiting {
    seq: u64,
    occurred_at: u64,
    /// What it shares with events of other mandates.
    common: Rc<str>,
    /// What it shares with events of the same one.
    mandate: Option<Rc<str>>,
    own: Box<str>,
}

/// Whether a request may go on as far as evidence is concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// A place is reserved; [`Evidence::record`] fills it, [`Evidence::release`] gives it back.
    Reserved,
    /// There is no place, and the operator wants traffic more than evidence.
    Unrecorded,
    /// There is no place: refuse.
    Backlog,
}

/// The events of one worker.
pub struct Evidence {
    config: AuditConfig,
    gateway: String,
    worker: String,
    incarnation: u64,
    /// How the names of decisions begin.
    decision_prefix: String,
    pending: VecDeque<Waiting>,
    commons: Recent<Common<'static>>,
    mandates: Recent<Presented<'static>>,
    /// Where the next one is written.
    draft: String,
    reserved: usize,
    last_seq: u64,
    decisions: u64,
    in_flight: Option<CallToken>,
    /// How many events the next call may hold: fewer after Audit refused a call as such.
    batch_limit: usize,
    failures: u32,
    pause: Pause,
}

impl Evidence {
    /// No events yet. Worker and incarnation are new with every start of the VM. `None` without a random source to name
    /// the worker by: Audit would take the events of two for those of one.
    #[must_use]
    pub fn new(host: &dyn Host, config: &FilterConfig) -> Option<Self> {
        let mut worker = [0_u8; 8];
        if !host.random(&mut worker) {
            return None;
        }
        let (worker, incarnation) = (to_hex(&worker), host.now());
        let mut decision_prefix = [worker.as_str(), "-"].concat();
        push_hex(&mut decision_prefix, incarnation);
        decision_prefix.push('-');
        Some(Self {
            config: config.audit.clone(),
            gateway: config.gateway_id.to_string(),
            worker,
            incarnation,
            decision_prefix,
            pending: VecDeque::new(),
            commons: Recent(VecDeque::new()),
            mandates: Recent(VecDeque::new()),
            draft: String::new(),
            reserved: 0,
            last_seq: 0,
            decisions: 0,
            in_flight: None,
            batch_limit: MAX_BATCH,
            failures: 0,
            pause: Pause::default(),
        })
    }

    /// The name of this worker, new with every start of the VM.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// A number for the next decision that no other one of this worker has.
    pub fn next_decision(&mut self) -> u64 {
        self.decisions += 1;
        self.decisions
    }

    /// The name of a decision, which no other one has.
    #[must_use]
    pub fn decision_name(&self, number: u64) -> String {
        let mut name = String::with_capacity(self.decision_prefix.len() + 16);
        name.push_str(&self.decision_prefix);
        push_hex(&mut name, number);
        name
    }

    /// Asks for a place before a request is decided.
    pub fn admit(&mut self, host: &dyn Host) -> Admission {
        if self.pending.len() + self.reserved < self.config.capacity {
            self.reserved += 1;
            return Admission::Reserved;
        }
        self.last_seq += 1;
        host.count(metrics::EVIDENCE_DROPPED, 1);
        if self.config.deny_on_backlog { Admission::Backlog } else { Admission::Unrecorded }
    }

    /// Fills a reserved place. The event's number is given here.
    ///
    /// Refusals of callers that proved nothing take no more than half of the places while events wait, so that nobody
    /// without a mandate can make those with one wait. What is left out shows as a gap in the numbers.
    pub fn record(&mut self, host: &dyn Host, event: &Event<'_>) {
        self.release();
        self.last_seq += 1;
        if event.common.application_id.is_none() && self.pending.len() >= self.config.capacity / 2 {
            host.count(metrics::EVIDENCE_DROPPED, 1);
            return;
        }
        let common = self.commons.share(&event.common, &mut self.draft);
        let mandate = match event.presented.is_empty() {
            true => None,
            false => Some(self.mandates.share(&event.presented, &mut self.draft)),
        };
        self.draft.clear();
        event.write_own(self.last_seq, &mut self.draft);
        let (seq, occurred_at, own) = (self.last_seq, event.occurred_at, self.draft.as_str().into());
        self.pending.push_back(Waiting { seq, occurred_at, common, mandate, own });
    }

    /// Gives a reserved place back.
    pub fn release(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// How many events wait for Audit.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Sends what is due. Only a root context may call this: the answer arrives where the call started.
    pub fn on_tick(&mut self, host: &dyn Host, key: &GatewayKey) {
        let now = host.now();
        let Some(oldest) = self.pending.front() else { return };
        let waits = Pause::new(oldest.occurred_at, MAX_DELAY_MS);
        let due = self.pending.len() >= BATCH || waits.is_over(now);
        if due && self.in_flight.is_none() && self.pause.is_over(now) {
            self.deliver(host, key);
        }
    }

    /// Takes Audit's answer; forgets what it acknowledged.
    pub fn on_answer(&mut self, host: &dyn Host, key: &GatewayKey, token: CallToken, size: AnswerSize) {
        if self.in_flight != Some(token) {
            return;
        }
        self.in_flight = None;
        let answer = host.answer(size);
        if answer.as_ref().is_some_and(|answer| matches!(answer.status, 400 | 413)) {
            self.shrink(host);
            return;
        }
        let answer = answer.filter(|answer| answer.status == 200);
        let answer: Option<Value> = answer.and_then(|answer| caracal_mandate::json::parse(&answer.body).ok());
        let acknowledged = answer.and_then(|answer| answer.get("acknowledged").and_then(Value::as_u64));
        let Some(acknowledged) = acknowledged else {
            self.fail(host, "Audit does not acknowledge");
            return;
        };
        let before = self.pending.len();
        while self.pending.front().is_some_and(|event| event.seq <= acknowledged) {
            self.pending.pop_front();
        }
        let gone = before - self.pending.len();
        if gone == 0 {
            self.fail(host, "Audit acknowledges nothing new");
            return;
        }
        self.failures = 0;
        self.batch_limit = MAX_BATCH;
        host.count(metrics::EVIDENCE_ACKNOWLEDGED, u64::try_from(gone).unwrap_or(u64::MAX));
        if self.pending.len() >= BATCH {
            self.deliver(host, key);
        }
    }

    fn deliver(&mut self, host: &dyn Host, key: &GatewayKey) {
        let body = self.next_delivery();
        let call = SignedCall {
            server: &self.config.server,
            method: "POST",
            path: PATH,
            content_type: Some("application/json"),
            body: body.as_bytes(),
            request_id: None,
            traceparent: None,
            timeout_ms: self.config.server.timeout_ms,
        };
        match send(host, key, &call) {
            Ok(token) => self.in_flight = Some(token),
            Err(error) => self.fail(host, &error.to_string()),
        }
    }

    /// The oldest events: as many as one call may hold, and at least one.
    fn next_delivery(&self) -> String {
        let mut shared: Vec<&str> = Vec::new();
        let (mut commons, mut mandates) = (Told::default(), Told::default());
        let mut size = 0_usize;
        let room = self.pending.iter().take(self.batch_limit).map(|event| event.own.len() + 16).sum();
        let mut json = String::with_capacity(MAX_BATCH_BYTES.min(room) + 4_096);
        let mut delivery = Members::begin(&mut json);
        delivery.text("gateway", Some(&self.gateway));
        delivery.text("worker", Some(&self.worker));
        delivery.number("incarnation", self.incarnation);
        delivery.raw("columns", event::COLUMNS);
        delivery.raw("rows", "[");
        for event in self.pending.iter().take(self.batch_limit) {
            let parts =
                [Some((&event.common, &commons)), event.mandate.as_ref().map(|part| (part, &mandates))];
            let untold = parts.into_iter().flatten().filter(|(part, told)| told.place(part).is_none());
            let more = untold.map(|(part, _)| part.len()).sum::<usize>() + event.own.len();
            if size > 0 && size.saturating_add(more) > MAX_BATCH_BYTES {
                break;
            }
            if size > 0 {
                delivery.json.push(',');
            }
            size = size.saturating_add(more);
            let common = commons.tell(&event.common, &mut shared);
            let mandate = event.mandate.as_ref().map(|mandate| mandates.tell(mandate, &mut shared));
            event::write_row(common, mandate, &event.own, delivery.json);
        }
        delivery.json.push(']');
        delivery.list("shared", shared.into_iter());
        delivery.end();
        json
    }

    /// Audit refused the call itself: the next one holds fewer events. An event that is refused on its own will never
    /// be taken; it goes, and the gap in the numbers tells of it.
    fn shrink(&mut self, host: &dyn Host) {
        let sent = self.batch_limit.min(self.pending.len());
        if sent <= 1 {
            self.pending.pop_front();
            host.count(metrics::EVIDENCE_DROPPED, 1);
        }
        self.batch_limit = (sent / 2).max(1);
        self.fail(host, "Audit refused the events as malformed or too large");
    }

    fn fail(&mut self, host: &dyn Host, problem: &str) {
        self.failures = self.failures.saturating_add(1);
        self.pause = Pause::after_failures(host.now(), self.failures, MAX_BACKOFF_MS);
        host.count(metrics::EVIDENCE_ERRORS, 1);
        let message = format!(
            "caracal evidence: delivery to cluster {} failed: {problem}; {} events wait",
            self.config.server.cluster,
            self.pending.len()
        );
        host.log(Level::Warn, &message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_hex_are_as_they_are_formatted() {
        for number in [0, 1, 15, 16, 255, 256, 0x18b_cfe5_6800, u64::MAX - 1, u64::MAX] {
            let mut text = String::new();
            push_hex(&mut text, number);
            assert_eq!(text, format!("{number:x}"));
        }
    }
}
