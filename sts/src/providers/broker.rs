//! The credentials of one exchange: fetched after it was judged and before it is granted (contract sts §8 step 26,
//! §22.1).
//!
//! A grant is one short write, and no write waits for another service. So the directives are made ready first; whether
//! they still fit is checked in the write where anything of the zone changed meanwhile.

use super::connection::{Connection, ConnectionRef};
use super::error::CredentialError;
use super::secret::SealedSecrets;
use super::{Kind, Providers};
use crate::upstream::{Directive, directive};
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use caracal_store::model::{Provider, Resource};
use std::collections::BTreeMap;

/// What one granted resource needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) provider: Option<&'a Provider>,
    pub(crate) connection: Option<&'a ConnectionRef>,
}

/// What a directive was made from.
#[derive(Debug, PartialEq, Eq)]
struct Basis {
    upstream: Option<String>,
    provider: Option<Provider>,
    connection: Option<ConnectionRef>,
    secrets: Option<i64>,
}

/// The directives of an exchange, by resource identifier, or why there is none.
#[derive(Debug, Default)]
pub(crate) struct Brokered(BTreeMap<String, (Basis, Result<Directive, CredentialError>)>);

impl Providers {
    /// Makes the directives of all these resources.
    pub(crate) async fn broker<'a>(
        &self,
        zone: &ZoneId,
        all: impl IntoIterator<Item = Wanted<'a>>,
    ) -> Brokered {
        let mut brokered = BTreeMap::new();
        for wanted in all {
            let made = self.directive_of(zone, wanted).await;
            brokered.insert(wanted.resource.identifier.to_string(), made);
        }
        Brokered(brokered)
    }

    async fn directive_of(
        &self,
        zone: &ZoneId,
        wanted: Wanted<'_>,
    ) -> (Basis, Result<Directive, CredentialError>) {
        let mut basis = wanted.basis();
        let made = async {
            let (mut credential, mut config) = (None, None);
            if let Some(provider) = wanted.provider {
                config = Some(self.config(provider)?);
                let secrets = match has_credential(provider) {
                    true => Some(self.secrets(zone, &provider.id).await?),
                    false => None,
                };
                basis.secrets = secrets.as_ref().map(|secrets| secrets.version);
                credential =
                    self.credential_with(zone, provider, secrets.as_ref(), wanted.connection).await?;
            }
            Ok(directive(
                wanted.resource,
                wanted.provider.map(|provider| provider.id.as_str()),
                config,
                credential,
            ))
        };
        let made = made.await;
        if let (Err(error), Some(provider)) = (&made, wanted.provider) {
            tracing::warn!(provider = provider.id, %error, "a provider has no credential to give");
        }
        (basis, made)
    }
}

fn has_credential(provider: &Provider) -> bool {
    Kind::parse(&provider.kind).is_some_and(Kind::has_credential)
}

impl Wanted<'_> {
    fn basis(&self) -> Basis {
        Basis {
            upstream: self.resource.upstream_url.clone(),
            provider: self.provider.cloned(),
            connection: self.connection.cloned(),
            secrets: None,
        }
    }
}

impl Brokered {
    /// The directive of a resource.
    pub(crate) fn directive(&self, identifier: &str) -> Result<Directive, CredentialError> {
        match self.0.get(identifier) {
            Some((_, made)) => made.clone(),
            None => Err(CredentialError::NotConnected),
        }
    }

    /// Are these the directives that would be made of the state that the write sees?
    pub(crate) async fn still_fit<'a>(
        &self,
        connection: &mut SqlConnection,
        zone: &ZoneId,
        all: impl IntoIterator<Item = Wanted<'a>>,
    ) -> Result<bool, StoreError> {
        for wanted in all {
            let Some((made_of, made)) = self.0.get(wanted.resource.identifier.as_str()) else {
                return Ok(false);
            };
            let mut basis = wanted.basis();
            if let (Some(provider), true) = (wanted.provider, made.is_ok()) {
                if has_credential(provider) {
                    let secrets = SealedSecrets::read(connection, zone, &provider.id).await;
                    let secrets =
                        secrets.map_err(|_| StoreError::Uncommitted("secrets cannot be read".into()))?;
                    basis.secrets = Some(secrets.version);
                }
            } else {
                basis.secrets = made_of.secrets;
            }
            let served = match wanted.connection {
                Some(wanted) => {
                    let found = Connection::find(connection, zone, &wanted.id).await?;
                    found.is_some_and(|found| found.reference == *wanted)
                }
                None => true,
            };
            if basis != *made_of || !served {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
