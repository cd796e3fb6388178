//! Grants that are written together ([`caracal_store::Together`]).
//!
//! Only plain grants come here, which nothing stands against. Whatever is not plain inside the transaction (the zone
//! changed, a budget is used up, a mandate was used before, the application is locked out) goes its way alone.

use super::approval::Approval;
use super::authenticate::{locked_out_among, lockout_key};
use super::grant::{BUDGET_WINDOW, Draft, Granted, budget_key, mandate_use, opened};
use super::judge::Judgement;
use super::request::ExchangeRequest;
use crate::Sts;
use caracal_mandate::id::ZoneId;
use caracal_store::audit::AuditEvent;
use caracal_store::model::{AuthorityRecord, Epochs, NewAuthorityRecord, Zone};
use caracal_store::once::OneUse;
use caracal_store::{StoreError, WriteTx};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A grant that waits for the next group.
#[derive(Debug)]
pub(crate) struct Piece {
    request: Arc<ExchangeRequest>,
    judgement: Judgement,
}

/// A piece that still belongs to the group.
struct Member {
    index: usize,
    draft: Draft,
    /// What it uses up.
    uses: Vec<OneUse>,
    budgets: Vec<String>,
}

/// What a group came to.
struct Written {
    /// What became of each piece, `None` for one that was left out.
    granted: Vec<Option<Granted>>,
    /// The records of mandates that gateways will present, and the epochs that they were granted at.
    to_be_used: Vec<(Epochs, AuthorityRecord)>,
}

impl Sts {
    /// Grants with the next group, unless the grant has to go alone: `None`, and nothing of it is written.
    pub(super) async fn grant_together(
        &self,
        request: &Arc<ExchangeRequest>,
        judgement: Judgement,
    ) -> Option<Granted> {
        if judgement.wanted.is_some() || !matches!(judgement.approval, Approval::Absent) {
            return None;
        }
        let (piece, sts) = (Piece { request: Arc::clone(request), judgement }, self.clone());
        self.together()
            .ask(piece, move |pieces| {
                let sts = sts.clone();
                async move { sts.grant_all(pieces).await }
            })
            .await
    }

    /// Writes a group, and keeps the records of mandates that gateways will present.
    async fn grant_all(&self, pieces: Vec<Piece>) -> Result<Vec<Option<Granted>>, StoreError> {
        let sts = self.clone();
        let Written { granted, to_be_used } =
            self.store().write(move |tx| Box::pin(async move { sts.grant_group(tx, &pieces).await })).await?;
        for (epochs, record) in to_be_used {
            self.known().keep_record(epochs, record);
        }
        Ok(granted)
    }

    /// Writes a group.
    async fn grant_group(&self, tx: &mut WriteTx<'_>, pieces: &[Piece]) -> Result<Written, StoreError> {
        let members = self.members(tx, pieces).await?;
        let members = self.afford(tx, members).await?;
        let mut granted: Vec<Option<Granted>> = Vec::new();
        granted.resize_with(pieces.len(), || None);
        let mut records: Vec<NewAuthorityRecord> = Vec::with_capacity(members.len());
        let mut events: Vec<Cow<'_, AuditEvent>> = Vec::with_capacity(members.len());
        let mut to_be_used = Vec::new();
        for member in members {
            let (Some(piece), Some(place)) = (pieces.get(member.index), granted.get_mut(member.index)) else {
                continue;
            };
            let record = member.draft.record(&piece.judgement);
            if piece.judgement.bound.delegation.is_some() && piece.request.gateway.is_none() {
                to_be_used.push((piece.judgement.epochs, record.record.clone()));
            }
            records.push(record);
            events.extend(piece.judgement.events.iter().map(opened));
            *place = Some(Granted::Minted(Box::new(member.draft.minted(piece.judgement.epochs.keys))));
        }
        tx.insert_records(&records).await?;
        tx.audit_all(&events).await?;
        Ok(Written { granted, to_be_used })
    }

    /// The pieces that stand as they were judged.
    async fn members(&self, tx: &mut WriteTx<'_>, pieces: &[Piece]) -> Result<Vec<Member>, StoreError> {
        let now = tx.now();
        let mut epochs: HashMap<&ZoneId, Option<Epochs>> = HashMap::new();
        for piece in pieces {
            let zone = &piece.judgement.application.zone_id;
            if !epochs.contains_key(zone) {
                let found = Zone::find(tx.connection(), zone).await?;
                epochs.insert(zone, found.map(|zone| zone.epochs));
            }
        }
        let secrets = pieces.iter().filter(|piece| piece.request.gateway.is_none());
        let lockouts: Vec<String> =
            secrets.map(|piece| lockout_key(&piece.request)).collect::<HashSet<_>>().into_iter().collect();
        let locked = locked_out_among(tx, &lockouts).await?;
        let mut members = Vec::with_capacity(pieces.len());
        for (index, piece) in pieces.iter().enumerate() {
            let Piece { request, judgement } = piece;
            let stands = epochs.get(&judgement.application.zone_id) == Some(&Some(judgement.epochs));
            if !stands || (request.gateway.is_none() && locked.contains(&lockout_key(request))) {
                continue;
            }
            let Some(uses) = used_up(request, judgement) else { continue };
            let Ok(draft) = self.draft(request, judgement, &Approval::Absent, now) else { continue };
            let budgets = judgement.granted.iter().map(|granted| budget_key(judgement, granted)).collect();
            members.push(Member { index, draft, uses, budgets });
        }
        Ok(members)
    }

    /// The members whose mandates and nonces were not used before, and whose budgets are not used up. What the others
    /// used up is given back.
    async fn afford(&self, tx: &mut WriteTx<'_>, members: Vec<Member>) -> Result<Vec<Member>, StoreError> {
        let uses: Vec<OneUse> = members.iter().flat_map(|member| member.uses.iter().cloned()).collect();
        let mut fresh = tx.use_each_once(&uses).await?;
        let mut wanted: BTreeMap<String, i64> = BTreeMap::new();
        let mut unused = Vec::with_capacity(members.len());
        for member in members {
            if !member.uses.iter().all(|once| fresh.contains(once.key())) {
                continue;
            }
            for once in &member.uses {
                fresh.remove(once.key());
            }
            for budget in &member.budgets {
                *wanted.entry(budget.clone()).or_default() += 1;
            }
            unused.push(member);
        }
        let wanted: Vec<(String, i64)> = wanted.into_iter().collect();
        let counts = tx.count_each(&wanted, BUDGET_WINDOW).await?;
        let limit = self.mint_limit_per_minute();
        let mut left: HashMap<String, i64> = wanted
            .into_iter()
            .map(|(key, more)| {
                let before = counts.get(&key).copied().unwrap_or(i64::MAX).saturating_sub(more);
                (key, limit.saturating_sub(before))
            })
            .collect();
        let mut affordable = Vec::with_capacity(unused.len());
        let mut too_many: BTreeMap<String, i64> = BTreeMap::new();
        for member in unused {
            let within = member.budgets.iter().all(|key| left.get(key).is_some_and(|left| *left > 0));
            if !within {
                fresh.extend(member.uses.iter().map(|once| once.key().to_owned()));
                for key in member.budgets {
                    *too_many.entry(key).or_default() -= 1;
                }
                continue;
            }
            for key in &member.budgets {
                left.entry(key.clone()).and_modify(|left| *left -= 1);
            }
            affordable.push(member);
        }
        let too_many: Vec<(String, i64)> = too_many.into_iter().collect();
        tx.count_each(&too_many, BUDGET_WINDOW).await?;
        let unspent: Vec<&OneUse> = uses.iter().filter(|once| fresh.contains(once.key())).collect();
        tx.give_back(&unspent).await?;
        Ok(affordable)
    }
}

/// What a grant uses up: a gateway's nonce, and the mandate that may be used once. `None` where there is no mandate.
fn used_up(request: &ExchangeRequest, judgement: &Judgement) -> Option<Vec<OneUse>> {
    let Some(call) = &request.gateway else { return Some(Vec::new()) };
    let mut uses = vec![call.proof.once()];
    let subject = judgement.subject.as_ref()?;
    if !judgement.multi_use() {
        uses.push(mandate_use(&subject.claims));
    }
    Some(uses)
}
