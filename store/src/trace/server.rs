//! The span of a request, by the semantic conventions for HTTP servers.

use super::names::Attribute;
use super::queue::Tracer;
use super::scope::{Found, Recorded, Scope};
use crate::http::REQUEST_ID;
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use caracal_mandate::header::Traceparent;
use caracal_mandate::id::ZoneId;
use http::{HeaderMap, HeaderName, Method};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use std::sync::Arc;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Who asks these asks all day long, and nobody reads about it.
const PROBES: [&str; 4] = ["/health", "/ready", "/metrics", "/metrics.json"];
/// The methods that are told apart.
const METHODS: [Method; 7] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
/// What the conventions have for any other.
const OTHER_METHOD: &str = "_OTHER";

/// Begins a request. Without a tracer it is not recorded; its logs name its trace all the same.
pub(crate) fn begin(tracer: Option<&Tracer>, request: &Request, route: Option<&MatchedPath>) -> Scope {
    let parent = traceparent(request.headers());
    let trace = parent.map(|parent| TraceId::from_bytes(parent.trace_id));
    let path = request.uri().path();
    let Some(tracer) = tracer.filter(|_| !PROBES.contains(&path)) else {
        return trace.map_or(Scope::None, Scope::Known);
    };
    let method = METHODS.into_iter().find(|method| method == request.method());
    let method = method.as_ref().map(Method::as_str);
    let shown = method.unwrap_or("HTTP");
    let name = match route {
        Some(route) => format!("{shown} {}", route.as_str()),
        None => shown.to_owned(),
    };
    let mut attributes = Vec::with_capacity(8);
    attributes.push(KeyValue::new(Attribute::Method.name(), method.unwrap_or(OTHER_METHOD).to_owned()));
    attributes.push(KeyValue::new(Attribute::Scheme.name(), "http"));
    if let Some(route) = route {
        attributes.push(KeyValue::new(Attribute::Route.name(), route.as_str().to_owned()));
    }
    let above = parent.map_or_else(Context::new, above);
    let tracer = tracer.sdk();
    let span = tracer
        .span_builder(name)
        .with_kind(SpanKind::Server)
        .with_attributes(attributes)
        .start_with_context(tracer, &above);
    recorded_or_known(tracer, span, route.and_then(|route| zone_of(route.as_str(), path)))
}

fn recorded_or_known(
    tracer: &opentelemetry_sdk::trace::SdkTracer,
    span: opentelemetry_sdk::trace::Span,
    zone: Option<ZoneId>,
) -> Scope {
    use opentelemetry::trace::Span as _;
    if !span.is_recording() {
        return Scope::Known(span.span_context().trace_id());
    }
    let found = Found::default();
    if let Some(zone) = zone {
        let _ = found.zone.set(zone.to_string());
    }
    Scope::Recorded(Recorded {
        tracer: tracer.clone(),
        span: Context::new().with_span(span),
        found: Arc::new(found),
    })
}

/// Ends a request with its answer. One that never had an answer ends when its scope is dropped.
pub(crate) fn end(scope: &Scope, response: &Response) {
    let Scope::Recorded(request) = scope else { return };
    let status = response.status();
    request.set(Attribute::Status, i64::from(status.as_u16()));
    if let Some(id) = crate::http::header_text(response.headers(), &REQUEST_ID) {
        request.set(Attribute::RequestId, id.to_owned());
    }
    if let Some(zone) = request.found.zone.get() {
        request.set(Attribute::Zone, zone.clone());
    }
    if status.is_client_error() || status.is_server_error() {
        if let Some(reason) = request.found.reason.get() {
            request.set(Attribute::Reason, reason.clone());
        }
        if status.is_server_error() {
            request.set(Attribute::ErrorType, status.as_str().to_owned());
            request.span.span().set_status(Status::error(""));
        }
    }
    request.span.span().end();
}

/// The caller's trace, if it tells of exactly one.
fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { Traceparent::parse(value.as_bytes()) }
}

fn above(parent: Traceparent) -> Context {
    let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.parent_id),
        flags,
        true,
        TraceState::NONE,
    ))
}

/// The zone that a path names where its route has one.
fn zone_of(route: &str, path: &str) -> Option<ZoneId> {
    let place = route.split('/').position(|segment| segment == "{zone}")?;
    ZoneId::new(path.split('/').nth(place)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_gateway_a15_6_one_valid_traceparent_is_continued() {
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let good = format!("00-{trace}-{parent}-01");
        for (values, sampled) in [
            (vec![good.clone()], Some(true)),
            (vec![format!("00-{trace}-{parent}-00")], Some(false)),
            (vec![format!("cc-{trace}-{parent}-01-more")], Some(true)),
            (vec![good.to_uppercase()], None),
            (vec![format!("ff-{trace}-{parent}-01")], None),
            (vec![format!("00-{}-{parent}-01", "0".repeat(32))], None),
            (vec![good.clone(), good], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(TRACEPARENT, value.parse().unwrap());
            }
            assert_eq!(traceparent(&headers).map(|parent| parent.sampled), sampled, "{values:?}");
        }
    }

    #[test]
    fn the_zone_of_a_path_is_where_its_route_has_it() {
        for (route, path, zone) in [
            ("/v1/zones/{zone}/grants", "/v1/zones/z1/grants", Some("z1")),
            ("/zones/{zone}", "/zones/z1", Some("z1")),
            ("/zones/{zone}", "/zones/%2e%2e", None),
            ("/v1/zones", "/v1/zones", None),
        ] {
            assert_eq!(zone_of(route, path).as_ref().map(ZoneId::as_str), zone, "{path}");
        }
    }
}
