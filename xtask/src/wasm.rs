//! Building for WebAssembly: where the target's standard library comes from, and the cargo that goes with it.
//!
//! In this order: the target of the toolchain in use, if it is installed or rustup can install it; else Debian's own
//! compiler, which builds the standard library from Debian's matching source (for builders that reach a Debian mirror
//! but not rustup's servers); else an error that names both remedies. `CARACAL_WASM_STD` (`rustup` or `debian`)
//! restricts the choice, so that either way can be tried on any machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, CacheError};
use crate::error::Error;
use crate::process::{StepLog, apt_install, can_use_apt, capture, cargo};
use crate::progress::Done;
use crate::workspace::Workspace;

/// What Debian calls the compiler, its cargo, the library's source, and the C library for WASI.
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "wasi-libc"];
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_RUSTDOC: &str = "/usr/bin/rustdoc";
const DEBIAN_WASI_LIBC: &str = "/usr/lib/wasm32-wasi";
/// Vectors, by which SHA-256 is computed.
const VECTORS: &str = "-Ctarget-feature=+simd128";

/// The WebAssembly targets that we build for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// `wasm32-unknown-unknown`: the tests of the decision core, under Node.
    Unknown,
    /// `wasm32-wasip1`: the Envoy module.
    Wasi,
}

impl Target {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "wasm32-unknown-unknown",
            Self::Wasi => "wasm32-wasip1",
        }
    }
}

/// A way to build for one WebAssembly target.
#[derive(Debug)]
pub(crate) struct Toolchain {
    target: Target,
    source: Source,
}

/// Where the standard library comes from.
#[derive(Debug)]
enum Source {
    /// Debian's compiler builds it. `path` is the `PATH` that this needs.
    Debian { path: OsString },
    /// It is installed for the toolchain in use.
    Installed,
}

/// Which sources may be tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Choice {
    Any,
    Debian,
    Rustup,
}

/// Why nothing can be built for WebAssembly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WasmError {
    #[error("CARACAL_WASM_STD is `{0}`, but it can only be `rustup` or `debian`")]
    Choice(String),
    #[error(
        "no linker for WebAssembly: Debian's compiler needs `rust-lld`, which rustup's toolchains ship \
         (Debian: apt-get install lld-22)"
    )]
    NoLinker,
    #[error(
        "no standard library for {target}; either give rustup a network and run `rustup target add {target}`, \
         or on Debian run `apt-get install --no-install-recommends {packages}` as root",
        packages = DEBIAN_PACKAGES.join(" ")
    )]
    NoStandardLibrary { target: &'static str },
}

impl Toolchain {
    /// Finds or installs the standard library for `target`.
    pub(crate) fn prepare(
        target: Target,
        workspace: &Workspace,
        cache: &Cache,
        log: &mut StepLog,
    ) -> Result<Done<Self>, Error> {
        let choice = Choice::parse(std::env::var("CARACAL_WASM_STD").ok())?;
        // Two runs of rustup or of apt-get at a time disturb each other, and one that is at work leaves parts.
        let _lock = cache.lock("wasm-standard-library")?;
        if choice != Choice::Debian {
            if is_installed(target, workspace) {
                return Ok(Done::new(Self { target, source: Source::Installed }, "already installed"));
            }
            let mut rustup = Command::new("rustup");
            rustup.current_dir(workspace.root()).env("RUSTUP_MAX_RETRIES", "1");
            let added = log.run(rustup.args(["target", "add", target.name()]));
            if added.is_ok() && is_installed(target, workspace) {
                return Ok(Done::new(Self { target, source: Source::Installed }, "added by rustup"));
            }
        }
        if choice != Choice::Rustup {
            let mut note = "from Debian's source, with Debian's compiler".to_owned();
            if !has_debian_packages() && can_use_apt() {
                // A failure here is in the log; what counts is whether the files are there.
                let _in_the_log = apt_install(log, &DEBIAN_PACKAGES);
                note.push_str(", which apt-get installed");
            }
            if has_debian_packages() {
                let path = debian_path(workspace, cache, log)?;
                return Ok(Done::new(Self { target, source: Source::Debian { path } }, note));
            }
        }
        Err(WasmError::NoStandardLibrary { target: target.name() }.into())
    }

    /// `cargo <subcommand>` for this target, in a target folder of its own.
    pub(crate) fn cargo(&self, subcommand: &str, workspace: &Workspace) -> Command {
        let mut command = match &self.source {
            Source::Installed => cargo(),
            Source::Debian { .. } => Command::new(DEBIAN_CARGO),
        };
        command.current_dir(workspace.root());
        // Flags that the contributor set are meant for the native processor.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.arg(subcommand).arg("--target").arg(self.target.name());
        command.arg("--target-dir").arg(target_folder(workspace));
        if let Source::Debian { path } = &self.source {
            command.arg("-Zbuild-std=std,panic_abort");
            command.env("RUSTC", DEBIAN_RUSTC).env("RUSTDOC", DEBIAN_RUSTDOC).env("RUSTC_BOOTSTRAP", "1");
            command.env("PATH", path);
            // What rustup's proxies set for their own toolchain.
            for variable in ["CARGO", "LD_LIBRARY_PATH", "RUSTUP_TOOLCHAIN"] {
                command.env_remove(variable);
            }
        }
        let flags = self.flags();
        if !flags.is_empty() {
            command.env("RUSTFLAGS", flags);
        }
        command
    }

    /// What the compiler is told beside what Cargo says. Every host of modules that we know of has vectors of 128 bits.
    fn flags(&self) -> String {
        match (self.target, &self.source) {
            (Target::Unknown, _) => String::new(),
            (Target::Wasi, Source::Installed) => VECTORS.to_owned(),
            (Target::Wasi, Source::Debian { .. }) => format!("{VECTORS} -Lnative={DEBIAN_WASI_LIBC}"),
        }
    }

    /// Whether clippy is there for this target. Debian's compiler has none.
    pub(crate) fn has_clippy(&self) -> bool {
        matches!(self.source, Source::Installed)
    }
}

/// Where WebAssembly is built: a folder of its own, so that native builds need not wait.
pub(crate) fn target_folder(workspace: &Workspace) -> PathBuf {
    workspace.target().join("wasm")
}

impl Choice {
    fn parse(value: Option<String>) -> Result<Self, WasmError> {
        match value.as_deref() {
            None | Some("") => Ok(Self::Any),
            Some("debian") => Ok(Self::Debian),
            Some("rustup") => Ok(Self::Rustup),
            Some(other) => Err(WasmError::Choice(other.to_owned())),
        }
    }
}

fn is_installed(target: Target, workspace: &Workspace) -> bool {
    library_folder(Some(target.name()), workspace).is_some_and(|folder| folder.is_dir())
}

/// Where the compiler in use keeps the libraries of a target (`None`: of this machine).
fn library_folder(target: Option<&str>, workspace: &Workspace) -> Option<PathBuf> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(workspace.root()).args(["--print", "target-libdir"]);
    if let Some(target) = target {
        command.args(["--target", target]);
    }
    capture(&mut command).map(|text| PathBuf::from(text.trim()))
}

fn has_debian_packages() -> bool {
    let source = capture(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]))
        .map(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std/Cargo.toml"));
    source.is_some_and(|manifest| manifest.is_file())
        && Path::new(DEBIAN_CARGO).is_file()
        && Path::new(DEBIAN_WASI_LIBC).is_dir()
}

/// `PATH` with Debian's programs first, and then a folder that holds `rust-lld`.
fn debian_path(workspace: &Workspace, cache: &Cache, log: &mut StepLog) -> Result<OsString, Error> {
    let linker_folder = match rustup_linker_folder(workspace) {
        Some(folder) => folder,
        None => debian_linker_folder(cache, log)?,
    };
    let current = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        [PathBuf::from("/usr/bin"), linker_folder].into_iter().chain(std::env::split_paths(&current));
    // Joining fails only for a folder with a colon in its name, which a linker could not be found in either.
    Ok(std::env::join_paths(folders).map_err(|_| WasmError::NoLinker)?)
}

fn rustup_linker_folder(workspace: &Workspace) -> Option<PathBuf> {
    let folder = library_folder(None, workspace)?.parent()?.join("bin");
    folder.join("rust-lld").is_file().then_some(folder)
}

/// Debian's `lld`, under the name that the compiler looks for.
fn debian_linker_folder(cache: &Cache, log: &mut StepLog) -> Result<PathBuf, Error> {
    let find = || newest_lld(Path::new("/usr/lib"));
    if find().is_none() && can_use_apt() {
        let _in_the_log = apt_install(log, &["lld-22"]);
    }
    let lld = find().ok_or(WasmError::NoLinker)?;
    let (folder, _) = cache.entry("rust-lld", |folder| {
        let link = folder.join("rust-lld");
        Ok(std::os::unix::fs::symlink(&lld, &link).map_err(CacheError::write(&link))?)
    })?;
    Ok(folder)
}

/// The newest `llvm-<n>/bin/lld` in a folder.
fn newest_lld(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number: u32 = entry.file_name().to_str()?.strip_prefix("llvm-")?.parse().ok()?;
            let lld = entry.path().join("bin/lld");
            lld.is_file().then_some((number, lld))
        })
        .max()
        .map(|(_, lld)| lld)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_of_a_source_is_one_of_two_words() {
        let cases = [
            (None, Some(Choice::Any)),
            (Some(""), Some(Choice::Any)),
            (Some("debian"), Some(Choice::Debian)),
            (Some("rustup"), Some(Choice::Rustup)),
            (Some("Debian"), None),
        ];
        for (value, expected) in cases {
            assert_eq!(Choice::parse(value.map(str::to_owned)).ok(), expected, "{value:?}");
        }
    }

    #[test]
    fn the_error_names_both_remedies() {
        let text = WasmError::NoStandardLibrary { target: Target::Wasi.name() }.to_string();
        assert!(text.contains("rustup target add wasm32-wasip1"), "{text}");
        assert!(text.contains("rustc-web cargo-web rust-web-src wasi-libc"), "{text}");
    }

    #[test]
    fn the_newest_linker_is_newest_by_number() {
        let folder = std::env::temp_dir().join(format!("caracal-xtask-lld-{}", std::process::id()));
        for name in ["llvm-9", "llvm-22", "llvm-19", "gcc-30"] {
            std::fs::create_dir_all(folder.join(name).join("bin")).unwrap();
            std::fs::write(folder.join(name).join("bin/lld"), "").unwrap();
        }
        assert_eq!(newest_lld(&folder), Some(folder.join("llvm-22/bin/lld")));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
