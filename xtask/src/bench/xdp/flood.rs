//! Well-behaved clients while the node is flooded, with XDP and without.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::super::table::{MISSING, Row, Target};
use super::cases;

/// Of the kinds of requests that well-behaved clients make.
const KINDS: [&str; 2] = ["binding", "channel"];

/// A figure of each kind.
struct Line {
    name: &'static str,
    /// Where in what the program says of the kind.
    figure: &'static [&'static str],
    unit: &'static str,
    /// How many of the unit one is.
    factor: f64,
    target: Target,
}

const fn line(
    name: &'static str,
    figure: &'static [&'static str],
    unit: &'static str,
    factor: f64,
    target: Target,
) -> Line {
    Line { name, figure, unit, factor, target }
}

/// The targets are the issue's.
static LINES: [Line; 4] = [
    line("flood-lost", &["flooded", "lost_share"], "%", 100.0, Target::AtMost(0.1)),
    line("flood-p99-growth", &["p99_growth"], "×", 1.0, Target::AtMost(1.2)),
    line("quiet-p99", &["quiet", "p99_us"], "µs", 1.0, Target::None),
    line("flood-p99", &["flooded", "p99_us"], "µs", 1.0, Target::None),
];

/// What comes in while there is a flood. Without XDP its sender, on the CPU that takes it, has time for less.
const RATE: &str = "flood-rate";

/// The rate, but for what pacing leaves out.
const LEAST: f64 = 0.95 * 1_500_000.0;

const WITHOUT: &str = "XDP off";

/// Each line of each kind, by the name of its row.
fn lines() -> impl Iterator<Item = (String, &'static str, &'static Line)> {
    LINES.iter().flat_map(|line| KINDS.map(|kind| (format!("{}-{kind}", line.name), kind, line)))
}

/// Whether it is a row of these.
pub(super) fn has(name: &str) -> bool {
    name == RATE || lines().any(|(of, ..)| of == name)
}

/// The rows of those that are wanted.
pub(super) fn rows(bin: &Path, quick: bool, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Row>> {
    let lines: Vec<_> = lines().filter(|(name, ..)| wanted(name)).collect();
    if lines.is_empty() && !wanted(RATE) {
        return Ok(Vec::new());
    }
    let dataplane = bin.join("shoal-dataplane").display().to_string();
    let length: &[&str] = if quick { &["--runs", "2", "--run-ms", "800"] } else { &[] };
    let cases = cases("shoal-xdpflood", &[&["--dataplane", dataplane.as_str()], length].concat())?;
    let find = |name: &str| cases.iter().find(|case| case["case"] == name).with_context(|| format!("no case {name}"));
    let (with, without) = (find("on")?, find("off")?);
    let rate = figure(with, &["flood_rate"]);
    let short = (rate < LEAST).then(|| format!("the flood came to {rate:.0} packets/s only"));
    let row = |case: String, figure: &dyn Fn(&Value) -> f64, unit, target| Row {
        case,
        ours: figure(with),
        peer: figure(without),
        peer_name: WITHOUT.to_owned(),
        unit,
        target,
        invalid: short.clone(),
    };
    let mut rows: Vec<Row> = lines
        .into_iter()
        .map(|(name, kind, line)| {
            let figure = |case: &Value| line.factor * figure(&case[kind], line.figure);
            row(name, &figure, line.unit, line.target)
        })
        .collect();
    if wanted(RATE) {
        rows.push(row(RATE.to_owned(), &|case| figure(case, &["flood_rate"]), "packets/s", Target::None));
    }
    Ok(rows)
}

/// A figure by its path.
fn figure(value: &Value, path: &[&str]) -> f64 {
    path.iter().fold(value, |value, name| &value[name]).as_f64().unwrap_or(MISSING)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_found_by_their_path_and_others_are_missing() {
        let case = json!({ "binding": { "flooded": { "lost_share": 0.5 }, "p99_growth": 2 } });
        let [lost, growth, p99, _] = &LINES;
        assert_eq!(figure(&case["binding"], lost.figure), 0.5);
        assert_eq!(figure(&case["binding"], growth.figure), 2.0);
        assert!(figure(&case["binding"], p99.figure).is_nan() && figure(&case["channel"], lost.figure).is_nan());
    }
}
