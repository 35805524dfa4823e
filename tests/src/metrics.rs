//! The Prometheus text format, as far as tests read it.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

/// One line of a scrape.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Name with its suffix.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

impl Metrics {
    /// Reads a scrape; panics at what is not the text format.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a metric: `{line}`"))).collect())
    }

    /// The sum over all samples of `name` that have all of `labels`; `None` when there is none.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &Sample| {
            labels.iter().all(|(name, value)| sample.labels.get(*name).is_some_and(|known| known == value))
        };
        let values: Vec<f64> =
            self.0.iter().filter(|sample| sample.name == name && has(sample)).map(|sample| sample.value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// The same, 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or(0.0)
    }

    /// All samples.
    pub fn samples(&self) -> &[Sample] {
        &self.0
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let mut map = BTreeMap::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (label, tail) = rest.split_once("=\"")?;
        let end = tail.find('"')?;
        map.insert(label.trim_start_matches(',').to_owned(), tail[..end].to_owned());
        rest = &tail[end + 1..];
    }
    Some(Sample { name: name.to_owned(), labels: map, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_label_and_summed() {
        let text = "# HELP a x\n# TYPE a counter\na{s=\"200\",t=\"x\"} 2\na{s=\"200\",t=\"y\"} 3\nb 1.5\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.get("a", &[("s", "200")]), Some(5.0));
        assert_eq!(metrics.get("a", &[("t", "y")]), Some(3.0));
        assert_eq!(metrics.get("b", &[]), Some(1.5));
        assert_eq!(metrics.get("a", &[("s", "404")]), None);
    }
}
