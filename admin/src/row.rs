//! Rows of the database as JSON values.

use caracal_store::{StoreError, clock};
use serde_json::Value;
use sqlx::Row as _;
use sqlx::any::AnyRow;

/// A row that is read by column names.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a>(pub(crate) &'a AnyRow);

impl Row<'_> {
    pub(crate) fn text(&self, column: &str) -> Result<String, StoreError> {
        Ok(self.0.try_get(column)?)
    }

    pub(crate) fn opt_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        Ok(self.0.try_get(column)?)
    }

    pub(crate) fn int(&self, column: &str) -> Result<i64, StoreError> {
        Ok(self.0.try_get(column)?)
    }

    pub(crate) fn opt_int(&self, column: &str) -> Result<Option<i64>, StoreError> {
        Ok(self.0.try_get(column)?)
    }

    pub(crate) fn flag(&self, column: &str) -> Result<bool, StoreError> {
        Ok(self.int(column)? != 0)
    }

    /// Milliseconds as ISO 8601.
    pub(crate) fn iso(&self, column: &str) -> Result<String, StoreError> {
        self.int(column).map(clock::iso)
    }

    pub(crate) fn opt_iso(&self, column: &str) -> Result<Option<String>, StoreError> {
        Ok(self.opt_int(column)?.map(clock::iso))
    }

    /// JSON text; null where the column is null.
    pub(crate) fn json(&self, column: &str) -> Result<Value, StoreError> {
        let Some(text) = self.opt_text(column)? else { return Ok(Value::Null) };
        serde_json::from_str(&text).map_err(|error| StoreError::corrupt(format!("{column}: {error}")))
    }

    /// Adds the columns that tell who made the row and who changed it last (contract admin-audit §3.3).
    pub(crate) fn with_authors(&self, mut object: Value) -> Result<Value, StoreError> {
        if let Some(members) = object.as_object_mut() {
            members.insert("created_by".to_owned(), self.opt_text("created_by")?.into());
            members.insert("created_via_operator".to_owned(), self.flag("created_via_operator")?.into());
            members.insert("updated_by".to_owned(), self.opt_text("updated_by")?.into());
            members.insert("updated_via_operator".to_owned(), self.flag("updated_via_operator")?.into());
            members.insert("created_at".to_owned(), self.iso("created_at")?.into());
            members.insert("updated_at".to_owned(), self.iso("updated_at")?.into());
        }
        Ok(object)
    }
}
