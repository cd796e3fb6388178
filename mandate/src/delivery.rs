//! How gateways deliver their events. What many events of a delivery have in common is said once, in `shared`, and each of
//! them says which of it is its own, by `as`.

use serde_json::{Map, Value};

/// The member by which an event says which of the shared objects it goes on from.
pub const SHARED_BY: &str = "as";

/// An event with all its members: its own, and those of the shared object that it names. Members of `metadata` are put
/// together; else its own count. `None` where it names none of them, or has metadata that is no object.
#[must_use]
pub fn whole(shared: &[Map<String, Value>], mut event: Map<String, Value>) -> Option<Map<String, Value>> {
    let Some(number) = event.remove(SHARED_BY) else { return Some(event) };
    let mut whole = shared.get(usize::try_from(number.as_u64()?).ok()?)?.clone();
    let own = event.remove("metadata");
    whole.extend(event);
    match (own, whole.get_mut("metadata")) {
        (None, _) => {}
        (Some(Value::Object(own)), Some(Value::Object(metadata))) => metadata.extend(own),
        (Some(own), None) => {
            whole.insert("metadata".to_owned(), own);
        }
        (Some(_), Some(_)) => return None,
    }
    Some(whole)
}

/// All events of a delivery, each with all its members; `None` where it is no delivery.
#[must_use]
pub fn events(delivery: &Value) -> Option<Vec<Value>> {
    let objects = |name: &str| -> Option<Vec<Map<String, Value>>> {
        let list = delivery.get(name).map_or(Some(&[][..]), |list| Some(list.as_array()?.as_slice()))?;
        list.iter().map(|item| item.as_object().cloned()).collect()
    };
    let (shared, events) = (objects("shared")?, objects("events")?);
    events.into_iter().map(|event| whole(&shared, event).map(Value::Object)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_shared_is_added_and_its_own_counts() {
        let shared = json!({"zone_id": "z", "reason": "x", "metadata": {"role": "resource", "jti": "j"}});
        let delivery = |events: Value| json!({"shared": [{}, shared], "events": events});
        let told = events(&delivery(json!([
            {"as": 1, "seq": 1, "metadata": {"latency_ms": 3, "jti": "k"}},
            {"as": 1, "seq": 2, "reason": "y"},
            {"as": 0, "seq": 3, "metadata": {"latency_ms": 4}},
            {"seq": 4},
        ])));
        let expected = json!([
            {"zone_id": "z", "reason": "x", "seq": 1, "metadata": {"role": "resource", "jti": "k", "latency_ms": 3}},
            {"zone_id": "z", "reason": "y", "seq": 2, "metadata": {"role": "resource", "jti": "j"}},
            {"seq": 3, "metadata": {"latency_ms": 4}},
            {"seq": 4},
        ]);
        assert_eq!(told.map(Value::Array), Some(expected));
        for bad in [
            json!([{"as": 2}]),
            json!([{"as": -1}]),
            json!([{"as": "1"}]),
            json!([{"as": null}]),
            json!([{"as": 1, "metadata": 1}]),
            json!([1]),
            json!({}),
        ] {
            assert_eq!(events(&delivery(bad.clone())), None, "{bad}");
        }
        assert_eq!(events(&json!({"events": [{"as": 0}]})), None);
        assert_eq!(events(&json!({"shared": {}, "events": []})), None);
    }
}
