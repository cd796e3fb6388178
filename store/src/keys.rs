//! Zone signing keys: made on first use, sealed at rest, newest first (contract sts §20), and the mandates that they
//! sign and verify.

use crate::change::Change;
use crate::secrets::Vault;
use crate::{Store, StoreError, ids};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_mandate::claims::{Claims, MandateUse};
use caracal_mandate::es256::{Es256Verifier, PublicKey, Signature};
use caracal_mandate::id::{KeyId, ZoneId};
use caracal_mandate::jwks::Jwk;
use caracal_mandate::jws::{self, CompactJws};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// What sealed signing keys are sealed for.
const AAD: &str = "caracal/secrets/zoneSigningKey";
/// How long the key before the newest still verifies, in milliseconds.
const GRACE: i64 = 24 * 3600 * 1000;
/// How far clocks may differ, in seconds (contract sts §10.1).
const LEEWAY_SECONDS: i64 = 60;

/// Why a presented mandate is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MandateError {
    /// `aud` lacks the issuer.
    #[error("the mandate's audience is another")]
    Audience,
    /// `exp` has passed.
    #[error("the mandate has expired")]
    Expired,
    /// `iss` is another.
    #[error("the mandate's issuer is another")]
    Issuer,
    /// `iat` lies in the future.
    #[error("the mandate was issued in the future")]
    IssuedInFuture,
    /// It is no mandate at all.
    #[error("the token is malformed")]
    Malformed,
    /// The signature, or the key that it names, is not good.
    #[error("the mandate's signature is not valid")]
    Signature,
    /// The keys could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `use` is another class.
    #[error("the mandate is of another class")]
    Use,
    /// `zone_id` is another zone.
    #[error("the mandate belongs to another zone")]
    Zone,
}

/// Verifies with the platform's native library.
#[derive(Debug, Clone, Copy, Default)]
pub struct NativeVerifier;

impl Es256Verifier for NativeVerifier {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.to_sec1()).verify(message, &signature.0).is_ok()
    }
}

#[derive(Debug)]
struct KeySet {
    signing: Option<(KeyId, EcdsaKeyPair)>,
    verification: Vec<(KeyId, PublicKey)>,
    /// When the set has to be read again because the grace of the older key ends.
    until: i64,
}

/// The signing keys of all zones. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ZoneKeys {
    store: Store,
    vault: Vault,
    cache: Arc<RwLock<HashMap<ZoneId, Arc<KeySet>>>>,
}

impl ZoneKeys {
    /// Keys from this store, sealed by this vault.
    #[must_use]
    pub fn new(store: Store, vault: Vault) -> Self {
        Self { store, vault, cache: Arc::default() }
    }

    /// Signs the claims with the zone's newest key, which is made where there is none yet.
    pub async fn sign(&self, claims: &Claims) -> Result<String, StoreError> {
        let mut set = self.set(&claims.zone_id).await?;
        if set.signing.is_none() {
            self.create_first(&claims.zone_id).await?;
            set = self.set(&claims.zone_id).await?;
        }
        let Some((key_id, pair)) = &set.signing else {
            return Err(StoreError::corrupt("signing_keys: no key"));
        };
        let payload = claims.to_json().map_err(|error| StoreError::corrupt(error.to_string()))?;
        let input = jws::signing_input(key_id, &payload);
        let random = aws_lc_rs::rand::SystemRandom::new();
        let signature = pair.sign(&random, input.as_bytes()).map_err(|_| StoreError::Random)?;
        let bytes: [u8; 64] =
            signature.as_ref().try_into().map_err(|_| StoreError::corrupt("a signature's length"))?;
        Ok(jws::with_signature(input, &Signature(bytes)))
    }

    /// Checks signature, zone, class, issuer, audience and times of a mandate that is addressed to the issuer
    /// (contract sts §10.1). What is live, and who presents it, is the caller's to check.
    pub async fn verify(
        &self,
        zone: &ZoneId,
        token: &str,
        issuer: &str,
        usage: MandateUse,
    ) -> Result<Claims, MandateError> {
        let jws = CompactJws::split(token.as_bytes()).map_err(|_| MandateError::Malformed)?;
        let key_id = jws.key_id().map_err(|_| MandateError::Malformed)?;
        let signature = jws.signature().map_err(|_| MandateError::Malformed)?;
        let set = self.set(zone).await?;
        let key = set.verification.iter().find(|(id, _)| *id == key_id).ok_or(MandateError::Signature)?;
        if !NativeVerifier.verify(&key.1, jws.signing_input(), &signature) {
            return Err(MandateError::Signature);
        }
        let payload = jws.payload().map_err(|_| MandateError::Malformed)?;
        let claims = Claims::from_json(&payload).map_err(|_| MandateError::Malformed)?;
        let now = self.store.now() / 1000;
        match () {
            () if claims.zone_id != *zone => Err(MandateError::Zone),
            () if claims.iss != issuer => Err(MandateError::Issuer),
            () if !claims.aud.iter().any(|aud| aud == issuer) => Err(MandateError::Audience),
            () if claims.exp.saturating_add(LEEWAY_SECONDS) <= now => Err(MandateError::Expired),
            () if claims.iat > now.saturating_add(LEEWAY_SECONDS) => Err(MandateError::IssuedInFuture),
            () if claims.usage != usage => Err(MandateError::Use),
            () => Ok(claims),
        }
    }

    /// The keys that verify now, newest first. None for a zone that never signed.
    pub async fn verification_keys(&self, zone: &ZoneId) -> Result<Vec<Jwk>, StoreError> {
        let set = self.set(zone).await?;
        Ok(set.verification.iter().map(|(id, key)| Jwk::new(id.clone(), key)).collect())
    }

    /// Makes a new key that signs from now on; the one before verifies for another day.
    pub async fn rotate(&self, zone: &ZoneId) -> Result<KeyId, StoreError> {
        self.create(zone, false).await?;
        let set = self.set(zone).await?;
        set.signing
            .as_ref()
            .map(|(id, _)| id.clone())
            .ok_or_else(|| StoreError::corrupt("signing_keys: no key"))
    }

    /// Reads the zone's keys anew at the next use.
    pub fn forget(&self, zone: &ZoneId) {
        self.cache.write().unwrap_or_else(PoisonError::into_inner).remove(zone);
    }

    async fn create_first(&self, zone: &ZoneId) -> Result<(), StoreError> {
        self.create(zone, true).await
    }

    async fn create(&self, zone: &ZoneId, only_first: bool) -> Result<(), StoreError> {
        let pair =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| StoreError::Random)?;
        let private = pair.to_pkcs8v1().map_err(|_| StoreError::Seal("made"))?;
        let envelope = self.vault.seal(private.as_ref(), AAD)?;
        let point = public_key(&pair).ok_or(StoreError::Seal("made"))?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(point.x), URL_SAFE_NO_PAD.encode(point.y));
        let row_zone = zone.clone();
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    let version: Option<i64> =
                        sqlx::query_scalar("SELECT MAX(version) FROM signing_keys WHERE zone_id = $1")
                            .bind(row_zone.as_str())
                            .fetch_one(&mut *tx.connection())
                            .await
                            .map_err(StoreError::from)?;
                    // Someone else was first.
                    if only_first && version.is_some() {
                        return Ok(());
                    }
                    let now = tx.now();
                    sqlx::query(
                        "INSERT INTO signing_keys (id, zone_id, version, envelope, x, y, created_at) \
                         VALUES ($1, $2, $3, $4, $5, $6, $7)",
                    )
                    .bind(ids::new_id())
                    .bind(row_zone.as_str())
                    .bind(version.unwrap_or(0) + 1)
                    .bind(envelope)
                    .bind(x)
                    .bind(y)
                    .bind(now)
                    .execute(&mut *tx.connection())
                    .await
                    .map_err(StoreError::from)?;
                    tx.record_change(&row_zone, &Change::Keys).await?;
                    Ok::<_, StoreError>(())
                })
            })
            .await?;
        self.forget(zone);
        Ok(())
    }

    async fn set(&self, zone: &ZoneId) -> Result<Arc<KeySet>, StoreError> {
        let cached = self.cache.read().unwrap_or_else(PoisonError::into_inner).get(zone).cloned();
        if let Some(set) = cached.filter(|set| set.until > self.store.now()) {
            return Ok(set);
        }
        let set = Arc::new(self.load(zone).await?);
        // An empty set is not kept: the next reader may come after the first key.
        if set.signing.is_some() {
            let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
            cache.insert(zone.clone(), Arc::clone(&set));
        }
        Ok(set)
    }

    async fn load(&self, zone: &ZoneId) -> Result<KeySet, StoreError> {
        let mut connection = self.store.read().await?;
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT id, envelope, created_at FROM signing_keys WHERE zone_id = $1 ORDER BY version DESC LIMIT 2",
        )
        .bind(zone.as_str())
        .fetch_all(&mut *connection)
        .await?;
        let now = self.store.now();
        let newest = rows.first().map_or(0, |(_, _, created_at)| *created_at);
        let in_grace = now < newest + GRACE;
        let mut set = KeySet {
            signing: None,
            verification: Vec::new(),
            until: if in_grace { newest + GRACE } else { i64::MAX },
        };
        for (id, envelope, _) in rows.into_iter().take(if in_grace { 2 } else { 1 }) {
            let corrupt = |what: &str| StoreError::corrupt(format!("signing_keys {id}: {what}"));
            let key_id = KeyId::new(id.as_str()).map_err(|error| corrupt(&error.to_string()))?;
            let private = self.vault.open(&envelope, AAD)?;
            let pair = pair_from(&private).ok_or_else(|| corrupt("no P-256 key"))?;
            let public = public_key(&pair).ok_or_else(|| corrupt("no P-256 point"))?;
            set.verification.push((key_id.clone(), public));
            if set.signing.is_none() {
                set.signing = Some((key_id, pair));
            }
        }
        Ok(set)
    }
}

fn pair_from(pkcs8: &[u8]) -> Option<EcdsaKeyPair> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()
}

fn public_key(pair: &EcdsaKeyPair) -> Option<PublicKey> {
    let bytes = pair.public_key().as_ref();
    let (x, y) = bytes.strip_prefix(&[0x04])?.split_at_checked(32)?;
    Some(PublicKey { x: x.try_into().ok()?, y: y.try_into().ok()? })
}
