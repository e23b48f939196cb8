//! What the container's program is started with.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::Resource;

use super::{CapSets, Process, c_bytes, c_path, c_text, hostname};
use crate::caps::CapSet;
use crate::host::Host;
use crate::options::{Options, Ulimit};
use crate::seccomp::Filter;
use crate::{Error, user};

pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn build(
    options: &Options,
    host: &Host,
    caps: CapSet,
    seccomp: Option<Filter>,
) -> Result<Process, Error> {
    if options.argv.is_empty() {
        return Err(Error::Option("no command specified".into()));
    }
    let may_set_groups = host.uid == 0 || host.sub_ids.is_some();
    if !may_set_groups && !options.group_add.is_empty() {
        return Err(Error::Option(
            "--group-add needs root, or subordinate ids in /etc/subuid and /etc/subgid".into(),
        ));
    }
    let identity = user::resolve(&options.user, &options.group_add, &host.passwd, &host.group)?;
    let env = environment(&options.env, &hostname(options, host), &identity.home, options.tty);
    let texts =
        |list: &[OsString]| list.iter().map(|text| c_bytes(text.as_bytes())).collect::<Result<_, _>>();
    Ok(Process {
        argv: texts(&options.argv)?,
        path: search(&env)?,
        env: texts(&env)?,
        cwd: c_path(&relative(&options.cwd)?)?,
        uid: identity.uid,
        gid: identity.gid,
        groups: may_set_groups.then_some(identity.groups),
        caps: kept(caps, identity.uid),
        drop: (0..=host.last_cap).filter(|number| caps.0 >> number & 1 == 0).collect(),
        no_new_privileges: options.no_new_privileges,
        rlimits: options.ulimits.iter().map(rlimit).collect::<Result<_, _>>()?,
        oom_score_adj: options.oom_score_adj.map(|score| c_text(&score.to_string())).transpose()?,
        seccomp,
        terminal: options.tty.then_some(host.terminal),
        interactive: options.interactive,
        init: options.init,
        ..Process::default()
    })
}

/// Puts the host name into the environment of a process, where its value is not one that was asked for.
pub(super) fn rename(process: &mut Process, options: &Options, hostname: &str) -> Result<(), Error> {
    const NAME: &str = "HOSTNAME";
    let is_own = !options.env.iter().any(|entry| name(entry) == NAME.as_bytes());
    let found =
        process.env.iter_mut().find(|entry| name(OsStr::from_bytes(entry.to_bytes())) == NAME.as_bytes());
    if let Some(entry) = found.filter(|_| is_own) {
        *entry = c_text(&format!("{NAME}={hostname}"))?;
    }
    Ok(())
}

/// Docker's: a user other than root may gain what is in the bounding set, and holds nothing.
fn kept(caps: CapSet, uid: u32) -> CapSets {
    let held = if uid == 0 { caps } else { CapSet::NONE };
    CapSets { bounding: caps, effective: held, permitted: held, ..CapSets::default() }
}

/// The working directory without its leading slash and without `..`; `.` for the root.
pub(crate) fn relative(path: &Path) -> Result<PathBuf, Error> {
    use std::path::Component;
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(if result.as_os_str().is_empty() { ".".into() } else { result })
}

/// The environment of a container's program to which `given` is given. Docker's order: what it adds, then what was given, of
/// which the last of each name counts; `HOME` at the end.
#[must_use]
pub fn environment(given: &[OsString], hostname: &str, home: &str, tty: bool) -> Vec<OsString> {
    let mut env: Vec<OsString> = vec![format!("PATH={DEFAULT_PATH}").into()];
    env.push(format!("HOSTNAME={hostname}").into());
    if tty {
        env.push("TERM=xterm".into());
    }
    for entry in given {
        match env.iter_mut().find(|known| name(known) == name(entry)) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    if value(&env, "HOME").is_none() {
        env.push(format!("HOME={home}").into());
    }
    env
}

fn name(entry: &OsStr) -> &[u8] {
    entry.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default()
}

fn value<'a>(env: &'a [OsString], wanted: &str) -> Option<&'a OsStr> {
    let entry = env.iter().find(|entry| name(entry) == wanted.as_bytes())?;
    entry.as_bytes().get(wanted.len() + 1..).map(OsStr::from_bytes)
}

/// The directories of `PATH` in `env`, in which a program is looked for whose name has no slash.
pub(crate) fn search(env: &[OsString]) -> Result<Vec<CString>, Error> {
    directories(value(env, "PATH").unwrap_or(OsStr::new(DEFAULT_PATH)))
}

/// Those of a `PATH`; an empty one is the working directory. environ(7).
pub(crate) fn directories(path: &OsStr) -> Result<Vec<CString>, Error> {
    let directories = path.as_bytes().split(|byte| *byte == b':');
    directories.map(|part| c_bytes(if part.is_empty() { b"." } else { part })).collect()
}

fn rlimit(limit: &Ulimit) -> Result<(Resource, u64, u64), Error> {
    let resource = match limit.name.as_str() {
        "as" => Resource::RLIMIT_AS,
        "core" => Resource::RLIMIT_CORE,
        "cpu" => Resource::RLIMIT_CPU,
        "data" => Resource::RLIMIT_DATA,
        "fsize" => Resource::RLIMIT_FSIZE,
        "locks" => Resource::RLIMIT_LOCKS,
        "memlock" => Resource::RLIMIT_MEMLOCK,
        "msgqueue" => Resource::RLIMIT_MSGQUEUE,
        "nice" => Resource::RLIMIT_NICE,
        "nofile" => Resource::RLIMIT_NOFILE,
        "nproc" => Resource::RLIMIT_NPROC,
        "rss" => Resource::RLIMIT_RSS,
        "rtprio" => Resource::RLIMIT_RTPRIO,
        "rttime" => Resource::RLIMIT_RTTIME,
        "sigpending" => Resource::RLIMIT_SIGPENDING,
        "stack" => Resource::RLIMIT_STACK,
        other => return Err(Error::Option(format!("unknown ulimit {other}"))),
    };
    Ok((resource, limit.soft, limit.hard))
}
