//! Every flag of `skiff run` and `skiff create`, declared once. The parser, `--help` and their tests read these tables.
//!
//! Names and meanings are those of `docker run`. What docker has and skiff has not is in [`UNSUPPORTED`].

use std::ffi::OsStr;
use std::path::PathBuf;

use skiff_engine::prefetch::Mode;
use skiff_engine::spec::HealthTest;
use skiff_store::Platform;

use crate::args::{Args, Report};
use crate::images::pull::TLS_VERIFY;
use crate::images::wanted::Policy;
use crate::line::{Command, Flag, Order, Section, Takes, add, put};
use crate::values::{
    Reason, environment, health, integer, keys, limits, log, mounts, names, security, signals, sizes, time,
};

/// `skiff run`.
pub(crate) static RUN: Command<Args> = Command {
    name: "run",
    operands: "[OPTIONS] IMAGE [COMMAND [ARGUMENT…]]",
    about: "\
Starts a container from IMAGE, waits for it and exits with its code (125: skiff failed, 126: the command cannot
be invoked, 127: it was not found, 128+n: killed by signal n).

IMAGE is one of
  NAME[:TAG|@DIGEST]          an image that is here, or else in a registry; an id, or the beginning of one
  host                        the host's own programs, below a private, throw-away overlay
  rootfs:DIR                  a directory with a root file system
  oci:DIR[:TAG]               an OCI image layout
  oci-archive:FILE[:TAG]      the same as a tar file
  docker-archive:FILE[:TAG]   what 'docker save' writes
",
    sections: &[
        Section { title: "Waiting", flags: WAITING },
        Section { title: "Program", flags: PROGRAM },
        Section { title: "Lifecycle", flags: LIFECYCLE },
        Section { title: "Health", flags: HEALTH },
        Section { title: "Files", flags: FILES },
        Section { title: "Limits", flags: LIMITS },
        Section { title: "Security", flags: SECURITY },
        Section { title: "Namespaces", flags: NAMESPACES },
        Section { title: "Observation", flags: OBSERVATION },
    ],
    order: Order::FlagsFirst,
    aliases: ALIASES,
    unsupported: UNSUPPORTED,
};

/// `skiff create`.
pub(crate) static CREATE: Command<Args> = Command {
    name: "create",
    operands: "[OPTIONS] IMAGE [COMMAND [ARGUMENT…]]",
    about: "\
Makes a container from IMAGE, which 'skiff start' starts, and prints its id. IMAGE is what it is to 'skiff run'.
",
    sections: &[
        Section { title: "Program", flags: PROGRAM },
        Section { title: "Lifecycle", flags: LIFECYCLE },
        Section { title: "Health", flags: HEALTH },
        Section { title: "Files", flags: FILES },
        Section { title: "Limits", flags: LIMITS },
        Section { title: "Security", flags: SECURITY },
        Section { title: "Namespaces", flags: NAMESPACES },
    ],
    order: Order::FlagsFirst,
    aliases: ALIASES,
    unsupported: UNSUPPORTED,
};

const fn switch(
    short: Option<char>,
    long: &'static str,
    help: &'static str,
    set: fn(&mut Args, bool),
) -> Flag<Args> {
    Flag::switch(short, long, help, set)
}

const fn value(
    short: Option<char>,
    long: &'static str,
    placeholder: &'static str,
    help: &'static str,
    set: fn(&mut Args, &str) -> Result<(), Reason>,
) -> Flag<Args> {
    Flag::value(short, long, placeholder, help, set)
}

const fn bytes(
    short: Option<char>,
    long: &'static str,
    placeholder: &'static str,
    help: &'static str,
    set: fn(&mut Args, &OsStr) -> Result<(), Reason>,
) -> Flag<Args> {
    Flag::bytes(short, long, placeholder, help, set)
}

static WAITING: &[Flag<Args>] = &[
    switch(Some('d'), "detach", "do not wait: print the container's id", |a, on| a.detach = on),
    value(None, "detach-keys", "KEYS", "leave its terminal by these (default ctrl-p,ctrl-q)", |a, v| {
        put(&mut a.detach_keys, keys::parse(v)?)
    }),
    switch(None, "sig-proxy", "pass signals on to the program (default true)", |a, on| a.sig_proxy = on),
    value(None, "pool", "NUMBER", "0: use no container that was made ahead", |a, v| {
        put(&mut a.pool, integer(v, 0..=i64::from(u16::MAX))? > 0)
    }),
];

static PROGRAM: &[Flag<Args>] = &[
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

static LIFECYCLE: &[Flag<Args>] = &[
    value(None, "name", "NAME", "name the container", |a, v| {
        put(&mut a.spec.options.name, Some(names::container(v)?))
    }),
    switch(None, "rm", "remove the container when it has ended", |a, on| a.spec.auto_remove = on),
    value(
        None,
        "restart",
        "POLICY",
        "no, on-failure[:TIMES], always or unless-stopped (default no)",
        |a, v| put(&mut a.spec.restart, names::restart(v)?),
    ),
    bytes(None, "cidfile", "FILE", "write the container's id to a new file", |a, v| {
        put(&mut a.cidfile, Some(PathBuf::from(v)))
    }),
    value(Some('l'), "label", "KEY[=VALUE]", "attach a label", |a, v| {
        add(&mut a.spec.options.labels, names::label(v)?)
    }),
    value(
        None,
        "pull",
        "always|missing|never",
        "when the image is fetched from its registry (default missing)",
        |a, v| put(&mut a.wanted.policy, Policy::parse(v)?),
    ),
    value(None, "platform", "OS/ARCH[/VARIANT]", "for another platform than this host's", |a, v| {
        put(&mut a.wanted.platform, Some(Platform::parse(v)?))
    }),
    switch(Some('q'), "quiet", "say nothing of fetching the image", |a, on| a.wanted.quiet = on),
    switch(None, "tls-verify", TLS_VERIFY, |a, on| a.wanted.tls_verify = Some(on)),
    value(
        None,
        "stop-signal",
        "SIGNAL",
        "signal that asks it to stop (default the image's, else TERM)",
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
    value(None, "log-driver", "none|file|journald", "where its output goes (default file)", |a, v| {
        put(&mut a.spec.log.driver, log::driver(v)?)
    }),
    value(
        None,
        "log-opt",
        "KEY=VALUE",
        "max-size=SIZE of a file (10m), max-file=NUMBER of files (3)",
        |a, v| log::option(v, &mut a.spec.log),
    ),
];

static HEALTH: &[Flag<Args>] = &[
    value(
        None,
        "health-cmd",
        "COMMAND",
        "healthy if this exits with 0, by the container's /bin/sh",
        |a, v| health::put(&mut a.spec.health.test, HealthTest::Shell(v.to_owned())),
    ),
    value(None, "health-tcp", "PORT", "healthy if this port can be connected to; runs nothing", |a, v| {
        health::put(&mut a.spec.health.test, HealthTest::Tcp(health::port(v)?))
    }),
    value(
        None,
        "health-http",
        "PORT/PATH",
        "healthy if a GET is answered by 200 to 399; runs nothing",
        |a, v| health::put(&mut a.spec.health.test, health::http(v)?),
    ),
    value(None, "health-interval", "TIME", "between checks, such as 1m30s (default 30s)", |a, v| {
        put(&mut a.spec.health.interval, health::interval(v)?)
    }),
    value(None, "health-timeout", "TIME", "for one check (default 30s)", |a, v| {
        put(&mut a.spec.health.timeout, health::interval(v)?)
    }),
    value(None, "health-start-period", "TIME", "how long failures do not count (default 0s)", |a, v| {
        put(&mut a.spec.health.start_period, Some(time::duration(v)?))
    }),
    value(None, "health-start-interval", "TIME", "between checks in that time (default 5s)", |a, v| {
        put(&mut a.spec.health.start_interval, health::interval(v)?)
    }),
    value(None, "health-retries", "NUMBER", "so many failures in a row are too many (default 3)", |a, v| {
        put(
            &mut a.spec.health.retries,
            u32::try_from(integer(v, 0..=i64::from(u32::MAX))?).ok().filter(|n| *n > 0),
        )
    }),
    switch(None, "no-healthcheck", "no check, whatever the image says", |a, on| {
        a.no_healthcheck = on;
    }),
];

static FILES: &[Flag<Args>] = &[
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
    value(None, "prefetch", "MODE", "on, off, or record: what it needs of its image (default on)", |a, v| {
        let mode = prefetch(v)?;
        a.wanted.leaves_profiles = mode == Mode::Off;
        put(&mut a.spec.prefetch, mode)
    }),
    value(None, "device", "SRC[:DST][:rwm]", "let the container use a device of the host", |a, v| {
        add(&mut a.spec.options.devices, security::device(v)?)
    }),
];

fn prefetch(text: &str) -> Result<Mode, Reason> {
    match text {
        "on" => Ok(Mode::On),
        "off" => Ok(Mode::Off),
        "record" => Ok(Mode::Record),
        _ => Err("neither on, off nor record".into()),
    }
}

static LIMITS: &[Flag<Args>] = &[
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

static SECURITY: &[Flag<Args>] = &[
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

static NAMESPACES: &[Flag<Args>] = &[
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

static OBSERVATION: &[Flag<Args>] = &[
    Flag {
        long: "profile",
        short: None,
        help: "report what the run cost the kernel to standard error, and as JSON to FILE",
        takes: Takes::Optional("FILE", |a, file| {
            a.profile =
                Some(file.filter(|f| !f.is_empty()).map_or(Report::Text, |f| Report::File(PathBuf::from(f))));
        }),
    },
    Flag::switch(None, "files", "with --profile, list processes, opens and used parts of files", |a, on| {
        a.files = on;
    }),
    Flag {
        long: "stacks",
        short: None,
        help: "with --profile, sample what runs, so often per second of CPU time (default 99)",
        takes: Takes::Optional("HZ", |a, hz| {
            a.stacks = Some(hz.map(|hz| hz.to_string_lossy().into_owned()).unwrap_or_default());
        }),
    },
];

/// Other names of flags.
const ALIASES: &[(&str, &str)] = &[("net", "network")];

/// Flags of `docker run` that are refused by name, with their short forms.
const UNSUPPORTED: &[(&str, Option<char>)] = &[
    ("add-host", None),
    ("annotation", None),
    ("attach", Some('a')),
    ("blkio-weight-device", None),
    ("cgroup-parent", None),
    ("cpu-count", None),
    ("cpu-percent", None),
    ("cpu-rt-period", None),
    ("cpu-rt-runtime", None),
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
    ("io-maxbandwidth", None),
    ("io-maxiops", None),
    ("ip", None),
    ("ip6", None),
    ("isolation", None),
    ("kernel-memory", None),
    ("label-file", None),
    ("link", None),
    ("link-local-ip", None),
    ("mac-address", None),
    ("memory-swappiness", None),
    ("net-alias", None),
    ("network-alias", None),
    ("oom-kill-disable", None),
    ("publish", Some('p')),
    ("publish-all", Some('P')),
    ("runtime", None),
    ("storage-opt", None),
    ("use-api-socket", None),
    ("userns", None),
    ("volume-driver", None),
    ("volumes-from", None),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_stands_for_two_flags() {
        for command in [&RUN, &CREATE] {
            let long: Vec<&str> = command
                .flags()
                .map(|f| f.long)
                .chain(command.unsupported.iter().map(|f| f.0))
                .chain(command.aliases.iter().map(|a| a.0))
                .collect();
            let short: Vec<char> = command
                .flags()
                .filter_map(|f| f.short)
                .chain(command.unsupported.iter().filter_map(|f| f.1))
                .collect();
            for (index, name) in long.iter().enumerate() {
                assert!(!long[..index].contains(name), "--{name} is there twice");
            }
            for (index, name) in short.iter().enumerate() {
                assert!(!short[..index].contains(name), "-{name} is there twice");
            }
            assert!(command.aliases.iter().all(|(_, name)| command.flags().any(|flag| flag.long == *name)));
        }
    }
}
