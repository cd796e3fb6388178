//! `POST /internal/zones/{zone}/signing-key/rotate`: an operator makes a zone sign with a new key (contract sts §20).
//!
//! The route exists where an admin token is configured. The new key signs from the answer on, in every process; the one
//! before verifies for another day. Whoever must not be believed any more is shut out by rotating twice.

use crate::Sts;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use caracal_mandate::header::accepted_request_id;
use caracal_mandate::id::ZoneId;
use caracal_store::http::{REQUEST_ID, Refusal, bearer};
use serde_json::json;

/// The routes' paths: one names the zone, one names none.
pub(crate) const PATHS: [&str; 2] =
    ["/internal/zones/{zone}/signing-key/rotate", "/internal/zones//signing-key/rotate"];

/// The bearer token of operators at the STS (`STS_ADMIN_TOKEN`). It is never shown.
#[derive(Clone)]
pub struct AdminToken(String);

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

impl AdminToken {
    /// The token that operators present.
    #[must_use]
    pub fn new(token: String) -> Self {
        Self(token)
    }

    /// Is it this token? Takes the same time for every answer.
    fn is(&self, given: &str) -> bool {
        let hash = |text: &str| digest(&SHA256, text.as_bytes());
        verify_slices_are_equal(hash(&self.0).as_ref(), hash(given).as_ref()).is_ok()
    }
}

/// The route.
pub(crate) async fn rotate(
    State(sts): State<Sts>,
    zone: Option<Path<String>>,
    headers: HeaderMap,
) -> Response {
    let Some(token) = sts.admin_token() else { return (StatusCode::NOT_FOUND, "not found").into_response() };
    if !bearer(&headers).is_some_and(|given| token.is(given)) {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"caracal-sts\"")];
        return (StatusCode::UNAUTHORIZED, challenge, "unauthorized").into_response();
    }
    let given = headers.get(REQUEST_ID).and_then(|value| accepted_request_id(value.as_bytes()));
    let request_id = given.map_or_else(caracal_store::ids::new_id, str::to_owned);
    let zone = zone.map(|Path(zone)| zone).unwrap_or_default();
    match sts.rotate_key(&zone, &request_id).await {
        Ok(response) => response,
        Err(refusal) => refusal.of_request(&request_id).into_response(),
    }
}

impl Sts {
    async fn rotate_key(&self, zone: &str, request_id: &str) -> Result<Response, Refusal> {
        let invalid = |why: &'static str| Refusal::new(StatusCode::BAD_REQUEST, "zone_invalid").because(why);
        let zone = ZoneId::new(zone).map_err(|_| invalid("the path names no zone"))?;
        let rotated = self.keys().rotate(&zone, request_id).await.map_err(|error| {
            tracing::error!(%zone, %error, "the zone's key could not be rotated");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error")
                .because("the key could not be rotated")
        })?;
        let kid = rotated.ok_or_else(|| invalid("there is no such zone"))?;
        let body = json!({ "rotated": true, "zone_id": zone.as_str(), "kid": kid.as_str() });
        let mut response = Json(body).into_response();
        crate::routes::no_store(&mut response);
        Ok(response)
    }
}
