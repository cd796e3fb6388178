//! The claims of a mandate (contract sts §19.3), parsed once and typed from then on.

use crate::anchor::Anchor;
use crate::epoch::AuthorityEpoch;
use crate::id::{AgentSessionId, ApplicationId, AuthorityRecordId, DelegationEdgeId, MandateId, ZoneId};
use crate::json::Member;
use crate::scope::ScopeSet;
use crate::tree::Tree;
use serde::{Deserialize, Deserializer, Serialize};
use std::str::FromStr;

/// The longest delegation path that any mandate may carry (contract sts §11.12).
pub const MAX_HOPS: usize = 10;

/// Why a payload does not hold the claims of a mandate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimsError {
    /// The payload is not JSON, or a claim stands twice.
    #[error("the claims are malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A claim is missing, or is not what it has to be.
    #[error("the claims are malformed: {0}")]
    Claim(#[from] Member),
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

impl ChainHop {
    fn read(hop: &Tree<'_>) -> Result<Self, Member> {
        if !hop.is_object() {
            return Err(Member("delegation_chain"));
        }
        Ok(Self {
            application_id: id(hop, "application_id")?,
            agent_session_id: maybe_id(hop, "agent_session_id")?,
            delegation_edge_id: maybe_id(hop, "delegation_edge_id")?,
        })
    }
}

/// Parses a payload, which is a JSON object.
pub(crate) fn object(payload: &[u8]) -> Result<Tree<'_>, ClaimsError> {
    let tree = Tree::parse(payload)?;
    if tree.is_object() { Ok(tree) } else { Err(ClaimsError::NotAnObject) }
}

fn id<T: FromStr>(claims: &Tree<'_>, name: &'static str) -> Result<T, Member> {
    claims.text(name)?.parse().map_err(|_| Member(name))
}

fn maybe_id<T: FromStr>(claims: &Tree<'_>, name: &'static str) -> Result<Option<T>, Member> {
    match claims.get(name) {
        None | Some(Tree::Null) => Ok(None),
        Some(_) => id(claims, name).map(Some),
    }
}

/// A list of texts; none where it is not there.
fn texts<T>(claims: &Tree<'_>, name: &'static str, of: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Member> {
    let texts = claims.items(name)?.iter().map(|item| of(item.as_text()?));
    texts.collect::<Option<_>>().ok_or(Member(name))
}

impl Claims {
    /// Parses a payload. Unknown claims are ignored; a claim that stands twice is an error.
    pub fn from_json(payload: &[u8]) -> Result<Self, ClaimsError> {
        Self::of(&object(payload)?)
    }

    /// Reads a payload that was parsed.
    pub(crate) fn of(payload: &Tree<'_>) -> Result<Self, ClaimsError> {
        let claims = Self::read(payload)?;
        let hops = claims.delegation_path.len();
        let chain_fits =
            claims.delegation_chain.is_empty() || claims.delegation_chain.len() == hops.saturating_add(1);
        if hops > MAX_HOPS || u64::try_from(hops) != Ok(claims.hop_count) || !chain_fits {
            return Err(ClaimsError::Hops);
        }
        Ok(claims)
    }

    /// What the derived reader reads, and no more.
    fn read(claims: &Tree<'_>) -> Result<Self, Member> {
        let owned = |text: &str| Some(text.to_owned());
        Ok(Self {
            iss: claims.text("iss")?.to_owned(),
            sub: claims.text("sub")?.to_owned(),
            aud: match claims.required("aud")? {
                Tree::Text(one) => vec![one.clone().into_owned()],
                _ => texts(claims, "aud", owned)?,
            },
            exp: claims.whole("exp")?,
            iat: claims.whole("iat")?,
            jti: id(claims, "jti")?,
            zone_id: id(claims, "zone_id")?,
            client_id: id(claims, "client_id")?,
            scope: match claims.get("scope") {
                None => String::new(),
                Some(_) => claims.text("scope")?.to_owned(),
            },
            sid: id(claims, "sid")?,
            root_sid: id(claims, "root_sid")?,
            usage: match claims.text("use")? {
                "gateway" => MandateUse::Gateway,
                "resource" => MandateUse::Resource,
                "session" => MandateUse::Session,
                _ => return Err(Member("use")),
            },
            sub_type: match claims.text("sub_type")? {
                "application" => SubjectType::Application,
                "user" => SubjectType::User,
                _ => return Err(Member("sub_type")),
            },
            target: texts(claims, "target", owned)?,
            agent_session_id: maybe_id(claims, "agent_session_id")?,
            delegation_edge_id: maybe_id(claims, "delegation_edge_id")?,
            source_session_id: maybe_id(claims, "source_session_id")?,
            target_session_id: maybe_id(claims, "target_session_id")?,
            delegation_path: texts(claims, "delegation_path", |edge| edge.parse().ok())?,
            delegation_chain: claims
                .items("delegation_chain")?
                .iter()
                .map(ChainHop::read)
                .collect::<Result<_, _>>()?,
            hop_count: claims.count("hop_count")?,
            delegation_graph_epoch: claims.count("delegation_graph_epoch")?,
            authority_epoch: AuthorityEpoch(claims.count("authority_epoch")?),
            multi_use: claims.flag("multi_use")?,
        })
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
        let mut distinct: Vec<Anchor> = Vec::with_capacity(anchors.len());
        for anchor in anchors {
            if !distinct.contains(&anchor) {
                distinct.push(anchor);
            }
        }
        distinct
    }
}

/// What a gateway looks at before it knows whether the signature is good (contract gateway A5 rows 4 to 9).
#[derive(Debug, Clone)]
pub struct Peek {
    /// End of validity, unix seconds.
    pub exp: i64,
    /// The zone, if it is a zone id.
    pub zone_id: Option<ZoneId>,
    /// The application, if it is an application id.
    pub client_id: Option<ApplicationId>,
}

impl Peek {
    /// Parses a payload and reads the three claims.
    pub fn from_json(payload: &[u8]) -> Result<Self, ClaimsError> {
        Self::of(&object(payload)?)
    }

    /// Reads the three claims; only `exp` has to be there, as an integer other than 0.
    pub(crate) fn of(payload: &Tree<'_>) -> Result<Self, ClaimsError> {
        let exp = payload.whole("exp")?;
        if exp == 0 {
            return Err(Member("exp").into());
        }
        Ok(Self { exp, zone_id: id(payload, "zone_id").ok(), client_id: id(payload, "client_id").ok() })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::Value;

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
        let mut names: Vec<String> = claims.anchors().iter().map(ToString::to_string).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "agent_session:P",
                "agent_session:T",
                "application:a1",
                "authority_record:S2",
                "delegation_edge:E"
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
    fn the_derived_reader_and_this_one_are_the_same() {
        let good: Value = serde_json::from_str(DELEGATED).unwrap();
        let values = [
            Value::Null,
            true.into(),
            0.into(),
            (-1).into(),
            1.5.into(),
            u64::MAX.into(),
            "".into(),
            "a1".into(),
            "a/b".into(),
            "user".into(),
            serde_json::json!([]),
            serde_json::json!(["E"]),
            serde_json::json!(["E", 7]),
            serde_json::json!([{}]),
            serde_json::json!([[]]),
            serde_json::json!({}),
        ];
        let names: Vec<&String> = good.as_object().unwrap().keys().collect();
        let more = ["multi_use".to_owned(), "unknown".to_owned()];
        for name in names.into_iter().chain(&more) {
            let mut cases: Vec<Value> = values
                .iter()
                .map(|value| {
                    let mut changed = good.clone();
                    changed[name] = value.clone();
                    changed
                })
                .collect();
            let mut without = good.clone();
            without.as_object_mut().unwrap().remove(name);
            cases.push(without);
            for case in cases {
                let derived = serde_json::from_value::<Claims>(case.clone()).ok();
                let text = case.to_string();
                let read = Claims::read(&Tree::parse(text.as_bytes()).unwrap()).ok();
                assert_eq!(read, derived, "{name}: {case}");
            }
        }
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
