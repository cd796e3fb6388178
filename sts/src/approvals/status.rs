//! `GET /approvals/{id}`: what a hold has come to, told as soon as it is settled (contract sts §16.6).

use super::hold::{Hold, State as HoldState};
use crate::Sts;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use caracal_store::StoreError;
use caracal_store::http::Refusal;
use std::time::Duration;

/// The longest wait, in seconds.
const MAX_WAIT_SECONDS: u64 = 25;
/// How often one waiter asks the database, should another process have decided.
const POLL: Duration = Duration::from_secs(2);
/// However many other holds are decided meanwhile, one waiter reads no more often than this.
const PACE: Duration = Duration::from_millis(50);

/// The route.
pub(crate) async fn status(
    State(sts): State<Sts>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(wait) = wait_of(query.as_deref()) else {
        return Refusal::new(StatusCode::BAD_REQUEST, "invalid_token")
            .because("wait is no number of seconds")
            .into_response();
    };
    match sts.settled(&id, wait).await {
        Ok(Some(hold)) => {
            let mut response = axum::Json(hold.to_status(sts.store().now())).into_response();
            crate::routes::no_store(&mut response);
            response
        }
        Ok(None) => unknown().into_response(),
        Err(error) => Refusal::unavailable(&error).into_response(),
    }
}

/// 404: there is no such hold.
pub(super) fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "resource_not_found").because("no such approval")
}

fn wait_of(query: Option<&str>) -> Option<Duration> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let given = pairs.into_iter().find(|(name, value)| name == "wait" && !value.is_empty());
    let Some((_, text)) = given else { return Some(Duration::ZERO) };
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: u64 = text.parse().unwrap_or(u64::MAX);
    Some(Duration::from_secs(seconds.min(MAX_WAIT_SECONDS)))
}

impl Sts {
    /// The hold as soon as it is no longer pending, or as it stands after `wait`. A decision of this process wakes it at
    /// once, one of another within [`POLL`].
    async fn settled(&self, id: &str, wait: Duration) -> Result<Option<Hold>, StoreError> {
        let mut decisions = self.store().decisions();
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            decisions.mark_unchanged();
            let found = {
                let mut connection = self.store().read().await?;
                Hold::find(&mut connection, id).await?
            };
            let now = tokio::time::Instant::now();
            let time = self.store().now();
            let pending = found.as_ref().filter(|hold| hold.state(time) == HoldState::Pending);
            let Some(hold) = pending.filter(|_| now < deadline) else { return Ok(found) };
            let left = u64::try_from(hold.expires_at.saturating_sub(time)).unwrap_or(0);
            let wake = deadline.min(now + POLL.min(Duration::from_millis(left)));
            let _ = tokio::time::timeout_at(wake, decisions.changed()).await;
            tokio::time::sleep_until(deadline.min(now + PACE)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_sts_16_6_wait() {
        let cases = [
            (None, Some(0)),
            (Some(""), Some(0)),
            (Some("wait=0"), Some(0)),
            (Some("x=1&wait=7"), Some(7)),
            (Some("wait=26"), Some(25)),
            (Some("wait=99999999999999999999999"), Some(25)),
            (Some("wait=-1"), None),
            (Some("wait=1s"), None),
        ];
        for (query, seconds) in cases {
            assert_eq!(wait_of(query), seconds.map(Duration::from_secs), "{query:?}");
        }
    }
}
