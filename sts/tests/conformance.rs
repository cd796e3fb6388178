//! Holds `docs/conformance.md` to the code: no number is missing, no test that it names is, and no numbered test is
//! left out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A heading of the page, how its tests are named by number, and its numbers.
const TABLES: [(&str, &str, std::ops::RangeInclusive<u32>); 3] = [
    ("## Sections", "", 4..=19),
    ("## Weaknesses of the reference (§27)", "sts_27_", 1..=28),
    ("## Edge cases (§28)", "sts_28_", 1..=20),
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
    for crate_folder in ["admin", "audit", "coordinator", "filter", "mandate", "store", "sts", "tests"] {
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
    let page = fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let tests = tests();
    assert!(tests.contains("every_number_is_listed_and_every_named_test_is_there"), "tests are found");
    for (heading, prefix, numbers) in TABLES {
        let rows = rows(&page, heading);
        assert_eq!(rows.keys().copied().collect::<Vec<_>>(), numbers.collect::<Vec<_>>(), "{heading}");
        for (number, (done, names)) in &rows {
            assert!(!done.is_empty(), "{heading} {number}");
            let missing: Vec<_> = names.difference(&tests).collect();
            assert!(missing.is_empty(), "{heading} {number}: there is no test {missing:?}");
            // Only what the reference's documentation gets wrong is shown by no test.
            assert!(prefix == "sts_27_" || !names.is_empty(), "{heading} {number} has no test");
            if !prefix.is_empty() {
                let own = format!("{prefix}{number:02}_");
                let unlisted: Vec<_> =
                    tests.iter().filter(|name| name.starts_with(&own) && !names.contains(*name)).collect();
                assert!(unlisted.is_empty(), "{heading} {number} does not name {unlisted:?}");
            }
        }
        let stray: Vec<_> = tests
            .iter()
            .filter(|name| !prefix.is_empty() && name.starts_with(prefix))
            .filter(|name| !rows.keys().any(|number| name.starts_with(&format!("{prefix}{number:02}_"))))
            .collect();
        assert!(stray.is_empty(), "no such number: {stray:?}");
    }
}
