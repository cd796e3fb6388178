//! Configuration from the environment. Every secret may also stand in a file that `NAME_FILE` names.

use std::path::PathBuf;

/// Why a setting cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Both `NAME` and `NAME_FILE` are set.
    #[error("{name} and {name}_FILE are both set: set one of them")]
    Both {
        /// The setting.
        name: String,
    },
    /// The file is empty.
    #[error("{name}_FILE: {} is empty", path.display())]
    EmptyFile {
        /// The setting.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// The value is not one that the setting takes.
    #[error("{name} {why}")]
    Invalid {
        /// The setting.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The setting is required.
    #[error("{name} is not set")]
    Missing {
        /// The setting.
        name: String,
    },
    /// The file cannot be read.
    #[error("{name}_FILE: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The setting.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl ConfigError {
    /// A value that the setting does not take.
    pub fn invalid(name: &str, why: impl std::fmt::Display) -> Self {
        Self::Invalid { name: name.to_owned(), why: why.to_string() }
    }
}

/// The value of `NAME`, or of the file that `NAME_FILE` names (trailing white space trimmed).
pub fn optional(name: &str) -> Result<Option<String>, ConfigError> {
    let direct = std::env::var(name).ok().filter(|value| !value.is_empty());
    let file = std::env::var_os(format!("{name}_FILE")).filter(|value| !value.is_empty()).map(PathBuf::from);
    match (direct, file) {
        (Some(_), Some(_)) => Err(ConfigError::Both { name: name.to_owned() }),
        (Some(value), None) => Ok(Some(value)),
        (None, None) => Ok(None),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Unreadable {
                name: name.to_owned(),
                path: path.clone(),
                source,
            })?;
            let text = text.trim_end();
            if text.is_empty() {
                return Err(ConfigError::EmptyFile { name: name.to_owned(), path });
            }
            Ok(Some(text.to_owned()))
        }
    }
}

/// Like [`optional`], where the setting has to be there.
pub fn required(name: &str) -> Result<String, ConfigError> {
    optional(name)?.ok_or_else(|| ConfigError::Missing { name: name.to_owned() })
}
