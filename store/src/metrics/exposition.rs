//! `GET /metrics` and `GET /metrics.json` of a service.

use super::Service;
use super::catalogue::catalogue;
use super::sampled::Sampled;
use crate::Store;
use crate::http::{Refusal, bearer};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use prometheus::TextEncoder;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The media type of the text form.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Who may read metrics.
#[derive(Clone, PartialEq, Eq)]
pub enum Access {
    /// Whoever presents this bearer token.
    Bearer(String),
    /// No one: no token is set, and the service can be reached from elsewhere.
    Closed,
    /// Anyone: no token is set, and the service listens on loopback alone.
    Open,
}

impl Access {
    /// What a service grants that listens on `ip`, with the token that is set (`METRICS_BEARER`).
    #[must_use]
    pub fn of(bearer: Option<String>, ip: std::net::IpAddr) -> Self {
        match bearer {
            Some(bearer) => Self::Bearer(bearer),
            None if ip.is_loopback() => Self::Open,
            None => Self::Closed,
        }
    }

    fn allows(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Bearer(token) => bearer(headers)
                .is_some_and(|given| verify_slices_are_equal(given.as_bytes(), token.as_bytes()).is_ok()),
            Self::Closed => false,
            Self::Open => true,
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer(…)",
            Self::Closed => "Closed",
            Self::Open => "Open",
        })
    }
}

/// The routes `/metrics` and `/metrics.json` of one service, to merge into its router.
pub struct Exposition {
    service: Service,
    store: Store,
    access: Access,
    operator_token: Option<String>,
    facts: Map<String, Value>,
    sampled: Mutex<Option<Sampled>>,
}

impl Exposition {
    /// The metrics of `service`, whose state is in `store`.
    #[must_use]
    pub fn new(service: Service, store: Store, access: Access) -> Self {
        let sampled =
            Sampled::new().inspect_err(|error| tracing::error!(%error, "metrics could not be set up"));
        Self {
            service,
            store,
            access,
            operator_token: None,
            facts: Map::new(),
            sampled: Mutex::new(sampled.ok()),
        }
    }

    /// Also whoever presents the operator's token reads them (contract coordinator §3.2).
    #[must_use]
    pub fn with_operator_token(mut self, token: String) -> Self {
        self.operator_token = Some(token);
        self
    }

    /// A fact that is no number, for the JSON form alone.
    #[must_use]
    pub fn with_fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// The routes.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/metrics", get(text))
            .route("/metrics.json", get(document))
            .with_state(Arc::new(self))
    }

    /// The answer to who may not read them; `None` for who may.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let operator = self.operator_token.clone().map(Access::Bearer);
        if self.access.allows(headers) || operator.is_some_and(|operator| operator.allows(headers)) {
            return None;
        }
        let mut refusal = match self.service {
            Service::Admin | Service::Coordinator => {
                Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized").into_response()
            }
            Service::Audit | Service::Sts => (StatusCode::UNAUTHORIZED, "unauthorized").into_response(),
        };
        let realm = match self.service {
            Service::Admin => "Bearer realm=\"caracal-api\"",
            Service::Audit => "Bearer realm=\"caracal-audit\"",
            Service::Coordinator => "Bearer realm=\"caracal-coordinator\"",
            Service::Sts => "Bearer realm=\"caracal-sts\"",
        };
        refusal.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(realm));
        Some(refusal)
    }

    /// What the service shows, sorted by name.
    async fn families(&self) -> Vec<MetricFamily> {
        let Some(all) = catalogue() else { return Vec::new() };
        let mut sampled = self.sampled.lock().await;
        let Some(sampled) = sampled.as_mut() else { return Vec::new() };
        let mut families = all.registry.gather();
        families.extend(sampled.take(self.service, &self.store).await);
        let shows = |name: &str| {
            let mut entries = all.entries.iter().chain(&sampled.entries);
            entries.any(|entry| entry.name == name && entry.shown_by.contains(&self.service))
        };
        families.retain(|family| shows(family.name()));
        for family in &mut families {
            family.mut_metric().retain(|metric| self.is_own(metric));
        }
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|one, other| one.name().cmp(other.name()));
        families
    }

    /// Whether a metric is of this service, where a label says of which it is.
    fn is_own(&self, metric: &Metric) -> bool {
        let service = metric.get_label().iter().find(|label| label.name() == "service");
        service.is_none_or(|label| label.value() == self.service.as_str())
    }
}

/// The names of all metrics of all services, sorted.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let sampled = Sampled::new().map(|sampled| sampled.entries).unwrap_or_default();
    let counted = catalogue().map(|all| all.entries.as_slice()).unwrap_or_default();
    let mut names: Vec<_> = counted.iter().chain(&sampled).map(|entry| entry.name).collect();
    names.sort_unstable();
    names
}

async fn text(State(exposition): State<Arc<Exposition>>, headers: HeaderMap) -> Response {
    if let Some(refusal) = exposition.refusal(&headers) {
        return refusal;
    }
    match TextEncoder::new().encode_to_string(&exposition.families().await) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, "no-store")], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error").into_response()
        }
    }
}

async fn document(State(exposition): State<Arc<Exposition>>, headers: HeaderMap) -> Response {
    if let Some(refusal) = exposition.refusal(&headers) {
        return refusal;
    }
    let families = exposition.families().await;
    let document = if exposition.service == Service::Sts {
        sts_document(&families, &exposition.facts)
    } else {
        let mut members = flat(&families, &prefixes(exposition.service));
        members.extend(exposition.facts.clone());
        Value::Object(members)
    };
    ([(header::CACHE_CONTROL, "no-store")], axum::Json(document)).into_response()
}

/// What a name in JSON leaves out, the longest first.
fn prefixes(service: Service) -> [String; 2] {
    [format!("caracal_{}_", service.as_str()), "caracal_".to_owned()]
}

/// `{sts: {…}, opa: {…}}` (contract sts §26.2).
fn sts_document(families: &[MetricFamily], facts: &Map<String, Value>) -> Value {
    let mut sts = flat(families, &prefixes(Service::Sts));
    let policy: Vec<String> = sts.keys().filter(|name| name.starts_with("opa_")).cloned().collect();
    let mut opa = facts.clone();
    for name in policy {
        let Some(value) = sts.remove(&name) else { continue };
        let name = name.trim_start_matches("opa_");
        let nanoseconds = value.as_f64().unwrap_or_default() * 1e9;
        match name {
            "eval_duration_seconds_total" => opa.insert("eval_duration_ns".to_owned(), whole(nanoseconds)),
            "compile_duration_seconds_total" => {
                opa.insert("compile_duration_ns".to_owned(), whole(nanoseconds))
            }
            "eval_errors_total" => opa.insert("eval_errors".to_owned(), value),
            "compile_errors_total" => opa.insert("compile_errors".to_owned(), value),
            other => opa.insert(other.to_owned(), value),
        };
    }
    json!({ "sts": sts, "opa": opa })
}

fn flat(families: &[MetricFamily], prefixes: &[String; 2]) -> Map<String, Value> {
    let mut members = Map::new();
    for family in families {
        let name = family.name();
        let short = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix.as_str())).unwrap_or(name);
        let values: Vec<Value> = family
            .get_metric()
            .iter()
            .map(|metric| {
                let value = value_of(family.get_field_type(), metric);
                let labels = metric.get_label().iter().filter(|label| label.name() != "service");
                let mut labelled: Map<String, Value> =
                    labels.map(|label| (label.name().to_owned(), label.value().into())).collect();
                if labelled.is_empty() {
                    return value;
                }
                labelled.insert("value".to_owned(), value);
                Value::Object(labelled)
            })
            .collect();
        let value = match <[Value; 1]>::try_from(values) {
            Ok([value]) if value.get("value").is_none() => value,
            Ok([value]) => Value::Array(vec![value]),
            Err(values) => Value::Array(values),
        };
        members.insert(short.to_owned(), value);
    }
    members
}

fn value_of(kind: MetricType, metric: &Metric) -> Value {
    match kind {
        MetricType::COUNTER => number(metric.get_counter().get_value()),
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            json!({ "count": histogram.get_sample_count(), "sum": histogram.get_sample_sum() })
        }
        _ => number(metric.get_gauge().get_value()),
    }
}

fn number(value: f64) -> Value {
    if value.fract() == 0.0 { whole(value) } else { value.into() }
}

/// A number without a fraction, as JSON writes whole numbers.
#[allow(clippy::cast_possible_truncation, reason = "counters are far below what an i64 holds")]
fn whole(value: f64) -> Value {
    (value as i64).into()
}
