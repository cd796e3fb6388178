//! Envoy's side of the ABI. A status is a value here, and whoever calls decides what it means.
#![expect(unsafe_code, reason = "the host's functions can be called in no other way")]

use std::ptr::null_mut;

/// A status of the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Status(u32);

impl Status {
    const OK: Self = Self(0);
    /// What was asked for is not there.
    pub(crate) const NOT_FOUND: Self = Self(1);
}

/// What a call without a result came to.
pub(crate) type Done = Result<(), Status>;
/// What a call that reads came to.
pub(crate) type Bytes = Result<Vec<u8>, Status>;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(
        kind: u32,
        start: usize,
        most: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, value_size: usize) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
        cas: u32,
    ) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_close_stream(stream: u32) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        arguments: *const u8,
        arguments_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_get_metric(id: u32, value: *mut u64) -> u32;
}

fn done(status: u32) -> Done {
    if Status(status) == Status::OK { Ok(()) } else { Err(Status(status)) }
}

/// Takes over what the host wrote into memory that it asked this VM for.
fn read(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Bytes {
    let (mut data, mut size) = (null_mut::<u8>(), 0_usize);
    done(call(&raw mut data, &raw mut size))?;
    if data.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: the host got this memory from `allocate`, which leaks a boxed slice of `size` bytes, and has filled it;
    // nobody else knows of it.
    Ok(unsafe { Vec::from_raw_parts(data, size, size) })
}

// SAFETY, for every block below: the host reads slices for as long as the call lasts, and writes to the places that it is
// given and to memory that it asks for.

pub(crate) fn log(level: u32, message: &str) -> Done {
    done(unsafe { proxy_log(level, message.as_ptr(), message.len()) })
}

/// Unix nanoseconds.
pub(crate) fn now() -> Result<u64, Status> {
    let mut time = 0;
    done(unsafe { proxy_get_current_time_nanoseconds(&raw mut time) }).map(|()| time)
}

pub(crate) fn tick_every(millis: u32) -> Done {
    done(unsafe { proxy_set_tick_period_milliseconds(millis) })
}

pub(crate) fn buffer(kind: u32, size: usize) -> Bytes {
    read(|data, length| unsafe { proxy_get_buffer_bytes(kind, 0, size, data, length) })
}

/// All pairs of a map, as the host writes them; see [`Headers::read`](crate::headers::Headers::read).
pub(crate) fn map(map: u32) -> Bytes {
    read(|data, size| unsafe { proxy_get_header_map_pairs(map, data, size) })
}

pub(crate) fn map_value(map: u32, name: &str) -> Bytes {
    read(|data, size| unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len(), data, size) })
}

pub(crate) fn replace(map: u32, name: &str, value: &[u8]) -> Done {
    done(unsafe {
        proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

pub(crate) fn remove(map: u32, name: &[u8]) -> Done {
    done(unsafe { proxy_remove_header_map_value(map, name.as_ptr(), name.len()) })
}

pub(crate) fn property(path: &[&str]) -> Bytes {
    let path = path.join("\0");
    read(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
}

pub(crate) fn set_property(name: &str, value: &[u8]) -> Done {
    done(unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

pub(crate) fn shared(key: &str) -> Bytes {
    let mut cas = 0;
    read(|data, size| unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut cas) })
}

/// Without a compare-and-swap number the host always takes the value.
pub(crate) fn share(key: &str, value: &[u8]) -> Done {
    done(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), 0) })
}

pub(crate) fn reply(status: u32, headers: &[(&str, &str)], body: &[u8]) -> Done {
    let headers = serialized(headers);
    done(unsafe {
        proxy_send_local_response(
            status,
            null_mut(),
            0,
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            -1,
        )
    })
}

pub(crate) fn resume(stream: u32) -> Done {
    done(unsafe { proxy_continue_stream(stream) })
}

pub(crate) fn close(stream: u32) -> Done {
    done(unsafe { proxy_close_stream(stream) })
}

pub(crate) fn foreign(name: &str, arguments: &[u8]) -> Bytes {
    read(|data, size| unsafe {
        proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            arguments.as_ptr(),
            arguments.len(),
            data,
            size,
        )
    })
}

pub(crate) fn call(
    cluster: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout_ms: u32,
) -> Result<u32, Status> {
    let (headers, trailers, mut token) = (serialized(headers), serialized(&[]), 0);
    done(unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            timeout_ms,
            &raw mut token,
        )
    })
    .map(|()| token)
}

/// What is called from now on is about this context, until the callback that is running ends.
pub(crate) fn act_for(context: u32) -> Done {
    done(unsafe { proxy_set_effective_context(context) })
}

pub(crate) fn define_metric(kind: u32, name: &str) -> Result<u32, Status> {
    let mut id = 0;
    done(unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) }).map(|()| id)
}

pub(crate) fn record(id: u32, value: u64) -> Done {
    done(unsafe { proxy_record_metric(id, value) })
}

pub(crate) fn increment(id: u32, offset: i64) -> Done {
    done(unsafe { proxy_increment_metric(id, offset) })
}

/// What a metric shows now.
pub(crate) fn metric(id: u32) -> Result<u64, Status> {
    let mut value = 0;
    done(unsafe { proxy_get_metric(id, &raw mut value) }).map(|()| value)
}

/// A map as the host reads it: how many, all sizes, and then names and values, each with a zero byte after it.
fn serialized(map: &[(&str, &str)]) -> Vec<u8> {
    let size = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = u32::try_from(map.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    for (name, value) in map {
        bytes.extend_from_slice(&[size(name), size(value)].concat());
    }
    for text in map.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// Memory that the host writes into, for [`read`] to take over.
#[cfg(target_arch = "wasm32")]
pub(crate) fn allocate(size: usize) -> *mut u8 {
    // The host fills all of it before anybody reads it.
    Box::into_raw(Box::<[u8]>::new_uninit_slice(size)).cast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Headers;

    #[test]
    fn maps_are_read_as_they_are_written_and_what_is_none_is_not_read() {
        let map = [("a", "1"), ("", ""), ("b", "")];
        let bytes = serialized(&map);
        let read = Headers::read(bytes.clone()).unwrap();
        assert!(read.iter().eq(map.map(|(name, value)| (name.as_bytes(), value.as_bytes()))));
        assert!(Headers::read(Vec::new()).is_some_and(|none| none.iter().next().is_none()));
        for cut in 1..bytes.len() {
            assert!(Headers::read(bytes[..cut].to_vec()).is_none(), "{cut}");
        }
        assert!(Headers::read(vec![0xff; 20]).is_none());
    }
}
