//! Dependency arrows between the crates of the workspace: they point downward only.
//!
//! The table is the one of ARCHITECTURE.md. A member that is not in it has no place in the building yet and is an
//! error, so that a new crate cannot slip in unnoticed.

use crate::workspace::Member;

/// Where a crate stands, and thereby what it may depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// May depend on lower floors.
    Floor(u8),
    /// Uses the public items of every floor; nothing depends on it.
    Measure,
    /// Sees manifests and binaries from outside: depends on no crate of the workspace, and none depends on it.
    Outside,
}

const PLACES: &[(&str, Place)] = &[
    ("skiff-sys", Place::Floor(0)),
    ("skiff-ebpf-abi", Place::Floor(0)),
    ("skiff-store", Place::Floor(1)),
    ("skiff-ebpf", Place::Floor(1)),
    ("skiff-registry", Place::Floor(2)),
    ("skiff-observe", Place::Floor(2)),
    ("skiff-runtime", Place::Floor(2)),
    ("skiff-engine", Place::Floor(3)),
    ("skiff", Place::Floor(4)),
    ("skiff-benches", Place::Measure),
    ("skiff-tests", Place::Outside),
    ("skiff-probe", Place::Outside),
    ("skiff-vm-init", Place::Outside),
    ("xtask", Place::Outside),
];

/// One line for each member without a place and for each arrow that does not point downward.
pub(crate) fn violations(members: &[Member]) -> Vec<String> {
    let mut lines = Vec::new();
    for member in members {
        let Some(from) = place(&member.name) else {
            lines.push(format!("{} has no place in the table of xtask/src/arrows.rs", member.name));
            continue;
        };
        // A dependency without a place is reported once, as the member that it is.
        for (name, to) in member.depends_on.iter().filter_map(|name| Some((name, place(name)?))) {
            if !allowed(from, to) {
                lines.push(format!("{} ({from}) must not depend on {name} ({to})", member.name));
            }
        }
    }
    lines
}

fn place(name: &str) -> Option<Place> {
    PLACES.iter().find(|(known, _)| *known == name).map(|(_, place)| *place)
}

fn allowed(from: Place, to: Place) -> bool {
    match (from, to) {
        (Place::Floor(from), Place::Floor(to)) => to < from,
        (Place::Measure, Place::Floor(_)) => true,
        _ => false,
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Floor(floor) => write!(f, "floor {floor}"),
            Place::Measure => write!(f, "measure"),
            Place::Outside => write!(f, "outside"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `crate: dependency dependency …` → the violations, joined by newlines.
    fn check(member: &str, expect: &str) {
        let (name, depends_on) = member.split_once(':').unwrap();
        let depends_on = depends_on.split_whitespace().map(str::to_owned).collect();
        let lines = violations(&[Member { name: name.to_owned(), depends_on }]);
        assert_eq!(lines.join("\n"), expect, "{member}");
    }

    #[test]
    fn downward_arrows_pass() {
        check("skiff-sys:", "");
        check("skiff-ebpf: skiff-ebpf-abi skiff-sys", "");
        check("skiff: skiff-runtime skiff-ebpf skiff-store skiff-sys", "");
        check("skiff-benches: skiff-runtime skiff", "");
    }

    #[test]
    fn every_other_arrow_is_named() {
        check("skiff-sys: skiff-runtime", "skiff-sys (floor 0) must not depend on skiff-runtime (floor 2)");
        check("skiff-store: skiff-ebpf", "skiff-store (floor 1) must not depend on skiff-ebpf (floor 1)");
        check("skiff-runtime: xtask", "skiff-runtime (floor 2) must not depend on xtask (outside)");
        check("skiff-tests: skiff-sys", "skiff-tests (outside) must not depend on skiff-sys (floor 0)");
        check(
            "skiff-ebpf-abi: skiff-sys skiff",
            "skiff-ebpf-abi (floor 0) must not depend on skiff-sys (floor 0)\n\
             skiff-ebpf-abi (floor 0) must not depend on skiff (floor 4)",
        );
    }

    #[test]
    fn a_member_without_a_place_is_an_error() {
        check("skiff-new: skiff-sys", "skiff-new has no place in the table of xtask/src/arrows.rs");
    }
}
