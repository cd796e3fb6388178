//! Cases 1 to 10 and 17: what a bearer may look like.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use caracal_filter_bed::issuer::{forge, join, mirror, signing_input, split};
use caracal_tests::{Raw, now_ms};
use serde_json::{Value, json};

use crate::real::real;
use crate::stand_in::{ORDERS, stand_in};
use crate::{
    CLAIMS, CLASS, EXPIRING, MALFORMED, MISSING, NO_CLIENT, NO_ZONE, REPLAY, SIGNATURE, TOO_LARGE, is,
};

#[test]
fn gateway_e_01_no_bearer() {
    real(async |real| {
        let bare = Raw::new("GET", "/v1/orders").with("x-caracal-resource", real.world.resource);
        let mandate = real.mint().await;
        let tab = format!("Bearer\t{mandate}");
        let glued = format!("Bearer{mandate}");
        let mut cases = vec![("none", bare, MISSING)];
        for authorization in ["Basic x", "Bearer", "Bearer ", "Bearer    ", "Token x", "", &tab, &glued] {
            cases.push((authorization, real.request(authorization), MISSING));
        }
        real.refuses(&cases).await;
    });
}

#[test]
fn gateway_e_02_any_case_and_blanks_around() {
    real(async |real| {
        for (before, after) in
            [("bearer ", ""), ("BEARER ", ""), ("Bearer ", "   "), ("Bearer  ", ""), ("bEaReR   ", " ")]
        {
            let authorization = format!("{before}{}{after}", real.mint().await);
            real.passes(&format!("{before:?}"), &real.request(&authorization)).await;
        }
    });
}

#[test]
fn gateway_e_03_two_authorizations() {
    real(async |real| {
        let good = format!("Bearer {}", real.mint().await);
        let (long, joined) = (format!("Bearer x,{good}"), format!("{good},Bearer x"));
        // Envoy joins two lines with a comma: what comes of it is no token, or one whose signature is none.
        real.refuses(&[
            ("good and bad", real.request(&good).with("authorization", "Bearer x"), SIGNATURE),
            ("bad and good", real.request("Bearer x").with("authorization", &good), SIGNATURE),
            ("good and good", real.request(&good).with("authorization", &good), MALFORMED),
            ("joined", real.request(&joined), SIGNATURE),
            ("joined the other way", real.request(&long), SIGNATURE),
        ])
        .await;
        real.passes("alone", &real.request(&good)).await;
    });
}

#[test]
fn gateway_e_04_large_headers() {
    real(async |real| {
        let (long, longest) = ("a".repeat(4_097), "a".repeat(4_096));
        real.refuses(&[("4097", real.bearer(&long), TOO_LARGE), ("4096", real.bearer(&longest), MALFORMED)])
            .await;
        let (asked, seen) = (real.asked().await, real.upstream.seen().len());
        let answered = real.send(&real.bearer(&"a".repeat(100_000))).await;
        assert_eq!(answered.status, 431, "{answered:?}");
        assert_eq!((real.asked().await, real.upstream.seen().len()), (asked, seen));
    });
}

#[test]
fn gateway_e_05_malformed_tokens() {
    real(async |real| {
        let mandate = real.mint().await;
        let parts: Vec<&str> = mandate.split('.').collect();
        let (header, payload, signature) = (parts[0], parts[1], parts[2]);
        let bytes = URL_SAFE_NO_PAD.decode(payload).unwrap();
        let with = |payload: &[u8]| format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(payload));
        let exp = |exp: Value| forge(&mandate, |claims| claims["exp"] = exp);
        // Bytes whose base64 has `+` and `/`.
        let standard = STANDARD_NO_PAD.encode(br#"{"exp":1,"x":"~~~>>>???"}"#);
        assert!(standard.contains('+') || standard.contains('/'));
        // One blank makes the length such that padding is needed.
        let padded = URL_SAFE.encode([&bytes[..], b" ", &[b' '].repeat(bytes.len() % 3)].concat());
        let malformed = [
            ("two parts", format!("{header}.{payload}")),
            ("four parts", format!("{mandate}.x")),
            ("an empty part", format!("{header}..{signature}")),
            (
                "padding",
                format!(
                    "{header}.{}.{signature}",
                    if padded.ends_with('=') { padded } else { "e30=".into() }
                ),
            ),
            ("the other alphabet", format!("{header}.{standard}.{signature}")),
            ("no JSON", with(b"exp")),
            ("an array", with(b"[1]")),
            ("a number", with(b"7")),
            ("no exp", forge(&mandate, |claims| _ = claims.as_object_mut().unwrap().remove("exp"))),
            ("exp 0", exp(json!(0))),
            ("exp as text", exp(json!("1"))),
            ("exp with a fraction", exp(json!(1.5))),
            ("exp null", exp(json!(null))),
            ("exp too large", with(br#"{"exp":99999999999999999999}"#)),
        ];
        let mut cases: Vec<_> =
            malformed.iter().map(|(what, token)| (*what, real.bearer(token), MALFORMED)).collect();
        cases.push(("exp below 0", real.bearer(&exp(json!(-1))), EXPIRING));
        real.refuses(&cases).await;
        real.passes("as it was", &real.bearer(&mandate)).await;
    });
}

#[test]
fn gateway_e_06_the_last_seconds() {
    real(async |real| {
        let mandate = real.mint().await;
        let ending = |seconds: i64| {
            real.bearer(&forge(&mandate, |claims| claims["exp"] = json!(now_ms() as i64 / 1_000 + seconds)))
        };
        // What lives long enough goes on to its signature, which does not fit any more.
        real.refuses(&[
            ("34 s", ending(34), EXPIRING),
            ("past", ending(-1), EXPIRING),
            ("long past", ending(-1_000_000), EXPIRING),
            ("40 s", ending(40), SIGNATURE),
        ])
        .await;
    });
}

#[test]
fn gateway_e_07_algorithms() {
    stand_in(async |bed| {
        let kid = bed.sts.issuer.kid.clone();
        for alg in [
            json!("none"),
            json!("None"),
            json!("RS256"),
            json!("ES256K"),
            json!("es256"),
            json!(null),
            json!(7),
        ] {
            let header = json!({ "alg": alg, "kid": kid, "typ": "JWT" });
            let token = bed.sts.issuer.token_with(&header, &bed.claims());
            bed.refuses(&alg.to_string(), &bed.bearer(&token), SIGNATURE, "signature_invalid").await;
        }
        let bare = bed.sts.issuer.token_with(&json!({ "kid": kid }), &bed.claims());
        bed.refuses("no alg", &bed.bearer(&bare), SIGNATURE, "signature_invalid").await;
        // The public key as the secret of a symmetric signature, and no signature at all.
        let header = json!({ "alg": "HS256", "kid": kid }).to_string();
        let input = signing_input(header.as_bytes(), bed.claims().to_string().as_bytes());
        let key = bed.sts.issuer.public_key();
        for secret in [key.to_spki_der(), key.to_sec1()] {
            let token = join(&input, &hmac_sha256::HMAC::mac(&input, secret));
            bed.refuses("HS256", &bed.bearer(&token), SIGNATURE, "signature_invalid").await;
        }
        let unsigned = json!({ "alg": "none" }).to_string();
        let unsigned = signing_input(unsigned.as_bytes(), bed.claims().to_string().as_bytes());
        bed.refuses("nothing signed", &bed.bearer(&format!("{unsigned}.")), MALFORMED, "malformed_bearer")
            .await;
        assert!(bed.sts.strangers().is_empty(), "keys are fed, and never fetched: {:?}", bed.sts.strangers());
    });
}

#[test]
fn gateway_e_08_keys() {
    stand_in(async |bed| {
        let sign = |header: Value| bed.sts.issuer.token_with(&header, &bed.claims());
        for kid in [
            json!(null),
            json!(""),
            json!(7),
            json!("unknown"),
            json!("k2"),
            json!("../../keys/k1"),
            json!("k1' OR '1'='1"),
            json!("k1\u{0}"),
        ] {
            let token = sign(json!({ "alg": "ES256", "kid": kid }));
            bed.refuses(&kid.to_string(), &bed.bearer(&token), SIGNATURE, "signature_invalid").await;
        }
        bed.refuses("no kid", &bed.bearer(&sign(json!({ "alg": "ES256" }))), SIGNATURE, "signature_invalid")
            .await;
        // The other zone's key, under its own name and under ours, for our zone.
        for kid in ["k1", "k2"] {
            let header = json!({ "alg": "ES256", "kid": kid });
            let token = bed.other.token_with(&header, &bed.claims());
            bed.refuses("another key", &bed.bearer(&token), SIGNATURE, "signature_invalid").await;
        }
        // A key in the header opens nothing, and closes nothing.
        for (name, value) in [
            ("jwk", bed.other.jwk()),
            ("jku", json!("http://evil.example/keys")),
            ("x5u", json!("http://evil.example/chain")),
        ] {
            let header = json!({ "alg": "ES256", "kid": "k1", name: value });
            let token = bed.other.token_with(&header, &bed.claims());
            bed.refuses(name, &bed.bearer(&token), SIGNATURE, "signature_invalid").await;
            bed.passes(name, &bed.bearer(&sign(header))).await;
        }
        assert!(bed.sts.strangers().is_empty(), "{:?}", bed.sts.strangers());
    });
}

#[test]
fn gateway_e_09_zones() {
    stand_in(async |bed| {
        let moved = forge(&bed.mandate(), |claims| claims["zone_id"] = json!("z2"));
        bed.refuses("edited", &bed.bearer(&moved), SIGNATURE, "signature_invalid").await;
        let signed = bed.signed(|claims| claims["zone_id"] = json!("z2"));
        bed.refuses("signed with another zone's key", &bed.bearer(&signed), SIGNATURE, "signature_invalid")
            .await;
        for zone in ["z/1", "z?1", "zöne", "z 1", &"z".repeat(129)] {
            let mandate = bed.signed(|claims| claims["zone_id"] = json!(zone));
            bed.refuses(zone, &bed.bearer(&mandate), NO_ZONE, "zone_missing").await;
        }
        for (claim, refusal, label) in
            [("zone_id", NO_ZONE, "zone_missing"), ("client_id", NO_CLIENT, "client_missing")]
        {
            let mandate = bed.signed(|claims| _ = claims.as_object_mut().unwrap().remove(claim));
            bed.refuses(claim, &bed.bearer(&mandate), refusal, label).await;
        }
        let longest = bed.signed(|claims| claims["zone_id"] = json!("z".repeat(128)));
        bed.refuses("128 characters", &bed.bearer(&longest), SIGNATURE, "signature_invalid").await;
    });
}

#[test]
fn gateway_e_10_signatures() {
    stand_in(async |bed| {
        let (input, good) = split(&bed.mandate());
        let order: [u8; 32] = [
            0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6,
            0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
        ];
        let der = caracal_mandate::es256::Signature(good.clone().try_into().unwrap()).to_der().unwrap();
        for (what, signature) in [
            ("63 bytes", good[..63].to_vec()),
            ("65 bytes", [&good[..], b"\0"].concat()),
            ("DER", der),
            ("zero", vec![0; 64]),
            ("r is zero", [&[0; 32], &good[32..]].concat()),
            ("s is zero", [&good[..32], &[0; 32]].concat()),
            ("r is the order", [&order, &good[32..]].concat()),
            ("s is the order", [&good[..32], &order].concat()),
            ("ones", vec![0xff; 64]),
            ("another one's", split(&bed.mandate()).1),
        ] {
            let token = join(&input, &signature);
            bed.refuses(what, &bed.bearer(&token), SIGNATURE, "signature_invalid").await;
        }
        let mirrored = mirror(&join(&input, &good));
        assert_ne!(split(&mirrored).1, good);
        bed.passes("the mirrored one verifies", &bed.bearer(&mirrored)).await;
    });
    // What counts as used is the mandate's id, so the other form of its signature opens nothing again.
    real(async |real| {
        let mandate = real.mint().await;
        real.passes("once", &real.bearer(&mandate)).await;
        let seen = real.upstream.seen().len();
        is("mirrored", &real.send(&real.bearer(&mirror(&mandate))).await, REPLAY);
        assert_eq!(real.upstream.seen().len(), seen);
    });
}

#[test]
fn gateway_e_17_other_classes() {
    real(async |real| {
        real.passes("for the resource's mandate", &real.bearer(&real.mint().await)).await;
        let seen = real.upstream.seen();
        let carried = seen.last().unwrap().headers["authorization"].to_str().unwrap().to_owned();
        let session = real.world.bootstrap().await;
        real.refuses(&[
            ("session", real.bearer(&session), CLASS),
            ("resource", real.request(&carried), CLASS),
        ])
        .await;
    });
    stand_in(async |bed| {
        for jti in [json!(""), json!(null), json!(1)] {
            let mandate = bed.signed(|claims| claims["jti"] = jti.clone());
            bed.refuses(&jti.to_string(), &bed.bearer(&mandate), CLAIMS, "malformed_claims").await;
        }
        for usage in ["session", "resource"] {
            let mandate = bed.signed(|claims| {
                claims["use"] = json!(usage);
                claims["aud"] = json!([ORDERS]);
            });
            bed.refuses(usage, &bed.bearer(&mandate), CLASS, "use_mismatch").await;
        }
    });
}
