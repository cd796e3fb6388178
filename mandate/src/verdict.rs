//! The one verdict type, and the one list of reasons to refuse.
//!
//! One reason is one enum variant, one metric label and one row in the error reference.

use crate::anchor::AnchorKey;
use crate::claims::{Claims, MandateUse, SubjectType};
use crate::epoch::AuthorityEpoch;
use crate::es256::PublicKey;
use crate::feed::FeedState;
use crate::id::{AgentSessionId, ApplicationId, KeyId, MandateId, ZoneId};
use crate::recent::ALLOCATION;
use crate::scope::{Scope, ScopeSet};
use std::rc::Rc;
use std::sync::Arc;

/// A token whose signature was verified, with what is needed to judge it again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedMandate {
    /// What of its claims is judged.
    pub claims: Judged,
    /// Its scopes.
    pub scopes: ScopeSet,
    /// Everything whose revocation takes it along.
    pub anchors: Box<[AnchorKey]>,
    /// Which key verified it.
    pub key_id: KeyId,
    /// What evidence calls its token by ([`fingerprint`](crate::header::fingerprint), before it is hex).
    pub fingerprint: [u8; 8],
    /// That key: if the zone's key of this id is another one by now, the signature has to be verified again.
    pub key: Rc<PublicKey>,
}

/// What is judged of a mandate's claims again and again. The others are in its scopes and anchors; a worker remembers
/// thousands of these, so that texts are shared where they are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The issuer.
    pub iss: Arc<str>,
    /// The subject.
    pub sub: Arc<str>,
    /// For whom it is.
    pub aud: Box<[Arc<str>]>,
    /// Granted resource identifiers.
    pub target: Box<[Arc<str>]>,
    /// End of validity, unix seconds.
    pub exp: i64,
    /// Time of minting, unix seconds.
    pub iat: i64,
    /// The zone's authority epoch at minting.
    pub authority_epoch: AuthorityEpoch,
    /// Its own id.
    pub jti: MandateId,
    /// The zone.
    pub zone_id: ZoneId,
    /// The acting application.
    pub client_id: ApplicationId,
    /// The governed session it acts for.
    pub agent_session_id: Option<AgentSessionId>,
    /// Where it may be used.
    pub usage: MandateUse,
    /// Who the subject is.
    pub sub_type: SubjectType,
    /// May a gateway accept it any number of times until `exp`?
    pub multi_use: bool,
}

impl Judged {
    /// Takes what is needed; what the feed says as well is shared with it.
    pub(crate) fn of(claims: Claims, state: &FeedState) -> Self {
        let aud: Box<[Arc<str>]> = claims.aud.into_iter().map(Arc::from).collect();
        let shared = |text: String| {
            let same = aud.iter().find(|other| ***other == *text);
            same.map_or_else(|| Arc::from(text.as_str()), Arc::clone)
        };
        let target = claims.target.into_iter().map(shared).collect();
        let is_application = claims.sub == claims.client_id.as_str();
        Self {
            iss: if *claims.iss == *state.issuer { Arc::clone(&state.issuer) } else { claims.iss.into() },
            sub: if is_application { claims.client_id.shared() } else { claims.sub.into() },
            aud,
            target,
            exp: claims.exp,
            iat: claims.iat,
            authority_epoch: claims.authority_epoch,
            jti: claims.jti,
            zone_id: state.known_zone_id(&claims.zone_id).cloned().unwrap_or(claims.zone_id),
            client_id: claims.client_id,
            agent_session_id: claims.agent_session_id,
            usage: claims.usage,
            sub_type: claims.sub_type,
            multi_use: claims.multi_use,
        }
    }

    /// How many bytes it takes beside its own, at most. What is shared with the feed is the feed's, as the zone's id is.
    fn more_bytes(&self, state: &FeedState) -> usize {
        let client = self.client_id.as_str();
        let session = self.agent_session_id.as_ref().map(AgentSessionId::as_str);
        let sub = Some(&*self.sub).filter(|sub| *sub != client);
        let iss = Some(&*self.iss).filter(|iss| **iss != *state.issuer);
        let aud = self.aud.iter().map(|aud| &**aud);
        let target = self.target.iter().filter(|target| !self.aud.contains(target)).map(|target| &**target);
        let places = self.aud.len().saturating_add(self.target.len()).saturating_mul(size_of::<Arc<str>>());
        let texts = [self.jti.as_str(), client].into_iter().chain(session).chain(sub).chain(iss);
        texts.chain(aud).chain(target).fold(places.saturating_add(2 * ALLOCATION), |bytes, text| {
            bytes.saturating_add(text.len()).saturating_add(ALLOCATION)
        })
    }
}

impl VerifiedMandate {
    /// How many bytes it takes in memory, at most, beside the feed that it was verified by.
    #[must_use]
    pub fn bytes(&self, state: &FeedState) -> usize {
        let scope = |scope: &Scope| scope.as_str().len().saturating_add(size_of::<Scope>() + ALLOCATION);
        let anchor = |key: &AnchorKey| size_of::<AnchorKey>().saturating_add(key.more_bytes());
        let own = size_of::<Self>().saturating_add(3 * ALLOCATION);
        let parts = self.scopes.iter().map(scope).chain(self.anchors.iter().map(anchor));
        parts.fold(own.saturating_add(self.claims.more_bytes(state)), usize::saturating_add)
    }
}

/// Why only the STS can decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Doubt {
    /// The mandate is good, and the credential that its upstream wants is not at hand.
    CredentialMissing,
    /// The mandate was minted after a change that the filter has not seen.
    FilterBehind,
    /// Policy changed after the mandate was minted.
    PolicyChanged,
    /// The mandate may be used once, and only the STS knows whether it was.
    SingleUse,
}

/// What becomes of a request. Only [`Verdict::Allow`] lets it pass.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It passes, on this mandate.
    Allow(Rc<VerifiedMandate>),
    /// The STS has to be asked; until it answers, nothing passes.
    Ask(Rc<VerifiedMandate>, Doubt),
    /// It is refused.
    Deny(DenyReason),
    /// The body says what is asked for, so it has to be read and judged first. What is left then is this.
    Read(Box<Self>),
}

macro_rules! deny_reasons {
    ($($(#[$doc:meta])* $name:ident => $label:literal, $status:literal, $error:literal, $description:literal;)*) => {
        /// Why a request is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DenyReason { $($(#[$doc])* $name,)* }

        impl DenyReason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason's own code: metric label, audit field, key of the error reference.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// The HTTP status of the answer.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The `error` member of the answer (contract gateway A17).
            #[must_use]
            pub fn error(self) -> &'static str {
                match self { $(Self::$name => $error,)* }
            }

            /// The `error_description` member of the answer.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self { $(Self::$name => $description,)* }
            }
        }
    };
}

deny_reasons! {
    /// `aud` does not hold what this role is.
    AudienceMismatch => "audience_mismatch", 401, "invalid_token", "audience not accepted here";
    /// Evidence cannot be delivered and the buffer is full.
    AuditBacklog => "audit_backlog", 503, "sts_unavailable", "evidence cannot be recorded";
    /// The bearer is longer than 4096 bytes.
    BearerTooLarge => "bearer_too_large", 401, "invalid_token", "bearer token too large";
    /// The header `X-Caracal-Client-ID` is there.
    ClientIdHeader => "client_id_header", 400, "invalid_token", "client identity derives from the bearer token";
    /// `client_id` is missing or no id.
    ClientMissing => "client_missing", 401, "invalid_token", "missing token client";
    /// `Authorization` stands more than once.
    DuplicateAuthorization => "duplicate_authorization", 401, "invalid_token", "more than one authorization header";
    /// `X-Caracal-Resource` stands more than once.
    DuplicateResource => "duplicate_resource", 400, "invalid_token", "more than one resource header";
    /// The mandate is expired, or about to be.
    Expiring => "expiring", 401, "credential_expired_not_renewable", "credential expiring within pre-flight window";
    /// The filter has no snapshot, or one that is too old.
    FeedStale => "feed_stale", 503, "sts_unavailable", "revocation state unavailable";
    /// The mandate is newer than what the filter knows, and the STS cannot be asked.
    FilterBehind => "filter_behind", 503, "sts_unavailable", "authority state is being refreshed";
    /// `iat` lies in the future.
    IssuedInFuture => "issued_in_future", 401, "invalid_token", "issued in the future";
    /// `iss` is not the STS.
    IssuerMismatch => "issuer_mismatch", 401, "invalid_token", "issuer not accepted";
    /// Something failed inside the filter.
    Internal => "internal", 500, "internal_error", "internal error";
    /// `jwt_authn` was to verify the bearer, and did not do so for this request.
    JwtAuthnMissing => "jwt_authn_missing", 401, "invalid_token", "bearer not verified";
    /// The token is no compact JWS with a JSON payload and an `exp`.
    MalformedBearer => "malformed_bearer", 401, "invalid_token", "malformed bearer token";
    /// A required claim is missing or malformed.
    MalformedClaims => "malformed_claims", 401, "invalid_token", "claims incomplete or malformed";
    /// An MCP request has a body that is not `application/json` in UTF-8, or is encoded.
    McpContent => "mcp_content", 415, "invalid_request", "mcp takes application/json without content-encoding";
    /// The body of an MCP request is missing, no JSON-RPC, or could be read in two ways.
    McpMalformed => "mcp_malformed", 400, "invalid_request", "not a well-formed mcp message";
    /// The resource does not declare this MCP method.
    McpMethod => "mcp_method", 403, "operation_not_permitted", "mcp method not permitted";
    /// The resource does not declare this MCP tool.
    McpTool => "mcp_tool", 403, "operation_not_permitted", "mcp tool not permitted";
    /// The resource speaks MCP, and this filter is not configured to read bodies.
    McpUnread => "mcp_unread", 503, "internal_error", "mcp is not enabled at this gateway";
    /// No bearer token.
    MissingBearer => "missing_bearer", 401, "invalid_token", "missing bearer token";
    /// No resource is named.
    MissingResource => "missing_resource", 400, "invalid_token", "missing routing headers";
    /// The operation is not declared.
    OperationNotPermitted => "operation_not_permitted", 403, "operation_not_permitted", "operation not permitted";
    /// The path holds a dot segment, a backslash or a bad escape.
    PathTraversal => "path_traversal", 400, "invalid_token", "path traversal not permitted";
    /// The body is larger than allowed.
    PayloadTooLarge => "payload_too_large", 413, "payload_too_large", "request body too large";
    /// Policy changed after minting, and the STS cannot be asked.
    PolicyChanged => "policy_changed", 401, "invalid_token", "policy changed since this mandate was minted";
    /// The provider's credential may not go to this host.
    ProviderHost => "provider_host", 502, "internal_error", "provider credential not allowed for upstream host";
    /// The mandate was used before.
    Replay => "replay", 401, "invalid_token", "token replay detected";
    /// The request cannot be built for the upstream.
    RequestBuild => "request_build", 400, "internal_error", "upstream request build failed";
    /// The zone has no such resource.
    ResourceUnknown => "resource_unknown", 403, "access_denied", "resource not found";
    /// One of the mandate's anchors is revoked.
    Revoked => "revoked", 401, "invalid_token", "session revoked";
    /// The mandate lacks the scope that the operation needs.
    ScopeMissing => "scope_missing", 403, "operation_not_permitted", "operation not permitted";
    /// Signature, `alg` or `kid` is not good.
    SignatureInvalid => "signature_invalid", 401, "invalid_token", "bearer signature invalid";
    /// The circuit towards the STS is open.
    StsCircuitOpen => "sts_circuit_open", 503, "sts_unavailable", "sts unavailable";
    /// The STS answered something that is no answer.
    StsInvalid => "sts_invalid", 502, "sts_unavailable", "sts response invalid";
    /// The STS refused; its own error is passed on.
    StsRefused => "sts_refused", 403, "access_denied", "refused by the sts";
    /// The STS did not answer in time.
    StsTimeout => "sts_timeout", 504, "sts_unavailable", "sts timeout";
    /// The STS cannot be reached.
    StsUnreachable => "sts_unreachable", 502, "sts_unavailable", "sts unavailable";
    /// `target` does not hold the resource.
    TargetMismatch => "target_mismatch", 403, "access_denied", "mandate not granted for this resource";
    /// The STS named no upstream for the resource.
    UpstreamMissing => "upstream_missing", 403, "access_denied", "resource upstream not configured";
    /// The request asks for another protocol, which this filter is not configured to let through, or not here.
    UpgradeRefused => "upgrade_refused", 403, "access_denied", "upgrade not supported";
    /// The upstream's URL may not be called.
    UpstreamNotAddressable => "upstream_not_addressable", 502, "internal_error", "upstream not addressable";
    /// `use` is another class.
    UseMismatch => "use_mismatch", 401, "invalid_token", "mandate class not accepted here";
    /// `zone_id` is missing or no id.
    ZoneMissing => "zone_missing", 401, "invalid_token", "missing token zone";
    /// The mandate belongs to another zone than the one that is bound.
    ZoneMismatch => "zone_mismatch", 401, "invalid_token", "mandate of another zone";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_one_code_of_its_own() {
        let labels: HashSet<_> = DenyReason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), DenyReason::ALL.len());
        for reason in DenyReason::ALL {
            assert!((400..600).contains(&reason.status()), "{reason:?}");
            assert!(!reason.description().is_empty());
        }
    }
}
