//! The local decision: everything about a request that needs nobody else (contract gateway A5, architecture 'Roles').

use crate::anchor::AnchorKey;
use crate::claims::{self, Claims, MandateUse, Peek};
use crate::epoch::{Freshness, PolicyEpoch};
use crate::es256::Es256Verifier;
use crate::feed::{FeedState, ResourceEntry, ZoneState};
use crate::header::{self, BearerError};
use crate::id::{ResourceIdentifier, ZoneId};
use crate::jws::CompactJws;
use crate::operation::{self, OperationRefusal};
use crate::path::{self, DecodedPath};
use crate::recent::{Digest, Recent};
use crate::scope::Scope;
use crate::tree::Tree;
use crate::verdict::{DenyReason, Doubt, Judged, Verdict, VerifiedMandate};
use std::rc::Rc;

/// How long a mandate must still live to enter through a gateway, in seconds (contract gateway A5 row 5).
pub const PRE_FLIGHT_SECONDS: i64 = 35;
/// How far in the future `iat` may lie, in seconds (contract sts §10.1).
pub const ISSUED_LEEWAY_SECONDS: i64 = 60;

/// What the filter stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The ingress of a mesh: accepts `use=gateway`.
    Gateway,
    /// The door of one service: accepts `use=resource`.
    Resource,
}

/// What the operator bound, which a caller can never widen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding<'a> {
    /// This zone and this resource.
    Fixed {
        /// The zone; `None` where a gateway serves several and the signed claim decides.
        zone: Option<&'a ZoneId>,
        /// The resource.
        resource: &'a ResourceIdentifier,
    },
    /// The caller names the resource in `X-Caracal-Resource`.
    Header {
        /// The only zone that is served, if there is one.
        zone: Option<&'a ZoneId>,
        /// Every value of the header.
        values: &'a [&'a [u8]],
    },
}

/// A request as far as a decision needs it.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// What the filter stands for.
    pub role: Role,
    /// What the operator bound.
    pub binding: Binding<'a>,
    /// Every value of `Authorization`.
    pub authorization: &'a [&'a [u8]],
    /// Every value of `X-Caracal-Client-ID`.
    pub client_id: &'a [&'a [u8]],
    /// The method.
    pub method: &'a [u8],
    /// The raw `:path`, with query.
    pub path: &'a [u8],
    /// The operation that the operator bound, as `GET /v1/orders`; `None` takes the request's own method and path.
    pub operation: Option<&'a str>,
    /// Unix milliseconds.
    pub now: u64,
}

/// What was decided, and for which resource.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// The resource, as far as one was named.
    pub resource: Option<ResourceIdentifier>,
    /// The mandate, also of a refused request, once its signature was verified.
    pub mandate: Option<Rc<VerifiedMandate>>,
    /// What the feed says of the resource, once the mandate was found good for it.
    pub entry: Option<Rc<ResourceEntry>>,
    /// When the zone's policy changed last, as far as the feed told.
    pub policy_epoch: PolicyEpoch,
    /// The scope that the operation needs and the mandate lacks.
    pub missing_scope: Option<Scope>,
}

/// Tokens whose signature was found good, by their exact bytes.
pub type SignatureCache = Recent<Rc<VerifiedMandate>>;

/// Decides a request. The caller has made sure that `state` is fresh.
pub fn decide(
    facts: &Facts<'_>,
    state: &FeedState,
    cache: &mut SignatureCache,
    verifier: &impl Es256Verifier,
) -> Decision {
    let mut progress = Progress::default();
    let verdict = judge(facts, state, cache, verifier, &mut progress).unwrap_or_else(Verdict::Deny);
    let Progress { resource, mandate, entry, policy_epoch, missing_scope } = progress;
    Decision { verdict, resource, mandate, entry, policy_epoch, missing_scope }
}

#[derive(Default)]
struct Progress {
    resource: Option<ResourceIdentifier>,
    mandate: Option<Rc<VerifiedMandate>>,
    entry: Option<Rc<ResourceEntry>>,
    policy_epoch: PolicyEpoch,
    missing_scope: Option<Scope>,
}

fn judge(
    facts: &Facts<'_>,
    state: &FeedState,
    cache: &mut SignatureCache,
    verifier: &impl Es256Verifier,
    progress: &mut Progress,
) -> Result<Verdict, DenyReason> {
    let token = bearer(facts.authorization)?;
    // A token that was read before is not read again. Whether its signature still counts is asked below, in its turn.
    let (digest, mut decoded) = (cache.digest(token), Vec::new());
    let token = match cache.find_by(digest, |_| true) {
        Some(mandate) => Token::Known(token, digest, mandate),
        None => Token::New(Box::new(Read::of(token, digest, &mut decoded)?)),
    };
    check_expiry(facts, token.exp())?;
    if facts.role == Role::Gateway && facts.client_id.iter().any(|value| !value.is_empty()) {
        return Err(DenyReason::ClientIdHeader);
    }
    let (bound_zone, resource) = bound(&facts.binding)?;
    progress.resource = Some(resource.clone());
    let zone_id = token.zone_id().ok_or(DenyReason::ZoneMissing)?;
    if bound_zone.is_some_and(|bound| bound != zone_id) {
        return Err(DenyReason::ZoneMismatch);
    }
    if !token.names_client() {
        return Err(DenyReason::ClientMissing);
    }
    let (raw_path, _query) = path::split_target(facts.path);
    let decoded_path = DecodedPath::parse(raw_path).map_err(|_| DenyReason::PathTraversal)?;
    let zone = state.zone(zone_id).ok_or(DenyReason::SignatureInvalid)?;
    progress.policy_epoch = zone.policy_epoch;
    let mandate = token.verified(facts.role, state, zone, cache, verifier)?;
    progress.mandate = Some(Rc::clone(&mandate));
    check_claims(facts, state, &mandate.claims, &resource)?;
    if zone.revoked.first_revoked(&mandate.anchors).is_some() {
        return Err(DenyReason::Revoked);
    }
    let entry = zone.resource(&resource).ok_or(DenyReason::ResourceUnknown)?;
    progress.entry = Some(Rc::clone(entry));
    // Operators declare operations as text: bytes that are none match no operation.
    let (method, operated_path) = match facts.operation {
        Some(bound) => bound.split_once(' ').ok_or(DenyReason::OperationNotPermitted)?,
        None => (
            std::str::from_utf8(facts.method).unwrap_or_default(),
            std::str::from_utf8(decoded_path.as_bytes()).unwrap_or_default(),
        ),
    };
    operation::permit(entry.enforcement, &entry.operations, method, operated_path, &mandate.scopes).map_err(
        |refusal| match refusal {
            OperationRefusal::ScopeMissing(scope) => {
                progress.missing_scope = Some(scope.clone());
                DenyReason::ScopeMissing
            }
            OperationRefusal::Undeclared => DenyReason::OperationNotPermitted,
        },
    )?;
    let verdict = if facts.role == Role::Gateway && !(entry.multi_use && mandate.claims.multi_use) {
        Verdict::Ask(mandate, Doubt::SingleUse)
    } else {
        match Freshness::of(mandate.claims.authority_epoch, zone.authority_epoch, zone.policy_epoch) {
            Freshness::FilterBehind => Verdict::Ask(mandate, Doubt::FilterBehind),
            Freshness::PolicyChanged => Verdict::Ask(mandate, Doubt::PolicyChanged),
            Freshness::Settled => Verdict::Allow(mandate),
        }
    };
    match &entry.mcp {
        None => Ok(verdict),
        Some(mcp) if mcp.path == operated_path => Ok(Verdict::Read(Box::new(verdict))),
        Some(_) => Err(DenyReason::OperationNotPermitted),
    }
}

/// A token before it is known whether its signature counts.
enum Token<'a> {
    /// It was verified before, by a key that may not be its zone's any more.
    Known(&'a [u8], Digest, Rc<VerifiedMandate>),
    /// It was not seen before, or forgotten.
    New(Box<Read<'a>>),
}

/// A token that was taken apart.
struct Read<'a> {
    token: &'a [u8],
    /// By which it is remembered.
    digest: Digest,
    jws: CompactJws<'a>,
    /// Parsed once, and read twice: before and after the signature is known to be good.
    payload: Tree<'a>,
    peek: Peek,
}

impl Token<'_> {
    fn exp(&self) -> i64 {
        match self {
            Self::Known(.., mandate) => mandate.claims.exp,
            Self::New(read) => read.peek.exp,
        }
    }

    fn zone_id(&self) -> Option<&ZoneId> {
        match self {
            Self::Known(.., mandate) => Some(&mandate.claims.zone_id),
            Self::New(read) => read.peek.zone_id.as_ref(),
        }
    }

    fn names_client(&self) -> bool {
        match self {
            Self::Known(..) => true,
            Self::New(read) => read.peek.client_id.is_some(),
        }
    }

    /// The mandate, if one of the zone's keys signed it.
    fn verified(
        &self,
        role: Role,
        state: &FeedState,
        zone: &ZoneState,
        cache: &mut SignatureCache,
        verifier: &impl Es256Verifier,
    ) -> Result<Rc<VerifiedMandate>, DenyReason> {
        match self {
            Self::Known(.., mandate) if zone.key(&mandate.key_id) == Some(&mandate.key) => {
                Ok(Rc::clone(mandate))
            }
            Self::Known(token, digest, _) => {
                Read::of(token, *digest, &mut Vec::new())?.verified(role, state, zone, cache, verifier)
            }
            Self::New(read) => read.verified(role, state, zone, cache, verifier),
        }
    }
}

impl<'a> Read<'a> {
    /// `decoded` is where the payload is decoded to.
    fn of(token: &'a [u8], digest: Digest, decoded: &'a mut Vec<u8>) -> Result<Self, DenyReason> {
        if !token.is_ascii() {
            return Err(DenyReason::MalformedBearer);
        }
        let jws = CompactJws::split(token).map_err(|_| DenyReason::MalformedBearer)?;
        *decoded = jws.payload().map_err(|_| DenyReason::MalformedBearer)?;
        let payload = claims::object(decoded).map_err(|_| DenyReason::MalformedBearer)?;
        let peek = Peek::of(&payload).map_err(|_| DenyReason::MalformedBearer)?;
        Ok(Self { token, digest, jws, payload, peek })
    }

    fn verified(
        &self,
        role: Role,
        state: &FeedState,
        zone: &ZoneState,
        cache: &mut SignatureCache,
        verifier: &impl Es256Verifier,
    ) -> Result<Rc<VerifiedMandate>, DenyReason> {
        let mandate = Rc::new(verify(self, state, zone, verifier)?);
        // A mandate that passes a gateway once is the STS's to tell apart, and is not looked for again.
        if role == Role::Resource || mandate.claims.multi_use {
            cache.remember_by(self.digest, Rc::clone(&mandate), mandate.bytes(state));
        }
        Ok(mandate)
    }
}

fn bearer<'a>(values: &[&'a [u8]]) -> Result<&'a [u8], DenyReason> {
    let value = match values {
        [] => return Err(DenyReason::MissingBearer),
        [value] => value,
        _ => return Err(DenyReason::DuplicateAuthorization),
    };
    header::bearer_bytes(value).map_err(|error| match error {
        BearerError::Missing => DenyReason::MissingBearer,
        BearerError::TooLarge => DenyReason::BearerTooLarge,
        BearerError::Malformed => DenyReason::MalformedBearer,
    })
}

fn check_expiry(facts: &Facts<'_>, exp: i64) -> Result<(), DenyReason> {
    let now = seconds(facts.now);
    let floor = match facts.role {
        Role::Gateway => PRE_FLIGHT_SECONDS,
        Role::Resource => 1,
    };
    if exp.saturating_sub(now) >= floor { Ok(()) } else { Err(DenyReason::Expiring) }
}

fn bound<'a>(binding: &Binding<'a>) -> Result<(Option<&'a ZoneId>, ResourceIdentifier), DenyReason> {
    match binding {
        Binding::Fixed { zone, resource } => Ok((*zone, (*resource).clone())),
        Binding::Header { zone, values } => {
            let value = match values {
                [] => return Err(DenyReason::MissingResource),
                [value] => value.trim_ascii(),
                _ => return Err(DenyReason::DuplicateResource),
            };
            if value.is_empty() {
                return Err(DenyReason::MissingResource);
            }
            let text = std::str::from_utf8(value).map_err(|_| DenyReason::MissingResource)?;
            Ok((*zone, ResourceIdentifier::new(text).map_err(|_| DenyReason::MissingResource)?))
        }
    }
}

fn verify(
    Read { token, jws, payload, .. }: &Read<'_>,
    state: &FeedState,
    zone: &ZoneState,
    verifier: &impl Es256Verifier,
) -> Result<VerifiedMandate, DenyReason> {
    let key_id = jws.key_id().map_err(|_| DenyReason::SignatureInvalid)?;
    let signature = jws.signature().map_err(|_| DenyReason::SignatureInvalid)?;
    let (key_id, key) = zone.known_key(&key_id).ok_or(DenyReason::SignatureInvalid)?;
    if !verifier.verify(key, jws.signing_input(), &signature) {
        return Err(DenyReason::SignatureInvalid);
    }
    let claims = Claims::of(payload).map_err(|_| DenyReason::MalformedClaims)?;
    Ok(VerifiedMandate {
        scopes: claims.scopes(),
        anchors: AnchorKey::of_all(&claims.anchors()),
        claims: Judged::of(claims, state),
        key_id: key_id.clone(),
        fingerprint: header::fingerprint(token),
        key: Rc::clone(key),
    })
}

fn check_claims(
    facts: &Facts<'_>,
    state: &FeedState,
    claims: &Judged,
    resource: &ResourceIdentifier,
) -> Result<(), DenyReason> {
    if claims.iss != state.issuer || claims.iss.is_empty() {
        return Err(DenyReason::IssuerMismatch);
    }
    let (usage, audience) = match facts.role {
        Role::Gateway => (MandateUse::Gateway, &*state.issuer),
        Role::Resource => (MandateUse::Resource, resource.as_str()),
    };
    if claims.usage != usage {
        return Err(DenyReason::UseMismatch);
    }
    if !claims.aud.iter().any(|aud| **aud == *audience) {
        return Err(DenyReason::AudienceMismatch);
    }
    if claims.iat > seconds(facts.now).saturating_add(ISSUED_LEEWAY_SECONDS) {
        return Err(DenyReason::IssuedInFuture);
    }
    if !claims.target.iter().any(|target| **target == *resource.as_str()) {
        return Err(DenyReason::TargetMismatch);
    }
    Ok(())
}

fn seconds(millis: u64) -> i64 {
    i64::try_from(millis / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
