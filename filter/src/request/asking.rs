//! Deciding with the STS's help: when it is asked, what its answer means, and what is remembered of it.

use std::rc::Rc;

use caracal_mandate::feed::CredentialKind;
use caracal_mandate::header;
use caracal_mandate::path::{DecodedPath, split_target};
use caracal_mandate::upstream::Directive;
use caracal_mandate::verdict::{DenyReason, Doubt};

use super::{Flow, Request, Stage};
use crate::config::Role;
use crate::exchange::{self, Asked, Granted, Question, Refused};
use crate::host::{AnswerSize, CallToken, Level};
use crate::known::{Case, Kept};
use crate::metrics;
use crate::reply::Refusal;

/// As much of a body as Envoy holds for a request, in bytes (`per_connection_buffer_limit_bytes`).
const HELD_BYTES: u64 = 1024 * 1024;

/// What the STS is asked, and why.
pub(super) struct Asking {
    pub(super) token: CallToken,
    since: u64,
    case: Case,
    doubt: Doubt,
    question: Question,
}

impl Request {
    /// Goes on with a mandate about which there is no doubt.
    pub(super) fn settled(&mut self, case: Case) -> Result<Flow, Refusal> {
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
    pub(super) fn doubtful(&mut self, case: Case, doubt: Doubt) -> Result<Flow, Refusal> {
        if doubt == Doubt::PolicyChanged {
            let known = self.worker.memory.borrow_mut().find(&case);
            if let Some(known) = known {
                self.record.doubt(doubt);
                return match &known.answer {
                    Ok(_) => self.settled(case),
                    Err(refusal) => Err(Refusal::clone(refusal)),
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

    pub(super) fn ask(&mut self, case: Case, doubt: Doubt, question: Question) -> Result<Flow, Refusal> {
        self.record.doubt(doubt);
        // While bodies can be read, one that comes meanwhile is held in memory: better refused than a mandate spent.
        if self.worker.config.mcp && !self.ended && self.inbound.too_large(HELD_BYTES) {
            return Err(DenyReason::PayloadTooLarge.into());
        }
        self.record.asked();
        let worker = Rc::clone(&self.worker);
        let now = worker.host.now();
        if worker.circuit.borrow().is_open(now) {
            return Err(unanswered(doubt, question, DenyReason::StsCircuitOpen.into()));
        }
        if matches!(question, Question::Exchange { .. }) {
            self.inbound.settle_trace(worker.host.as_ref());
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
            traceparent: std::str::from_utf8(self.inbound.traceparent())
                .ok()
                .filter(|value| !value.is_empty()),
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

    /// Acts on the STS's answer, and remembers it where that is allowed.
    pub(super) fn answered(&mut self, asking: Asking, size: AnswerSize) -> Result<(), Refusal> {
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
                    self.worker.memory.borrow_mut().remember(&case, Err(refusal.clone()));
                }
                return Err(unanswered(doubt, question, refusal));
            }
        };
        if reusable {
            let kept = granted.as_ref().and_then(Kept::of);
            self.worker.memory.borrow_mut().remember(&case, Ok(kept));
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
