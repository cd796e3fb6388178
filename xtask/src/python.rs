//! Python: an interpreter new enough for the official clients, and an environment that holds them.
//!
//! An interpreter counts only after it has run and told its version: version managers put programs on `PATH` that
//! only say that the version is not installed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::error::Error;
use crate::process::{StepLog, apt_install, can_use_apt, capture};
use crate::progress::Done;
use crate::version::Version;
use crate::workspace::Workspace;

/// The oldest Python that the official clients run on.
const OLDEST: Version = Version::new(3, 12, 0);
/// Names to look for on `PATH`, newest first.
const NAMES: [&str; 4] = ["python3.14", "python3.13", "python3.12", "python3"];
/// What the clients and their dependencies are pinned in.
const REQUIREMENTS: &str = "tests/python/requirements.txt";
/// Prints the version as three numbers.
const PRINT_VERSION: &str = "import sys; print('%d.%d.%d' % sys.version_info[:3])";

/// Why there is no Python environment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PythonError {
    #[error("CARACAL_PYTHON is `{path}`, which {fault}; it must be a Python of version {OLDEST} or newer")]
    Chosen { path: PathBuf, fault: String },
    #[error(
        "no Python of version {OLDEST} or newer on PATH, under pyenv, in Debian's packages or through uv: \
         install one (for example `pyenv install 3.13` or `uv python install 3.13`) or set CARACAL_PYTHON"
    )]
    Missing,
    #[error("the Python environment {folder} does not run any more: remove the folder and run this again")]
    Unusable { folder: PathBuf },
}

/// An interpreter that ran.
#[derive(Debug)]
struct Interpreter {
    path: PathBuf,
    version: Version,
}

/// Returns the interpreter of an environment in the cache that holds the pinned official clients.
pub(crate) fn prepare(
    workspace: &Workspace,
    cache: &Cache,
    log: &mut StepLog,
) -> Result<Done<PathBuf>, Error> {
    let requirements = workspace.read(REQUIREMENTS)?;
    let interpreter = find(log)?;
    // An environment belongs to one interpreter and one set of packages: another one is another entry.
    let identity = format!("{}\n{}\n{requirements}", interpreter.path.display(), interpreter.version);
    let digest = hmac_sha256::Hash::hash(identity.as_bytes());
    let key: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let (folder, was_there) = cache.entry(&format!("python-{key}"), |folder| {
        log.run(Command::new(&interpreter.path).args(["-m", "venv"]).arg(folder))?;
        // The environment is moved once it is whole, so nothing may use the scripts beside its interpreter.
        let python = folder.join("bin/python");
        log.run(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
                .args(["--no-deps", "--requirement"])
                .arg(workspace.join(REQUIREMENTS)),
        )?;
        // The file must name everything that its packages need.
        Ok(log.run(Command::new(&python).args(["-m", "pip", "check", "--disable-pip-version-check"]))?)
    })?;
    let python = folder.join("bin/python");
    if version_of(&python) != Some(interpreter.version) {
        return Err(PythonError::Unusable { folder }.into());
    }
    let source = if was_there { "from the cache" } else { "installed into the cache" };
    Ok(Done::new(python, format!("Python {}, {source}", interpreter.version)))
}

/// Any Python 3 that has pip, whatever its version.
pub(crate) fn with_pip() -> Option<PathBuf> {
    let has_pip = |path: &PathBuf| capture(Command::new(path).args(["-m", "pip", "--version"])).is_some();
    std::env::var_os("CARACAL_PYTHON")
        .map(PathBuf::from)
        .into_iter()
        .chain(["python3", "python"].map(PathBuf::from))
        .chain(NAMES.map(PathBuf::from))
        .chain(pyenv_interpreters())
        .find(has_pip)
}

fn find(log: &mut StepLog) -> Result<Interpreter, Error> {
    if let Some(path) = std::env::var_os("CARACAL_PYTHON").filter(|path| !path.is_empty()).map(PathBuf::from)
    {
        return match version_of(&path) {
            Some(version) if version >= OLDEST => Ok(Interpreter { path, version }),
            Some(version) => {
                Err(PythonError::Chosen { path, fault: format!("is too old ({version})") }.into())
            }
            None => Err(PythonError::Chosen { path, fault: "does not run".to_owned() }.into()),
        };
    }
    let on_path = NAMES.map(PathBuf::from);
    if let Some(interpreter) = first_new_enough(on_path.into_iter().chain(pyenv_interpreters())) {
        return Ok(interpreter);
    }
    if let Some(interpreter) = install_with_apt(log) {
        return Ok(interpreter);
    }
    Ok(install_with_uv(log).ok_or(PythonError::Missing)?)
}

fn first_new_enough(candidates: impl Iterator<Item = PathBuf>) -> Option<Interpreter> {
    candidates
        .filter_map(|path| Some(Interpreter { version: version_of(&path)?, path }))
        .find(|interpreter| interpreter.version >= OLDEST && can_make_environments(&interpreter.path))
}

fn version_of(python: &Path) -> Option<Version> {
    Version::find(&capture(Command::new(python).args(["-c", PRINT_VERSION]))?)
}

/// Debian ships Python without the part that environments need.
fn can_make_environments(python: &Path) -> bool {
    capture(Command::new(python).args(["-c", "import ensurepip, venv"])).is_some()
}

/// The interpreters that pyenv installed, newest first.
fn pyenv_interpreters() -> Vec<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    root.map(|root| installed_under(&root.join("versions"))).unwrap_or_default()
}

fn installed_under(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let versions: BTreeSet<(Version, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = Version::find(entry.file_name().to_str()?)?;
            Some((version, entry.path().join("bin/python3")))
        })
        .collect();
    versions.into_iter().rev().map(|(_, path)| path).collect()
}

fn install_with_apt(log: &mut StepLog) -> Option<Interpreter> {
    if !can_use_apt() {
        return None;
    }
    ["python3.14", "python3.13", "python3.12"].into_iter().find_map(|name| {
        let shown = capture(Command::new("apt-cache").args(["policy", name]))?;
        if !has_candidate(&shown) {
            return None;
        }
        apt_install(log, &[name, &format!("{name}-venv")]).ok()?;
        first_new_enough(std::iter::once(Path::new("/usr/bin").join(name)))
    })
}

/// Whether `apt-cache policy` shows a version that could be installed.
fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .any(|line| line.trim().strip_prefix("Candidate:").is_some_and(|rest| rest.trim() != "(none)"))
}

fn install_with_uv(log: &mut StepLog) -> Option<Interpreter> {
    let find = || {
        let path = capture(Command::new("uv").args(["python", "find", ">=3.12"]))?;
        first_new_enough(std::iter::once(PathBuf::from(path.trim())))
    };
    find().or_else(|| {
        log.run(Command::new("uv").args(["python", "install", "3.13"])).ok()?;
        find()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_offers_a_package_only_with_a_candidate() {
        let cases = [
            ("python3.12:\n  Installed: (none)\n  Candidate: 3.12.3-1\n", true),
            ("python3.12:\n  Installed: (none)\n  Candidate: (none)\n", false),
            ("", false),
        ];
        for (policy, expected) in cases {
            assert_eq!(has_candidate(policy), expected, "{policy:?}");
        }
    }

    #[test]
    fn pyenv_interpreters_come_newest_first() {
        let folder = std::env::temp_dir().join(format!("caracal-xtask-pyenv-{}", std::process::id()));
        for name in ["3.9.18", "3.12.1", "3.13.0", "system"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        let expected = ["3.13.0", "3.12.1", "3.9.18"].map(|name| folder.join(name).join("bin/python3"));
        assert_eq!(installed_under(&folder), expected);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(installed_under(&folder).is_empty());
    }

    #[test]
    fn a_shim_that_fails_is_no_interpreter() {
        assert_eq!(version_of(Path::new("/bin/false")), None);
        assert_eq!(version_of(Path::new("/no/such/python")), None);
    }
}
