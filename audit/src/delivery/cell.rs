//! The values of rows, as they stand in the body of a delivery.

use caracal_mandate::json::Strict;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// One JSON value, in which no object names a member twice. What stands there as it is, is borrowed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell<'a> {
    /// `null`.
    Null,
    /// An integer from 0 on.
    Number(u64),
    /// A text.
    Text(Cow<'a, str>),
    /// Anything else.
    Other(Value),
}

impl From<Value> for Cell<'static> {
    fn from(value: Value) -> Self {
        match (value.as_u64(), value) {
            (Some(number), _) => Self::Number(number),
            (None, Value::Null) => Self::Null,
            (None, Value::String(text)) => Self::Text(Cow::Owned(text)),
            (None, other) => Self::Other(other),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Cell<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Cell<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Cell<'de>, E> {
        Ok(Cell::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Cell<'de>, E> {
        Ok(Cell::Other(Value::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Cell<'de>, E> {
        Ok(Cell::Number(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Cell<'de>, E> {
        Ok(Cell::from(Value::from(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Cell<'de>, E> {
        Ok(Cell::Other(Value::from(value)))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Cell<'de>, E> {
        Ok(Cell::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Cell<'de>, E> {
        Ok(Cell::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Cell<'de>, A::Error> {
        Strict::deserialize(SeqAccessDeserializer::new(items)).map(|list| Cell::Other(list.0))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Cell<'de>, A::Error> {
        Strict::deserialize(MapAccessDeserializer::new(members)).map(|object| Cell::Other(object.0))
    }
}

/// Rows of cells, all in one list.
#[derive(Debug, Default)]
pub(super) struct Rows<'a> {
    cells: Vec<Cell<'a>>,
    /// Where each row ends.
    ends: Vec<usize>,
}

impl<'a> Rows<'a> {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[Cell<'a>]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.cells.get(start..*end).unwrap_or_default())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Rows<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut rows = Rows::default();
        deserializer.deserialize_seq(All(&mut rows))?;
        Ok(rows)
    }
}

/// Reads all rows.
struct All<'r, 'a>(&'r mut Rows<'a>);

impl<'de: 'a, 'a> Visitor<'de> for All<'_, 'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        while rows.next_element_seed(Row(&mut self.0.cells))?.is_some() {
            self.0.ends.push(self.0.cells.len());
        }
        Ok(())
    }
}

/// Reads one row.
struct Row<'r, 'a>(&'r mut Vec<Cell<'a>>);

impl<'de: 'a, 'a> DeserializeSeed<'de> for Row<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de: 'a, 'a> Visitor<'de> for Row<'_, 'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a row")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut cells: A) -> Result<(), A::Error> {
        while let Some(cell) = cells.next_element()? {
            self.0.push(cell);
        }
        Ok(())
    }
}
