//! Who waited for whom, in the lines of one container.

use skiff_ebpf::Culprit;

use crate::profile::duration;

/// So many are named; the rest is added up.
const NAMED: usize = 6;

/// A container that is counted: its slot, what it is called, and for whom it waited, ns.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) slot: u32,
    pub(super) name: String,
    pub(super) blame: Vec<(Culprit, u64)>,
}

/// Whom the container in `slot` waited for, and who waited for it; a line each, unless nobody did.
pub(super) fn lines(all: &[Waiter], slot: u32) -> Vec<String> {
    let name = |slot: u32| all.iter().find(|one| one.slot == slot).map_or("ended", |one| &one.name);
    let own = all.iter().find(|one| one.slot == slot).map(|one| &one.blame);
    let culprit = |culprit: Culprit| match culprit {
        Culprit::Container(other) if other == slot => "itself".to_owned(),
        Culprit::Container(other) => name(other).to_owned(),
        Culprit::Host => "host".to_owned(),
        Culprit::Kernel => "kernel".to_owned(),
        Culprit::Nobody => "nobody".to_owned(),
        Culprit::Quota => "own quota".to_owned(),
        Culprit::Ended => "ended".to_owned(),
        Culprit::Untold => "unknown".to_owned(),
    };
    let waited_for = own.into_iter().flatten().map(|(of, ns)| (culprit(*of), *ns)).collect();
    let victims = all.iter().filter(|one| one.slot != slot).map(|one| {
        let of = one.blame.iter().filter(|(of, _)| *of == Culprit::Container(slot));
        (one.name.clone(), of.map(|(_, ns)| ns).sum())
    });
    let parts = [("waited for", waited_for), ("waited for it", victims.collect())];
    parts.into_iter().filter_map(|(title, parts)| line(title, parts)).collect()
}

fn line(title: &str, mut parts: Vec<(String, u64)>) -> Option<String> {
    parts.retain(|(_, ns)| *ns > 0);
    parts.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    let sum: u64 = parts.iter().map(|(_, ns)| ns).sum();
    let rest: u64 = parts.iter().skip(NAMED).map(|(_, ns)| ns).sum();
    parts.truncate(NAMED);
    parts.extend((rest > 0).then(|| ("others".to_owned(), rest)));
    let share = |(name, ns): &(String, u64)| {
        format!("{name} {} ({:.0} %)", duration(*ns as f64), *ns as f64 * 100.0 / sum as f64)
    };
    let parts: Vec<String> = parts.iter().map(share).collect();
    (!parts.is_empty()).then(|| format!("{title}: {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(slot: u32, name: &str, blame: &[(Culprit, u64)]) -> Waiter {
        Waiter { slot, name: name.to_owned(), blame: blame.to_vec() }
    }

    #[test]
    fn both_directions_are_told_the_longest_first() {
        let all = [
            waiter(
                0,
                "web",
                &[(Culprit::Host, 1_000_000), (Culprit::Container(2), 3_000_000), (Culprit::Container(7), 0)],
            ),
            waiter(2, "batch", &[(Culprit::Container(0), 500_000), (Culprit::Container(2), 9_000_000)]),
            waiter(3, "quiet", &[]),
        ];
        assert_eq!(
            lines(&all, 0),
            [
                "waited for: batch 3.00 ms (75 %), host 1.00 ms (25 %)",
                "waited for it: batch 500.0 µs (100 %)"
            ]
        );
        assert_eq!(
            lines(&all, 2),
            ["waited for: itself 9.00 ms (95 %), web 500.0 µs (5 %)", "waited for it: web 3.00 ms (100 %)"]
        );
        assert_eq!(lines(&all, 3), [""; 0]);
        assert_eq!(lines(&all, 9), [""; 0], "one that is not counted");
    }

    #[test]
    fn many_are_added_up() {
        let blame: Vec<_> = (10..20).map(|slot| (Culprit::Container(slot), u64::from(slot) * 1000)).collect();
        let text = lines(&[waiter(0, "web", &blame)], 0).join("");
        assert!(text.ends_with("others 46.0 µs (32 %)") && text.matches("ended").count() == NAMED, "{text}");
    }
}
