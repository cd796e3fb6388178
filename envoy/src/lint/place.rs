//! A value in a configuration, and where it stands. Envoy reads `snake_case` and `lowerCamelCase` alike, enums by name
//! and by number, and a typed configuration also inside a `TypedStruct`; so does this.

use serde_json::Value;

/// A value and its path.
#[derive(Clone, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: String,
}

impl<'a> Place<'a> {
    /// The whole document.
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// A member by its `snake_case` name; `null` is no value.
    pub(crate) fn get(&self, name: &str) -> Option<Self> {
        let members = self.value.as_object()?;
        let (key, value) =
            members.get_key_value(name).or_else(|| members.get_key_value(camel(name).as_str()))?;
        if value.is_null() { None } else { Some(Self { value, path: self.below(key) }) }
    }

    /// A member of a member, however deep.
    pub(crate) fn at(&self, names: &[&str]) -> Option<Self> {
        names.iter().try_fold(self.clone(), |place, name| place.get(name))
    }

    /// The items of a list; none where there is no list.
    pub(crate) fn items(&self, name: &str) -> Vec<Self> {
        self.get(name).map(|list| list.children()).unwrap_or_default()
    }

    /// All members or items.
    pub(crate) fn children(&self) -> Vec<Self> {
        match self.value {
            Value::Object(members) => {
                members.iter().map(|(key, value)| Self { value, path: self.below(key) }).collect()
            }
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(index, value)| Self { value, path: format!("{}[{index}]", self.path) })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// This value and all below it, outermost first.
    pub(crate) fn descendants(&self) -> Vec<Self> {
        let mut all = vec![self.clone()];
        let mut next = 0;
        while let Some(place) = all.get(next) {
            let below = place.children();
            all.extend(below);
            next += 1;
        }
        all
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.value.as_str()
    }

    /// Whether a flag is there and set.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|flag| flag.value == &Value::Bool(true) || flag.value == "true")
    }

    /// Whether an enum has one of these values, each a name and a number.
    pub(crate) fn is_one_of(&self, name: &str, values: &[(&str, u64)]) -> bool {
        self.get(name).is_some_and(|place| {
            values.iter().any(|(name, number)| place.value == *name || place.value.as_u64() == Some(*number))
        })
    }

    /// The type of a typed configuration and what it holds.
    pub(crate) fn typed(&self, name: &str) -> Option<(&'a str, Self)> {
        let config = self.get(name)?;
        let kind = type_name(config.text("@type")?);
        if kind.ends_with(".TypedStruct") {
            return Some((type_name(config.text("type_url")?), config.get("value")?));
        }
        Some((kind, config))
    }

    fn below(&self, key: &str) -> String {
        let plain = key.chars().all(|character| character.is_ascii_alphanumeric() || character == '_');
        match (plain, self.path.is_empty()) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{}.{key}", self.path),
            (false, _) => format!("{}[{key:?}]", self.path),
        }
    }
}

fn type_name(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(_, name)| name)
}

fn camel(snake: &str) -> String {
    let mut upper = false;
    let mut name = String::with_capacity(snake.len());
    for character in snake.chars() {
        if character == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            name.push(character.to_ascii_uppercase());
        } else {
            name.push(character);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_spellings_numbers_and_typed_structs_are_read() {
        let value = json!({
            "failurePolicy": 3,
            "a.b": [null, {"use_x": true}],
            "typedConfig": {"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "typeUrl": "t/x.Y", "value": {"k": 1}},
        });
        let root = Place::root(&value);
        assert!(root.is_one_of("failure_policy", &[("FAIL_OPEN", 3)]));
        let item = root.items("a.b").pop().unwrap();
        assert_eq!((item.path.as_str(), item.is_true("use_x")), ("[\"a.b\"][1]", true));
        let (kind, typed) = root.typed("typed_config").unwrap();
        assert_eq!((kind, typed.path.as_str()), ("x.Y", "typedConfig.value"));
        assert_eq!(root.descendants().len(), 11);
    }
}
