//! Bodies: read, bounded, and parsed field by field, so that a refusal names every field that is wrong.

use crate::failure::{Code, Failure};
use axum::body::Body;
use caracal_store::http::{BodyError, read_body};
use serde_json::{Map, Value, json};
use std::ops::RangeInclusive;

/// The whole body.
pub(crate) async fn read(body: Body, limit: usize) -> Result<Vec<u8>, Failure> {
    read_body(body, limit).await.map_err(|error| match error {
        BodyError::TooLarge => {
            Failure::because(Code::BodyTooLarge, format!("a body has at most {limit} bytes"))
        }
        _ => Failure::body("the body could not be read", Vec::new()),
    })
}

/// The members of a JSON object on their way to a typed request. Members that nobody asks for are ignored.
#[derive(Debug)]
pub(crate) struct Fields {
    members: Map<String, Value>,
    issues: Vec<Value>,
}

impl Fields {
    /// Parses an object. What is no JSON is refused with its position.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        match serde_json::from_slice::<Value>(bytes) {
            Ok(Value::Object(members)) => Ok(Self { members, issues: Vec::new() }),
            Ok(_) => Err(Failure::body("the body is not a JSON object", Vec::new())),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                let why = format!("the body is not JSON: {error}");
                let issue =
                    json!({ "path": [], "message": error.to_string(), "line": line, "column": column });
                Err(Failure::body(why, vec![issue]))
            }
        }
    }

    /// Takes a member out, as it is.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name)
    }

    /// Notes what is wrong with a member.
    pub(crate) fn issue(&mut self, path: &[&str], message: &str) {
        self.issues.push(json!({ "path": path, "message": message }));
    }

    /// An id that has to be there.
    pub(crate) fn required<T: TryFrom<String>>(&mut self, name: &str) -> Option<T> {
        let value = self.optional(name);
        if value.is_none() && self.issues.is_empty() {
            self.issue(&[name], "is required");
        }
        value
    }

    /// An id that may be missing, but not null.
    pub(crate) fn optional<T: TryFrom<String>>(&mut self, name: &str) -> Option<T> {
        let parsed = match self.take(name)? {
            Value::String(text) => T::try_from(text).ok(),
            _ => None,
        };
        if parsed.is_none() {
            self.issue(&[name], "is not an id");
        }
        parsed
    }

    /// An id that may be missing or null.
    pub(crate) fn nullable<T: TryFrom<String>>(&mut self, name: &str) -> Option<T> {
        if self.members.get(name) == Some(&Value::Null) {
            self.members.remove(name);
        }
        self.optional(name)
    }

    /// A text that may be missing.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            _ => {
                self.issue(&[name], "is not a string");
                None
            }
        }
    }

    /// A yes or no that may be missing.
    pub(crate) fn flag(&mut self, name: &str) -> Option<bool> {
        let flag = self.take(name)?.as_bool();
        if flag.is_none() {
            self.issue(&[name], "is not true or false");
        }
        flag
    }

    /// An integer within bounds that may be missing.
    pub(crate) fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let value = self.take(name)?;
        let number = value.as_i64().filter(|number| range.contains(number));
        if number.is_none() {
            let message = format!("is not an integer from {} to {}", range.start(), range.end());
            self.issue(&[name], &message);
        }
        number
    }

    /// One of several words; `None` where it is missing.
    pub(crate) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let value = self.take(name)?;
        let found =
            value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text)).map(|(_, t)| *t);
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.issue(&[name], &format!("is none of {}", words.join(", ")));
        }
        found
    }

    /// An object; empty where it is missing.
    pub(crate) fn object(&mut self, name: &str) -> Map<String, Value> {
        match self.take(name) {
            None => Map::new(),
            Some(Value::Object(object)) => object,
            Some(_) => {
                self.issue(&[name], "is not an object");
                Map::new()
            }
        }
    }

    /// A list of texts that `parse` takes; empty where it is missing.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        most: usize,
        message: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = self.take(name) else { return Vec::new() };
        let Value::Array(items) = value else {
            self.issue(&[name], "is not a list");
            return Vec::new();
        };
        if items.len() > most {
            self.issue(&[name], &format!("has more than {most} items"));
            return Vec::new();
        }
        let mut parsed = Vec::with_capacity(items.len());
        for (position, item) in items.iter().enumerate() {
            match item.as_str().and_then(&parse) {
                Some(item) => parsed.push(item),
                None => self.issue(&[name, &position.to_string()], message),
            }
        }
        parsed
    }

    /// Has every member been taken?
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Refuses if anything was wrong.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        if self.issues.is_empty() { Ok(()) } else { Err(self.refusal()) }
    }

    /// A member that had to be there.
    pub(crate) fn whole<T>(&self, value: Option<T>) -> Result<T, Failure> {
        value.ok_or_else(|| self.refusal())
    }

    fn refusal(&self) -> Failure {
        let mut why = "the body does not follow its schema".to_owned();
        for issue in &self.issues {
            let path: Vec<&str> = issue
                .get("path")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let message = issue.get("message").and_then(Value::as_str).unwrap_or_default();
            why.push_str(&format!("; {} {message}", path.join(".")));
        }
        Failure::body(why, self.issues.clone())
    }
}
