//! A bounded run of what `cargo xtask drill fuzz` does for as long as one likes.

use caracal_filter_bed::fuzz;

use crate::module;

#[test]
fn anything_at_all_is_refused_without_a_trap() {
    for seed in [1, 2] {
        let mut left = 400;
        let report = fuzz::run(module(), seed, || {
            left -= 1;
            left >= 0
        });
        let report = report.unwrap_or_else(|what| panic!("{what}"));
        println!("{report:?}");
        for what in [
            "configuration refused",
            "configuration taken",
            "good request refused",
            "headers passed",
            "headers refused",
        ] {
            assert!(report.get(what).is_some_and(|count| *count > 0), "no {what} in {report:?}");
        }
    }
}
