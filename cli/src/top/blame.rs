//! Who waited for whom, in the lines of one container.

use std::cmp::Reverse;

use crate::blamed::Blamed;
use crate::profile::duration;

/// A container that is counted: its slot, what it is called, and for whom it waited, ns.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) slot: u32,
    pub(super) name: String,
    pub(super) blame: Vec<(Blamed, u64)>,
}

/// Names with how long each was waited for or did wait, ns: none 0, the longest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    title: &'static str,
    parts: Vec<(String, u64)>,
}

/// Whom the container in `slot` waited for, and who waited for it; a line each, unless nobody did. `named` says what the container in a
/// slot is called.
pub(super) fn lines(all: &[Waiter], named: &dyn Fn(u32) -> String, slot: u32) -> Vec<Line> {
    let own = all.iter().find(|one| one.slot == slot).map(|one| &one.blame);
    let culprit = |blamed: Blamed| {
        if blamed == Blamed::Container(slot) { "itself".to_owned() } else { blamed.words(named) }
    };
    let waited_for = own.into_iter().flatten().map(|(of, ns)| (culprit(*of), *ns)).collect();
    let victims = all.iter().filter(|one| one.slot != slot).map(|one| {
        let of = one.blame.iter().filter(|(of, _)| *of == Blamed::Container(slot));
        (one.name.clone(), of.map(|(_, ns)| ns).sum())
    });
    let parts = [("waited for", waited_for), ("waited for it", victims.collect())];
    parts.into_iter().filter_map(|(title, parts)| Line::new(title, parts)).collect()
}

impl Line {
    fn new(title: &'static str, mut parts: Vec<(String, u64)>) -> Option<Self> {
        parts.retain(|(_, ns)| *ns > 0);
        parts.sort_by_key(|(_, ns)| Reverse(*ns));
        (!parts.is_empty()).then_some(Self { title, parts })
    }

    /// In at most `width` columns: as many names as fit, and the rest added up.
    pub(super) fn text(&self, width: usize) -> String {
        let sum: u64 = self.parts.iter().map(|(_, ns)| ns).sum();
        let share = |name: &str, ns: u64| {
            format!("{name} {} ({:.0} %)", duration(ns as f64), ns as f64 * 100.0 / sum as f64)
        };
        let (mut named, mut rest) = (format!("{}: ", self.title), sum);
        let mut text = named.clone() + &share("others", rest);
        for (name, ns) in &self.parts {
            named += &share(name, *ns);
            if named.chars().count() > width {
                break;
            }
            rest -= ns;
            let whole = if rest > 0 { format!("{named}, {}", share("others", rest)) } else { named.clone() };
            if whole.chars().count() <= width {
                text = whole;
            }
            named += ", ";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(slot: u32, name: &str, blame: &[(Blamed, u64)]) -> Waiter {
        Waiter { slot, name: name.to_owned(), blame: blame.to_vec() }
    }

    fn texts(all: &[Waiter], slot: u32, width: usize) -> Vec<String> {
        let named = |slot: u32| {
            all.iter().find(|one| one.slot == slot).map_or_else(|| format!("c{slot}"), |one| one.name.clone())
        };
        lines(all, &named, slot).iter().map(|line| line.text(width)).collect()
    }

    #[test]
    fn both_directions_are_told_the_longest_first() {
        let all = [
            waiter(
                0,
                "web",
                &[(Blamed::Host, 1_000_000), (Blamed::Container(2), 3_000_000), (Blamed::Container(7), 0)],
            ),
            waiter(2, "batch", &[(Blamed::Container(0), 500_000), (Blamed::Container(2), 9_000_000)]),
            waiter(3, "quiet", &[]),
        ];
        assert_eq!(
            texts(&all, 0, 80),
            [
                "waited for: batch 3.00 ms (75 %), host 1.00 ms (25 %)",
                "waited for it: batch 500.0 µs (100 %)"
            ]
        );
        assert_eq!(
            texts(&all, 2, 80),
            ["waited for: itself 9.00 ms (95 %), web 500.0 µs (5 %)", "waited for it: web 3.00 ms (100 %)"]
        );
        assert_eq!(texts(&all, 3, 80), [""; 0]);
        assert_eq!(texts(&all, 9, 80), [""; 0], "one that is not counted");
    }

    #[test]
    fn what_does_not_fit_is_added_up() {
        let blame: Vec<_> = (10..20).map(|slot| (Blamed::Container(slot), u64::from(slot) * 1000)).collect();
        let all = [waiter(0, "web", &blame)];
        let text = |width| texts(&all, 0, width).concat();
        assert_eq!(text(80), "waited for: c19 19.0 µs (13 %), c18 18.0 µs (12 %), others 108.0 µs (74 %)");
        assert_eq!(text(79), text(80), "it has that many");
        assert_eq!(text(20), "waited for: others 145.0 µs (100 %)");
        assert!(text(400).ends_with("c11 11.0 µs (8 %), c10 10.0 µs (7 %)"), "{}", text(400));
        for width in 40..300 {
            assert!(text(width).chars().count() <= width, "{width}: {}", text(width));
        }
    }
}
