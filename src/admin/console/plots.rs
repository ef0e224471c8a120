//! Plots of minutes, as SVG without a script: axes, gaps where nothing ran, and the same figures as text.

use ::time::UtcOffset;
use maud::{Markup, html};

use super::page::Visit;
use crate::inbox::minutes::{MINUTE, MinuteFigures, MinuteRange};
use crate::time::{self, Millis};

const HEIGHT: f64 = 120.0;
/// Space above the highest value, so that its line is not cut.
const AIR: f64 = 2.0;
const HOUR: Millis = 60 * MINUTE;

/// A range of time that plots show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlotRange {
    Hour,
    SixHours,
    Day,
    Week,
}

impl PlotRange {
    /// Every range, the shortest first.
    pub const ALL: [Self; 4] = [Self::Hour, Self::SixHours, Self::Day, Self::Week];

    /// Returns the value in addresses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::SixHours => "6h",
            Self::Day => "24h",
            Self::Week => "7d",
        }
    }

    /// Returns the label of its link.
    pub fn label(self, visit: &Visit<'_>) -> &'static str {
        match self {
            Self::Hour => visit.say("1 小时", "1 h"),
            Self::SixHours => visit.say("6 小时", "6 h"),
            Self::Day => visit.say("24 小时", "24 h"),
            Self::Week => visit.say("7 天", "7 d"),
        }
    }

    /// Finds a range by its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|range| range.name() == name)
    }

    /// Minutes of one point: at most 360 points are drawn.
    fn step(self) -> u32 {
        match self {
            Self::Hour | Self::SixHours => 1,
            Self::Day => 5,
            Self::Week => 30,
        }
    }

    fn span(self) -> Millis {
        match self {
            Self::Hour => HOUR,
            Self::SixHours => 6 * HOUR,
            Self::Day => 24 * HOUR,
            Self::Week => 168 * HOUR,
        }
    }

    /// The distance between two marks of the time axis.
    fn mark(self) -> Millis {
        match self {
            Self::Hour => 10 * MINUTE,
            Self::SixHours => HOUR,
            Self::Day => 4 * HOUR,
            Self::Week => 24 * HOUR,
        }
    }

    /// Returns the minutes up to the current one, which is not whole yet.
    pub fn until(self, now: Millis) -> MinuteRange {
        let step = self.step();
        // Points begin at multiples of their step, so that a point's minutes stay the same from one look to the next.
        let point = Millis::from(step) * MINUTE;
        let from = (now - self.span()).div_euclid(point) * point;
        MinuteRange {
            from,
            until: now.div_euclid(MINUTE) * MINUTE,
            step,
        }
    }
}

/// The meaning of a line. Each has one colour on all plots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    Calls,
    Callbacks,
    Rejected,
    Median,
    Slowest,
}

impl Meaning {
    /// Returns its class in the style sheet.
    pub fn class(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Callbacks => "callbacks",
            Self::Rejected => "rejected",
            Self::Median => "median",
            Self::Slowest => "slowest",
        }
    }
}

/// One line of a plot.
pub struct PlotLine<'a> {
    /// Its meaning.
    pub meaning: Meaning,
    /// Its words in the legend.
    pub label: &'a str,
    /// Its value; `None` where there was nothing to measure.
    pub value: fn(&MinuteFigures) -> Option<f64>,
}

/// Figures over a range of time.
pub struct PlotFigures<'a> {
    /// The range.
    pub range: PlotRange,
    /// The minutes that it has.
    pub within: MinuteRange,
    /// The figures, oldest first.
    pub minutes: &'a [MinuteFigures],
    /// The last whole minute, where something ran in it.
    pub latest: Option<&'a MinuteFigures>,
}

impl PlotFigures<'_> {
    /// Renders one plot with its legend: the values of the last whole minute.
    pub fn plot(
        &self,
        visit: &Visit<'_>,
        title: &str,
        lines: &[PlotLine<'_>],
        unit: impl Fn(f64) -> String,
    ) -> Markup {
        let values = |line: &PlotLine<'_>| self.minutes.iter().filter_map(line.value);
        let highest = lines.iter().flat_map(values).fold(0.0, f64::max);
        let top = round_up(highest);
        let latest = |line: &PlotLine<'_>| self.latest.and_then(line.value);
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), &unit);
        let legend: Vec<_> = lines
            .iter()
            .map(|line| format!("{} {}", line.label, shown(latest(line))))
            .collect();
        let label = format!(
            "{title}: {}; {} {}",
            legend.join(", "),
            visit.say("最高", "highest"),
            unit(highest)
        );
        html! {
            figure {
                figcaption {
                    (title)
                    span { @for (line, words) in lines.iter().zip(&legend) { span { i.key.(line.meaning.class()) {} (words) } " " } }
                }
                div.plot {
                    div.scale aria-hidden="true" { span { (unit(top)) } span { (unit(top / 2.0)) } span { (unit(0.0)) } }
                    svg viewBox={ "0 0 1000 " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(label) {
                        path.grid d=(self.grid()) vector-effect="non-scaling-stroke" {}
                        @for line in lines { path.(line.meaning.class()) d=(self.path(line.value, top)) vector-effect="non-scaling-stroke" {} }
                    }
                    (self.marks())
                }
            }
        }
    }

    /// The place of a time on the axis, from 0 to 1.
    fn place(&self, at: Millis) -> f64 {
        let MinuteRange { from, until, .. } = self.within;
        (at - from) as f64 / (until - from).max(1) as f64
    }

    /// The times that have a mark.
    fn marked(&self) -> impl Iterator<Item = Millis> {
        let (mark, until) = (self.range.mark(), self.within.until);
        let first = self.within.from.div_euclid(mark) + 1;
        (first..)
            .map(move |n| n * mark)
            .take_while(move |at| *at <= until)
    }

    fn grid(&self) -> String {
        let mut path = format!("M0 {AIR}H1000M0 {}H1000", (HEIGHT + AIR) / 2.0);
        for at in self.marked() {
            path += &format!("M{:.1} 0V{HEIGHT}", self.place(at) * 1000.0);
        }
        path
    }

    /// Renders the marks of the time axis.
    fn marks(&self) -> Markup {
        html! {
            svg.marks aria-hidden="true" {
                @for at in self.marked() {
                    @let text = time::shown(at, UtcOffset::UTC);
                    // A label in the middle of its mark is cut at the edges.
                    @if (0.03..0.97).contains(&self.place(at)) {
                        text x={ (format!("{:.2}", self.place(at) * 100.0)) "%" } y="12" {
                            @if self.range == PlotRange::Week { (text.get(5..10).unwrap_or_default()) }
                            @else { (text.get(11..16).unwrap_or_default()) }
                        }
                    }
                }
            }
        }
    }

    fn path(&self, value: fn(&MinuteFigures) -> Option<f64>, top: f64) -> String {
        let step = Millis::from(self.within.step) * MINUTE;
        let mut path = String::new();
        let mut pen: Option<Millis> = None;
        for minute in self.minutes {
            let Some(value) = value(minute) else {
                pen = None;
                continue;
            };
            let end = (minute.at + step).min(self.within.until);
            let (begun, x) = (self.place(minute.at) * 1000.0, self.place(end) * 1000.0);
            let share = if top > 0.0 { value / top } else { 0.0 };
            let y = HEIGHT - 1.0 - share * (HEIGHT - 1.0 - AIR);
            // A point without a neighbour is drawn as a dash of its own.
            path += &if pen == Some(minute.at) {
                format!("L{x:.1} {y:.1}")
            } else {
                format!("M{:.1} {y:.1}L{x:.1} {y:.1}", begun.max(0.0))
            };
            pen = Some(minute.at + step);
        }
        path
    }
}

/// Rounds a highest value up to 1, 2 or 5 times a power of ten, so that the marks of the axis are read at a glance.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    // A hair above a step is the step: 5.000000000001 comes from adding up.
    let fits = steps.into_iter().find(|step| value <= step * (1.0 + 1e-9));
    fits.unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(at: Millis, calls: u64) -> MinuteFigures {
        MinuteFigures {
            at: at * MINUTE,
            minutes: 1,
            calls,
            ..MinuteFigures::default()
        }
    }

    #[test]
    fn the_newest_minute_is_at_the_right_and_gaps_stay_gaps() {
        let minutes = [figures(0, 0), figures(2, 2), figures(3, 1)];
        let plot = PlotFigures {
            range: PlotRange::Hour,
            within: MinuteRange {
                from: 0,
                until: 4 * MINUTE,
                step: 1,
            },
            minutes: &minutes,
            latest: minutes.last(),
        };
        assert_eq!(
            plot.path(|it| Some(it.calls as f64), 2.0),
            "M0.0 119.0L250.0 119.0M500.0 2.0L750.0 2.0L1000.0 60.5"
        );
        assert_eq!(plot.path(|_| None, 1.0), "");
    }

    #[test]
    fn an_axis_ends_at_a_round_value() {
        for (value, top) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (3.0, 5.0),
            (0.012, 0.02),
            (501.0, 1000.0),
        ] {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn a_range_ends_before_the_current_minute_and_begins_at_a_point() {
        let now = 1_488_340_805_007;
        for range in PlotRange::ALL {
            let within = range.until(now);
            assert!(now - within.until < MINUTE && within.until % MINUTE == 0);
            assert_eq!(within.from % (Millis::from(within.step) * MINUTE), 0);
            let points = (within.until - within.from) / MINUTE / Millis::from(within.step);
            assert!((60..=361).contains(&points), "{range:?}: {points}");
            assert_eq!(PlotRange::parse(range.name()), Some(range));
        }
    }
}
