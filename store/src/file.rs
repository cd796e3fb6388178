//! The file that an embedded database is in: one that was deleted or replaced under a running process takes no more
//! writes, because whatever is written there is lost with the process.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A database's file as it was when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DatabaseFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl DatabaseFile {
    /// The file of a `sqlite://` URL. `None` for a database that is in no file of ours.
    pub(crate) fn of(url: &str) -> io::Result<Option<Self>> {
        let Some(rest) = url.strip_prefix("sqlite://") else { return Ok(None) };
        let path = rest.split_once('?').map_or(rest, |(path, _)| path);
        if path.is_empty() || path.starts_with(":memory:") {
            return Ok(None);
        }
        let (device, inode) = identity(Path::new(path))?;
        Ok(Some(Self { path: PathBuf::from(path), device, inode }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Is it still where it was?
    pub(crate) fn check(&self) -> io::Result<()> {
        if identity(&self.path)? == (self.device, self.inode) {
            Ok(())
        } else {
            Err(io::Error::other("the database's file was replaced"))
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_again_until_it_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let url = format!("sqlite://{}?mode=rwc", path.display());
        assert!(DatabaseFile::of(&url).is_err(), "there is no file yet");
        fs::write(&path, "one").unwrap();
        let file = DatabaseFile::of(&url).unwrap().unwrap();
        assert_eq!(file.path, path);
        file.check().unwrap();
        fs::write(&path, "two").unwrap();
        file.check().unwrap();
        fs::rename(&path, folder.path().join("y.db")).unwrap();
        assert!(file.check().is_err(), "it is gone");
        fs::write(&path, "two").unwrap();
        assert!(file.check().is_err(), "it is another");
        assert_eq!(DatabaseFile::of("sqlite::memory:").unwrap(), None);
        assert_eq!(DatabaseFile::of("postgres://localhost/x").unwrap(), None);
    }
}
