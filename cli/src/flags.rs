//! Every flag of `skiff run`, declared once. The parser, `--help` and their tests read this table.
//!
//! Names and meanings are those of `docker run`. What docker has and skiff has not is in [`UNSUPPORTED`].

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::args::{Args, Pull, Report};
use crate::values::{self, Reason, environment, integer, limits, mounts, names, security, signals, sizes};

/// Flags that belong together, under one heading of the help.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) flags: &'static [Flag],
}

/// One flag.
#[derive(Debug)]
pub(crate) struct Flag {
    /// Without the dashes.
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    /// One line, for the help.
    pub(crate) help: &'static str,
    pub(crate) takes: Takes,
}

/// What follows a flag, and what it does to the arguments.
#[derive(Debug)]
pub(crate) enum Takes {
    /// Nothing, or `=true` or `=false`.
    Nothing(fn(&mut Args, bool)),
    /// A value, shown in the help by this word.
    Value(&'static str, fn(&mut Args, &str) -> Result<(), Reason>),
    /// A value that need not be text.
    Bytes(&'static str, fn(&mut Args, &OsStr) -> Result<(), Reason>),
    /// Nothing, or `=value`.
    Optional(&'static str, fn(&mut Args, Option<&OsStr>)),
}

const fn switch(
    short: Option<char>,
    long: &'static str,
    help: &'static str,
    set: fn(&mut Args, bool),
) -> Flag {
    Flag { long, short, help, takes: Takes::Nothing(set) }
}

const fn value(
    short: Option<char>,
    long: &'static str,
    placeholder: &'static str,
    help: &'static str,
    set: fn(&mut Args, &str) -> Result<(), Reason>,
) -> Flag {
    Flag { long, short, help, takes: Takes::Value(placeholder, set) }
}

const fn bytes(
    short: Option<char>,
    long: &'static str,
    placeholder: &'static str,
    help: &'static str,
    set: fn(&mut Args, &OsStr) -> Result<(), Reason>,
) -> Flag {
    Flag { long, short, help, takes: Takes::Bytes(placeholder, set) }
}

/// Puts a parsed value where it belongs.
fn put<T>(slot: &mut T, parsed: T) -> Result<(), Reason> {
    *slot = parsed;
    Ok(())
}

/// Adds a parsed value to those already there.
fn add<T>(list: &mut Vec<T>, parsed: T) -> Result<(), Reason> {
    list.push(parsed);
    Ok(())
}

/// The flags of `skiff run`.
pub(crate) static SECTIONS: &[Section] = &[
    Section { title: "Program", flags: PROGRAM },
    Section { title: "Lifecycle", flags: LIFECYCLE },
    Section { title: "Files", flags: FILES },
    Section { title: "Limits", flags: LIMITS },
    Section { title: "Security", flags: SECURITY },
    Section { title: "Namespaces", flags: NAMESPACES },
    Section { title: "Observation", flags: OBSERVATION },
];

static PROGRAM: &[Flag] = &[
    switch(Some('i'), "interactive", "pass standard input on; it is /dev/null otherwise", |a, on| {
        a.spec.options.interactive = on;
    }),
    switch(Some('t'), "tty", "run on a terminal of the container's own", |a, on| a.spec.options.tty = on),
    bytes(Some('e'), "env", "NAME[=VALUE]", "set a variable; without =VALUE, the caller's own", |a, v| {
        a.spec.env.extend(environment::variable(v)?);
        Ok(())
    }),
    bytes(None, "env-file", "FILE", "set the variables of a file, one per line", |a, v| {
        a.spec.env_file.extend(environment::file(v)?);
        Ok(())
    }),
    bytes(
        None,
        "entrypoint",
        "PROGRAM",
        "replace the image's entrypoint and command; \"\" drops them",
        |a, v| put(&mut a.spec.entrypoint, Some(v.to_owned())),
    ),
    value(Some('w'), "workdir", "DIR", "working directory, made if missing", |a, v| {
        if !v.starts_with('/') {
            return Err("not an absolute path".into());
        }
        put(&mut a.spec.options.cwd, PathBuf::from(v))
    }),
    value(Some('u'), "user", "USER[:GROUP]", "run as a user and group, by name or number", |a, v| {
        put(&mut a.spec.user, Some(v.to_owned()))
    }),
    value(None, "group-add", "GROUP", "add a group, by name or number", |a, v| {
        add(&mut a.spec.options.group_add, v.to_owned())
    }),
    switch(None, "init", "run a small init as process 1, which forwards signals and reaps", |a, on| {
        a.spec.options.init = on;
    }),
];

static LIFECYCLE: &[Flag] = &[
    value(None, "name", "NAME", "name the container", |a, v| {
        put(&mut a.spec.options.name, Some(names::container(v)?))
    }),
    switch(
        None,
        "rm",
        "remove the container when it exits; always done, with or without this flag",
        |_, _| {},
    ),
    bytes(None, "cidfile", "FILE", "write the container's id to a new file", |a, v| {
        put(&mut a.cidfile, Some(PathBuf::from(v)))
    }),
    value(Some('l'), "label", "KEY[=VALUE]", "attach a label", |a, v| {
        add(&mut a.spec.options.labels, names::label(v)?)
    }),
    value(None, "pull", "never", "images come from files: only 'never' is accepted", |_, v| Pull::check(v)),
    switch(None, "sig-proxy", "pass signals on to the program (default true)", |a, on| a.sig_proxy = on),
    value(
        None,
        "stop-signal",
        "SIGNAL",
        "signal that --timeout sends (default the image's, else TERM)",
        |a, v| put(&mut a.spec.stop_signal, Some(signals::signal(v)?)),
    ),
    value(
        None,
        "stop-timeout",
        "SECONDS",
        "kill so long after the stop signal; -1 never (default 10)",
        |a, v| {
            let seconds = integer(v, -1..=i64::from(i32::MAX))?;
            put(&mut a.spec.stop_timeout_s, u64::try_from(seconds).ok())
        },
    ),
    value(None, "timeout", "SECONDS", "stop the container after so long; 0 never", |a, v| {
        let seconds = integer(v, 0..=i64::from(i32::MAX))?;
        put(&mut a.spec.timeout_s, u64::try_from(seconds).ok().filter(|&s| s > 0))
    }),
];

static FILES: &[Flag] = &[
    value(
        Some('v'),
        "volume",
        "[SRC:]DST[:OPTIONS]",
        "bind a host path (ro, rslave, …) or add an empty volume",
        |a, v| add(&mut a.spec.options.mounts, mounts::volume(v)?),
    ),
    value(None, "mount", "KEY=VALUE,…", "mount type=bind, tmpfs or an anonymous volume", |a, v| {
        add(&mut a.spec.options.mounts, mounts::mount(v)?)
    }),
    value(None, "tmpfs", "DST[:OPTIONS]", "mount an empty tmpfs", |a, v| {
        add(&mut a.spec.options.mounts, mounts::tmpfs(v)?)
    }),
    switch(None, "read-only", "mount the root file system read-only", |a, on| a.spec.options.read_only = on),
    value(None, "shm-size", "SIZE", "size of /dev/shm (default 64m)", |a, v| match sizes::bytes(v)? {
        0 => Ok(()),
        size => put(&mut a.spec.options.shm_size_bytes, size),
    }),
    value(None, "device", "SRC[:DST][:rwm]", "let the container use a device of the host", |a, v| {
        add(&mut a.spec.options.devices, security::device(v)?)
    }),
];

static LIMITS: &[Flag] = &[
    value(Some('m'), "memory", "SIZE", "memory limit, at least 6m", |a, v| {
        put(&mut a.spec.options.resources.memory_bytes, Some(sizes::bytes(v)?).filter(|&size| size != 0))
    }),
    value(
        None,
        "memory-swap",
        "SIZE",
        "limit of memory plus swap; -1 unlimited (default twice --memory)",
        |a, v| {
            let size = sizes::bytes_or_unlimited(v)?;
            put(&mut a.spec.options.resources.memory_swap_bytes, Some(size).filter(|&size| size != 0))
        },
    ),
    value(None, "memory-reservation", "SIZE", "what reclaim leaves, at most --memory", |a, v| {
        put(
            &mut a.spec.options.resources.memory_reservation_bytes,
            Some(sizes::bytes(v)?).filter(|&size| size != 0),
        )
    }),
    value(None, "cpus", "NUMBER", "CPU time per time, such as 1.5", |a, v| {
        put(&mut a.spec.options.resources.nano_cpus, sizes::nano_cpus(v)?)
    }),
    value(Some('c'), "cpu-shares", "NUMBER", "weight against others (default 1024)", |a, v| {
        put(&mut a.spec.options.resources.cpu_shares, limits::cpu_shares(v)?)
    }),
    value(None, "cpu-period", "US", "period of --cpu-quota in µs (default 100000)", |a, v| {
        put(&mut a.spec.options.resources.cpu_period_us, limits::cpu_period(v)?)
    }),
    value(None, "cpu-quota", "US", "CPU time per period in µs; -1 unlimited", |a, v| {
        put(&mut a.spec.options.resources.cpu_quota_us, limits::cpu_quota(v)?)
    }),
    value(None, "cpuset-cpus", "LIST", "run on these CPUs, such as 0-3,5", |a, v| {
        put(&mut a.spec.options.resources.cpuset_cpus, limits::cpu_list(v)?)
    }),
    value(None, "cpuset-mems", "LIST", "use the memory of these nodes", |a, v| {
        put(&mut a.spec.options.resources.cpuset_mems, limits::cpu_list(v)?)
    }),
    value(None, "pids-limit", "NUMBER", "at most so many processes and threads; -1 unlimited", |a, v| {
        put(&mut a.spec.options.resources.pids_limit, Some(limits::pids(v)?))
    }),
    value(None, "blkio-weight", "NUMBER", "block I/O weight, 10 to 1000", |a, v| {
        put(&mut a.spec.options.resources.blkio_weight, limits::blkio_weight(v)?)
    }),
    value(None, "ulimit", "NAME=SOFT[:HARD]", "resource limit, such as nofile=1024:2048", |a, v| {
        let limit = limits::ulimit(v)?;
        a.spec.options.ulimits.retain(|other| other.name != limit.name);
        add(&mut a.spec.options.ulimits, limit)
    }),
    value(None, "oom-score-adj", "NUMBER", "preference of the OOM killer, -1000 to 1000", |a, v| {
        put(&mut a.spec.options.oom_score_adj, i32::try_from(integer(v, -1000..=1000)?).ok())
    }),
];

static SECURITY: &[Flag] = &[
    value(None, "cap-add", "NAME", "add a capability, or ALL", |a, v| {
        add(&mut a.spec.options.cap_add, v.to_owned())
    }),
    value(None, "cap-drop", "NAME", "drop a capability, or ALL", |a, v| {
        add(&mut a.spec.options.cap_drop, v.to_owned())
    }),
    value(
        None,
        "security-opt",
        "OPTION",
        "seccomp=FILE, seccomp=unconfined, no-new-privileges, systempaths=unconfined",
        |a, v| security::apply(v, &mut a.spec.options),
    ),
    switch(None, "privileged", "all capabilities and devices, no filter, nothing masked", |a, on| {
        a.spec.options.privileged = on;
    }),
    value(None, "sysctl", "KEY=VALUE", "set a kernel parameter of the container's namespaces", |a, v| {
        add(&mut a.spec.options.sysctls, names::sysctl(v)?)
    }),
];

static NAMESPACES: &[Flag] = &[
    value(Some('h'), "hostname", "NAME", "host name (default the first 12 digits of the id)", |a, v| {
        put(&mut a.spec.options.hostname, names::host(v)?)
    }),
    value(None, "domainname", "NAME", "NIS domain name", |a, v| {
        put(&mut a.spec.options.domainname, names::host(v)?)
    }),
    value(None, "network", "none|host", "loopback only, or the host's network (default none)", |a, v| {
        put(&mut a.spec.options.network, names::network(v)?)
    }),
    value(None, "pid", "host", "see the host's processes", |a, v| {
        put(&mut a.spec.options.pid, names::namespace(v, false)?)
    }),
    value(None, "ipc", "host|private", "System V IPC and message queues (default private)", |a, v| {
        put(&mut a.spec.options.ipc, names::namespace(v, true)?)
    }),
    value(None, "uts", "host", "use the host's name", |a, v| {
        put(&mut a.spec.options.uts, names::namespace(v, false)?)
    }),
    value(None, "cgroupns", "host|private", "view of the cgroups (default private)", |a, v| {
        put(&mut a.spec.options.cgroupns, names::namespace(v, true)?)
    }),
];

static OBSERVATION: &[Flag] = &[Flag {
    long: "profile",
    short: None,
    help: "report what the run cost the kernel to standard error, and as JSON to FILE",
    takes: Takes::Optional("FILE", |a, file| {
        a.profile =
            Some(file.filter(|f| !f.is_empty()).map_or(Report::Text, |f| Report::File(PathBuf::from(f))));
    }),
}];

/// Other names of flags.
pub(crate) const ALIASES: [(&str, &str); 1] = [("net", "network")];

/// Flags of `docker run` that are refused by name, with their short forms.
pub(crate) const UNSUPPORTED: &[(&str, Option<char>)] = &[
    ("add-host", None),
    ("annotation", None),
    ("attach", Some('a')),
    ("blkio-weight-device", None),
    ("cgroup-parent", None),
    ("cpu-count", None),
    ("cpu-percent", None),
    ("cpu-rt-period", None),
    ("cpu-rt-runtime", None),
    ("detach", Some('d')),
    ("detach-keys", None),
    ("device-cgroup-rule", None),
    ("device-read-bps", None),
    ("device-read-iops", None),
    ("device-write-bps", None),
    ("device-write-iops", None),
    ("disable-content-trust", None),
    ("dns", None),
    ("dns-opt", None),
    ("dns-option", None),
    ("dns-search", None),
    ("expose", None),
    ("gpus", None),
    ("health-cmd", None),
    ("health-interval", None),
    ("health-retries", None),
    ("health-start-interval", None),
    ("health-start-period", None),
    ("health-timeout", None),
    ("io-maxbandwidth", None),
    ("io-maxiops", None),
    ("ip", None),
    ("ip6", None),
    ("isolation", None),
    ("kernel-memory", None),
    ("label-file", None),
    ("link", None),
    ("link-local-ip", None),
    ("log-driver", None),
    ("log-opt", None),
    ("mac-address", None),
    ("memory-swappiness", None),
    ("net-alias", None),
    ("network-alias", None),
    ("no-healthcheck", None),
    ("oom-kill-disable", None),
    ("platform", None),
    ("publish", Some('p')),
    ("publish-all", Some('P')),
    ("quiet", Some('q')),
    ("restart", None),
    ("runtime", None),
    ("storage-opt", None),
    ("use-api-socket", None),
    ("userns", None),
    ("volume-driver", None),
    ("volumes-from", None),
];

/// Every flag, in the order of the help.
pub(crate) fn all() -> impl Iterator<Item = &'static Flag> {
    SECTIONS.iter().flat_map(|section| section.flags)
}

/// The text of a value that has to be text.
pub(crate) fn text(value: &OsStr) -> Result<&str, Reason> {
    value.to_str().ok_or_else(|| "not valid UTF-8".into())
}

/// The switch's position in `=VALUE`.
pub(crate) fn position(value: &OsStr) -> Result<bool, Reason> {
    values::boolean(text(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_stands_for_two_flags() {
        let long: Vec<&str> = all()
            .map(|f| f.long)
            .chain(UNSUPPORTED.iter().map(|f| f.0))
            .chain(ALIASES.map(|a| a.0))
            .collect();
        let short: Vec<char> =
            all().filter_map(|f| f.short).chain(UNSUPPORTED.iter().filter_map(|f| f.1)).collect();
        for (index, name) in long.iter().enumerate() {
            assert!(!long[..index].contains(name), "--{name} is there twice");
        }
        for (index, name) in short.iter().enumerate() {
            assert!(!short[..index].contains(name), "-{name} is there twice");
        }
        assert!(ALIASES.iter().all(|(_, name)| all().any(|flag| flag.long == *name)));
    }
}
