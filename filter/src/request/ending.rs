//! How a request ends: forwarded, refused, or let pass although it would be refused.

use std::rc::Rc;

use caracal_mandate::id::ZoneId;
use caracal_mandate::verdict::DenyReason;

use super::{Flow, Request, Stage};
use crate::config::Role;
use crate::discovery;
use crate::evidence::Admission;
use crate::exchange::Granted;
use crate::forward;
use crate::known::Case;
use crate::metrics;
use crate::reply::Refusal;

impl Request {
    /// Prepares the request for where it goes. Only here does a request come to be forwarded.
    pub(super) fn forward(&mut self, case: &Case, granted: Option<&Granted>) -> Result<(), Refusal> {
        match (self.worker.config.role, granted) {
            (Role::Resource, None) => forward::to_resource(&self.worker, &self.inbound)?,
            (Role::Gateway, Some(granted)) => {
                self.record.directive(&granted.directive);
                self.inbound.settle_trace(self.worker.host.as_ref());
                let host_name = forward::to_upstream(&self.worker, &self.inbound, case, granted)?;
                self.record.upstream(host_name);
            }
            (Role::Resource, Some(_)) | (Role::Gateway, None) => return Err(DenyReason::Internal.into()),
        }
        // A header that could not be taken out would go along.
        if self.host().failed() {
            return Err(DenyReason::Internal.into());
        }
        self.stage = Stage::Forwarded(Rc::clone(&case.mandate));
        Ok(())
    }

    /// Whether the operator only tries the rules out here.
    pub(super) fn tries(&self) -> bool {
        self.worker.config.dry_run || self.route.dry_run
    }

    /// Refuses, or writes down that it would.
    pub(super) fn refuse(&mut self, refusal: impl Into<Refusal>) -> Flow {
        let refusal = refusal.into();
        if self.tries() && self.let_pass(&refusal) {
            return Flow::Continue;
        }
        self.turn_away(&refusal)
    }

    /// Answers in the upstream's place, also where the operator only tries the rules out.
    pub(super) fn turn_away(&mut self, refusal: &Refusal) -> Flow {
        self.stage = Stage::Refused;
        let host = Rc::clone(&self.worker.host);
        host.count(metrics::DENIED, 1);
        host.count(&metrics::denials(refusal.reason), 1);
        self.worker.note("caracal.reason", refusal.reason.label());
        self.record.refused(host.now(), refusal);
        self.write_record();
        let request_id = self.inbound.request_id();
        let challenge =
            discovery::challenge(&self.worker, &self.inbound, refusal, self.missing_scope.as_deref());
        let mut headers = vec![("content-type", "application/json"), ("x-request-id", request_id)];
        headers.extend(challenge.as_deref().map(|challenge| ("www-authenticate", challenge)));
        host.reply(refusal.status, &headers, refusal.body(request_id).as_bytes());
        Flow::Pause
    }

    /// Counts and writes down what would be refused, and lets it go on. What names us in the request is taken out of it
    /// all the same: the service believes such headers. `false` where that cannot be done.
    fn let_pass(&mut self, refusal: &Refusal) -> bool {
        let host = Rc::clone(&self.worker.host);
        // Once a request was forwarded its headers are gone, and its mandate still says when to look again.
        if !matches!(self.stage, Stage::Forwarded(_)) {
            forward::untouched(&self.worker, &self.inbound);
            if host.failed() {
                return false;
            }
            self.stage = Stage::Tried;
        }
        if self.record.tried(refusal) {
            host.count(&metrics::dry_run_denials(refusal.reason), 1);
            self.worker.note("caracal.reason", refusal.reason.label());
        }
        true
    }

    /// Hands the record over to evidence, once.
    pub(super) fn write_record(&mut self) {
        match self.admission.take() {
            Some(Admission::Reserved) => {
                self.record.presented(&self.inbound);
                let zone = self.worker.config.bound_zone().map(ZoneId::as_str);
                let event = self.record.to_event(&self.inbound, zone);
                self.worker.evidence.borrow_mut().record(self.worker.host.as_ref(), &event);
            }
            Some(Admission::Unrecorded | Admission::Backlog) | None => {}
        }
    }
}
