//! What can be seen of an installation without asking it: its data folder, its secrets and the limits of the system.

use super::report::{Check, Section};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const SECTION: Section = Section::Preflight;
/// Free space below which something is about to fail, and below which nothing is written any more, in bytes.
const LOW_SPACE: u64 = 1 << 30;
const NO_SPACE: u64 = 100 << 20;
/// Open files that connections of all services and the database may need.
const OPEN_FILES: u64 = 16_384;

/// What a secret has to be.
enum Shape {
    /// This many bytes as hexadecimal digits.
    Bytes(usize),
    /// At least this many bytes as hexadecimal digits.
    AtLeast(usize),
    /// At least this many characters.
    Characters(usize),
}

const SECRETS: [(&str, Shape); 7] = [
    ("adminToken", Shape::Characters(32)),
    ("coordinatorToken", Shape::AtLeast(32)),
    ("stsAdminToken", Shape::AtLeast(32)),
    ("secretStoreKek", Shape::Bytes(32)),
    ("hashKey", Shape::AtLeast(32)),
    ("auditHmacKey", Shape::AtLeast(32)),
    ("gatewayStsHmacKey", Shape::AtLeast(32)),
];

/// Looks at a data folder.
pub(super) fn preflight(folder: &Path) -> Vec<Check> {
    if !folder.exists() {
        let detail = format!("{} is not there yet", folder.display());
        return vec![Check::ok(SECTION, "data_folder", detail), open_files()];
    }
    let database = folder.join("caracal.db");
    let mut checks = vec![private(folder, "data_folder", 0o700)];
    for (name, shape) in &SECRETS {
        checks.push(secret(folder, name, shape, database.exists()));
    }
    if folder.join("secrets/secretStoreKekPrevious").exists() {
        let advice = "once a start has sealed everything anew, remove it (see docs/providers.md)";
        checks.push(Check::warn(SECTION, "secretStoreKekPrevious", "the key before is still there", advice));
    }
    checks.push(database_file(&database));
    checks.push(free_space(folder));
    checks.push(open_files());
    checks
}

fn private(path: &Path, check: &str, mode: u32) -> Check {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 == 0 => {
            Check::ok(SECTION, check, format!("{shown} is its owner's alone"))
        }
        Ok(_) => {
            let advice = format!("chmod {mode:o} {shown}");
            Check::fail(SECTION, check, format!("{shown} can be read by others"), &advice)
        }
        Err(error) => {
            let advice = "run as the user that runs `caracal up`";
            Check::fail(SECTION, check, format!("{shown}: {error}"), advice)
        }
    }
}

fn secret(folder: &Path, name: &str, shape: &Shape, in_use: bool) -> Check {
    let path = folder.join("secrets").join(name);
    if !path.exists() {
        return if in_use {
            let advice = "restore it from the backup of the data folder: a new one does not open what the old one sealed or signed";
            Check::fail(SECTION, name, "is missing, and the database was made with it", advice)
        } else {
            Check::ok(SECTION, name, "is made at the first start")
        };
    }
    let access = private(&path, name, 0o600);
    if access.status != super::report::Status::Ok {
        return access;
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    let text = text.trim_end();
    let bytes = text.len() / 2;
    let hexadecimal = text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (good, expected) = match shape {
        Shape::Bytes(count) => (hexadecimal && bytes == *count, format!("{count} bytes in hexadecimal")),
        Shape::AtLeast(count) => {
            (hexadecimal && bytes >= *count, format!("at least {count} bytes in hexadecimal"))
        }
        Shape::Characters(count) => (text.chars().count() >= *count, format!("at least {count} characters")),
    };
    if good {
        return Check::ok(SECTION, name, expected);
    }
    let advice = "restore it from the backup of the data folder";
    Check::fail(SECTION, name, format!("is not {expected}"), advice)
}

fn database_file(path: &Path) -> Check {
    if !path.exists() {
        return Check::ok(SECTION, "database", "is made at the first start");
    }
    match fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Check::ok(SECTION, "database", "can be read and written"),
        Err(error) => {
            let advice = "run as the user that runs `caracal up`, on a file system that can be written";
            Check::fail(SECTION, "database", format!("{}: {error}", path.display()), advice)
        }
    }
}

fn free_space(folder: &Path) -> Check {
    let free = match rustix::fs::statvfs(folder) {
        Ok(space) => space.f_bavail.saturating_mul(space.f_frsize),
        Err(error) => {
            let detail = format!("cannot be told: {error}");
            return Check::warn(SECTION, "free_space", detail, "look at the file system of the data folder");
        }
    };
    let detail = format!("{} MiB are free", free >> 20);
    let advice = "make room: without it nothing can be recorded, so nothing is granted";
    match free {
        _ if free < NO_SPACE => Check::fail(SECTION, "free_space", detail, advice),
        _ if free < LOW_SPACE => Check::warn(SECTION, "free_space", detail, advice),
        _ => Check::ok(SECTION, "free_space", detail),
    }
}

fn open_files() -> Check {
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < OPEN_FILES => {
            let advice = format!("allow {OPEN_FILES} open files (`ulimit -Hn`), or lower --max-connections");
            Check::warn(SECTION, "open_files", format!("at most {most}"), &advice)
        }
        most => {
            let most = most.map_or_else(|| "no limit".to_owned(), |most| format!("at most {most}"));
            Check::ok(SECTION, "open_files", most)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;
    use crate::data::{DataFolder, write_private};

    fn status_of(checks: &[Check], name: &str) -> Status {
        checks.iter().find(|check| check.check == name).unwrap_or_else(|| panic!("no {name}")).status
    }

    #[test]
    fn contract_admin_16_5_preflight_sees_what_a_start_would_meet() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        assert!(preflight(&root).iter().all(|check| check.status != Status::Fail));
        DataFolder::open(&root).unwrap().secrets().unwrap();
        write_private(&root.join("caracal.db"), "").unwrap();
        let checks = preflight(&root);
        assert!(checks.iter().all(|check| check.status != Status::Fail), "{checks:#?}");
        assert_eq!(checks.len(), SECRETS.len() + 4);
        let secrets = root.join("secrets");
        write_private(&secrets.join("secretStoreKek"), &"ab".repeat(31)).unwrap();
        write_private(
            &secrets.join("auditHmacKey"),
            "no hexadecimal at all, but it is rather long, is it not?",
        )
        .unwrap();
        write_private(&secrets.join("secretStoreKekPrevious"), "before").unwrap();
        fs::remove_file(secrets.join("hashKey")).unwrap();
        fs::set_permissions(secrets.join("adminToken"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let checks = preflight(&root);
        for name in ["secretStoreKek", "auditHmacKey", "hashKey", "adminToken", "data_folder"] {
            assert_eq!(status_of(&checks, name), Status::Fail, "{name}");
        }
        assert_eq!(status_of(&checks, "secretStoreKekPrevious"), Status::Warn);
        assert!(checks.iter().all(|check| (check.status == Status::Ok) == check.advice.is_none()));
    }
}
