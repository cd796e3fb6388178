//! Ends of sessions that are alone (contract coordinator §4.6).

use super::{Groups, Standings};
use crate::caller::Caller;
use crate::sessions::check_owns;
use caracal_mandate::id::{AgentSessionId, ZoneId};
use caracal_store::model::{AgentSession, Lifecycle};
use caracal_store::revoke::{end_alone, find_alone};
use caracal_store::{Store, StoreError, WriteTx};
use std::collections::{BTreeMap, HashMap};

/// An end that may be plain.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) caller: Caller,
    pub(crate) session: AgentSessionId,
    pub(crate) reason: String,
}

impl Groups {
    /// Ends with the next group, unless the end has to go alone: `None`, and nothing of it is written.
    pub(crate) async fn end(&self, store: &Store, end: End) -> Option<()> {
        let store = store.clone();
        let write = move |ends: Vec<End>| {
            let store = store.clone();
            async move { store.write(move |tx| Box::pin(async move { end_all(tx, &ends).await })).await }
        };
        self.ends.ask(end, write).await
    }
}

async fn end_all(tx: &mut WriteTx<'_>, ends: &[End]) -> Result<Vec<Option<()>>, StoreError> {
    let mut standings = Standings::default();
    let mut by_zone = BTreeMap::<&ZoneId, HashMap<&AgentSessionId, (usize, &End)>>::new();
    for (index, end) in ends.iter().enumerate() {
        if standings.of(tx, &end.caller).await?.is_some() {
            // Of two ends of one session only one ends it.
            by_zone.entry(&end.caller.zone).or_default().entry(&end.session).or_insert((index, end));
        }
    }
    let mut answers = vec![None; ends.len()];
    for (zone, ends) in by_zone {
        let ids: Vec<&AgentSessionId> = ends.keys().copied().collect();
        let mut ended = Vec::with_capacity(ids.len());
        for session in find_alone(tx.connection(), zone, &ids).await? {
            let Some((index, end)) = ends.get(&session.id) else { continue };
            if may_end(&end.caller, &session)
                && let Some(answer) = answers.get_mut(*index)
            {
                *answer = Some(());
                ended.push((end.caller.cause(&end.reason), session));
            }
        }
        end_alone(tx, zone, &ended).await?;
    }
    Ok(answers)
}

/// A service is ended by whoever holds its lease, and that is asked alone.
fn may_end(caller: &Caller, session: &AgentSession) -> bool {
    check_owns(caller, session).is_ok() && (session.lifecycle == Lifecycle::Task || caller.is_admin())
}
