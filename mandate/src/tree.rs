//! The JSON of tokens, read where it stands: names and texts are parts of what was decoded, and nothing is put in order. A
//! mandate is read like this once, and its claims are looked up by name two dozen times.
//!
//! As strict as [`crate::json`]: no object at any depth names a member twice.

use crate::json::Member;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// The most members of an object. Each is compared with those before it, and no mandate has nearly as many.
const MAX_MEMBERS: usize = 128;

/// A JSON value.
#[derive(Debug, PartialEq)]
pub(crate) enum Tree<'a> {
    Null,
    Flag(bool),
    Negative(i64),
    Number(u64),
    /// A number that is no whole one. None is expected anywhere.
    Float,
    Text(Cow<'a, str>),
    List(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
}

impl<'a> Tree<'a> {
    /// Parses a JSON text. A member that stands twice is an error, at any depth.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    pub(crate) fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// A member of an object.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(other, _)| *other == *name).map(|(_, value)| value)
    }

    /// A member that has to be there.
    pub(crate) fn required(&self, name: &'static str) -> Result<&Self, Member> {
        self.get(name).ok_or(Member(name))
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A text that has to be there.
    pub(crate) fn text(&self, name: &'static str) -> Result<&str, Member> {
        self.required(name)?.as_text().ok_or(Member(name))
    }

    /// A whole number that has to be there.
    pub(crate) fn whole(&self, name: &'static str) -> Result<i64, Member> {
        let number = match self.required(name)? {
            Self::Negative(number) => Some(*number),
            Self::Number(number) => i64::try_from(*number).ok(),
            _ => None,
        };
        number.ok_or(Member(name))
    }

    /// A number from 0 on; 0 where it is not there.
    pub(crate) fn count(&self, name: &'static str) -> Result<u64, Member> {
        match self.get(name) {
            None => Ok(0),
            Some(Self::Number(number)) => Ok(*number),
            Some(_) => Err(Member(name)),
        }
    }

    /// A flag; not set where it is not there.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, Member> {
        match self.get(name) {
            None => Ok(false),
            Some(Self::Flag(flag)) => Ok(*flag),
            Some(_) => Err(Member(name)),
        }
    }

    /// The items of a list; none where it is not there.
    pub(crate) fn items(&self, name: &'static str) -> Result<&[Self], Member> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Self::List(items)) => Ok(items),
            Some(_) => Err(Member(name)),
        }
    }
}

impl<'de> Deserialize<'de> for Tree<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Tree<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree<'de>, E> {
        Ok(Tree::Flag(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree<'de>, E> {
        Ok(Tree::Negative(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree<'de>, E> {
        Ok(Tree::Number(value))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree<'de>, E> {
        Ok(Tree::Float)
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Tree<'de>, E> {
        Ok(Tree::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Tree<'de>, A::Error> {
        let mut object: Vec<(Cow<'de, str>, Tree<'de>)> = Vec::new();
        // A name is a text as well: one reader for both.
        while let Some((name, value)) = members.next_entry::<Tree<'de>, Tree<'de>>()? {
            let Tree::Text(name) = name else { return Err(A::Error::custom("a name is a text")) };
            if object.len() >= MAX_MEMBERS {
                return Err(A::Error::custom("too many members"));
            }
            if object.iter().any(|(other, _)| *other == name) {
                return Err(A::Error::custom("a member stands twice"));
            }
            object.push((name, value));
        }
        Ok(Tree::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    /// The same as the other reader reads.
    fn of(value: &Value) -> Tree<'_> {
        match value {
            Value::Null => Tree::Null,
            Value::Bool(flag) => Tree::Flag(*flag),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => Tree::Number(number),
                (None, Some(number)) => Tree::Negative(number),
                (None, None) => Tree::Float,
            },
            Value::String(text) => Tree::Text(Cow::Borrowed(text)),
            Value::Array(items) => Tree::List(items.iter().map(of).collect()),
            Value::Object(members) => Tree::Object(
                members.iter().map(|(name, value)| (Cow::Borrowed(name.as_str()), of(value))).collect(),
            ),
        }
    }

    /// Members in the order of their names, as the other reader has them.
    fn sorted(tree: Tree<'_>) -> Tree<'_> {
        match tree {
            Tree::List(items) => Tree::List(items.into_iter().map(sorted).collect()),
            Tree::Object(members) => {
                let mut members: Vec<_> =
                    members.into_iter().map(|(name, value)| (name, sorted(value))).collect();
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                Tree::Object(members)
            }
            other => other,
        }
    }

    fn same(text: &[u8]) {
        match (Tree::parse(text), crate::json::parse(text)) {
            (Ok(tree), Ok(value)) => assert_eq!(sorted(tree), of(&value)),
            (Err(_), Err(_)) => {}
            (tree, value) => panic!("{}: {tree:?} {value:?}", String::from_utf8_lossy(text)),
        }
    }

    #[test]
    fn both_readers_read_the_same_and_refuse_the_same() {
        for text in [
            "null",
            "true",
            "-7",
            "-0",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
            "1.0",
            "1e3",
            "1e999",
            "\"a\\u00e9\\n\"",
            "\"\\ud83e\\udd80\"",
            "\"\\ud83e\"",
            "\"a\nb\"",
            "\"\u{7f}\"",
            "[1,[2,{}],\"x\"]",
            r#"{"a":{"b":[{"c":null}]},"d":false}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"[{"a":1,"a":2}]"#,
            r#"{"b":1,"a":2,"":3}"#,
            "{1:2}",
            "{null:1}",
            r#"{"a"}"#,
            "",
            "{",
            "nul",
            "[1,]",
            "1 2",
            " [ ] ",
            "\u{feff}1",
            "+1",
            "01",
            "1.",
            ".5",
            "NaN",
        ] {
            same(text.as_bytes());
        }
        same(b"\"\xff\"");
        same(b"{\"\xff\":1}");
        for depth in [100, 126, 127, 128, 129, 1_000] {
            same(["[".repeat(depth), "]".repeat(depth)].concat().as_bytes());
            same(["{\"a\":".repeat(depth), "1".to_owned(), "}".repeat(depth)].concat().as_bytes());
        }
    }

    #[test]
    fn an_object_has_so_many_members_and_no_more() {
        let text = |many: usize| {
            let members: Map<String, Value> =
                (0..many).map(|number| (number.to_string(), 1.into())).collect();
            Value::Object(members).to_string()
        };
        assert!(Tree::parse(text(MAX_MEMBERS).as_bytes()).is_ok());
        assert!(Tree::parse(text(MAX_MEMBERS + 1).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_the_same(
            text in r#"[\[\]{}:,"\\ua-c0-9.eE+\- tnx\n]{0,40}"#,
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            same(text.as_bytes());
            same(&bytes);
        }

        #[test]
        fn a_changed_mandate_is_read_the_same(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
            let mut text = crate::claims::tests::DELEGATED.as_bytes().to_vec();
            let at = at.index(text.len());
            text[at] = byte;
            same(&text);
        }
    }
}
