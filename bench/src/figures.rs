//! What a benchmark found: one line a figure, and the same as JSON.

use crate::error::Error;
use crate::machine::Machine;
use serde::Serialize;
use std::path::Path;

/// What a figure has to reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
}

/// Whether a goal was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Met,
    Short,
}

/// One number that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// Such as `delegated_mint_rate`.
    pub(crate) name: String,
    pub(crate) value: f64,
    /// Such as `1/s`, `ms`, `us`, `MiB`, `%`.
    pub(crate) unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<Goal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Outcome>,
}

impl Figure {
    /// A figure without a goal.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, goal: None, outcome: None }
    }

    /// The figure with a goal, where there is one, and whether it is reached.
    #[must_use]
    pub(crate) fn with_goal(mut self, goal: impl Into<Option<Goal>>) -> Self {
        let Some(goal) = goal.into() else { return self };
        let met = match goal {
            Goal::AtLeast(least) => self.value >= least,
            Goal::AtMost(most) => self.value <= most,
        };
        self.goal = Some(goal);
        self.outcome = Some(if met { Outcome::Met } else { Outcome::Short });
        self
    }

    /// `name value unit goal met|short`; `-` stands for no goal.
    fn line(&self) -> String {
        let goal = match self.goal {
            None => "-".to_owned(),
            Some(Goal::AtLeast(least)) => format!(">={least}"),
            Some(Goal::AtMost(most)) => format!("<={most}"),
        };
        let outcome = match self.outcome {
            None => "-",
            Some(Outcome::Met) => "met",
            Some(Outcome::Short) => "short",
        };
        format!("{:<34} {:>12.2} {:<6} {goal:<8} {outcome}", self.name, self.value, self.unit)
    }
}

/// The figures of one benchmark, and the machine that they were measured on.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    benchmark: &'static str,
    machine: Machine,
    figures: Vec<Figure>,
}

impl Figures {
    pub(crate) fn new(benchmark: &'static str, machine: Machine) -> Self {
        Self { benchmark, machine, figures: Vec::new() }
    }

    /// Adds one.
    pub(crate) fn push(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Writes the JSON file, and prints the lines with its path, or the JSON itself.
    pub(crate) fn publish(&self, path: &Path, as_json: bool) -> Result<(), Error> {
        let json = serde_json::to_string_pretty(self).map_err(|error| Error::file(path)(error.into()))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
        }
        std::fs::write(path, format!("{json}\n")).map_err(Error::file(path))?;
        if as_json {
            println!("{json}");
            return Ok(());
        }
        println!("# {}: {}", self.benchmark, self.machine.describe());
        for figure in &self.figures {
            println!("{}", figure.line());
        }
        println!("# also in {}", path.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_or_missed() {
        let cases = [
            (4000.0, Goal::AtLeast(4000.0), Outcome::Met),
            (3999.9, Goal::AtLeast(4000.0), Outcome::Short),
            (10.0, Goal::AtMost(10.0), Outcome::Met),
            (10.1, Goal::AtMost(10.0), Outcome::Short),
        ];
        for (value, goal, outcome) in cases {
            assert_eq!(Figure::new("f", value, "ms").with_goal(goal).outcome, Some(outcome));
        }
    }

    #[test]
    fn a_line_has_five_words() {
        let with = Figure::new("rate", 1.5, "1/s").with_goal(Goal::AtLeast(2.0)).line();
        assert_eq!(with.split_whitespace().collect::<Vec<_>>(), ["rate", "1.50", "1/s", ">=2", "short"]);
        let without = Figure::new("rate", 1.5, "1/s").line();
        assert_eq!(without.split_whitespace().collect::<Vec<_>>(), ["rate", "1.50", "1/s", "-", "-"]);
    }
}
