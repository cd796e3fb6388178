//! What must be on the machine before a build starts, said in one line if it is not.

use std::process::Command;

use crate::process::{capture, on_path};
use crate::version::Version;

/// The oldest Node whose WebAssembly the test runner supports.
const OLDEST_NODE: Version = Version::new(18, 0, 0);

/// What is missing on the machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrerequisiteError {
    #[error(
        "no C compiler: the cryptography and the database are built with one; install gcc or clang \
         (Debian: apt-get install gcc libc6-dev), or set CC"
    )]
    Compiler,
    #[error("no CMake: the cryptography is built with it on this platform; install cmake and run this again")]
    Cmake,
    #[error("no Node of version {OLDEST_NODE} or newer on PATH: the wasm tests run under it")]
    Node,
}

/// Checks that native crates with C sources can be built.
pub(crate) fn require_native_compiler() -> Result<(), PrerequisiteError> {
    let chosen = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut words = chosen.split_whitespace();
    let program = words.next().unwrap_or("cc");
    if capture(Command::new(program).args(words).arg("--version")).is_none() {
        return Err(PrerequisiteError::Compiler);
    }
    // On these platforms aws-lc-sys carries prepared assembly and needs no CMake.
    let prepared =
        matches!((std::env::consts::OS, std::env::consts::ARCH), ("linux" | "macos", "x86_64" | "aarch64"));
    if prepared || on_path("cmake").is_some() { Ok(()) } else { Err(PrerequisiteError::Cmake) }
}

/// Checks that Node is there.
pub(crate) fn require_node() -> Result<(), PrerequisiteError> {
    let version = capture(Command::new("node").arg("--version")).and_then(|text| Version::find(&text));
    if version.is_some_and(|version| version >= OLDEST_NODE) { Ok(()) } else { Err(PrerequisiteError::Node) }
}
