//! A flame graph: one SVG file that needs nothing else. Each function is a box as wide as its samples, on top of what called it.
//!
//! Without a script it can be looked at, and boxes tell their names and figures (`<title>`). With one, a box that is clicked takes the
//! whole width, and what matches a word is marked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{FrameKind, Profile};

const WIDTH: f64 = 1200.0;
const ROW: f64 = 17.0;
const TOP: f64 = 60.0;
const MARGIN: f64 = 10.0;
/// Boxes that are narrower are left out.
const NARROWEST: f64 = 0.1;
/// Of a letter, and the least that is worth a name.
const LETTER: f64 = 6.6;
/// Rows that are drawn.
const DEPTH_MAX: usize = 256;

const SCRIPT: &str = include_str!("flame.js");
const STYLE: &str = "text{font:12px monospace;fill:#1a1a1a;pointer-events:none}#head{font-size:17px}rect{stroke:#fff;stroke-width:.5}\
    g.f:hover rect,g.f:focus rect{stroke:#000;stroke-width:1}g.f{cursor:pointer;outline:none}.marked rect{fill:#d33ad3}\
    .button{cursor:pointer;pointer-events:all;text-decoration:underline}";

/// A function on a path of calls.
#[derive(Debug, Default)]
struct Node {
    samples: u64,
    kind: Option<FrameKind>,
    callees: BTreeMap<String, Node>,
}

impl Profile {
    /// The graph, under a `title`.
    #[must_use]
    pub fn flame_graph(&self, title: &str) -> String {
        let mut root = Node::default();
        for stack in &self.stacks {
            root.samples += stack.samples;
            let kinds =
                stack.frames.iter().filter_map(|frame| self.frames.get(*frame)).map(|frame| Some(frame.kind));
            let mut node = &mut root;
            for (name, kind) in self.names(stack).zip(std::iter::once(None).chain(kinds)).take(DEPTH_MAX) {
                node = node.callees.entry(name.to_owned()).or_default();
                node.samples += stack.samples;
                node.kind = kind;
            }
        }
        let height = TOP + (root.depth() as f64 + 2.0) * ROW + MARGIN;
        let mut svg = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" version=\"1.1\" width=\"{WIDTH}\" \
             height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"head\">\n<style>{STYLE}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fdf6e3\"/>\n<text id=\"head\" x=\"{MARGIN}\" y=\"24\">{}</text>\n\
             <text id=\"about\" x=\"{MARGIN}\" y=\"44\">{} samples, {} per second of CPU time, {} lost</text>\n\
             <text id=\"found\" x=\"{}\" y=\"44\" text-anchor=\"end\"></text>\n<g id=\"boxes\">\n",
            escaped(title),
            self.samples,
            self.hz,
            self.lost,
            WIDTH - MARGIN,
        );
        if root.samples > 0 {
            let drawing = Drawing { all: root.samples, height };
            drawing.draw(&mut svg, "all", &root, 0, 0.0);
        }
        svg.push_str("</g>\n<script><![CDATA[\n");
        svg.push_str(SCRIPT);
        svg.push_str("]]></script>\n</svg>\n");
        svg
    }
}

impl Node {
    fn depth(&self) -> usize {
        self.callees.values().map(|callee| callee.depth() + 1).max().unwrap_or(0)
    }
}

struct Drawing {
    all: u64,
    height: f64,
}

impl Drawing {
    fn draw(&self, svg: &mut String, name: &str, node: &Node, depth: usize, before: f64) {
        let whole = WIDTH - 2.0 * MARGIN;
        let share = node.samples as f64 / self.all as f64;
        let (x, width) = (MARGIN + before * whole, share * whole);
        if width < NARROWEST {
            return;
        }
        let y = self.height - MARGIN - (depth as f64 + 1.0) * ROW;
        let room = ((width - 4.0) / LETTER).max(0.0);
        let shown: String = if room < 3.0 {
            String::new()
        } else if name.chars().count() as f64 <= room {
            name.to_owned()
        } else {
            // Not negative, and small.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a number of letters"
            )]
            let letters = room as usize - 1;
            name.chars().take(letters).chain(['…']).collect()
        };
        let name = escaped(name);
        let _written = writeln!(
            svg,
            "<g class=\"f\" tabindex=\"0\" data-n=\"{name}\" data-x=\"{before:.6}\" data-w=\"{share:.6}\"><title>{name}: {} samples, {:.2} \
             %</title><rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{:.1}\" rx=\"1.5\" fill=\"{}\"/><text x=\"{:.2}\" y=\"{:.1}\">{}</text></g>",
            node.samples,
            share * 100.0,
            ROW - 1.0,
            color(&name, node.kind),
            x + 3.0,
            y + 12.0,
            escaped(&shown),
        );
        let mut at = before;
        for (name, callee) in &node.callees {
            self.draw(svg, name, callee, depth + 1, at);
            at += callee.samples as f64 / self.all as f64;
        }
    }
}

/// Warm for programs, orange for the kernel, grey for what has no name; a little different by name.
fn color(name: &str, kind: Option<FrameKind>) -> String {
    let hash =
        name.bytes().fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    let (hue, saturation) = match kind {
        None => (210, 30),
        Some(FrameKind::Kernel) => (28 + hash % 12, 90),
        Some(FrameKind::File) => (70 + hash % 60, 50),
        Some(FrameKind::Anonymous) => (160 + hash % 30, 45),
        Some(FrameKind::Unknown) => (0, 0),
    };
    format!("hsl({hue},{saturation}%,{}%)", 68 + hash / 256 % 10)
}

/// Text as XML has it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::profile::tests::example;
    use super::*;

    #[test]
    fn boxes_are_as_wide_as_their_samples() {
        let svg = example().flame_graph("a <container> & more");
        let document = roxmltree::Document::parse(&svg).expect("XML");
        let boxes: Vec<_> =
            document.descendants().filter(|node| node.attribute("class") == Some("f")).collect();
        let width = |name: &str| {
            let found = boxes.iter().find(|node| node.attribute("data-n") == Some(name)).expect(name);
            found.attribute("data-w").and_then(|width| width.parse::<f64>().ok()).expect("a number")
        };
        for (name, samples) in [("all", 6.0), ("old", 6.0), ("main", 5.0), ("do_it", 1.0), ("[unknown]", 1.0)]
        {
            assert!((width(name) - samples / 6.0).abs() < 1e-5, "{name}");
        }
        let text = |node: &roxmltree::Node<'_, '_>| {
            node.descendants().filter_map(|part| part.text()).collect::<String>()
        };
        assert!(
            text(&boxes[0]).contains("all: 6 samples, 100.00 %"),
            "it tells its figures without a script"
        );
        let head = document.descendants().find(|node| node.attribute("id") == Some("head")).expect("a head");
        assert_eq!(head.text(), Some("a <container> & more"));
    }

    #[test]
    fn names_cannot_leave_their_place() {
        assert_eq!(escaped("\"><script>\u{1}&"), "&quot;&gt;&lt;script&gt;?&amp;");
        assert!(!SCRIPT.contains("]]>"));
    }

    #[test]
    fn an_empty_profile_is_a_picture_too() {
        assert!(roxmltree::Document::parse(&Profile::default().flame_graph("nothing")).is_ok());
    }
}
