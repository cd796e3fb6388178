//! What the module takes, counted: fuel of its own functions, and calls of the host's.
//!
//! Fuel counts instructions of WebAssembly, so the figures are the same on every machine and in every run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::process::{self, Process, RESOURCE};
use crate::stream::{Action, Stream};
use crate::vm::{Module, Spent, Trap};
use crate::world::Used;

/// How many requests are counted. Audit takes them in one delivery.
const REQUESTS: u64 = 100;

/// What something took.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// By function of the module.
    pub spent: BTreeMap<&'static str, Spent>,
    /// By function of the host.
    pub used: BTreeMap<&'static str, Used>,
    /// Over how many requests.
    requests: u64,
}

/// What there is to measure.
#[derive(Clone, Debug)]
pub struct Costs {
    /// Requests with a mandate that the worker has seen.
    pub warm: Cost,
    /// Requests with another mandate each.
    pub never_seen: Cost,
    /// Requests at a gateway, each with a mandate that the STS exchanges and that is used up by it.
    pub governed: Cost,
    /// The delivery of the evidence of warm requests.
    pub delivery: Cost,
    /// A tick without anything to do.
    pub idle_tick: Cost,
    /// What crosses between host and module for a warm request, in order.
    pub order: Vec<&'static str>,
}

impl Cost {
    /// Fuel for each request.
    #[must_use]
    pub fn fuel(&self) -> u64 {
        self.spent.values().map(|spent| spent.fuel).sum::<u64>() / self.requests
    }

    /// Calls from the host into the module and back, for each request. Memory that the host asks for is such a call.
    #[must_use]
    pub fn crossings(&self) -> f64 {
        let entries: u64 = self.spent.values().map(|spent| spent.calls).sum();
        let calls: u64 = self.used.values().map(|used| used.calls + used.allocations).sum();
        self.each(entries + calls)
    }

    #[allow(clippy::cast_precision_loss)]
    fn each(&self, number: u64) -> f64 {
        number as f64 / self.requests as f64
    }

    /// One line for each function.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = String::new();
        for (name, spent) in &self.spent {
            let (calls, fuel) = (self.each(spent.calls), self.each(spent.fuel));
            writeln!(lines, "  {name:38} {calls:7.2} calls {fuel:10.0} fuel").expect("a line");
        }
        for (name, used) in &self.used {
            let (calls, allocations) = (self.each(used.calls), self.each(used.allocations));
            let bytes = self.each(used.bytes);
            writeln!(lines, "  {name:38} {calls:7.2} calls {allocations:10.2} allocations {bytes:8.0} bytes")
                .expect("a line");
        }
        lines
    }
}

impl Costs {
    /// Measures a module that was loaded metered, in front of one service.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn measure(module: &Module) -> Result<Self, Trap> {
        let mut process = Process::start(module, &unlogged(process::sidecar()), 1)?;
        process.pass(300)?;
        let seen = mandate(&process);
        // The first ones make room: of the heap, of tables, of the evidence.
        let rehearsal: Vec<String> = (0..REQUESTS).map(|_| mandate(&process)).collect();
        for mandate in rehearsal.iter().chain([&seen, &seen]) {
            call(&mut process, mandate)?;
        }
        process.pass(300)?;
        let warm = counted(&mut process, |process| (0..REQUESTS).try_for_each(|_| call(process, &seen)))?;
        let delivery = counted(&mut process, |process| process.pass(25))?;
        call(&mut process, &seen)?;
        process.world.watch();
        call(&mut process, &seen)?;
        let order = process.world.watched();
        process.pass(25)?;
        let never_seen: Vec<String> = (0..REQUESTS).map(|_| mandate(&process)).collect();
        let never_seen = counted(&mut process, |process| {
            never_seen.iter().try_for_each(|mandate| call(process, mandate))
        })?;
        process.pass(300)?;
        let mut idle_tick = counted(&mut process, |process| process.workers[0].tick())?;
        idle_tick.requests = 1;
        Ok(Self { warm, never_seen, governed: governed(module)?, delivery, idle_tick, order })
    }

    /// Everything, to read.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        for (name, cost) in [
            ("warm request", &self.warm),
            ("never-seen mandate", &self.never_seen),
            ("governed request", &self.governed),
            ("evidence of a warm request", &self.delivery),
            ("idle tick", &self.idle_tick),
        ] {
            let (fuel, crossings) = (cost.fuel(), cost.crossings());
            writeln!(text, "{name}: {fuel} fuel, {crossings:.2} crossings\n{}", cost.table())
                .expect("a line");
        }
        writeln!(text, "what crosses for a warm request, in order").expect("a line");
        for name in &self.order {
            writeln!(text, "  {name}").expect("a line");
        }
        text
    }
}

/// What a request is like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// With a mandate that the worker has seen.
    Warm,
    /// With another mandate.
    NeverSeen,
    /// At a gateway, with a mandate that is exchanged.
    Governed,
}

/// Sends so many requests of a kind, for a profiler to look on.
///
/// # Errors
/// A [`Trap`].
pub fn run(module: &Module, requests: u64, kind: Kind) -> Result<(), Trap> {
    let configuration = if kind == Kind::Governed { process::gateway() } else { process::sidecar() };
    let mut process = Process::start(module, &unlogged(configuration), 1)?;
    process.pass(300)?;
    let seen = mandate(&process);
    process.granted.clone_from(&seen);
    for number in 1..=requests {
        let token = match kind {
            Kind::Warm => seen.clone(),
            Kind::NeverSeen => mandate(&process),
            Kind::Governed => gateway_mandate(&process),
        };
        call(&mut process, &token)?;
        if number % REQUESTS == 0 {
            process.pass(25)?;
            process.events.clear();
        }
    }
    Ok(())
}

/// The configuration as it is rendered without an access log.
fn unlogged(mut configuration: Value) -> Value {
    configuration["filter_state"] = json!(false);
    configuration["response_request_id"] = json!(false);
    configuration
}

/// Measures requests whose mandates are used up by the gateway.
fn governed(module: &Module) -> Result<Cost, Trap> {
    let mut process = Process::start(module, &unlogged(process::gateway()), 1)?;
    process.pass(300)?;
    process.granted = mandate(&process);
    let mandates: Vec<String> = (0..2 * REQUESTS).map(|_| gateway_mandate(&process)).collect();
    let mut mandates = mandates.iter();
    for mandate in mandates.by_ref().take(usize::try_from(REQUESTS).unwrap_or_default()) {
        call(&mut process, mandate)?;
    }
    process.pass(300)?;
    counted(&mut process, |process| mandates.try_for_each(|mandate| call(process, mandate)))
}

/// Counts what the worker does meanwhile.
fn counted(
    process: &mut Process<'_>,
    act: impl FnOnce(&mut Process<'_>) -> Result<(), Trap>,
) -> Result<Cost, Trap> {
    let _before = (process.workers[0].spent(), process.singleton.spent(), process.world.used());
    act(process)?;
    // The singleton's share of the host's functions is small, and the same in every run.
    Ok(Cost { spent: process.workers[0].spent(), used: process.world.used(), requests: REQUESTS })
}

/// A mandate for the resource.
fn mandate(process: &Process<'_>) -> String {
    process.issuer.token(&claims(process, &json!({"use": "resource", "aud": [RESOURCE]})))
}

/// A mandate for the gateway.
fn gateway_mandate(process: &Process<'_>) -> String {
    process.issuer.token(&claims(process, &json!({})))
}

/// The claims of a session below another one, with ids as the services make them.
fn claims(process: &Process<'_>, usage: &Value) -> Value {
    let id = |kind: u32| format!("0199c0de-5eed-7{kind:03x}-8000-0123456789ab");
    let mut claims = process.claims();
    let number = claims["jti"].as_str().expect("a jti").trim_start_matches("jti-").to_owned();
    let more = json!({
        "sub": id(1), "client_id": id(1), "sid": id(2), "root_sid": id(3),
        "jti": format!("0199c0de-5eed-7004-8000-{number:0>12}"), "agent_session_id": id(5), "delegation_edge_id": id(6),
        "source_session_id": id(7), "target_session_id": id(5), "delegation_path": [id(6)],
        "delegation_chain": [
            {"application_id": id(1), "agent_session_id": id(7), "delegation_edge_id": id(6)},
            {"application_id": id(1), "agent_session_id": id(5)},
        ],
        "delegation_graph_epoch": 4,
    });
    for more in [&more, usage] {
        if let (Some(members), Some(more)) = (claims.as_object_mut(), more.as_object()) {
            members.extend(more.clone());
        }
    }
    claims
}

/// One request as Envoy handles it, to its end.
fn call(process: &mut Process<'_>, mandate: &str) -> Result<(), Trap> {
    let stream = Stream::new(&[
        (":authority", "127.0.0.1:10000"),
        (":path", "/v1/orders"),
        (":method", "GET"),
        (":scheme", "http"),
        ("authorization", &format!("Bearer {mandate}")),
        ("x-caracal-resource", RESOURCE),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "5f0c2c0e-4b0f-4c8e-9f6b-2f3f0c6d7a11"),
    ]);
    let worker = &mut process.workers[0];
    let id = worker.open(stream)?;
    if worker.request_headers(id, true)? == Action::Pause {
        process.serve()?;
    }
    let worker = &mut process.workers[0];
    worker.response_headers(
        id,
        &[
            (":status", "200"),
            ("content-type", "application/json"),
            ("content-length", "13"),
            ("x-envoy-upstream-service-time", "0"),
        ],
    )?;
    worker.response_body(id, b"{\"orders\":[]}", true)?;
    assert!(worker.close(id)?.forwarded);
    Ok(())
}
