//! A JSON object that is read to the last member.

use serde_json::Value;

use crate::config::ConfigError;

/// A field with a value that is not allowed.
pub(crate) fn invalid(field: &str, problem: impl ToString) -> ConfigError {
    ConfigError::Invalid { field: field.to_owned(), problem: problem.to_string() }
}

/// A JSON object whose members are taken out one by one; what is left over is unknown.
pub(crate) struct Fields {
    members: Vec<(String, Value)>,
    path: String,
}

impl Fields {
    pub(crate) fn new(members: impl IntoIterator<Item = (String, Value)>, path: String) -> Self {
        Self { members: members.into_iter().collect(), path }
    }

    pub(crate) fn take(&mut self, field: &str) -> Option<Value> {
        let at = self.members.iter().position(|(name, _)| name == field)?;
        Some(self.members.swap_remove(at).1)
    }

    fn name(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    pub(crate) fn text(&mut self, field: &str) -> Result<Option<String>, ConfigError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(invalid(&self.name(field), "is not a non-empty string")),
        }
    }

    pub(crate) fn required_text(&mut self, field: &str) -> Result<String, ConfigError> {
        self.text(field)?.ok_or_else(|| ConfigError::Missing(self.name(field)))
    }

    pub(crate) fn flag(&mut self, field: &str) -> Result<Option<bool>, ConfigError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(invalid(&self.name(field), "is neither true nor false")),
        }
    }

    pub(crate) fn number(
        &mut self,
        field: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64, ConfigError> {
        let problem = format!("is not a whole number from {} to {}", range.start(), range.end());
        match self.take(field) {
            None => Ok(default),
            Some(Value::Number(number)) => {
                let number = number.as_u64().filter(|number| range.contains(number));
                number.ok_or_else(|| invalid(&self.name(field), problem))
            }
            Some(_) => Err(invalid(&self.name(field), problem)),
        }
    }

    pub(crate) fn size(
        &mut self,
        field: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<usize, ConfigError> {
        let number = self.number(field, default, range)?;
        usize::try_from(number).map_err(|_| invalid(&self.name(field), "is too large"))
    }

    pub(crate) fn required_section(&mut self, field: &str) -> Result<Self, ConfigError> {
        match self.take(field) {
            None => Err(ConfigError::Missing(self.name(field))),
            Some(Value::Object(members)) => Ok(Self::new(members, self.name(field))),
            Some(_) => Err(invalid(&self.name(field), "is not an object")),
        }
    }

    pub(crate) fn finish(&self) -> Result<(), ConfigError> {
        match self.members.first() {
            None => Ok(()),
            Some((field, _)) => Err(ConfigError::Unknown(self.name(field))),
        }
    }
}
