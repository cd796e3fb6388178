//! Anything at all, thrown at the module: as configuration, as what the feed answers or another VM shares, and as headers.
//! It has to refuse, and never to trap; and nothing passes but what has a good mandate.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::process::{Process, gateway, sidecar};
use crate::stream::{Action, Stream};
use crate::vm::{Answer, Module, Trap, Vm};
use crate::world::World;

/// How often what came of it.
pub type Report = BTreeMap<&'static str, u64>;

/// Everything goes on until `more` says no. Answers how often what came of it, or what did not hold.
///
/// # Errors
/// What did not hold, with the number of the step.
pub fn run(module: &Module, seed: u64, mut more: impl FnMut() -> bool) -> Result<Report, String> {
    let mut chance = Chance::new(seed);
    let mut report = Report::new();
    let mut step = 0_u64;
    while more() {
        step += 1;
        let came = match chance.below(4) {
            0 => configuration(module, &mut chance),
            1 => fed(module, &mut chance),
            2 => shared(module, &mut chance),
            _ => headers(module, &mut chance),
        };
        let came = came.map_err(|what| format!("seed {seed}, step {step}: {what}"))?;
        for what in came {
            *report.entry(what).or_default() += 1;
        }
    }
    Ok(report)
}

fn trapped(trap: Trap) -> String {
    format!("the module trapped: {}", trap.0)
}

/// Changes bytes here and there.
fn spoil(chance: &mut Chance, bytes: &mut Vec<u8>) {
    for _ in 0..=chance.below(3) {
        let at = chance.below(bytes.len() + 1);
        match chance.below(5) {
            0 => bytes.truncate(at),
            1 => {
                let more = chance.bytes(20);
                bytes.splice(at..at, more);
            }
            2 => {
                let to = (at + chance.below(20)).min(bytes.len());
                bytes.drain(at..to);
            }
            3 => {
                let word = *chance.one(&[
                    &b"null"[..],
                    b"-1",
                    b"1e999",
                    b"{}",
                    b"[]",
                    b"\"\"",
                    b"\\u0000",
                    b"[[[[[[",
                    b"9999999999999999999999",
                ]);
                bytes.splice(at..at, word.iter().copied());
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = chance.bits().to_le_bytes()[0];
                }
            }
        }
    }
}

/// A value of any type.
fn anything(chance: &mut Chance) -> Value {
    match chance.below(9) {
        0 => Value::Null,
        1 => json!(chance.bits() & 1 == 1),
        2 => json!(chance.bits()),
        3 => json!(chance.bits().cast_signed()),
        4 => json!(1.5),
        5 => json!([anything(chance)]),
        6 => json!({"kind": "agent_session", "id": "x"}),
        7 => json!("x".repeat(chance.below(5_000))),
        _ => json!(String::from_utf8_lossy(&chance.bytes(30))),
    }
}

/// Replaces one value somewhere inside.
fn replace(chance: &mut Chance, value: &mut Value) {
    let deeper = chance.below(4) > 0;
    match value {
        Value::Object(members) if deeper && !members.is_empty() => {
            let at = chance.below(members.len());
            if let Some(inner) = members.values_mut().nth(at) {
                replace(chance, inner);
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = chance.below(items.len());
            replace(chance, &mut items[at]);
        }
        other => *other = anything(chance),
    }
}

fn spoiled(chance: &mut Chance, mut value: Value) -> Vec<u8> {
    if chance.below(2) == 0 {
        replace(chance, &mut value);
        return value.to_string().into_bytes();
    }
    let mut bytes = value.to_string().into_bytes();
    spoil(chance, &mut bytes);
    bytes
}

fn configuration(module: &Module, chance: &mut Chance) -> Result<Vec<&'static str>, String> {
    let feed = json!({"service": "feed", "gateway_id": "gw-1", "sts": {}, "wait_s": 1});
    let good = chance.one(&[gateway(), sidecar(), feed]).clone();
    let bytes = if chance.below(6) == 0 { good.to_string().into_bytes() } else { spoiled(chance, good) };
    let Some(mut vm) = Vm::start(module, &World::new(), &bytes).map_err(trapped)? else {
        return Ok(vec!["configuration refused"]);
    };
    // Without a feed nothing passes, whatever was configured, unless the operator only tries the rules out.
    let dry = String::from_utf8_lossy(&bytes).contains("\"dry_run\":true");
    let id = vm.open(Stream::new(&[(":method", "GET"), (":path", "/v1/orders")])).map_err(trapped)?;
    vm.request_headers(id, true).map_err(trapped)?;
    vm.tick().map_err(trapped)?;
    let stream = vm.close(id).map_err(trapped)?;
    if stream.forwarded && !dry {
        return Err(format!("passed without a feed: {}", String::from_utf8_lossy(&bytes)));
    }
    Ok(vec!["configuration taken"])
}

/// A good request and a bad one; the bad one must not pass.
fn probe(process: &mut Process<'_>) -> Result<&'static str, String> {
    let good = process.mandate();
    let forged = crate::issuer::forge(&good, |claims| claims["sub"] = json!("another"));
    let bad = process.request(&forged);
    if process.send(0, bad).map_err(trapped)?.forwarded {
        return Err("a forged mandate passed".to_owned());
    }
    let good = process.request(&good);
    let passed = process.send(0, good).map_err(trapped)?.forwarded;
    Ok(if passed { "good request passed" } else { "good request refused" })
}

fn fed(module: &Module, chance: &mut Chance) -> Result<Vec<&'static str>, String> {
    let mut process = Process::start(module, &gateway(), 1).map_err(trapped)?;
    let known = chance.below(2) == 0;
    if known {
        process.pass(300).map_err(trapped)?;
    }
    process.revoke("someone");
    let since = if known { 1 } else { 0 };
    let told = process.told_since(since);
    let body = spoiled(chance, told);
    process.world.step(200);
    process.singleton.tick().map_err(trapped)?;
    let calls = process.singleton.calls();
    for call in calls {
        let mut answer = Answer::json(200, &Value::Null);
        answer.body.clone_from(&body);
        process.singleton.answer(&call, answer).map_err(trapped)?;
    }
    process.singleton.tick().map_err(trapped)?;
    Ok(vec!["feed spoiled", probe(&mut process)?])
}

fn shared(module: &Module, chance: &mut Chance) -> Result<Vec<&'static str>, String> {
    let mut process = Process::start(module, &gateway(), 1).map_err(trapped)?;
    process.pass(300).map_err(trapped)?;
    process.revoke("someone");
    process.pass(300).map_err(trapped)?;
    let mut came = vec!["shared data spoiled"];
    if chance.below(2) == 0 {
        came.push(probe(&mut process)?);
    }
    for (key, mut value) in process.world.shared() {
        if chance.below(2) == 0 {
            spoil(chance, &mut value);
            process.world.share(&key, &value);
        }
    }
    came.push(probe(&mut process)?);
    Ok(came)
}

fn headers(module: &Module, chance: &mut Chance) -> Result<Vec<&'static str>, String> {
    const NAMES: [&str; 22] = [
        ":method",
        ":path",
        ":authority",
        ":scheme",
        "authorization",
        "x-caracal-resource",
        "x-caracal-client-id",
        "x-request-id",
        "traceparent",
        "baggage",
        "connection",
        "content-length",
        "x-forwarded-proto",
        "x-forwarded-for",
        "cookie",
        "forwarded",
        "te",
        "x-caracal-upstream",
        "x-caracal-identity",
        "expect",
        "upgrade",
        "x-any",
    ];
    let configuration = if chance.below(2) == 0 { gateway() } else { sidecar() };
    let mut process = Process::start(module, &configuration, 1).map_err(trapped)?;
    process.pass(300).map_err(trapped)?;
    let mut came = Vec::new();
    for _ in 0..20 {
        let mandate = if configuration == gateway() { process.mandate() } else { process.resource_mandate() };
        let good = format!("Bearer {mandate}").into_bytes();
        let mut stream = process.request(&mandate);
        for _ in 0..=chance.below(4) {
            let at = chance.below(stream.request.len().max(1));
            match chance.below(3) {
                0 => stream.request.push(((*chance.one(&NAMES)).to_owned(), chance.bytes(60))),
                1 if !stream.request.is_empty() => _ = stream.request.remove(at),
                _ => {
                    if let Some((_, value)) = stream.request.get_mut(at) {
                        spoil(chance, value);
                    }
                }
            }
        }
        let bearers: Vec<_> =
            stream.request.iter().filter(|(name, _)| name == "authorization").cloned().collect();
        let id = process.workers[0].open(stream).map_err(trapped)?;
        if process.workers[0].request_headers(id, false).map_err(trapped)? == Action::Pause {
            process.serve().map_err(trapped)?;
        }
        let body = chance.bytes(1_500);
        process.workers[0].request_body(id, &body, true).map_err(trapped)?;
        if process.workers[0].stream(id).forwarded {
            process.workers[0]
                .response_headers(id, &[(":status", "200"), ("server", "x")])
                .map_err(trapped)?;
            process.workers[0].response_body(id, b"x", true).map_err(trapped)?;
        }
        let stream = process.workers[0].close(id).map_err(trapped)?;
        let proved = bearers.len() == 1 && bearers[0].1.trim_ascii().ends_with(&good[7..]);
        if stream.forwarded && !proved {
            return Err(format!("passed without a good mandate: {bearers:?}"));
        }
        if !stream.forwarded && stream.replied.is_none() {
            return Err(format!("neither passed nor answered: {:?}", stream.request));
        }
        came.push(if stream.forwarded { "headers passed" } else { "headers refused" });
    }
    Ok(came)
}
