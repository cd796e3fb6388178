//! Contract gateway A5 and Part E, decided without any host.

use super::*;
use crate::anchor::{Anchor, RevokedAnchor};
use crate::epoch::{AuthorityEpoch, Generation, PolicyEpoch};
use crate::es256::pure::PureVerifier;
use crate::es256::{PublicKey, Signature};
use crate::feed::{FeedResponse, ResourceEntry, ZoneFeed};
use crate::id::{AgentSessionId, AuthorityRecordId, DelegationEdgeId, KeyId};
use crate::jwks::Jwk;
use crate::operation::{Operation, OperationEnforcement, PathMatch};
use crate::scope::Scope;
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer;
use std::cell::Cell;

const NOW: u64 = 1_000_000;
const RESOURCE: &str = "resource://orders";

struct World {
    signing: SigningKey,
    state: FeedState,
    cache: SignatureCache,
}

/// Counts how often a signature is really verified.
struct Counting(Cell<u32>);

impl Es256Verifier for Counting {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        self.0.set(self.0.get() + 1);
        PureVerifier.verify(key, message, signature)
    }
}

fn zone_feed(keys: Option<Vec<Jwk>>) -> ZoneFeed {
    ZoneFeed {
        zone_id: ZoneId::new("z1").unwrap(),
        authority_epoch: AuthorityEpoch(3),
        policy_epoch: PolicyEpoch(2),
        keys,
        resources: vec![],
        removed_resources: vec![],
        revoked: vec![],
        restored: vec![],
    }
}

impl World {
    fn new() -> Self {
        Self::with_key(7)
    }

    fn with_key(seed: u8) -> Self {
        let signing = SigningKey::from_slice(&[seed; 32]).unwrap();
        let point = signing.verifying_key().to_sec1_point(false);
        let bytes = point.as_bytes();
        let key = PublicKey { x: bytes[1..33].try_into().unwrap(), y: bytes[33..].try_into().unwrap() };
        let resource = |identifier: &str, multi_use| ResourceEntry {
            identifier: ResourceIdentifier::new(identifier).unwrap(),
            operations: vec![Operation {
                method: "GET".into(),
                path: "/v1/orders".into(),
                scope: Scope::new("orders:read").unwrap(),
                matching: PathMatch::Exact,
            }],
            enforcement: OperationEnforcement::Enforced,
            multi_use,
            scopes: vec![],
            upstream: None,
            mcp: None,
        };
        let mut state = FeedState::default();
        let zone = ZoneFeed {
            resources: vec![resource(RESOURCE, false), resource("resource://multi", true)],
            ..zone_feed(Some(vec![Jwk::new(KeyId::new("k1").unwrap(), &key)]))
        };
        let snapshot = FeedResponse {
            previous: Generation(0),
            generation: Generation(1),
            snapshot: true,
            issuer: "http://sts:8080".into(),
            time: NOW,
            zones: vec![zone],
            removed_zones: vec![],
        };
        state.apply(snapshot).unwrap();
        Self { signing, state, cache: SignatureCache::new(16) }
    }

    fn update(&mut self, zone: ZoneFeed) {
        let generation = self.state.generation;
        let delta = FeedResponse {
            previous: generation,
            generation: Generation(generation.0 + 1),
            snapshot: false,
            issuer: "http://sts:8080".into(),
            time: NOW,
            zones: vec![zone],
            removed_zones: vec![],
        };
        self.state.apply(delta).unwrap();
    }

    fn sign(&self, payload: &serde_json::Value) -> String {
        let input = crate::jws::signing_input(&KeyId::new("k1").unwrap(), payload.to_string().as_bytes());
        let signature: p256::ecdsa::Signature = self.signing.sign(input.as_bytes());
        crate::jws::with_signature(input, &Signature(signature.to_bytes().into()))
    }

    fn token(&self, change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut claims = serde_json::from_str(crate::claims::tests::DELEGATED).unwrap();
        change(&mut claims);
        self.sign(&claims)
    }

    fn decide(&mut self, facts: &Facts<'_>) -> Decision {
        decide(facts, &self.state, &mut self.cache, &PureVerifier)
    }

    /// Decides `GET /v1/orders` at a gateway with this token.
    fn gateway(&mut self, token: &str) -> Verdict {
        self.gateway_with(&format!("Bearer {token}"), |_| {})
    }

    fn gateway_with(&mut self, authorization: &str, change: impl FnOnce(&mut Facts<'_>)) -> Verdict {
        let mut facts = Facts {
            role: Role::Gateway,
            binding: Binding::Header { zone: None, values: &[RESOURCE.as_bytes()] },
            authorization: &[authorization.as_bytes()],
            client_id: &[],
            method: b"GET",
            path: b"/v1/orders?page=1",
            operation: None,
            now: NOW,
        };
        change(&mut facts);
        self.decide(&facts).verdict
    }
}

/// Facts borrow; a test may leak what it lends.
fn forever<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn reason(verdict: &Verdict) -> Option<DenyReason> {
    match verdict {
        Verdict::Deny(reason) => Some(*reason),
        Verdict::Allow(_) | Verdict::Ask(..) | Verdict::Read(_) => None,
    }
}

#[test]
fn a_good_single_use_mandate_leads_to_the_sts() {
    let mut world = World::new();
    let token = world.token(|_| {});
    assert!(matches!(world.gateway(&token), Verdict::Ask(_, Doubt::SingleUse)));
}

#[test]
fn contract_gateway_a5_rows_2_to_4_bearer_shape() {
    let mut world = World::new();
    let good = world.token(|_| {});
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = head.split_once('.').unwrap();
    let with_payload = |json: &str| world.sign(&serde_json::from_str(json).unwrap());
    let cases = [
        ("Basic x".to_owned(), DenyReason::MissingBearer),
        ("Bearer".into(), DenyReason::MissingBearer),
        ("Bearer   ".into(), DenyReason::MissingBearer),
        (format!("Bearer\t{good}"), DenyReason::MissingBearer),
        (format!("Bearer {}", "a".repeat(4097)), DenyReason::BearerTooLarge),
        (format!("Bearer {header}.{payload}"), DenyReason::MalformedBearer),
        (format!("Bearer {good}.x"), DenyReason::MalformedBearer),
        (format!("Bearer {header}.{payload}=.{signature}"), DenyReason::MalformedBearer),
        (format!("Bearer {good}, {good}"), DenyReason::MalformedBearer),
        (format!("Bearer {}", with_payload(r#"{"iss":"x"}"#)), DenyReason::MalformedBearer),
        (format!("Bearer {}", with_payload(r#"{"exp":0}"#)), DenyReason::MalformedBearer),
        (format!("Bearer {}", with_payload(r#"{"exp":"1300"}"#)), DenyReason::MalformedBearer),
        (format!("Bearer {}", with_payload(r#"{"exp":1300.5}"#)), DenyReason::MalformedBearer),
        (format!("Bearer {}", with_payload(r#"{"exp":-1}"#)), DenyReason::Expiring),
        (format!("Bearer {}", with_payload("[1300]")), DenyReason::MalformedBearer),
    ];
    for (authorization, expected) in cases {
        let verdict = world.gateway_with(&authorization, |_| {});
        assert_eq!(reason(&verdict), Some(expected), "{authorization}");
    }
    assert_eq!(
        reason(&world.gateway_with("", |facts| facts.authorization = &[])),
        Some(DenyReason::MissingBearer)
    );
    let twice = world.gateway_with("", |facts| facts.authorization = &[b"Bearer a", b"Bearer b"]);
    assert_eq!(reason(&twice), Some(DenyReason::DuplicateAuthorization));
    for scheme in ["bearer", "BEARER"] {
        assert_eq!(reason(&world.gateway_with(&format!("{scheme}  {good}  "), |_| {})), None);
    }
}

#[test]
fn contract_gateway_a5_row_5_thirty_five_seconds() {
    let mut world = World::new();
    for (left, expected) in [(34, Some(DenyReason::Expiring)), (35, None), (-5, Some(DenyReason::Expiring))] {
        let token = world.token(|claims| claims["exp"] = (1000 + left).into());
        assert_eq!(reason(&world.gateway(&token)), expected, "{left}");
    }
}

#[test]
fn contract_gateway_a5_rows_6_to_10_routing() {
    let mut world = World::new();
    let token = format!("Bearer {}", world.token(|_| {}));
    let other = forever(ZoneId::new("z2").unwrap());
    type Change = fn(&mut Facts<'_>);
    let cases: [(Change, DenyReason); 8] = [
        (|facts| facts.client_id = &[b"a1"], DenyReason::ClientIdHeader),
        (|facts| facts.binding = Binding::Header { zone: None, values: &[] }, DenyReason::MissingResource),
        (
            |facts| facts.binding = Binding::Header { zone: None, values: &[b"  "] },
            DenyReason::MissingResource,
        ),
        (
            |facts| facts.binding = Binding::Header { zone: None, values: &[b"a\xff"] },
            DenyReason::MissingResource,
        ),
        (
            |facts| facts.binding = Binding::Header { zone: None, values: &[b"a", b"a"] },
            DenyReason::DuplicateResource,
        ),
        (|facts| facts.path = b"/v1/../orders", DenyReason::PathTraversal),
        (|facts| facts.path = b"/v1/%252e%252e/orders", DenyReason::PathTraversal),
        (|facts| facts.path = b"/v1/%5corders", DenyReason::PathTraversal),
    ];
    for (change, expected) in cases {
        assert_eq!(reason(&world.gateway_with(&token, change)), Some(expected));
    }
    let bound = world.gateway_with(&token, |facts| {
        facts.binding = Binding::Header { zone: Some(other), values: &[b"resource://orders"] };
    });
    assert_eq!(reason(&bound), Some(DenyReason::ZoneMismatch));
    for (claim, expected) in [("zone_id", DenyReason::ZoneMissing), ("client_id", DenyReason::ClientMissing)]
    {
        let token = world.token(|claims| claims[claim] = "a/b".into());
        assert_eq!(reason(&world.gateway(&token)), Some(expected));
    }
}

#[test]
fn contract_gateway_a5_row_11_signature() {
    let mut world = World::new();
    let good = world.token(|_| {});
    let forged = World::with_key(9).token(|_| {});
    assert_eq!(reason(&world.gateway(&forged)), Some(DenyReason::SignatureInvalid));
    let moved = world.token(|claims| claims["zone_id"] = "z9".into());
    assert_eq!(reason(&world.gateway(&moved)), Some(DenyReason::SignatureInvalid));
    let (head, _) = good.rsplit_once('.').unwrap();
    let der = crate::jws::with_signature(head.to_owned(), &Signature([0; 64]));
    assert_eq!(reason(&world.gateway(&der)), Some(DenyReason::SignatureInvalid));
}

#[test]
fn contract_gateway_e17_e18_claims_and_anchors() {
    let mut world = World::new();
    type Change = fn(&mut serde_json::Value);
    let cases: [(Change, DenyReason); 8] = [
        (|claims| claims["use"] = "session".into(), DenyReason::UseMismatch),
        (|claims| claims["use"] = "resource".into(), DenyReason::UseMismatch),
        (|claims| claims["iss"] = "http://other".into(), DenyReason::IssuerMismatch),
        (|claims| claims["aud"] = serde_json::json!([RESOURCE]), DenyReason::AudienceMismatch),
        (|claims| claims["iat"] = 1061.into(), DenyReason::IssuedInFuture),
        (|claims| claims["target"] = serde_json::json!(["resource://other"]), DenyReason::TargetMismatch),
        (|claims| claims["jti"] = serde_json::Value::Null, DenyReason::MalformedClaims),
        (|claims| claims["scope"] = "orders:write".into(), DenyReason::ScopeMissing),
    ];
    for (change, expected) in cases {
        let token = world.token(change);
        assert_eq!(reason(&world.gateway(&token)), Some(expected), "{expected:?}");
    }
    let anchors = [
        Anchor::AuthorityRecord(AuthorityRecordId::new("S2").unwrap()),
        Anchor::AgentSession(AgentSessionId::new("T").unwrap()),
        Anchor::AgentSession(AgentSessionId::new("P").unwrap()),
        Anchor::DelegationEdge(DelegationEdgeId::new("E").unwrap()),
        Anchor::Application(crate::id::ApplicationId::new("a1").unwrap()),
    ];
    for anchor in anchors {
        let mut world = World::new();
        let token = world.token(|_| {});
        assert_eq!(reason(&world.gateway(&token)), None);
        let revoked = vec![RevokedAnchor { anchor: anchor.clone(), until: NOW + 1 }];
        world.update(ZoneFeed { revoked, ..zone_feed(None) });
        assert_eq!(reason(&world.gateway(&token)), Some(DenyReason::Revoked), "{anchor}");
    }
}

#[test]
fn multi_use_mandates_are_decided_by_epoch() {
    let cases = [(2, None), (3, None), (1, Some(Doubt::PolicyChanged)), (4, Some(Doubt::FilterBehind))];
    for (epoch, doubt) in cases {
        let mut world = World::new();
        let token = world.token(|claims| {
            claims["authority_epoch"] = epoch.into();
            claims["multi_use"] = true.into();
            claims["target"] = serde_json::json!(["resource://multi", RESOURCE]);
        });
        let bearer = format!("Bearer {token}");
        let verdict = world.gateway_with(&bearer, |facts| {
            facts.binding = Binding::Header { zone: None, values: &[b"resource://multi"] };
        });
        match (verdict, doubt) {
            (Verdict::Allow(_), None) => {}
            (Verdict::Ask(_, got), Some(expected)) => assert_eq!(got, expected),
            (other, _) => panic!("{epoch}: {other:?}"),
        }
        assert!(matches!(world.gateway(&token), Verdict::Ask(_, Doubt::SingleUse)));
    }
}

#[test]
fn a_resource_that_speaks_mcp_has_one_path_and_its_bodies_are_read() {
    let mut world = World::new();
    let mut entry = (**world
        .state
        .zone(&ZoneId::new("z1").unwrap())
        .unwrap()
        .resource(forever(ResourceIdentifier::new(RESOURCE).unwrap()))
        .unwrap())
    .clone();
    let mcp = |path: &str| serde_json::from_value(serde_json::json!({ "path": path })).unwrap();
    for (enforcement, path, bound, expected) in [
        (OperationEnforcement::Enforced, "/v1/orders", None, None),
        (OperationEnforcement::Enforced, "/mcp", None, Some(DenyReason::OperationNotPermitted)),
        (OperationEnforcement::TransportUniform, "/v1/orders", None, None),
        (OperationEnforcement::TransportUniform, "/mcp", None, Some(DenyReason::OperationNotPermitted)),
        (OperationEnforcement::TransportUniform, "/mcp", Some("GET /mcp"), None),
    ] {
        entry.enforcement = enforcement;
        entry.mcp = Some(mcp(path));
        world.update(ZoneFeed { resources: vec![entry.clone()], ..zone_feed(None) });
        let token = world.token(|_| {});
        let verdict = world.gateway_with(&format!("Bearer {token}"), |facts| facts.operation = bound);
        assert_eq!(reason(&verdict), expected, "{path}");
        let read =
            matches!(&verdict, Verdict::Read(next) if matches!(**next, Verdict::Ask(_, Doubt::SingleUse)));
        assert_eq!(read, expected.is_none(), "{verdict:?}");
    }
}

#[test]
fn the_resource_role_takes_resource_mandates_for_its_own_resource() {
    let mut world = World::new();
    let resource = forever(ResourceIdentifier::new(RESOURCE).unwrap());
    let zone = forever(ZoneId::new("z1").unwrap());
    let mut decide = |change: fn(&mut serde_json::Value)| {
        let token = world.token(|claims| {
            claims["use"] = "resource".into();
            claims["aud"] = serde_json::json!([RESOURCE]);
            change(claims);
        });
        let authorization = format!("Bearer {token}");
        let verdict = world.gateway_with(&authorization, |facts| {
            facts.role = Role::Resource;
            facts.binding = Binding::Fixed { zone: Some(zone), resource };
        });
        reason(&verdict)
    };
    assert_eq!(decide(|_| {}), None);
    assert_eq!(decide(|claims| claims["exp"] = 1001.into()), None);
    assert_eq!(decide(|claims| claims["exp"] = 1000.into()), Some(DenyReason::Expiring));
    assert_eq!(decide(|claims| claims["use"] = "gateway".into()), Some(DenyReason::UseMismatch));
    let other: fn(&mut serde_json::Value) = |claims| claims["aud"] = serde_json::json!(["http://sts:8080"]);
    assert_eq!(decide(other), Some(DenyReason::AudienceMismatch));
}

#[test]
fn a_signature_is_verified_once_and_again_after_rotation() {
    let mut world = World::new();
    let counting = Counting(Cell::new(0));
    let authorization = format!("Bearer {}", world.token(|claims| claims["multi_use"] = true.into()));
    let facts = Facts {
        role: Role::Gateway,
        binding: Binding::Header { zone: None, values: &[RESOURCE.as_bytes()] },
        authorization: &[authorization.as_bytes()],
        client_id: &[],
        method: b"GET",
        path: b"/v1/orders",
        operation: None,
        now: NOW,
    };
    for _ in 0..3 {
        decide(&facts, &world.state, &mut world.cache, &counting);
    }
    assert_eq!(counting.0.get(), 1);
    world.update(zone_feed(Some(vec![])));
    let gone = decide(&facts, &world.state, &mut world.cache, &counting).verdict;
    assert_eq!(reason(&gone), Some(DenyReason::SignatureInvalid));
}

#[test]
fn the_signature_cache_is_bounded() {
    let mut world = World::new();
    world.cache = SignatureCache::new(4);
    for number in 0..40 {
        let token = world.token(|claims| {
            claims["jti"] = format!("j{number}").into();
            claims["multi_use"] = true.into();
        });
        world.gateway(&token);
        assert!((1..=4).contains(&world.cache.len()));
    }
    world.cache = SignatureCache::new(4);
    world.gateway(&world.token(|_| {}));
    assert!(world.cache.is_empty(), "what passes once is not looked for again");
}
