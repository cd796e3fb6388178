//! What the kernel says of the machine and of a process: processor time and memory.

use serde::Serialize;
use std::time::Duration;

/// How long one tick of `/proc` is: `USER_HZ` is 100 on every architecture that Linux runs on here.
const TICK: Duration = Duration::from_millis(10);

/// The machine as it was before the run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// Processors that this process may use.
    pub(crate) processors: usize,
    /// The load average of the last minute: what else went on.
    pub(crate) load_average: f64,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            load_average: load.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(-1.0),
        }
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        format!("{} processors, load average {:.2} before the run", self.processors, self.load_average)
    }
}

/// Processor time up to a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessorTime {
    /// Of the process that was asked for.
    pub(crate) process: Duration,
    /// Of this process.
    pub(crate) own: Duration,
    /// Of all that ran on the machine.
    pub(crate) machine: Duration,
}

impl ProcessorTime {
    /// Reads it.
    pub(crate) fn of(pid: u32) -> Self {
        Self { process: of_process(&pid.to_string()), own: of_process("self"), machine: of_machine() }
    }

    /// What was used since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            process: self.process.saturating_sub(before.process),
            own: self.own.saturating_sub(before.own),
            machine: self.machine.saturating_sub(before.machine),
        }
    }

    /// What neither process used: others kept the machine busy for this long.
    pub(crate) fn of_others(&self) -> Duration {
        self.machine.saturating_sub(self.process).saturating_sub(self.own)
    }
}

fn ticks(count: u64) -> Duration {
    TICK.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

/// `utime` and `stime`, the 14th and 15th field of `/proc/<pid>/stat`.
fn of_process(pid: &str) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, in parentheses, may hold blanks.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields = fields.split_whitespace().skip(11).take(2);
    ticks(fields.filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// All but idling and waiting, of the first line of `/proc/stat`.
fn of_machine() -> Duration {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let busy = fields.enumerate().filter(|(index, _)| !matches!(index, 3 | 4));
    ticks(busy.filter_map(|(_, field)| field.parse::<u64>().ok()).sum())
}

/// Resident memory of a process now and at its highest, in MiB.
pub(crate) fn memory(pid: u32) -> (f64, f64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|text| text.parse::<f64>().ok())
    };
    (kib("VmRSS:").unwrap_or(0.0) / 1024.0, kib("VmHWM:").unwrap_or(0.0) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_grows_with_work() {
        let pid = std::process::id();
        let before = ProcessorTime::of(pid);
        let mut sum = 0u64;
        while ProcessorTime::of(pid).since(before).process < Duration::from_millis(30) {
            sum = (0..100_000u64).fold(sum, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
        }
        assert!(sum != 1 && memory(pid).0 > 0.0 && Machine::look().processors > 0);
    }
}
