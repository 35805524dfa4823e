//! Charts as SVG: lines, areas and bars over the same labels, with a title, a description, and their figures as a table.

use maud::{Markup, html};

/// Size of the drawing, in units of its own; the page scales it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
/// Room at the edges. What the lines of the grid stand for is written above each, inside: narrow screens have larger letters.
const LEFT: f64 = 4.0;
const RIGHT: f64 = 4.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 28.0;
/// Lines of the grid.
const TICKS: usize = 4;
/// Labels below the axis, at most.
const MAX_LABELS: usize = 8;
/// Points of a series that are drawn and listed; those beyond are left out, the oldest first.
pub(crate) const MAX_POINTS: usize = 400;
/// Values beyond this are none: nothing that is counted gets there.
const MAX_VALUE: f64 = 1e24;
/// Series of one chart; each has a colour and a dash of its own.
pub(crate) const MAX_SERIES: usize = 6;

/// How values are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A line for each series.
    Line,
    /// A line, and what is below it filled.
    Area,
    /// Bars beside each other.
    Bar,
}

/// A chart.
pub(crate) struct Chart<'a> {
    /// Unique on its page.
    pub(crate) id: &'a str,
    /// What it shows.
    pub(crate) title: &'a str,
    pub(crate) shape: Shape,
    /// Writes a value with its unit.
    pub(crate) unit: fn(f64) -> String,
    /// What the labels are.
    pub(crate) axis: &'a str,
    /// One for each point.
    pub(crate) labels: Vec<String>,
    pub(crate) series: Vec<Series<'a>>,
}

/// Values of one thing over the labels; none where there is none.
pub(crate) struct Series<'a> {
    pub(crate) name: &'a str,
    pub(crate) values: Vec<Option<f64>>,
}

impl Chart<'_> {
    /// The figure, or a note that there is nothing to show.
    pub(crate) fn render(mut self) -> Markup {
        self.series.truncate(MAX_SERIES);
        let surplus = self.labels.len().saturating_sub(MAX_POINTS);
        self.labels.drain(..surplus);
        for series in &mut self.series {
            series.values.drain(..surplus.min(series.values.len()));
            series.values.resize(self.labels.len(), None);
            for value in &mut series.values {
                *value = value.filter(|number| (0.0..=MAX_VALUE).contains(number));
            }
        }
        let values = self.series.iter().flat_map(|series| &series.values).flatten();
        let Some(most) = values.copied().reduce(f64::max) else {
            return html! { p.nothing { (self.title) ": no data yet" } };
        };
        let top = nice(most);
        let (title_id, description_id) = (format!("{}-title", self.id), format!("{}-description", self.id));
        html! {
            figure.chart {
                figcaption id=(format!("{}-caption", self.id)) { (self.title) }
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-labelledby=(format!("{title_id} {description_id}")) {
                    title id=(title_id) { (self.title) }
                    desc id=(description_id) { (self.describe(most)) }
                    g aria-hidden="true" { (self.grid(top)) (self.marks(top)) }
                }
                @if self.series.len() > 1 { (self.legend()) }
                details {
                    summary { "The figures of “" (self.title) "”" }
                    div.scroll tabindex="0" role="region" aria-labelledby=(format!("{}-caption", self.id)) { (self.table()) }
                }
            }
        }
    }

    /// What somebody who does not see it is told first.
    fn describe(&self, most: f64) -> String {
        let mut text = format!("{} points", self.labels.len());
        if let (Some(first), Some(last)) = (self.labels.first(), self.labels.last()) {
            text.push_str(&format!(" from {first} to {last}"));
        }
        for series in &self.series {
            if let Some(last) = series.values.iter().rev().flatten().next() {
                text.push_str(&format!("; {}: {} at the end", series.name, (self.unit)(*last)));
            }
        }
        text.push_str(&format!("; at most {}.", (self.unit)(most)));
        text
    }

    fn x(&self, at: usize) -> f64 {
        let room = WIDTH - LEFT - RIGHT;
        let count = self.labels.len().max(1) as f64;
        match self.shape {
            Shape::Bar => LEFT + room * (at as f64 + 0.5) / count,
            _ if self.labels.len() < 2 => LEFT + room / 2.0,
            _ => LEFT + room * at as f64 / (count - 1.0),
        }
    }

    fn grid(&self, top: f64) -> Markup {
        let ticks = (0..=TICKS).map(|at| top * at as f64 / TICKS as f64);
        let step = self.labels.len().div_ceil(MAX_LABELS).max(1);
        html! {
            @for value in ticks {
                line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(round(y(value, top))) y2=(round(y(value, top))) {}
                @if value > 0.0 { text.tick x=(LEFT) y=(round(y(value, top) - 4.0)) { ((self.unit)(value)) } }
            }
            @for (at, label) in self.labels.iter().enumerate().step_by(step) {
                text.tick x=(round(self.x(at))) y=(HEIGHT - 8.0) text-anchor=(anchor(self.x(at))) { (label) }
            }
        }
    }

    fn marks(&self, top: f64) -> Markup {
        let slot = (WIDTH - LEFT - RIGHT) / self.labels.len().max(1) as f64;
        let width = slot * 0.8 / self.series.len().max(1) as f64;
        html! {
            @for (nth, series) in self.series.iter().enumerate() {
                g class=(format!("series s{nth}")) {
                    @if self.shape == Shape::Bar {
                        @for (at, value) in series.values.iter().enumerate() {
                            @if let Some(value) = value {
                                @let left = self.x(at) - slot * 0.4 + width * nth as f64;
                                rect x=(round(left)) y=(round(y(*value, top))) width=(round(width.max(0.5)))
                                    height=(round((y(0.0, top) - y(*value, top)).max(0.0))) {}
                            }
                        }
                    } @else {
                        @for run in runs(&series.values) {
                            @let points = run.iter().map(|(at, value)| (self.x(*at), y(*value, top))).collect::<Vec<_>>();
                            @if self.shape == Shape::Area { path.area d=(area(&points, y(0.0, top))) {} }
                            @if let [(x, y)] = points.as_slice() { circle cx=(round(*x)) cy=(round(*y)) r="3" {} }
                            @else { path.line d=(line(&points)) {} }
                        }
                    }
                }
            }
        }
    }

    fn legend(&self) -> Markup {
        html! {
            ul.legend {
                @for (nth, series) in self.series.iter().enumerate() {
                    li {
                        svg.key viewBox="0 0 24 12" aria-hidden="true" {
                            g class=(format!("series s{nth}")) {
                                @if self.shape == Shape::Bar { rect x="2" y="1" width="20" height="10" {} }
                                @else { path.line d="M0 6H24" {} }
                            }
                        }
                        (series.name)
                    }
                }
            }
        }
    }

    fn table(&self) -> Markup {
        html! {
            table {
                thead { tr { th scope="col" { (self.axis) } @for series in &self.series { th.number scope="col" { (series.name) } } } }
                tbody {
                    @for (at, label) in self.labels.iter().enumerate() {
                        tr {
                            th scope="row" { (label) }
                            @for series in &self.series {
                                td.number { @match series.values.get(at).copied().flatten() {
                                    Some(value) => { ((self.unit)(value)) },
                                    None => { "–" },
                                } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn y(value: f64, top: f64) -> f64 {
    TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / top)
}

/// Labels at the edges stay inside.
fn anchor(x: f64) -> &'static str {
    match x {
        ..40.0 => "start",
        600.0.. => "end",
        _ => "middle",
    }
}

/// The least of 1, 2, 2.5, 5 times a power of ten that is not below the value, and not 0.
fn nice(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(most.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|step| step * power >= most).unwrap_or(10.0);
    // The smallest numbers have no such power.
    Some(step * power).filter(|top| top.is_normal()).unwrap_or(1.0)
}

/// Values beside each other without a gap.
fn runs(values: &[Option<f64>]) -> Vec<Vec<(usize, f64)>> {
    let mut runs = vec![Vec::new()];
    for (at, value) in values.iter().enumerate() {
        match (value, runs.last_mut()) {
            (Some(value), Some(run)) => run.push((at, *value)),
            (None, Some(run)) if !run.is_empty() => runs.push(Vec::new()),
            _ => {}
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

fn line(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (at, (x, y)) in points.iter().enumerate() {
        path.push_str(&format!("{}{} {}", if at == 0 { 'M' } else { 'L' }, round(*x), round(*y)));
    }
    path
}

fn area(points: &[(f64, f64)], floor: f64) -> String {
    match (points.first(), points.last()) {
        (Some((first, _)), Some((last, _))) => {
            let floor = round(floor);
            format!("{}L{} {floor}L{} {floor}Z", line(points), round(*last), round(*first))
        }
        _ => String::new(),
    }
}

/// To a tenth of a unit: less to send.
fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::super::format;
    use super::*;

    fn chart(shape: Shape, values: Vec<Option<f64>>) -> String {
        let labels = (0..values.len()).map(|at| format!("{at:02}:00")).collect();
        let series = vec![Series { name: "edge", values }];
        Chart { id: "c", title: "Bandwidth", shape, unit: format::rate, axis: "Hour", labels, series }
            .render()
            .into_string()
    }

    #[test]
    fn a_chart_has_title_description_and_its_figures() {
        let svg = chart(Shape::Area, vec![Some(1e6), None, Some(3e6), Some(2.5e6)]);
        assert!(svg.contains("role=\"img\" aria-labelledby=\"c-title c-description\""), "{svg}");
        assert!(svg.contains("<title id=\"c-title\">Bandwidth</title>"));
        assert!(
            svg.contains(
                "4 points from 00:00 to 03:00; edge: 2.5\u{202f}Mbit/s at the end; at most 3.0\u{202f}Mbit/s."
            )
        );
        assert!(svg.contains("<th scope=\"row\">01:00</th><td class=\"number\">–</td>"));
        // One point before the gap, a line behind it; the top is 5 Mbit/s.
        assert_eq!((svg.matches("<circle").count(), svg.matches("class=\"line\"").count()), (1, 1), "{svg}");
        assert!(svg.contains(">5.0\u{202f}Mbit/s</text>") && svg.contains(">1.2\u{202f}Mbit/s</text>"));
    }

    #[test]
    fn bars_have_the_height_of_their_values() {
        let svg = chart(Shape::Bar, vec![Some(0.0), Some(500.0), Some(1000.0)]);
        let heights: Vec<&str> = svg.split("height=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(heights, ["0", "83", "166"], "{svg}");
    }

    #[test]
    fn odd_values_draw_nothing_odd() {
        assert!(chart(Shape::Line, vec![]).contains("no data yet"));
        assert!(
            chart(Shape::Line, vec![None, Some(f64::NAN), Some(f64::INFINITY), Some(-1.0)]).contains("no data yet")
        );
        for shape in [Shape::Line, Shape::Area, Shape::Bar] {
            for values in [
                vec![Some(0.0)],
                vec![Some(0.0); 3],
                vec![Some(MAX_VALUE), Some(f64::MAX), Some(5e-324)],
                vec![Some(5e-324)],
            ] {
                let svg = chart(shape, values);
                assert!(svg.contains("<svg") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
        let many = chart(Shape::Line, vec![Some(1.0); MAX_POINTS * 3]);
        assert_eq!(many.matches("<tr>").count(), MAX_POINTS + 1);
        assert!(many.matches("<text").count() <= TICKS + 1 + MAX_LABELS);
    }

    #[test]
    fn names_are_escaped() {
        let evil = "<script>alert(1)</script>\"'&";
        let series =
            vec![Series { name: evil, values: vec![Some(1.0)] }, Series { name: "b", values: vec![Some(1.0)] }];
        let labels = vec![evil.to_owned()];
        let svg = Chart { id: "c", title: evil, shape: Shape::Bar, unit: format::plain, axis: evil, labels, series };
        let svg = svg.render().into_string();
        assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;"), "{svg}");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (most, top) in
            [(0.0, 1.0), (1.0, 1.0), (3.0, 5.0), (21.0, 25.0), (0.03, 0.05), (99.0, 100.0), (101.0, 200.0)]
        {
            assert!((nice(most) - top).abs() < 1e-9, "{most}: {}", nice(most));
        }
    }
}
