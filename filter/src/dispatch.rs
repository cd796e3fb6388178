//! Which context a callback of the host is about.
//!
//! The host names contexts by numbers: roots, which it configures, and streams below them. What calls back in the midst of
//! another callback about the same stream finds it taken, and then nothing passes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use caracal_mandate::hash::Quick;

use crate::host::{AnswerSize, CallToken, EnvoyHost, Host};
use crate::request::{Ended, Flow, Request};
use crate::root::Root;

/// A stream; `None` while it is being handled.
type Slot = Option<Box<Request>>;

/// All contexts of one VM.
#[derive(Default)]
pub(crate) struct Contexts {
    host: Rc<EnvoyHost>,
    roots: RefCell<Vec<(u32, Root)>>,
    streams: RefCell<HashMap<u32, Slot, Quick>>,
}

impl Contexts {
    fn host(&self) -> Rc<dyn Host> {
        Rc::clone(&self.host) as Rc<dyn Host>
    }

    /// A new context: a root, or a stream below one.
    pub(crate) fn create(&self, context: u32, parent: u32) {
        if parent == 0 {
            self.roots.borrow_mut().push((context, Root::Idle));
            return;
        }
        let roots = self.roots.borrow();
        let root = roots.iter().find(|(root, _)| *root == parent);
        // A stream below a root that is no filter stays unknown, and is refused.
        if let Some(worker) = root.and_then(|(_, root)| root.worker()) {
            let request = Box::new(Request::new(Rc::clone(worker)).at(context));
            self.streams.borrow_mut().insert(context, Some(request));
        }
    }

    /// Configures a root; `false` where the configuration is refused.
    pub(crate) fn configure(&self, context: u32, size: usize) -> bool {
        let text = self.host.configuration(size);
        let Some(configured) = Root::configure(&self.host(), &text) else { return false };
        let root = |root: &mut Root| *root = configured;
        self.with_root(context, root).is_some()
    }

    /// A tick of a root.
    pub(crate) fn tick(&self, context: u32) {
        self.host.at(context);
        self.with_root(context, |root| root.on_tick(self.host.as_ref()));
        self.host.flush();
    }

    /// The answer to a call to a cluster. It is for whoever made the call.
    pub(crate) fn answer(&self, context: u32, token: u32, size: AnswerSize) {
        let caller = self.host.answered(token, context);
        if caller != context && !self.host.act_for(caller) {
            return;
        }
        self.host.at(caller);
        let token = CallToken(token);
        let is_root =
            self.with_root(caller, |root| root.on_answer(self.host.as_ref(), token, size)).is_some();
        if !is_root {
            self.with_stream(caller, |request| request.on_answer(token, size));
        }
    }

    /// A callback about what the caller sends. What is not known here was not judged either.
    pub(crate) fn on_request(&self, context: u32, act: impl FnOnce(&mut Request) -> Flow) -> Flow {
        self.host.at(context);
        self.with_stream(context, act).unwrap_or(Flow::Pause)
    }

    /// The headers of a request.
    pub(crate) fn on_request_headers(&self, context: u32, end: bool) -> Flow {
        if !self.streams.borrow().contains_key(&context) {
            self.host.reply(
                503,
                &[("content-type", "application/json")],
                b"{\"error\":\"internal_error\"}\n",
            );
            return Flow::Pause;
        }
        self.on_request(context, |request| {
            if end {
                request.without_body();
            }
            request.on_request_headers()
        })
    }

    /// A callback about what the caller is answered. What is not known here was refused, and that is its answer.
    pub(crate) fn on_response(&self, context: u32, act: impl FnOnce(&mut Request) -> Flow) -> Flow {
        if !self.streams.borrow().contains_key(&context) {
            return Flow::Continue;
        }
        self.on_request(context, act)
    }

    /// A context is gone.
    pub(crate) fn delete(&self, context: u32) {
        let slot = self.streams.borrow_mut().remove(&context);
        let mut passed = false;
        match slot {
            Some(Some(mut request)) => passed = request.on_end() == Ended::Passed,
            // Whoever handles it now ends it.
            Some(None) => {}
            None => self.roots.borrow_mut().retain(|(root, _)| *root != context),
        }
        self.host.forget_calls(context);
        // Of what was refused or cut off, who looks at the metrics next sees all, where nothing else is under way. That
        // requests pass is told with the next tick.
        if !passed && self.streams.borrow().is_empty() {
            self.host.flush();
        }
    }

    fn with_root<T>(&self, context: u32, act: impl FnOnce(&mut Root) -> T) -> Option<T> {
        let mut roots = self.roots.borrow_mut();
        let (_, root) = roots.iter_mut().find(|(root, _)| *root == context)?;
        Some(act(root))
    }

    fn with_stream<T>(&self, context: u32, act: impl FnOnce(&mut Request) -> T) -> Option<T> {
        let mut request = self.streams.borrow_mut().get_mut(&context).and_then(Option::take)?;
        let result = act(&mut request);
        if let Some(slot) = self.streams.borrow_mut().get_mut(&context) {
            *slot = Some(request);
        } else {
            request.on_end();
        }
        Some(result)
    }
}
