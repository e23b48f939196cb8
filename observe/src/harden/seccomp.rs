//! The filter, in the form of docker's profiles, which skiff, docker, podman and the kubelet's runtimes read.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::calls::{ALWAYS, ALWAYS_COMPAT, Engine, SIBLINGS};
use super::policy::Policy;

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// None of the flags that make namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// PER_LINUX, PER_LINUX32, UNAME26, both, and the question which it is.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// The last family of a contiguous range that the default filter allows, and those beyond.
const FAMILIES_BELOW: u64 = 12;
const FAMILIES: [u64; 25] =
    [13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45];

/// The filter of `policy` for `engine`, as JSON: everything else fails with `EPERM`.
#[must_use]
pub fn seccomp(policy: &Policy, engine: Engine) -> String {
    let needs = &policy.needs;
    let mut allowed: BTreeSet<&str> = needs.calls.iter().map(String::as_str).collect();
    let program: BTreeSet<&str> = allowed.clone();
    allowed.extend(ALWAYS.iter().map(|always| always.call));
    allowed.extend(
        SIBLINGS.iter().filter(|row| row.iter().any(|name| program.contains(name))).copied().flatten(),
    );
    if needs.compat {
        allowed.extend(ALWAYS_COMPAT);
    }
    let launch = engine.launch();
    allowed.extend(launch.calls);
    if needs.has_init {
        allowed.extend(engine.init());
    }
    let mut rules = clones(policy, &mut allowed, &program);
    if needs.conditions {
        rules.extend(conditional(&mut allowed));
    }
    let answers = answers(policy, &allowed, &rules);
    rules.extend(answers);
    let (seen, unseen): (Vec<&str>, Vec<&str>) = allowed.iter().partition(|name| program.contains(*name));
    let comment = format!("made by the program while it was recorded ({} runs)", needs.runs);
    let init = if needs.has_init { ", for its init" } else { "" };
    let reasons =
        format!("for {} to start it{init}, and what a run may do without being seen to", launch.runtime);
    rules.insert(0, rule(&seen, "SCMP_ACT_ALLOW", &comment));
    if !unseen.is_empty() {
        rules.insert(1, rule(&unseen, "SCMP_ACT_ALLOW", &reasons));
    }
    let mut architectures = vec!["SCMP_ARCH_X86_64"];
    if needs.compat {
        architectures.push("SCMP_ARCH_X86");
    }
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures,
        "syscalls": rules,
    });
    pretty(&profile)
}

/// Takes `clone` and `clone3` out of `allowed` where they are to make no namespaces, as by default without SYS_ADMIN: if that
/// filter was in force, or only the runtime makes them. Their rules.
fn clones(policy: &Policy, allowed: &mut BTreeSet<&str>, program: &BTreeSet<&str>) -> Vec<Value> {
    let mut rules = Vec::new();
    if policy.capabilities.contains("SYS_ADMIN") {
        return rules;
    }
    let conditions = policy.needs.conditions;
    let is_limited = |name: &str| conditions || !program.contains(name);
    // Its flags lie in memory, where a filter does not see them; libraries take this for an old kernel.
    if is_limited("clone3") && (allowed.remove("clone3") || conditions) {
        if program.contains("clone3") {
            allowed.insert("clone");
        }
        rules.push(errno("clone3", ENOSYS, "libraries use clone instead"));
    }
    if is_limited("clone") && allowed.remove("clone") {
        let arguments =
            json!([{"index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]);
        rules.push(with(rule(&["clone"], "SCMP_ACT_ALLOW", "no new namespaces"), arguments));
    }
    rules
}

/// Takes the other calls out of `allowed` that the default filter allows with some arguments only; their rules.
fn conditional(allowed: &mut BTreeSet<&str>) -> Vec<Value> {
    let mut rules = Vec::new();
    let equal = |value: &u64| json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"});
    if allowed.remove("personality") {
        rules.extend(PERSONALITIES.iter().map(|value| {
            with(rule(&["personality"], "SCMP_ACT_ALLOW", "as by default"), json!([equal(value)]))
        }));
    }
    if allowed.remove("socket") {
        let below = json!({"index": 0, "value": FAMILIES_BELOW, "op": "SCMP_CMP_LT"});
        let all = [below].into_iter().chain(FAMILIES.iter().map(equal));
        rules.extend(all.map(|condition| {
            with(rule(&["socket"], "SCMP_ACT_ALLOW", "families as by default"), json!([condition]))
        }));
    }
    rules
}

/// What the filter of the recording answered, it answers again: programs have found their way around it. `EPERM` is the default.
/// Calls that have `rules` keep to these.
fn answers(policy: &Policy, allowed: &BTreeSet<&str>, rules: &[Value]) -> Vec<Value> {
    let answered = policy.needs.answered.iter().filter(|(name, _)| !allowed.contains(name.as_str()));
    let coded = answered.filter_map(|(name, error)| {
        let code = skiff_sys::errno::number(error).and_then(|code| u16::try_from(code).ok())?;
        let has_rule = rules.iter().any(|rule| rule["names"][0] == name.as_str());
        (code != EPERM && !has_rule).then(|| errno(name, code, "as it was answered while it was recorded"))
    });
    coded.collect()
}

fn errno(name: &str, code: u16, comment: &str) -> Value {
    let mut rule = rule(&[name], "SCMP_ACT_ERRNO", comment);
    rule["errnoRet"] = code.into();
    rule
}

fn rule(names: &[&str], action: &str, comment: &str) -> Value {
    json!({"names": names, "action": action, "comment": comment})
}

fn with(mut rule: Value, arguments: Value) -> Value {
    rule["args"] = arguments;
    rule
}

pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
