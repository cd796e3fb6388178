//! The browser flow of a person's consent: where the browser is sent, and what its return is exchanged for (contract
//! admin-audit §5.6, RFC 6749 §4.1, RFC 7636).

use super::Providers;
use super::config::{Source, UserToken};
use super::connection::{Tokens, tokens_of};
use super::error::CredentialError;
use super::token::TokenClient;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::model::Provider;
use caracal_store::{StoreError, ids};

/// One flow: two values that are drawn anew for each.
#[derive(Debug, Clone)]
pub struct Flow {
    /// What the browser brings back; whoever has it may finish the flow.
    pub state: super::Hidden,
    /// What only the token endpoint is shown (RFC 7636 §4.1).
    pub verifier: super::Hidden,
}

/// What the provider did with tokens that were given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenBack {
    /// It took them.
    Revoked,
    /// It has no endpoint for that.
    Unsupported,
    /// It did not answer, or said no.
    Failed,
}

impl GivenBack {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
        }
    }
}

impl Flow {
    /// A new flow.
    ///
    /// # Errors
    /// [`StoreError::Random`].
    pub fn new() -> Result<Self, StoreError> {
        let secret =
            || ids::random_bytes::<32>().map(|bytes| super::Hidden::new(URL_SAFE_NO_PAD.encode(bytes)));
        Ok(Self { state: secret()?, verifier: secret()? })
    }

    /// Where the browser is sent.
    #[must_use]
    pub fn authorization_url(&self, user: &UserToken) -> String {
        let mut url = user.authorization.clone();
        let hash = digest::digest(&digest::SHA256, self.verifier.expose().as_bytes());
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("response_type", "code");
            query.append_pair("client_id", &user.endpoint.client_id);
            query.append_pair("redirect_uri", &user.redirect_uri);
            if !user.scopes.is_empty() {
                query.append_pair("scope", &user.scopes.join(" "));
            }
            query.append_pair("state", self.state.expose());
            query.append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(hash.as_ref()));
            query.append_pair("code_challenge_method", "S256");
            query.extend_pairs(&user.authorization_params);
        }
        url.into()
    }
}

impl Providers {
    /// Exchanges the code of a flow for tokens.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub async fn exchange_code(
        &self,
        zone: &ZoneId,
        provider: &Provider,
        code: &str,
        verifier: &super::Hidden,
    ) -> Result<Tokens, CredentialError> {
        let Source::User(user) = self.config(provider)?.source else { return Err(CredentialError::Kind) };
        let secrets = self.secrets(zone, &provider.id).await?.open(&self.0.vault)?;
        let now = self.0.store.now();
        let client = TokenClient { egress: &self.0.egress, endpoint: &user.endpoint, secrets: &secrets, now };
        let answer = client.code(&user, code, verifier.expose()).await?;
        Ok(Tokens::of_answer(answer, None, now, self.0.max_life))
    }

    /// The tokens of the active connection of a provider and a subject, to be given back once it is revoked.
    ///
    /// # Errors
    /// [`CredentialError::Sealed`], [`CredentialError::Store`].
    pub async fn tokens_in(
        &self,
        connection: &mut SqlConnection,
        zone: &ZoneId,
        of: (&str, &str),
    ) -> Result<Option<Tokens>, CredentialError> {
        tokens_of(connection, &self.0.vault, zone, of).await
    }

    /// Gives tokens back to their provider: the refresh token where there is one, since the other ends with it. Best
    /// effort, for what was revoked here already.
    pub async fn give_back(&self, zone: &ZoneId, provider: &Provider, tokens: &Tokens) -> GivenBack {
        let attempt = async {
            let Source::User(user) = self.config(provider)?.source else { return Ok(GivenBack::Unsupported) };
            let Some(at) = &user.revocation else { return Ok(GivenBack::Unsupported) };
            let secrets = self.secrets(zone, &provider.id).await?.open(&self.0.vault)?;
            let now = self.0.store.now();
            let client =
                TokenClient { egress: &self.0.egress, endpoint: &user.endpoint, secrets: &secrets, now };
            let (token, hint) = match &tokens.refresh {
                Some(token) => (token, "refresh_token"),
                None => (&tokens.access, "access_token"),
            };
            client.revoke(at, token.expose(), hint).await.map(|()| GivenBack::Revoked)
        };
        attempt.await.unwrap_or_else(|error: CredentialError| {
            tracing::warn!(provider = provider.id, %error, "a provider did not take its tokens back");
            GivenBack::Failed
        })
    }
}
