//! The cache folder: what was fetched or built once, kept outside the tree.
//!
//! An entry is made in a temporary folder beside its place and renamed into it when it is complete, under a lock of
//! its own. So an entry that exists is whole, a run that was stopped leaves nothing half done in its place, and of two
//! runs at a time one works and the other waits.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The cache folder.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

/// Why the cache folder could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error("no cache folder: set CARACAL_CACHE (neither it, XDG_CACHE_HOME nor HOME is set)")]
    NoFolder,
    #[error("the cache folder {path} could not be written: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}

impl CacheError {
    /// Makes the error of a write to `path`.
    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }
}

impl Cache {
    /// `CARACAL_CACHE`, or `caracal` under `XDG_CACHE_HOME`, or `~/.cache/caracal`.
    pub(crate) fn open() -> Result<Self, CacheError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = variable("CARACAL_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("caracal")))
            .or_else(|| variable("HOME").map(|folder| folder.join(".cache").join("caracal")))
            .ok_or(CacheError::NoFolder)?;
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        Ok(Self { folder })
    }

    /// Waits until no other run holds the lock `name`. It is free again when the returned file is dropped, or when
    /// this process ends.
    pub(crate) fn lock(&self, name: &str) -> Result<File, CacheError> {
        std::fs::create_dir_all(&self.folder).map_err(CacheError::write(&self.folder))?;
        let path = self.folder.join(format!(".{name}.lock"));
        let file = File::create(&path).map_err(CacheError::write(&path))?;
        file.lock().map_err(CacheError::write(&path))?;
        Ok(file)
    }

    /// Returns the folder of entry `name`, which `make` fills if it is not there yet. The flag says whether the entry
    /// was there before.
    pub(crate) fn entry(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(PathBuf, bool), Error> {
        let place = self.folder.join(name);
        if place.is_dir() {
            return Ok((place, true));
        }
        let _lock = self.lock(name)?;
        if place.is_dir() {
            return Ok((place, true));
        }
        let temporary = self.folder.join(format!(".{name}.partial"));
        let failed = CacheError::write;
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary).map_err(failed(&temporary))?;
        }
        std::fs::create_dir_all(&temporary).map_err(failed(&temporary))?;
        make(&temporary)?;
        std::fs::rename(&temporary, &place).map_err(failed(&place))?;
        Ok((place, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Cache {
        let folder = std::env::temp_dir().join(format!("caracal-xtask-cache-{name}-{}", std::process::id()));
        Cache { folder }
    }

    #[test]
    fn an_entry_is_made_once() {
        let cache = scratch("once");
        let fill = |folder: &Path| {
            std::fs::write(folder.join("file"), "whole").unwrap();
            Ok(())
        };
        let (place, was_there) = cache.entry("tool", fill).unwrap();
        assert!(!was_there);
        assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "whole");
        let (_, was_there) = cache.entry("tool", |_| panic!("made twice")).unwrap();
        assert!(was_there);
        std::fs::remove_dir_all(&cache.folder).unwrap();
    }

    #[test]
    fn an_entry_that_failed_is_not_there_and_is_made_anew() {
        let cache = scratch("failed");
        let failed = cache.entry("tool", |folder| {
            std::fs::write(folder.join("half"), "").unwrap();
            Err(CacheError::NoFolder.into())
        });
        assert!(failed.is_err());
        let (place, was_there) = cache.entry("tool", |_| Ok(())).unwrap();
        assert!(!was_there);
        assert!(!place.join("half").exists());
        std::fs::remove_dir_all(&cache.folder).unwrap();
    }

    #[test]
    fn of_many_at_once_one_makes_the_entry() {
        let cache = scratch("race");
        let made = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let count = |_: &Path| {
                        made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        Ok(())
                    };
                    cache.entry("tool", count).unwrap();
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
        std::fs::remove_dir_all(&cache.folder).unwrap();
    }
}
