//! Calls that only a gateway may make: signed, fresh, and never twice (contract sts §7).

use crate::http::header_text;
use crate::once::OneUse;
use crate::{Store, StoreError, WriteTx};
use axum::http::{HeaderMap, HeaderName};
use caracal_mandate::gateway_signature::{
    GatewayKey, MAX_SKEW_SECONDS, NONCE_HEADER, SIGNATURE_HEADER, Signed, TIMESTAMP_HEADER,
};

/// For how long a nonce may not come again: twice the allowed skew, in milliseconds. Nonces are remembered by the period of
/// this length in which their calls were signed.
const PERIOD: i64 = 2 * 1000 * MAX_SKEW_SECONDS as i64;
/// The longest nonce.
const MAX_NONCE_BYTES: usize = 128;

/// Why a call is not one of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayAuthError {
    /// One of the three headers is missing or malformed.
    #[error("a gateway header is missing or malformed")]
    Headers,
    /// The nonce was used before.
    #[error("the gateway's nonce was used before")]
    Replayed,
    /// The signature is not good.
    #[error("the gateway's signature is not valid")]
    Signature,
    /// The timestamp is too far from now.
    #[error("the gateway's timestamp is too far from now")]
    Skew,
}

/// A call whose signature was good. The nonce still has to be used up, in the transaction of what the call does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the nonce has to be used up"]
pub struct GatewayProof {
    nonce: String,
    /// Unix milliseconds.
    signed_at: i64,
}

impl GatewayProof {
    /// What uses the nonce up.
    ///
    /// The same call has the same time. Another that brought the nonce at most a period before was signed at most two
    /// periods before this one, or one after it: either may be off by the skew.
    #[must_use]
    pub fn once(&self) -> OneUse {
        let period = self.signed_at.div_euclid(PERIOD);
        let until = |periods: i64| period.saturating_add(periods).saturating_mul(PERIOD);
        OneUse::new(format!("gateway-nonce:{}", self.nonce), until(3)).or_with([until(1), until(2), until(4)])
    }

    /// Uses the nonce up. `false` if it was used before: the call must not have any effect.
    pub async fn spend(&self, tx: &mut WriteTx<'_>) -> Result<bool, StoreError> {
        tx.use_once(&self.once()).await
    }

    /// Uses the nonce up on its own.
    pub async fn spend_now(self, store: &Store) -> Result<bool, StoreError> {
        store.write(move |tx| Box::pin(async move { self.spend(tx).await })).await
    }
}

/// Does any of the three headers stand in the request? Then it has to be a gateway's.
#[must_use]
pub fn claims_to_be_gateway(headers: &HeaderMap) -> bool {
    [TIMESTAMP_HEADER, NONCE_HEADER, SIGNATURE_HEADER]
        .into_iter()
        .any(|name| headers.get(name).is_some_and(|value| !value.is_empty()))
}

/// Checks the three headers over method, escaped path with query, and exact body. `now` in unix milliseconds.
pub fn authenticate(
    key: &GatewayKey,
    headers: &HeaderMap,
    method: &str,
    path: &str,
    body: &[u8],
    now: i64,
) -> Result<GatewayProof, GatewayAuthError> {
    let text = |name: &'static str| {
        header_text(headers, &HeaderName::from_static(name))
            .filter(|text| !text.is_empty())
            .ok_or(GatewayAuthError::Headers)
    };
    let (timestamp, nonce, signature) =
        (text(TIMESTAMP_HEADER)?, text(NONCE_HEADER)?, text(SIGNATURE_HEADER)?);
    if nonce.len() > MAX_NONCE_BYTES {
        return Err(GatewayAuthError::Headers);
    }
    let seconds: i64 = timestamp.parse().map_err(|_| GatewayAuthError::Headers)?;
    if (now / 1000).abs_diff(seconds) > MAX_SKEW_SECONDS {
        return Err(GatewayAuthError::Skew);
    }
    if !key.verify(&Signed { timestamp, nonce, method, path, body }, signature) {
        return Err(GatewayAuthError::Signature);
    }
    Ok(GatewayProof { nonce: nonce.to_owned(), signed_at: seconds.saturating_mul(1000) })
}
