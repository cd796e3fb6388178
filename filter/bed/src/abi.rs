//! The host's functions of the proxy-wasm ABI 0.2.1, as Envoy behaves.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use wasmtime::{Caller, Extern, Linker, Memory, Result};

use crate::stream::{Headers, Reply, Stream};
use crate::vm::{Call, State};

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const INVALID_MEMORY: u32 = 6;
const CAS_MISMATCH: u32 = 8;

type Host<'a> = Caller<'a, State>;

/// Why a function answers with another status than success.
pub(crate) struct Failed(u32);

type Outcome<T> = std::result::Result<T, Failed>;

fn memory(host: &mut Host<'_>) -> Memory {
    host.get_export("memory").and_then(Extern::into_memory).expect("a memory")
}

fn read(host: &mut Host<'_>, at: u32, size: u32) -> Outcome<Vec<u8>> {
    let (at, size) = (at as usize, size as usize);
    host.data().world.moves(size);
    let memory = memory(host);
    memory.data(&*host).get(at..at.saturating_add(size)).map(<[u8]>::to_vec).ok_or(Failed(INVALID_MEMORY))
}

fn write(host: &mut Host<'_>, at: u32, bytes: &[u8]) -> Outcome<()> {
    host.data().world.moves(bytes.len());
    let memory = memory(host);
    memory.write(&mut *host, at as usize, bytes).map_err(|_| Failed(INVALID_MEMORY))
}

/// Hands bytes over in memory that the module gives for them.
fn give(host: &mut Host<'_>, bytes: &[u8], data: u32, size: u32) -> Outcome<()> {
    let length = u32::try_from(bytes.len()).expect("what fits into 32 bits");
    let allocate =
        host.get_export("proxy_on_memory_allocate").and_then(Extern::into_func).expect("an allocator");
    let allocate = allocate.typed::<u32, u32>(&*host).expect("an allocator");
    host.data().world.allocates();
    let at = allocate.call(&mut *host, length).map_err(|_| Failed(INVALID_MEMORY))?;
    write(host, at, bytes)?;
    write(host, data, &at.to_le_bytes())?;
    write(host, size, &length.to_le_bytes())
}

fn text(bytes: Vec<u8>) -> Outcome<String> {
    String::from_utf8(bytes).map_err(|_| Failed(BAD_ARGUMENT))
}

/// The stream whose context is active.
fn stream<'a>(host: &'a mut Host<'_>) -> Outcome<&'a mut Stream> {
    let state = host.data_mut();
    state.streams.get_mut(&state.context).ok_or(Failed(BAD_ARGUMENT))
}

/// A map of headers: of the active stream, or of the answer that is being delivered.
fn map<'a>(host: &'a mut Host<'_>, map: u32) -> Outcome<&'a mut Headers> {
    match map {
        0 => Ok(&mut stream(host)?.request),
        2 => Ok(&mut stream(host)?.response),
        6 => Ok(&mut host.data_mut().answer.as_mut().ok_or(Failed(BAD_ARGUMENT))?.headers),
        _ => Err(Failed(BAD_ARGUMENT)),
    }
}

fn serialized(headers: &Headers) -> Vec<u8> {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a short header").to_le_bytes();
    let mut bytes = u32::try_from(headers.len()).expect("few headers").to_le_bytes().to_vec();
    for (name, value) in headers {
        bytes.extend_from_slice(&[size(name.as_bytes()), size(value)].concat());
    }
    for (name, value) in headers {
        for part in [name.as_bytes(), value.as_slice()] {
            bytes.extend_from_slice(part);
            bytes.push(0);
        }
    }
    bytes
}

fn pairs(bytes: &[u8]) -> Outcome<Headers> {
    let mut at = 0;
    let mut number = || {
        let number = bytes.get(at..at + 4).ok_or(Failed(BAD_ARGUMENT))?;
        at += 4;
        Ok(u32::from_le_bytes(number.try_into().expect("four bytes")) as usize)
    };
    if bytes.is_empty() {
        return Ok(Headers::new());
    }
    let sizes: Vec<usize> = (0..number()? * 2).map(|_| number()).collect::<Outcome<_>>()?;
    let mut parts = Vec::new();
    for size in sizes {
        parts.push(bytes.get(at..at + size).ok_or(Failed(BAD_ARGUMENT))?.to_vec());
        at += size + 1;
    }
    parts.chunks(2).map(|pair| Ok((text(pair[0].clone())?, pair[1].clone()))).collect()
}

/// Runs a host function, unless it is to fail.
fn act(
    mut host: Host<'_>,
    name: &'static str,
    function: impl FnOnce(&mut Host<'_>) -> Outcome<()>,
) -> Result<u32> {
    if let Some(status) = host.data().world.enter(name) {
        return Ok(status);
    }
    Ok(match function(&mut host) {
        Ok(()) => OK,
        Err(Failed(status)) => status,
    })
}

/// Defines all of them.
pub(crate) fn define(linker: &mut Linker<State>) -> Result<()> {
    define_basics(linker)?;
    define_maps(linker)?;
    define_sharing(linker)?;
    define_streams(linker)?;
    define_metrics(linker)
}

fn define_basics(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap("env", "proxy_log", |host: Host<'_>, level: u32, at: u32, size: u32| {
        act(host, "proxy_log", |host| {
            let line = String::from_utf8_lossy(&read(host, at, size)?).into_owned();
            host.data().world.0.borrow_mut().logs.push((level, line));
            Ok(())
        })
    })?;
    linker.func_wrap("env", "proxy_get_current_time_nanoseconds", |host: Host<'_>, at: u32| {
        act(host, "proxy_get_current_time_nanoseconds", |host| {
            let now = host.data().world.now() * 1_000_000;
            write(host, at, &now.to_le_bytes())
        })
    })?;
    linker.func_wrap("env", "proxy_set_tick_period_milliseconds", |host: Host<'_>, millis: u32| {
        act(host, "proxy_set_tick_period_milliseconds", |host| {
            host.data_mut().tick_ms = millis;
            Ok(())
        })
    })?;
    linker.func_wrap("env", "proxy_set_effective_context", |host: Host<'_>, context: u32| {
        act(host, "proxy_set_effective_context", |host| {
            host.data_mut().context = context;
            Ok(())
        })
    })?;
    linker.func_wrap(
        "env",
        "proxy_get_buffer_bytes",
        |host: Host<'_>, kind: u32, start: u32, most: u32, data: u32, size: u32| {
            act(host, "proxy_get_buffer_bytes", |host| {
                let bytes = match kind {
                    0 => stream(host)?.request_body.clone(),
                    1 => stream(host)?.response_body.clone(),
                    4 => host.data().answer.as_ref().ok_or(Failed(BAD_ARGUMENT))?.body.clone(),
                    7 => host.data().configuration.clone(),
                    _ => return Err(Failed(NOT_FOUND)),
                };
                let start = start as usize;
                let end = start.saturating_add(most as usize).min(bytes.len());
                give(host, bytes.get(start..end).ok_or(Failed(BAD_ARGUMENT))?, data, size)
            })
        },
    )?;
    Ok(())
}

fn define_maps(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_header_map_pairs",
        |host: Host<'_>, kind: u32, data: u32, size: u32| {
            act(host, "proxy_get_header_map_pairs", |host| {
                let bytes = serialized(map(host, kind)?);
                give(host, &bytes, data, size)
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_header_map_value",
        |host: Host<'_>, kind: u32, name: u32, name_size: u32, data: u32, size: u32| {
            act(host, "proxy_get_header_map_value", |host| {
                let name = text(read(host, name, name_size)?)?;
                let found = map(host, kind)?.iter().find(|(header, _)| *header == name);
                let value = found.map(|(_, value)| value.clone()).ok_or(Failed(NOT_FOUND))?;
                give(host, &value, data, size)
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_replace_header_map_value",
        |host: Host<'_>, kind: u32, name: u32, name_size: u32, value: u32, value_size: u32| {
            act(host, "proxy_replace_header_map_value", |host| {
                let (name, value) = (text(read(host, name, name_size)?)?, read(host, value, value_size)?);
                let headers = map(host, kind)?;
                headers.retain(|(header, _)| *header != name);
                headers.push((name, value));
                Ok(())
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_remove_header_map_value",
        |host: Host<'_>, kind: u32, name: u32, size: u32| {
            act(host, "proxy_remove_header_map_value", |host| {
                let name = text(read(host, name, size)?)?;
                map(host, kind)?.retain(|(header, _)| *header != name);
                Ok(())
            })
        },
    )?;
    Ok(())
}

fn define_sharing(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_shared_data",
        |host: Host<'_>, key: u32, key_size: u32, data: u32, size: u32, cas: u32| {
            act(host, "proxy_get_shared_data", |host| {
                let key = read(host, key, key_size)?;
                let found = host.data().world.0.borrow().shared.get(&key).cloned();
                let (value, number) = found.ok_or(Failed(NOT_FOUND))?;
                give(host, &value, data, size)?;
                write(host, cas, &number.to_le_bytes())
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_shared_data",
        |host: Host<'_>, key: u32, key_size: u32, value: u32, value_size: u32, cas: u32| {
            act(host, "proxy_set_shared_data", |host| {
                let (key, value) = (read(host, key, key_size)?, read(host, value, value_size)?);
                let mut inner = host.data().world.0.borrow_mut();
                let number = inner.shared.get(&key).map_or(0, |(_, number)| *number);
                // Envoy takes a number that is not 0 for a key that is not there.
                if cas != 0 && number != 0 && cas != number {
                    return Err(Failed(CAS_MISMATCH));
                }
                inner.shared.insert(key, (value, number + 1));
                Ok(())
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_property",
        |host: Host<'_>, path: u32, path_size: u32, data: u32, size: u32| {
            act(host, "proxy_get_property", |host| {
                let path = text(read(host, path, path_size)?)?.replace('\0', "/");
                let value = stream(host).map_err(|_| Failed(NOT_FOUND))?.properties.get(&path).cloned();
                give(host, &value.ok_or(Failed(NOT_FOUND))?, data, size)
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_property",
        |host: Host<'_>, path: u32, path_size: u32, value: u32, value_size: u32| {
            act(host, "proxy_set_property", |host| {
                let (path, value) = (text(read(host, path, path_size)?)?, read(host, value, value_size)?);
                stream(host)?.noted.insert(path, value);
                Ok(())
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_call_foreign_function",
        |host: Host<'_>,
         name: u32,
         name_size: u32,
         arguments: u32,
         arguments_size: u32,
         data: u32,
         size: u32| {
            act(host, "proxy_call_foreign_function", |host| {
                let name = text(read(host, name, name_size)?)?;
                let arguments = read(host, arguments, arguments_size)?;
                if name != "verify_signature" || !host.data().world.0.borrow().verifies {
                    return Err(Failed(NOT_FOUND));
                }
                let verified = verified(&arguments).ok_or(Failed(BAD_ARGUMENT))?;
                let result: &[u8] = if verified { &[8, 1] } else { &[0x12, 2, b'n', b'o'] };
                give(host, result, data, size)
            })
        },
    )?;
    Ok(())
}

/// Envoy's `verify_signature`: a protobuf with hash function, DER key, DER signature and text.
fn verified(mut arguments: &[u8]) -> Option<bool> {
    let mut fields: [&[u8]; 5] = [&[]; 5];
    while let Some((tag, rest)) = arguments.split_first() {
        let (mut length, mut shift, mut rest) = (0_usize, 0, rest);
        loop {
            let (byte, after) = rest.split_first()?;
            (length, rest) = (length | usize::from(byte & 0x7f) << shift, after);
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (field, after) = rest.split_at_checked(length)?;
        *fields.get_mut(usize::from(tag >> 3)).filter(|_| tag & 7 == 2)? = field;
        arguments = after;
    }
    let [_, hash, key, signature, text] = fields;
    if !hash.eq_ignore_ascii_case(b"sha256") {
        return Some(false);
    }
    // The point at the end of the key's DER.
    let point = key.get(key.len().checked_sub(65)?..)?;
    Some(UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(text, signature).is_ok())
}

fn define_streams(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_send_local_response",
        |host: Host<'_>,
         status: u32,
         _: u32,
         _: u32,
         body: u32,
         body_size: u32,
         headers: u32,
         headers_size: u32,
         _: u32| {
            act(host, "proxy_send_local_response", |host| {
                let body = read(host, body, body_size)?;
                let headers = pairs(&read(host, headers, headers_size)?)?;
                let stream = stream(host)?;
                stream.replies += 1;
                stream.replied.get_or_insert(Reply { status, headers, body });
                Ok(())
            })
        },
    )?;
    linker.func_wrap("env", "proxy_continue_stream", |host: Host<'_>, kind: u32| {
        act(host, "proxy_continue_stream", |host| {
            if kind == 0 {
                stream(host)?.resumed += 1;
            }
            Ok(())
        })
    })?;
    linker.func_wrap("env", "proxy_close_stream", |host: Host<'_>, _: u32| {
        act(host, "proxy_close_stream", |host| {
            stream(host)?.reset = true;
            Ok(())
        })
    })?;
    linker.func_wrap(
        "env",
        "proxy_http_call",
        |host: Host<'_>,
         cluster: u32,
         cluster_size: u32,
         headers: u32,
         headers_size: u32,
         body: u32,
         body_size: u32,
         _: u32,
         _: u32,
         _: u32,
         token: u32| {
            act(host, "proxy_http_call", |host| {
                let cluster = text(read(host, cluster, cluster_size)?)?;
                let headers = pairs(&read(host, headers, headers_size)?)?;
                let body = read(host, body, body_size)?;
                let known = host.data().world.0.borrow().clusters.contains(&cluster);
                let needed = [":method", ":path", ":authority"];
                if !known || needed.iter().any(|name| headers.iter().all(|(header, _)| header != name)) {
                    return Err(Failed(BAD_ARGUMENT));
                }
                let state = host.data_mut();
                state.tokens += 1;
                let number = state.tokens;
                let context = state.context;
                state.calls.push(Call { token: number, context, cluster, headers, body });
                write(host, token, &number.to_le_bytes())
            })
        },
    )?;
    Ok(())
}

fn define_metrics(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_define_metric",
        |host: Host<'_>, kind: u32, name: u32, size: u32, id: u32| {
            act(host, "proxy_define_metric", |host| {
                let name = text(read(host, name, size)?)?;
                let number = {
                    let mut inner = host.data().world.0.borrow_mut();
                    let known = inner.metrics.iter().position(|(_, known, _)| *known == name);
                    known.unwrap_or_else(|| {
                        inner.metrics.push((kind, name, 0));
                        inner.metrics.len() - 1
                    })
                };
                write(host, id, &u32::try_from(number).expect("few metrics").to_le_bytes())
            })
        },
    )?;
    linker.func_wrap("env", "proxy_record_metric", |host: Host<'_>, id: u32, value: u64| {
        act(host, "proxy_record_metric", |host| {
            let mut inner = host.data().world.0.borrow_mut();
            let metric = inner.metrics.get_mut(id as usize).ok_or(Failed(NOT_FOUND))?;
            metric.2 = i64::try_from(value).unwrap_or(i64::MAX);
            Ok(())
        })
    })?;
    linker.func_wrap("env", "proxy_get_metric", |host: Host<'_>, id: u32, at: u32| {
        act(host, "proxy_get_metric", |host| {
            let found = host.data().world.0.borrow().metrics.get(id as usize).map(|(_, _, value)| *value);
            write(host, at, &found.ok_or(Failed(NOT_FOUND))?.to_le_bytes())
        })
    })?;
    linker.func_wrap("env", "proxy_increment_metric", |host: Host<'_>, id: u32, by: u64| {
        act(host, "proxy_increment_metric", |host| {
            let mut inner = host.data().world.0.borrow_mut();
            let metric = inner.metrics.get_mut(id as usize).ok_or(Failed(NOT_FOUND))?;
            metric.2 = metric.2.wrapping_add(by.cast_signed());
            Ok(())
        })
    })?;
    Ok(())
}
