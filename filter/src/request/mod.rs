//! One request, from its headers to its end.
//!
//! A request is `New`, then `Reading` where its body says what is asked for, then `Asking` while the STS is asked, and ends
//! up `Forwarded` or `Refused`.
//! [`Flow::Continue`] on the way to the upstream comes from `Forwarded` only. One function enters that stage, and it is
//! called for a verdict that allows without doubt, and for one whose doubt the STS took away: just now, or when it was
//! asked about the same mandate under the same policy.
//!
//! Where the operator tries a resource's rules out first (`dry_run`), what would be refused becomes `Tried` and passes:
//! that is decided in one place as well, [`Request::refuse`].

mod asking;
mod ending;
mod reading;
mod upgrade;

use std::rc::Rc;

use caracal_mandate::anchor::AnchorKey;
use caracal_mandate::decide::Decision;
use caracal_mandate::verdict::{DenyReason, Doubt, Verdict, VerifiedMandate};

use crate::bind::{self, Route};
use crate::discovery;
use crate::evidence::Admission;
use crate::exchange::Question;
use crate::forward::{self, Answered, Inbound};
use crate::host::{AnswerSize, CallToken, Host};
use crate::known::Case;
use crate::live::{self, Cut};
use crate::metrics;
use crate::record::Record;
use crate::reply::Refusal;
use crate::root::Worker;
use asking::Asking;
pub(crate) use upgrade::upgrade;

/// What the host does next with the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flow {
    /// Pass on.
    Continue,
    /// Stop; nothing passes until something is said.
    Pause,
}

/// How a stream was, once it is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// It was forwarded, and nothing happened to it.
    Passed,
    /// Anything else.
    Otherwise,
}

enum Stage {
    New,
    /// The body is gathered, up to so many bytes.
    Reading(usize),
    Asking(Box<Asking>),
    Forwarded(Rc<VerifiedMandate>),
    /// It would be refused, and passes because the operator only tries the rules out.
    Tried,
    /// Answered in the upstream's place.
    Refused,
    /// Its response could not be cleaned; nothing more of it passes.
    Broken,
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
    /// The scopes that the request needs, of which its mandate lacks one.
    missing_scope: Option<String>,
    /// Whether no more of the body is to come.
    ended: bool,
    /// Whether the stream speaks another protocol by now.
    upgraded: bool,
    /// The host's name for the stream.
    context: Option<u32>,
    /// Whether it was cut off while it was silent.
    cut: Option<Cut>,
}

impl Request {
    /// A request of which nothing is known yet.
    #[must_use]
    pub fn new(worker: Rc<Worker>) -> Self {
        let record = Record::new(worker.config.role);
        Self {
            worker,
            stage: Stage::New,
            inbound: Inbound::default(),
            route: Route::default(),
            body_bytes: 0,
            record,
            admission: None,
            missing_scope: None,
            ended: false,
            upgraded: false,
            context: None,
            cut: None,
        }
    }

    /// The same request, on the stream that the host calls so.
    #[must_use]
    pub fn at(self, context: u32) -> Self {
        Self { context: Some(context), ..self }
    }

    /// No more of the body is to come after what is handled next.
    pub fn without_body(&mut self) {
        self.ended = true;
    }

    fn host(&self) -> &dyn Host {
        self.worker.host.as_ref()
    }

    /// The headers are there: decides, or asks the STS.
    pub fn on_request_headers(&mut self) -> Flow {
        if !matches!(self.stage, Stage::New) {
            return self.refuse(DenyReason::Internal);
        }
        // What failed for another stream is no concern of this one.
        let _elsewhere = self.host().failed();
        let now = self.host().now();
        self.record.start(now);
        self.inbound = match Inbound::read(self.host()).filter(|_| !self.host().failed()) {
            Some(inbound) => inbound,
            None => return self.turn_away(&DenyReason::Internal.into()),
        };
        #[cfg(all(feature = "trap-for-tests", target_arch = "wasm32"))]
        if self.inbound.first("x-caracal-test-trap").is_some() {
            core::arch::wasm32::unreachable();
        }
        if let Some(document) = discovery::document(&self.worker, &self.inbound) {
            self.stage = Stage::Refused;
            self.host().count(metrics::DISCOVERIES, 1);
            self.host().reply(200, discovery::HEADERS, &document);
            return Flow::Pause;
        }
        self.route = Route::read(&self.worker);
        let decision = self.worker.evidence.borrow_mut().next_decision();
        if self.worker.config.filter_state {
            self.worker.note("caracal.decision_id", &self.worker.evidence.borrow().decision_name(decision));
        }
        self.record.begin(decision);
        self.host().count(metrics::REQUESTS, 1);
        let admission = self.worker.evidence.borrow_mut().admit(self.host());
        self.admission = Some(admission);
        if admission == Admission::Backlog {
            return self.refuse(DenyReason::AuditBacklog);
        }
        let flow = self.decide(now).and_then(|decision| self.act(decision));
        flow.unwrap_or_else(|refusal| self.refuse(refusal))
    }

    /// Decides by what is here, and writes down who asks.
    fn decide(&mut self, now: u64) -> Result<Decision, Refusal> {
        let judged = bind::judge(&self.worker, &self.route, &self.inbound, now);
        // What was read is not all that there is.
        if self.host().failed() {
            return Err(DenyReason::Internal.into());
        }
        let decision = judged?;
        self.record.decision(decision.resource.clone(), decision.mandate.clone());
        if let Some(mandate) = &decision.mandate {
            let session = mandate.claims.agent_session_id.as_ref().map_or("", |session| session.as_str());
            self.worker.note("caracal.subject", &mandate.claims.sub);
            self.worker.note("caracal.application", mandate.claims.client_id.as_str());
            self.worker.note("caracal.session", session);
        }
        self.missing_scope = decision.missing_scope.as_ref().map(ToString::to_string);
        Ok(decision)
    }

    /// Goes on with what was decided about the headers.
    fn act(&mut self, decision: Decision) -> Result<Flow, Refusal> {
        let verdict = decision.verdict.clone();
        match (verdict, Case::of(decision)) {
            (Verdict::Deny(reason), _) => Err(reason.into()),
            (Verdict::Read(next), Some(case)) => self.read_first(case, *next),
            (verdict, Some(case)) => {
                self.check_upgrade()?;
                self.go_on(case, verdict)
            }
            (_, None) => Err(DenyReason::Internal.into()),
        }
    }

    /// Goes on with a request of which everything was judged.
    fn go_on(&mut self, case: Case, verdict: Verdict) -> Result<Flow, Refusal> {
        match verdict {
            Verdict::Deny(reason) => Err(reason.into()),
            Verdict::Allow(_) => self.settled(case),
            Verdict::Ask(_, Doubt::SingleUse) => {
                self.ask(case, Doubt::SingleUse, Question::Exchange { burn: true })
            }
            Verdict::Ask(_, doubt) => self.doubtful(case, doubt),
            Verdict::Read(_) => Err(DenyReason::Internal.into()),
        }
    }

    /// Part of the request's body; all of it so far while the request is held back. Refuses what exceeds the limit.
    pub fn on_request_body(&mut self, bytes: usize) -> Flow {
        let revoked = match &self.stage {
            Stage::Forwarded(_) if self.upgraded => return self.pass_frame(),
            Stage::Forwarded(mandate) => self.revoked(mandate),
            Stage::Tried => return Flow::Continue,
            Stage::Reading(most) => return self.read_on(bytes, *most),
            Stage::Asking(_) => return self.held_back(bytes),
            Stage::New | Stage::Refused | Stage::Broken => return Flow::Pause,
        };
        if revoked {
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
        match self.stage {
            Stage::Forwarded(_) | Stage::Tried => Flow::Continue,
            // Nobody judges them.
            Stage::Reading(_) => self.refuse(DenyReason::McpMalformed),
            Stage::New | Stage::Asking(_) | Stage::Refused | Stage::Broken => Flow::Pause,
        }
    }

    /// The STS answered. Answers to anything but the call under way change nothing.
    pub fn on_answer(&mut self, token: CallToken, size: AnswerSize) {
        let Stage::Asking(asking) = &self.stage else { return };
        if asking.token != token {
            return;
        }
        let _elsewhere = self.host().failed();
        // Whatever happens below, a second answer finds nothing to act on.
        let Stage::Asking(asking) = std::mem::replace(&mut self.stage, Stage::Refused) else { return };
        match self.answered(*asking, size) {
            Ok(()) => self.host().resume(),
            Err(refusal) => {
                if self.refuse(refusal) == Flow::Continue {
                    self.host().resume();
                }
            }
        }
    }

    /// Headers of the response, or of our own answer.
    pub fn on_response_headers(&mut self) -> Flow {
        let exp = match &self.stage {
            Stage::Forwarded(mandate) => mandate.claims.exp,
            Stage::Tried => 0,
            Stage::New | Stage::Reading(_) | Stage::Asking(_) | Stage::Refused => return Flow::Continue,
            Stage::Broken => return Flow::Pause,
        };
        let _elsewhere = self.host().failed();
        let Answered { status, events } = forward::clean_response(&self.worker, &self.inbound, exp);
        if self.host().failed() {
            self.stage = Stage::Broken;
            self.host().reset();
            return Flow::Pause;
        }
        self.upgraded = status == upgrade::SWITCHING_PROTOCOLS;
        self.record.answered(self.host().now(), status);
        if let (true, Some(context), Stage::Forwarded(mandate)) =
            (self.upgraded || events, self.context.filter(|_| !self.tries()), &self.stage)
        {
            self.cut = Some(self.worker.live.borrow_mut().add(context, mandate, self.upgraded));
        }
        Flow::Continue
    }

    /// Part of the response's body. Cuts the stream off when its mandate was revoked meanwhile.
    pub fn on_response_body(&mut self, bytes: usize) -> Flow {
        match self.stage {
            Stage::Forwarded(_) => {}
            Stage::Broken => return Flow::Pause,
            Stage::New | Stage::Reading(_) | Stage::Asking(_) | Stage::Tried | Stage::Refused => {
                return Flow::Continue;
            }
        }
        let flow = self.pass_frame();
        if flow == Flow::Continue {
            self.record.body(bytes);
        }
        flow
    }

    /// Lets part of a stream pass that is under way, or cuts it off: when its mandate was revoked, and where it speaks
    /// another protocol, in which the caller goes on acting, also when its mandate has expired.
    fn pass_frame(&mut self) -> Flow {
        let Stage::Forwarded(mandate) = &self.stage else { return Flow::Pause };
        if self.record.interrupted().is_some() || self.cut_reason().is_some() {
            return Flow::Pause;
        }
        let ended = {
            let mut view = self.worker.view.borrow_mut();
            live::ended(mandate, self.upgraded, view.latest(self.host()), self.host())
        };
        let Some(reason) = ended else { return Flow::Continue };
        if self.tries() {
            self.refuse(reason);
            return Flow::Continue;
        }
        self.record.interrupt(reason);
        self.host().count(metrics::interruptions(reason), 1);
        self.host().reset();
        Flow::Pause
    }

    /// The stream is over, however it ended.
    pub fn on_end(&mut self) -> Ended {
        match &self.stage {
            Stage::New | Stage::Refused | Stage::Tried | Stage::Broken => {}
            Stage::Reading(_) | Stage::Asking(_) => self.record.cancelled(),
            Stage::Forwarded(_) => self.host().count(metrics::ALLOWED, 1),
        }
        if let Some(reason) = self.cut_reason() {
            self.record.interrupt(reason);
        }
        if let (Some(_), Some(context)) = (&self.cut, self.context) {
            self.worker.live.borrow_mut().remove(context);
        }
        self.write_record();
        let passed = matches!(self.stage, Stage::Forwarded(_)) && self.record.interrupted().is_none();
        if passed { Ended::Passed } else { Ended::Otherwise }
    }

    /// Why it was cut off while it was silent, if it was.
    fn cut_reason(&self) -> Option<DenyReason> {
        self.cut.as_ref()?.get()
    }

    fn revoked(&self, mandate: &VerifiedMandate) -> bool {
        self.any_revoked(mandate, &mandate.anchors)
    }

    /// Whether one of these anchors, or the mandate's zone, is gone.
    fn any_revoked(&self, mandate: &VerifiedMandate, anchors: &[AnchorKey]) -> bool {
        let mut view = self.worker.view.borrow_mut();
        let state = view.latest(self.host());
        // A zone that is gone takes all its mandates along.
        state.zone(&mandate.claims.zone_id).is_none_or(|zone| zone.revoked.first_revoked(anchors).is_some())
    }
}
