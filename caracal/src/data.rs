//! The data folder: the database, secrets that are made once, and a lock against a second process.

use crate::error::Error;
use caracal_store::ids;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The longest path of a socket, in bytes; the kernel's own limit is 107.
const MAX_SOCKET_PATH: usize = 100;

/// A data folder that this process alone uses.
#[derive(Debug)]
pub(crate) struct DataFolder {
    root: PathBuf,
    /// Held for as long as the process lives.
    _lock: File,
}

/// The secrets of an installation, each in a file of its own that only its owner can read.
#[derive(Clone)]
pub(crate) struct Secrets {
    /// The bootstrap token of the Admin API.
    pub(crate) admin_token: String,
    /// The operator's token at the Coordinator.
    pub(crate) coordinator_token: String,
    /// The operator's token at the STS.
    pub(crate) sts_admin_token: String,
    /// Seals all other secrets, 64 hex digits.
    pub(crate) secret_store_key: String,
    /// The key before it, for as long as something may be sealed under it.
    pub(crate) secret_store_key_previous: Option<String>,
    /// Keys the hashes of client secrets and tokens, hex.
    pub(crate) hash_key: String,
    /// Keys the ledger's chain, hex.
    pub(crate) audit_hmac_key: String,
    /// What the gateway signs with, hex.
    pub(crate) gateway_sts_hmac_key: String,
}

impl DataFolder {
    /// Opens the folder, makes it where it is missing, and takes its lock.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        private_folder(root)?;
        let path = root.join("lock");
        let lock = private_file().create(true).truncate(false).open(&path).map_err(Error::file(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::DataInUse { folder: root.to_owned() }),
            Err(fs::TryLockError::Error(source)) => Err(Error::File { path, source }),
        }
    }

    /// A file in the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A socket in the folder. The kernel takes short paths only.
    pub(crate) fn socket(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.root.join(name);
        let length = path.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            let why = format!(
                "has {length} bytes, and a socket's path may have {MAX_SOCKET_PATH}; use a shorter --data"
            );
            return Err(Error::Socket { path, why });
        }
        Ok(path)
    }

    /// The secrets: read where they are, made where not.
    pub(crate) fn secrets(&self) -> Result<Secrets, Error> {
        let folder = self.root.join("secrets");
        private_folder(&folder)?;
        let hex = || Ok(caracal_mandate::gateway_signature::to_hex(&ids::random_bytes::<32>()?));
        let secret = |name: &str| read_or_make(&folder.join(name), hex);
        Ok(Secrets {
            admin_token: read_or_make(&folder.join("adminToken"), || ids::new_secret("cat_"))?,
            coordinator_token: secret("coordinatorToken")?,
            sts_admin_token: secret("stsAdminToken")?,
            secret_store_key: secret("secretStoreKek")?,
            secret_store_key_previous: read_if_there(&folder.join("secretStoreKekPrevious"))?,
            hash_key: secret("hashKey")?,
            audit_hmac_key: secret("auditHmacKey")?,
            gateway_sts_hmac_key: secret("gatewayStsHmacKey")?,
        })
    }
}

/// Where the admin token stands, for those who want to copy a command.
pub(crate) fn admin_token_file(root: &Path) -> PathBuf {
    root.join("secrets").join("adminToken")
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    let mut file =
        private_file().create(true).truncate(true).open(&partial).map_err(Error::file(&partial))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::file(&partial))?;
    fs::rename(&partial, path).map_err(Error::file(path))
}

fn read_or_make(
    path: &Path,
    make: impl FnOnce() -> Result<String, caracal_store::StoreError>,
) -> Result<String, Error> {
    if !path.exists() {
        write_private(path, &format!("{}\n", make()?))?;
    }
    read_secret(path)
}

fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    if path.exists() { read_secret(path).map(Some) } else { Ok(None) }
}

/// Reads a secret from a file that only its owner can read.
pub(crate) fn read_secret(path: &Path) -> Result<String, Error> {
    refuse_if_open_to_others(path, "600")?;
    let text = fs::read_to_string(path).map_err(Error::file(path))?;
    let text = text.trim_end();
    if text.is_empty() {
        return Err(Error::Secret { path: path.to_owned(), why: "is empty".into() });
    }
    Ok(text.to_owned())
}

/// Makes a folder that is its owner's alone, or says that one that is there is not.
pub(crate) fn private_folder(path: &Path) -> Result<(), Error> {
    if !path.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::file(path))?;
    }
    if !path.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        return Err(Error::File { path: path.to_owned(), source });
    }
    refuse_if_open_to_others(path, "700")
}

fn refuse_if_open_to_others(path: &Path, mode: &'static str) -> Result<(), Error> {
    let metadata = fs::metadata(path).map_err(Error::file(path))?;
    if metadata.permissions().mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(Error::Permissions { path: path.to_owned(), mode })
    }
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_once_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let folder = DataFolder::open(&root).unwrap();
        let first = folder.secrets().unwrap();
        assert_eq!(first.admin_token, folder.secrets().unwrap().admin_token);
        let path = admin_token_file(&root);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&root), mode(&path)), (0o700, 0o600));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(folder.secrets(), Err(Error::Permissions { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(folder.secrets().unwrap().secret_store_key_previous, None);
        write_private(&root.join("secrets").join("secretStoreKekPrevious"), "before\n").unwrap();
        assert_eq!(folder.secrets().unwrap().secret_store_key_previous.as_deref(), Some("before"));
        fs::write(&path, "\n").unwrap();
        assert!(matches!(folder.secrets(), Err(Error::Secret { .. })));
    }

    #[test]
    fn a_folder_is_used_by_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let first = DataFolder::open(&root).unwrap();
        assert!(matches!(DataFolder::open(&root), Err(Error::DataInUse { .. })));
        drop(first);
        assert!(DataFolder::open(&root).is_ok());
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataFolder::open(&file), Err(Error::File { .. })));
    }
}
