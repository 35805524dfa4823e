//! Results: on the screen, as JSON, and in perf/RESULTS.md.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::load::Run;

/// The figure of a server that cannot do what a case asks for. It meets nothing.
pub(super) const MISSING: f64 = f64::NAN;

/// One line of the table: medians.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) case: String,
    /// Or [`MISSING`], as the peer's.
    pub(super) ours: f64,
    pub(super) peer: f64,
    pub(super) peer_name: String,
    pub(super) unit: &'static str,
    pub(super) target: Target,
    /// Why some run was no measure of the servers, such as a load generator that was the bottleneck.
    pub(super) invalid: Option<String>,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// Ours over the peer's at least this.
    RatioAtLeast(f64),
    /// Ours over the peer's at most this.
    RatioAtMost(f64),
    /// Ours at least this.
    AtLeast(f64),
    /// Ours at most this.
    AtMost(f64),
    /// None: only to be known.
    None,
}

impl Row {
    /// The medians of a figure of `[ours, the peer's]` runs.
    pub(super) fn of_runs(
        case: &str,
        peer_name: &str,
        unit: &'static str,
        runs: [Vec<Run>; 2],
        figure: impl Fn(&Run) -> f64,
        target: Target,
    ) -> Self {
        let invalid = runs.iter().flatten().find_map(|run| run.invalid.clone());
        let [ours, peer] = runs.map(|runs| median(runs.iter().map(&figure).collect()));
        Self { case: case.to_owned(), ours, peer, peer_name: peer_name.to_owned(), unit, target, invalid }
    }

    /// A case that could not be measured.
    pub(super) fn failed(case: &str, unit: &'static str, target: Target, why: &anyhow::Error) -> Self {
        let why = format!("COULD NOT MEASURE, and so failed: {why:#}");
        let (case, peer_name) = (case.to_owned(), "–".to_owned());
        Self { case, ours: 0.0, peer: 0.0, peer_name, unit, target, invalid: Some(why) }
    }

    pub(super) fn ratio(&self) -> f64 {
        if self.is_missing() {
            return MISSING;
        }
        if self.peer > 0.0 { self.ours / self.peer } else { 0.0 }
    }

    fn is_missing(&self) -> bool {
        self.ours.is_nan() || self.peer.is_nan()
    }

    pub(super) fn met(&self) -> bool {
        let met = match self.target {
            Target::RatioAtLeast(target) => self.ratio() >= target,
            Target::RatioAtMost(target) => self.peer > 0.0 && self.ratio() <= target,
            Target::AtLeast(target) => self.ours >= target,
            Target::AtMost(target) => self.ours <= target,
            Target::None => !self.ours.is_nan(),
        };
        self.invalid.is_none() && met
    }

    /// The row in Markdown, which reads well on a screen too.
    pub(super) fn line(&self) -> String {
        let met = match (&self.invalid, self.met()) {
            (Some(why), _) => format!("invalid: {why}"),
            (None, _) if self.ours.is_nan() => "no: missing".to_owned(),
            (None, true) if matches!(self.target, Target::None) => "–".to_owned(),
            (None, true) => "yes".to_owned(),
            (None, false) => "no".to_owned(),
        };
        let unit = self.unit;
        let target = match self.target {
            Target::RatioAtLeast(target) => format!("≥ {target:.2}"),
            Target::RatioAtMost(target) => format!("≤ {target:.2}"),
            Target::AtLeast(target) => format!("≥ {} {unit}", figure(target)),
            Target::AtMost(target) => format!("≤ {} {unit}", figure(target)),
            Target::None => "–".to_owned(),
        };
        let with_unit = |value: f64| if value.is_nan() { figure(value) } else { format!("{} {unit}", figure(value)) };
        // A peer that does nothing at all is none.
        let alone = self.peer == 0.0;
        let (ours, peer) = (with_unit(self.ours), if alone { "–".to_owned() } else { with_unit(self.peer) });
        let ratio = if self.is_missing() || alone { "–".to_owned() } else { format!("{:.2}", self.ratio()) };
        format!("| {} | {ours} | {peer} | {} | {ratio} | {target} | {met} |", self.case, self.peer_name)
    }
}

/// The middle value; of an even number the mean of the middle two.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        None => 0.0,
        Some(upper) if values.len() % 2 == 1 => *upper,
        Some(upper) => (values.get(middle - 1).unwrap_or(upper) + upper) / 2.0,
    }
}

/// The table in Markdown.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("| case | shoal | peer | | ratio | target | met |\n|---|--:|--:|---|--:|--:|---|\n");
    for row in rows {
        text.push_str(&row.line());
        text.push('\n');
    }
    text
}

/// Three digits at least, where there are any.
fn figure(value: f64) -> String {
    if value.is_nan() {
        return "missing".to_owned();
    }
    if value >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The figures for programs.
pub(super) fn to_json(rows: &[Row]) -> Value {
    let figures = |row: &Row| {
        let (of, value) = match row.target {
            Target::RatioAtLeast(value) => (Some("ratio at least"), Some(value)),
            Target::RatioAtMost(value) => (Some("ratio at most"), Some(value)),
            Target::AtLeast(value) => (Some("ours at least"), Some(value)),
            Target::AtMost(value) => (Some("ours at most"), Some(value)),
            Target::None => (None, None),
        };
        json!({
            "case": row.case,
            "ours": row.ours,
            "peer": row.peer,
            "peer_name": row.peer_name,
            "unit": row.unit,
            "ratio": row.ratio(),
            "target": value,
            "target_is": of,
            "met": row.met(),
            "invalid_because": row.invalid,
        })
    };
    rows.iter().map(figures).collect()
}

/// Replaces what stands between the markers of `name` in `file`, or appends it.
pub(crate) fn record(file: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let old = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    fs::write(file, replaced(&old, name, text)).with_context(|| format!("cannot write {}", file.display()))
}

fn replaced(old: &str, name: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- begin {name} -->"), format!("<!-- end {name} -->"));
    let new = format!("{begin}\n{}\n{end}", text.trim_end());
    match (old.split_once(begin.as_str()), old.split_once(end.as_str())) {
        (Some((before, _)), Some((_, after))) => format!("{before}{new}{after}"),
        _ => format!("{}\n\n{new}\n", old.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn a_table_is_replaced_where_it_stands() {
        let first = replaced("# Results\n", "a", "one");
        let second = replaced(&first, "b", "two");
        let third = replaced(&second, "a", "three\n");
        assert_eq!(
            third,
            "# Results\n\n<!-- begin a -->\nthree\n<!-- end a -->\n\n<!-- begin b -->\ntwo\n<!-- end b -->\n"
        );
    }

    fn row(target: Target, ours: f64, peer: f64) -> Row {
        Row {
            case: "c".to_owned(),
            ours,
            peer,
            peer_name: "nginx".to_owned(),
            unit: "requests/s",
            target,
            invalid: None,
        }
    }

    #[test]
    fn targets_are_for_the_ratio_or_for_our_figure_alone() {
        for (target, ours, peer, met) in [
            (Target::RatioAtLeast(1.5), 150.0, 100.0, true),
            (Target::RatioAtLeast(1.5), 149.0, 100.0, false),
            (Target::RatioAtMost(1.1), 110.0, 100.0, true),
            (Target::RatioAtMost(1.1), 111.0, 100.0, false),
            (Target::RatioAtMost(1.1), 111.0, 0.0, false),
            (Target::AtLeast(90.0), 90.0, 95.0, true),
            (Target::AtLeast(90.0), 89.0, 10.0, false),
            (Target::AtMost(4096.0), 4096.0, 1.0, true),
            (Target::AtMost(4096.0), 4097.0, 9999.0, false),
        ] {
            assert_eq!(row(target, ours, peer).met(), met, "{target:?} {ours} {peer}");
        }
    }

    #[test]
    fn a_case_that_could_not_be_measured_is_in_the_table_and_has_failed() {
        let why = anyhow::anyhow!("3 of 9 answers were wrong").context("tls-1m");
        let failed = Row::failed("tls-1m", "requests/s", Target::RatioAtLeast(1.0), &why);
        assert!(!failed.met() && to_json(std::slice::from_ref(&failed))[0]["met"] == false);
        let line = failed.line();
        assert!(line.contains("| tls-1m |") && line.contains("so failed: tls-1m: 3 of 9 answers were wrong"), "{line}");
    }

    #[test]
    fn what_a_server_cannot_do_is_missing_and_so_not_met() {
        for target in [Target::RatioAtLeast(0.0), Target::AtMost(9.0), Target::None] {
            let row = row(target, MISSING, 5.0);
            assert!(!row.met());
            assert!(row.line().contains("| missing | 5 requests/s | nginx | – |"), "{}", row.line());
            assert!(row.line().ends_with("| no: missing |"));
            let json = &to_json(&[row])[0];
            assert_eq!((&json["ours"], &json["ratio"], &json["met"]), (&Value::Null, &Value::Null, &json!(false)));
        }
        assert!(row(Target::None, 1.0, 5.0).met());
        assert!(row(Target::None, 1.0, 5.0).line().ends_with("| 0.20 | – | – |"));
    }

    #[test]
    fn a_row_bound_by_the_generator_meets_nothing() {
        let valid = row(Target::RatioAtLeast(1.5), 150.0, 100.0);
        let invalid = Row { invalid: Some("the load generator was the bottleneck".to_owned()), ..valid.clone() };
        assert_eq!(to_json(std::slice::from_ref(&valid))[0]["met"], true);
        assert_eq!(to_json(std::slice::from_ref(&invalid))[0]["met"], false);
        assert!(markdown(&[invalid]).contains("| invalid: the load generator was the bottleneck |"));
        assert!(markdown(&[valid]).contains("| c | 150 requests/s | 100 requests/s | nginx | 1.50 | ≥ 1.50 | yes |"));
    }
}
