//! Following the feed. The singleton long-polls the STS on Envoy's main thread and shares what it learns with all
//! workers (layout of the shared data: [`crate::snapshot`]). Where no singleton can run, every worker polls for itself.

use caracal_mandate::epoch::Generation;
use caracal_mandate::feed::{FEED_PATH, FeedResponse, FeedState};
use caracal_mandate::gateway_signature::GatewayKey;

use crate::config::FeedConfig;
use crate::host::{AnswerSize, CallToken, Host, Level};
use crate::metrics;
use crate::pause::Pause;
use crate::signed::{SignedCall, send};
use crate::snapshot::{self, Status};
use crate::wire;

/// Milliseconds between two looks at whether a poll is due.
pub const TICK_MS: u64 = 100;
/// Deltas after which the whole snapshot is written again, so that a worker never walks further back.
const DELTAS_PER_SNAPSHOT: usize = 64;
/// The longest pause between two failed polls, in milliseconds.
const MAX_BACKOFF_MS: u64 = 5_000;
/// What a poll may take beyond the time that the STS may hold it back, in milliseconds.
const POLL_GRACE_MS: u64 = 5_000;

/// Polls, and shares what it learns where others need it.
pub struct FeedPoller {
    config: FeedConfig,
    key: GatewayKey,
    shares: bool,
    state: FeedState,
    /// When the STS was last heard, unix milliseconds.
    polled_at: Option<u64>,
    /// Which snapshot the shared deltas continue; 0 before the first one.
    lineage: u64,
    /// Generations of the deltas that were shared since the snapshot was written.
    deltas: Vec<Generation>,
    in_flight: Option<CallToken>,
    failures: u32,
    pause: Pause,
}

impl FeedPoller {
    /// A poller that knows nothing yet.
    #[must_use]
    pub fn new(config: FeedConfig, key: GatewayKey) -> Self {
        Self {
            config,
            key,
            shares: true,
            state: FeedState::default(),
            polled_at: None,
            lineage: 0,
            deltas: Vec::new(),
            in_flight: None,
            failures: 0,
            pause: Pause::default(),
        }
    }

    /// A poller that keeps what it learns to itself.
    #[must_use]
    pub fn unshared(config: FeedConfig, key: GatewayKey) -> Self {
        Self { shares: false, ..Self::new(config, key) }
    }

    /// What it knows.
    #[must_use]
    pub fn state(&self) -> &FeedState {
        &self.state
    }

    /// When the STS was last heard, unix milliseconds; `None` before the first time and after a gap.
    #[must_use]
    pub fn polled_at(&self) -> Option<u64> {
        self.polled_at
    }

    /// Starts a poll when none is under way and the pause after a failure is over.
    pub fn on_tick(&mut self, host: &dyn Host) {
        if self.in_flight.is_none() && self.pause.is_over(host.now()) {
            self.poll(host);
        }
    }

    /// Takes an answer. Answers to other calls than the one under way change nothing.
    pub fn on_answer(&mut self, host: &dyn Host, token: CallToken, size: AnswerSize) {
        if self.in_flight != Some(token) {
            return;
        }
        self.in_flight = None;
        match self.accept(host, size) {
            Ok(()) => {
                if self.failures > 0 {
                    host.log(Level::Info, "caracal feed: polls succeed again");
                }
                self.failures = 0;
                self.poll(host);
            }
            Err(problem) => self.fail(host, &problem),
        }
    }

    fn poll(&mut self, host: &dyn Host) {
        let path = format!(
            "{FEED_PATH}?gateway={}&since={}&wait={}",
            self.config.gateway_id, self.state.generation.0, self.config.wait_s
        );
        let call = SignedCall {
            server: &self.config.sts,
            method: "GET",
            path: &path,
            content_type: None,
            body: b"",
            request_id: None,
            traceparent: None,
            timeout_ms: self.config.wait_s * 1_000 + POLL_GRACE_MS,
        };
        match send(host, &self.key, &call) {
            Ok(token) => self.in_flight = Some(token),
            Err(error) => self.fail(host, &error.to_string()),
        }
    }

    fn accept(&mut self, host: &dyn Host, size: AnswerSize) -> Result<(), String> {
        let answer = host.answer(size).ok_or("the STS cannot be reached")?;
        if answer.status != 200 || !answer.is_json() {
            return Err(format!("the STS answered {}", answer.status));
        }
        let response = wire::read(&answer.body).map_err(|error| error.to_string())?;
        self.apply(host, response, &answer.body)
    }

    fn apply(&mut self, host: &dyn Host, response: FeedResponse, text: &[u8]) -> Result<(), String> {
        let (previous, generation) = (self.state.generation, response.generation);
        let is_snapshot = response.snapshot;
        if !is_snapshot && self.lineage == 0 {
            return Err("the first answer is no snapshot".to_owned());
        }
        if let Err(error) = self.state.apply(response) {
            // Ask for everything: nothing that was known is worth keeping after a gap.
            self.state = FeedState::default();
            self.polled_at = None;
            return Err(error.to_string());
        }
        self.polled_at = Some(host.now());
        if is_snapshot {
            self.lineage = new_lineage(host);
        }
        if self.shares {
            self.share(host, is_snapshot, (generation != previous).then_some(text));
        }
        host.count(metrics::FEED_POLLS, 1);
        host.gauge(metrics::FEED_GENERATION, generation.0);
        let (_, _, revoked) = self.state.counts();
        host.gauge(metrics::REVOCATIONS_ACTIVE, u64::try_from(revoked).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Shares the state as it is now: whole, or by the text of the answer that led to it.
    fn share(&mut self, host: &dyn Host, is_snapshot: bool, delta: Option<&[u8]>) {
        let generation = self.state.generation;
        match delta {
            _ if is_snapshot => self.share_snapshot(host),
            Some(text) => self.share_delta(host, generation, text),
            None => {}
        }
        let status =
            Status { generation, polled_at: host.now(), lineage: self.lineage, time: self.state.time };
        snapshot::share_status(host, status);
    }

    fn share_delta(&mut self, host: &dyn Host, generation: Generation, text: &[u8]) {
        // A slot that a worker may still need must not be overwritten before a snapshot replaces it.
        let slot = snapshot::delta_key(generation);
        let taken = self.deltas.iter().any(|shared| snapshot::delta_key(*shared) == slot);
        if taken || self.deltas.len() >= DELTAS_PER_SNAPSHOT {
            self.share_snapshot(host);
        }
        self.deltas.push(generation);
        host.share(&slot, &snapshot::with_lineage(self.lineage, text));
    }

    fn share_snapshot(&mut self, host: &dyn Host) {
        self.deltas.clear();
        let share = |number: usize, text: &[u8]| {
            host.share(&snapshot::part_key(number), &snapshot::with_lineage(self.lineage, text));
        };
        let parts = snapshot::parts(self.state.to_snapshot());
        for (number, part) in parts.iter().enumerate() {
            share(number, &wire::write(part));
        }
        share(parts.len(), b"");
    }

    fn fail(&mut self, host: &dyn Host, problem: &str) {
        self.failures = self.failures.saturating_add(1);
        self.pause = Pause::after_failures(host.now(), self.failures, MAX_BACKOFF_MS);
        host.count(metrics::FEED_ERRORS, 1);
        let message = format!(
            "caracal feed: poll of cluster {} failed: {problem}; next in {} ms",
            self.config.sts.cluster,
            self.pause.millis()
        );
        host.log(Level::Warn, &message);
    }
}

/// A number that no earlier snapshot had: random, never 0.
fn new_lineage(host: &dyn Host) -> u64 {
    let mut bytes = [0_u8; 8];
    if !host.random(&mut bytes) {
        bytes = host.now().to_le_bytes();
    }
    u64::from_le_bytes(bytes).max(1)
}
