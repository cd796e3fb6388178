//! Anything at all, thrown at the module on the bed (`filter/bed`).

use std::time::Instant;

use caracal_filter_bed::vm::Module;

use super::{Plan, Report};

pub(super) fn run(plan: Plan) -> Result<Report, String> {
    let module = Module::built();
    let end = Instant::now() + plan.length;
    let came = caracal_filter_bed::fuzz::run(&module, plan.seed, || Instant::now() < end)?;
    Ok(Report { counts: came })
}
