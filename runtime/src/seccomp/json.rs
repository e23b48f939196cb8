//! Profiles in docker's JSON format, as `--security-opt seccomp=FILE` takes them.

use serde::Deserialize;
use skiff_sys::seccomp::Flags;

use super::rules::{Action, Condition, Rules};
use super::words::{self, Admitted, Surplus, X86_64};
use super::{Error, Kernel, When, invalid};
use crate::caps::CapSet;

/// A profile that has been read and found valid.
#[derive(Debug, Clone)]
pub(super) struct Custom {
    default: Action,
    compat: bool,
    pub(super) flags: Flags,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    names: Vec<String>,
    action: Action,
    conditions: Vec<Condition>,
    when: When,
}

impl Custom {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let file: File = serde_json::from_str(text).map_err(Error::Json)?;
        if !file.architectures.is_empty() && !file.arch_map.is_empty() {
            return Err(invalid("architectures", "not possible together with archMap"));
        }
        let default = action(&file.default_action, file.default_errno_ret)
            .map_err(|what| invalid("defaultAction", what))?;
        let mut rules = Vec::with_capacity(file.syscalls.len());
        for (index, entry) in file.syscalls.into_iter().enumerate() {
            let rule =
                entry.rule().map_err(|(field, what)| invalid(&format!("syscalls[{index}].{field}"), what))?;
            rules.extend(rule);
        }
        let own = file.arch_map.iter().find(|map| map.architecture == X86_64);
        let others = own.map_or(Some(&file.architectures), |map| map.sub_architectures.as_ref());
        let compat = Admitted::of(others.map_or(&[], Vec::as_slice)).x86;
        let flags = file
            .flags
            .as_deref()
            .map_or(Ok(super::FLAGS), words::flags_of)
            .map_err(|what| invalid("flags", what))?;
        Ok(Self { default, compat, flags, rules })
    }

    pub(super) fn rules(&self, caps: CapSet, kernel: Kernel) -> Rules<'_> {
        let mut rules = Rules::new(self.default, self.compat);
        for rule in self.rules.iter().filter(|rule| rule.when.applies(caps, kernel)) {
            rules.add(&rule.names, rule.action, &rule.conditions);
        }
        rules
    }
}

/// This machine in the words of `includes.arches` and `excludes.arches`.
const NATIVE: &str = "amd64";

/// What went wrong in an entry: the field below it, and what is the matter.
type Fault = (String, String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    architectures: Vec<String>,
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    caps: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Entry {
    /// The rule, unless it can never apply on this machine.
    fn rule(self) -> Result<Option<Rule>, Fault> {
        let names = match (self.name, self.names) {
            (Some(name), None) => vec![name],
            (None, Some(names)) => names,
            (Some(_), Some(_)) => return Err(fault("name", "not possible together with names")),
            (None, None) => return Err(fault("names", "missing")),
        };
        let action = action(&self.action, self.errno_ret).map_err(|what| fault("action", what))?;
        let mut conditions = Vec::new();
        for (index, argument) in self.args.into_iter().flatten().enumerate() {
            conditions.push(
                argument
                    .condition()
                    .map_err(|(field, what)| fault(&format!("args[{index}].{field}"), what))?,
            );
        }
        let when = when(self.includes.unwrap_or_default(), self.excludes.unwrap_or_default())?;
        Ok(when.map(|when| Rule { names, action, conditions, when }))
    }
}

impl Argument {
    fn condition(self) -> Result<Condition, Fault> {
        if self.index > 5 {
            return Err(fault("index", "a system call has arguments 0 to 5"));
        }
        let (operator, value) =
            words::operator(&self.op, self.value, self.value_two).map_err(|what| fault("op", what))?;
        Ok(Condition { argument: self.index, operator, value })
    }
}

/// When a rule with these filters applies; none if never on this machine.
fn when(includes: Filter, excludes: Filter) -> Result<Option<When>, Fault> {
    let here = |arches: &[String]| arches.iter().any(|arch| arch == NATIVE);
    let excluded = excludes.arches.as_deref().is_some_and(here);
    let included = includes.arches.as_deref().is_none_or(|arches| arches.is_empty() || here(arches));
    let mut when = When::ALWAYS;
    when.since = version(includes.min_kernel, "includes.minKernel")?;
    when.before = version(excludes.min_kernel, "excludes.minKernel")?;
    // Names are compared as they are. No container holds a capability that does not exist.
    let known = |name: &String| name.starts_with("CAP_").then(|| CapSet::named(name)).flatten();
    for name in excludes.caps.iter().flatten() {
        when.without |= known(name).unwrap_or_default();
    }
    for name in includes.caps.iter().flatten() {
        let Some(cap) = known(name) else { return Ok(None) };
        when.with |= cap;
    }
    Ok((included && !excluded).then_some(when))
}

fn version(text: Option<String>, field: &str) -> Result<Option<Kernel>, Fault> {
    text.map(|text| {
        Kernel::parse(&text).ok_or_else(|| fault(field, format!("{text:?} is no kernel version")))
    })
    .transpose()
}

/// Docker's profiles have nobody to send a listener to.
fn action(name: &str, errno: Option<u32>) -> Result<Action, String> {
    match words::action(name, errno, Surplus::Ignored)? {
        Action::NOTIFY => Err(format!("{name} is not supported")),
        action => Ok(action),
    }
}

fn fault(field: &str, what: impl Into<String>) -> Fault {
    (field.to_owned(), what.into())
}
