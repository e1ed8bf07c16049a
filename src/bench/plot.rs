//! A report as charts: throughput, time to first token and time between tokens.
//!
//! Over streams, with a line for each number of adapters; or, of a sweep, over adapters for each
//! slot, with a line for each number of streams.

use super::chart::{Chart, Line, Panel};
use super::measurement::Measurement;
use super::report::Report;
use super::statistics::Distribution;

/// The report as SVG.
#[must_use]
pub fn plot(report: &Report) -> String {
    let axes = Axes::of(&report.measurements);
    let setup = &report.setup;
    let chart = Chart {
        title: setup.base.clone(),
        subtitle: format!(
            "prompts of {} tokens, answers of {}, {} requests a stream",
            setup.prompt_tokens, setup.max_tokens, setup.requests_per_stream
        ),
        x_label: axes.x_label().to_owned(),
        x: axes.columns.clone(),
        lines: axes.lines.clone(),
        panels: vec![
            axes.panel("output tokens/s", &[(false, |m| Some(m.output_tokens_per_second))]),
            axes.panel(
                "time to first token, ms",
                &[(true, |m| p99(m.ttft_ms)), (false, |m| p50(m.ttft_ms))],
            ),
            axes.panel(
                "between tokens, ms",
                &[(true, |m| p99(m.itl_ms)), (false, |m| p50(m.itl_ms))],
            ),
        ],
    };
    chart.to_svg()
}

fn p50(times: Option<Distribution>) -> Option<f64> {
    times.map(|times| times.p50)
}

fn p99(times: Option<Distribution>) -> Option<f64> {
    times.map(|times| times.p99)
}

/// One value of a measurement, and whether it is the lesser of two.
type Reading = (bool, fn(&Measurement) -> Option<f64>);

/// Which measurement stands where.
struct Axes<'a> {
    sweep: bool,
    columns: Vec<String>,
    lines: Vec<String>,
    /// Line, column, value.
    cells: Vec<(usize, usize, &'a Measurement)>,
}

impl<'a> Axes<'a> {
    fn of(measurements: &'a [Measurement]) -> Self {
        let sweep = measurements.iter().any(|measured| measured.point.slots.is_some());
        let mut ordered: Vec<&Measurement> = measurements.iter().collect();
        // Ratios that differ only with their slots stand in their own order.
        let ratio = |measured: &Measurement| measured.point.adapters_per_slot.unwrap_or(0.0);
        if sweep {
            ordered.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
        }
        let mut axes = Self { sweep, columns: Vec::new(), lines: Vec::new(), cells: Vec::new() };
        for measured in &ordered {
            let (column, _) = axes.names(measured);
            position(&mut axes.columns, column);
        }
        for measured in measurements {
            let (column, line) = axes.names(measured);
            let column = position(&mut axes.columns, column);
            let line = position(&mut axes.lines, line);
            axes.cells.push((line, column, measured));
        }
        axes
    }

    /// The names of a measurement's column and line.
    fn names(&self, measured: &Measurement) -> (String, String) {
        let point = &measured.point;
        let streams = point.concurrency;
        if self.sweep {
            let column = point.ratio().unwrap_or_else(|| "base".to_owned());
            return (column, format!("{streams} streams"));
        }
        let line = match point.adapters {
            0 => "base".to_owned(),
            1 => "1 adapter".to_owned(),
            count => format!("{count} adapters"),
        };
        (streams.to_string(), line)
    }

    fn x_label(&self) -> &'static str {
        if self.sweep { "distinct adapters for each slot" } else { "streams" }
    }

    fn panel(&self, title: &str, readings: &[Reading]) -> Panel {
        let line = |name: usize, (dashed, read): Reading| {
            let mut values = vec![None; self.columns.len()];
            for (_, column, measured) in self.cells.iter().filter(|(line, ..)| *line == name) {
                values[*column] = read(measured);
            }
            Line { name, dashed, values }
        };
        let names = 0..self.lines.len();
        let lines = names.flat_map(|name| readings.iter().map(move |reading| line(name, *reading)));
        Panel { title: title.to_owned(), lines: lines.collect() }
    }
}

/// Where `name` stands in `names`, at whose end it is put if it is new.
fn position(names: &mut Vec<String>, name: String) -> usize {
    names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::Outcome;
    use crate::bench::plan::{Point, Sweep};

    fn measured(points: Vec<Point>) -> Vec<Measurement> {
        points.into_iter().map(|point| Measurement::new(point, &Outcome::default())).collect()
    }

    #[test]
    fn streams_run_to_the_right_and_adapters_are_lines() {
        let points =
            [(1, 0), (1, 4), (8, 0), (8, 4)].map(|(c, adapters)| Point::new(c, adapters, None));
        let measured = measured(points.to_vec());
        let axes = Axes::of(&measured);
        assert_eq!(
            (axes.columns, axes.lines),
            (
                vec!["1".to_owned(), "8".to_owned()],
                vec!["base".to_owned(), "4 adapters".to_owned()],
            )
        );
    }

    #[test]
    fn a_sweep_runs_over_ratios_in_order() {
        let sweep = Sweep { ratios: vec![0.5, 2.0], slots: None };
        let measured = measured(sweep.points(&[4, 16], 99).0);
        let axes = Axes::of(&measured);
        assert_eq!(axes.columns, ["base", "0.06", "0.25", "0.5", "2"]);
        assert_eq!(axes.lines, ["4 streams", "16 streams"]);
        let panel = axes.panel("", &[(false, |m| Some(m.seconds))]);
        assert_eq!(panel.lines[0].values, [Some(0.0), None, Some(0.0), Some(0.0), Some(0.0)]);
    }
}
