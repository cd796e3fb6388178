//! The same decisions inside wasm as outside: run by `wasm-bindgen-test` under Node.
#![cfg(target_arch = "wasm32")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use caracal_mandate::anchor::{Anchor, RevokedAnchor};
use caracal_mandate::decide::{Binding, Facts, Role, SignatureCache, decide};
use caracal_mandate::epoch::{AuthorityEpoch, Generation, PolicyEpoch};
use caracal_mandate::es256::pure::PureVerifier;
use caracal_mandate::es256::{PublicKey, Signature, known_answer};
use caracal_mandate::feed::{FeedResponse, FeedState, ResourceEntry, ZoneFeed};
use caracal_mandate::gateway_signature::{GatewayKey, Signed};
use caracal_mandate::id::{AgentSessionId, KeyId, ResourceIdentifier, ZoneId};
use caracal_mandate::jwks::Jwk;
use caracal_mandate::jws;
use caracal_mandate::operation::OperationEnforcement;
use caracal_mandate::path::DecodedPath;
use caracal_mandate::verdict::{DenyReason, Doubt, Verdict};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer;
use wasm_bindgen_test::wasm_bindgen_test;

const NOW: u64 = 1_000_000;

fn signing_key() -> (SigningKey, PublicKey) {
    let signing = SigningKey::from_slice(&[7; 32]).unwrap();
    let point = signing.verifying_key().to_sec1_point(false);
    let bytes = point.as_bytes();
    let key = PublicKey { x: bytes[1..33].try_into().unwrap(), y: bytes[33..].try_into().unwrap() };
    (signing, key)
}

fn state(key: &PublicKey, revoked: Vec<RevokedAnchor>) -> FeedState {
    let resource = ResourceEntry {
        identifier: ResourceIdentifier::new("resource://orders").unwrap(),
        operations: vec![],
        enforcement: OperationEnforcement::TransportUniform,
        multi_use: false,
        scopes: vec![],
        upstream: None,
        mcp: None,
    };
    let zone = ZoneFeed {
        zone_id: ZoneId::new("z1").unwrap(),
        authority_epoch: AuthorityEpoch(1),
        policy_epoch: PolicyEpoch(0),
        keys: Some(vec![Jwk::new(KeyId::new("k1").unwrap(), key)]),
        resources: vec![resource],
        removed_resources: vec![],
        revoked,
        restored: vec![],
    };
    let snapshot = FeedResponse {
        previous: Generation(0),
        generation: Generation(1),
        snapshot: true,
        issuer: "http://sts".into(),
        time: NOW,
        zones: vec![zone],
        removed_zones: vec![],
    };
    let mut state = FeedState::default();
    state.apply(serde_json::from_str(&serde_json::to_string(&snapshot).unwrap()).unwrap()).unwrap();
    state
}

fn token(signing: &SigningKey, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut claims = serde_json::json!({
        "iss": "http://sts", "sub": "a1", "aud": ["http://sts"], "exp": 1300, "iat": 1000, "jti": "j1", "zone_id": "z1",
        "client_id": "a1", "scope": "orders:read", "sid": "s1", "root_sid": "s1", "use": "gateway",
        "sub_type": "application", "target": ["resource://orders"], "agent_session_id": "t1", "authority_epoch": 1
    });
    change(&mut claims);
    let input = jws::signing_input(&KeyId::new("k1").unwrap(), claims.to_string().as_bytes());
    let signature: p256::ecdsa::Signature = signing.sign(input.as_bytes());
    jws::with_signature(input, &Signature(signature.to_bytes().into()))
}

fn judge(state: &FeedState, token: &str, path: &[u8]) -> Verdict {
    let authorization = format!("Bearer {token}");
    let facts = Facts {
        role: Role::Gateway,
        binding: Binding::Header { zone: None, values: &[b"resource://orders"] },
        authorization: &[authorization.as_bytes()],
        client_id: &[],
        method: b"GET",
        path,
        operation: None,
        now: NOW,
    };
    decide(&facts, state, &mut SignatureCache::new(4), &PureVerifier).verdict
}

#[wasm_bindgen_test]
fn the_known_answer_holds_in_wasm() {
    assert!(known_answer::holds(&PureVerifier));
}

#[wasm_bindgen_test]
fn a_mandate_is_judged_in_wasm_as_outside() {
    let (signing, key) = signing_key();
    let (good, known) = (token(&signing, |_| {}), state(&key, vec![]));
    assert!(matches!(judge(&known, &good, b"/v1"), Verdict::Ask(_, Doubt::SingleUse)));
    let refused = [
        (token(&signing, |claims| claims["exp"] = 1034.into()), DenyReason::Expiring),
        (token(&signing, |claims| claims["use"] = "resource".into()), DenyReason::UseMismatch),
        (token(&signing, |claims| claims["iss"] = "http://other".into()), DenyReason::IssuerMismatch),
        (token(&signing, |claims| claims["hop_count"] = 3.into()), DenyReason::MalformedClaims),
        (format!("{good}x"), DenyReason::SignatureInvalid),
        ("a.b".to_owned(), DenyReason::MalformedBearer),
    ];
    for (token, reason) in refused {
        assert!(
            matches!(judge(&known, &token, b"/v1"), Verdict::Deny(given) if given == reason),
            "{reason:?}"
        );
    }
    assert!(matches!(judge(&known, &good, b"/v1/%2e%2e/x"), Verdict::Deny(DenyReason::PathTraversal)));
    let anchor = Anchor::AgentSession(AgentSessionId::new("t1").unwrap());
    let revoked = state(&key, vec![RevokedAnchor { anchor, until: NOW + 1 }]);
    assert!(matches!(judge(&revoked, &good, b"/v1"), Verdict::Deny(DenyReason::Revoked)));
}

#[wasm_bindgen_test]
fn signatures_and_paths_are_the_same_in_wasm() {
    let key = GatewayKey::from_hex(&"0123456789abcdef".repeat(4)).unwrap();
    let signed = Signed { timestamp: "1700000000", nonce: "n", method: "get", path: "/x?y=z", body: b"" };
    assert!(key.verify(&signed, &key.sign(&signed)));
    assert_eq!(DecodedPath::parse(b"/a%20b").unwrap().as_bytes(), b"/a b");
    assert!(DecodedPath::parse(b"/%255c").is_err());
}
