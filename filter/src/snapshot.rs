//! What a worker knows of the feed, read from the data that the singleton shares.
//!
//! | key | value |
//! |---|---|
//! | `status` | generation, time of the last successful poll (unix ms), lineage, time at the STS then: four little-endian u64 |
//! | `snapshot` | lineage, then the whole state as a snapshot answer in JSON |
//! | `delta/<generation % 256>` | lineage, then the answer in JSON that led to that generation |
//!
//! A worker reads `status` once per request. Only when generation or lineage moved does it read more:
//! the deltas from its own generation on, or the snapshot and the deltas after it. The lineage changes
//! with every snapshot that the STS sends, so that generations which start over cannot be mistaken.

use caracal_mandate::epoch::Generation;
use caracal_mandate::feed::{FeedResponse, FeedState};

use crate::feed::FeedPoller;
use crate::host::Host;
use crate::wire;

/// Key of the status.
pub const STATUS_KEY: &str = "status";
/// Key of the snapshot.
pub const SNAPSHOT_KEY: &str = "snapshot";
/// How many deltas have a key of their own.
const DELTA_SLOTS: u64 = 256;

/// Key of the delta that led to a generation.
#[must_use]
pub fn delta_key(generation: Generation) -> String {
    format!("delta/{}", generation.0 % DELTA_SLOTS)
}

/// Puts the lineage before a JSON text.
#[must_use]
pub fn with_lineage(lineage: u64, text: &[u8]) -> Vec<u8> {
    [&lineage.to_le_bytes()[..], text].concat()
}

/// What is read on every request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Status {
    /// The newest generation.
    pub generation: Generation,
    /// When the STS was last heard, unix milliseconds.
    pub polled_at: u64,
    /// Which snapshot the deltas continue.
    pub lineage: u64,
    /// The time at the STS when it was last heard, unix milliseconds.
    pub time: u64,
}

impl Status {
    /// As shared.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        [self.generation.0, self.polled_at, self.lineage, self.time]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }

    /// From what is shared.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut numbers = bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk));
        Some(Self {
            generation: Generation(numbers.next()?),
            polled_at: numbers.next()?,
            lineage: numbers.next()?,
            time: numbers.next()?,
        })
    }
}

/// There is no state, or none that is fresh enough to decide by.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("revocation state unavailable")]
pub struct Stale;

/// How a worker knows the feed.
pub enum Feed {
    /// From what the singleton shares.
    Shared(View),
    /// From its own polls.
    Own(Box<FeedPoller>),
}

impl Feed {
    /// The state, caught up and at most `max_age_ms` old, and the time to decide at: the own clock's, but never before
    /// what the STS said. Anchors are forgotten by the STS's time, so a mandate that one of them could still name has
    /// expired by then, also where the own clock was set back.
    ///
    /// # Errors
    /// [`Stale`]: no snapshot yet, last poll too long ago, or a clock that went backwards.
    pub fn fresh(&mut self, host: &dyn Host, max_age_ms: u64) -> Result<(&FeedState, u64), Stale> {
        let now = host.now();
        let (state, polled_at, time) = match self {
            Self::Shared(view) => {
                let status = view.caught_up(host)?;
                (&view.state, status.polled_at, status.time)
            }
            Self::Own(poller) => {
                let polled_at = poller.polled_at().ok_or(Stale)?;
                (poller.state(), polled_at, poller.state().time)
            }
        };
        let age = now.checked_sub(polled_at).ok_or(Stale)?;
        if age > max_age_ms { Err(Stale) } else { Ok((state, now.max(time))) }
    }

    /// The state as far as it can be caught up with, however old: for streams that were allowed already.
    pub fn latest(&mut self, host: &dyn Host) -> &FeedState {
        match self {
            Self::Shared(view) => {
                let _ = view.caught_up(host);
                &view.state
            }
            Self::Own(poller) => poller.state(),
        }
    }
}

/// A worker's own copy of the state. Starts empty, also after the VM was reloaded.
#[derive(Default)]
pub struct View {
    state: FeedState,
    lineage: u64,
}

impl View {
    fn caught_up(&mut self, host: &dyn Host) -> Result<Status, Stale> {
        let status = host.shared(STATUS_KEY).and_then(|bytes| Status::from_bytes(&bytes)).ok_or(Stale)?;
        self.catch_up(host, status)?;
        Ok(status)
    }

    fn catch_up(&mut self, host: &dyn Host, status: Status) -> Result<(), Stale> {
        if status.lineage == 0 {
            return Err(Stale);
        }
        if self.lineage == status.lineage
            && (self.state.generation == status.generation || self.follow(host, status).is_some())
        {
            return Ok(());
        }
        self.reload(host, status).ok_or(Stale)
    }

    /// Applies the deltas between the own generation and the shared one.
    fn follow(&mut self, host: &dyn Host, status: Status) -> Option<()> {
        let mut missing = Vec::new();
        let mut wanted = status.generation;
        while wanted != self.state.generation {
            if wanted < self.state.generation || missing.len() >= usize::try_from(DELTA_SLOTS).ok()? {
                return None;
            }
            let delta = read(host, &delta_key(wanted), status.lineage)?;
            if delta.generation != wanted || delta.snapshot || delta.previous >= wanted {
                return None;
            }
            wanted = delta.previous;
            missing.push(delta);
        }
        for delta in missing.into_iter().rev() {
            if self.state.apply(delta).is_err() {
                // Half applied: what is here belongs to no generation that anybody shared.
                *self = Self::default();
                return None;
            }
        }
        Some(())
    }

    /// Starts over from the shared snapshot.
    fn reload(&mut self, host: &dyn Host, status: Status) -> Option<()> {
        *self = Self::default();
        let snapshot = read(host, SNAPSHOT_KEY, status.lineage)?;
        if !snapshot.snapshot {
            return None;
        }
        self.state.apply(snapshot).ok()?;
        self.lineage = status.lineage;
        // The singleton may have moved on since `status` was read: newer than asked for is as good.
        if self.state.generation < status.generation && self.follow(host, status).is_none() {
            *self = Self::default();
            return None;
        }
        Some(())
    }
}

fn read(host: &dyn Host, key: &str, lineage: u64) -> Option<FeedResponse> {
    let value = host.shared(key)?;
    let (number, text) = value.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*number) != lineage {
        return None;
    }
    wire::read(text).ok()
}
