//! What is read from the store when someone asks: what waits, who listens, how far behind they are.

use super::Service;
use super::catalogue::{ADMIN, AUDIT, Builder, COORDINATOR, EVERY, Entry, STS};
use crate::SqlConnection;
use crate::{Store, StoreError};
use prometheus::proto::MetricFamily;
use prometheus::{Error, IntGaugeVec};
use std::time::{Duration, Instant};

/// A gateway that was not heard for so long is not live, milliseconds.
const LIVE: i64 = 60_000;
/// How long the Coordinator's sums are kept (contract coordinator §9).
const KEEP: Duration = Duration::from_secs(15);

/// The gauges of one exposition.
pub(super) struct Sampled {
    registry: prometheus::Registry,
    pub(super) entries: Vec<Entry>,
    gauges: Gauges,
    taken: Option<Instant>,
}

struct Gauges {
    up: IntGaugeVec,
    admin_pending: IntGaugeVec,
    admin_age: IntGaugeVec,
    audit_lag: IntGaugeVec,
    audit_age: IntGaugeVec,
    findings: IntGaugeVec,
    last_check: IntGaugeVec,
    gateways: IntGaugeVec,
    gateway_lag: IntGaugeVec,
    invocations: IntGaugeVec,
    outbox: IntGaugeVec,
    receipts: IntGaugeVec,
    receipt_age: IntGaugeVec,
    sessions: IntGaugeVec,
}

impl Sampled {
    pub(super) fn new() -> Result<Self, Error> {
        let mut b = Builder::default();
        let gauges = Gauges {
            up: b.gauges(EVERY, "caracal_store_up", "1 if the database answers.", &[])?,
            admin_pending: b.gauges(
                ADMIN,
                "caracal_api_outbox_pending_total",
                "Events that wait for the ledger.",
                &[],
            )?,
            admin_age: b.gauges(
                ADMIN,
                "caracal_api_outbox_oldest_pending_age_seconds",
                "How long the oldest event waits.",
                &[],
            )?,
            audit_lag: b.gauges(
                AUDIT,
                "caracal_audit_consumer_lag",
                "Events that wait for the ledger.",
                &[],
            )?,
            audit_age: b.gauges(
                AUDIT,
                "caracal_audit_consumer_pel_oldest_seconds",
                "How long the oldest event waits.",
                &[],
            )?,
            findings: b.gauges(
                AUDIT,
                "caracal_audit_tamper_open_findings",
                "Faults of the chains that nobody has taken note of.",
                &[],
            )?,
            last_check: b.gauges(
                AUDIT,
                "caracal_audit_tamper_last_sweep_unix",
                "When the chain whose check is longest ago was checked, unix seconds; 0 before the first.",
                &[],
            )?,
            gateways: b.gauges(STS, "caracal_sts_feed_gateways", "Gateways heard within 60 s.", &[])?,
            gateway_lag: b.gauges(
                STS,
                "caracal_sts_feed_lag",
                "How many changes the live gateway that is furthest behind has not applied.",
                &[],
            )?,
            invocations: b.gauges(
                COORDINATOR,
                "caracal_invocations_total",
                "Invocations, by status.",
                &["status"],
            )?,
            outbox: b.gauges(
                COORDINATOR,
                "caracal_outbox_total",
                "Events in the outbox, by status.",
                &["status"],
            )?,
            receipts: b.gauges(
                COORDINATOR,
                "caracal_idempotency_receipts",
                "Idempotency receipts that are kept.",
                &[],
            )?,
            receipt_age: b.gauges(
                COORDINATOR,
                "caracal_idempotency_oldest_seconds",
                "The age of the oldest idempotency receipt.",
                &[],
            )?,
            sessions: b.gauges(
                COORDINATOR,
                "caracal_coordinator_sessions",
                "Sessions that may still act or be resumed, by status.",
                &["status"],
            )?,
        };
        Ok(Self { registry: b.registry, entries: b.entries, gauges, taken: None })
    }

    /// Reads what `service` shows. Where the database does not answer, only `caracal_store_up` is left, at 0.
    pub(super) async fn take(&mut self, service: Service, store: &Store) -> Vec<MetricFamily> {
        let fresh = self.taken.is_some_and(|taken| taken.elapsed() < KEEP);
        if fresh && service == Service::Coordinator {
            return self.registry.gather();
        }
        self.clear();
        let read = self.read(service, store).await;
        if let Err(error) = &read {
            tracing::warn!(%error, "metrics of the store could not be read");
            self.clear();
        }
        self.taken = read.is_ok().then(Instant::now);
        set(&self.gauges.up, "", i64::from(read.is_ok()));
        self.registry.gather()
    }

    fn clear(&self) {
        let g = &self.gauges;
        for gauge in [
            &g.up,
            &g.admin_pending,
            &g.admin_age,
            &g.audit_lag,
            &g.audit_age,
            &g.findings,
            &g.last_check,
            &g.gateways,
            &g.gateway_lag,
            &g.invocations,
            &g.outbox,
            &g.receipts,
            &g.receipt_age,
            &g.sessions,
        ] {
            gauge.reset();
        }
    }

    async fn read(&self, service: Service, store: &Store) -> Result<(), StoreError> {
        let g = &self.gauges;
        match service {
            Service::Admin => waiting(store, &g.admin_pending, &g.admin_age).await,
            Service::Audit => {
                waiting(store, &g.audit_lag, &g.audit_age).await?;
                self.chains(store).await
            }
            Service::Sts => self.gateways(store).await,
            Service::Coordinator => self.coordinator(store).await,
        }
    }

    async fn chains(&self, store: &Store) -> Result<(), StoreError> {
        let mut connection = store.read().await?;
        let open: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM audit_findings WHERE acknowledged_at IS NULL")
                .fetch_one(&mut *connection)
                .await?;
        let checked: Option<i64> = sqlx::query_scalar("SELECT MIN(checked_at) FROM audit_checks")
            .fetch_one(&mut *connection)
            .await?;
        set(&self.gauges.findings, "", open);
        set(&self.gauges.last_check, "", checked.unwrap_or(0) / 1000);
        Ok(())
    }

    async fn gateways(&self, store: &Store) -> Result<(), StoreError> {
        let mut connection = store.read().await?;
        let (live, behind): (i64, i64) = sqlx::query_as(
            "SELECT COUNT(*), COALESCE(MAX(s.value - g.acknowledged), 0) FROM gateways g \
             JOIN sequences s ON s.name = 'change_log' WHERE g.last_seen_at > $1",
        )
        .bind(store.now() - LIVE)
        .fetch_one(&mut *connection)
        .await?;
        set(&self.gauges.gateways, "", live);
        set(&self.gauges.gateway_lag, "", behind.max(0));
        Ok(())
    }

    async fn coordinator(&self, store: &Store) -> Result<(), StoreError> {
        let g = &self.gauges;
        let mut connection = store.read().await?;
        for (gauge, statement) in [
            (&g.invocations, "SELECT status, COUNT(*) FROM agent_invocations GROUP BY status"),
            (
                &g.sessions,
                "SELECT status, COUNT(*) FROM sessions WHERE status IN ('active', 'suspended') GROUP BY status",
            ),
        ] {
            let rows: Vec<(String, i64)> = sqlx::query_as(statement).fetch_all(&mut *connection).await?;
            for (status, count) in rows {
                set(gauge, &status, count);
            }
        }
        let (pending, _) = counted(&mut connection, OUTBOX).await?;
        set(&g.outbox, "pending", pending);
        let (receipts, oldest) = counted(&mut connection, RECEIPTS).await?;
        set(&g.receipts, "", receipts);
        set(&g.receipt_age, "", age(store, oldest));
        Ok(())
    }
}

async fn waiting(store: &Store, count: &IntGaugeVec, oldest: &IntGaugeVec) -> Result<(), StoreError> {
    let mut connection = store.read().await?;
    let (waiting, since) = counted(&mut connection, OUTBOX).await?;
    set(count, "", waiting);
    set(oldest, "", age(store, since));
    Ok(())
}

const OUTBOX: &str = "SELECT COUNT(*), MIN(created_at) FROM audit_outbox";
const RECEIPTS: &str = "SELECT COUNT(*), MIN(created_at) FROM idempotency_receipts";

/// How many rows there are, and when the oldest was made.
async fn counted(
    connection: &mut SqlConnection,
    statement: &'static str,
) -> Result<(i64, Option<i64>), StoreError> {
    Ok(sqlx::query_as(statement).fetch_one(connection).await?)
}

fn age(store: &Store, since: Option<i64>) -> i64 {
    since.map_or(0, |since| (store.now() - since).max(0) / 1000)
}

fn set(gauge: &IntGaugeVec, label: &str, value: i64) {
    let labels: &[&str] = if label.is_empty() { &[] } else { &[label] };
    if let Ok(gauge) = gauge.get_metric_with_label_values(labels) {
        gauge.set(value);
    }
}
