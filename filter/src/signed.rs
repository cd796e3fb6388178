//! Calls to the services that prove who we are (contract sts §7).

use caracal_mandate::gateway_signature::{
    GatewayKey, NONCE_HEADER, SIGNATURE_HEADER, Signed, TIMESTAMP_HEADER, to_hex,
};

use crate::config::Server;
use crate::host::{Call, CallError, CallToken, Host};

/// The environment variable of the VM that holds the shared key in hex. It is never in the plugin
/// configuration, which Envoy shows to whoever reads its configuration dump.
pub const KEY_VARIABLE: &str = "CARACAL_GATEWAY_STS_HMAC_KEY";

/// One request to sign and send.
#[derive(Clone, Copy, Debug)]
pub struct SignedCall<'a> {
    /// Whom.
    pub server: &'a Server,
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Path with query.
    pub path: &'a str,
    /// Media type of the body, if there is one.
    pub content_type: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
    /// The id of the request that this call serves.
    pub request_id: Option<&'a str>,
    /// The trace of the request that this call belongs to. The signature does not cover it: nothing is decided by it.
    pub traceparent: Option<&'a str>,
    /// Milliseconds.
    pub timeout_ms: u64,
}

/// Signs and sends.
///
/// # Errors
/// [`CallError`] when the host has no random source or cannot start the call.
pub fn send(host: &dyn Host, key: &GatewayKey, call: &SignedCall<'_>) -> Result<CallToken, CallError> {
    let mut nonce = [0_u8; 32];
    if !host.random(&mut nonce) {
        return Err(CallError);
    }
    let nonce = to_hex(&nonce);
    let timestamp = (host.now() / 1_000).to_string();
    let signature = key.sign(&Signed {
        timestamp: &timestamp,
        nonce: &nonce,
        method: call.method,
        path: call.path,
        body: call.body,
    });
    let mut headers = vec![
        (":method", call.method),
        (":path", call.path),
        (":authority", call.server.authority.as_str()),
        (":scheme", "http"),
        ("accept", "application/json"),
        ("user-agent", "caracal-gateway"),
        (TIMESTAMP_HEADER, timestamp.as_str()),
        (NONCE_HEADER, nonce.as_str()),
        (SIGNATURE_HEADER, signature.as_str()),
    ];
    headers.extend(call.content_type.map(|content_type| ("content-type", content_type)));
    headers.extend(call.request_id.map(|request_id| ("x-request-id", request_id)));
    headers.extend(call.traceparent.map(|traceparent| ("traceparent", traceparent)));
    host.call(&Call { cluster: &call.server.cluster, headers, body: call.body, timeout_ms: call.timeout_ms })
}
