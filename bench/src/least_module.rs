//! The least that a module can be in Envoy: what no filter of WebAssembly can be faster than.
//!
//! One does nothing; the other has Envoy verify one mandate's signature in each request, always the same, and does nothing
//! else. Both let pass, and the second traps where Envoy does not say that the signature is good.

use crate::error::Error;
use caracal_mandate::es256::envoy;
use caracal_mandate::jwks::{Jwk, JwkSet};
use caracal_mandate::jws::CompactJws;
use std::fmt::Write as _;

/// Where Envoy puts what it returns; nothing of it is kept beyond the call.
const RETURNED: usize = 16;
/// Where pointer and length of the result are put.
const RESULT: usize = 512;
const NAME: usize = 1_024;
const ARGUMENTS: usize = 2_048;

/// A module that does nothing.
pub(crate) fn empty() -> Result<Vec<u8>, Error> {
    module("", "")
}

/// A module that has the signature of this mandate verified by one of these keys.
pub(crate) fn verifying(mandate: &str, jwks: &str) -> Result<Vec<u8>, Error> {
    let wrong = |what: &str| Error::answer("the mandate that a module verifies", what);
    let jws = CompactJws::split(mandate.as_bytes()).map_err(|error| wrong(&error.to_string()))?;
    let signature = jws.signature().map_err(|error| wrong(&error.to_string()))?;
    let key_id = jws.key_id().map_err(|error| wrong(&error.to_string()))?;
    let keys: JwkSet = serde_json::from_str(jwks).map_err(|error| wrong(&error.to_string()))?;
    let key = keys.keys.iter().find(|key| key.kid == key_id).and_then(Jwk::public_key);
    let key = key.ok_or_else(|| wrong("its key is not among those of the zone"))?;
    let arguments = envoy::arguments(&key, jws.signing_input(), &signature);
    let arguments = arguments.ok_or_else(|| wrong("its signature has no DER form"))?;
    let name = envoy::FUNCTION;
    let data = format!(
        "(data (i32.const {NAME}) \"{}\") (data (i32.const {ARGUMENTS}) \"{}\")",
        escaped(name.as_bytes()),
        escaped(&arguments)
    );
    // Status 0, two bytes, and these are `result = true`.
    let (name_size, arguments_size, size) = (name.len(), arguments.len(), RESULT + 4);
    let call = format!(
        "(if (call $foreign (i32.const {NAME}) (i32.const {name_size}) (i32.const {ARGUMENTS})
               (i32.const {arguments_size}) (i32.const {RESULT}) (i32.const {size})) (then unreachable))
         (if (i32.ne (i32.load (i32.const {size})) (i32.const 2)) (then unreachable))
         (if (i32.ne (i32.load16_u (i32.load (i32.const {RESULT}))) (i32.const 0x0108)) (then unreachable))"
    );
    module(&data, &call)
}

fn module(data: &str, on_request: &str) -> Result<Vec<u8>, Error> {
    let text = format!(
        "(module
           (import \"env\" \"proxy_call_foreign_function\"
             (func $foreign (param i32 i32 i32 i32 i32 i32) (result i32)))
           (memory (export \"memory\") 1)
           {data}
           (func (export \"proxy_abi_version_0_2_1\"))
           (func (export \"proxy_on_memory_allocate\") (param i32) (result i32) (i32.const {RETURNED}))
           (func (export \"proxy_on_vm_start\") (param i32 i32) (result i32) (i32.const 1))
           (func (export \"proxy_on_configure\") (param i32 i32) (result i32) (i32.const 1))
           (func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32)
             {on_request}
             (i32.const 0)))"
    );
    wat::parse_str(&text).map_err(|error| Error::answer("a module of the benchmark", error.to_string()))
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_mandate::es256::known_answer::{KEY, TOKEN};

    #[test]
    fn a_module_holds_what_is_verified() {
        assert!(empty().unwrap().starts_with(b"\0asm"));
        let jws = CompactJws::split(TOKEN.trim_ascii().as_bytes()).unwrap();
        let jwk = Jwk::new(jws.key_id().unwrap(), &KEY);
        let jwks = serde_json::to_string(&JwkSet { keys: vec![jwk] }).unwrap();
        let module = verifying(TOKEN.trim_ascii(), &jwks).unwrap();
        let arguments = envoy::arguments(&KEY, jws.signing_input(), &jws.signature().unwrap()).unwrap();
        for part in [envoy::FUNCTION.as_bytes(), &arguments] {
            assert!(module.windows(part.len()).any(|bytes| bytes == part));
        }
        assert!(verifying(TOKEN.trim_ascii(), r#"{"keys":[]}"#).is_err());
        assert!(verifying("a.b.c", &jwks).is_err());
    }
}
