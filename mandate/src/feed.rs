//! The gateway feed: what the STS tells every filter, and the state that a filter builds from it.

use crate::anchor::{Anchor, AnchorSet, RevokedAnchor};
use crate::epoch::{AuthorityEpoch, Generation, PolicyEpoch};
use crate::es256::PublicKey;
use crate::hash::Quick;
use crate::id::{KeyId, ResourceIdentifier, ZoneId};
use crate::jwks::Jwk;
use crate::mcp::McpEntry;
use crate::operation::{Operation, OperationEnforcement};
use crate::scope::Scope;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// The path of the feed at the STS.
pub const FEED_PATH: &str = "/internal/gateway/feed";

/// Why an answer cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The delta does not start where the state ends: something is missing, so a snapshot is needed.
    #[error("the delta starts at generation {}, the state is at {}", .delta.0, .state.0)]
    Gap {
        /// Where the delta starts.
        delta: Generation,
        /// Where the state is.
        state: Generation,
    },
}

/// One answer of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedResponse {
    /// The generation that this answer starts from; 0 for a snapshot.
    pub previous: Generation,
    /// The generation that applying it leads to.
    pub generation: Generation,
    /// Does it replace all that was known?
    pub snapshot: bool,
    /// The issuer that every mandate must name.
    pub issuer: String,
    /// The time at the STS, unix milliseconds. By it, and by no other clock, revoked anchors are forgotten.
    pub time: u64,
    /// The zones of which something is said.
    pub zones: Vec<ZoneFeed>,
    /// Zones that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed_zones: Vec<ZoneId>,
}

/// What an answer says about one zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneFeed {
    /// The zone.
    pub zone_id: ZoneId,
    /// Its authority epoch.
    pub authority_epoch: AuthorityEpoch,
    /// Its policy epoch.
    pub policy_epoch: PolicyEpoch,
    /// All its verification keys, if they changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<Jwk>>,
    /// Resources that are new or changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceEntry>,
    /// Resources that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed_resources: Vec<ResourceIdentifier>,
    /// Anchors that were revoked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<RevokedAnchor>,
    /// Anchors whose revocation was taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restored: Vec<Anchor>,
}

/// What the filter has to know of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceEntry {
    /// The identifier that callers name.
    pub identifier: ResourceIdentifier,
    /// Declared operations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    /// Whether they are enforced.
    pub enforcement: OperationEnforcement,
    /// May a mandate be used more than once?
    #[serde(default)]
    pub multi_use: bool,
    /// The scopes that it declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// Where it is; absent where only the STS says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamEntry>,
    /// What of MCP it declares; absent where it does not speak MCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp: Option<McpEntry>,
}

/// Where a gateway sends what it allows, and who knows the credential that goes along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamEntry {
    /// The upstream's address.
    pub url: String,
    /// The credential that it wants.
    pub credential: CredentialKind,
}

/// The credential that an upstream wants, as far as a gateway has to know (contract gateway A13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CredentialKind {
    /// None: a gateway needs nobody to forward a request.
    None,
    /// A mandate for the resource, which the STS derives from the one that is presented.
    Mandate,
    /// A provider's, which the STS fetches or unseals.
    Brokered,
}

/// All that a filter knows of a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZoneState {
    /// The authority epoch.
    pub authority_epoch: AuthorityEpoch,
    /// The policy epoch.
    pub policy_epoch: PolicyEpoch,
    keys: HashMap<KeyId, Rc<PublicKey>, Quick>,
    resources: HashMap<ResourceIdentifier, Rc<ResourceEntry>, Quick>,
    /// Revoked anchors.
    pub revoked: AnchorSet,
}

/// All that a filter knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedState {
    /// The generation that is applied.
    pub generation: Generation,
    /// The issuer that every mandate must name.
    pub issuer: Arc<str>,
    /// The time at the STS when it was last heard, unix milliseconds.
    pub time: u64,
    zones: HashMap<ZoneId, ZoneState, Quick>,
}

impl ZoneState {
    /// The key with this id.
    #[must_use]
    pub fn key(&self, id: &KeyId) -> Option<&Rc<PublicKey>> {
        self.keys.get(id)
    }

    /// The same with the id as it is kept here.
    pub(crate) fn known_key(&self, id: &KeyId) -> Option<(&KeyId, &Rc<PublicKey>)> {
        self.keys.get_key_value(id)
    }

    /// The resource with this identifier. Whatever the feed says of a resource anew is another allocation.
    #[must_use]
    pub fn resource(&self, identifier: &ResourceIdentifier) -> Option<&Rc<ResourceEntry>> {
        self.resources.get(identifier)
    }

    /// How many resources there are.
    #[must_use]
    pub fn resource_count(&self) -> usize {
        self.resources.len()
    }

    fn apply(&mut self, feed: ZoneFeed) {
        self.authority_epoch = feed.authority_epoch;
        self.policy_epoch = feed.policy_epoch;
        if let Some(keys) = feed.keys {
            self.keys = keys
                .into_iter()
                .filter_map(|key| Some((key.kid.clone(), Rc::new(key.public_key()?))))
                .collect();
        }
        for gone in &feed.removed_resources {
            self.resources.remove(gone);
        }
        self.resources
            .extend(feed.resources.into_iter().map(|entry| (entry.identifier.clone(), Rc::new(entry))));
        for anchor in &feed.restored {
            self.revoked.restore(anchor);
        }
        for anchor in feed.revoked {
            self.revoked.revoke(anchor);
        }
    }

    fn to_feed(&self, zone_id: ZoneId) -> ZoneFeed {
        ZoneFeed {
            zone_id,
            authority_epoch: self.authority_epoch,
            policy_epoch: self.policy_epoch,
            keys: Some(self.keys.iter().map(|(kid, key)| Jwk::new(kid.clone(), key)).collect()),
            resources: self.resources.values().map(|entry| ResourceEntry::clone(entry)).collect(),
            removed_resources: Vec::new(),
            revoked: self.revoked.iter().collect(),
            restored: Vec::new(),
        }
    }
}

impl FeedState {
    /// Takes an answer over: all of it, or nothing where it does not fit. What no living mandate can name any more is
    /// forgotten by the STS's time, so that no clock of the gateway's own can make it forget too early.
    pub fn apply(&mut self, response: FeedResponse) -> Result<(), FeedError> {
        if response.snapshot {
            self.zones.clear();
        } else if response.previous != self.generation {
            return Err(FeedError::Gap { delta: response.previous, state: self.generation });
        }
        self.generation = response.generation;
        if *self.issuer != *response.issuer {
            self.issuer = response.issuer.into();
        }
        self.time = response.time;
        for zone in &response.removed_zones {
            self.zones.remove(zone);
        }
        for feed in response.zones {
            self.zones.entry(feed.zone_id.clone()).or_default().apply(feed);
        }
        for zone in self.zones.values_mut() {
            zone.revoked.forget_until(self.time);
        }
        Ok(())
    }

    /// The zone with this id.
    #[must_use]
    pub fn zone(&self, id: &ZoneId) -> Option<&ZoneState> {
        self.zones.get(id)
    }

    /// The zone's id, as it is kept here.
    pub(crate) fn known_zone_id(&self, id: &ZoneId) -> Option<&ZoneId> {
        self.zones.get_key_value(id).map(|(id, _)| id)
    }

    /// How many zones, resources and revoked anchors are known.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let sum = |of: fn(&ZoneState) -> usize| self.zones.values().map(of).sum();
        (self.zones.len(), sum(ZoneState::resource_count), sum(|zone| zone.revoked.len()))
    }

    /// The whole state as one snapshot answer, from which [`FeedState::apply`] makes the same state.
    #[must_use]
    pub fn to_snapshot(&self) -> FeedResponse {
        FeedResponse {
            previous: Generation(0),
            generation: self.generation,
            snapshot: true,
            issuer: self.issuer.as_ref().to_owned(),
            time: self.time,
            zones: self.zones.iter().map(|(id, zone)| zone.to_feed(id.clone())).collect(),
            removed_zones: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anchor::AnchorKey;
    use crate::id::AgentSessionId;

    fn zone(epoch: u64) -> ZoneFeed {
        ZoneFeed {
            zone_id: ZoneId::new("z1").unwrap(),
            authority_epoch: AuthorityEpoch(epoch),
            policy_epoch: PolicyEpoch(0),
            keys: None,
            resources: vec![],
            removed_resources: vec![],
            revoked: vec![],
            restored: vec![],
        }
    }

    fn delta(previous: u64, generation: u64, zones: Vec<ZoneFeed>) -> FeedResponse {
        FeedResponse {
            previous: Generation(previous),
            generation: Generation(generation),
            snapshot: previous == 0,
            issuer: "http://sts".into(),
            time: 0,
            zones,
            removed_zones: vec![],
        }
    }

    fn session(id: &str) -> Anchor {
        Anchor::AgentSession(AgentSessionId::new(id).unwrap())
    }

    #[test]
    fn a_gap_changes_nothing() {
        let mut state = FeedState::default();
        state.apply(delta(0, 5, vec![zone(1)])).unwrap();
        let before = state.clone();
        assert_eq!(
            state.apply(delta(6, 7, vec![zone(9)])),
            Err(FeedError::Gap { delta: Generation(6), state: Generation(5) })
        );
        assert_eq!(state, before);
    }

    #[test]
    fn deltas_revoke_restore_and_forget() {
        let mut state = FeedState::default();
        state.apply(delta(0, 1, vec![zone(1)])).unwrap();
        let revoked = |id: &str, until| RevokedAnchor { anchor: session(id), until };
        let feed = ZoneFeed { revoked: vec![revoked("a", 100), revoked("b", 50)], ..zone(2) };
        state.apply(FeedResponse { time: 10, ..delta(1, 2, vec![feed]) }).unwrap();
        let anchors = |state: &FeedState| {
            let zone = state.zone(&ZoneId::new("z1").unwrap()).unwrap();
            (
                zone.revoked.first_revoked(&AnchorKey::of_all(&[session("a")])).is_some(),
                zone.revoked.first_revoked(&AnchorKey::of_all(&[session("b")])).is_some(),
            )
        };
        assert_eq!(anchors(&state), (true, true));
        state.apply(FeedResponse { time: 60, ..delta(2, 3, vec![zone(2)]) }).unwrap();
        assert_eq!(anchors(&state), (true, false));
        state.apply(delta(3, 4, vec![ZoneFeed { restored: vec![session("a")], ..zone(2) }])).unwrap();
        assert_eq!(anchors(&state), (false, false));
    }

    #[test]
    fn a_snapshot_rebuilds_the_same_state() {
        let mut state = FeedState::default();
        let key = Jwk::new(KeyId::new("k").unwrap(), &PublicKey { x: [1; 32], y: [2; 32] });
        let entry = ResourceEntry {
            identifier: ResourceIdentifier::new("resource://orders").unwrap(),
            operations: vec![],
            enforcement: OperationEnforcement::Enforced,
            multi_use: true,
            scopes: vec![],
            upstream: Some(UpstreamEntry {
                url: "http://orders".into(),
                credential: CredentialKind::Mandate,
            }),
            mcp: None,
        };
        let feed = ZoneFeed {
            keys: Some(vec![key]),
            resources: vec![entry],
            revoked: vec![RevokedAnchor { anchor: session("a"), until: 100 }],
            ..zone(3)
        };
        state.apply(delta(0, 9, vec![feed])).unwrap();
        let text = serde_json::to_string(&state.to_snapshot()).unwrap();
        let mut again = FeedState::default();
        again.apply(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(again, state);
        assert_eq!(again.counts(), (1, 1, 1));
    }
}
