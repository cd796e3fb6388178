//! Prints what the module takes for a request: `cargo xtask filter --cost`.
#![allow(clippy::expect_used, clippy::print_stdout)]

use caracal_filter_bed::cost::Costs;
use caracal_filter_bed::vm::Module;

fn main() {
    print!("{}", Costs::measure(&Module::built_metered()).expect("a module that does not trap").report());
}
