//! What applications may ask about mandates and do with them: introspection (RFC 7662), revocation (RFC 7009), and where
//! all of it is (RFC 8414).

use crate::Sts;
use crate::form::{Form, receive};
use crate::refusal::Denial;
use crate::routes::no_store;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caracal_mandate::claims::{Claims, MandateUse};
use caracal_mandate::es256::Es256Verifier as _;
use caracal_mandate::id::{AgentSessionId, ZoneId};
use caracal_mandate::jws::CompactJws;
use caracal_store::SqlConnection;
use caracal_store::http::header_text;
use caracal_store::keys::NativeVerifier;
use caracal_store::model::{AgentSession, Application, AuthorityRecord, DelegationEdge};
use caracal_store::revoke::{Cause, Ending, Reach, Selector, SelectorError};
use caracal_store::{StoreError, ids};
use serde_json::{Value, json};

pub(crate) const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";
pub(crate) const INTROSPECTION_PATH: &str = "/oauth/2/introspect";
pub(crate) const REVOCATION_PATH: &str = "/oauth/2/revoke";

/// `GET /.well-known/oauth-authorization-server`
pub(crate) async fn metadata(State(sts): State<Sts>) -> Json<Value> {
    let base = sts.issuer().trim_end_matches('/');
    let methods = json!(["client_secret_post", "client_secret_basic"]);
    Json(json!({
        "issuer": sts.issuer(),
        "token_endpoint": format!("{base}/oauth/2/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
        "grant_types_supported": ["urn:ietf:params:oauth:grant-type:token-exchange"],
        "response_types_supported": [],
        "jwks_uri": format!("{base}/.well-known/jwks.json"),
        "introspection_endpoint": format!("{base}{INTROSPECTION_PATH}"),
        "introspection_endpoint_auth_methods_supported": methods,
        "revocation_endpoint": format!("{base}{REVOCATION_PATH}"),
        "revocation_endpoint_auth_methods_supported": methods,
    }))
}

/// `POST /oauth/2/introspect`
pub(crate) async fn introspect(State(sts): State<Sts>, request: Request) -> Response {
    let request_id = ids::new_id();
    let answer = async {
        let (application, token) = sts.client_and_token(request, &request_id).await?;
        sts.introspected(&application, &token).await
    };
    finish(answer.await.map(|body| Json(body).into_response()), &request_id)
}

/// `POST /oauth/2/revoke`
pub(crate) async fn revoke(State(sts): State<Sts>, request: Request) -> Response {
    let request_id = ids::new_id();
    let answer = async {
        let (application, token) = sts.client_and_token(request, &request_id).await?;
        sts.revoke_mandate(&application, &token, &request_id).await
    };
    finish(answer.await.map(|()| StatusCode::OK.into_response()), &request_id)
}

fn finish(answer: Result<Response, Denial>, request_id: &str) -> Response {
    let mut response = answer.unwrap_or_else(|denial| denial.into_response(request_id));
    no_store(&mut response);
    response
}

/// The client's id and secret, from the form or from `Authorization: Basic`, never both.
fn client(form: &Form, headers: &HeaderMap) -> Option<(String, String)> {
    let id = form.trimmed("application_id").or_else(|| form.trimmed("client_id"));
    match (id, form.raw("client_secret"), header_text(headers, &header::AUTHORIZATION)) {
        (Some(id), Some(secret), None) => Some((id.to_owned(), secret.to_owned())),
        (_, None, Some(basic)) => {
            let (scheme, rest) = basic.split_once(' ')?;
            let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
            let (given, secret) = text.split_once(':')?;
            let same = id.is_none_or(|id| id == given);
            (scheme.eq_ignore_ascii_case("basic") && same).then(|| (given.to_owned(), secret.to_owned()))
        }
        _ => None,
    }
}

impl Sts {
    async fn client_and_token(
        &self,
        request: Request,
        request_id: &str,
    ) -> Result<(Application, String), Denial> {
        let (parts, body) = receive(request).await?;
        let form = Form::parse(&body)?;
        let (id, secret) = client(&form, &parts.headers).ok_or_else(Denial::unauthenticated)?;
        let application = self.authenticate_client(&id, &secret, request_id).await?;
        let token = form.trimmed("token").ok_or_else(|| Denial::malformed("token is missing"))?;
        Ok((application, token.to_owned()))
    }

    /// The claims of a mandate that this STS signed for the zone, of whatever class and age.
    async fn signed_here(&self, zone: &ZoneId, token: &str) -> Result<Option<Claims>, StoreError> {
        let keys = self.keys().verification_keys(zone).await?;
        let verified = || {
            let jws = CompactJws::split(token.as_bytes()).ok()?;
            let (id, signature) = (jws.key_id().ok()?, jws.signature().ok()?);
            let key = keys.iter().find(|key| key.kid == id)?.public_key()?;
            let good = NativeVerifier.verify(&key, jws.signing_input(), &signature);
            let claims = Claims::from_json(&jws.payload().ok().filter(|_| good)?).ok()?;
            (claims.zone_id == *zone && claims.iss == self.issuer()).then_some(claims)
        };
        Ok(verified())
    }

    async fn introspected(&self, application: &Application, token: &str) -> Result<Value, Denial> {
        let inactive = json!({ "active": false });
        let Some(claims) = self.signed_here(&application.zone_id, token).await? else { return Ok(inactive) };
        let now = self.store().now();
        let mut connection = self.store().read().await?;
        if claims.exp.saturating_mul(1000) <= now || !stands(&mut connection, &claims, now).await? {
            return Ok(inactive);
        }
        let value = serde_json::to_value(&claims);
        let mut value = value.map_err(|error| StoreError::corrupt(error.to_string()))?;
        if let Some(object) = value.as_object_mut() {
            object.insert("active".into(), true.into());
            object.insert("token_type".into(), "Bearer".into());
        }
        Ok(value)
    }

    /// Takes a mandate back, with all that came of it. What is no mandate, or is over, needs nothing.
    async fn revoke_mandate(
        &self,
        application: &Application,
        token: &str,
        request_id: &str,
    ) -> Result<(), Denial> {
        let Some(claims) = self.signed_here(&application.zone_id, token).await? else { return Ok(()) };
        if claims.client_id != application.id {
            return Err(Denial::forbidden("the mandate belongs to another application"));
        }
        let cause = Cause {
            zone: application.zone_id.clone(),
            request_id: request_id.to_owned(),
            actor: format!("application:{}", application.id),
            reason: "revoked_by_client".to_owned(),
        };
        let selector = Selector::AuthorityRecord { id: claims.sid };
        self.store()
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.now();
                    let reach = Reach::of(tx.connection(), &cause.zone, &selector, now).await;
                    let reach = reach.map_err(|error| match error {
                        SelectorError::Store(error) => error,
                        other => StoreError::corrupt(other.to_string()),
                    })?;
                    reach.end(tx, &cause, Ending::Revoked).await
                })
            })
            .await
            .map_err(|error: StoreError| Denial::from(error))
    }
}

/// Do the record, the session and every delegation that the mandate names still stand?
pub(crate) async fn stands(
    connection: &mut SqlConnection,
    claims: &Claims,
    now: i64,
) -> Result<bool, StoreError> {
    let zone = &claims.zone_id;
    let mut next = Some(claims.sid.clone());
    // A resource mandate rests on the gateway mandate that it was exchanged for.
    let mut records = if claims.usage == MandateUse::Resource { 2 } else { 1 };
    while let Some(id) = next.filter(|_| records > 0) {
        let record = AuthorityRecord::find(connection, zone, &id).await?;
        let Some(record) = record.filter(|record| record.is_live(now)) else { return Ok(false) };
        next = record.parent_id;
        records -= 1;
    }
    let sessions: Vec<&AgentSessionId> =
        [&claims.agent_session_id, &claims.source_session_id].into_iter().flatten().collect();
    for id in sessions {
        let session = AgentSession::find(connection, zone, id).await?;
        if !session.is_some_and(|session| session.is_active(now)) {
            return Ok(false);
        }
    }
    let Some(edge) = &claims.delegation_edge_id else { return Ok(true) };
    let path = DelegationEdge::lineage(connection, zone, edge).await?;
    Ok(path.is_some_and(|path| path.iter().all(|edge| edge.is_live(now))))
}
