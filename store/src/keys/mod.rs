//! Zone signing keys: made on first use, sealed at rest, newest first (contract sts §20), and the mandates that they
//! sign and verify.
//!
//! Keys are kept in memory, and no use of them trusts that: every use compares the epoch at which the zone's keys changed
//! last with the one that the kept keys are of. So a rotation counts at once, whichever process made it.

mod pair;
mod stored;

pub use pair::NativeVerifier;

use crate::SqlConnection;
use crate::secrets::Vault;
use crate::{Store, StoreError};
use caracal_mandate::claims::{Claims, MandateUse};
use caracal_mandate::epoch::AuthorityEpoch;
use caracal_mandate::es256::Es256Verifier as _;
use caracal_mandate::id::{KeyId, ZoneId};
use caracal_mandate::jwks::Jwk;
use caracal_mandate::jws::{self, CompactJws};
use caracal_mandate::recent::Recent;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use stored::{KeySet, NewKey};

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

/// What a mandate has to be, besides signed by its zone.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The zone.
    pub zone: &'a ZoneId,
    /// The issuer, which is the audience too.
    pub issuer: &'a str,
    /// The class.
    pub usage: MandateUse,
}

/// The signing keys of all zones. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ZoneKeys {
    store: Store,
    vault: Vault,
    kept: Arc<RwLock<HashMap<ZoneId, Arc<KeySet>>>>,
    signed: Arc<Mutex<Recent<Signed>>>,
    /// The mandates for gateways that were signed here, and by which keys.
    minted: Arc<Mutex<Recent<Arc<KeySet>>>>,
}

/// Session mandates whose signature was found good, in memory at most so many.
const SIGNED: usize = 2048;
/// Mandates that were signed here and have not been shown yet, in memory at most so many.
const MINTED: usize = 4096;

/// What the signature of a token proved, and by which keys.
#[derive(Debug, Clone)]
struct Signed {
    set: Arc<KeySet>,
    claims: Arc<Claims>,
}

impl ZoneKeys {
    /// Keys from this store, sealed by this vault.
    #[must_use]
    pub fn new(store: Store, vault: Vault) -> Self {
        Self {
            store,
            vault,
            kept: Arc::default(),
            signed: Arc::new(Mutex::new(Recent::new(SIGNED))),
            minted: Arc::new(Mutex::new(Recent::new(MINTED))),
        }
    }

    /// Signs the claims with the zone's newest key, which is made where there is none yet.
    pub async fn sign(&self, claims: &Claims) -> Result<String, StoreError> {
        let mut set = self.current(&claims.zone_id).await?;
        if !set.exists {
            self.create_first(&claims.zone_id).await?;
            set = self.current(&claims.zone_id).await?;
        }
        self.sign_with(&set, claims)
    }

    /// Like [`Self::sign`], for a caller who read the zone's row in the transaction that grants what is signed: `epoch`
    /// is the row's epoch of keys.
    pub async fn sign_as_of(&self, claims: &Claims, epoch: AuthorityEpoch) -> Result<String, StoreError> {
        match self.kept(&claims.zone_id).filter(|set| set.epoch >= epoch && set.exists) {
            Some(set) => self.sign_with(&set, claims),
            None => self.sign(claims).await,
        }
    }

    /// Makes sure that a mandate of this zone can be signed, before anything is granted that could not be.
    pub async fn prepare(&self, zone: &ZoneId, epoch: AuthorityEpoch) -> Result<(), StoreError> {
        let mut set = match self.kept(zone).filter(|set| set.epoch >= epoch) {
            Some(set) => set,
            None => self.current(zone).await?,
        };
        if !set.exists {
            self.create_first(zone).await?;
            set = self.current(zone).await?;
        }
        set.signing.as_ref().map(|_| ()).ok_or(StoreError::Seal("opened"))
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
        let set = self.current(zone).await?;
        self.verify_by(&set, token, Expected { zone, issuer, usage })
    }

    /// Like [`Self::verify`] with the keys that are at hand, and the epoch that they are of. Who reads a later one in the
    /// zone's row has to verify again with [`Self::verify_in`].
    pub async fn verify_at_hand(
        &self,
        token: &str,
        expected: Expected<'_>,
    ) -> Result<(AuthorityEpoch, Result<Claims, MandateError>), StoreError> {
        let set = match self.kept(expected.zone) {
            Some(set) => set,
            None => self.current(expected.zone).await?,
        };
        Ok((set.epoch, self.verify_by(&set, token, expected)))
    }

    /// Like [`Self::verify`] with the keys that this connection sees, which may be those of a transaction under way.
    pub async fn verify_in(
        &self,
        connection: &mut SqlConnection,
        token: &str,
        expected: Expected<'_>,
    ) -> Result<Claims, MandateError> {
        self.forget(expected.zone);
        let now = self.store.now();
        let set = KeySet::load(connection, &self.vault, expected.zone, now).await?;
        let claims = signed_claims(&set, token)?;
        check(&claims, expected, now).map(|()| claims)
    }

    /// The keys that verify now, newest first. None for a zone that never signed. Keys of which none can be opened are
    /// an error, one of several is left out.
    pub async fn verification_keys(&self, zone: &ZoneId) -> Result<Vec<Jwk>, StoreError> {
        let set = self.current(zone).await?;
        if set.exists && set.verification.is_empty() {
            return Err(StoreError::Seal("opened"));
        }
        Ok(set.verification.iter().map(|(id, key)| Jwk::new(id.clone(), key)).collect())
    }

    /// Makes a new key that signs from now on; the one before verifies for another day. Rotated twice, the zone knows
    /// nothing of the first key any more. `None` where there is no such zone.
    pub async fn rotate(&self, zone: &ZoneId, request_id: &str) -> Result<Option<KeyId>, StoreError> {
        let key = NewKey::generate(&self.vault)?;
        let (row_zone, request_id) = (zone.clone(), request_id.to_owned());
        self.store
            .write(move |tx| Box::pin(async move { key.insert_next(tx, &row_zone, &request_id).await }))
            .await
    }

    /// Seals every key that the previous key-encryption key sealed under the current one, so that the previous one can
    /// be put away. Answers how many there were.
    pub async fn reseal(&self) -> Result<u64, StoreError> {
        let vault = self.vault.clone();
        self.store.write(move |tx| Box::pin(async move { stored::reseal(tx, &vault).await })).await
    }

    /// Reads the zone's keys anew at the next use.
    pub fn forget(&self, zone: &ZoneId) {
        self.kept.write().unwrap_or_else(PoisonError::into_inner).remove(zone);
    }

    /// A gateway shows its mandate soon, and here: whoever signed these very bytes need not verify them.
    fn sign_with(&self, set: &Arc<KeySet>, claims: &Claims) -> Result<String, StoreError> {
        let (key_id, pair) = set.signing.as_ref().ok_or(StoreError::Seal("opened"))?;
        let payload = claims.to_json().map_err(|error| StoreError::corrupt(error.to_string()))?;
        let input = jws::signing_input(key_id, &payload);
        let signature = pair.sign(input.as_bytes())?;
        let token = jws::with_signature(input, &signature);
        if claims.usage == MandateUse::Gateway {
            self.minted().remember(token.as_bytes(), Arc::clone(set), 0);
        }
        Ok(token)
    }

    /// Session mandates come again with every call of their holder, so the signature of each is verified once by the same
    /// keys; what the claims say is checked each time.
    fn verify_by(
        &self,
        set: &Arc<KeySet>,
        token: &str,
        expected: Expected<'_>,
    ) -> Result<Claims, MandateError> {
        let now = self.store.now();
        if expected.usage != MandateUse::Session {
            let jws = split(token)?;
            if !self.takes_as_ours(set, token) {
                check_signature(set, &jws)?;
            }
            let claims = claims_of(&jws)?;
            return check(&claims, expected, now).map(|()| claims);
        }
        let known = self.signed().find(token.as_bytes(), |signed| Arc::ptr_eq(&signed.set, set));
        if let Some(Signed { claims, .. }) = known {
            return check(&claims, expected, now).map(|()| Claims::clone(&claims));
        }
        let claims = Arc::new(signed_claims(set, token)?);
        check(&claims, expected, now)?;
        let known = Signed { set: Arc::clone(set), claims: Arc::clone(&claims) };
        self.signed().remember(token.as_bytes(), known, token.len().saturating_mul(2));
        Ok(Claims::clone(&claims))
    }

    /// The zone that a session mandate names, if it was verified before: these very bytes. Whether they verify still is
    /// another question.
    #[must_use]
    pub fn zone_of_known(&self, token: &str) -> Option<ZoneId> {
        let known = self.signed().find(token.as_bytes(), |_| true);
        known.map(|signed| signed.claims.zone_id.clone())
    }

    /// Whether these very bytes were signed here by these keys. It is told once: most mandates come once, and the memory is
    /// for those that are yet to come.
    fn takes_as_ours(&self, set: &Arc<KeySet>, token: &str) -> bool {
        let mut is_ours = false;
        self.minted().find(token.as_bytes(), |by| {
            is_ours = Arc::ptr_eq(by, set);
            false
        });
        is_ours
    }

    fn minted(&self) -> MutexGuard<'_, Recent<Arc<KeySet>>> {
        self.minted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signed(&self) -> MutexGuard<'_, Recent<Signed>> {
        self.signed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn create_first(&self, zone: &ZoneId) -> Result<(), StoreError> {
        let key = NewKey::generate(&self.vault)?;
        let zone = zone.clone();
        self.store.write(move |tx| Box::pin(async move { key.insert_first(tx, &zone).await })).await
    }

    /// The keys in memory, unless a grace ended since they were read.
    fn kept(&self, zone: &ZoneId) -> Option<Arc<KeySet>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner).get(zone).cloned();
        kept.filter(|set| set.until > self.store.now())
    }

    /// The keys as the database has them now.
    async fn current(&self, zone: &ZoneId) -> Result<Arc<KeySet>, StoreError> {
        let mut connection = self.store.read().await?;
        if let Some(set) = self.kept(zone)
            && stored::epoch_of(&mut connection, zone).await? == Some(set.epoch)
        {
            return Ok(set);
        }
        let set = Arc::new(KeySet::load(&mut connection, &self.vault, zone, self.store.now()).await?);
        // Only what can sign is kept: an empty zone may get its first key, and a key that cannot be opened its
        // key-encryption key.
        if set.signing.is_some() {
            let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
            kept.insert(zone.clone(), Arc::clone(&set));
        }
        Ok(set)
    }
}

/// The claims of a token that one of these keys signed.
fn signed_claims(set: &KeySet, token: &str) -> Result<Claims, MandateError> {
    let jws = split(token)?;
    check_signature(set, &jws)?;
    claims_of(&jws)
}

fn split(token: &str) -> Result<CompactJws<'_>, MandateError> {
    CompactJws::split(token.as_bytes()).map_err(|_| MandateError::Malformed)
}

fn check_signature(set: &KeySet, jws: &CompactJws<'_>) -> Result<(), MandateError> {
    let key_id = jws.key_id().map_err(|_| MandateError::Malformed)?;
    let signature = jws.signature().map_err(|_| MandateError::Malformed)?;
    let key = set.verification.iter().find(|(id, _)| *id == key_id).ok_or(MandateError::Signature)?;
    let is_good = NativeVerifier.verify(&key.1, jws.signing_input(), &signature);
    if is_good { Ok(()) } else { Err(MandateError::Signature) }
}

/// The claims of a token whose signature is good.
fn claims_of(jws: &CompactJws<'_>) -> Result<Claims, MandateError> {
    let payload = jws.payload().map_err(|_| MandateError::Malformed)?;
    Claims::from_json(&payload).map_err(|_| MandateError::Malformed)
}

/// Whether claims are what is expected, at `now` (unix milliseconds).
fn check(claims: &Claims, expected: Expected<'_>, now: i64) -> Result<(), MandateError> {
    let now = now / 1000;
    // A resource's mandate is for what it names, every other one for the STS itself (contract gateway §B1).
    let own = |audience: &String| match expected.usage {
        MandateUse::Resource => claims.target.contains(audience),
        MandateUse::Gateway | MandateUse::Session => audience == expected.issuer,
    };
    match () {
        () if claims.zone_id != *expected.zone => Err(MandateError::Zone),
        () if claims.iss != expected.issuer => Err(MandateError::Issuer),
        () if !claims.aud.iter().any(own) => Err(MandateError::Audience),
        () if claims.exp.saturating_add(LEEWAY_SECONDS) <= now => Err(MandateError::Expired),
        () if claims.iat > now.saturating_add(LEEWAY_SECONDS) => Err(MandateError::IssuedInFuture),
        () if claims.usage != expected.usage => Err(MandateError::Use),
        () => Ok(()),
    }
}
