//! What the host calls. A function that is not here costs no call: of the ABI's callbacks only those are exported that
//! something hangs on, and the end of a stream is told once, by its deletion.
#![expect(unsafe_code, reason = "the host finds functions by their names")]

use crate::abi;
use crate::dispatch::Contexts;
use crate::host::AnswerSize;
use crate::request::{Flow, Request};

thread_local! {
    static CONTEXTS: Contexts = Contexts::default();
}

unsafe extern "C" {
    fn __wasm_call_ctors();
}

fn action(flow: Flow) -> u32 {
    match flow {
        Flow::Continue => 0,
        Flow::Pause => 1,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: the host calls this once, before anything else.
    unsafe { __wasm_call_ctors() }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    abi::allocate(size)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    CONTEXTS.with(|contexts| contexts.create(context, parent));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(context: u32, size: usize) -> u32 {
    CONTEXTS.with(|contexts| u32::from(contexts.configure(context, size)))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(context: u32) {
    CONTEXTS.with(|contexts| contexts.tick(context));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    context: u32,
    token: u32,
    headers: usize,
    body: usize,
    _trailers: u32,
) {
    CONTEXTS.with(|contexts| contexts.answer(context, token, AnswerSize { headers, body }));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _count: u32, end: u32) -> u32 {
    action(CONTEXTS.with(|contexts| contexts.on_request_headers(context, end != 0)))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(context: u32, size: usize, end: u32) -> u32 {
    let body = |request: &mut Request| {
        if end != 0 {
            request.without_body();
        }
        request.on_request_body(size)
    };
    action(CONTEXTS.with(|contexts| contexts.on_request(context, body)))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(context: u32, _count: u32) -> u32 {
    action(CONTEXTS.with(|contexts| contexts.on_request(context, Request::on_request_trailers)))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(context: u32, _count: u32, _end: u32) -> u32 {
    action(CONTEXTS.with(|contexts| contexts.on_response(context, Request::on_response_headers)))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(context: u32, size: usize, _end: u32) -> u32 {
    action(CONTEXTS.with(|contexts| contexts.on_response(context, |request| request.on_response_body(size))))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    CONTEXTS.with(|contexts| contexts.delete(context));
}
