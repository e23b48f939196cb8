//! Pictures in SVG, which nothing but a browser is needed for.

use std::fmt::Write;

use super::bootstrap::Interval;
use super::metric::Unit;
use super::statistics::quantile;

/// How wide pictures are, in their own units.
const WIDTH: f64 = 720.0;
/// Room for names at the left.
const LEFT: f64 = 110.0;
/// Room at the right.
const RIGHT: f64 = 20.0;
/// Height of a row.
const ROW: f64 = 46.0;
/// Room for the axis at the bottom.
const AXIS: f64 = 26.0;

/// A scale from figures to places.
#[derive(Debug, Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// From the lowest to the highest of `figures`, with some room at both ends.
    fn of(figures: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) =
            figures.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        let room = match high - low {
            width if width > 0.0 => width * 0.04,
            _ => (high.abs() * 0.01).max(1.0),
        };
        Self { low: low - room, high: high + room, from, to }
    }

    fn place(&self, figure: f64) -> f64 {
        self.from + (figure - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round figures, some five of them.
    fn ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].iter().map(|factor| factor * power).find(|step| *step >= rough);
        let step = step.unwrap_or(power * 10.0);
        let first = (self.low / step).ceil();
        (0..12_u8)
            .map(|number| (first + f64::from(number)) * step)
            .take_while(|tick| *tick <= self.high)
            .collect()
    }
}

/// The figures of each side as dots over the box of their quartiles; the line is the statistic with its interval.
pub(super) fn distributions(sides: &[(&str, &[f64], Interval)], unit: Unit) -> String {
    let bottom = ROW * sides.len() as f64;
    let all = sides.iter().flat_map(|(_, figures, _)| figures.iter().copied());
    let scale = Scale::of(all, LEFT, WIDTH - RIGHT);
    let mut body = axis(&scale, bottom, &|tick| unit.show(tick));
    for (row, (name, figures, centre)) in sides.iter().enumerate() {
        let middle = ROW * (row as f64 + 0.5);
        let class = class(row);
        label(&mut body, name, middle);
        let mut sorted = figures.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let [low, high] = [0.25, 0.75].map(|level| scale.place(quantile(&sorted, level)));
        body += &format!(
            "<rect class=\"box {class}\" x=\"{low:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"28\"/>",
            middle - 14.0,
            (high - low).max(1.0),
        );
        // Dots are spread by their place in time, so that they do not hide each other.
        let dots = figures
            .iter()
            .enumerate()
            .map(|(at, figure)| (scale.place(*figure), middle - 11.0 + 22.0 * ((at * 7) % 23) as f64 / 22.0));
        body += &path(dots, class);
        if centre.is_bounded() {
            body += &span(&scale, centre, middle);
        }
    }
    picture(bottom + AXIS, &body)
}

/// Figures in the order of time; those of each side are a colour.
pub(super) fn order(runs: &[(usize, f64)], unit: Unit) -> String {
    const HEIGHT: f64 = 150.0;
    let scale = Scale::of(runs.iter().map(|(_, figure)| *figure), HEIGHT - 6.0, 6.0);
    let across = Scale { low: 0.0, high: runs.len().max(2) as f64 - 1.0, from: LEFT, to: WIDTH - RIGHT };
    let mut body = String::new();
    for tick in scale.ticks() {
        let y = scale.place(tick);
        body += &format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{:.1}\" \
             y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            unit.show(tick),
        );
    }
    for side in 0..2 {
        let dots = runs.iter().enumerate().filter(|(_, (of, _))| *of == side);
        body +=
            &path(dots.map(|(at, (_, figure))| (across.place(at as f64), scale.place(*figure))), class(side));
    }
    body += &format!(
        "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">in the order in which they were run</text>",
        f64::midpoint(LEFT, WIDTH),
        HEIGHT + 16.0,
    );
    picture(HEIGHT + AXIS, &body)
}

/// By how much B differs, in parts of A: a line for each metric, over what A differs from itself.
pub(super) fn differences(rows: &[(&str, Interval, f64)]) -> String {
    const HEIGHT: f64 = 26.0;
    let bottom = HEIGHT * rows.len() as f64;
    let ends = rows.iter().flat_map(|(_, interval, floor)| [interval.low, interval.high, -floor, *floor]);
    let scale = Scale::of(ends.chain([0.0]), LEFT, WIDTH - RIGHT);
    let mut body = axis(&scale, bottom, &|tick| format!("{:+}%", rounded(tick * 100.0)));
    let zero = scale.place(0.0);
    body += &format!("<line class=\"zero\" x1=\"{zero:.1}\" x2=\"{zero:.1}\" y1=\"0\" y2=\"{bottom:.1}\"/>");
    for (row, (name, interval, floor)) in rows.iter().enumerate() {
        let middle = HEIGHT * (row as f64 + 0.5);
        label(&mut body, name, middle);
        let [low, high] = [-floor, *floor].map(|end| scale.place(end));
        body += &format!(
            "<rect class=\"floor\" x=\"{low:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"18\"/>",
            middle - 9.0,
            (high - low).max(0.5),
        );
        body += &span(&scale, interval, middle);
    }
    picture(bottom + AXIS, &body)
}

/// Text in which nothing is markup, and no control character is left.
pub(super) fn text(raw: &str) -> String {
    let mut safe = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            // Neither do XML documents have these, nor people who read them.
            _ if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.extend(c.escape_default()),
            _ => safe.push(c),
        }
    }
    safe
}

fn class(side: usize) -> &'static str {
    if side == 0 { "a" } else { "b" }
}

fn picture(height: f64, body: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.1}\" role=\"img\">{body}</svg>\n")
}

fn label(body: &mut String, name: &str, middle: f64) {
    *body += &format!(
        "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        LEFT - 8.0,
        middle + 4.0,
        text(name)
    );
}

fn axis(scale: &Scale, bottom: f64, show: &dyn Fn(f64) -> String) -> String {
    let mut body = String::new();
    for tick in scale.ticks() {
        let x = scale.place(tick);
        body += &format!(
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom:.1}\"/><text class=\"tick\" x=\"{x:.1}\" \
             y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            text(&show(tick)),
        );
    }
    body
}

/// An interval with its estimate.
fn span(scale: &Scale, interval: &Interval, middle: f64) -> String {
    let [low, at, high] = [interval.low, interval.estimate, interval.high].map(|figure| scale.place(figure));
    format!(
        "<line class=\"span\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/><line class=\"span\" \
         x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
        middle - 8.0,
        middle + 8.0,
    )
}

/// Dots: lines without length, with round ends. One path is shorter than a thousand circles.
fn path(dots: impl Iterator<Item = (f64, f64)>, class: &str) -> String {
    let mut path = String::new();
    for (x, y) in dots {
        // Writing to a string cannot fail.
        let _infallible = write!(path, "M{x:.1} {y:.1}h0");
    }
    format!("<path class=\"dots {class}\" d=\"{path}\"/>")
}

/// Without the noise of binary fractions.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = Scale::of([0.0, 97.0].into_iter(), 0.0, 100.0);
        assert_eq!(scale.ticks(), [0.0, 50.0, 100.0]);
        for figures in [[1.0, 1.0], [-5e9, 3e12], [1e-9, 2e-9]] {
            let scale = Scale::of(figures.into_iter(), 0.0, 100.0);
            let ticks = scale.ticks();
            assert!((1..=11).contains(&ticks.len()), "{figures:?}: {ticks:?}");
            assert!(ticks.iter().all(|tick| (0.0..=100.0).contains(&scale.place(*tick))), "{figures:?}");
        }
    }

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(text("a<b> & \"c\"\u{1b}[2J\n"), "a&lt;b&gt; &amp; &quot;c&quot;\\u{1b}[2J\\n");
    }
}
