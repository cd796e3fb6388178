//! Holds `docs/conformance.md`, `docs/conformance-coordinator.md`, `docs/conformance-admin.md` and
//! `docs/conformance-gateway.md` to the code: no number is missing, no test that they name is, and no numbered test is left out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// A table of a page.
struct Table {
    page: &'static str,
    heading: &'static str,
    /// How its tests are named, the number being padded to so many digits; empty where they are named otherwise.
    prefix: (&'static str, usize),
    numbers: &'static [RangeInclusive<u32>],
    /// Has every row a test? Only what the reference's documents get wrong has none.
    shown: bool,
}

const STS: &str = "docs/conformance.md";
const COORDINATOR: &str = "docs/conformance-coordinator.md";
const ADMIN: &str = "docs/conformance-admin.md";
const GATEWAY: &str = "docs/conformance-gateway.md";
const SECTIONS: &str = "## Sections";

const TABLES: [Table; 15] = [
    Table { page: STS, heading: SECTIONS, prefix: ("", 0), numbers: &[4..=19], shown: true },
    Table {
        page: STS,
        heading: "## Weaknesses of the reference (§27)",
        prefix: ("sts_27_", 2),
        numbers: &[1..=28],
        shown: false,
    },
    Table {
        page: STS,
        heading: "## Edge cases (§28)",
        prefix: ("sts_28_", 2),
        numbers: &[1..=20],
        shown: true,
    },
    Table { page: COORDINATOR, heading: SECTIONS, prefix: ("", 0), numbers: &[2..=15], shown: true },
    Table {
        page: COORDINATOR,
        heading: "## Edge cases (§23)",
        prefix: ("coordinator_23_", 2),
        numbers: &[1..=30],
        shown: true,
    },
    Table {
        page: COORDINATOR,
        heading: "## Weaknesses of the reference (§24)",
        prefix: ("coordinator_24_", 2),
        numbers: &[1..=25],
        shown: false,
    },
    Table {
        page: COORDINATOR,
        heading: "## Once stricter (§25)",
        prefix: ("", 0),
        numbers: &[1..=10],
        shown: true,
    },
    Table {
        page: COORDINATOR,
        heading: "## The FAQ",
        prefix: ("faq_", 3),
        numbers: &[5..=8, 20..=26],
        shown: true,
    },
    Table {
        page: ADMIN,
        heading: "## Edge cases (§18)",
        prefix: ("admin_18_", 2),
        numbers: &[1..=36],
        shown: true,
    },
    Table {
        page: ADMIN,
        heading: "## Where the reference's documents and code differ (§17)",
        prefix: ("", 0),
        numbers: &[1..=27],
        shown: false,
    },
    Table {
        page: ADMIN,
        heading: "## Better than the reference (§19)",
        prefix: ("admin_19_", 2),
        numbers: &[1..=10],
        shown: true,
    },
    Table {
        page: ADMIN,
        heading: "## The FAQ",
        prefix: ("faq_", 3),
        numbers: &[3..=4, 7..=7, 9..=18, 20..=20],
        shown: true,
    },
    Table {
        page: GATEWAY,
        heading: "## Ordered checks (§A5)",
        prefix: ("gateway_a5_", 2),
        numbers: &[1..=19],
        shown: true,
    },
    Table {
        page: GATEWAY,
        heading: "## Edge cases (Part E)",
        prefix: ("gateway_e_", 2),
        numbers: &[1..=25],
        shown: true,
    },
    Table {
        page: ADMIN,
        heading: "## The command line (§16)",
        prefix: ("", 0),
        numbers: &[2..=3, 5..=5],
        shown: true,
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The rows below a heading: number, what is done, and the names of its tests.
fn rows(page: &str, heading: &str) -> BTreeMap<u32, (String, BTreeSet<String>)> {
    let after = page.split_once(heading).unwrap_or_else(|| panic!("no {heading}")).1;
    let table = after.split_once("\n## ").map_or(after, |(table, _)| table);
    let mut rows = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| no.")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [number, done, tests] = cells[..] else { panic!("not three cells: {line}") };
        let names = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let earlier = rows.insert(number.parse().unwrap(), (done.to_owned(), names));
        assert!(earlier.is_none(), "{heading}: {number} stands twice");
    }
    rows
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The name of every test of the workspace.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    for crate_folder in [
        "admin",
        "audit",
        "caracal",
        "coordinator",
        "filter",
        "filter/bed",
        "mandate",
        "store",
        "sts",
        "tests",
    ] {
        for folder in ["src", "tests"].map(|name| root().join(crate_folder).join(name)) {
            if folder.is_dir() {
                sources(&folder, &mut files);
            }
        }
    }
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[") {
                is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            } else if let Some((_, rest)) = line.split_once("fn ") {
                if is_test {
                    names.insert(rest.split_once('(').unwrap().0.to_owned());
                }
                is_test = false;
            }
        }
    }
    names
}

#[test]
fn every_number_is_listed_and_every_named_test_is_there() {
    let tests = tests();
    assert!(tests.contains("every_number_is_listed_and_every_named_test_is_there"), "tests are found");
    // By their prefix, the tests that a table names at their number; two pages may share a prefix.
    let mut listed: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for Table { page, heading, prefix: (prefix, width), numbers, shown } in TABLES {
        let rows = rows(&fs::read_to_string(root().join(page)).unwrap(), heading);
        let expected: Vec<u32> = numbers.iter().flat_map(Clone::clone).collect();
        assert_eq!(rows.keys().copied().collect::<Vec<_>>(), expected, "{page} {heading}");
        for (number, (done, names)) in &rows {
            assert!(!done.is_empty(), "{heading} {number}");
            let missing: Vec<_> = names.difference(&tests).collect();
            assert!(missing.is_empty(), "{page} {heading} {number}: there is no test {missing:?}");
            assert!(!shown || !names.is_empty(), "{page} {heading} {number} has no test");
            if !prefix.is_empty() {
                let own = format!("{prefix}{number:0width$}_");
                let numbered = names.iter().filter(|name| name.starts_with(&own)).cloned();
                listed.entry(prefix).or_default().extend(numbered);
            }
        }
    }
    for (prefix, listed) in listed {
        let unlisted: Vec<_> =
            tests.iter().filter(|name| name.starts_with(prefix) && !listed.contains(*name)).collect();
        assert!(unlisted.is_empty(), "no table names {unlisted:?} at its number");
    }
}
