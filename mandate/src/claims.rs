//! The claims of a mandate (contract sts §19.3), parsed once and typed from then on.

use crate::anchor::Anchor;
use crate::epoch::AuthorityEpoch;
use crate::id::{AgentSessionId, ApplicationId, AuthorityRecordId, DelegationEdgeId, MandateId, ZoneId};
use crate::scope::ScopeSet;
use serde::{Deserialize, Deserializer, Serialize};

/// The longest delegation path that any mandate may carry (contract sts §11.12).
pub const MAX_HOPS: usize = 10;

/// Why a payload does not hold the claims of a mandate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimsError {
    /// A claim is missing, has a wrong type, stands twice, or is out of its bounds.
    #[error("the claims are malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The payload is JSON but no object.
    #[error("the claims are not a JSON object")]
    NotAnObject,
    /// The delegation path is longer than [`MAX_HOPS`], or disagrees with `hop_count`.
    #[error("the delegation path and hop_count disagree or exceed {MAX_HOPS} hops")]
    Hops,
}

/// Where a mandate may be used. The classes are disjoint on purpose: one is never accepted for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MandateUse {
    /// At a gateway's ingress, once (or until `exp` where the resource is multi-use).
    Gateway,
    /// At the resource itself.
    Resource,
    /// At the Coordinator and for approval decisions.
    Session,
}

/// Who the subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectType {
    /// An application acting for itself.
    Application,
    /// A federated user.
    User,
}

/// One hop of a delegation chain; the last hop, the receiver, names no edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainHop {
    /// The application at this hop.
    pub application_id: ApplicationId,
    /// Its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_session_id: Option<AgentSessionId>,
    /// The edge to the next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation_edge_id: Option<DelegationEdgeId>,
}

/// All claims of a mandate. Times are unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The STS's issuer URL, verbatim.
    pub iss: String,
    /// The application id, or the federated user's subject verbatim.
    pub sub: String,
    /// The issuer for `session` and `gateway`, resource identifiers for `resource`.
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// End of validity.
    pub exp: i64,
    /// Time of minting, by the database's clock.
    pub iat: i64,
    /// This mandate's own id.
    pub jti: MandateId,
    /// The zone.
    pub zone_id: ZoneId,
    /// The acting application.
    pub client_id: ApplicationId,
    /// Space-delimited scopes as they were requested.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// This mandate's authority record.
    pub sid: AuthorityRecordId,
    /// The record at the root of the chain of exchanges.
    pub root_sid: AuthorityRecordId,
    /// Where it may be used.
    #[serde(rename = "use")]
    pub usage: MandateUse,
    /// Who the subject is.
    pub sub_type: SubjectType,
    /// Granted resource identifiers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target: Vec<String>,
    /// The governed session it acts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_session_id: Option<AgentSessionId>,
    /// The delegation it acts under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation_edge_id: Option<DelegationEdgeId>,
    /// Where that delegation comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_session_id: Option<AgentSessionId>,
    /// Where that delegation leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_session_id: Option<AgentSessionId>,
    /// Edge ids, root first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegation_path: Vec<DelegationEdgeId>,
    /// Who handed authority to whom, root first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegation_chain: Vec<ChainHop>,
    /// Length of the path.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hop_count: u64,
    /// The zone's delegation graph epoch at minting.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub delegation_graph_epoch: u64,
    /// The zone's authority epoch at minting.
    #[serde(default)]
    pub authority_epoch: AuthorityEpoch,
    /// May a gateway accept it any number of times until `exp`?
    #[serde(default, skip_serializing_if = "is_false")]
    pub multi_use: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

/// Parses a JSON object. Serde alone would take an array for a struct.
pub(crate) fn json_object<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, ClaimsError> {
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(ClaimsError::NotAnObject);
    }
    Ok(serde_json::from_slice(bytes)?)
}

impl Claims {
    /// Parses a payload. Unknown claims are ignored; a known claim that stands twice is an error.
    pub fn from_json(payload: &[u8]) -> Result<Self, ClaimsError> {
        let claims: Self = json_object(payload)?;
        let hops = claims.delegation_path.len();
        let chain_fits =
            claims.delegation_chain.is_empty() || claims.delegation_chain.len() == hops.saturating_add(1);
        if hops > MAX_HOPS || u64::try_from(hops) != Ok(claims.hop_count) || !chain_fits {
            return Err(ClaimsError::Hops);
        }
        Ok(claims)
    }

    /// The payload to sign.
    pub fn to_json(&self) -> Result<Vec<u8>, ClaimsError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// The `scope` claim as a set; a malformed scope yields the empty set, which permits nothing.
    #[must_use]
    pub fn scopes(&self) -> ScopeSet {
        ScopeSet::parse(&self.scope).unwrap_or_default()
    }

    /// Every anchor whose revocation takes this mandate along: its own and its root record, its session, and every
    /// edge, session and application of the delegation path, not just the last.
    #[must_use]
    pub fn anchors(&self) -> Vec<Anchor> {
        let mut anchors = vec![
            Anchor::AuthorityRecord(self.sid.clone()),
            Anchor::AuthorityRecord(self.root_sid.clone()),
            Anchor::Application(self.client_id.clone()),
        ];
        let sessions = [&self.agent_session_id, &self.source_session_id, &self.target_session_id];
        anchors.extend(sessions.into_iter().flatten().cloned().map(Anchor::AgentSession));
        let edges = self.delegation_edge_id.iter().chain(&self.delegation_path);
        anchors.extend(edges.cloned().map(Anchor::DelegationEdge));
        for hop in &self.delegation_chain {
            anchors.push(Anchor::Application(hop.application_id.clone()));
            anchors.extend(hop.agent_session_id.clone().map(Anchor::AgentSession));
            anchors.extend(hop.delegation_edge_id.clone().map(Anchor::DelegationEdge));
        }
        anchors.sort_unstable();
        anchors.dedup();
        anchors
    }
}

/// What a gateway looks at before it knows whether the signature is good (contract gateway A5 rows 4 to 9).
#[derive(Debug, Clone, Deserialize)]
pub struct Peek {
    /// End of validity, unix seconds.
    pub exp: i64,
    /// The zone, if it is a zone id.
    #[serde(default, deserialize_with = "lenient")]
    pub zone_id: Option<ZoneId>,
    /// The application, if it is an application id.
    #[serde(default, deserialize_with = "lenient")]
    pub client_id: Option<ApplicationId>,
}

impl Peek {
    /// Reads the three claims; only `exp` has to be there, as an integer other than 0.
    pub fn from_json(payload: &[u8]) -> Result<Self, ClaimsError> {
        let peek: Self = json_object(payload)?;
        if peek.exp == 0 {
            return Err(ClaimsError::Malformed(serde::de::Error::custom("exp is 0")));
        }
        Ok(peek)
    }
}

fn lenient<'de, D: Deserializer<'de>, T: TryFrom<String>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(match value {
        serde_json::Value::String(text) => T::try_from(text).ok(),
        _ => None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const DELEGATED: &str = r#"{"iss":"http://sts:8080","sub":"a1","aud":["http://sts:8080"],"exp":1300,"iat":1000,
        "jti":"j1","zone_id":"z1","client_id":"a1","scope":"orders:read","sid":"S2","root_sid":"S2","use":"gateway",
        "sub_type":"application","target":["resource://orders"],"agent_session_id":"T","delegation_edge_id":"E",
        "source_session_id":"P","target_session_id":"T","delegation_path":["E"],
        "delegation_chain":[{"application_id":"a1","agent_session_id":"P","delegation_edge_id":"E"},
                            {"application_id":"a1","agent_session_id":"T"}],
        "hop_count":1,"delegation_graph_epoch":7,"authority_epoch":3}"#;

    #[test]
    fn contract_sts_31_2_delegated_mandate() {
        let claims = Claims::from_json(DELEGATED.as_bytes()).unwrap();
        assert_eq!(claims.usage, MandateUse::Gateway);
        assert!(claims.scopes().contains("orders:read"));
        let again = Claims::from_json(&claims.to_json().unwrap()).unwrap();
        assert_eq!(again, claims);
        let names: Vec<String> = claims.anchors().iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "authority_record:S2",
                "agent_session:P",
                "agent_session:T",
                "delegation_edge:E",
                "application:a1"
            ]
        );
    }

    #[test]
    fn contract_gateway_e5_claims_of_a_wrong_shape_are_refused() {
        let good = Claims::from_json(DELEGATED.as_bytes()).unwrap();
        let value = serde_json::to_value(&good).unwrap();
        let cases: &[(&str, serde_json::Value)] = &[
            ("exp", "1300".into()),
            ("exp", 1300.5.into()),
            ("exp", serde_json::Value::Null),
            ("zone_id", "../z".into()),
            ("use", "any".into()),
            ("sub_type", "robot".into()),
            ("jti", "".into()),
            ("aud", 7.into()),
            ("hop_count", 2.into()),
            ("delegation_path", serde_json::json!([])),
            ("delegation_chain", serde_json::json!([{"application_id": ""}, {"application_id": "a"}])),
        ];
        for (claim, wrong) in cases {
            let mut changed = value.clone();
            changed[*claim] = wrong.clone();
            assert!(Claims::from_json(changed.to_string().as_bytes()).is_err(), "{claim} = {wrong}");
        }
        let doubled = DELEGATED.replacen("\"iss\"", "\"sid\":\"other\",\"iss\"", 1);
        assert!(Claims::from_json(doubled.as_bytes()).is_err());
        assert!(Claims::from_json(b"[]").is_err());
        assert!(Claims::from_json(b"null").is_err());
    }

    #[test]
    fn contract_gateway_a5_rows_4_8_9_peek() {
        assert!(Peek::from_json(br#"{"exp":0}"#).is_err());
        assert!(Peek::from_json(br#"{"exp":"5"}"#).is_err());
        assert!(Peek::from_json(br#"{"exp":99999999999999999999}"#).is_err());
        let peek = Peek::from_json(br#"{"exp":-5,"zone_id":"../x","client_id":7}"#).unwrap();
        assert_eq!((peek.exp, peek.zone_id, peek.client_id), (-5, None, None));
    }
}
