//! A token request, as far as the form alone decides (contract sts §6, §8.1 to §8.8).

use crate::form::Form;
use crate::refusal::Denial;
use caracal_mandate::claims::MandateUse;
use caracal_store::internal::GatewayProof;

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// A request that a gateway signed.
#[derive(Debug, Clone)]
pub(crate) struct GatewayCall {
    /// Proof of the gateway; its nonce is not used up yet.
    pub(crate) proof: GatewayProof,
    /// The class of the mandate that it presents.
    pub(crate) usage: MandateUse,
    /// The method that the gateway is asked for, in upper case.
    pub(crate) method: String,
    /// The decoded path that it is asked for.
    pub(crate) path: String,
}

/// A token that stands for someone.
#[derive(Debug, Clone)]
pub(crate) enum SubjectToken {
    /// A mandate.
    Mandate(String),
    /// A token of an external issuer.
    External(String),
}

/// The whole request.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExchangeRequest {
    pub(crate) request_id: String,
    pub(crate) zone_id: Option<String>,
    pub(crate) application_id: String,
    pub(crate) client_secret: Option<String>,
    /// Each once, in byte order.
    pub(crate) resources: Vec<String>,
    /// As it stands in the form.
    pub(crate) scope: String,
    pub(crate) subject_token: Option<SubjectToken>,
    pub(crate) session_id: Option<String>,
    pub(crate) agent_session_id: Option<String>,
    pub(crate) delegation_edge_id: Option<String>,
    /// The hold that was approved for this request.
    pub(crate) approval_id: Option<String>,
    /// 0 for the default.
    pub(crate) ttl_seconds: i64,
    pub(crate) gateway: Option<GatewayCall>,
}

impl ExchangeRequest {
    /// The requested scopes in their order, repetitions kept.
    pub(crate) fn requested_scopes(&self) -> Vec<String> {
        self.scope.split_whitespace().map(str::to_owned).collect()
    }

    /// Reads a form. `proof` is there where the request was signed by a gateway.
    pub(crate) fn from_form(
        form: &Form,
        request_id: &str,
        proof: Option<GatewayProof>,
    ) -> Result<Self, Denial> {
        for unsupported in ["actor_token", "client_assertion", "client_assertion_type"] {
            if form.raw(unsupported).is_some() {
                return Err(Denial::malformed(format!("{unsupported} is not supported")));
            }
        }
        let ttl_seconds = match form.trimmed("ttl_seconds") {
            None => 0,
            Some(text) => text.parse().map_err(|_| Denial::malformed("ttl_seconds is not an integer"))?,
        };
        let resources = form.resources()?;
        if form.raw("grant_type") != Some(TOKEN_EXCHANGE) {
            return Err(Denial::malformed("unsupported grant_type"));
        }
        let application_id =
            form.trimmed("application_id").ok_or_else(|| Denial::malformed("application_id is missing"))?;
        let owned = |name: &str| form.trimmed(name).map(str::to_owned);
        Ok(Self {
            request_id: request_id.to_owned(),
            zone_id: owned("zone_id"),
            application_id: application_id.to_owned(),
            client_secret: form.raw("client_secret").map(str::to_owned),
            resources,
            scope: owned("scope").unwrap_or_default(),
            subject_token: subject_token(form)?,
            session_id: owned("session_id"),
            agent_session_id: owned("agent_session_id"),
            delegation_edge_id: owned("delegation_edge_id"),
            approval_id: owned("approval_id"),
            ttl_seconds,
            gateway: proof.map(|proof| GatewayCall {
                proof,
                usage: MandateUse::Gateway,
                method: owned("request_method").unwrap_or_default().to_ascii_uppercase(),
                // As the gateway decoded it: what is trimmed would be another path.
                path: form.raw("request_path").unwrap_or_default().to_owned(),
            }),
        })
    }
}

fn subject_token(form: &Form) -> Result<Option<SubjectToken>, Denial> {
    let kind = match form.trimmed("subject_token_type") {
        None => None,
        Some(ACCESS_TOKEN) => Some(true),
        Some(ID_TOKEN) => Some(false),
        Some(_) => return Err(Denial::malformed("unsupported subject_token_type")),
    };
    match (kind, form.trimmed("subject_token")) {
        (None, None) => Ok(None),
        (Some(true), Some(token)) => Ok(Some(SubjectToken::Mandate(token.to_owned()))),
        (Some(false), Some(token)) => Ok(Some(SubjectToken::External(token.to_owned()))),
        (Some(_), None) => Err(Denial::malformed("subject_token is missing")),
        (None, Some(_)) => Err(Denial::malformed("subject_token_type is missing")),
    }
}
