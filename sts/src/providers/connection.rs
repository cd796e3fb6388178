//! Connections: what one person let us do at one provider, as rows (contract sts §22.4, admin-audit §5.6).
//!
//! Each token is sealed for its own row. A connection that ended holds no token any more, so a stolen database gives
//! none away, and what was revoked cannot come back.

use super::config::Kind;
use super::error::CredentialError;
use super::hidden::Hidden;
use super::token::TokenAnswer;
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use caracal_store::model::Provider;
use caracal_store::secrets::Vault;
use sqlx::Row as _;
use sqlx::any::AnyRow;

/// The subject of a connection that everyone in the zone shares.
pub const SHARED_SUBJECT: &str = "caracal:shared";
/// A connection is renewed within this time of its end, in milliseconds.
pub(super) const RENEW_WITHIN: i64 = 30_000;
/// How long others take a failed renewal for their own answer, in milliseconds.
const FAILURE_COUNTS_FOR: i64 = 5_000;

const COLUMNS: &str = "id, subject_id, access_token_envelope, refresh_token_envelope, expires_at, \
     refreshed_at, refresh_token_version, lease_owner, lease_until, failed_at";

/// The tokens of a connection, as they are imported or come from a token endpoint.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// The token.
    pub access: Hidden,
    /// What renews it.
    pub refresh: Option<Hidden>,
    /// Its end, unix milliseconds; without one it is served until somebody revokes it.
    pub expires_at: Option<i64>,
}

/// Which tokens of which row: a later version holds others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionRef {
    /// The row.
    pub id: String,
    /// Its `refresh_token_version`.
    pub version: i64,
}

/// An active connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) reference: ConnectionRef,
    access: String,
    refresh: Option<String>,
    pub(super) expires_at: Option<i64>,
    refreshed_at: Option<i64>,
    lease_owner: Option<String>,
    lease_until: Option<i64>,
    failed_at: Option<i64>,
}

/// What a connection is good for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The provider's kind needs none.
    Unneeded,
    /// It can be used.
    Usable(ConnectionRef),
    /// It has to be renewed before anything else is decided.
    Stale(ConnectionRef),
    /// Nobody is there whose connection it could be.
    NoUser,
    /// There is none.
    Missing,
    /// It cannot be renewed (any more), or the last attempt failed a moment ago.
    Failed,
}

/// The place that a connection's token is sealed for: this column of this row.
fn place(zone: &str, id: &str, token: &str) -> String {
    format!("zones/{zone}/providerConnections/{id}/{token}")
}

pub(super) fn access_place(zone: &ZoneId, id: &str) -> String {
    place(zone.as_str(), id, "accessToken")
}

pub(super) fn refresh_place(zone: &ZoneId, id: &str) -> String {
    place(zone.as_str(), id, "refreshToken")
}

impl Connection {
    fn from_row(row: &AnyRow) -> Result<Self, StoreError> {
        let access: Option<String> = row.try_get("access_token_envelope")?;
        Ok(Self {
            reference: ConnectionRef {
                id: row.try_get("id")?,
                version: row.try_get("refresh_token_version")?,
            },
            access: access.ok_or_else(|| StoreError::corrupt("provider_connections: no access token"))?,
            refresh: row.try_get("refresh_token_envelope")?,
            expires_at: row.try_get("expires_at")?,
            refreshed_at: row.try_get("refreshed_at")?,
            lease_owner: row.try_get("lease_owner")?,
            lease_until: row.try_get("lease_until")?,
            failed_at: row.try_get("failed_at")?,
        })
    }

    /// The active connection of that id.
    pub(super) async fn find(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        id: &str,
    ) -> Result<Option<Self>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM provider_connections WHERE zone_id = $1 AND id = $2 AND status = 'active'"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone.as_str()).bind(id);
        query.fetch_optional(connection).await?.as_ref().map(Self::from_row).transpose()
    }

    /// The connection that serves the subject: its own before the shared one, the newest first.
    async fn of_subject(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        provider: &str,
        subject: &str,
    ) -> Result<Option<Self>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM provider_connections WHERE zone_id = $1 AND provider_id = $2 \
             AND status = 'active' AND subject_id IN ($3, $4) \
             ORDER BY CASE WHEN subject_id = $3 THEN 0 ELSE 1 END, updated_at DESC, id DESC LIMIT 1"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone.as_str()).bind(provider);
        let row = query.bind(subject).bind(SHARED_SUBJECT).fetch_optional(connection).await?;
        row.as_ref().map(Self::from_row).transpose()
    }

    pub(super) fn open_access(&self, vault: &Vault, zone: &ZoneId) -> Result<Hidden, CredentialError> {
        open(vault, &self.access, &access_place(zone, &self.reference.id))
    }

    pub(super) fn open_refresh(
        &self,
        vault: &Vault,
        zone: &ZoneId,
    ) -> Result<Option<Hidden>, CredentialError> {
        let envelope = self.refresh.as_deref();
        envelope.map(|text| open(vault, text, &refresh_place(zone, &self.reference.id))).transpose()
    }

    pub(super) fn is_renewable(&self) -> bool {
        self.refresh.is_some()
    }

    /// Is somebody renewing it?
    pub(super) fn is_leased(&self, now: i64) -> bool {
        self.lease_owner.is_some() && self.lease_until.is_some_and(|until| now < until)
    }

    /// Did the last attempt to renew it fail just now?
    pub(super) fn failed_just_now(&self, now: i64) -> bool {
        self.failed_at.is_some_and(|at| now.saturating_sub(at) < FAILURE_COUNTS_FOR)
    }

    /// Has it to be renewed, or ended, before it is used?
    pub(super) fn is_stale(&self, now: i64) -> bool {
        let Some(end) = self.expires_at else { return false };
        let margin = match self.refreshed_at {
            _ if !self.is_renewable() => 0,
            // A provider whose tokens live for less than that is not asked each time.
            Some(since) => RENEW_WITHIN.min(end.saturating_sub(since) / 2),
            None => RENEW_WITHIN,
        };
        end.saturating_sub(margin) <= now
    }
}

fn open(vault: &Vault, envelope: &str, place: &str) -> Result<Hidden, CredentialError> {
    let plain = vault.open(envelope, place)?;
    String::from_utf8(plain).map(Hidden::new).map_err(|_| CredentialError::Sealed)
}

impl Standing {
    /// Is there anything to look for at a provider of this kind?
    pub(crate) fn is_needed(provider: &Provider) -> bool {
        Kind::parse(&provider.kind) == Some(Kind::AuthorizationCode)
    }

    /// What the subject's connection at this provider is good for.
    pub(crate) async fn of(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        provider: &Provider,
        subject: Option<&str>,
        now: i64,
    ) -> Result<Self, StoreError> {
        if !Self::is_needed(provider) {
            return Ok(Self::Unneeded);
        }
        let Some(subject) = subject.filter(|subject| !subject.is_empty()) else { return Ok(Self::NoUser) };
        let found = Connection::of_subject(connection, zone, &provider.id, subject).await?;
        Ok(match found {
            None if ended_just_now(connection, zone, &provider.id, subject, now).await? => Self::Failed,
            None => Self::Missing,
            Some(found) if !found.is_stale(now) => Self::Usable(found.reference),
            Some(found) if found.failed_just_now(now) => Self::Failed,
            Some(found) => Self::Stale(found.reference),
        })
    }
}

/// Did a connection that would have served the subject end a moment ago, for this request or beside it?
async fn ended_just_now(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    provider: &str,
    subject: &str,
    now: i64,
) -> Result<bool, StoreError> {
    let ended: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM provider_connections WHERE zone_id = $1 AND provider_id = $2 \
         AND subject_id IN ($3, $4) AND status = 'expired' AND failed_at > $5",
    )
    .bind(zone.as_str())
    .bind(provider)
    .bind(subject)
    .bind(SHARED_SUBJECT)
    .bind(now.saturating_sub(FAILURE_COUNTS_FOR))
    .fetch_one(connection)
    .await?;
    Ok(ended > 0)
}

impl Tokens {
    /// The tokens of an answer, with their end: what the provider says, but no later than `max_life` milliseconds from
    /// now. A refresh token that is not given anew stays the one before.
    #[must_use]
    pub fn of_answer(answer: TokenAnswer, before: Option<Hidden>, now: i64, max_life: i64) -> Self {
        Self {
            access: answer.access_token,
            refresh: answer.refresh_token.or(before),
            expires_at: Some(now.saturating_add(life(answer.expires_in, max_life))),
        }
    }
}

/// How long a token is taken to live, in milliseconds: what was said, capped; the cap where nothing usable was said.
pub(super) fn life(expires_in: Option<i64>, max_life: i64) -> i64 {
    match expires_in.filter(|seconds| *seconds > 0) {
        Some(seconds) => seconds.saturating_mul(1000).min(max_life),
        None => max_life,
    }
}

/// The tokens of an active connection, for whoever gives them back to the provider; `None` where there is none.
pub(super) async fn tokens_of(
    connection: &mut SqlConnection,
    vault: &Vault,
    zone: &ZoneId,
    (provider, subject): (&str, &str),
) -> Result<Option<Tokens>, CredentialError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM provider_connections WHERE zone_id = $1 AND provider_id = $2 AND subject_id = $3 \
         AND status = 'active'"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone.as_str()).bind(provider).bind(subject);
    let row = query.fetch_optional(connection).await?;
    let Some(found) = row.as_ref().map(Connection::from_row).transpose()? else { return Ok(None) };
    Ok(Some(Tokens {
        access: found.open_access(vault, zone)?,
        refresh: found.open_refresh(vault, zone)?,
        expires_at: found.expires_at,
    }))
}
