//! Small plots of the last hours, as SVG without a script. The same figures are beside each plot as text.

use maud::{Markup, html};

use crate::admin::pulse::MINUTES;

const HEIGHT: f64 = 64.0;
/// Space above the highest point, so that its line is not cut.
const AIR: f64 = 2.0;

/// One line of a plot: a value a minute, newest last; none where there was nothing to measure.
pub struct PlotLine {
    /// Its class in the style sheet: `first` or `second`.
    pub class: &'static str,
    pub values: Vec<Option<f64>>,
}

/// Draws the lines over six hours, on one scale from zero to `top`.
pub fn plot(label: &str, lines: &[PlotLine], top: f64) -> Markup {
    html! {
        svg viewBox={ "0 0 " (MINUTES) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(label) {
            @for line in lines {
                path.(line.class) d=(path(&line.values, top)) vector-effect="non-scaling-stroke" {}
            }
        }
    }
}

/// The highest value of all lines.
pub fn top(lines: &[PlotLine]) -> f64 {
    let values = lines.iter().flat_map(|line| line.values.iter().flatten());
    values.fold(0.0, |top, value| value.max(top))
}

fn path(values: &[Option<f64>], top: f64) -> String {
    let newest = values.len();
    let mut path = String::new();
    let mut pen_is_down = false;
    for (i, value) in values.iter().enumerate() {
        let Some(value) = value else {
            pen_is_down = false;
            continue;
        };
        let x = (MINUTES + i + 1).saturating_sub(newest);
        let share = if top > 0.0 { value / top } else { 0.0 };
        let y = HEIGHT - 1.0 - share * (HEIGHT - 1.0 - AIR);
        // A minute alone is drawn as a dash of its own.
        path += &if pen_is_down {
            format!("L{x} {y:.1}")
        } else {
            format!("M{} {y:.1}L{x} {y:.1}", x.saturating_sub(1))
        };
        pen_is_down = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_minute_is_at_the_right_and_gaps_stay_gaps() {
        assert_eq!(
            path(&[Some(0.0), None, Some(2.0), Some(1.0)], 2.0),
            "M356 63.0L357 63.0M358 2.0L359 2.0L360 32.5"
        );
        assert_eq!(path(&[], 1.0), "");
    }
}
