//! A provider's secrets: one JSON document, sealed for its place (contract sts §22.2).

use super::error::CredentialError;
use super::hidden::Hidden;
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::secrets::Vault;
use serde::Deserialize as _;
use std::collections::BTreeMap;

/// The place of a provider's secrets. They are sealed for this place and for no other.
#[must_use]
pub fn secret_place(zone: &str, provider: &str) -> String {
    format!("zones/{zone}/providers/{provider}/secretConfig")
}

/// The secrets as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecrets {
    place: String,
    /// `None` where nothing is stored.
    envelope: Option<String>,
    /// Changes with every change of the secrets.
    pub(super) version: i64,
}

/// The secrets, opened. They live for as long as one request needs them.
#[derive(Debug, Clone)]
pub struct Secrets(BTreeMap<String, Hidden>);

impl SealedSecrets {
    /// The sealed secrets of a provider; none where nothing is stored.
    ///
    /// # Errors
    /// [`CredentialError::Store`].
    pub async fn read(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        provider: &str,
    ) -> Result<Self, CredentialError> {
        let place = secret_place(zone.as_str(), provider);
        let row: Option<(String, i64)> =
            sqlx::query_as("SELECT envelope, version FROM secret_store WHERE ref = $1")
                .bind(place.as_str())
                .fetch_optional(connection)
                .await?;
        let (envelope, version) = row.unzip();
        Ok(Self { place, envelope, version: version.unwrap_or(0) })
    }

    /// What changes whenever the secrets do. Nothing can be learnt from it.
    pub(super) fn envelope(&self) -> &str {
        self.envelope.as_deref().unwrap_or_default()
    }

    /// Opens them.
    ///
    /// # Errors
    /// [`CredentialError::Sealed`].
    pub fn open(&self, vault: &Vault) -> Result<Secrets, CredentialError> {
        let Some(envelope) = &self.envelope else { return Ok(Secrets(BTreeMap::new())) };
        let plain = vault.open(envelope, &self.place)?;
        let mut deserializer = serde_json::Deserializer::from_slice(&plain);
        let values = BTreeMap::<String, String>::deserialize(&mut deserializer);
        let values = values.map_err(|_| CredentialError::Sealed)?;
        Ok(Secrets(values.into_iter().map(|(name, value)| (name, Hidden::new(value))).collect()))
    }
}

impl Secrets {
    /// Secrets that were just entered and are not sealed yet.
    #[must_use]
    pub fn entered(values: &serde_json::Map<String, serde_json::Value>) -> Self {
        let texts =
            values.iter().filter_map(|(name, value)| Some((name.clone(), Hidden::new(value.as_str()?))));
        Self(texts.collect())
    }

    /// The secret of that name.
    ///
    /// # Errors
    /// [`CredentialError::SecretMissing`].
    pub fn get(&self, name: &'static str) -> Result<&str, CredentialError> {
        let value = self.0.get(name).map(Hidden::expose).filter(|value| !value.is_empty());
        value.ok_or(CredentialError::SecretMissing(name))
    }
}
