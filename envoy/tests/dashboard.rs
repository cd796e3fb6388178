//! The Grafana dashboard names nothing that does not exist.

// Helpers of tests may fail loudly, like the tests themselves.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

const DASHBOARD: &str = include_str!("../dashboards/caracal.json");
/// The filter's metrics, where they are named.
const FILTER: &str = include_str!("../../filter/src/metrics.rs");
/// The services' metrics; a test of theirs holds this page to what they export.
const SERVICES: &str = include_str!("../../docs/metrics.md");
/// The filter's own sign of a change: a number that tells nothing to people.
const OF_NO_USE: &str = "caracal_gateway_feed_mark";

fn names(text: &str) -> BTreeSet<String> {
    let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let names = text.split(|character| !word(character)).filter(|name| name.starts_with("caracal_"));
    names.map(str::to_owned).collect()
}

/// Every metric, with its labels.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let labels = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<BTreeSet<_>>();
    let mut known = BTreeMap::new();
    let quoted = FILTER.lines().filter(|line| line.contains('"') && !line.trim_start().starts_with("//"));
    for name in quoted.flat_map(names) {
        let with_reason = name.ends_with("denials_total");
        known.insert(name, labels(if with_reason { &["reason"] } else { &[] }));
    }
    for line in SERVICES.lines().filter(|line| line.starts_with("| `caracal_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`').to_owned();
        let own: BTreeSet<String> =
            cells[4].split(',').map(|label| label.trim().trim_matches('`').to_owned()).collect();
        if cells[2] == "histogram" {
            for suffix in ["_bucket", "_sum", "_count"] {
                known.insert(format!("{name}{suffix}"), own.iter().cloned().chain(labels(&["le"])).collect());
            }
        } else {
            known.insert(name, own);
        }
    }
    known
}

/// The labels that an expression groups by or selects with.
fn used_labels(expression: &str) -> BTreeSet<String> {
    let grouped = expression.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    let grouped = grouped.flat_map(|list| list.split(','));
    let selected = expression.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let selected = selected.flat_map(|list| list.split(',').filter_map(|test| test.split(['=', '!']).next()));
    grouped.chain(selected).map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect()
}

#[test]
fn every_metric_and_label_of_the_dashboard_exists() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let known = known();
    let mut used = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let metrics = names(expression);
            assert_eq!(metrics.len(), 1, "{expression}");
            for metric in metrics {
                let labels =
                    known.get(&metric).unwrap_or_else(|| panic!("there is no {metric}: {expression}"));
                // Prometheus itself adds these two.
                let scraped = ["job", "instance"].map(str::to_owned);
                for label in used_labels(expression) {
                    assert!(labels.contains(&label) || scraped.contains(&label), "{metric} has no {label}");
                }
                used.insert(metric);
            }
        }
    }
    // All of the filter's are shown.
    used.insert(OF_NO_USE.to_owned());
    let unused: Vec<&String> =
        known.keys().filter(|name| name.starts_with("caracal_gateway_") && !used.contains(*name)).collect();
    assert!(unused.is_empty(), "{unused:?}");
    assert!(names(DASHBOARD).is_subset(&known.keys().cloned().collect()), "also outside of panels");
}

#[test]
fn panels_have_a_place_and_an_id_of_their_own() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        let of = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(of("x") + of("w") <= 24 && of("h") > 0, "{panel}");
        let refs: BTreeSet<&str> = panel["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|target| target["refId"].as_str().unwrap())
            .collect();
        assert_eq!(refs.len(), panel["targets"].as_array().map_or(0, Vec::len));
    }
}
