//! Running other programs: with their output in a step's log, or captured.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// The log of one step. Everything that the step's programs print goes there.
#[derive(Debug)]
pub(crate) struct StepLog {
    path: PathBuf,
    file: File,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("`{command}` failed ({status})")]
    Failed { command: String, status: ExitStatus },
    #[error("could not write the log of `{command}`: {source}")]
    Log { command: String, source: std::io::Error },
    #[error("could not start `{command}`: {source}")]
    Start { command: String, source: std::io::Error },
}

impl StepLog {
    /// Opens an empty log.
    pub(crate) fn create(path: PathBuf) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // A new file, not the old one emptied: another run may still be writing to that.
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
        let file = File::create(&path)?;
        Ok(Self { path, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what was printed so far has this text in it.
    pub(crate) fn contains(&self, text: &str) -> bool {
        std::fs::read(&self.path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
    }

    /// Runs a program to its end; an exit status other than 0 is an error.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<(), CommandError> {
        let name = describe(command);
        let log_error = |source| CommandError::Log { command: name.clone(), source };
        writeln!(self.file, "$ {name}").map_err(log_error)?;
        let output = self.file.try_clone().map_err(log_error)?;
        let errors = self.file.try_clone().map_err(log_error)?;
        let status = command.stdin(Stdio::null()).stdout(output).stderr(errors).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(CommandError::Failed { command: name, status }),
            Err(source) => Err(CommandError::Start { command: name, source }),
        }
    }
}

/// Runs a short program and returns what it printed, or `None` if it is missing or failed.
pub(crate) fn capture(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The program of this name on `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

/// The cargo that the contributor uses.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether apt-get can install packages here: it exists and we are root.
pub(crate) fn can_use_apt() -> bool {
    let root = capture(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    root && on_path("apt-get").is_some()
}

/// Installs Debian packages. Call it only where [`can_use_apt`] holds.
pub(crate) fn apt_install(log: &mut StepLog, packages: &[&str]) -> Result<(), CommandError> {
    log.run(Command::new("apt-get").args(["update", "-q"]))?;
    log.run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(packages),
    )
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program.file_name().unwrap_or(command.get_program()).to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_or_is_missing_prints_nothing() {
        assert_eq!(capture(Command::new("sh").args(["-c", "echo 3.12; exit 127"])), None);
        assert_eq!(capture(&mut Command::new("/no/such/program")), None);
        assert_eq!(capture(Command::new("sh").args(["-c", "echo yes"])).as_deref(), Some("yes\n"));
    }

    #[test]
    fn a_command_is_described_by_name_and_arguments() {
        assert_eq!(describe(Command::new("/usr/bin/cargo").args(["build", "-p", "x"])), "cargo build -p x");
    }
}
