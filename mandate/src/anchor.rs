//! Anchors: the ids by which a mandate can be taken back before it expires.

use crate::hash::Quick;
use crate::id::{AgentSessionId, ApplicationId, AuthorityRecordId, DelegationEdgeId, uuid_of};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// One thing whose end ends every mandate that names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Anchor {
    /// The record of one minting.
    AuthorityRecord(AuthorityRecordId),
    /// An agent session, also when it is only suspended.
    AgentSession(AgentSessionId),
    /// One delegation.
    DelegationEdge(DelegationEdgeId),
    /// A whole application, archived or expired.
    Application(ApplicationId),
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AuthorityRecord(id) => write!(f, "authority_record:{id}"),
            Self::AgentSession(id) => write!(f, "agent_session:{id}"),
            Self::DelegationEdge(id) => write!(f, "delegation_edge:{id}"),
            Self::Application(id) => write!(f, "application:{id}"),
        }
    }
}

/// A revoked anchor and until when it has to be remembered: as long as a mandate that names it could be alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedAnchor {
    /// What was revoked.
    #[serde(flatten)]
    pub anchor: Anchor,
    /// When it may be forgotten, unix milliseconds.
    pub until: u64,
}

/// An anchor in as little memory as it needs: a filter holds them by the ten thousand, and nearly all ids are UUIDs. There
/// is one key for each anchor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AnchorKey(Packed);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Packed {
    Uuid(Kind, [u8; 16]),
    /// Whatever is no UUID.
    Text(Box<Anchor>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    AuthorityRecord,
    AgentSession,
    DelegationEdge,
    Application,
}

impl AnchorKey {
    /// The keys of anchors.
    #[must_use]
    pub fn of_all(anchors: &[Anchor]) -> Box<[Self]> {
        anchors.iter().map(Self::from).collect()
    }

    /// The anchor itself.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        match &self.0 {
            Packed::Uuid(Kind::AuthorityRecord, uuid) => {
                Anchor::AuthorityRecord(AuthorityRecordId::of_uuid(*uuid))
            }
            Packed::Uuid(Kind::AgentSession, uuid) => Anchor::AgentSession(AgentSessionId::of_uuid(*uuid)),
            Packed::Uuid(Kind::DelegationEdge, uuid) => {
                Anchor::DelegationEdge(DelegationEdgeId::of_uuid(*uuid))
            }
            Packed::Uuid(Kind::Application, uuid) => Anchor::Application(ApplicationId::of_uuid(*uuid)),
            Packed::Text(anchor) => Anchor::clone(anchor),
        }
    }

    /// How many bytes it takes beside its own.
    #[must_use]
    pub fn more_bytes(&self) -> usize {
        match &self.0 {
            Packed::Uuid(..) => 0,
            Packed::Text(anchor) => {
                size_of::<Anchor>().saturating_add(anchor.parts().1.len()).saturating_add(32)
            }
        }
    }
}

impl From<&Anchor> for AnchorKey {
    fn from(anchor: &Anchor) -> Self {
        let (kind, text) = anchor.parts();
        Self(match uuid_of(text) {
            Some(uuid) => Packed::Uuid(kind, uuid),
            None => Packed::Text(Box::new(anchor.clone())),
        })
    }
}

impl Anchor {
    fn parts(&self) -> (Kind, &str) {
        match self {
            Self::AuthorityRecord(id) => (Kind::AuthorityRecord, id.as_str()),
            Self::AgentSession(id) => (Kind::AgentSession, id.as_str()),
            Self::DelegationEdge(id) => (Kind::DelegationEdge, id.as_str()),
            Self::Application(id) => (Kind::Application, id.as_str()),
        }
    }
}

/// The revoked anchors of a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnchorSet(HashMap<AnchorKey, Until, Quick>);

/// Unix milliseconds, in halves: so that an entry needs no padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Until {
    high: u32,
    low: u32,
}

impl Until {
    #[allow(clippy::cast_possible_truncation)]
    fn of(millis: u64) -> Self {
        Self { high: (millis >> 32) as u32, low: millis as u32 }
    }

    fn millis(self) -> u64 {
        (u64::from(self.high) << 32) | u64::from(self.low)
    }
}

impl AnchorSet {
    /// Remembers a revocation; of two ends the later one counts.
    pub fn revoke(&mut self, revoked: RevokedAnchor) {
        let later = Until::of(revoked.until);
        let until = self.0.entry(AnchorKey::from(&revoked.anchor)).or_insert(later);
        *until = later.max(*until);
    }

    /// Forgets a revocation that was taken back, as when a suspended session resumes.
    pub fn restore(&mut self, anchor: &Anchor) {
        self.0.remove(&AnchorKey::from(anchor));
    }

    /// The first of the mandate's anchors that is revoked.
    #[must_use]
    pub fn first_revoked<'a>(&self, anchors: &'a [AnchorKey]) -> Option<&'a AnchorKey> {
        if self.0.is_empty() {
            return None;
        }
        anchors.iter().find(|anchor| self.0.contains_key(*anchor))
    }

    /// Forgets what no living mandate can name any more. `now` in unix milliseconds.
    pub fn forget_until(&mut self, now: u64) {
        self.0.retain(|_, until| until.millis() > now);
    }

    /// How many anchors are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is nothing revoked?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every revoked anchor, in no order.
    pub fn iter(&self) -> impl Iterator<Item = RevokedAnchor> {
        self.0.iter().map(|(key, until)| RevokedAnchor { anchor: key.anchor(), until: until.millis() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_never_match_across() {
        for id in ["x", "0199c0de-0000-7000-8000-000000000001"] {
            let all = [
                Anchor::AuthorityRecord(AuthorityRecordId::new(id).unwrap()),
                Anchor::DelegationEdge(DelegationEdgeId::new(id).unwrap()),
                Anchor::Application(ApplicationId::new(id).unwrap()),
                Anchor::AgentSession(AgentSessionId::new(id).unwrap()),
            ];
            let keys = AnchorKey::of_all(&all);
            let mut set = AnchorSet::default();
            set.revoke(RevokedAnchor { anchor: all[3].clone(), until: 10 });
            assert_eq!(set.first_revoked(&keys[..3]), None);
            assert_eq!(set.first_revoked(&keys), Some(&keys[3]));
            set.forget_until(10);
            assert!(set.is_empty());
        }
    }

    #[test]
    fn the_later_end_counts_to_the_millisecond() {
        let moments = [0, 1, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x18b_cfe5_6800, u64::MAX];
        let anchor = Anchor::AgentSession(AgentSessionId::new("x").unwrap());
        for one in moments {
            for other in moments {
                let mut set = AnchorSet::default();
                for until in [one, other] {
                    set.revoke(RevokedAnchor { anchor: anchor.clone(), until });
                }
                let until = one.max(other);
                assert_eq!(set.iter().next(), Some(RevokedAnchor { anchor: anchor.clone(), until }));
                set.forget_until(until.saturating_sub(1));
                assert_eq!(set.len(), usize::from(until > 0));
                set.forget_until(until);
                assert!(set.is_empty());
            }
        }
    }

    #[test]
    fn a_key_and_its_anchor_are_the_same() {
        // The second is an id of its own, not another way to write the first.
        let ids = ["0199c0de-0000-7000-8000-0000000000ab", "0199C0DE-0000-7000-8000-0000000000AB", "x", "-"];
        let anchors: Vec<Anchor> = ids
            .iter()
            .flat_map(|id| {
                [
                    Anchor::AuthorityRecord(AuthorityRecordId::new(*id).unwrap()),
                    Anchor::DelegationEdge(DelegationEdgeId::new(*id).unwrap()),
                    Anchor::Application(ApplicationId::new(*id).unwrap()),
                    Anchor::AgentSession(AgentSessionId::new(*id).unwrap()),
                ]
            })
            .collect();
        let keys = AnchorKey::of_all(&anchors);
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(key.anchor(), anchors[at]);
            assert_eq!(keys.iter().filter(|other| *other == key).count(), 1);
        }
    }

    #[test]
    fn wire_shape() {
        let revoked =
            RevokedAnchor { anchor: Anchor::AgentSession(AgentSessionId::new("s").unwrap()), until: 5 };
        let text = serde_json::to_string(&revoked).unwrap();
        assert_eq!(text, r#"{"kind":"agent_session","id":"s","until":5}"#);
        assert_eq!(serde_json::from_str::<RevokedAnchor>(&text).unwrap(), revoked);
    }
}
