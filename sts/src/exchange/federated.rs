//! The exchange of an external issuer's token for a user's session mandate (contract sts §21).
//!
//! No policy is asked and no budget is charged: the mandate carries no scope and no target, and says no more than who
//! the user is. The issuer's keys are fetched before anything is written; the granting transaction reads the
//! application, the issuer and the user again.

use super::authenticate::about;
use super::grant::{Granted, Minted};
use super::live::Live;
use super::request::ExchangeRequest;
use crate::Sts;
use crate::federation::{ExternalToken, FederationError, Vouched};
use crate::refusal::Denial;
use caracal_mandate::claims::{Claims, MandateUse, SubjectType};
use caracal_mandate::id::{AuthorityRecordId, MandateId};
use caracal_store::audit::AuditEvent;
use caracal_store::model::{
    Application, AuthorityRecord, FederatedSubject, NewAuthorityRecord, RecordStatus, SubjectIssuer, Zone,
};
use caracal_store::{StoreError, WriteTx, ids};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How long a user's session mandate lives unless something says otherwise, and at most, in seconds.
const DEFAULT_TTL_SECONDS: i64 = 900;
const MAX_TTL_SECONDS: i64 = 3600;
/// What the ledger names as the policy.
const POLICY: &str = "caracal-subject-federation";

/// A request that was found good so far.
struct Case<'a> {
    request: &'a ExchangeRequest,
    application: Application,
    issuer: Option<SubjectIssuer>,
}

impl Sts {
    pub(super) async fn federate(&self, request: &ExchangeRequest, token: &str) -> Result<Granted, Denial> {
        let now = self.store().now();
        let mut case = Case { request, application: self.asker(request, now).await?, issuer: None };
        if !stands_alone(request) {
            let denial =
                Denial::malformed("an id_token is exchanged alone, without resource, scope and session");
            return Err(denial.with_event(case.event("subject_federation_invalid", Value::Null, now)));
        }
        let token = ExternalToken::parse(token).map_err(|error| case.reject(&error, now))?;
        case.issuer = {
            let mut connection = self.store().read().await?;
            SubjectIssuer::find(&mut connection, &case.application.zone_id, token.issuer()).await?
        };
        let issuer =
            case.issuer.clone().ok_or_else(|| case.reject(&FederationError::IssuerNotTrusted, now))?;
        let vouched = self.federation().verify(&token, &issuer, now).await;
        let vouched = vouched.map_err(|error| case.reject(&error, now))?;
        if !(0..=MAX_TTL_SECONDS).contains(&request.ttl_seconds) {
            let text = format!("ttl_seconds has to be between 0 and {MAX_TTL_SECONDS}");
            return Err(Denial::malformed(text));
        }
        let zone = {
            let mut connection = self.store().read().await?;
            Zone::find(&mut connection, &case.application.zone_id).await?
        };
        let zone = zone.ok_or_else(Denial::unauthenticated)?;
        self.keys().prepare(&zone.id, zone.epochs.keys).await?;
        let (sts, request) = (self.clone(), request.clone());
        self.store()
            .write(move |tx| Box::pin(async move { sts.vouch(tx, &request, &issuer, &vouched).await }))
            .await
    }

    async fn asker(&self, request: &ExchangeRequest, now: i64) -> Result<Application, Denial> {
        self.authenticate(&mut Live::committed(self.store()), request, now).await
    }

    /// Mints for the user whom the issuer vouched for, if nothing changed since that takes it away.
    async fn vouch(
        &self,
        tx: &mut WriteTx<'_>,
        request: &ExchangeRequest,
        issuer: &SubjectIssuer,
        vouched: &Vouched,
    ) -> Result<Granted, Denial> {
        let now = tx.now();
        let application = self.authenticate(&mut Live::in_transaction(tx.connection()), request, now).await?;
        let zone = Zone::find(tx.connection(), &application.zone_id).await?;
        let zone = zone.ok_or_else(Denial::unauthenticated)?;
        let case = Case { request, application, issuer: Some(issuer.clone()) };
        let subject = vouched.subject.as_str();
        let trusted = SubjectIssuer::find(tx.connection(), &zone.id, &issuer.issuer).await?;
        if trusted.as_ref() != Some(issuer) {
            return Err(case.reject(&FederationError::IssuerNotTrusted, now));
        }
        let known = FederatedSubject::find(tx.connection(), &zone.id, subject).await?;
        if let Some(known) = &known {
            check_known(tx, &zone, known, issuer, vouched)
                .await?
                .map_err(|error| case.reject(&error, now))?;
        }
        if known.is_none_or(|known| known.issuer != issuer.issuer) {
            FederatedSubject::vouch(tx, &zone.id, subject, &issuer.issuer).await?;
        }
        let claims = case.claims(self.issuer(), &zone, subject, now)?;
        record(&claims, issuer).insert(tx).await?;
        tx.audit(&case.granted(&claims, now)).await?;
        Ok(Granted::Minted(Box::new(Minted { claims, upstreams: BTreeMap::new(), keys: zone.epochs.keys })))
    }
}

/// Is the token all that the request presents?
fn stands_alone(request: &ExchangeRequest) -> bool {
    let references =
        [&request.session_id, &request.agent_session_id, &request.delegation_edge_id, &request.approval_id];
    request.resources.is_empty() && request.scope.is_empty() && references.iter().all(|id| id.is_none())
}

/// A user whom another issuer of the zone vouches for is somebody else with the same name; and a token from before a
/// user's revocation does not bring the user back.
async fn check_known(
    tx: &mut WriteTx<'_>,
    zone: &Zone,
    known: &FederatedSubject,
    issuer: &SubjectIssuer,
    vouched: &Vouched,
) -> Result<Result<(), FederationError>, StoreError> {
    let other = !known.issuer.is_empty() && known.issuer != issuer.issuer;
    if other && SubjectIssuer::find(tx.connection(), &zone.id, &known.issuer).await?.is_some() {
        return Ok(Err(FederationError::IssuerConflict));
    }
    // Times of tokens are whole seconds: one of the second of the revocation counts as earlier.
    let issued_at = vouched.issued_at.map_or(i64::MIN, |seconds| seconds.saturating_mul(1000));
    if known.not_before > 0 && issued_at <= known.not_before {
        return Ok(Err(FederationError::IssuedBeforeRevocation));
    }
    Ok(Ok(()))
}

fn record(claims: &Claims, issuer: &SubjectIssuer) -> NewAuthorityRecord {
    NewAuthorityRecord {
        record: AuthorityRecord {
            id: claims.sid.clone(),
            zone_id: claims.zone_id.clone(),
            subject_type: SubjectType::User,
            subject_id: claims.sub.clone(),
            application_id: claims.client_id.clone(),
            parent_id: None,
            status: RecordStatus::Active,
            expires_at: claims.exp.saturating_mul(1000),
        },
        claims_json: json!({ "iss": issuer.issuer }).to_string(),
    }
}

impl Case<'_> {
    /// 401, with one text and the reason's code; what else is known of the reason stays in the ledger and the log.
    fn reject(&self, error: &FederationError, now: i64) -> Denial {
        let reason = error.reason();
        let event = self.event("subject_federation_rejected", reason.into(), now);
        Denial::subject(format!("the subject token is not accepted: {reason}")).with_event(event)
    }

    fn event(&self, status: &str, reason: Value, now: i64) -> AuditEvent {
        let mut metadata = about(&self.application);
        if let Some(object) = metadata.as_object_mut() {
            if !reason.is_null() {
                object.insert("reason".to_owned(), reason);
            }
            if let Some(issuer) = &self.issuer {
                object.insert("federated_user_issuer".to_owned(), issuer.issuer.as_str().into());
            }
        }
        let zone = self.application.zone_id.as_str();
        AuditEvent::new(zone, "token_exchange", &self.request.request_id, "deny", now)
            .with_status(status)
            .with_metadata(metadata)
    }

    /// What the ledger is told of a grant: never whose it is.
    fn granted(&self, claims: &Claims, now: i64) -> AuditEvent {
        let mut event = self.event("complete", Value::Null, now);
        "allow".clone_into(&mut event.decision);
        event.determining_policies_json = json!([{ "policy": POLICY }]);
        if let Some(object) = event.metadata_json.as_mut().and_then(Value::as_object_mut) {
            object.insert("session_id".to_owned(), claims.sid.as_str().into());
            object.insert("subject_kind".to_owned(), "user".into());
        }
        event
    }

    /// The claims of a user's own mandate: who it is, and nothing that could be used anywhere.
    fn claims(&self, issuer: &str, zone: &Zone, subject: &str, now: i64) -> Result<Claims, Denial> {
        let id = |error: caracal_mandate::id::IdError| StoreError::corrupt(format!("a new id: {error}"));
        let sid: AuthorityRecordId = ids::new().map_err(id)?;
        let jti: MandateId = ids::new().map_err(id)?;
        let wanted =
            if self.request.ttl_seconds == 0 { DEFAULT_TTL_SECONDS } else { self.request.ttl_seconds };
        let end = now.saturating_add(wanted.saturating_mul(1000));
        let end = end.min(self.application.expires_at.unwrap_or(i64::MAX));
        if end - now < 1000 {
            return Err(Denial::forbidden("the application is about to expire"));
        }
        Ok(Claims {
            iss: issuer.to_owned(),
            sub: subject.to_owned(),
            aud: vec![issuer.to_owned()],
            exp: end / 1000,
            iat: now / 1000,
            jti,
            zone_id: zone.id.clone(),
            client_id: self.application.id.clone(),
            scope: String::new(),
            root_sid: sid.clone(),
            sid,
            usage: MandateUse::Session,
            sub_type: SubjectType::User,
            target: Vec::new(),
            agent_session_id: None,
            delegation_edge_id: None,
            source_session_id: None,
            target_session_id: None,
            delegation_path: Vec::new(),
            delegation_chain: Vec::new(),
            hop_count: 0,
            delegation_graph_epoch: 0,
            authority_epoch: zone.epochs.authority,
            multi_use: false,
        })
    }
}
