//! Every command and flag of `skiff-runtime`, declared once. The parser, the help and their tests read this table.
//!
//! Names and meanings are those of runc; what only crun has and its callers pass is there too.

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use skiff_runtime::oci::spec;

use crate::args::{Args, CgroupManager, Format, Global, LogFormat, Wants};
use crate::failure::Failure;
use crate::{checkpoint, create, events, exec, features, lifecycle, list, restore, specify, update};

/// One command.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// One line, for the overview.
    pub(crate) summary: &'static str,
    /// What follows its flags.
    pub(crate) operands: &'static str,
    pub(crate) count: RangeInclusive<usize>,
    pub(crate) order: Order,
    /// What is to be said beyond the summary, in whole lines.
    pub(crate) about: &'static str,
    pub(crate) flags: &'static [Flag<Args>],
    /// Carries it out and returns the exit code.
    pub(crate) run: fn(&Global, &Args) -> Result<u8, Failure>,
}

/// Where flags may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Anywhere.
    Mixed,
    /// Before the first operand: what follows it is somebody else's.
    FlagsFirst,
}

/// One flag.
#[derive(Debug)]
pub(crate) struct Flag<T: 'static> {
    /// Without the dashes.
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    /// One line, for the help.
    pub(crate) help: &'static str,
    pub(crate) takes: Takes<T>,
}

/// What follows a flag, and what it does to the arguments.
#[derive(Debug)]
pub(crate) enum Takes<T: 'static> {
    /// Nothing, or `=true` or `=false`.
    Nothing(fn(&mut T, bool)),
    /// A value, shown in the help by this word.
    Value(&'static str, fn(&mut T, &OsStr) -> Result<(), String>),
}

const fn switch<T>(long: &'static str, help: &'static str, set: fn(&mut T, bool)) -> Flag<T> {
    Flag { long, short: None, help, takes: Takes::Nothing(set) }
}

const fn value<T>(
    long: &'static str,
    placeholder: &'static str,
    help: &'static str,
    set: fn(&mut T, &OsStr) -> Result<(), String>,
) -> Flag<T> {
    Flag { long, short: None, help, takes: Takes::Value(placeholder, set) }
}

impl<T> Flag<T> {
    const fn or(self, letter: char) -> Self {
        Self { short: Some(letter), ..self }
    }
}

/// The command with the name `name`.
pub(crate) fn command(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// The flags that stand before the command.
pub(crate) const GLOBAL: &[Flag<Global>] = &[
    value("root", "DIR", "where containers are kept", |g, v| path(v).map(|v| g.root = Some(v))),
    value("log", "FILE", "write failures there too, and with --debug what is done", |g, v| {
        path(v).map(|v| g.log = Some(v))
    }),
    value("log-format", "text|json", "how lines of the log are written", |g, v| {
        log_format(v).map(|v| g.log_format = v)
    }),
    value("log-level", "LEVEL", "how much goes to the log: debug, info, warning or error", |g, v| {
        is_debug(v).map(|v| g.debug = v)
    }),
    switch("debug", "log what is done", |g, on| g.debug = on),
    switch("systemd-cgroup", "let systemd make cgroups; cgroupsPath is SLICE:PREFIX:NAME then", |g, on| {
        g.cgroup_manager = if on { CgroupManager::Systemd } else { CgroupManager::Directories };
    }),
    value("cgroup-manager", "MANAGER", "who makes cgroups: cgroupfs, systemd or disabled", |g, v| {
        cgroup_manager(v).map(|v| g.cgroup_manager = v)
    }),
    value("rootless", "true|false|auto", "whether to do without cgroups that may not be made", |g, v| {
        rootless(v).map(|v| g.rootless = v)
    }),
    value("criu", "PROGRAM", "what checkpoints and restores", |g, v| path(v).map(|v| g.criu = Some(v))),
    switch::<Global>("help", "show this help", |g, on| {
        g.wants = if on { Wants::Help } else { Wants::Command }
    })
    .or('h'),
    switch::<Global>("version", "show the version", |g, on| {
        g.wants = if on { Wants::Version } else { Wants::Command }
    })
    .or('v'),
];

const HELP: Flag<Args> = switch::<Args>("help", "show this help", |a, on| a.help = on).or('h');
const BUNDLE: Flag<Args> =
    value::<Args>("bundle", "DIR", "the bundle; the working directory if absent", |a, v| {
        path(v).map(|v| a.launch.bundle = Some(v))
    })
    .or('b');
const CONFIG: Flag<Args> =
    value::<Args>("config", "FILE", "its configuration, if not config.json in the bundle", |a, v| {
        path(v).map(|v| a.launch.config = Some(v))
    })
    .or('f');
const CONSOLE_SOCKET: Flag<Args> =
    value("console-socket", "SOCKET", "send the terminal's descriptor to this Unix socket", |a, v| {
        path(v).map(|v| a.launch.console_socket = Some(v))
    });
const PIDFD_SOCKET: Flag<Args> =
    value("pidfd-socket", "SOCKET", "send a descriptor of the process to this Unix socket", |a, v| {
        path(v).map(|v| a.launch.pidfd_socket = Some(v))
    });
const PID_FILE: Flag<Args> = value("pid-file", "FILE", "write the process id there", |a, v| {
    path(v).map(|v| a.launch.pid_file = Some(v))
});
const NO_PIVOT: Flag<Args> =
    switch("no-pivot", "chroot instead of pivot_root, for a host on a ramdisk", |a, on| {
        a.launch.no_pivot = on;
    });
const NO_NEW_KEYRING: Flag<Args> =
    switch("no-new-keyring", "leave the program the caller's session keyring", |a, on| {
        a.launch.no_new_keyring = on;
    });
const PRESERVE_FDS: Flag<Args> = value("preserve-fds", "N", "pass N descriptors on, from 3 on", |a, v| {
    number(v).map(|v| a.launch.preserve_fds = v)
});
const DETACH: Flag<Args> =
    switch::<Args>("detach", "return once the program runs", |a, on| a.launch.detach = on).or('d');
const NO_SUBREAPER: Flag<Args> =
    switch("no-subreaper", "taken for others' sake: orphans are never adopted", |_, _| {});
const FORMAT: Flag<Args> =
    value::<Args>("format", "table|json", "how it is printed", |a, v| format(v).map(|v| a.format = v))
        .or('f');

const IMAGE_PATH: Flag<Args> = value("image-path", "DIR", "the images; ./checkpoint if absent", |a, v| {
    path(v).map(|v| a.images.image_path = Some(v))
});
const WORK_PATH: Flag<Args> =
    value("work-path", "DIR", "criu's log and other files; the images' if absent", |a, v| {
        path(v).map(|v| a.images.work_path = Some(v))
    });
const TCP_ESTABLISHED: Flag<Args> =
    switch("tcp-established", "take open TCP connections along", |a, on| a.images.tcp_established = on);
const EXT_UNIX_SK: Flag<Args> =
    switch("ext-unix-sk", "take Unix sockets connected to the outside along", |a, on| {
        a.images.ext_unix_sk = on
    });
const SHELL_JOB: Flag<Args> =
    switch("shell-job", "take processes on somebody else's terminal along", |a, on| a.images.shell_job = on);
const LAZY_PAGES: Flag<Args> =
    switch("lazy-pages", "bring memory when it is touched. userfaultfd(2)", |a, on| a.images.lazy_pages = on);
const FILE_LOCKS: Flag<Args> =
    switch("file-locks", "take file locks along", |a, on| a.images.file_locks = on);
const MANAGE_CGROUPS: Flag<Args> =
    value("manage-cgroups-mode", "MODE", "soft, full, strict or ignore", |a, v| {
        one_of(v, &["soft", "full", "strict", "ignore"]).map(|v| a.images.manage_cgroups_mode = Some(v))
    });
const EMPTY_NS: Flag<Args> = value("empty-ns", "NAMESPACE", "leave this namespace's content out", |a, v| {
    one_of(v, &["network"]).map(|v| a.images.empty_ns.push(v))
});
const AUTO_DEDUP: Flag<Args> =
    switch("auto-dedup", "drop pages of a parent image that are there anew", |a, on| {
        a.images.auto_dedup = on
    });

/// Every command, in the order of the overview.
pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "create",
        summary: "create a container whose program waits to be started",
        operands: ID,
        count: 1..=1,
        order: Order::Mixed,
        about: "",
        flags: &[
            BUNDLE,
            CONFIG,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            PID_FILE,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
            NO_SUBREAPER,
            HELP,
        ],
        run: create::create,
    },
    Command {
        name: "start",
        summary: "start the program of a created container",
        operands: ID,
        count: 1..=1,
        order: Order::Mixed,
        about: "",
        flags: &[HELP],
        run: create::start,
    },
    Command {
        name: "run",
        summary: "create a container, start it, and stay until it ends",
        operands: ID,
        count: 1..=1,
        order: Order::Mixed,
        about: "Signals are passed on to the program. Exits with its code, 128 + n if signal n killed it.",
        flags: &[
            BUNDLE,
            CONFIG,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            DETACH,
            switch("keep", "keep the container when it has ended", |a, on| a.launch.keep = on),
            PID_FILE,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
            NO_SUBREAPER,
            HELP,
        ],
        run: create::run,
    },
    Command {
        name: "state",
        summary: "print a container's state as JSON",
        operands: ID,
        count: 1..=1,
        order: Order::Mixed,
        about: "",
        flags: &[HELP],
        run: list::state,
    },
    Command {
        name: "kill",
        summary: "send a signal to a container's first process",
        operands: "CONTAINER [SIGNAL]",
        count: 1..=2,
        order: Order::Mixed,
        about: "SIGNAL is a number or a name, with or without SIG; TERM if absent.",
        flags: &[
            switch::<Args>("all", "send it to every process of the container", |a, on| a.all = on).or('a'),
            HELP,
        ],
        run: lifecycle::kill,
    },
    Command {
        name: "delete",
        summary: "remove what is left of a container",
        operands: ID,
        count: 1..=1,
        order: Order::Mixed,
        about: "A container that runs is refused, one that is not there too, unless with --force.",
        flags: &[switch::<Args>("force", "kill it first if it runs", |a, on| a.force = on).or('f'), HELP],
        run: lifecycle::delete,
    },
    Command {
        name: "exec",
        summary: "run a program in a running container",
        operands: "CONTAINER [PROGRAM [ARGUMENT…]]",
        count: 1..=usize::MAX,
        order: Order::FlagsFirst,
        about: "Exits with the program's code, 128 + n if signal n killed it, 255 if it could not be run.",
        flags: &[
            value::<Args>(
                "process",
                "FILE",
                "take all from this process.json; PROGRAM is absent then",
                |a, v| path(v).map(|v| a.exec.process = Some(v)),
            )
            .or('p'),
            switch::<Args>("tty", "give it a terminal", |a, on| a.exec.tty = on).or('t'),
            value::<Args>("user", "UID[:GID]", "run as this user", |a, v| {
                text(v).map(|v| a.exec.user = Some(v))
            })
            .or('u'),
            value("cwd", "DIR", "working directory in the container", |a, v| {
                text(v).map(|v| a.exec.cwd = Some(v))
            }),
            value::<Args>("env", "NAME=VALUE", "set a variable", |a, v| text(v).map(|v| a.exec.env.push(v)))
                .or('e'),
            value::<Args>("additional-gids", "GID", "add a supplementary group", |a, v| {
                number(v).map(|v| a.exec.additional_gids.push(v))
            })
            .or('g'),
            value::<Args>("cap", "CAPABILITY", "add a capability", |a, v| {
                text(v).map(|v| a.exec.caps.push(v))
            })
            .or('c'),
            value("apparmor", "PROFILE", "AppArmor profile", |a, v| {
                text(v).map(|v| a.exec.apparmor = Some(v))
            }),
            value("process-label", "LABEL", "SELinux label", |a, v| {
                text(v).map(|v| a.exec.process_label = Some(v))
            }),
            switch("no-new-privs", "let no program gain privileges", |a, on| a.exec.no_new_privs = on),
            DETACH,
            PID_FILE,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            PRESERVE_FDS,
            value("cgroup", "[CONTROLLER:]PATH", "run in this cgroup below the container's", |a, v| {
                text(v).map(|v| a.exec.cgroups.push(v))
            }),
            switch("ignore-paused", "run it also if the container is paused", |a, on| {
                a.exec.ignore_paused = on
            }),
            NO_SUBREAPER,
            HELP,
        ],
        run: exec::exec,
    },
    Command {
        name: "ps",
        summary: "show the processes of a container",
        operands: "CONTAINER [OPTION-OF-PS…]",
        count: 1..=usize::MAX,
        order: Order::FlagsFirst,
        about: "The table is that of ps(1), which is called with -ef or the options given; JSON is a list of ids.",
        flags: &[FORMAT, HELP],
        run: list::ps,
    },
    Command {
        name: "list",
        summary: "list containers",
        operands: "",
        count: 0..=0,
        order: Order::Mixed,
        about: "",
        flags: &[FORMAT, switch::<Args>("quiet", "print ids only", |a, on| a.quiet = on).or('q'), HELP],
        run: list::list,
    },
    Command {
        name: "pause",
        summary: "freeze all processes of a container",
        operands: ID,
        count: 1..=1,
        order: Order::Mixed,
        about: "",
        flags: &[HELP],
        run: lifecycle::pause,
    },
    Command {
        name: "resume",
        summary: "let a paused container go on",
        operands: ID,
        count: 1..=1,
        order: Order::Mixed,
        about: "",
        flags: &[HELP],
        run: lifecycle::resume,
    },
    Command {
        name: "update",
        summary: "change a container's limits",
        operands: ID,
        count: 1..=1,
        order: Order::Mixed,
        about: "What is not given stays as it is.",
        flags: UPDATE,
        run: update::update,
    },
    Command {
        name: "events",
        summary: "print a container's figures as lines of JSON",
        operands: ID,
        count: 1..=1,
        order: Order::Mixed,
        about: "Every --interval, and when the OOM killer has been at work, until the container ends.",
        flags: &[
            switch("stats", "print them once", |a, on| a.stats = on),
            value("interval", "TIME", "such as 500ms or 1m30s; 5s if absent", |a, v| {
                interval(v).map(|v| a.interval = Some(v))
            }),
            HELP,
        ],
        run: events::events,
    },
    Command {
        name: "spec",
        summary: "write a config.json to begin with",
        operands: "",
        count: 0..=0,
        order: Order::Mixed,
        about: "",
        flags: &[
            BUNDLE,
            value::<Args>("file", "FILE", "its name, if not config.json in the bundle", |a, v| {
                path(v).map(|v| a.launch.config = Some(v))
            })
            .or('f'),
            switch("rootless", "for a user other than root", |a, on| a.rootless = on),
            HELP,
        ],
        run: specify::spec,
    },
    Command {
        name: "features",
        summary: "print as JSON what this runtime can do",
        operands: "",
        count: 0..=0,
        order: Order::Mixed,
        about: "",
        flags: &[HELP],
        run: features::features,
    },
    Command {
        name: "checkpoint",
        summary: "write a running container to files. criu(8)",
        operands: ID,
        count: 1..=1,
        order: Order::Mixed,
        about: "It has ended afterwards, unless with --leave-running or --pre-dump.",
        flags: &[
            IMAGE_PATH,
            WORK_PATH,
            value("parent-path", "DIR", "images of an earlier --pre-dump, seen from --image-path", |a, v| {
                path(v).map(|v| a.images.parent_path = Some(v))
            }),
            switch("leave-running", "let it run on", |a, on| a.images.leave_running = on),
            switch("pre-dump", "write its memory only and let it run on", |a, on| a.images.pre_dump = on),
            TCP_ESTABLISHED,
            switch("tcp-skip-in-flight", "leave TCP connections out that are being made", |a, on| {
                a.images.tcp_skip_in_flight = on
            }),
            EXT_UNIX_SK,
            SHELL_JOB,
            FILE_LOCKS,
            switch(
                "link-remap",
                "give open files that were removed a name again, if they have another",
                |a, on| a.images.link_remap = on,
            ),
            LAZY_PAGES,
            value("status-fd", "N", "descriptor that gets a NUL byte when lazy pages are ready", |a, v| {
                number(v).map(|v| a.images.status_fd = Some(v))
            }),
            value("page-server", "ADDRESS:PORT", "send memory to a page server", |a, v| {
                address(v).map(|v| a.images.page_server = Some(v))
            }),
            MANAGE_CGROUPS,
            EMPTY_NS,
            AUTO_DEDUP,
            HELP,
        ],
        run: checkpoint::checkpoint,
    },
    Command {
        name: "restore",
        summary: "make a container of a checkpoint's files. criu(8)",
        operands: ID,
        count: 1..=1,
        order: Order::Mixed,
        about: "",
        flags: &[
            BUNDLE,
            CONSOLE_SOCKET,
            DETACH,
            switch("keep", "keep the container when it has ended", |a, on| a.launch.keep = on),
            PID_FILE,
            NO_PIVOT,
            NO_SUBREAPER,
            IMAGE_PATH,
            WORK_PATH,
            TCP_ESTABLISHED,
            switch("tcp-close", "restore TCP connections as closed", |a, on| a.images.tcp_close = on),
            EXT_UNIX_SK,
            SHELL_JOB,
            FILE_LOCKS,
            LAZY_PAGES,
            MANAGE_CGROUPS,
            EMPTY_NS,
            AUTO_DEDUP,
            value("lsm-profile", "TYPE:NAME", "security profile to restore with", |a, v| {
                text(v).map(|v| a.images.lsm_profile = Some(v))
            }),
            value("lsm-mount-context", "CONTEXT", "security context of mounts to restore with", |a, v| {
                text(v).map(|v| a.images.lsm_mount_context = Some(v))
            }),
            HELP,
        ],
        run: restore::restore,
    },
    Command {
        name: "help",
        summary: "show the flags of a command",
        operands: "[COMMAND]",
        count: 0..=1,
        order: Order::Mixed,
        about: "",
        flags: &[HELP],
        run: crate::help,
    },
];

const ID: &str = "CONTAINER";

const UPDATE: &[Flag<Args>] = &[
    value::<Args>("resources", "FILE", "take all from this JSON, - for standard input", |a, v| {
        path(v).map(|v| a.limits.file = Some(v))
    })
    .or('r'),
    value("blkio-weight", "N", "share of block I/O, 10 to 1000", |a, v| {
        number(v).map(|v| block_io(a).weight = Some(v))
    }),
    value("cpu-period", "US", "period of --cpu-quota", |a, v| number(v).map(|v| cpu(a).period = Some(v))),
    value("cpu-quota", "US", "CPU time in each period, -1 for no limit", |a, v| {
        number(v).map(|v| cpu(a).quota = Some(v))
    }),
    value("cpu-burst", "US", "how much unused quota may be saved", |a, v| {
        number(v).map(|v| cpu(a).burst = Some(v))
    }),
    value("cpu-share", "N", "share of CPU time", |a, v| number(v).map(|v| cpu(a).shares = Some(v))),
    value("cpu-rt-period", "US", "period of --cpu-rt-runtime", |a, v| {
        number(v).map(|v| cpu(a).realtime_period = Some(v))
    }),
    value("cpu-rt-runtime", "US", "real-time CPU time in each period", |a, v| {
        number(v).map(|v| cpu(a).realtime_runtime = Some(v))
    }),
    value("cpu-idle", "N", "1: only when nobody else wants the CPU", |a, v| {
        number(v).map(|v| cpu(a).idle = Some(v))
    }),
    value("cpuset-cpus", "LIST", "CPUs to run on", |a, v| text(v).map(|v| cpu(a).cpus = v)),
    value("cpuset-mems", "LIST", "memory nodes", |a, v| text(v).map(|v| cpu(a).mems = v)),
    value("memory", "BYTES", "limit of memory, -1 for none; 64M and 1.5g are taken too", |a, v| {
        bytes(v).map(|v| memory(a).limit = Some(v))
    }),
    value("memory-reservation", "BYTES", "memory that is reclaimed last", |a, v| {
        bytes(v).map(|v| memory(a).reservation = Some(v))
    }),
    value("memory-swap", "BYTES", "limit of memory and swap together, -1 for none", |a, v| {
        bytes(v).map(|v| memory(a).swap = Some(v))
    }),
    value("kernel-memory", "BYTES", "obsolete", |a, v| bytes(v).map(|v| memory(a).kernel = Some(v))),
    value("kernel-memory-tcp", "BYTES", "limit of TCP buffers", |a, v| {
        bytes(v).map(|v| memory(a).kernel_tcp = Some(v))
    }),
    value("pids-limit", "N", "limit of processes, -1 for none", |a, v| {
        number(v).map(|v| a.limits.resources.pids.get_or_insert_default().limit = Some(v))
    }),
    value("l3-cache-schema", "TEXT", "Intel RDT share of the L3 cache", |a, v| {
        text(v).map(|v| a.limits.l3_cache_schema = Some(v))
    }),
    value("mem-bw-schema", "TEXT", "Intel RDT share of memory bandwidth", |a, v| {
        text(v).map(|v| a.limits.mem_bw_schema = Some(v))
    }),
    HELP,
];

fn cpu(args: &mut Args) -> &mut spec::Cpu {
    args.limits.resources.cpu.get_or_insert_default()
}

fn memory(args: &mut Args) -> &mut spec::Memory {
    args.limits.resources.memory.get_or_insert_default()
}

fn block_io(args: &mut Args) -> &mut spec::BlockIo {
    args.limits.resources.block_io.get_or_insert_default()
}

fn text(value: &OsStr) -> Result<String, String> {
    value.to_str().map(str::to_owned).ok_or_else(|| "not valid UTF-8".into())
}

fn path(value: &OsStr) -> Result<PathBuf, String> {
    if value.is_empty() { Err("no path".into()) } else { Ok(OsString::from(value).into()) }
}

fn number<N: std::str::FromStr>(value: &OsStr) -> Result<N, String> {
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| "not a number that fits".into())
}

/// As runc takes them: a number with or without a unit, a power of 1024 (`64M`, `1.5gb`, `2KiB`); or -1.
fn bytes(value: &OsStr) -> Result<i64, String> {
    let text = value.to_str().unwrap_or_default().trim().to_ascii_lowercase();
    let scaled = if text == "-1" { Some(-1) } else { scaled(&text) };
    scaled.ok_or_else(|| "not a number of bytes that fits".into())
}

fn scaled(text: &str) -> Option<i64> {
    let end = text.find(|end: char| !end.is_ascii_digit() && end != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit: u128 = match unit.trim_start() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        "p" | "pb" | "pib" => 1 << 50,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    // So long a fraction would not fit the product below.
    let digits = u32::try_from(part.len()).ok().filter(|digits| *digits <= 18)?;
    let fraction = part.parse::<u128>().ok()? * unit / 10_u128.pow(digits);
    i64::try_from(whole.parse::<u128>().ok()?.checked_mul(unit)?.checked_add(fraction)?).ok()
}

fn one_of(value: &OsStr, known: &[&str]) -> Result<String, String> {
    match value.to_str().filter(|text| known.contains(text)) {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("not {}", known.join(" or "))),
    }
}

fn log_format(value: &OsStr) -> Result<LogFormat, String> {
    Ok(if one_of(value, &["text", "json"])? == "json" { LogFormat::Json } else { LogFormat::Text })
}

fn is_debug(value: &OsStr) -> Result<bool, String> {
    let known = ["trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"];
    one_of(value, &known).map(|level| known[..2].contains(&level.as_str()))
}

fn cgroup_manager(value: &OsStr) -> Result<CgroupManager, String> {
    Ok(match one_of(value, &["cgroupfs", "systemd", "disabled"])?.as_str() {
        "cgroupfs" => CgroupManager::Directories,
        "systemd" => CgroupManager::Systemd,
        _ => CgroupManager::None,
    })
}

fn rootless(value: &OsStr) -> Result<Option<bool>, String> {
    if value == "auto" {
        return Ok(None);
    }
    crate::args::boolean(value).map(Some).map_err(|_| "not true, false or auto".into())
}

fn format(value: &OsStr) -> Result<Format, String> {
    Ok(if one_of(value, &["table", "json"])? == "json" { Format::Json } else { Format::Table })
}

fn address(value: &OsStr) -> Result<(String, u16), String> {
    let text = text(value)?;
    let (host, port) = text.rsplit_once(':').ok_or("not ADDRESS:PORT")?;
    let port = port.parse().map_err(|_| "not ADDRESS:PORT")?;
    Ok((host.to_owned(), port))
}

/// A time as Go's time.ParseDuration has it: numbers with units, one after the other.
fn interval(value: &OsStr) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let invalid = || "not a time such as 500ms or 1m30s".to_owned();
    let text = text(value)?;
    let (mut rest, mut seconds) = (text.as_str(), 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, factor) = UNITS.iter().find(|(unit, _)| *unit == &rest[..end]).ok_or_else(invalid)?;
        seconds += number * factor;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero()).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_go_s() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(interval(OsStr::new(text)).ok(), expected.map(Duration::from_micros), "{text}");
        };
        check("5s", Some(5_000_000));
        check("500ms", Some(500_000));
        check("1m30s", Some(90_000_000));
        check("1.5h", Some(5_400_000_000));
        for text in ["", "0s", "5", "-5s", "5 s", "s", "1e4s"] {
            check(text, None);
        }
    }

    #[test]
    fn no_flag_of_a_command_is_declared_twice() {
        for command in COMMANDS {
            for (index, flag) in command.flags.iter().enumerate() {
                let same = |other: &Flag<Args>| {
                    other.long == flag.long || (other.short.is_some() && other.short == flag.short)
                };
                assert!(!command.flags[..index].iter().any(same), "{} --{}", command.name, flag.long);
            }
        }
    }
}
