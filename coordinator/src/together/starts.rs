//! Starts of tasks on the application's own record, without a parent (contract coordinator §4.2 to §4.5).

use super::{Groups, Standings, plain};
use crate::caller::Caller;
use crate::config::Limits;
use crate::receipt::{Key, Receipt, Reply};
use crate::start::{StartRequest, created_json, new_session};
use crate::subject::Subject;
use crate::tree;
use caracal_mandate::id::{ApplicationId, ZoneId};
use caracal_store::audit::AuditEvent;
use caracal_store::model::{AgentSession, LiveSessions, RegistrationMethod};
use caracal_store::{Store, StoreError, WriteTx};
use std::collections::BTreeMap;

/// A start that may be plain.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) caller: Caller,
    pub(crate) request: StartRequest,
    pub(crate) subject: Subject,
    pub(crate) key: Option<Key>,
}

impl Start {
    /// Whatever makes it other than plain and is known before the transaction.
    fn may_be_plain(&self) -> bool {
        let Self { caller, request, subject, key } = self;
        caller.is(&request.application)
            && request.parent.is_none()
            && subject.is_bearers_own()
            && key.as_ref().is_none_or(Key::is_generated)
    }
}

impl Groups {
    /// Starts with the next group, unless the start has to go alone: `None`, and nothing of it is written.
    pub(crate) async fn start(&self, store: &Store, limits: &Limits, start: Start) -> Option<Reply> {
        if !start.may_be_plain() {
            return None;
        }
        let (store, limits) = (store.clone(), limits.clone());
        let write = move |starts: Vec<Start>| {
            let (store, limits) = (store.clone(), limits.clone());
            async move {
                store.write(move |tx| Box::pin(async move { start_all(tx, &limits, &starts).await })).await
            }
        };
        self.starts.ask(start, write).await
    }
}

async fn start_all(
    tx: &mut WriteTx<'_>,
    limits: &Limits,
    starts: &[Start],
) -> Result<Vec<Option<Reply>>, StoreError> {
    let mut standings = Standings::default();
    let mut by_application = BTreeMap::<(&ZoneId, &ApplicationId), Vec<(usize, &Start)>>::new();
    for (index, start) in starts.iter().enumerate() {
        let standing = standings.of(tx, &start.caller).await?;
        if standing == Some(Some(RegistrationMethod::Managed)) {
            let application = (&start.caller.zone, &start.request.application);
            by_application.entry(application).or_default().push((index, start));
        }
    }
    let mut replies = vec![None; starts.len()];
    for ((zone, application), starts) in by_application {
        for (index, reply) in start_of(tx, limits, zone, application, starts).await? {
            if let Some(place) = replies.get_mut(index) {
                *place = Some(reply);
            }
        }
    }
    Ok(replies)
}

/// What one application starts. Its receipts and its share of the live sessions are its own.
async fn start_of(
    tx: &mut WriteTx<'_>,
    limits: &Limits,
    zone: &ZoneId,
    application: &ApplicationId,
    starts: Vec<(usize, &Start)>,
) -> Result<Vec<(usize, Reply)>, StoreError> {
    let receipts: Vec<Option<Receipt<'_>>> = starts.iter().map(|(_, start)| start.receipt()).collect();
    let mut used = Receipt::used(tx, &receipts.iter().flatten().collect::<Vec<_>>()).await?;
    let now = tx.now();
    let mut made = Vec::with_capacity(starts.len());
    for ((index, start), receipt) in starts.into_iter().zip(&receipts) {
        // A key that comes again within the group is answered by the one that goes alone.
        if receipt.as_ref().is_some_and(|receipt| !used.insert(receipt.key_digest().to_owned())) {
            continue;
        }
        let Start { caller, request, subject, .. } = start;
        if let Some(session) = plain(new_session(now, limits, caller, request, subject, None))? {
            let reply = Reply::created(created_json(&session, None));
            made.push(Made { index, start, receipt: receipt.as_ref(), session, reply });
        }
    }
    if made.is_empty() {
        return Ok(Vec::new());
    }
    let live = LiveSessions::add(tx, zone, application, made.len()).await?;
    if live.zone > limits.sessions_per_zone || live.application > limits.sessions_per_application {
        // Each is counted exactly, alone.
        LiveSessions::remove(tx, zone, application, made.len()).await?;
        return Ok(Vec::new());
    }
    tree::insert_all(tx, &made.iter().map(|made| &made.session).collect::<Vec<_>>()).await?;
    tx.audit_all(&made.iter().map(|made| made.event(now)).collect::<Vec<_>>()).await?;
    let mut kept: Vec<_> = made
        .iter_mut()
        .filter_map(|Made { receipt, session, reply, .. }| {
            receipt.map(|receipt| (receipt, session.id.as_str(), reply))
        })
        .collect();
    Receipt::keep_all(tx, &mut kept, limits).await?;
    Ok(made.into_iter().map(|made| (made.index, made.reply)).collect())
}

/// A session that begins with the group.
struct Made<'a> {
    index: usize,
    start: &'a Start,
    receipt: Option<&'a Receipt<'a>>,
    session: AgentSession,
    reply: Reply,
}

impl Made<'_> {
    fn event(&self, now: i64) -> AuditEvent {
        let cause = self.start.caller.cause("requested");
        cause.of_session(now, "session_started", &self.session, &cause.reason)
    }
}
