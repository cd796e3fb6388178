//! How the SDK's contexts reach our own types.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

use crate::host::{AnswerSize, CallToken, EnvoyHost, Host};
use crate::request::{Flow, Request};
use crate::root::Root;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| {
        Box::new(RootEntry { host: Rc::new(EnvoyHost::default()), root: Root::Idle })
    });
}}

struct RootEntry {
    host: Rc<dyn Host>,
    root: Root,
}

impl Context for RootEntry {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, _trailers: usize) {
        self.root.on_answer(self.host.as_ref(), CallToken(token), AnswerSize { headers, body });
    }
}

impl RootContext for RootEntry {
    fn on_configure(&mut self, size: usize) -> bool {
        let text = self.host.configuration(size);
        match Root::configure(&self.host, &text) {
            Some(root) => {
                self.root = root;
                true
            }
            None => false,
        }
    }

    fn on_tick(&mut self) {
        self.root.on_tick(self.host.as_ref());
    }

    fn create_http_context(&self, context: u32) -> Option<Box<dyn HttpContext>> {
        Some(match self.root.worker() {
            Some(worker) => Box::new(RequestEntry(Request::new(Rc::clone(worker)).at(context))),
            None => Box::new(Unconfigured(Rc::clone(&self.host))),
        })
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct RequestEntry(Request);

fn action(flow: Flow) -> Action {
    match flow {
        Flow::Continue => Action::Continue,
        Flow::Pause => Action::Pause,
    }
}

impl Context for RequestEntry {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, _trailers: usize) {
        self.0.on_answer(CallToken(token), AnswerSize { headers, body });
    }
}

impl HttpContext for RequestEntry {
    fn on_http_request_headers(&mut self, _count: usize, end: bool) -> Action {
        if end {
            self.0.without_body();
        }
        action(self.0.on_request_headers())
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if end {
            self.0.without_body();
        }
        action(self.0.on_request_body(size))
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        action(self.0.on_request_trailers())
    }

    fn on_http_response_headers(&mut self, _count: usize, _end: bool) -> Action {
        action(self.0.on_response_headers())
    }

    fn on_http_response_body(&mut self, size: usize, _end: bool) -> Action {
        action(self.0.on_response_body(size))
    }

    fn on_log(&mut self) {
        self.0.on_end();
    }
}

/// Stands in where a root that is no filter is asked to handle a request: nothing passes.
struct Unconfigured(Rc<dyn Host>);

impl Context for Unconfigured {}

impl HttpContext for Unconfigured {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        self.0.reply(503, &[("content-type", "application/json")], b"{\"error\":\"internal_error\"}\n");
        Action::Pause
    }
}
