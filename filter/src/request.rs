//! One request, from its headers to its end.
//!
//! A request is `New`, then `Asking` while the STS is asked, and ends up `Forwarded` or `Refused`.
//! [`Flow::Continue`] on the way to the upstream comes from `Forwarded` only, and that stage is entered
//! from an allow only: at the end of [`Request::on_request_headers`] for a verdict that allows, and at
//! the end of [`Request::on_answer`] for an exchange that the STS granted.

use std::rc::Rc;

use caracal_mandate::decide::{self, Binding, Decision, Facts, SignatureCache, decide};
use caracal_mandate::header;
use caracal_mandate::id::{ResourceIdentifier, ZoneId};
use caracal_mandate::path::{DecodedPath, split_target};
use caracal_mandate::verdict::{DenyReason, Doubt, Verdict, VerifiedMandate};

use crate::config::{self, Role};
use crate::evidence::Admission;
use crate::exchange::{self, Exchange};
use crate::forward::{self, Inbound};
use crate::host::{AnswerSize, CallToken, Host, Level};
use crate::metrics;
use crate::record::Record;
use crate::reply::Refusal;
use crate::root::Worker;

/// What the host does next with the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flow {
    /// Pass on.
    Continue,
    /// Stop; nothing passes until something is said.
    Pause,
}

enum Stage {
    New,
    Asking { token: CallToken, since: u64, mandate: Rc<VerifiedMandate>, resource: ResourceIdentifier },
    Forwarded(Rc<VerifiedMandate>),
    Refused,
}

/// One request.
pub struct Request {
    worker: Rc<Worker>,
    stage: Stage,
    inbound: Inbound,
    body_bytes: u64,
    record: Record,
    admission: Option<Admission>,
}

impl Request {
    /// A request of which nothing is known yet.
    #[must_use]
    pub fn new(worker: Rc<Worker>) -> Self {
        let record = Record::new(worker.host.now(), worker.config.role);
        Self {
            worker,
            stage: Stage::New,
            inbound: Inbound::default(),
            body_bytes: 0,
            record,
            admission: None,
        }
    }

    fn host(&self) -> &dyn Host {
        self.worker.host.as_ref()
    }

    /// The headers are there: decides, or asks the STS.
    pub fn on_request_headers(&mut self) -> Flow {
        if !matches!(self.stage, Stage::New) {
            return self.refuse(DenyReason::Internal);
        }
        self.inbound = match Inbound::read(self.host()) {
            Some(inbound) => inbound,
            None => return self.refuse(DenyReason::Internal),
        };
        #[cfg(all(feature = "trap-for-tests", target_arch = "wasm32"))]
        if self.inbound.first("x-caracal-test-trap").is_some() {
            core::arch::wasm32::unreachable();
        }
        self.record.request(&self.inbound);
        self.host().count(metrics::REQUESTS, 1);
        let admission = self.worker.evidence.borrow_mut().admit(self.host());
        self.admission = Some(admission);
        if admission == Admission::Backlog {
            return self.refuse(DenyReason::AuditBacklog);
        }
        let Decision { verdict, resource, mandate } = match self.decide() {
            Ok(decision) => decision,
            Err(reason) => return self.refuse(reason),
        };
        self.record.decision(resource.as_ref(), mandate.as_deref());
        let flow = match (self.worker.config.role, verdict) {
            (_, Verdict::Deny(reason)) => Err(reason.into()),
            (Role::Resource, Verdict::Allow(mandate)) => self.forward_to_resource(mandate),
            (Role::Resource, Verdict::Ask(_, Doubt::FilterBehind)) => Err(DenyReason::FilterBehind.into()),
            (Role::Resource, Verdict::Ask(_, Doubt::PolicyChanged)) => Err(DenyReason::PolicyChanged.into()),
            (Role::Resource, Verdict::Ask(..)) => Err(DenyReason::Internal.into()),
            (Role::Gateway, Verdict::Allow(mandate)) => self.ask(mandate, resource, None),
            (Role::Gateway, Verdict::Ask(mandate, doubt)) => self.ask(mandate, resource, Some(doubt)),
        };
        flow.unwrap_or_else(|refusal| self.refuse(refusal))
    }

    /// Part of the request's body. Refuses what exceeds the limit.
    pub fn on_request_body(&mut self, bytes: usize) -> Flow {
        let Stage::Forwarded(mandate) = &self.stage else { return Flow::Pause };
        if self.revoked(mandate) {
            return self.refuse(DenyReason::Revoked);
        }
        self.body_bytes = self.body_bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.body_bytes > self.worker.config.max_body_bytes {
            return self.refuse(DenyReason::PayloadTooLarge);
        }
        Flow::Continue
    }

    /// The request's trailers.
    pub fn on_request_trailers(&mut self) -> Flow {
        if matches!(self.stage, Stage::Forwarded(_)) { Flow::Continue } else { Flow::Pause }
    }

    /// The STS answered. Answers to anything but the call under way change nothing.
    pub fn on_answer(&mut self, token: CallToken, size: AnswerSize) {
        let Stage::Asking { token: expected, .. } = &self.stage else { return };
        if *expected != token {
            return;
        }
        // Whatever happens below, a second answer finds nothing to act on.
        let Stage::Asking { since, mandate, resource, .. } =
            std::mem::replace(&mut self.stage, Stage::Refused)
        else {
            return;
        };
        let host = Rc::clone(&self.worker.host);
        let now = host.now();
        host.gauge(metrics::STS_LATENCY, now.saturating_sub(since));
        let outcome = exchange::outcome(host.answer(size), resource.as_str());
        let granted = match outcome {
            Ok(granted) => {
                self.worker.circuit.borrow_mut().succeeded();
                granted
            }
            Err(refusal) => {
                host.count(metrics::STS_ERRORS, 1);
                if self.worker.circuit.borrow_mut().failed(&refusal, now) {
                    host.count(metrics::CIRCUIT_OPENED, 1);
                    host.log(Level::Warn, "caracal: the circuit towards the STS is open for 10 s");
                }
                self.refuse(refusal);
                return;
            }
        };
        // What was revoked while the STS was asked stays revoked.
        let revoked = self.revoked(&mandate);
        if revoked {
            self.refuse(DenyReason::Revoked);
            return;
        }
        self.record.directive(&granted.directive);
        match forward::to_upstream(&self.worker, &self.inbound, &granted) {
            Ok(host_name) => {
                self.record.upstream(host_name);
                self.stage = Stage::Forwarded(mandate);
                host.resume();
            }
            Err(reason) => {
                self.refuse(reason);
            }
        }
    }

    /// Headers of the response, or of our own answer.
    pub fn on_response_headers(&mut self) -> Flow {
        if let Stage::Forwarded(mandate) = &self.stage {
            let exp = mandate.claims.exp;
            let status = forward::clean_response(&self.worker, &self.inbound, exp);
            self.record.answered(self.host().now(), status);
        }
        Flow::Continue
    }

    /// Part of the response's body. Cuts the stream off when its mandate was revoked meanwhile.
    pub fn on_response_body(&mut self, bytes: usize) -> Flow {
        let Stage::Forwarded(mandate) = &self.stage else { return Flow::Continue };
        if self.record.revocation_interrupted() {
            return Flow::Pause;
        }
        let mandate = Rc::clone(mandate);
        if self.revoked(&mandate) {
            self.record.interrupt();
            self.host().count(metrics::STREAMS_CUT, 1);
            self.host().reset();
            return Flow::Pause;
        }
        self.record.body(bytes);
        Flow::Continue
    }

    /// The stream is over, however it ended.
    pub fn on_end(&mut self) {
        match &self.stage {
            Stage::New | Stage::Refused => {}
            Stage::Asking { .. } => self.record.cancelled(),
            Stage::Forwarded(_) => self.host().count(metrics::ALLOWED, 1),
        }
        self.write_record();
    }

    fn decide(&mut self) -> Result<Decision, DenyReason> {
        let worker = Rc::clone(&self.worker);
        let config = &worker.config;
        let mut view = worker.view.borrow_mut();
        let state =
            view.fresh(worker.host.as_ref(), config.max_feed_age_ms).map_err(|_| DenyReason::FeedStale)?;
        if config.issuer.as_ref().is_some_and(|issuer| *issuer != state.issuer) {
            return Err(DenyReason::IssuerMismatch);
        }
        let authorization = self.inbound.all("authorization");
        let client_id = self.inbound.all("x-caracal-client-id");
        let resource_header = self.inbound.all("x-caracal-resource");
        let bound = match &config.binding {
            config::Binding::Metadata => Some(bound_by_route(worker.host.as_ref())?),
            config::Binding::Fixed { .. } | config::Binding::Header => None,
        };
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
            method: self.inbound.method(),
            path: self.inbound.path(),
            now: worker.host.now(),
        };
        let mut signatures: std::cell::RefMut<'_, SignatureCache> = worker.signatures.borrow_mut();
        Ok(decide(&facts, state, &mut signatures, &worker.verifier))
    }

    fn forward_to_resource(&mut self, mandate: Rc<VerifiedMandate>) -> Result<Flow, Refusal> {
        forward::to_resource(&self.worker, &self.inbound)?;
        self.stage = Stage::Forwarded(mandate);
        Ok(Flow::Continue)
    }

    fn ask(
        &mut self,
        mandate: Rc<VerifiedMandate>,
        resource: Option<ResourceIdentifier>,
        doubt: Option<Doubt>,
    ) -> Result<Flow, Refusal> {
        let resource = resource.ok_or(DenyReason::MissingResource)?;
        self.record.doubt(doubt);
        let worker = Rc::clone(&self.worker);
        let now = worker.host.now();
        if worker.circuit.borrow().is_open(now) {
            return Err(DenyReason::StsCircuitOpen.into());
        }
        let path =
            DecodedPath::parse(split_target(self.inbound.path()).0).map_err(|_| DenyReason::PathTraversal)?;
        let token = self.inbound.all("authorization");
        let token = token.first().ok_or(DenyReason::MissingBearer)?;
        let token = header::bearer(token).map_err(|_| DenyReason::MissingBearer)?;
        let exchange = Exchange {
            claims: &mandate.claims,
            token,
            resource: resource.as_str(),
            method: self.inbound.method(),
            path: path.as_bytes(),
            request_id: self.inbound.request_id(),
            burn: doubt == Some(Doubt::SingleUse),
        };
        match exchange::start(worker.host.as_ref(), &worker.key, &worker.config.sts, &exchange) {
            Ok(token) => {
                self.stage = Stage::Asking { token, since: now, mandate, resource };
                Ok(Flow::Pause)
            }
            Err(refusal) => {
                worker.host.count(metrics::STS_ERRORS, 1);
                worker.circuit.borrow_mut().failed(&refusal, now);
                Err(refusal)
            }
        }
    }

    fn revoked(&self, mandate: &VerifiedMandate) -> bool {
        let mut view = self.worker.view.borrow_mut();
        let state = view.latest(self.host());
        // A zone that is gone takes all its mandates along.
        state
            .zone(&mandate.claims.zone_id)
            .is_none_or(|zone| zone.revoked.first_revoked(&mandate.anchors).is_some())
    }

    fn refuse(&mut self, refusal: impl Into<Refusal>) -> Flow {
        let refusal = refusal.into();
        self.stage = Stage::Refused;
        let host = Rc::clone(&self.worker.host);
        host.count(metrics::DENIED, 1);
        host.count(&metrics::denials(refusal.reason), 1);
        self.record.refused(host.now(), &refusal);
        self.write_record();
        let request_id = self.inbound.request_id();
        let headers = [("content-type", "application/json"), ("x-request-id", request_id)];
        host.reply(refusal.status, &headers, refusal.body(request_id).as_bytes());
        Flow::Pause
    }

    /// Hands the record over to evidence, once.
    fn write_record(&mut self) {
        match self.admission.take() {
            Some(Admission::Reserved) => {
                let zone = self.worker.config.bound_zone().map(ToString::to_string);
                self.worker
                    .evidence
                    .borrow_mut()
                    .record(self.worker.host.as_ref(), self.record.to_event(self.inbound.request_id(), zone));
            }
            Some(Admission::Unrecorded | Admission::Backlog) | None => {}
        }
    }
}

fn bound_by_route(host: &dyn Host) -> Result<(Option<ZoneId>, ResourceIdentifier), DenyReason> {
    let read = |name| {
        let value = host.property(&["xds", "route_metadata", "filter_metadata", "caracal", name])?;
        String::from_utf8(value).ok()
    };
    let resource = read("resource").and_then(|resource| ResourceIdentifier::new(resource).ok());
    let resource = resource.ok_or(DenyReason::MissingResource)?;
    let zone = match read("zone") {
        None => None,
        Some(zone) => Some(ZoneId::new(zone).map_err(|_| DenyReason::ZoneMismatch)?),
    };
    Ok((zone, resource))
}
