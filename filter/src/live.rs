//! Streams that may be silent for long: of events, and of other protocols. Whatever they say is looked at before it passes;
//! these are also cut off while they say nothing, on the tick after their mandate was revoked.

use std::cell::Cell;
use std::rc::Rc;

use caracal_mandate::feed::FeedState;
use caracal_mandate::verdict::{DenyReason, VerifiedMandate};

use crate::host::Host;
use crate::metrics;

/// Why a stream was cut off, if it was: its request tells evidence of it.
pub(crate) type Cut = Rc<Cell<Option<DenyReason>>>;

struct Live {
    context: u32,
    mandate: Rc<VerifiedMandate>,
    upgraded: bool,
    cut: Cut,
}

/// Those of one worker.
#[derive(Default)]
pub struct LiveStreams(Vec<Live>);

impl LiveStreams {
    /// Takes note of one, by the context that the host made for it.
    pub(crate) fn add(&mut self, context: u32, mandate: &Rc<VerifiedMandate>, upgraded: bool) -> Cut {
        let cut = Cut::default();
        let stream = Live { context, mandate: Rc::clone(mandate), upgraded, cut: Rc::clone(&cut) };
        self.0.push(stream);
        cut
    }

    /// Forgets one that is over.
    pub(crate) fn remove(&mut self, context: u32) {
        self.0.retain(|stream| stream.context != context);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Cuts off what may not go on. What the host is asked afterwards may concern another stream than the one that is
    /// being handled, so nothing may come after this.
    pub(crate) fn cut_off(&mut self, host: &dyn Host, state: &FeedState) {
        for stream in &self.0 {
            let reason = ended(&stream.mandate, stream.upgraded, state, host);
            if let (Some(reason), None) = (reason, stream.cut.get()) {
                stream.cut.set(Some(reason));
                host.count(metrics::interruptions(reason), 1);
                host.reset_stream(stream.context);
            }
        }
    }
}

/// Why a stream that is under way may not go on: its mandate was revoked, or its zone is gone, which takes all its mandates
/// along; or it speaks another protocol, in which the caller goes on acting, and its mandate has expired.
pub(crate) fn ended(
    mandate: &VerifiedMandate,
    upgraded: bool,
    state: &FeedState,
    host: &dyn Host,
) -> Option<DenyReason> {
    let zone = state.zone(&mandate.claims.zone_id);
    if zone.is_none_or(|zone| zone.revoked.first_revoked(&mandate.anchors).is_some()) {
        return Some(DenyReason::Revoked);
    }
    // The host is asked for the time where it matters: every part of every response comes by here.
    let expired = || mandate.claims.exp <= i64::try_from(host.now() / 1_000).unwrap_or(i64::MAX);
    (upgraded && expired()).then_some(DenyReason::Expiring)
}
