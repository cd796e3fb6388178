//! The rows that more than one service reads, typed.

mod application;
mod authority_record;
mod delegation_edge;
mod federated_subject;
mod live_sessions;
mod resource;
mod session;
mod subject_issuer;
mod zone;

pub use application::{Application, RegistrationMethod};
pub(crate) use authority_record::session_type;
pub use authority_record::{AuthorityRecord, NewAuthorityRecord, RecordStatus};
pub use delegation_edge::{Constraints, ConstraintsError, DelegationEdge, EdgeStatus};
pub use federated_subject::FederatedSubject;
pub use live_sessions::LiveSessions;
pub use resource::{Provider, Resource, ResourceUpstream};
pub use session::{AgentSession, Lifecycle, SessionStatus};
pub use subject_issuer::SubjectIssuer;
pub use zone::{Epochs, Zone};

use crate::StoreError;
use sqlx::Row as _;
use sqlx::any::AnyRow;

/// A typed column: text that a newtype or enum parses.
pub(crate) fn parsed<T>(row: &AnyRow, column: &str) -> Result<T, StoreError>
where
    T: TryFrom<String>,
    T::Error: std::fmt::Display,
{
    let text: String = row.try_get(column)?;
    T::try_from(text).map_err(|error| StoreError::corrupt(format!("{column}: {error}")))
}

/// A typed column that may be null.
pub(crate) fn parsed_opt<T>(row: &AnyRow, column: &str) -> Result<Option<T>, StoreError>
where
    T: TryFrom<String>,
    T::Error: std::fmt::Display,
{
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| T::try_from(text).map_err(|error| StoreError::corrupt(format!("{column}: {error}"))))
        .transpose()
}

/// A JSON column.
pub(crate) fn json<T: serde::de::DeserializeOwned>(row: &AnyRow, column: &str) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|error| StoreError::corrupt(format!("{column}: {error}")))
}

/// A column that holds JSON or nothing.
pub(crate) fn json_opt<T: serde::de::DeserializeOwned>(
    row: &AnyRow,
    column: &str,
) -> Result<Option<T>, StoreError> {
    let text: Option<String> = row.try_get(column)?;
    let parse = |text: String| serde_json::from_str(&text);
    text.map(parse).transpose().map_err(|error| StoreError::corrupt(format!("{column}: {error}")))
}

/// A column that holds 0 or 1.
pub(crate) fn flag(row: &AnyRow, column: &str) -> Result<bool, StoreError> {
    let number: i64 = row.try_get(column)?;
    Ok(number != 0)
}

/// Makes an enum with its stored words.
macro_rules! stored_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "&'static str")]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// The word that stands for it in storage and on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl From<$name> for &'static str {
            fn from(value: $name) -> &'static str {
                value.as_str()
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                match text.as_str() {
                    $($word => Ok(Self::$variant),)+
                    other => Err(format!("{other:?} is none of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}
pub(crate) use stored_enum;
