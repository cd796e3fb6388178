//! Anchors: the ids by which a mandate can be taken back before it expires.

use crate::id::{AgentSessionId, ApplicationId, AuthorityRecordId, DelegationEdgeId};
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

/// The revoked anchors of a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnchorSet(HashMap<Anchor, u64>);

impl AnchorSet {
    /// Remembers a revocation; of two ends the later one counts.
    pub fn revoke(&mut self, revoked: RevokedAnchor) {
        let until = self.0.entry(revoked.anchor).or_insert(revoked.until);
        *until = (*until).max(revoked.until);
    }

    /// Forgets a revocation that was taken back, as when a suspended session resumes.
    pub fn restore(&mut self, anchor: &Anchor) {
        self.0.remove(anchor);
    }

    /// The first of the mandate's anchors that is revoked.
    #[must_use]
    pub fn first_revoked<'a>(&self, anchors: &'a [Anchor]) -> Option<&'a Anchor> {
        if self.0.is_empty() {
            return None;
        }
        anchors.iter().find(|anchor| self.0.contains_key(*anchor))
    }

    /// Forgets what no living mandate can name any more. `now` in unix milliseconds.
    pub fn forget_until(&mut self, now: u64) {
        self.0.retain(|_, until| *until > now);
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
        self.0.iter().map(|(anchor, until)| RevokedAnchor { anchor: anchor.clone(), until: *until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_never_match_across() {
        let mut set = AnchorSet::default();
        let session = Anchor::AgentSession(AgentSessionId::new("x").unwrap());
        set.revoke(RevokedAnchor { anchor: session.clone(), until: 10 });
        let record = Anchor::AuthorityRecord(AuthorityRecordId::new("x").unwrap());
        assert_eq!(set.first_revoked(std::slice::from_ref(&record)), None);
        assert_eq!(set.first_revoked(&[record, session.clone()]), Some(&session));
        set.forget_until(10);
        assert!(set.is_empty());
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
