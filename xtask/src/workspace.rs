//! Where the source tree lies, and what its lock file says.

use std::path::{Path, PathBuf};

/// The source tree.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

/// Why the source tree could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkspaceError {
    #[error("could not read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("Cargo.lock names no version of `{package}`: run `cargo generate-lockfile`")]
    NotLocked { package: String },
    #[error("the folder of xtask has no parent, so the source tree was not found")]
    NoRoot,
}

impl Workspace {
    /// Finds the tree that this program was built from.
    pub(crate) fn locate() -> Result<Self, WorkspaceError> {
        let own_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = own_folder.parent().ok_or(WorkspaceError::NoRoot)?;
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the tree.
    pub(crate) fn join(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Where cargo puts what it builds: `CARGO_TARGET_DIR`, or `target` in the tree.
    pub(crate) fn target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => self.root.join(folder),
            None => self.root.join("target"),
        }
    }

    pub(crate) fn read(&self, relative: &str) -> Result<String, WorkspaceError> {
        let path = self.join(relative);
        std::fs::read_to_string(&path).map_err(|source| WorkspaceError::Read { path, source })
    }

    /// The version of `package` in Cargo.lock.
    pub(crate) fn locked_version(&self, package: &str) -> Result<String, WorkspaceError> {
        locked_version(&self.read("Cargo.lock")?, package)
            .ok_or_else(|| WorkspaceError::NotLocked { package: package.to_owned() })
    }
}

fn locked_version(lock_file: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock_file.lines().skip_while(|line| *line != name);
    lines.next()?;
    let version = lines.next()?.strip_prefix("version = \"")?.strip_suffix('"')?;
    Some(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locked_version_is_that_of_the_whole_name() {
        let lock_file = "[[package]]\nname = \"wasm-bindgen-futures\"\nversion = \"0.4.80\"\n\n\
                         [[package]]\nname = \"wasm-bindgen\"\nversion = \"0.2.130\"\n";
        assert_eq!(locked_version(lock_file, "wasm-bindgen").as_deref(), Some("0.2.130"));
        assert_eq!(locked_version(lock_file, "wasm"), None);
        assert_eq!(locked_version("name = \"wasm\"\n", "wasm"), None);
    }
}
