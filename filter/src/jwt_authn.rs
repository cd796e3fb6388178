//! Taking the word of Envoy's `jwt_authn` for a signature, where the operator says so.
//!
//! `jwt_authn` leaves the payload that it verified in the stream's dynamic metadata, which no caller can write. It may have
//! verified another token than the one that is judged, or not have run at all, so the payload of this very token is
//! compared with what is there, member by member. Whatever is not the same proves nothing.

use caracal_mandate::verdict::Judged;
use caracal_mandate::{json, jws, property};
use serde_json::Value;

use crate::host::Host;

/// Whose metadata it is.
const FILTER: &str = "envoy.filters.http.jwt_authn";

/// Whether `jwt_authn` verified, for this stream, a token with exactly the payload of this one.
pub(crate) fn verified(host: &dyn Host, key: &str, signing_input: &[u8]) -> bool {
    let payload = jws::payload_of(signing_input).and_then(|payload| json::parse(&payload).ok());
    let told = host.property(&["metadata", "filter_metadata", FILTER, key]);
    match (payload, told) {
        (Some(payload @ Value::Object(_)), Some(told)) => property::same(&payload, &told),
        _ => false,
    }
}

/// Whether it ran for this stream and verified this mandate, whose token was compared in full before.
pub(crate) fn ran(host: &dyn Host, key: &str, claims: &Judged) -> bool {
    let told = host.property(&["metadata", "filter_metadata", FILTER, key, "jti"]);
    told.is_some_and(|jti| jti == claims.jti.as_str().as_bytes())
}
