//! What a request is decided by: the operator's binding, the feed, and the headers.

use caracal_mandate::decide::{self, Binding, Decision, Facts, decide};
use caracal_mandate::id::{ResourceIdentifier, ZoneId};
use caracal_mandate::verdict::DenyReason;

use crate::config::{self, Role};
use crate::forward::Inbound;
use crate::host::Host;
use crate::root::Worker;

/// Decides a request by what is here, at `now` by the own clock (unix milliseconds).
///
/// # Errors
/// The reason, where there is nothing to decide by.
pub(crate) fn judge(
    worker: &Worker,
    route: &Route,
    inbound: &Inbound,
    now: u64,
) -> Result<Decision, DenyReason> {
    let config = &worker.config;
    let mut view = worker.view.borrow_mut();
    let (state, now) =
        view.fresh(worker.host.as_ref(), now, config.max_feed_age_ms).map_err(|_| DenyReason::FeedStale)?;
    if config.issuer.as_ref().is_some_and(|issuer| **issuer != *state.issuer) {
        return Err(DenyReason::IssuerMismatch);
    }
    let authorization = inbound.all("authorization");
    let client_id = inbound.all("x-caracal-client-id");
    let resource_header = inbound.all("x-caracal-resource");
    let bound = route.bound.clone().transpose()?;
    let binding = match (&config.binding, &bound) {
        (config::Binding::Fixed { zone, resource }, _) => Binding::Fixed { zone: Some(zone), resource },
        (config::Binding::Metadata, Some((zone, resource))) => {
            let route_zone = zone.as_ref();
            if let (Some(route), Some(configured)) = (route_zone, config.zone.as_ref())
                && route != configured
            {
                return Err(DenyReason::ZoneMismatch);
            }
            Binding::Fixed { zone: route_zone.or(config.zone.as_ref()), resource }
        }
        (config::Binding::Header | config::Binding::Metadata, _) => {
            Binding::Header { zone: config.zone.as_ref(), values: &resource_header }
        }
    };
    let facts = Facts {
        role: match config.role {
            Role::Gateway => decide::Role::Gateway,
            Role::Resource => decide::Role::Resource,
        },
        binding,
        authorization: &authorization,
        client_id: &client_id,
        method: inbound.method(),
        path: inbound.path(),
        operation: route.operation.as_deref(),
        now,
    };
    let decision = decide(&facts, state, &mut worker.signatures.borrow_mut(), &worker.verifier);
    if decision.mandate.as_ref().is_some_and(|mandate| !worker.verifier.stands(&mandate.claims)) {
        return Err(DenyReason::JwtAuthnMissing);
    }
    Ok(decision)
}

/// What the operator wrote at the route, where the binding is `metadata`.
#[derive(Default)]
pub(crate) struct Route {
    bound: Option<Result<(Option<ZoneId>, ResourceIdentifier), DenyReason>>,
    /// The operation that every request of this route stands for, as `GET /v1/orders`.
    pub(crate) operation: Option<String>,
    /// Whether the operator only tries the rules out here.
    pub(crate) dry_run: bool,
}

impl Route {
    /// Reads the metadata of the request's route.
    pub(crate) fn read(worker: &Worker) -> Self {
        if worker.config.binding != config::Binding::Metadata {
            return Self::default();
        }
        let host = worker.host.as_ref();
        Self {
            bound: Some(bound_by_route(host)),
            // What is no text is no operation either, and names none.
            operation: metadata(host, "operation").map(|text| String::from_utf8(text).unwrap_or_default()),
            // Only a resource's own door may be left open, and only by the word that says so.
            dry_run: worker.config.role == Role::Resource
                && metadata(host, "dry_run").is_some_and(|flag| flag == [1] || flag == b"true"),
        }
    }

    /// The resource that is bound, if one is.
    pub(crate) fn resource(self) -> Option<ResourceIdentifier> {
        self.bound?.ok().map(|(_, resource)| resource)
    }
}

fn metadata(host: &dyn Host, name: &str) -> Option<Vec<u8>> {
    host.property(&["xds", "route_metadata", "filter_metadata", "caracal", name])
}

fn bound_by_route(host: &dyn Host) -> Result<(Option<ZoneId>, ResourceIdentifier), DenyReason> {
    let read = |name| metadata(host, name).and_then(|value| String::from_utf8(value).ok());
    let resource = read("resource").and_then(|resource| ResourceIdentifier::new(resource).ok());
    let resource = resource.ok_or(DenyReason::MissingResource)?;
    let zone = match read("zone") {
        None => None,
        Some(zone) => Some(ZoneId::new(zone).map_err(|_| DenyReason::ZoneMismatch)?),
    };
    Ok((zone, resource))
}
