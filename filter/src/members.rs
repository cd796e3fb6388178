//! Writing JSON of which little needs escapes, without building anything in between: every request's event is written.

use serde_json::Value;

/// Writes the members of a JSON object; what is absent is left out. Every request's event is written, so nothing is built
/// in between.
pub(crate) struct Members<'a> {
    pub(crate) json: &'a mut String,
    first: bool,
}

impl<'a> Members<'a> {
    pub(crate) fn begin(json: &'a mut String) -> Self {
        json.push('{');
        Self { json, first: true }
    }

    pub(crate) fn object(&mut self, name: &str) -> Members<'_> {
        self.name(name);
        Members::begin(self.json)
    }

    pub(crate) fn name(&mut self, name: &str) {
        self.json.push_str(if self.first { "\"" } else { ",\"" });
        self.first = false;
        self.json.push_str(name);
        self.json.push_str("\":");
    }

    pub(crate) fn text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.name(name);
            push_text(self.json, text);
        }
    }

    /// Text of our own, which needs no escapes.
    pub(crate) fn word(&mut self, name: &str, word: Option<&'static str>) {
        if let Some(word) = word {
            self.name(name);
            self.json.push('"');
            self.json.push_str(word);
            self.json.push('"');
        }
    }

    pub(crate) fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        push_decimal(self.json, number);
    }

    /// A list of what is JSON already.
    pub(crate) fn list<'b>(&mut self, name: &str, items: impl Iterator<Item = &'b str>) {
        self.name(name);
        let mut next = "[";
        for item in items {
            self.json.push_str(next);
            self.json.push_str(item);
            next = ",";
        }
        self.json.push_str(if next == "[" { "[]" } else { "]" });
    }

    /// A member whose value is JSON already.
    pub(crate) fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.json.push_str(json);
    }

    pub(crate) fn end(self) {
        self.json.push('}');
    }
}

/// Text as JSON. Nearly all of it needs no escapes.
pub(crate) fn push_text(json: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&Value::from(text).to_string());
    }
}

pub(crate) fn push_decimal(json: &mut String, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        count += 1;
        if number == 0 {
            break;
        }
    }
    let digits = digits.get(digits.len() - count..).unwrap_or_default();
    json.push_str(std::str::from_utf8(digits).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_they_are_formatted() {
        for number in [0, 1, 9, 10, 99, 100, 1_700_000_000_000, u64::MAX - 1, u64::MAX] {
            let mut json = String::new();
            push_decimal(&mut json, number);
            assert_eq!(json, number.to_string());
        }
    }
}
