//! `probe with SETTING… -- CMD`: starts CMD on the host in a spoilt environment.
//!
//! * `deny=clone3,fsopen` – those system calls fail with ENOSYS, as on a kernel that lacks them; `setns` but for a PID namespace
//! * `fd=7:/etc` – descriptor 7 is open on /etc and is inherited
//! * `ignore=INT`, `block=USR1` – dispositions and mask are inherited
//! * `controller=hugetlb` – that controller of cgroup v1 is mounted, for CMD alone
//! * `umask=077`, `uid=1000` (no capabilities then), `nofile=64`

use std::ffi::{CString, c_int};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, SigSet, signal};

use crate::{number, signals};

/// The calls that can be denied: those a newer kernel brings, and their older replacements to see that both go.
const DENIABLE: [(&str, i64); 20] = [
    ("clone3", libc::SYS_clone3),
    ("close_range", libc::SYS_close_range),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fsopen", libc::SYS_fsopen),
    ("fspick", libc::SYS_fspick),
    ("memfd_create", libc::SYS_memfd_create),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("move_mount", libc::SYS_move_mount),
    ("open_tree", libc::SYS_open_tree),
    ("openat2", libc::SYS_openat2),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("setns", libc::SYS_setns),
    ("statx", libc::SYS_statx),
    ("bpf", libc::SYS_bpf),
    ("mount", libc::SYS_mount),
    ("epoll_pwait2", libc::SYS_epoll_pwait2),
    ("faccessat2", libc::SYS_faccessat2),
];

/// Applies the settings and becomes the command.
pub(crate) fn exec(words: &[&str]) -> Result<c_int, String> {
    let split = words.iter().position(|word| *word == "--").ok_or("with: no -- before the command")?;
    for setting in &words[..split] {
        let (key, value) = setting.split_once('=').ok_or("with: a setting is KEY=VALUE")?;
        apply(key, value)?;
    }
    let argv: Result<Vec<CString>, _> = words[split + 1..].iter().map(|word| CString::new(*word)).collect();
    let argv = argv.map_err(|e| e.to_string())?;
    let program = argv.first().ok_or("with: no command")?;
    let Err(error) = nix::unistd::execvp(program, &argv);
    Err(format!("exec {}: {error}", words[split + 1]))
}

fn apply(key: &str, value: &str) -> Result<(), String> {
    match key {
        "deny" => deny(value),
        "fd" => inherit(value),
        "ignore" => {
            // SAFETY: no handler is installed, only SIG_IGN.
            unsafe { signal(signals::parse(value)?, SigHandler::SigIgn) }.map(drop).map_err(|e| e.to_string())
        }
        "block" => {
            let mut set = SigSet::empty();
            set.add(signals::parse(value)?);
            set.thread_block().map_err(|e| e.to_string())
        }
        "umask" => {
            let mask = u32::from_str_radix(value, 8).map_err(|e| e.to_string())?;
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
            Ok(())
        }
        "uid" => {
            let id: u32 = number(value)?;
            nix::unistd::setgroups(&[]).map_err(|e| e.to_string())?;
            nix::unistd::setresgid(id.into(), id.into(), id.into()).map_err(|e| e.to_string())?;
            nix::unistd::setresuid(id.into(), id.into(), id.into()).map_err(|e| e.to_string())
        }
        "controller" => mount_controller(value),
        "nofile" => {
            let limit: u64 = number(value)?;
            nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit, limit)
                .map_err(|e| e.to_string())
        }
        _ => Err(format!("with: unknown setting {key}")),
    }
}

/// Mounts this controller of cgroup v1 beside those that are mounted, in a mount namespace of its own: there are runtimes
/// that do not start unless every controller that the kernel has is there. Nothing is left on the host, not even a
/// directory, because the directory of the mount points is another one too.
fn mount_controller(name: &str) -> Result<(), String> {
    const GROUPS: &str = "/sys/fs/cgroup";
    let known = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let known = known.lines().any(|line| line.split('\t').next() == Some(name));
    let here = std::path::Path::new(GROUPS);
    if !known || here.join(name).join("tasks").exists() || !here.join("memory/tasks").exists() {
        return Ok(());
    }
    let say = |what: &str| {
        let what = what.to_owned();
        move |e| format!("controller {name}: {what}: {e}")
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(say("unshare"))?;
    let (none, flags) = (None::<&str>, MsFlags::empty());
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(say("make / private"))?;
    let stage = std::env::temp_dir().join(format!("probe-cgroups.{}", std::process::id()));
    let make =
        |dir: &std::path::Path| std::fs::create_dir(dir).map_err(|e| format!("{}: {e}", dir.display()));
    make(&stage)?;
    mount(Some("tmpfs"), &stage, Some("tmpfs"), flags, Some("mode=755")).map_err(say("mount tmpfs"))?;
    for entry in here.read_dir().map_err(|e| e.to_string())?.flatten() {
        let to = stage.join(entry.file_name());
        if entry.path().read_link().is_ok_and(|target| std::os::unix::fs::symlink(target, &to).is_ok()) {
            continue;
        }
        if !entry.path().join("cgroup.procs").exists() {
            continue;
        }
        make(&to)?;
        mount(Some(&entry.path()), &to, none, MsFlags::MS_MOVE, none).map_err(say("move a hierarchy"))?;
    }
    let place = stage.join(name);
    make(&place)?;
    mount(Some("cgroup"), &place, Some("cgroup"), flags, Some(name)).map_err(say("mount"))?;
    mount(Some(&stage), here, none, MsFlags::MS_MOVE, none).map_err(say("move"))?;
    std::fs::remove_dir(&stage).map_err(|e| e.to_string())
}

fn inherit(value: &str) -> Result<(), String> {
    let (fd, path) = value.split_once(':').ok_or("with: fd=N:PATH")?;
    let fd: c_int = number(fd)?;
    let path = CString::new(path).map_err(|e| e.to_string())?;
    // SAFETY: the path is NUL-terminated; the descriptor is meant to be inherited, nobody owns it here.
    let opened = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) };
    // SAFETY: duplicating any number is sound; a wrong one fails.
    let placed = unsafe { libc::dup2(opened, fd) };
    if placed != fd {
        return Err(std::io::Error::last_os_error().to_string());
    }
    if opened != fd {
        // SAFETY: opened above, owned by nobody, not used again.
        unsafe { libc::close(opened) };
    }
    Ok(())
}

/// Installs a filter that answers ENOSYS to the named calls. It stays through exec and fork.
fn deny(names: &str) -> Result<(), String> {
    const ERRNO: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    /// Of `struct seccomp_data`, on a little-endian machine.
    const SECOND_ARGUMENT: u32 = 24;
    let statement =
        |code: u32, k| libc::sock_filter { code: u16::try_from(code).unwrap_or(0), jt: 0, jf: 0, k };
    let call = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    let mut program = vec![call];
    for name in names.split(',') {
        let (_, nr) =
            DENIABLE.iter().find(|(known, _)| *known == name).ok_or(format!("with: cannot deny {name}"))?;
        let k = u32::try_from(*nr).map_err(|e| e.to_string())?;
        let equals = |k, jt, jf| libc::sock_filter {
            jt,
            jf,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k)
        };
        let refuse = statement(libc::BPF_RET | libc::BPF_K, ERRNO);
        if *nr == libc::SYS_setns {
            let kind = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, SECOND_ARGUMENT);
            let pid = equals(libc::CLONE_NEWPID.cast_unsigned(), 1, 0);
            program.extend([equals(k, 0, 4), kind, pid, refuse, call]);
        } else {
            program.extend([equals(k, 0, 1), refuse]);
        }
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let len = u16::try_from(program.len()).map_err(|e| e.to_string())?;
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the program is alive and as long as `len` says; the kernel copies it.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    if result == 0 { Ok(()) } else { Err(format!("seccomp: {}", std::io::Error::last_os_error())) }
}
