//! Requests whose body says what they ask for: it is gathered, judged, and then passed on as it is.

use caracal_mandate::mcp::{McpHead, McpRefusal};
use caracal_mandate::verdict::{DenyReason, Verdict};

use super::{Flow, Request, Stage};
use crate::known::Case;
use crate::reply::Refusal;

impl Request {
    /// Waits for the body of a request whose headers are good, unless there is none. `next` is what is left then.
    pub(super) fn read_first(&mut self, case: Case, next: Verdict) -> Result<Flow, Refusal> {
        let Some(mcp) = &case.entry.mcp else { return Err(DenyReason::Internal.into()) };
        if !self.worker.config.mcp {
            return Err(DenyReason::McpUnread.into());
        }
        // Nobody judges the messages of another protocol.
        if self.inbound.first("upgrade").is_some() {
            return Err(DenyReason::UpgradeRefused.into());
        }
        if self.ended {
            return self.judge_messages(case, next, b"");
        }
        let judged = mcp.judge_head(&head(self), &case.mandate.scopes);
        judged.map_err(|refusal| self.refusal(refusal))?;
        let most = mcp.max_body_bytes.min(self.worker.config.max_body_bytes);
        if self.inbound.too_large(most) {
            return Err(DenyReason::PayloadTooLarge.into());
        }
        self.stage = Stage::Reading(usize::try_from(most).unwrap_or(0));
        Ok(Flow::Pause)
    }

    /// More of the body is there, `bytes` in all.
    pub(super) fn read_on(&mut self, bytes: usize, most: usize) -> Flow {
        if bytes > most {
            return self.refuse(DenyReason::PayloadTooLarge);
        }
        if !self.ended {
            return Flow::Pause;
        }
        self.read_through(bytes).unwrap_or_else(|refusal| self.refuse(refusal))
    }

    /// The body is there. It may have taken its time, so everything is decided once more.
    fn read_through(&mut self, bytes: usize) -> Result<Flow, Refusal> {
        let body = self.host().request_body(bytes);
        if body.len() != bytes {
            return Err(DenyReason::Internal.into());
        }
        let decision = self.decide(self.host().now())?;
        let verdict = decision.verdict.clone();
        match (verdict, Case::of(decision)) {
            (Verdict::Deny(reason), _) => Err(reason.into()),
            (Verdict::Read(next), Some(case)) => self.judge_messages(case, *next, &body),
            // The resource became another one meanwhile.
            _ => Err(DenyReason::McpUnread.into()),
        }
    }

    fn judge_messages(&mut self, case: Case, next: Verdict, body: &[u8]) -> Result<Flow, Refusal> {
        let Some(mcp) = &case.entry.mcp else { return Err(DenyReason::Internal.into()) };
        let mut names = Vec::new();
        let judged = mcp.judge(&head(self), body, &case.mandate.scopes, &mut names);
        if let Some(name) = names.last() {
            self.worker.note("caracal.mcp_method", &name.method);
            self.worker.note("caracal.mcp_tool", name.tool.as_deref().unwrap_or_default());
        }
        self.record.mcp(names);
        judged.map_err(|refusal| self.refusal(refusal))?;
        self.go_on(case, next)
    }

    /// More of the body is there while the STS is asked, `bytes` in all. It passes this filter no second time.
    pub(super) fn held_back(&mut self, bytes: usize) -> Flow {
        self.body_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if self.body_bytes > self.worker.config.max_body_bytes {
            return self.refuse(DenyReason::PayloadTooLarge);
        }
        Flow::Pause
    }

    fn refusal(&mut self, refusal: McpRefusal) -> Refusal {
        self.missing_scope = Some(refusal.scopes).filter(|scopes| !scopes.is_empty());
        refusal.reason.into()
    }
}

fn head(request: &Request) -> McpHead<'_> {
    let inbound = &request.inbound;
    McpHead {
        method: inbound.method(),
        content_type: inbound.all("content-type"),
        content_encoding: inbound.all("content-encoding"),
        mcp_method: inbound.all("mcp-method"),
        mcp_name: inbound.all("mcp-name"),
    }
}
