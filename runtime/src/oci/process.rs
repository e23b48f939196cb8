//! What a program is started with: `process` of a configuration, and of `exec`.

use std::ffi::CString;
use std::path::Path;

use nix::sched::CloneFlags;

use super::spec::{self, Capabilities, Linux, Seccomp};
use super::tables::{self, find};
use super::{Facts, Terms, c_text, invalid};
use crate::Error;
use crate::caps::CapSet;
use crate::error::OneLine;
use crate::plan::{self, CapSets, Listener, MemoryPolicy, Process, Scheduler, c_path, relative};
use crate::seccomp::{self, Filter};

/// Decides what the program `given` is started with, in a container configured by `linux`.
///
/// Errors: what must not be said, and what this host cannot do.
pub fn process(
    given: &spec::Process,
    linux: Option<&Linux>,
    facts: &Facts,
    terms: &Terms,
) -> Result<Process, Error> {
    if given.args.is_empty() {
        return Err(invalid("process.args", "empty"));
    }
    if !given.cwd.starts_with('/') {
        return Err(invalid("process.cwd", format!("{:?} is not absolute", given.cwd)));
    }
    let mut warnings = Vec::new();
    let caps = capabilities(given.capabilities.as_ref(), linux, facts, &mut warnings);
    let (seccomp, listener) = filter(linux)?;
    let variables = last_of_each(&given.env);
    let mut env = texts(&variables, "process.env")?;
    if let Some(home) = &facts.home {
        env.push(c_text(&format!("HOME={home}"), "HOME")?);
    }
    Ok(Process {
        argv: texts(&given.args, "process.args")?,
        path: search(&variables)?,
        env,
        cwd: c_path(&relative(Path::new(&given.cwd))?)?,
        uid: id(given.user.uid, "process.user.uid")?,
        gid: id(given.user.gid, "process.user.gid")?,
        groups: Some(given.user.additional_gids.clone()),
        umask: given.user.umask.map(umask).transpose()?,
        drop: (0..=facts.last_cap).filter(|number| caps.bounding.0 >> number & 1 == 0).collect(),
        caps,
        no_new_privileges: given.no_new_privileges,
        rlimits: rlimits(&given.rlimits)?,
        oom_score_adj: given.oom_score_adj.map(oom_score).transpose()?,
        seccomp,
        listener,
        terminal: given.terminal.then(|| given.console_size.as_ref().and_then(size)),
        interactive: true,
        descriptors: terms.descriptors.clone(),
        init: false,
        keep_keyring: terms.no_new_keyring,
        apparmor: label(&given.apparmor_profile, facts.apparmor, "process.apparmorProfile", "AppArmor")?,
        selinux: label(&given.selinux_label, facts.selinux, "process.selinuxLabel", "SELinux")?,
        scheduler: given.scheduler.as_ref().map(scheduler).transpose()?,
        io_priority: given.io_priority.as_ref().map(io_priority).transpose()?,
        personality: linux.and_then(|linux| linux.personality.as_ref()).map(personality).transpose()?,
        cpu_affinity: affinity(given.exec_cpu_affinity.as_ref())?,
        memory_policy: linux.and_then(|linux| linux.memory_policy.as_ref()).map(memory_policy).transpose()?,
        warnings,
    })
}

fn texts<T: AsRef<str>>(list: &[T], place: &str) -> Result<Vec<CString>, Error> {
    let c_text = |(index, text): (usize, &T)| {
        let has_nul = |_| invalid(&format!("{place}[{index}]"), "contains a NUL byte");
        CString::new(text.as_ref()).map_err(has_nul)
    };
    list.iter().enumerate().map(c_text).collect()
}

/// The environment with every variable once: of several entries for one the last, in the place of the first. Programs would
/// find the first, and whoever adds an entry to override another means the last; runc has it so too.
fn last_of_each(env: &[String]) -> Vec<&str> {
    let mut places = std::collections::BTreeMap::new();
    let mut variables: Vec<&str> = Vec::with_capacity(env.len() + 1);
    for entry in env {
        let name = entry.split('=').next().unwrap_or_default();
        let place = *places.entry(name).or_insert(variables.len());
        match variables.get_mut(place) {
            Some(known) => *known = entry,
            None => variables.push(entry),
        }
    }
    variables
}

/// The directories of `PATH` in `env`.
fn search(env: &[&str]) -> Result<Vec<CString>, Error> {
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(plan::DEFAULT_PATH);
    plan::directories(path.as_ref())
}

/// −1 means no change to setresuid(2) and nobody else.
fn id(id: u32, place: &str) -> Result<u32, Error> {
    if id == u32::MAX { Err(invalid(place, "4294967295 is no id")) } else { Ok(id) }
}

fn umask(mask: u32) -> Result<u32, Error> {
    if mask > 0o777 {
        Err(invalid("process.user.umask", format!("{mask} is greater than 511")))
    } else {
        Ok(mask)
    }
}

fn size(size: &spec::ConsoleSize) -> Option<skiff_sys::terminal::Size> {
    (size.height != 0 || size.width != 0)
        .then_some(skiff_sys::terminal::Size { rows: size.height, columns: size.width })
}

/// The five sets. What a host cannot grant is left out with a warning, as the specification asks.
fn capabilities(
    given: Option<&Capabilities>,
    linux: Option<&Linux>,
    facts: &Facts,
    warnings: &mut Vec<String>,
) -> CapSets {
    let Some(given) = given else { return CapSets::default() };
    let is_other = |entry: &spec::Namespace| {
        entry.r#type == "user" && (entry.path.is_empty() || !facts.shared.contains(CloneFlags::CLONE_NEWUSER))
    };
    let new_users = linux.is_some_and(|linux| linux.namespaces.iter().any(is_other));
    let all = CapSet::all(facts.last_cap);
    // Who makes or enters a user namespace has every capability in it.
    let held = if new_users { all } else { facts.caps & all };
    let mut unknown = std::collections::BTreeSet::new();
    let mut set = |names: &[String]| {
        let mut set = CapSet::NONE;
        for name in names {
            match name.strip_prefix("CAP_").and_then(CapSet::named) {
                Some(cap) if held.contains(cap) => set |= cap,
                _ => drop(unknown.insert(OneLine(name).to_string())),
            }
        }
        set
    };
    let wanted = CapSets {
        bounding: set(&given.bounding),
        effective: set(&given.effective),
        permitted: set(&given.permitted),
        inheritable: set(&given.inheritable),
        ambient: set(&given.ambient),
    };
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.into_iter().collect();
        warnings
            .push(format!("process.capabilities: unknown or unavailable, left out: {}", names.join(", ")));
    }
    granted(wanted, warnings)
}

/// What of `wanted` the kernel lets a process have. capabilities(7).
fn granted(wanted: CapSets, warnings: &mut Vec<String>) -> CapSets {
    let mut keep = |set: CapSet, of: CapSet, name: &str, why: &str| {
        let lost: Vec<_> = (set & !of).names().map(|cap| format!("CAP_{cap}")).collect();
        if !lost.is_empty() {
            warnings.push(format!("process.capabilities.{name}: not {why}, left out: {}", lost.join(", ")));
        }
        set & of
    };
    let CapSets { bounding, permitted, .. } = wanted;
    let effective = keep(wanted.effective, permitted, "effective", "permitted");
    let inheritable = keep(wanted.inheritable, bounding, "inheritable", "in the bounding set");
    // Nobody is told of these: `runc spec` writes ambient capabilities without the inheritable ones that they need.
    let ambient = wanted.ambient & permitted & inheritable;
    CapSets { bounding, effective, permitted, inheritable, ambient }
}

/// The system call filter, and who answers the calls that it hands on.
fn filter(linux: Option<&Linux>) -> Result<(Option<Filter>, Option<Listener>), Error> {
    let Some(given) = linux.and_then(|linux| linux.seccomp.as_ref()) else { return Ok((None, None)) };
    let filter = seccomp::compile_spec(given).map_err(seccomp_error)?;
    let Seccomp { listener_path, listener_metadata, .. } = given;
    if listener_path.is_empty() && !listener_metadata.is_empty() {
        return Err(invalid("linux.seccomp.listenerMetadata", "there is no listenerPath"));
    }
    if !filter.flags.listener {
        return Ok((Some(filter), None));
    }
    if !listener_path.starts_with('/') {
        let what = format!("SCMP_ACT_NOTIFY needs an absolute path, not {listener_path:?}");
        return Err(invalid("linux.seccomp.listenerPath", what));
    }
    let listener = Listener { socket: listener_path.into(), metadata: listener_metadata.clone() };
    Ok((Some(filter), Some(listener)))
}

fn seccomp_error(error: seccomp::Error) -> Error {
    match error {
        seccomp::Error::Invalid { place, what } => invalid(&format!("linux.seccomp.{place}"), what),
        other => Error::Option(other.to_string()),
    }
}

fn rlimits(given: &[spec::Rlimit]) -> Result<Vec<(nix::sys::resource::Resource, u64, u64)>, Error> {
    let mut limits: Vec<(nix::sys::resource::Resource, u64, u64)> = Vec::with_capacity(given.len());
    for (index, limit) in given.iter().enumerate() {
        let place = format!("process.rlimits[{index}]");
        let resource = find(tables::RLIMITS, &limit.r#type)
            .ok_or_else(|| invalid(&place, format!("unknown limit {:?}", limit.r#type)))?;
        if limits.iter().any(|(known, ..)| *known == resource) {
            return Err(invalid(&place, format!("second entry for {}", limit.r#type)));
        }
        if limit.soft > limit.hard {
            return Err(invalid(
                &place,
                format!("soft limit {} is above the hard limit {}", limit.soft, limit.hard),
            ));
        }
        limits.push((resource, limit.soft, limit.hard));
    }
    Ok(limits)
}

fn oom_score(score: i64) -> Result<CString, Error> {
    let place = "process.oomScoreAdj";
    if (-1000..=1000).contains(&score) {
        c_text(&score.to_string(), place)
    } else {
        Err(invalid(place, format!("{score} is not between -1000 and 1000")))
    }
}

/// A label of a security module that the host must have.
fn label(text: &str, enabled: bool, place: &str, module: &str) -> Result<Option<CString>, Error> {
    match text {
        "" => Ok(None),
        _ if !enabled => {
            Err(invalid(place, format!("{text:?} asked for, but {module} is not enabled on this host")))
        }
        _ => c_text(text, place).map(Some),
    }
}

fn scheduler(given: &spec::Scheduler) -> Result<Scheduler, Error> {
    let place = "process.scheduler";
    let policy = find(tables::POLICIES, &given.policy)
        .ok_or_else(|| invalid(place, format!("unknown policy {:?}", given.policy)))?;
    let mut flags = 0;
    for flag in &given.flags {
        flags |= find(tables::SCHEDULER_FLAGS, flag)
            .ok_or_else(|| invalid(place, format!("unknown flag {flag:?}")))?;
    }
    if !(-20..=19).contains(&given.nice) {
        return Err(invalid(place, format!("nice {} is not between -20 and 19", given.nice)));
    }
    let is_real_time = matches!(&*given.policy, "SCHED_FIFO" | "SCHED_RR");
    if given.priority != 0 && !is_real_time {
        return Err(invalid(place, "priority is for SCHED_FIFO and SCHED_RR only"));
    }
    if (given.runtime, given.deadline, given.period) != (0, 0, 0) && given.policy != "SCHED_DEADLINE" {
        return Err(invalid(place, "runtime, deadline and period are for SCHED_DEADLINE only"));
    }
    let priority = u32::try_from(given.priority)
        .map_err(|_| invalid(place, format!("priority {} is negative", given.priority)))?;
    Ok(Scheduler {
        policy,
        flags,
        nice: given.nice,
        priority,
        runtime_ns: given.runtime,
        deadline_ns: given.deadline,
        period_ns: given.period,
    })
}

fn io_priority(given: &spec::IoPriority) -> Result<u16, Error> {
    let place = "process.ioPriority";
    let class = find(tables::IO_CLASSES, &given.class)
        .ok_or_else(|| invalid(place, format!("unknown class {:?}", given.class)))?;
    match u16::try_from(given.priority) {
        Ok(level) if level < 8 => Ok(class << 13 | level),
        _ => Err(invalid(place, format!("priority {} is not between 0 and 7", given.priority))),
    }
}

fn personality(given: &spec::Personality) -> Result<u64, Error> {
    let place = "linux.personality";
    if let Some(flag) = given.flags.first() {
        return Err(invalid(place, format!("unknown flag {flag:?}")));
    }
    find(tables::PERSONALITIES, &given.domain)
        .ok_or_else(|| invalid(place, format!("unknown domain {:?}", given.domain)))
}

fn memory_policy(given: &spec::MemoryPolicy) -> Result<MemoryPolicy, Error> {
    let place = "linux.memoryPolicy";
    let mut mode = find(tables::MEMORY_POLICIES, &given.mode)
        .ok_or_else(|| invalid(place, format!("unknown mode {:?}", given.mode)))?;
    for flag in &given.flags {
        mode |= find(tables::MEMORY_POLICY_FLAGS, flag)
            .ok_or_else(|| invalid(place, format!("unknown flag {flag:?}")))?;
    }
    Ok(MemoryPolicy { mode, nodes: numbers(&given.nodes, place)? })
}

fn affinity(given: Option<&spec::CpuAffinity>) -> Result<[Option<Vec<usize>>; 2], Error> {
    let Some(given) = given else { return Ok([None, None]) };
    let list = |list: &str, place: &str| match list {
        "" => Ok(None),
        list => numbers(list, place).map(Some),
    };
    Ok([
        list(&given.initial, "process.execCPUAffinity.initial")?,
        list(&given.r#final, "process.execCPUAffinity.final")?,
    ])
}

/// More than any kernel has of CPUs or memory nodes.
const MAX_NUMBERS: usize = 1 << 16;

/// Reads a list of numbers and ranges as cpuset(7) writes them: `0-3,7`.
fn numbers(list: &str, place: &str) -> Result<Vec<usize>, Error> {
    let wrong = |part: &str| invalid(place, format!("{part:?} is not a list of numbers and ranges"));
    let one = |digits: &str, part: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = if plain { digits.parse().ok() } else { None };
        number.filter(|number| *number < MAX_NUMBERS).ok_or_else(|| wrong(part))
    };
    let mut found = vec![false; MAX_NUMBERS];
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (one(first, part)?, one(last, part)?);
        if first > last {
            return Err(wrong(part));
        }
        found[first..=last].fill(true);
    }
    Ok(found.iter().enumerate().filter(|(_, found)| **found).map(|(number, _)| number).collect())
}
