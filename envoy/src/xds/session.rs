//! One stream, as the protocol has it: what a gateway wants, what it has, and what it is still to answer to. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::content::{Kind, Piece, Pieces};
use super::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

/// Everything of a type.
const ALL: &str = "*";
/// The version of a name that the gateway knows not to exist.
const GONE: &str = "";

/// What a gateway said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Said {
    /// It took what it was told.
    Accepted,
    /// It did not, and keeps what it had.
    Rejected(String),
    /// What it wants.
    Wants,
}

/// A stream.
#[derive(Debug, Default)]
pub(super) struct Session {
    types: BTreeMap<Kind, Subscription>,
    answers: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    all: bool,
    names: BTreeSet<String>,
    /// What the gateway has, or was told: the version by name.
    told: BTreeMap<String, String>,
    /// The answer that it has not answered to. Until then it gets no other, so nothing piles up.
    awaited: Option<String>,
    /// Whether it waits for an answer even if there is nothing to say.
    owed: bool,
}

impl Session {
    /// Takes a message.
    pub(super) fn hear(&mut self, kind: Kind, request: &DeltaDiscoveryRequest) -> Said {
        let first = !self.types.contains_key(&kind);
        let subscription = self.types.entry(kind).or_default();
        if first {
            subscription.told.clone_from(&request.initial_resource_versions);
            subscription.owed = true;
            subscription.all = kind.all_by_default() && request.resource_names_subscribe.is_empty();
        }
        for name in &request.resource_names_subscribe {
            if name == ALL {
                subscription.all = true;
                continue;
            }
            subscription.names.insert(name.clone());
            // Who asks again has to be told again, though nothing changed.
            if !first {
                subscription.told.remove(name);
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == ALL {
                subscription.all = false;
            }
            subscription.names.remove(name);
            subscription.told.remove(name);
        }
        if request.response_nonce.is_empty() || subscription.awaited.as_ref() != Some(&request.response_nonce)
        {
            return Said::Wants;
        }
        subscription.awaited = None;
        match &request.error_detail {
            // The same content is not sent again: it would be rejected again.
            Some(error) => Said::Rejected(error.message.clone()),
            None => Said::Accepted,
        }
    }

    /// What there is to say of a type.
    pub(super) fn say(&mut self, kind: Kind, pieces: &Pieces) -> Option<DeltaDiscoveryResponse> {
        let subscription = self.types.get_mut(&kind)?;
        if subscription.awaited.is_some() {
            return None;
        }
        let resources = subscription.news(pieces);
        let removed_resources = subscription.losses(pieces);
        if resources.is_empty() && removed_resources.is_empty() && !subscription.owed {
            return None;
        }
        self.answers = self.answers.wrapping_add(1);
        let nonce = self.answers.to_string();
        subscription.awaited = Some(nonce.clone());
        subscription.owed = false;
        Some(DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources,
            type_url: kind.type_url().to_owned(),
            nonce,
            removed_resources,
        })
    }

    /// Whether the gateway answered to everything it was told.
    pub(super) fn settled(&self) -> bool {
        self.types.contains_key(&Kind::Cluster)
            && self.types.values().all(|subscription| subscription.awaited.is_none() && !subscription.owed)
    }
}

impl Subscription {
    fn news(&mut self, pieces: &Pieces) -> Vec<Resource> {
        let wanted = |name: &String| self.all || self.names.contains(name);
        let new = |(name, piece): &(&String, &Arc<Piece>)| {
            wanted(name) && self.told.get(*name).is_none_or(|told| *told != piece.version)
        };
        let new: Vec<_> = pieces.iter().filter(new).collect();
        let resource = |(name, piece): &(&String, &Arc<Piece>)| Resource {
            version: piece.version.clone(),
            resource: Some(piece.body.clone()),
            name: (*name).clone(),
        };
        let resources = new.iter().map(resource).collect();
        self.told.extend(new.into_iter().map(|(name, piece)| (name.clone(), piece.version.clone())));
        resources
    }

    /// What the gateway has and may not have any more, and names that it waits for in vain.
    fn losses(&mut self, pieces: &Pieces) -> Vec<String> {
        let absent = self.names.iter().filter(|name| !pieces.contains_key(*name));
        let in_vain = absent.filter(|name| self.told.get(*name).is_none_or(|told| told != GONE));
        let has = self.told.iter().filter(|(_, version)| *version != GONE).map(|(name, _)| name);
        let lost =
            has.filter(|name| !pieces.contains_key(*name) || !(self.all || self.names.contains(*name)));
        let losses: BTreeSet<String> = in_vain.chain(lost).cloned().collect();
        for name in &losses {
            if self.names.contains(name) {
                self.told.insert(name.clone(), GONE.to_owned());
            } else {
                self.told.remove(name);
            }
        }
        losses.into_iter().collect()
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
