//! What a worker knows of the feed, read from the data that the singleton shares.
//!
//! | key | value |
//! |---|---|
//! | `status` | generation, time of the last successful poll (unix ms), lineage, time at the STS then: four little-endian u64 |
//! | `snapshot` | lineage, then the state as a snapshot answer in JSON, or its first part |
//! | `snapshot/<n>` | lineage, then the next part, as a delta of the same generation; nothing after the last one |
//! | `delta/<generation % 256>` | lineage, then the answer in JSON that led to that generation |
//!
//! A worker looks at the mark on every request: a gauge that is set to another number after every write of `status`. Only
//! when it moved does the worker read `status`, and only when generation or lineage moved does it read more: the deltas from
//! its own generation on, or the snapshot and the deltas after it. The lineage changes with every snapshot that the STS
//! sends, so that generations which start over cannot be mistaken. The snapshot is in parts because memory that a VM once
//! needed is never given back.
//!
//! The mark only spares reading the same `status` again. One that cannot be read, is 0, or was set by anybody else is another
//! number, and `status` is read; it is read anew after every tick as well, whatever the mark says.

use caracal_mandate::epoch::Generation;
use caracal_mandate::feed::{FeedResponse, FeedState, ZoneFeed};

use crate::feed::FeedPoller;
use crate::host::Host;
use crate::metrics::FEED_MARK;
use crate::wire;

/// Key of the status.
pub const STATUS_KEY: &str = "status";
/// Key of the snapshot.
pub const SNAPSHOT_KEY: &str = "snapshot";
/// The most resources in one part of a snapshot.
const RESOURCES_IN_PART: usize = 100;
/// The most revoked anchors in one part of a snapshot.
const ANCHORS_IN_PART: usize = 1_000;
/// A mark that says nothing.
const NO_MARK: u64 = 0;
/// How many deltas have a key of their own.
const DELTA_SLOTS: u64 = 256;

/// Key of the delta that led to a generation.
#[must_use]
pub fn delta_key(generation: Generation) -> String {
    format!("delta/{}", generation.0 % DELTA_SLOTS)
}

/// Key of a part of the snapshot, from 0.
#[must_use]
pub fn part_key(number: usize) -> String {
    if number == 0 { SNAPSHOT_KEY.to_owned() } else { format!("{SNAPSHOT_KEY}/{number}") }
}

/// Cuts a snapshot into parts that can be read one by one. The first is a snapshot, each other one adds to it.
#[must_use]
pub fn parts(whole: FeedResponse) -> Vec<FeedResponse> {
    let FeedResponse { generation, issuer, time, zones, .. } = whole;
    let part = |first: bool, zones| FeedResponse {
        previous: if first { Generation(0) } else { generation },
        generation,
        snapshot: first,
        issuer: issuer.clone(),
        time,
        zones,
        removed_zones: Vec::new(),
    };
    let mut parts = Vec::new();
    for piece in zones.into_iter().flat_map(pieces) {
        parts.push(part(parts.is_empty(), vec![piece]));
    }
    if parts.is_empty() {
        parts.push(part(true, Vec::new()));
    }
    parts
}

/// Cuts a zone into pieces; the first one has its keys.
fn pieces(zone: ZoneFeed) -> Vec<ZoneFeed> {
    let (zone_id, authority_epoch, policy_epoch) = (zone.zone_id, zone.authority_epoch, zone.policy_epoch);
    let mut keys = zone.keys;
    let (mut resources, mut revoked) = (zone.resources.into_iter(), zone.revoked.into_iter());
    let mut pieces = Vec::new();
    while pieces.is_empty() || resources.len() > 0 || revoked.len() > 0 {
        pieces.push(ZoneFeed {
            zone_id: zone_id.clone(),
            authority_epoch,
            policy_epoch,
            keys: keys.take(),
            resources: resources.by_ref().take(RESOURCES_IN_PART).collect(),
            removed_resources: Vec::new(),
            revoked: revoked.by_ref().take(ANCHORS_IN_PART).collect(),
            restored: Vec::new(),
        });
    }
    pieces
}

/// Puts the lineage before a JSON text.
#[must_use]
pub fn with_lineage(lineage: u64, text: &[u8]) -> Vec<u8> {
    [&lineage.to_le_bytes()[..], text].concat()
}

/// What a request is judged by.
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
    /// The state, caught up and at most `max_age_ms` old, and the time to decide at: the own clock's (`now`), but never before
    /// what the STS said. Anchors are forgotten by the STS's time, so a mandate that one of them could still name has
    /// expired by then, also where the own clock was set back.
    ///
    /// # Errors
    /// [`Stale`]: no snapshot yet, last poll too long ago, or a clock that went backwards.
    pub fn fresh(&mut self, host: &dyn Host, now: u64, max_age_ms: u64) -> Result<(&FeedState, u64), Stale> {
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
        // Where the poll is newer than `now`, it may have been answered since.
        let age = now.checked_sub(polled_at).or_else(|| host.now().checked_sub(polled_at)).ok_or(Stale)?;
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
    /// The status as it was read last, and the mark from before.
    read: Option<(u64, Status)>,
}

impl View {
    /// The next one reads what is shared, whatever the mark says.
    pub(crate) fn look_again(&mut self) {
        self.read = None;
    }

    fn caught_up(&mut self, host: &dyn Host) -> Result<Status, Stale> {
        // First the mark: if the status is written in between, it is read once more under the next one.
        let mark = host.gauge_now(FEED_MARK);
        if let Some((known, status)) = self.read
            && known == mark
        {
            return Ok(status);
        }
        self.read = None;
        let status = host.shared(STATUS_KEY).and_then(|bytes| Status::from_bytes(&bytes)).ok_or(Stale)?;
        self.catch_up(host, status)?;
        self.read = (mark != NO_MARK).then_some((mark, status));
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
        let reloaded = self.read_parts(host, status.lineage).and_then(|()| {
            self.lineage = status.lineage;
            // The singleton may have moved on since `status` was read: newer than asked for is as good.
            if self.state.generation < status.generation { self.follow(host, status) } else { Some(()) }
        });
        if reloaded.is_none() {
            // What is here is no state that anybody shared.
            *self = Self::default();
        }
        reloaded
    }

    /// Reads the snapshot part by part, to its end. Parts of two snapshots do not fit together.
    fn read_parts(&mut self, host: &dyn Host, lineage: u64) -> Option<()> {
        let first = read(host, SNAPSHOT_KEY, lineage).filter(|first| first.snapshot)?;
        self.state.apply(first).ok()?;
        for number in 1.. {
            let text = text(host, &part_key(number), lineage)?;
            if text.is_empty() {
                break;
            }
            let part = wire::read(&text).ok().filter(|part| !part.snapshot)?;
            if part.generation != self.state.generation {
                return None;
            }
            self.state.apply(part).ok()?;
        }
        Some(())
    }
}

/// Shares a status, and only then lets workers know.
pub fn share_status(host: &dyn Host, status: Status) {
    host.share(STATUS_KEY, &status.to_bytes());
    let mut bytes = [0_u8; 8];
    let mark = if host.random(&mut bytes) { u64::from_le_bytes(bytes) } else { NO_MARK };
    // Whoever shows metrics may hold them as floating point numbers, which are exact up to 53 bits.
    host.gauge(FEED_MARK, mark >> 11);
}

fn read(host: &dyn Host, key: &str, lineage: u64) -> Option<FeedResponse> {
    wire::read(&text(host, key, lineage)?).ok()
}

/// What is shared under this key after the lineage.
fn text(host: &dyn Host, key: &str, lineage: u64) -> Option<Vec<u8>> {
    let mut value = host.shared(key)?;
    let number = value.first_chunk::<8>()?;
    if u64::from_le_bytes(*number) != lineage {
        return None;
    }
    value.drain(..8);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_mandate::anchor::{Anchor, RevokedAnchor};
    use caracal_mandate::epoch::{AuthorityEpoch, PolicyEpoch};
    use caracal_mandate::id::{AgentSessionId, ZoneId};

    fn zone(name: &str, anchors: usize) -> ZoneFeed {
        let revoked = (0..anchors).map(|number| RevokedAnchor {
            anchor: Anchor::AgentSession(AgentSessionId::new(format!("s{number}")).unwrap()),
            until: 9,
        });
        ZoneFeed {
            zone_id: ZoneId::new(name).unwrap(),
            authority_epoch: AuthorityEpoch(1),
            policy_epoch: PolicyEpoch(2),
            keys: Some(Vec::new()),
            resources: Vec::new(),
            removed_resources: Vec::new(),
            revoked: revoked.collect(),
            restored: Vec::new(),
        }
    }

    #[test]
    fn the_parts_of_a_snapshot_make_the_same_state() {
        for (zones, expected) in [
            (vec![], 1),
            (vec![zone("a", 0)], 1),
            (vec![zone("a", ANCHORS_IN_PART), zone("b", 0)], 2),
            (vec![zone("a", 2 * ANCHORS_IN_PART + 1), zone("b", 1)], 4),
        ] {
            let whole = FeedResponse {
                previous: Generation(0),
                generation: Generation(7),
                snapshot: true,
                issuer: "http://sts".into(),
                time: 5,
                zones,
                removed_zones: Vec::new(),
            };
            let (mut state, mut expected_state) = (FeedState::default(), FeedState::default());
            expected_state.apply(whole.clone()).unwrap();
            let parts = parts(whole);
            assert_eq!(parts.len(), expected);
            for part in parts {
                state.apply(part).unwrap();
            }
            assert_eq!(state, expected_state);
        }
    }
}
