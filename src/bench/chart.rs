//! Line charts side by side, drawn as SVG: scales, ticks, lines and a legend.
//!
//! It knows numbers and words, and not what they mean: see [`super::plot`].

use std::fmt::Write;

const PANEL_WIDTH: f64 = 380.0;
const PANEL_HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 46.0;
const TITLE_HEIGHT: f64 = 52.0;
const LEGEND_WIDTH: f64 = 170.0;
/// Ticks of an axis, at most.
const TICKS: f64 = 5.0;
/// Where a largest value can be told from nothing, and drawn.
const DRAWN: std::ops::Range<f64> = 1e-6..1e15;
/// Okabe and Ito's colours, which the colour-blind can tell apart.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// A page of charts that share their horizontal axis and their legend.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// Above all.
    pub title: String,
    /// Below the title.
    pub subtitle: String,
    /// What the horizontal axis counts.
    pub x_label: String,
    /// Its values, at equal distances.
    pub x: Vec<String>,
    /// Names of the lines; the n-th of each panel is the n-th of these.
    pub lines: Vec<String>,
    /// The charts.
    pub panels: Vec<Panel>,
}

/// One chart.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What the vertical axis counts.
    pub title: String,
    /// A value, or none, at each horizontal position.
    pub lines: Vec<Line>,
}

/// The values of one line.
#[derive(Debug, Clone)]
pub struct Line {
    /// Which name, and so which colour, it has.
    pub name: usize,
    /// Drawn dashed: a lesser line of the same name.
    pub dashed: bool,
    /// From left to right.
    pub values: Vec<Option<f64>>,
}

impl Chart {
    /// The page.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let width = PANEL_WIDTH * self.panels.len() as f64 + LEGEND_WIDTH;
        let height = TITLE_HEIGHT + PANEL_HEIGHT;
        let mut svg = Svg::default();
        svg.line(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">"
        ));
        svg.line(format_args!("<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"));
        svg.text((16.0, 26.0), "font-size=\"17\" font-weight=\"bold\"", &self.title);
        svg.text((16.0, 46.0), "fill=\"#555\"", &self.subtitle);
        for (index, panel) in self.panels.iter().enumerate() {
            let left = PANEL_WIDTH * index as f64;
            svg.line(format_args!("<g transform=\"translate({left} {TITLE_HEIGHT})\">"));
            self.panel(&mut svg, panel);
            svg.line(format_args!("</g>"));
        }
        self.legend(&mut svg, width - LEGEND_WIDTH + 12.0);
        svg.line(format_args!("</svg>"));
        svg.0
    }

    fn panel(&self, svg: &mut Svg, panel: &Panel) {
        svg.text((LEFT, TOP - 16.0), "font-weight=\"bold\"", &panel.title);
        let values = panel.lines.iter().flat_map(|line| line.values.iter().flatten());
        let scale = Scale::to(values.copied().fold(0.0, f64::max));
        let right = PANEL_WIDTH - RIGHT;
        for (tick, label) in scale.ticks() {
            let y = scale.y(tick);
            svg.line(format_args!(
                "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e4e4e4\"/>"
            ));
            let place = (LEFT - 8.0, y + 4.0);
            svg.text(place, "text-anchor=\"end\" fill=\"#555\"", &label);
        }
        let bottom = PANEL_HEIGHT - BOTTOM;
        for (index, label) in self.x.iter().enumerate() {
            let place = (self.x_at(index), bottom + 18.0);
            svg.text(place, "text-anchor=\"middle\" fill=\"#555\"", label);
        }
        let middle = (f64::midpoint(LEFT, right), bottom + 38.0);
        svg.text(middle, "text-anchor=\"middle\"", &self.x_label);
        // The lesser lines first: the others lie above them.
        for dashed in [true, false] {
            for line in panel.lines.iter().filter(|line| line.dashed == dashed) {
                self.draw(svg, line, &scale);
            }
        }
    }

    fn draw(&self, svg: &mut Svg, line: &Line, scale: &Scale) {
        let places: Vec<(f64, f64)> = line
            .values
            .iter()
            .enumerate()
            .filter_map(|(index, value)| Some((self.x_at(index), scale.y((*value)?))))
            .collect();
        let points = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>();
        let colour = colour(line.name);
        let style = if line.dashed {
            "stroke-dasharray=\"4 4\" stroke-width=\"1.3\""
        } else {
            "stroke-width=\"2.2\""
        };
        svg.line(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" {style}/>",
            points.join(" ")
        ));
        let radius = if line.dashed { 2.0 } else { 3.2 };
        for (x, y) in places {
            svg.line(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>"
            ));
        }
    }

    fn legend(&self, svg: &mut Svg, left: f64) {
        for (index, name) in self.lines.iter().enumerate() {
            let y = TITLE_HEIGHT + TOP + 20.0 * index as f64;
            let (end, colour) = (left + 22.0, colour(index));
            svg.line(format_args!(
                "<line x1=\"{left}\" x2=\"{end}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" \
                 stroke-width=\"2.2\"/>"
            ));
            svg.text((left + 30.0, y + 4.0), "", name);
        }
        if self.panels.iter().flat_map(|panel| &panel.lines).any(|line| line.dashed) {
            let y = TITLE_HEIGHT + TOP + 20.0 * self.lines.len() as f64 + 6.0;
            svg.text((left, y + 4.0), "fill=\"#555\"", "solid p50, dashed p99");
        }
    }

    fn x_at(&self, index: usize) -> f64 {
        let width = PANEL_WIDTH - LEFT - RIGHT;
        LEFT + width * (index as f64 + 0.5) / self.x.len().max(1) as f64
    }
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

/// A vertical axis from 0 to a round number.
struct Scale {
    step: f64,
    top: f64,
}

impl Scale {
    /// One that `largest` fits on.
    fn to(largest: f64) -> Self {
        let largest = if DRAWN.contains(&largest) { largest } else { 1.0 };
        let rough = largest / TICKS;
        let power = 10_f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 2.5, 5.0].into_iter().find(|factor| factor * power >= rough);
        let step = factor.unwrap_or(10.0) * power;
        Self { step, top: (largest / step).ceil() * step }
    }

    /// Values, and how each is written.
    fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        let (step, top) = (self.step, self.top * (1.0 + f64::EPSILON * 8.0));
        // One more than the step's leading digit: 2.5 has two.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let digits = (1.0 - step.log10().floor()).max(0.0) as usize;
        let written = move |value: f64| {
            let text = format!("{value:.digits$}");
            let tidy =
                if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            (value, tidy.to_owned())
        };
        (0..).map(move |index| f64::from(index) * step).take_while(move |v| *v <= top).map(written)
    }

    fn y(&self, value: f64) -> f64 {
        let height = PANEL_HEIGHT - TOP - BOTTOM;
        PANEL_HEIGHT - BOTTOM - height * value / self.top
    }
}

#[derive(Default)]
struct Svg(String);

impl Svg {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = writeln!(self.0, "{line}");
    }

    fn text(&mut self, (x, y): (f64, f64), style: &str, text: &str) {
        let text = escaped(text);
        self.line(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>"));
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // What no XML may hold, however it is written.
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_scale_holds_its_largest_value_on_few_round_ticks(power in -5.9..14.9) {
            let largest = 10_f64.powf(power);
            let scale = Scale::to(largest);
            let ticks: Vec<String> = scale.ticks().map(|(_, label)| label).collect();
            let mut different = ticks.clone();
            different.dedup();
            prop_assert_eq!(&different, &ticks);
            prop_assert!(scale.top >= largest * 0.999_999 && scale.top <= largest * 2.0);
            prop_assert!((2..=7).contains(&ticks.len()), "{ticks:?}");
            prop_assert!((TOP - 1e-6..=PANEL_HEIGHT - BOTTOM).contains(&scale.y(largest)));
        }

        #[test]
        fn whatever_the_names_the_page_is_xml(name: String, values: Vec<Option<f64>>) {
            let finite = |value: Option<f64>| value.filter(|value| value.is_finite() && *value >= 0.0);
            let chart = Chart {
                title: name.clone(),
                x: vec![name.clone(); values.len()],
                lines: vec![name.clone()],
                panels: vec![Panel {
                    title: name,
                    lines: vec![Line {
                        name: 0,
                        dashed: true,
                        values: values.into_iter().map(finite).collect(),
                    }],
                }],
                ..Chart::default()
            };
            let svg = chart.to_svg();
            let parsed = roxmltree::Document::parse(&svg);
            prop_assert!(parsed.is_ok(), "{parsed:?}");
        }
    }

    #[test]
    fn ticks_are_written_shortly_and_nothing_is_drawn_up_to_one() {
        let labels = |largest: f64| -> Vec<String> {
            Scale::to(largest).ticks().map(|(_, label)| label).collect()
        };
        let unit = ["0", "0.2", "0.4", "0.6", "0.8", "1"];
        for largest in [0.0, -1.0, 1e-320, 1e308, f64::INFINITY, f64::NAN] {
            assert_eq!(labels(largest), unit, "{largest}");
        }
        assert_eq!(labels(12.5), ["0", "2.5", "5", "7.5", "10", "12.5"]);
        assert_eq!(labels(400.0), ["0", "100", "200", "300", "400"]);
    }
}
