//! Properties of a stream as Envoy hands them to a module: bytes without types, compared with a value that has them.

use serde_json::Value;

/// Whether a property has this value, as Envoy writes properties: texts as they are, numbers as eight bytes, lists and
/// objects as pairs.
#[must_use]
pub fn same(value: &Value, told: &[u8]) -> bool {
    match value {
        // No mandate has one, and Envoy has no way to write it.
        Value::Null => false,
        Value::Bool(flag) => told == [u8::from(*flag)],
        Value::Number(number) => number.as_f64().is_some_and(|number| told == number.to_le_bytes()),
        Value::String(text) => told == text.as_bytes(),
        Value::Array(items) => pairs(told).is_some_and(|told| {
            told.len() == items.len() && items.iter().zip(told).all(|(item, (told, _))| same(item, told))
        }),
        Value::Object(members) => pairs(told).is_some_and(|told| {
            told.len() == members.len()
                && members.iter().all(|(name, value)| {
                    let mut named = told.iter().filter(|(other, _)| *other == name.as_bytes());
                    named.next().is_some_and(|(_, told)| same(value, told)) && named.next().is_none()
                })
        }),
    }
}

/// Reads pairs: their number, the two lengths of each, and then the bytes, each followed by a zero.
fn pairs(mut bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let count = number(&mut bytes)?;
    // Eight bytes of lengths for each: more pairs than bytes are none.
    if count > bytes.len() / 8 {
        return None;
    }
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        lengths.push((number(&mut bytes)?, number(&mut bytes)?));
    }
    let mut pairs = Vec::with_capacity(count);
    for (name, value) in lengths {
        pairs.push((text(&mut bytes, name)?, text(&mut bytes, value)?));
    }
    bytes.is_empty().then_some(pairs)
}

fn number(bytes: &mut &[u8]) -> Option<usize> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    usize::try_from(u32::from_le_bytes(*number)).ok()
}

fn text<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (text, rest) = bytes.split_at_checked(length)?;
    let (zero, rest) = rest.split_first()?;
    *bytes = rest;
    (*zero == 0).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As Envoy writes it.
    fn written(value: &Value) -> Vec<u8> {
        let pairs = |pairs: Vec<(Vec<u8>, Vec<u8>)>| {
            let length = |bytes: &Vec<u8>| u32::try_from(bytes.len()).unwrap().to_le_bytes();
            let mut all = u32::try_from(pairs.len()).unwrap().to_le_bytes().to_vec();
            for (name, value) in &pairs {
                all.extend([length(name), length(value)].concat());
            }
            for (name, value) in &pairs {
                all.extend([name, &b"\0"[..], value, b"\0"].concat());
            }
            all
        };
        match value {
            Value::Null => Vec::new(),
            Value::Bool(flag) => vec![u8::from(*flag)],
            Value::Number(number) => number.as_f64().unwrap().to_le_bytes().to_vec(),
            Value::String(text) => text.as_bytes().to_vec(),
            Value::Array(items) => pairs(items.iter().map(|item| (written(item), Vec::new())).collect()),
            // In whatever order.
            Value::Object(members) => pairs(
                members
                    .iter()
                    .rev()
                    .map(|(name, value)| (name.as_bytes().to_vec(), written(value)))
                    .collect(),
            ),
        }
    }

    #[test]
    fn a_payload_is_the_same_only_as_a_whole() {
        let payload = json!({
            "iss": "http://sts", "exp": 1_700_000_300, "aud": ["a", "b"], "multi_use": true, "hops": [],
            "delegation_chain": [{"application_id": "x"}, {"application_id": "y", "agent_session_id": "T"}],
        });
        assert!(same(&payload, &written(&payload)));
        for (pointer, other) in [
            ("/iss", json!("http://other")),
            ("/exp", json!(1_700_000_301)),
            ("/exp", json!("1700000300")),
            ("/aud", json!(["a"])),
            ("/aud", json!(["b", "a"])),
            ("/aud", json!(["a", "b", "c"])),
            ("/aud", json!("a")),
            ("/multi_use", json!(false)),
            ("/hops", json!({"a": 1})),
            ("/delegation_chain/0/application_id", json!("z")),
            ("/delegation_chain/0", json!({"application_id": "x", "more": 1})),
            ("/delegation_chain/1", json!({"application_id": "y"})),
            ("/iss", json!(null)),
        ] {
            let mut changed = payload.clone();
            *changed.pointer_mut(pointer).unwrap() = other;
            assert!(!same(&changed, &written(&payload)), "{changed}");
            assert!(!same(&payload, &written(&changed)), "{changed}");
        }
        let mut more = payload.clone();
        more["scope"] = json!("orders:write");
        assert!(!same(&more, &written(&payload)) && !same(&payload, &written(&more)));
    }

    #[test]
    fn what_is_no_property_is_never_the_same() {
        let payload = json!({"a": "b", "c": ["d"]});
        let whole = written(&payload);
        for end in 0..whole.len() {
            assert!(!same(&payload, &whole[..end]), "{end}");
        }
        assert!(!same(&payload, &[&whole[..], b"\0"].concat()));
        for bytes in [&[0xff; 4][..], &[0xff; 64], &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]] {
            assert!(!same(&payload, bytes));
            assert!(pairs(bytes).is_none());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = same(&json!({"a": ["b", 1]}), &bytes);
        }
    }
}
