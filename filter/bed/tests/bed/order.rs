//! Callbacks in any order. Envoy would not send most of these; whatever comes, the module does not trap, and nothing of a
//! request passes before it was granted.

use caracal_filter_bed::process::{Services, gateway, sidecar};
use caracal_filter_bed::stream::Action;
use proptest::prelude::*;

use crate::fed;

#[derive(Clone, Copy, Debug)]
enum Callback {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Log,
    Tick,
    Serve,
    Fail,
    Later,
    Revoke,
}

fn callback() -> impl Strategy<Value = Callback> {
    use Callback::{
        Fail, Later, Log, RequestBody, RequestHeaders, RequestTrailers, ResponseBody, ResponseHeaders,
        ResponseTrailers, Revoke, Serve, Tick,
    };
    prop::sample::select(vec![
        RequestHeaders,
        RequestBody,
        RequestTrailers,
        ResponseHeaders,
        ResponseBody,
        ResponseTrailers,
        Log,
        Tick,
        Serve,
        Fail,
        Later,
        Revoke,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn callbacks_in_any_order_never_trap_and_pass_nothing_ungranted(
        callbacks in prop::collection::vec(callback(), 0..25),
        alone in any::<bool>(),
        good in any::<bool>(),
    ) {
        let mut process = fed(&if alone { sidecar() } else { gateway() });
        let mandate = match (alone, good) {
            (_, false) => "no.mandate.x".to_owned(),
            (true, true) => process.resource_mandate(),
            (false, true) => process.mandate(),
        };
        process.sts = Services::Silent;
        let mut revoked = false;
        let stream = process.request(&mandate);
        let id = process.workers[0].open(stream).unwrap();
        for callback in callbacks {
            let worker = &mut process.workers[0];
            let forwarded = worker.stream(id).forwarded;
            match callback {
                Callback::RequestHeaders => {
                    let action = worker.request_headers(id, false).unwrap();
                    prop_assert!(action == Action::Pause || alone && good && !revoked || forwarded);
                }
                Callback::RequestBody => {
                    let action = worker.request_body(id, b"body", false).unwrap();
                    prop_assert!(action == Action::Pause || forwarded);
                }
                Callback::RequestTrailers => {
                    let action = worker.request_trailers(id).unwrap();
                    prop_assert!(action == Action::Pause || forwarded);
                }
                Callback::ResponseHeaders => _ = worker.response_headers(id, &[(":status", "200")]).unwrap(),
                Callback::ResponseBody => _ = worker.response_body(id, b"body", false).unwrap(),
                Callback::ResponseTrailers => _ = worker.response_trailers(id).unwrap(),
                Callback::Log => worker.log(id).unwrap(),
                Callback::Tick => worker.tick().unwrap(),
                Callback::Serve => {
                    process.sts = Services::Good;
                    process.serve().unwrap();
                    process.sts = Services::Silent;
                }
                Callback::Fail => {
                    process.sts = Services::Away;
                    process.serve().unwrap();
                    process.sts = Services::Silent;
                }
                Callback::Later => process.pass(100).unwrap(),
                Callback::Revoke => {
                    process.revoke("session-1");
                    process.pass(100).unwrap();
                    revoked = true;
                }
            }
        }
        let stream = process.workers[0].close(id).unwrap();
        prop_assert!(good || !stream.forwarded);
        prop_assert!(alone || process.exchanges > 0 || !stream.forwarded);
        // The worker goes on.
        let request = process.request("no.mandate.x");
        prop_assert!(process.send(0, request).unwrap().replied.is_some());
    }
}
