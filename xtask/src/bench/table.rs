//! Results: on the screen, as JSON, and in perf/RESULTS.md.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

/// One line of the table: medians.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) case: String,
    pub(super) ours: f64,
    pub(super) peer: f64,
    pub(super) peer_name: &'static str,
    pub(super) unit: &'static str,
    pub(super) target: f64,
    /// False when the load generator was the bottleneck in some run.
    pub(super) valid: bool,
}

impl Row {
    pub(super) fn ratio(&self) -> f64 {
        if self.peer > 0.0 { self.ours / self.peer } else { 0.0 }
    }

    pub(super) fn met(&self) -> bool {
        self.valid && self.ratio() >= self.target
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

/// The table in Markdown, which reads well on a screen too.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("| case | shoal | peer | | ratio | target | met |\n|---|--:|--:|---|--:|--:|---|\n");
    for row in rows {
        let met = match (row.valid, row.met()) {
            (false, _) => "invalid: bound by the load generator",
            (true, true) => "yes",
            (true, false) => "no",
        };
        text.push_str(&format!(
            "| {} | {:.0} {unit} | {:.0} {unit} | {} | {:.2} | {:.2} | {met} |\n",
            row.case,
            row.ours,
            row.peer,
            row.peer_name,
            row.ratio(),
            row.target,
            unit = row.unit,
        ));
    }
    text
}

/// The figures for programs.
pub(super) fn to_json(rows: &[Row]) -> Value {
    rows.iter()
        .map(|row| {
            json!({
                "case": row.case,
                "ours": row.ours,
                "peer": row.peer,
                "peer_name": row.peer_name,
                "unit": row.unit,
                "ratio": row.ratio(),
                "target": row.target,
                "met": row.met(),
            })
        })
        .collect()
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

    #[test]
    fn a_row_bound_by_the_generator_meets_nothing() {
        let row = |valid| Row {
            case: "c".to_owned(),
            ours: 150.0,
            peer: 100.0,
            peer_name: "nginx",
            unit: "requests/s",
            target: 1.5,
            valid,
        };
        assert_eq!(to_json(&[row(true)])[0]["met"], true);
        assert_eq!(to_json(&[row(false)])[0]["met"], false);
        assert!(markdown(&[row(false)]).contains("invalid"));
        assert!(markdown(&[row(true)]).contains("| c | 150 requests/s | 100 requests/s | nginx | 1.50 | 1.50 | yes |"));
    }
}
