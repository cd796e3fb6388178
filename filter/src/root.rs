//! What a root context does: follow the feed for all workers, or hold what a worker's requests share.

use std::cell::RefCell;
use std::rc::Rc;

use caracal_mandate::decide::SignatureCache;
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::GatewayId;

use crate::circuit::Circuit;
use crate::config::{Config, FeedConfig, FeedSource, FilterConfig, Role};
use crate::crypto::Verifier;
use crate::evidence::Evidence;
use crate::feed::{self, FeedPoller};
use crate::host::{AnswerSize, CallToken, Host, Level};
use crate::known::Memory;
use crate::live::LiveStreams;
use crate::metrics;
use crate::signed::KEY_VARIABLE;
use crate::snapshot::{Feed, View};

/// Milliseconds between two looks at whether evidence is due.
const WORKER_TICK_MS: u64 = 25;

/// What a remembered mandate, and what the STS said about one, may take on average, in bytes: `signature_cache` bounds
/// memory as well, however long mandates are. A gateway keeps grants, each with the mandate that it sends upstream.
fn bytes_each(role: Role) -> (usize, usize) {
    match role {
        Role::Resource => (560, 40),
        Role::Gateway => (200, 400),
    }
}

/// What the requests of one worker share.
pub struct Worker {
    /// The host.
    pub host: Rc<dyn Host>,
    /// The configuration.
    pub config: FilterConfig,
    /// The key that proves who we are.
    pub key: GatewayKey,
    /// The verifier.
    pub verifier: Verifier,
    /// The feed as this worker knows it.
    pub view: RefCell<Feed>,
    /// Tokens with a good signature.
    pub signatures: RefCell<SignatureCache>,
    /// What the STS said about mandates.
    pub memory: RefCell<Memory>,
    /// The circuit towards the STS.
    pub circuit: RefCell<Circuit>,
    /// Events on their way to Audit.
    pub evidence: RefCell<Evidence>,
    /// Streams that may be silent for long.
    pub live: RefCell<LiveStreams>,
}

/// A root context.
pub enum Root {
    /// Not configured, or refused.
    Idle,
    /// The singleton.
    Feed(Box<FeedPoller>),
    /// The filter on a worker.
    Filter(Rc<Worker>),
}

impl Worker {
    /// Notes something about the stream that is being handled, where anybody reads it.
    pub(crate) fn note(&self, key: &str, value: &str) {
        if self.config.filter_state {
            self.host.filter_state(key, value);
        }
    }
}

impl Root {
    /// Reads the configuration. An error is logged, and the host then refuses the plugin.
    pub fn configure(host: &Rc<dyn Host>, text: &[u8]) -> Option<Self> {
        match Self::try_configure(host, text) {
            Ok(root) => Some(root),
            Err(problem) => {
                host.log(Level::Error, &format!("caracal: refused to start: {problem}"));
                None
            }
        }
    }

    fn try_configure(host: &Rc<dyn Host>, text: &[u8]) -> Result<Self, String> {
        let config = Config::parse(text).map_err(|error| error.to_string())?;
        let key = host
            .environment(KEY_VARIABLE)
            .ok_or_else(|| format!("environment variable {KEY_VARIABLE} of the VM is missing"))?;
        let key = GatewayKey::from_hex(&key)
            .map_err(|error| format!("environment variable {KEY_VARIABLE} {error}"))?;
        match config {
            Config::Feed(config) => {
                ticks(host, feed::TICK_MS)?;
                host.log(
                    Level::Info,
                    &format!("caracal feed: {} follows {}", config.gateway_id, config.sts.cluster),
                );
                Ok(Self::Feed(Box::new(FeedPoller::new(config, key))))
            }
            Config::Filter(config) => {
                let verifier = match &config.jwt_authn_payload {
                    Some(payload) => Verifier::JwtAuthn(Rc::clone(host), payload.clone()),
                    None => Verifier::choose(host).map_err(|error| error.to_string())?,
                };
                host.gauge(metrics::SIGNATURES_BY_HOST, u64::from(!matches!(verifier, Verifier::Pure)));
                ticks(host, WORKER_TICK_MS)?;
                let message = format!(
                    "caracal filter {}: gateway {}, role {}, signatures by {}",
                    env!("CARGO_PKG_VERSION"),
                    config.gateway_id,
                    config.role.name(),
                    verifier.name()
                );
                host.log(Level::Info, &message);
                let evidence = Evidence::new(host.as_ref(), &config)
                    .ok_or("the host has no random source to name this worker by")?;
                let feed = match config.feed {
                    FeedSource::Singleton => Feed::Shared(View::default()),
                    FeedSource::Worker { wait_s } => {
                        // Each worker acknowledges what it has applied, so each has a name of its own.
                        let name = format!("{}.{}", config.gateway_id, evidence.worker());
                        let gateway_id = GatewayId::new(name).map_err(|error| {
                            format!("configuration field `gateway_id` {error} with a worker's name")
                        })?;
                        let feed = FeedConfig { gateway_id, sts: config.sts.clone(), wait_s };
                        Feed::Own(Box::new(FeedPoller::unshared(feed, key.clone())))
                    }
                };
                Ok(Self::Filter(Rc::new(Worker {
                    host: Rc::clone(host),
                    key,
                    verifier,
                    view: RefCell::new(feed),
                    signatures: RefCell::new(signatures(&config)),
                    memory: RefCell::new(answers(&config)),
                    circuit: RefCell::default(),
                    evidence: RefCell::new(evidence),
                    live: RefCell::default(),
                    config: *config,
                })))
            }
        }
    }

    /// Does what is due.
    pub fn on_tick(&mut self, host: &dyn Host) {
        match self {
            Self::Idle => {}
            Self::Feed(poller) => poller.on_tick(host),
            Self::Filter(worker) => {
                host.gauge(metrics::WORKER_MEMORY, memory_bytes());
                match &mut *worker.view.borrow_mut() {
                    Feed::Own(poller) => poller.on_tick(host),
                    Feed::Shared(view) => view.look_again(),
                }
                worker.evidence.borrow_mut().on_tick(host, &worker.key);
                let mut live = worker.live.borrow_mut();
                if !live.is_empty() {
                    live.cut_off(host, worker.view.borrow_mut().latest(host));
                }
            }
        }
    }

    /// Takes the answer to a call that this root started.
    pub fn on_answer(&mut self, host: &dyn Host, token: CallToken, size: AnswerSize) {
        match self {
            Self::Idle => {}
            Self::Feed(poller) => poller.on_answer(host, token, size),
            Self::Filter(worker) => {
                // Either knows its own calls.
                if let Feed::Own(poller) = &mut *worker.view.borrow_mut() {
                    poller.on_answer(host, token, size);
                }
                worker.evidence.borrow_mut().on_answer(host, &worker.key, token, size);
            }
        }
    }

    /// The worker, when this root is one.
    #[must_use]
    pub fn worker(&self) -> Option<&Rc<Worker>> {
        match self {
            Self::Filter(worker) => Some(worker),
            Self::Idle | Self::Feed(_) => None,
        }
    }
}

/// Room for as many mandates as are configured, if they are of usual size.
fn signatures(config: &FilterConfig) -> SignatureCache {
    let many = config.signature_cache;
    SignatureCache::within(many, many.saturating_mul(bytes_each(config.role).0))
}

/// Room for as many answers of the STS, if they hold no grant; a grant takes that of several.
fn answers(config: &FilterConfig) -> Memory {
    let many = config.signature_cache;
    Memory::within(many, many.saturating_mul(bytes_each(config.role).1))
}

/// Without ticks no feed is followed and no evidence is sent.
fn ticks(host: &Rc<dyn Host>, millis: u64) -> Result<(), String> {
    if host.tick_every(millis) { Ok(()) } else { Err("the host grants no ticks".to_owned()) }
}

/// Linear memory of this VM, in bytes; 0 outside one.
fn memory_bytes() -> u64 {
    #[cfg(target_arch = "wasm32")]
    {
        const PAGE: u64 = 65_536;
        u64::try_from(core::arch::wasm32::memory_size::<0>()).unwrap_or(0).saturating_mul(PAGE)
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        0
    }
}
