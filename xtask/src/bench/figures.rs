//! From samples to figures: medians, quartiles of ratios within one round, and the comparison with goals.
//! Keeps: a ratio is always between two measurements of the same round, so that a busy minute touches both. Pure.
//! Called by bench and its benchmarks.

use std::fmt::Write as _;

use serde::Serialize;

/// One measurement of one variant, in one round.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Sample {
    pub(super) round: usize,
    pub(super) nanos: f64,
}

/// What a figure is compared with.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Goal {
    /// The ratio must not be above this.
    AtMost(f64),
    /// Nothing is demanded; this is what one expects to see.
    Expect(&'static str),
    Reported,
}

/// A variant in a scenario, compared with its baseline.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Figure {
    pub(super) scenario: &'static str,
    pub(super) variant: &'static str,
    /// The variant that the ratio is taken to.
    pub(super) baseline: &'static str,
    pub(super) median_us: f64,
    pub(super) ratio: f64,
    pub(super) ratio_quartile_1: f64,
    pub(super) ratio_quartile_3: f64,
    pub(super) goal_at_most: Option<f64>,
    pub(super) goal_met: Option<bool>,
    pub(super) note: Option<&'static str>,
}

/// What a BPF program costs per run, measured apart from everything else.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct ProgramCost {
    pub(super) variant: &'static str,
    pub(super) program: String,
    pub(super) nanos_per_run: f64,
    pub(super) runs_per_connection: f64,
}

/// Everything that a benchmark found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Report {
    pub(super) bench: &'static str,
    pub(super) kernel: String,
    pub(super) conditions: Vec<String>,
    pub(super) rounds: usize,
    pub(super) figures: Vec<Figure>,
    pub(super) programs: Vec<ProgramCost>,
    pub(super) goals_met: usize,
    pub(super) goals_missed: usize,
}

impl Figure {
    /// None: there is no round in which both were measured.
    pub(super) fn new(
        names: (&'static str, &'static str, &'static str),
        samples: &[Sample],
        baseline: &[Sample],
        goal: Goal,
    ) -> Option<Self> {
        let (scenario, variant, against) = names;
        let pairs = samples.iter().filter_map(|sample| {
            let other = baseline.iter().find(|other| other.round == sample.round)?;
            Some(sample.nanos / other.nanos)
        });
        let ratios = sorted(pairs.collect());
        let nanos = sorted(samples.iter().map(|sample| sample.nanos).collect());
        let ratio = quantile(&ratios, 0.5)?;
        let goal_at_most = match goal {
            Goal::AtMost(limit) => Some(limit),
            Goal::Expect(_) | Goal::Reported => None,
        };
        Some(Self {
            scenario,
            variant,
            baseline: against,
            median_us: quantile(&nanos, 0.5)? / 1000.0,
            ratio,
            ratio_quartile_1: quantile(&ratios, 0.25)?,
            ratio_quartile_3: quantile(&ratios, 0.75)?,
            goal_at_most,
            goal_met: goal_at_most.map(|limit| shown(ratio) <= limit),
            note: match goal {
                Goal::Expect(note) => Some(note),
                Goal::AtMost(_) | Goal::Reported => None,
            },
        })
    }

    fn verdict(&self) -> String {
        match (self.goal_at_most, self.goal_met) {
            (Some(limit), Some(true)) => format!("met (<= {limit:.2})"),
            (Some(limit), _) => format!("MISSED (<= {limit:.2})"),
            (None, _) => self.note.map_or_else(String::new, str::to_owned),
        }
    }
}

impl Report {
    pub(super) fn new(
        bench: &'static str,
        rounds: usize,
        figures: Vec<Figure>,
        programs: Vec<ProgramCost>,
    ) -> Self {
        let count = |met: bool| figures.iter().filter(|figure| figure.goal_met == Some(met)).count();
        Self {
            bench,
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            conditions: Vec::new(),
            rounds,
            goals_met: count(true),
            goals_missed: count(false),
            figures,
            programs,
        }
    }

    /// The same figures for people.
    pub(super) fn table(&self) -> String {
        let mut text =
            format!("kernel {}, {} rounds; {}\n", self.kernel, self.rounds, self.conditions.join("; "));
        let mut scenario = "";
        for figure in &self.figures {
            if figure.scenario != scenario {
                scenario = figure.scenario;
                let _ = writeln!(text, "\n{scenario:<34}{:>10} {:>7}  quartiles", "median us", "ratio");
            }
            let quartiles = format!("{:.3}-{:.3}", figure.ratio_quartile_1, figure.ratio_quartile_3);
            let line = format!(
                "  {:<32}{:>10.2} {:>7.3}  {quartiles:<13}  {}",
                figure.variant,
                figure.median_us,
                figure.ratio,
                figure.verdict()
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        if !self.programs.is_empty() {
            let _ =
                writeln!(text, "\n{:<34}{:>10} {:>20}", "BPF programs", "ns per run", "runs per connection");
        }
        for cost in &self.programs {
            let name = format!("{} ({})", cost.program, cost.variant);
            let _ =
                writeln!(text, "  {name:<32}{:>10.0} {:>20.1}", cost.nanos_per_run, cost.runs_per_connection);
        }
        text.push('\n');
        text
    }
}

/// A ratio as it is printed: what reads as 1.010 is within a goal of 1.01.
fn shown(ratio: f64) -> f64 {
    (ratio * 1000.0).round() / 1000.0
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Linear between neighbours, as most tools do. None: no values.
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = part * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Vec<Sample> {
        values.iter().enumerate().map(|(round, nanos)| Sample { round, nanos: *nanos }).collect()
    }

    const NAMES: (&str, &str, &str) = ("connect", "ours", "direct");

    #[test]
    fn a_ratio_is_between_measurements_of_one_round() {
        // The machine is three times slower in the second round: both suffer, the ratio does not.
        let direct = samples(&[100.0, 300.0, 100.0]);
        let ours = samples(&[102.0, 306.0, 102.0]);
        let figure = Figure::new(NAMES, &ours, &direct, Goal::AtMost(1.03)).unwrap();
        assert!((figure.ratio - 1.02).abs() < 1e-9 && (figure.ratio_quartile_3 - 1.02).abs() < 1e-9);
        assert_eq!(figure.goal_met, Some(true));
        let apart = [Sample { round: 7, nanos: 1.0 }];
        assert_eq!(Figure::new(NAMES, &apart, &direct, Goal::Reported), None);
    }

    #[test]
    fn goals_are_counted_and_a_missed_one_is_named() {
        let direct = samples(&[100.0]);
        let figure = |nanos, goal| Figure::new(NAMES, &samples(&[nanos]), &direct, goal).unwrap();
        let figures = vec![
            figure(101.04, Goal::AtMost(1.01)),
            figure(102.0, Goal::AtMost(1.01)),
            figure(125.0, Goal::Expect("1.2 and more")),
        ];
        let report = Report::new("vip", 1, figures, Vec::new());
        assert_eq!((report.goals_met, report.goals_missed), (1, 1));
        let table = report.table();
        assert!(table.contains("MISSED (<= 1.01)") && table.contains("1.2 and more"), "{table}");
    }

    #[test]
    fn quartiles_lie_between_neighbours() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(quantile(&values, 0.25), Some(1.75));
        assert_eq!(quantile(&values, 0.5), Some(2.5));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
