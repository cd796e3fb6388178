//! The gateway's contract, row by row (`rows`, contract gateway §A5) and case by case (`cases`, Part E), at a real Envoy.
//! `docs/conformance-gateway.md` lists them.
//!
//! All tests share two set-ups, which take turns: `real`, a whole Caracal, and `stand_in`, an Envoy whose STS is a
//! stand-in, for what a real STS never signs, answers or feeds. Both count what the STS is asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod cases_feed;
mod cases_request;
mod cases_token;
mod cases_upstream;
mod real;
mod rows;
mod stand_in;

/// Status, `error` and `error_description`.
type Refusal = (u16, &'static str, &'static str);

const MISSING: Refusal = (401, "invalid_token", "missing bearer token");
const TOO_LARGE: Refusal = (401, "invalid_token", "bearer token too large");
const MALFORMED: Refusal = (401, "invalid_token", "malformed bearer token");
const EXPIRING: Refusal =
    (401, "credential_expired_not_renewable", "credential expiring within pre-flight window");
const CLIENT_ID: Refusal = (400, "invalid_token", "client identity derives from the bearer token");
const NO_RESOURCE: Refusal = (400, "invalid_token", "missing routing headers");
const TWO_RESOURCES: Refusal = (400, "invalid_token", "more than one resource header");
const NO_ZONE: Refusal = (401, "invalid_token", "missing token zone");
const NO_CLIENT: Refusal = (401, "invalid_token", "missing token client");
const TRAVERSAL: Refusal = (400, "invalid_token", "path traversal not permitted");
const SIGNATURE: Refusal = (401, "invalid_token", "bearer signature invalid");
const REPLAY: Refusal = (401, "invalid_token", "token replay detected");
const REVOKED: Refusal = (401, "invalid_token", "session revoked");
const CLASS: Refusal = (401, "invalid_token", "mandate class not accepted here");
const CLAIMS: Refusal = (401, "invalid_token", "claims incomplete or malformed");
const STALE: Refusal = (503, "sts_unavailable", "revocation state unavailable");
const STS_AWAY: Refusal = (502, "sts_unavailable", "sts unavailable");
const CIRCUIT_OPEN: Refusal = (503, "sts_unavailable", "sts unavailable");
const STS_INVALID: Refusal = (502, "sts_unavailable", "sts response invalid");
const NO_UPSTREAM: Refusal = (403, "access_denied", "resource upstream not configured");
const NOT_TARGETED: Refusal = (403, "access_denied", "mandate not granted for this resource");
const OPERATION: Refusal = (403, "operation_not_permitted", "operation not permitted");
const ADDRESS: Refusal = (502, "internal_error", "upstream not addressable");
const HOST: Refusal = (502, "internal_error", "provider credential not allowed for upstream host");
const BUILD: Refusal = (400, "internal_error", "upstream request build failed");
const UNREACHABLE: Refusal = (502, "internal_error", "upstream unreachable");
const UPSTREAM_TIMEOUT: Refusal = (504, "internal_error", "upstream timeout");
const BODY: Refusal = (413, "payload_too_large", "request body too large");

/// Asserts that an answer is this refusal.
#[track_caller]
fn is(what: &str, answered: &caracal_tests::Answered, refusal: Refusal) {
    let (status, error, description) = answered.refusal();
    assert_eq!((status, error.as_str(), description.as_str()), refusal, "{what}");
}

/// Looks until something is there.
async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), found)
        .await
        .unwrap_or_else(|_| panic!("{what} never came"))
}
