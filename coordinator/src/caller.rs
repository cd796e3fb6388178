//! Who calls: a session mandate or the operator's token (contract coordinator §3).

use crate::config::Config;
use crate::failure::{Code, Failure};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Extension;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use caracal_mandate::anchor::Anchor;
use caracal_mandate::claims::{Claims, MandateUse, Peek};
use caracal_mandate::epoch::AuthorityEpoch;
use caracal_mandate::id::{ApplicationId, AuthorityRecordId, KeyId, ZoneId};
use caracal_mandate::jws::CompactJws;
use caracal_mandate::scope::{LIFECYCLE, ScopeSet};
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use caracal_store::http::{RequestId, bearer};
use caracal_store::keys::{Expected, MandateError, ZoneKeys};
use caracal_store::model::RegistrationMethod;
use caracal_store::revoke::Cause;
use http::{HeaderMap, Method};
use std::fmt;
use std::sync::Arc;

/// Where the operator's token is taken: method and route (contract §3.2).
const OPERATOR_ROUTES: &[(Method, &str)] = &[
    (Method::GET, "/zones/{zone}/agents"),
    (Method::GET, "/zones/{zone}/agents/{session}"),
    (Method::DELETE, "/zones/{zone}/agents/{session}"),
    (Method::GET, "/zones/{zone}/agents/{session}/children"),
    (Method::GET, "/zones/{zone}/agents/{session}/effective-authority"),
    (Method::PATCH, "/zones/{zone}/agents/{session}/suspend"),
    (Method::PATCH, "/zones/{zone}/agents/{session}/resume"),
    (Method::GET, "/zones/{zone}/delegations/active"),
    (Method::GET, "/zones/{zone}/delegations/inbound/{session}"),
    (Method::GET, "/zones/{zone}/delegations/inbound/{session}/{edge}"),
    (Method::GET, "/zones/{zone}/delegations/outbound/{session}"),
    (Method::GET, "/zones/{zone}/delegations/{edge}/traverse"),
    (Method::GET, "/zones/{zone}/delegations/{edge}/impact"),
    (Method::PATCH, "/zones/{zone}/delegations/{edge}/revoke"),
    (Method::GET, "/zones/{zone}/agent-services"),
    (Method::GET, "/zones/{zone}/invocations"),
    (Method::GET, "/zones/{zone}/outbox"),
    (Method::POST, "/zones/{zone}/outbox/{entry}/requeue"),
];

/// Routes whose transaction asks [`Caller::check_stands`] before anything else. These are called all the time, so they are
/// not asked twice: only where such a route refuses, the caller is looked at first (contract §3.1 comes before the rest).
const CHECKED_IN_TRANSACTION: &[(Method, &str)] = &[
    (Method::POST, "/zones/{zone}/agents"),
    (Method::DELETE, "/zones/{zone}/agents/{session}"),
    (Method::POST, "/zones/{zone}/agents/{session}/heartbeat"),
    (Method::POST, "/zones/{zone}/delegations"),
];

/// The application, the mandate's record and its root, if all of them stand; with the epoch of the zone's keys.
const STANDING: &str = "SELECT application.registration_method, zone.keys_epoch FROM applications application \
     JOIN zones zone ON zone.id = application.zone_id \
     JOIN authority_records record ON record.application_id = application.id \
       AND record.zone_id = application.zone_id \
     JOIN authority_records root ON root.zone_id = application.zone_id \
     WHERE application.id = $1 AND application.zone_id = $2 AND application.archived_at IS NULL \
       AND (application.expires_at IS NULL OR application.expires_at > $3) \
       AND record.id = $4 AND record.status = 'active' AND record.expires_at > $3 \
       AND root.id = $5 AND root.status = 'active' AND root.expires_at > $3";

/// The scope that makes an administrator.
const ADMIN: &str = "coordinator.admin";

/// A caller that was let in.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The zone of the path, which is the mandate's.
    pub(crate) zone: ZoneId,
    /// The request.
    pub(crate) request_id: String,
    identity: Identity,
    /// Where the keys that verified the mandate have yet to be compared with the zone's.
    proof: Option<Proof>,
}

/// A mandate that was verified with the keys at hand, which another process may have rotated.
#[derive(Clone)]
struct Proof {
    keys: ZoneKeys,
    epoch: AuthorityEpoch,
    issuer: String,
    token: String,
}

/// Whether two were proved alike; the keys and the issuer are those of one process.
impl PartialEq for Proof {
    fn eq(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.token == other.token
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Proof {
    /// Where the zone's keys are others by now, they verify the mandate anew.
    async fn check(&self, connection: &mut SqlConnection, zone: &ZoneId, epoch: i64) -> Result<(), Failure> {
        if u64::try_from(epoch).is_ok_and(|epoch| epoch == self.epoch.0) {
            return Ok(());
        }
        let expected = Expected { zone, issuer: &self.issuer, usage: MandateUse::Session };
        self.keys.verify_in(connection, &self.token, expected).await.map(|_| ()).map_err(refused)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Identity {
    Operator,
    Application { claims: Box<Claims>, scopes: ScopeSet },
}

impl Caller {
    /// Whom a verified mandate names.
    pub(crate) fn of_mandate(claims: Claims, request_id: String) -> Self {
        let (zone, scopes) = (claims.zone_id.clone(), claims.scopes());
        Self {
            zone,
            request_id,
            identity: Identity::Application { claims: Box::new(claims), scopes },
            proof: None,
        }
    }

    /// The operator, who has no authority record.
    #[cfg(test)]
    pub(crate) fn operator(zone: ZoneId) -> Self {
        Self { zone, request_id: "r".to_owned(), identity: Identity::Operator, proof: None }
    }

    /// Who is named in evidence: the application's id.
    pub(crate) fn name(&self) -> &str {
        match &self.identity {
            Identity::Operator => "caracal-operator",
            Identity::Application { claims, .. } => claims.client_id.as_str(),
        }
    }

    /// What the caller causes, and why.
    pub(crate) fn cause(&self, reason: &str) -> Cause {
        Cause {
            zone: self.zone.clone(),
            request_id: self.request_id.clone(),
            actor: self.name().to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// The subject of the mandate.
    pub(crate) fn subject(&self) -> &str {
        match &self.identity {
            Identity::Operator => "caracal-operator",
            Identity::Application { claims, .. } => &claims.sub,
        }
    }

    /// The mandate's authority record.
    pub(crate) fn record(&self) -> Option<&AuthorityRecordId> {
        match &self.identity {
            Identity::Operator => None,
            Identity::Application { claims, .. } => Some(&claims.sid),
        }
    }

    /// Does all that this caller's mandate rests on stand exactly if the other's does?
    pub(crate) fn rests_on_the_same(&self, other: &Self) -> bool {
        self.zone == other.zone && self.identity == other.identity && self.proof == other.proof
    }

    /// May it do everything in its zone?
    pub(crate) fn is_admin(&self) -> bool {
        match &self.identity {
            Identity::Operator => true,
            Identity::Application { scopes, .. } => scopes.contains(ADMIN),
        }
    }

    /// Is it this application?
    pub(crate) fn is(&self, application: &ApplicationId) -> bool {
        match &self.identity {
            Identity::Operator => false,
            Identity::Application { claims, .. } => claims.client_id == *application,
        }
    }

    /// Is it this application, or does it hold `coordinator.<power>:<application>`?
    pub(crate) fn acts_for(&self, application: &ApplicationId, power: &str) -> bool {
        self.is(application) || self.holds(&format!("coordinator.{power}:{application}"))
    }

    /// Does it hold this very scope?
    pub(crate) fn holds(&self, scope: &str) -> bool {
        match &self.identity {
            Identity::Operator => false,
            Identity::Application { scopes, .. } => scopes.contains(scope),
        }
    }

    /// Does all that the mandate rests on still stand (contract §3.1 step 10)? Asked when it calls or in the transaction
    /// of what it does, or both. Answers how the application was registered; nothing for the operator.
    pub(crate) async fn check_stands(
        &self,
        connection: &mut SqlConnection,
        now: i64,
    ) -> Result<Option<RegistrationMethod>, Failure> {
        let Identity::Application { claims, .. } = &self.identity else { return Ok(None) };
        let revoked =
            || Failure::because(Code::IdentityRevoked, "what the mandate rests on does not stand any more");
        let row: Option<(String, i64)> = sqlx::query_as(STANDING)
            .bind(claims.client_id.as_str())
            .bind(self.zone.as_str())
            .bind(now)
            .bind(claims.sid.as_str())
            .bind(claims.root_sid.as_str())
            .fetch_optional(&mut *connection)
            .await?;
        let (method, keys) = row.ok_or_else(revoked)?;
        let method =
            RegistrationMethod::try_from(method).map_err(|error| StoreError::corrupt(error.to_string()))?;
        if let Some(proof) = &self.proof {
            proof.check(connection, &self.zone, keys).await?;
        }
        for anchor in claims.anchors() {
            let (kind, id) = match &anchor {
                Anchor::AgentSession(id) => ("agent_session", id.as_str()),
                Anchor::DelegationEdge(id) => ("delegation_edge", id.as_str()),
                _ => continue,
            };
            let sql = "SELECT COUNT(*) FROM revoked_anchors WHERE zone_id = $1 AND kind = $2 AND id = $3";
            let count: i64 = sqlx::query_scalar(sql)
                .bind(self.zone.as_str())
                .bind(kind)
                .bind(id)
                .fetch_one(&mut *connection)
                .await?;
            if count > 0 {
                return Err(revoked());
            }
        }
        Ok(Some(method))
    }
}

/// Lets a caller in (contract §3.1, in its order) and hands it to the route.
pub(crate) async fn authenticate(
    State(config): State<Arc<Config>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    matched: MatchedPath,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let token = bearer(request.headers()).ok_or(Code::MissingToken)?.to_owned();
    let path_zone = check_params(params);
    let route = (request.method().clone(), matched.as_str());
    let is_late = CHECKED_IN_TRANSACTION.contains(&route);
    let caller = if is_operator(&config, &token) {
        if !OPERATOR_ROUTES.contains(&route) {
            return Err(Code::InvalidToken.into());
        }
        Caller { zone: path_zone?, request_id, identity: Identity::Operator, proof: None }
    } else {
        let caller = if is_late {
            verify_at_hand(&config, &token, request_id).await?
        } else {
            Caller::of_mandate(verify(&config, &token).await?, request_id)
        };
        if !caller.holds(LIFECYCLE) {
            return Err(Code::MissingScope.into());
        }
        if path_zone? != caller.zone {
            return Err(Code::ZoneMismatch.into());
        }
        caller
    };
    if !is_late {
        check_now(&config, &caller).await?;
    }
    request.extensions_mut().insert(caller.clone());
    let response = next.run(request).await;
    if is_late && response.status().is_client_error() {
        check_now(&config, &caller).await?;
    }
    Ok(response)
}

async fn check_now(config: &Config, caller: &Caller) -> Result<(), Failure> {
    let mut connection = config.store.read().await?;
    caller.check_stands(&mut connection, config.store.now()).await?;
    Ok(())
}

/// Lets the operator in, and nobody else: what tells of all zones (contract §3.1 step 3).
pub(crate) fn check_operator(config: &Config, headers: &HeaderMap) -> Result<(), Failure> {
    let token = bearer(headers).ok_or(Code::MissingToken)?;
    if is_operator(config, token) { Ok(()) } else { Err(Code::OperatorTokenRequired.into()) }
}

fn is_operator(config: &Config, token: &str) -> bool {
    config.operator_token.as_deref().is_some_and(|operator| {
        // In a time that tells nothing about where they differ.
        verify_slices_are_equal(operator.as_bytes(), token.as_bytes()).is_ok()
    })
}

/// The claims of a session mandate of this STS, addressed to it, in whatever zone it names.
pub(crate) async fn verify(config: &Config, token: &str) -> Result<Claims, Failure> {
    let zone = named_zone(config, token)?;
    let claims = config.keys.verify(&zone, token, &config.issuer, MandateUse::Session).await;
    with_subject(claims.map_err(refused)?)
}

/// [`verify`] with the keys at hand: [`Caller::check_stands`] compares them with the zone's.
async fn verify_at_hand(config: &Config, token: &str, request_id: String) -> Result<Caller, Failure> {
    let zone = named_zone(config, token)?;
    let expected = Expected { zone: &zone, issuer: &config.issuer, usage: MandateUse::Session };
    let (epoch, claims) = config.keys.verify_at_hand(token, expected).await?;
    let Ok(claims) = claims else {
        return Ok(Caller::of_mandate(verify(config, token).await?, request_id));
    };
    let (keys, issuer) = (config.keys.clone(), config.issuer.clone());
    let proof = Some(Proof { keys, epoch, issuer, token: token.to_owned() });
    Ok(Caller { proof, ..Caller::of_mandate(with_subject(claims)?, request_id) })
}

/// The zone that a token names, which was not verified; that of one which came before is known.
fn named_zone(config: &Config, token: &str) -> Result<ZoneId, Failure> {
    if let Some(zone) = config.keys.zone_of_known(token) {
        return Ok(zone);
    }
    let malformed = |error: &dyn fmt::Display| Failure::because(Code::InvalidToken, error.to_string());
    let jws = CompactJws::split(token.as_bytes()).map_err(|error| malformed(&error))?;
    let payload = jws.payload().map_err(|error| malformed(&error))?;
    let peek = Peek::from_json(&payload).map_err(|_| Code::InvalidToken)?;
    Ok(peek.zone_id.ok_or(Code::InvalidToken)?)
}

fn with_subject(claims: Claims) -> Result<Claims, Failure> {
    if claims.sub.is_empty() { Err(Code::InvalidToken.into()) } else { Ok(claims) }
}

fn refused(error: MandateError) -> Failure {
    match error {
        MandateError::Store(error) => Failure::Store(error),
        error => Failure::because(Code::InvalidToken, error.to_string()),
    }
}

/// Every id of the path has the shape of ids; the zone is handed back.
fn check_params(params: Result<RawPathParams, RawPathParamsRejection>) -> Result<ZoneId, Failure> {
    let invalid =
        |name: &str| Failure::because(Code::InvalidParams, format!("{name} in the path is not an id"));
    let params = params.map_err(|_| invalid("a segment"))?;
    let mut zone = None;
    for (name, value) in &params {
        // Any id type has the pattern of all of them.
        KeyId::new(value).map_err(|_| invalid(name))?;
        if name == "zone" {
            zone = ZoneId::new(value).ok();
        }
    }
    zone.ok_or_else(|| invalid("zone"))
}

/// An id of the path, typed.
pub(crate) fn path_id<T: TryFrom<String>>(text: String) -> Result<T, Failure> {
    T::try_from(text).map_err(|_| Code::InvalidParams.into())
}

/// A new id.
pub(crate) fn new_id<T: TryFrom<String>>() -> Result<T, Failure> {
    caracal_store::ids::new().map_err(|_| StoreError::corrupt("a new id").into())
}
