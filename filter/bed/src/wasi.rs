//! The few functions of WASI that Envoy offers: time, random bytes, the environment, and standard error as a log.

use wasmtime::{Caller, Extern, Linker, Result};

use crate::vm::State;

type Host<'a> = Caller<'a, State>;

const OK: u32 = 0;
/// A bad address.
const FAULT: u32 = 21;

fn write(host: &mut Host<'_>, at: u32, bytes: &[u8]) -> u32 {
    let memory = host.get_export("memory").and_then(Extern::into_memory).expect("a memory");
    if memory.write(&mut *host, at as usize, bytes).is_ok() { OK } else { FAULT }
}

fn read(host: &mut Host<'_>, at: u32, size: u32) -> Vec<u8> {
    let memory = host.get_export("memory").and_then(Extern::into_memory).expect("a memory");
    let at = at as usize;
    memory.data(&*host).get(at..at.saturating_add(size as usize)).unwrap_or_default().to_vec()
}

fn number(host: &mut Host<'_>, at: u32) -> u32 {
    read(host, at, 4).try_into().map_or(0, u32::from_le_bytes)
}

/// `NAME=value`, each with a zero byte after it.
fn environment(host: &Host<'_>) -> Vec<Vec<u8>> {
    let inner = host.data().world.0.borrow();
    inner.environment.iter().map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
}

/// Defines them.
pub(crate) fn define(linker: &mut Linker<State>) -> Result<()> {
    const MODULE: &str = "wasi_snapshot_preview1";
    linker.func_wrap(MODULE, "clock_time_get", |mut host: Host<'_>, _: u32, _: u64, at: u32| {
        let now = host.data().world.now() * 1_000_000;
        write(&mut host, at, &now.to_le_bytes())
    })?;
    linker.func_wrap(MODULE, "random_get", |mut host: Host<'_>, at: u32, size: u32| {
        if host.data().world.enter("random_get").is_some() {
            return FAULT;
        }
        let mut bytes = vec![0; size as usize];
        host.data().world.random(&mut bytes);
        write(&mut host, at, &bytes)
    })?;
    linker.func_wrap(MODULE, "environ_sizes_get", |mut host: Host<'_>, count: u32, size: u32| {
        let variables = environment(&host);
        let bytes: usize = variables.iter().map(Vec::len).sum();
        let little = |number: usize| u32::try_from(number).expect("a small environment").to_le_bytes();
        write(&mut host, count, &little(variables.len())) | write(&mut host, size, &little(bytes))
    })?;
    linker.func_wrap(MODULE, "environ_get", |mut host: Host<'_>, pointers: u32, texts: u32| {
        let (mut pointer, mut text) = (pointers, texts);
        for variable in environment(&host) {
            if write(&mut host, pointer, &text.to_le_bytes()) | write(&mut host, text, &variable) != OK {
                return FAULT;
            }
            pointer += 4;
            text += u32::try_from(variable.len()).expect("a small environment");
        }
        OK
    })?;
    linker.func_wrap(
        MODULE,
        "fd_write",
        |mut host: Host<'_>, _: u32, vectors: u32, count: u32, written: u32| {
            let mut line = Vec::new();
            for vector in 0..count.min(64) {
                let (at, size) =
                    (number(&mut host, vectors + vector * 8), number(&mut host, vectors + vector * 8 + 4));
                line.extend(read(&mut host, at, size));
            }
            let size = u32::try_from(line.len()).expect("a short line");
            host.data().world.0.borrow_mut().logs.push((4, String::from_utf8_lossy(&line).into_owned()));
            write(&mut host, written, &size.to_le_bytes())
        },
    )?;
    linker.func_wrap(MODULE, "proc_exit", |code: u32| -> Result<()> {
        Err(wasmtime::Error::msg(format!("the module ended itself with {code}")))
    })?;
    Ok(())
}
