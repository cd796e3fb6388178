//! Requests by route template, method and class of status, and their time.

use super::Service;
use super::catalogue::catalogue;
use crate::trace::{self, Tracer};
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use http::Method;
use prometheus::{Histogram, IntCounter, IntGauge};
use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tower_layer::Layer;
use tower_service::Service as TowerService;

/// The label of a request that no route is for.
const NO_ROUTE: &str = "none";
/// The methods that have a label of their own.
const METHODS: [Method; 7] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Measures every request of a service, and records it where there is a tracer.
#[derive(Debug, Clone)]
pub(crate) struct Measure {
    pub(crate) service: Service,
    pub(crate) tracer: Option<Tracer>,
}

impl<S> Layer<S> for Measure {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { service: self.service, tracer: self.tracer.clone(), inner }
    }
}

/// A service whose requests are measured.
#[derive(Debug, Clone)]
pub(crate) struct Measured<S> {
    service: Service,
    tracer: Option<Tracer>,
    inner: S,
}

impl<S> TowerService<Request> for Measured<S>
where
    S: TowerService<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let begun = Instant::now();
        let service = self.service;
        let route = request.extensions().get::<MatchedPath>().cloned();
        let method = METHODS.iter().position(|method| method == request.method());
        let scope = trace::begin(self.tracer.as_ref(), &request, route.as_ref());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = scope.around(answer).await?;
            trace::end(&scope, &response);
            let class = usize::from(response.status().as_u16() / 100).saturating_sub(1);
            let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
            count(service, route, method.unwrap_or(METHODS.len()), class, begun);
            Ok(response)
        })
    }
}

/// What one thread keeps of a route.
#[derive(Default)]
struct Route {
    /// By method, then by class of status.
    counters: [[Option<IntCounter>; CLASSES.len()]; METHODS.len() + 1],
    durations: [Option<Histogram>; METHODS.len() + 1],
}

thread_local! {
    static ROUTES: RefCell<[HashMap<Box<str>, Route>; Service::ALL.len()]> = RefCell::default();
}

fn count(service: Service, route: &str, method: usize, class: usize, begun: Instant) {
    let took = begun.elapsed().as_secs_f64();
    ROUTES.with_borrow_mut(|routes| {
        let Some(routes) = routes.get_mut(service as usize) else { return };
        if !routes.contains_key(route) {
            routes.insert(route.into(), Route::default());
        }
        let Some(known) = routes.get_mut(route) else { return };
        let method_name = METHODS.get(method).map_or("other", Method::as_str);
        if let Some(slot) = known.counters.get_mut(method).and_then(|classes| classes.get_mut(class)) {
            let class = CLASSES.get(class).copied().unwrap_or("other");
            if slot.is_none() {
                let labels = [service.as_str(), route, method_name, class];
                *slot =
                    catalogue().and_then(|all| all.http.requests.get_metric_with_label_values(&labels).ok());
            }
            if let Some(counter) = slot {
                counter.inc();
            }
        }
        if let Some(slot) = known.durations.get_mut(method) {
            if slot.is_none() {
                let labels = [service.as_str(), route, method_name];
                *slot =
                    catalogue().and_then(|all| all.http.durations.get_metric_with_label_values(&labels).ok());
            }
            if let Some(histogram) = slot {
                histogram.observe(took);
            }
        }
    });
}

/// How many connections a service has open.
pub(crate) fn connections(service: Service) -> Option<IntGauge> {
    catalogue()?.http.connections.get_metric_with_label_values(&[service.as_str()]).ok()
}

/// A limit ended a connection.
pub(crate) fn connection_ended(service: Service, limit: &'static str) {
    if let Some(all) = catalogue() {
        all.http.connections_ended.add(&[service.as_str(), limit], 1);
    }
}
