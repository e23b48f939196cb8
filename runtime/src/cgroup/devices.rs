//! Which device nodes a container may use. Pure.

use skiff_sys::device_filter::{Access, Kind, Rule};

use crate::Error;
use crate::oci::spec::DeviceRule;

/// What every container of a bundle may use, whatever the bundle says: it may make any node, and open these. As character
/// devices: null, zero, full, random, urandom, tty, ptmx; the terminals of devpts. The console is one of those, while
/// the node 5:1 is the host's.
const DEFAULT: [(u32, Option<u32>); 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// The rules of a bundle, in order, and after them what is always allowed. What none allows is denied.
pub(super) fn rules(asked: &[DeviceRule]) -> Result<Vec<Rule>, Error> {
    let allow = |kind, major, minor, access| Rule { allow: true, kind: Some(kind), major, minor, access };
    let mut rules = asked.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
    rules.push(allow(Kind::Char, None, None, Access::MKNOD));
    rules.push(allow(Kind::Block, None, None, Access::MKNOD));
    rules.extend(DEFAULT.iter().map(|(major, minor)| allow(Kind::Char, Some(*major), *minor, Access::ALL)));
    Ok(rules)
}

fn rule(asked: &DeviceRule) -> Result<Rule, Error> {
    let invalid = |what: &str| Error::Option(format!("linux.resources.devices: {what}"));
    let kind = match asked.r#type.as_deref() {
        None | Some("" | "a") => None,
        Some("b") => Some(Kind::Block),
        Some("c" | "u") => Some(Kind::Char),
        Some(other) => return Err(invalid(&format!("{other:?} is no type of device"))),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => {
            u32::try_from(number).map(Some).map_err(|_| invalid(&format!("{number} is no device number")))
        }
    };
    let access = match asked.access.as_deref() {
        None | Some("") => Access::ALL,
        Some(letters) => {
            Access::parse(letters).ok_or_else(|| invalid(&format!("{letters:?} is no access")))?
        }
    };
    Ok(Rule { allow: asked.allow, kind, major: number(asked.major)?, minor: number(asked.minor)?, access })
}

/// The lines for the v1 files `devices.allow` (true) and `devices.deny`.
///
/// There a list is kept, of what is allowed after a rule that denies everything. A line of `devices.deny` takes away what
/// a line of the same numbers has allowed, and nothing else; so a rule that would make a hole in a wider one is an error.
pub(super) fn legacy_lines(rules: &[Rule]) -> Result<Vec<(bool, String)>, Error> {
    let deny_all = Rule { allow: false, kind: None, major: None, minor: None, access: Access::ALL };
    let mut lines = vec![(false, "a".to_owned())];
    let mut before: Vec<Rule> = vec![deny_all];
    for rule in rules.iter().flat_map(by_kind) {
        if rule.is_about_all() {
            before.clear();
            lines.clear();
        } else if let Some(wider) =
            before.iter().rfind(|other| other.allow != rule.allow && covers(other, &rule))
            && !wider.is_about_all()
            && (wider.major, wider.minor) != (rule.major, rule.minor)
        {
            return Err(Error::Option(format!(
                "cgroup v1 cannot make an exception for {rule} from {wider}: this needs an eBPF filter"
            )));
        }
        lines.push((rule.allow, rule.to_string()));
        before.push(rule);
    }
    Ok(lines)
}

/// In version 1 `a` stands for all devices of all numbers.
fn by_kind(rule: &Rule) -> Vec<Rule> {
    if rule.kind.is_some() || rule.is_about_all() {
        return vec![*rule];
    }
    [Kind::Block, Kind::Char].map(|kind| Rule { kind: Some(kind), ..*rule }).into()
}

fn covers(wide: &Rule, narrow: &Rule) -> bool {
    let number = |wide: Option<u32>, narrow: Option<u32>| wide.is_none() || wide == narrow;
    (wide.kind.is_none() || wide.kind == narrow.kind)
        && number(wide.major, narrow.major)
        && number(wide.minor, narrow.minor)
        && wide.access.intersects(narrow.access)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(allow: bool, kind: &str, numbers: (i64, i64), access: &str) -> DeviceRule {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let number = |number: i64| (number != -2).then_some(number);
        DeviceRule {
            allow,
            r#type: text(kind),
            major: number(numbers.0),
            minor: number(numbers.1),
            access: text(access),
        }
    }

    fn check(given: &[DeviceRule], expect: &[&str]) {
        let found = rules(given).and_then(|rules| legacy_lines(&rules[..given.len()]));
        let sign = |allow| if allow { '+' } else { '-' };
        let shown = match found {
            Ok(lines) => lines.iter().map(|(allow, line)| format!("{} {line}", sign(*allow))).collect(),
            Err(error) => vec![error.to_string()],
        };
        assert_eq!(shown, expect);
    }

    #[test]
    fn rules_become_lines_of_version_1() {
        check(&[], &["- a"]);
        check(
            &[asked(false, "a", (-1, -1), "rwm"), asked(true, "c", (10, 200), "rw")],
            &["- a *:* rwm", "+ c 10:200 rw"],
        );
        check(&[asked(true, "", (-2, -2), "")], &["+ a *:* rwm"]);
        check(&[asked(true, "u", (7, -2), "r")], &["- a", "+ c 7:* r"]);
        check(&[asked(true, "a", (7, -1), "r")], &["- a", "+ b 7:* r", "+ c 7:* r"]);
        check(
            &[asked(true, "c", (1, 3), "rwm"), asked(false, "c", (1, 3), "w")],
            &["- a", "+ c 1:3 rwm", "- c 1:3 w"],
        );
        check(
            &[asked(true, "c", (1, -1), "rwm"), asked(false, "c", (1, 3), "w")],
            &["cgroup v1 cannot make an exception for c 1:3 w from c 1:* rwm: this needs an eBPF filter"],
        );
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        check(&[asked(true, "x", (1, 3), "r")], &["linux.resources.devices: \"x\" is no type of device"]);
        check(&[asked(true, "c", (-7, 3), "r")], &["linux.resources.devices: -7 is no device number"]);
        check(&[asked(true, "c", (1, 3), "rx")], &["linux.resources.devices: \"rx\" is no access"]);
    }

    #[test]
    fn some_devices_are_always_allowed() {
        let rules = rules(&[asked(false, "a", (-1, -1), "rwm")]).expect("rules");
        let shown: Vec<String> = rules.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown.join(", "),
            "a *:* rwm, c *:* m, b *:* m, c 1:3 rwm, c 1:5 rwm, c 1:7 rwm, c 1:8 rwm, c 1:9 rwm, \
            c 5:0 rwm, c 5:2 rwm, c 136:* rwm"
        );
    }
}
