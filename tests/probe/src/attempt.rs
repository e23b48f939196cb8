//! Things that a container may or may not do: `probe try OP ARG…` tries each and prints one verdict per line.

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{number, out};

/// Tries every operation named on the command line, in order.
pub(crate) fn all(mut words: &[&str]) -> Result<(), String> {
    while let Some((op, rest)) = words.split_first() {
        let (verdict, used) = one(op, rest)?;
        out::line(&verdict);
        words = &rest[used..];
    }
    Ok(())
}

/// The verdict on one operation and the number of arguments that it took.
fn one(op: &str, args: &[&str]) -> Result<(String, usize), String> {
    let arg = |n: usize| args.get(n).copied().ok_or_else(|| format!("try {op}: missing argument"));
    let path = |n| arg(n).and_then(|word| CString::new(word).map_err(|e| e.to_string()));
    Ok(match op {
        "read" => (read(arg(0)?), 1),
        "open-r" => (open(&path(0)?, libc::O_RDONLY), 1),
        "open-w" => (open(&path(0)?, libc::O_WRONLY), 1),
        "create" => (open(&path(0)?, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL), 1),
        "list" => (std::fs::read_dir(arg(0)?).map_or_else(|e| errno(&e), |dir| dir.count().to_string()), 1),
        "write" => (write(arg(0)?, arg(1)?), 2),
        "node" => (node(&path(0)?, arg(1)?, number(arg(2)?)?, number(arg(3)?)?), 4),
        "mount" => (mount(&path(0)?, &path(1)?), 2),
        "stat" => (stat(arg(0)?), 1),
        "names" => (names(arg(0)?), 1),
        "session-key" => (session_key(), 0),
        "syscall" => (raw(arg(0)?, arg(1)?)?, 2),
        #[cfg(target_arch = "x86_64")]
        "syscall32" => (raw_32(number(arg(0)?)?), 1),
        "remount-rw" => (remount_rw(&path(0)?), 1),
        _ => return call(op, args),
    })
}

/// Operations that are a single system call.
fn call(op: &str, args: &[&str]) -> Result<(String, usize), String> {
    let arg = |n: usize| args.get(n).copied().ok_or_else(|| format!("try {op}: missing argument"));
    let path = |n| arg(n).and_then(|word| CString::new(word).map_err(|e| e.to_string()));
    // SAFETY (of each below): every pointer is to a live NUL-terminated string, a live buffer, or null where the call
    // takes null; the calls change only this process or fail.
    let (result, used) = match op {
        // SAFETY: see above.
        "umount" => (unsafe { libc::umount2(path(0)?.as_ptr(), 0) }.into(), 1),
        // SAFETY: see above.
        "mkdir" => (unsafe { libc::mkdir(path(0)?.as_ptr(), 0o755) }.into(), 1),
        // SAFETY: see above.
        "chroot" => (unsafe { libc::chroot(path(0)?.as_ptr()) }.into(), 1),
        // SAFETY: see above.
        "chdir" => (unsafe { libc::chdir(path(0)?.as_ptr()) }.into(), 1),
        // SAFETY: see above.
        "access-x" => (unsafe { libc::access(path(0)?.as_ptr(), libc::X_OK) }.into(), 1),
        // SAFETY: see above.
        "chown" => (unsafe { libc::chown(path(0)?.as_ptr(), number(arg(1)?)?, number(arg(1)?)?) }.into(), 2),
        // SAFETY: see above.
        "unshare" => (unsafe { libc::unshare(number(arg(0)?)?) }.into(), 1),
        // SAFETY: see above.
        "setuid" => (unsafe { libc::setuid(number(arg(0)?)?) }.into(), 1),
        // SAFETY: see above.
        "kill" => (unsafe { libc::kill(number(arg(0)?)?, 0) }.into(), 1),
        // SAFETY: see above.
        "hostname" => (unsafe { libc::sethostname(path(0)?.as_ptr(), arg(0)?.len()) }.into(), 1),
        // SAFETY: see above.
        "ptrace" => (unsafe { libc::ptrace(libc::PTRACE_ATTACH, number::<libc::pid_t>(arg(0)?)?, 0, 0) }, 1),
        // SAFETY: see above.
        "setgroups" => (unsafe { libc::setgroups(0, std::ptr::null()) }.into(), 0),
        // SAFETY: see above.
        "keyctl" => (unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) }, 0),
        // SAFETY: see above.
        "bpf" => (unsafe { libc::syscall(libc::SYS_bpf, 0, std::ptr::null::<u8>(), 0) }, 0),
        "perf" => {
            // SAFETY: see above.
            (unsafe { libc::syscall(libc::SYS_perf_event_open, std::ptr::null::<u8>(), 0, -1, -1, 0) }, 0)
        }
        // SAFETY: see above.
        "personality" => (unsafe { libc::syscall(libc::SYS_personality, 0x0004_0000) }, 0),
        // SAFETY: see above.
        "clone3" => (unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0) }, 0),
        // SAFETY: see above.
        "type-key" => (unsafe { libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()) }.into(), 0),
        // SAFETY: see above.
        "swapon" => (unsafe { libc::syscall(libc::SYS_swapon, c"/nowhere".as_ptr(), 0) }, 0),
        "raw-socket" => {
            // SAFETY: see above.
            (unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) }.into(), 0)
        }
        // SAFETY: see above.
        "unshare-user" => (unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into(), 0),
        // SAFETY: see above.
        "lower-nice" => (unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -5) }.into(), 0),
        // SAFETY: an empty set of times is refused before it is read.
        "settime" => (unsafe { libc::clock_settime(libc::CLOCK_MONOTONIC, std::ptr::null()) }.into(), 0),
        _ => return Err(format!("try: unknown operation {op}")),
    };
    Ok((out::verdict(result), used))
}

/// Looks for a process that runs a program of this size, for at most ten seconds, holds that program open, and tries to
/// write into it once it is not busy any more: the attack on a launcher's binary. Prints the verdict. (Its name would
/// not do: that of a program on a detached mount is `/`.)
pub(crate) fn hunt(size: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let all = || std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|process| process.path());
    // The prey is young and short-lived: what has been started last is looked at most often.
    let young = || {
        let last = std::fs::read_to_string("/proc/sys/kernel/ns_last_pid").unwrap_or_default();
        let last: u64 = last.trim_end().parse().unwrap_or(0);
        (last.saturating_sub(20)..=last + 2).map(|pid| PathBuf::from(format!("/proc/{pid}")))
    };
    let rounds = (0u32..).take_while(|_| Instant::now() < deadline);
    for round in rounds {
        let is_it = |process: PathBuf| catch(&process, size);
        let found = if round % 100 == 0 { all().find_map(is_it) } else { young().find_map(is_it) };
        if let Some(prey) = found {
            let path = format!("/proc/self/fd/{}", prey.as_raw_fd());
            let mut verdict = write(&path, "#!/bin/false\n");
            while verdict == "ETXTBSY" && Instant::now() < deadline {
                verdict = write(&path, "#!/bin/false\n");
            }
            return out::line(&verdict);
        }
    }
    out::line("nothing");
}

/// The program of this process, opened, if it has the size.
fn catch(process: &Path, size: u64) -> Option<std::fs::File> {
    let program = std::fs::File::open(process.join("exe")).ok()?;
    (program.metadata().ok()?.len() == size).then_some(program)
}

fn read(path: &str) -> String {
    let mut text = Vec::new();
    let result = std::fs::File::open(path).and_then(|file| file.take(1 << 16).read_to_end(&mut text));
    match result {
        Ok(_) => String::from_utf8_lossy(&text).trim_end().replace('\n', "\\n"),
        Err(error) => errno(&error),
    }
}

fn write(path: &str, text: &str) -> String {
    let open = || std::fs::OpenOptions::new().write(true).open(path);
    open().and_then(|mut file| file.write_all(text.as_bytes())).map_or_else(|e| errno(&e), |()| "ok".into())
}

fn open(path: &CString, flags: i32) -> String {
    // SAFETY: the path is NUL-terminated; O_NONBLOCK keeps the opening of a device from waiting.
    out::verdict(
        unsafe { libc::open(path.as_ptr(), flags | libc::O_NONBLOCK | libc::O_CLOEXEC, 0o600) }.into(),
    )
}

fn node(path: &CString, kind: &str, major: u32, minor: u32) -> String {
    let kind = if kind == "b" { libc::S_IFBLK } else { libc::S_IFCHR };
    // SAFETY: the path is NUL-terminated.
    out::verdict(unsafe { libc::mknod(path.as_ptr(), kind | 0o600, libc::makedev(major, minor)) }.into())
}

fn mount(kind: &CString, target: &CString) -> String {
    let (source, data) = (c"none".as_ptr(), std::ptr::null());
    // SAFETY: all strings are NUL-terminated; no data is passed.
    out::verdict(unsafe { libc::mount(source, target.as_ptr(), kind.as_ptr(), 0, data) }.into())
}

fn remount_rw(target: &CString) -> String {
    let flags = libc::MS_REMOUNT | libc::MS_BIND;
    // SAFETY: the target is NUL-terminated; the kernel ignores the rest for a bind remount.
    let done =
        unsafe { libc::mount(std::ptr::null(), target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    out::verdict(done.into())
}

/// Type, device numbers, mode and owner of a file, as `c 1:3 0666 0:0`; of a link its target.
fn stat(path: &str) -> String {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) => return errno(&error),
    };
    let kind = meta.file_type();
    let letter = match () {
        () if kind.is_symlink() => return format!("l {}", crate::see::link(path)),
        () if kind.is_char_device() => "c",
        () if kind.is_block_device() => "b",
        () if kind.is_fifo() => "p",
        () if kind.is_socket() => "s",
        () if kind.is_dir() => "d",
        () => "-",
    };
    let device = match letter {
        "c" | "b" => format!(" {}:{}", libc::major(meta.rdev()), libc::minor(meta.rdev())),
        _ => String::new(),
    };
    format!("{letter}{device} {:04o} {}:{}", meta.permissions().mode() & 0o7777, meta.uid(), meta.gid())
}

/// The id of the session keyring. keyctl(2) `KEYCTL_GET_KEYRING_ID`.
fn session_key() -> String {
    // SAFETY: takes integers only.
    let id = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
    if id < 0 { errno(&std::io::Error::last_os_error()) } else { id.to_string() }
}

/// The entries of a directory in order, with commas between.
fn names(dir: &str) -> String {
    let read = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = match read {
        Ok(entries) => entries,
        Err(error) => return errno(&error),
    };
    let mut names: Vec<String> =
        entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.join(",")
}

/// A system call by its number, with up to six numbers as arguments: `1,2,0x10`. The verdict is its result if that is
/// not an error.
fn raw(nr: &str, arguments: &str) -> Result<String, String> {
    let mut numbers = [0u64; 6];
    for (place, word) in numbers.iter_mut().zip(arguments.split(',').filter(|word| !word.is_empty())) {
        *place = match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).map_err(|e| e.to_string())?,
            None => number(word)?,
        };
    }
    let [a, b, c, d, e, f] = numbers;
    // SAFETY: tests pass calls that take numbers, or addresses that the kernel refuses.
    let result = unsafe { libc::syscall(number(nr)?, a, b, c, d, e, f) };
    Ok(if result >= 0 { result.to_string() } else { out::verdict(result) })
}

/// A system call by the 32-bit interface, without arguments.
#[cfg(target_arch = "x86_64")]
fn raw_32(nr: i32) -> String {
    let mut result = nr;
    // SAFETY: the call takes no addresses; the kernel keeps all registers but the result's, and r8 to r11.
    unsafe {
        std::arch::asm!(
            "push rbx", "xor ebx, ebx", "int 0x80", "pop rbx",
            inout("eax") result, in("ecx") 0, in("edx") 0, in("esi") 0, in("edi") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result >= 0 { result.to_string() } else { format!("{:?}", nix::errno::Errno::from_raw(-result)) }
}

fn errno(error: &std::io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |n| format!("{:?}", nix::errno::Errno::from_raw(n)))
}
