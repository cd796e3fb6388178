//! One request, from its headers to its end.
//!
//! A request is `New`, then `Asking` while the STS is asked, and ends up `Forwarded` or `Refused`.
//! [`Flow::Continue`] on the way to the upstream comes from `Forwarded` only. One function enters that stage, and it is
//! called for a verdict that allows without doubt, and for one whose doubt the STS took away: just now, or when it was
//! asked about the same mandate under the same policy.

use std::rc::Rc;

use caracal_mandate::anchor::Anchor;
use caracal_mandate::feed::CredentialKind;
use caracal_mandate::header;
use caracal_mandate::path::{DecodedPath, split_target};
use caracal_mandate::upstream::Directive;
use caracal_mandate::verdict::{DenyReason, Doubt, Verdict, VerifiedMandate};

use crate::bind::{self, Route};
use crate::config::Role;
use crate::evidence::Admission;
use crate::exchange::{self, Asked, Granted, Question, Refused};
use crate::forward::{self, Inbound};
use crate::host::{AnswerSize, CallToken, Host, Level};
use crate::known::{Case, Kept};
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
    Asking(Box<Asking>),
    Forwarded(Rc<VerifiedMandate>),
    Refused,
}

/// What the STS is asked, and why.
struct Asking {
    token: CallToken,
    since: u64,
    case: Case,
    doubt: Doubt,
    question: Question,
}

/// One request.
pub struct Request {
    worker: Rc<Worker>,
    stage: Stage,
    inbound: Inbound,
    route: Route,
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
            route: Route::default(),
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
        self.route = Route::read(&self.worker);
        self.record.request(&self.inbound);
        self.host().count(metrics::REQUESTS, 1);
        let admission = self.worker.evidence.borrow_mut().admit(self.host());
        self.admission = Some(admission);
        if admission == Admission::Backlog {
            return self.refuse(DenyReason::AuditBacklog);
        }
        let decision = match bind::judge(&self.worker, &self.route, &self.inbound) {
            Ok(decision) => decision,
            Err(reason) => return self.refuse(reason),
        };
        self.record.decision(decision.resource.as_ref(), decision.mandate.as_deref());
        let verdict = decision.verdict.clone();
        let flow = match (verdict, Case::of(decision)) {
            (Verdict::Deny(reason), _) => Err(reason.into()),
            (Verdict::Allow(_), Some(case)) => self.settled(case),
            (Verdict::Ask(_, Doubt::SingleUse), Some(case)) => {
                self.ask(case, Doubt::SingleUse, Question::Exchange { burn: true })
            }
            (Verdict::Ask(_, doubt), Some(case)) => self.doubtful(case, doubt),
            (Verdict::Allow(_) | Verdict::Ask(..), None) => Err(DenyReason::Internal.into()),
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
        let Stage::Asking(asking) = &self.stage else { return };
        if asking.token != token {
            return;
        }
        // Whatever happens below, a second answer finds nothing to act on.
        let Stage::Asking(asking) = std::mem::replace(&mut self.stage, Stage::Refused) else { return };
        match self.answered(*asking, size) {
            Ok(()) => self.host().resume(),
            Err(refusal) => {
                self.refuse(refusal);
            }
        }
    }

    /// Acts on the STS's answer, and remembers it where that is allowed.
    fn answered(&mut self, asking: Asking, size: AnswerSize) -> Result<(), Refusal> {
        let Asking { since, case, doubt, question, .. } = asking;
        let host = Rc::clone(&self.worker.host);
        let now = host.now();
        host.gauge(metrics::STS_LATENCY, now.saturating_sub(since));
        let outcome = match question {
            Question::Check => exchange::checked(host.answer(size)).map(|()| None),
            Question::Exchange { .. } => {
                exchange::outcome(host.answer(size), case.resource.as_str()).map(Some)
            }
        };
        let reusable = doubt != Doubt::SingleUse;
        let granted = match outcome {
            Ok(granted) => {
                self.worker.circuit.borrow_mut().succeeded();
                granted
            }
            Err(Refused { refusal, lasting }) => {
                host.count(metrics::STS_ERRORS, 1);
                if self.worker.circuit.borrow_mut().failed(&refusal, now) {
                    host.count(metrics::CIRCUIT_OPENED, 1);
                    host.log(Level::Warn, "caracal: the circuit towards the STS is open for 10 s");
                }
                if reusable && lasting {
                    self.worker.memory.borrow_mut().remember(case, Err(refusal.clone()));
                }
                return Err(unanswered(doubt, question, refusal));
            }
        };
        if reusable {
            let kept = granted.clone().and_then(Kept::of);
            self.worker.memory.borrow_mut().remember(case.clone(), Ok(kept));
        }
        // What was revoked while the STS was asked stays revoked.
        if self.revoked(&case.mandate) {
            return Err(DenyReason::Revoked.into());
        }
        let granted = match (self.worker.config.role, granted) {
            (Role::Gateway, None) => self.at_hand(&case),
            (_, granted) => granted,
        };
        self.forward(&case, granted.as_ref())
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
            Stage::Asking(_) => self.record.cancelled(),
            Stage::Forwarded(_) => self.host().count(metrics::ALLOWED, 1),
        }
        self.write_record();
    }

    /// Goes on with a mandate about which there is no doubt.
    fn settled(&mut self, case: Case) -> Result<Flow, Refusal> {
        if self.worker.config.role == Role::Resource {
            self.forward(&case, None)?;
            return Ok(Flow::Continue);
        }
        match self.at_hand(&case) {
            Some(granted) => {
                self.forward(&case, Some(&granted))?;
                Ok(Flow::Continue)
            }
            None => self.ask(case, Doubt::CredentialMissing, Question::Exchange { burn: false }),
        }
    }

    /// Asks the STS, unless it said already what it makes of this mandate under this policy.
    fn doubtful(&mut self, case: Case, doubt: Doubt) -> Result<Flow, Refusal> {
        if doubt == Doubt::PolicyChanged {
            let known = self.worker.memory.borrow_mut().find(&case);
            if let Some(known) = known {
                self.record.doubt(doubt);
                return match &known.answer {
                    Ok(_) => self.settled(case),
                    Err(refusal) => Err(refusal.clone()),
                };
            }
        }
        let needs_no_credential =
            self.worker.config.role == Role::Resource || forwards_alone(&case).is_some();
        let question = if needs_no_credential { Question::Check } else { Question::Exchange { burn: false } };
        self.ask(case, doubt, question)
    }

    /// How a gateway forwards without asking anybody: the upstream wants no credential, or its one is at hand.
    fn at_hand(&self, case: &Case) -> Option<Granted> {
        if let Some(url) = forwards_alone(case) {
            let directive =
                Directive { url: url.to_owned(), auth_mode: "none".to_owned(), ..Directive::default() };
            return Some(Granted { access_token: String::new(), directive });
        }
        let known = self.worker.memory.borrow_mut().find(case)?;
        let kept = known.answer.as_ref().ok()?.as_ref()?;
        let now = i64::try_from(self.host().now() / 1_000).unwrap_or(i64::MAX);
        kept.holds(now, |anchors| self.any_revoked(&case.mandate, anchors)).then(|| kept.granted.clone())
    }

    fn ask(&mut self, case: Case, doubt: Doubt, question: Question) -> Result<Flow, Refusal> {
        self.record.doubt(doubt);
        self.record.asked();
        let worker = Rc::clone(&self.worker);
        let now = worker.host.now();
        if worker.circuit.borrow().is_open(now) {
            return Err(unanswered(doubt, question, DenyReason::StsCircuitOpen.into()));
        }
        let path =
            DecodedPath::parse(split_target(self.inbound.path()).0).map_err(|_| DenyReason::PathTraversal)?;
        let bound = self.route.operation.as_deref().and_then(|operation| operation.split_once(' '));
        let (method, path) = match bound {
            Some((method, path)) => (method.as_bytes(), path.as_bytes()),
            None => (self.inbound.method(), path.as_bytes()),
        };
        let token = self.inbound.all("authorization");
        let token = token.first().ok_or(DenyReason::MissingBearer)?;
        let token = header::bearer(token).map_err(|_| DenyReason::MissingBearer)?;
        let asked = Asked {
            question,
            claims: &case.mandate.claims,
            token,
            resource: case.resource.as_str(),
            method,
            path,
            request_id: self.inbound.request_id(),
        };
        match exchange::start(worker.host.as_ref(), &worker.key, &worker.config.sts, &asked) {
            Ok(token) => {
                self.stage = Stage::Asking(Box::new(Asking { token, since: now, case, doubt, question }));
                Ok(Flow::Pause)
            }
            Err(refusal) => {
                worker.host.count(metrics::STS_ERRORS, 1);
                worker.circuit.borrow_mut().failed(&refusal, now);
                Err(unanswered(doubt, question, refusal))
            }
        }
    }

    /// Prepares the request for where it goes. Only here does a request come to be forwarded.
    fn forward(&mut self, case: &Case, granted: Option<&Granted>) -> Result<(), Refusal> {
        match (self.worker.config.role, granted) {
            (Role::Resource, None) => forward::to_resource(&self.worker, &self.inbound)?,
            (Role::Gateway, Some(granted)) => {
                self.record.directive(&granted.directive);
                let host_name = forward::to_upstream(&self.worker, &self.inbound, granted)?;
                self.record.upstream(host_name);
            }
            (Role::Resource, Some(_)) | (Role::Gateway, None) => return Err(DenyReason::Internal.into()),
        }
        self.stage = Stage::Forwarded(Rc::clone(&case.mandate));
        Ok(())
    }

    fn revoked(&self, mandate: &VerifiedMandate) -> bool {
        self.any_revoked(mandate, &mandate.anchors)
    }

    /// Whether one of these anchors, or the mandate's zone, is gone.
    fn any_revoked(&self, mandate: &VerifiedMandate, anchors: &[Anchor]) -> bool {
        let mut view = self.worker.view.borrow_mut();
        let state = view.latest(self.host());
        // A zone that is gone takes all its mandates along.
        state.zone(&mandate.claims.zone_id).is_none_or(|zone| zone.revoked.first_revoked(anchors).is_some())
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

/// The upstream, where it wants no credential.
fn forwards_alone(case: &Case) -> Option<&str> {
    let upstream = case.entry.upstream.as_ref()?;
    (upstream.credential == CredentialKind::None).then_some(upstream.url.as_str())
}

/// What a caller is told whose mandate is in doubt when the STS cannot be asked.
fn unanswered(doubt: Doubt, question: Question, refusal: Refusal) -> Refusal {
    use DenyReason::{FilterBehind, PolicyChanged, StsCircuitOpen, StsInvalid, StsTimeout, StsUnreachable};
    let silent = matches!(refusal.reason, StsCircuitOpen | StsInvalid | StsTimeout | StsUnreachable);
    match (question, doubt) {
        (Question::Check, Doubt::FilterBehind) if silent => FilterBehind.into(),
        (Question::Check, Doubt::PolicyChanged) if silent => PolicyChanged.into(),
        _ => refusal,
    }
}
