//! A load whose cost is known beforehand: `probe calls N M P B [fork|threads K]`.
//!
//! Each of K children (or threads, or the program itself) makes exactly N calls of each of 20 kinds, of which M fail
//! with a known errno where the kind can fail; it touches P fresh pages and writes B bytes to `/dev/null` in one call.
//! No start-up code of the C library or of Rust uses these kinds. At the end one line of JSON says what a profile of
//! the program must show.

use std::ffi::CStr;
use std::hint::black_box;

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use serde_json::{Map, Value, json};

use crate::{number, out};

/// A system call with arguments that succeed and, where it can fail harmlessly, arguments that make it fail.
struct Kind {
    name: &'static str,
    nr: i64,
    good: [usize; 2],
    bad: Option<(&'static str, [usize; 2])>,
}

/// What each worker does.
#[derive(Clone, Copy)]
struct Amounts {
    calls: usize,
    failing: usize,
    pages: usize,
    bytes: usize,
}

const NOBODY: usize = 0x3fff_ffff;
const MINUS_ONE: usize = usize::MAX;
const PAGE: usize = 4096;

/// A buffer that the kernel may fill; nobody reads it.
static mut SCRATCH: [u8; PAGE] = [0; PAGE];

fn kinds() -> [Kind; 20] {
    let scratch = (&raw mut SCRATCH) as usize;
    // Whoever looks on sees a text only if it is in memory, and not every call gets so far as to read it.
    let text = |text: &'static CStr| {
        let _read = black_box(black_box(text).to_bytes().iter().fold(0, |all, byte| all ^ byte));
        text.as_ptr() as usize
    };
    let (here, missing) = (text(c"."), text(c"/no/such/file"));
    let kind = |name, nr, good, bad| Kind { name, nr, good, bad };
    [
        kind("getppid", libc::SYS_getppid, [0, 0], None),
        kind("getuid", libc::SYS_getuid, [0, 0], None),
        kind("geteuid", libc::SYS_geteuid, [0, 0], None),
        kind("getgid", libc::SYS_getgid, [0, 0], None),
        kind("getegid", libc::SYS_getegid, [0, 0], None),
        kind("umask", libc::SYS_umask, [0o22, 0], None),
        kind("times", libc::SYS_times, [scratch, 0], None),
        kind("sysinfo", libc::SYS_sysinfo, [scratch, 0], Some(("EFAULT", [1, 0]))),
        kind("uname", libc::SYS_uname, [scratch, 0], Some(("EFAULT", [1, 0]))),
        kind("getpgid", libc::SYS_getpgid, [0, 0], Some(("ESRCH", [NOBODY, 0]))),
        kind("getsid", libc::SYS_getsid, [0, 0], Some(("ESRCH", [NOBODY, 0]))),
        kind("kill", libc::SYS_kill, [0, 0], Some(("ESRCH", [NOBODY, 0]))),
        kind("getpriority", libc::SYS_getpriority, [0, 0], Some(("EINVAL", [9, 0]))),
        kind("getrusage", libc::SYS_getrusage, [0, scratch], Some(("EINVAL", [9, scratch]))),
        kind("getitimer", libc::SYS_getitimer, [0, scratch], Some(("EINVAL", [9, scratch]))),
        kind("getcwd", libc::SYS_getcwd, [scratch, PAGE], Some(("ERANGE", [scratch, 1]))),
        kind("chdir", libc::SYS_chdir, [here, 0], Some(("ENOENT", [missing, 0]))),
        kind("sched_yield", libc::SYS_sched_yield, [0, 0], None),
        kind("sched_getscheduler", libc::SYS_sched_getscheduler, [0, 0], Some(("EINVAL", [MINUS_ONE, 0]))),
        kind("sched_get_priority_max", libc::SYS_sched_get_priority_max, [0, 0], Some(("EINVAL", [99, 0]))),
    ]
}

/// Runs the load and prints what it must have cost.
pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let [calls, failing, pages, bytes, rest @ ..] = words else {
        return Err("calls N M P B [fork|threads K]".into());
    };
    let amounts = Amounts {
        calls: number(calls)?,
        failing: number(failing)?,
        pages: number(pages)?,
        bytes: number(bytes)?,
    };
    let workers = match rest {
        [] => work(amounts).map(|()| 1)?,
        ["fork", count] => fork_workers(amounts, number(count)?)?,
        ["threads", count] => thread_workers(amounts, number(count)?)?,
        _ => return Err("calls: fork K or threads K".into()),
    };
    let created = if rest.is_empty() { 0 } else { workers };
    out::line(&expected(amounts, workers, created).to_string());
    Ok(())
}

fn fork_workers(amounts: Amounts, count: usize) -> Result<usize, String> {
    for _ in 0..count {
        // SAFETY: this program has one thread here.
        match unsafe { fork() }.map_err(|e| e.to_string())? {
            ForkResult::Child => {
                let done = work(amounts);
                // SAFETY: leaves without running anything of the parent's.
                unsafe { libc::_exit(i32::from(done.is_err())) }
            }
            ForkResult::Parent { child } => drop(waitpid(child, None).map_err(|e| e.to_string())?),
        }
    }
    Ok(count)
}

fn thread_workers(amounts: Amounts, count: usize) -> Result<usize, String> {
    let threads: Vec<_> = (0..count).map(|_| std::thread::spawn(move || work(amounts))).collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread died")??;
    }
    Ok(count)
}

fn work(amounts: Amounts) -> Result<(), String> {
    for kind in kinds() {
        for turn in 0..amounts.calls {
            let arguments = match kind.bad {
                Some((_, bad)) if turn < amounts.failing => bad,
                _ => kind.good,
            };
            // SAFETY: numbers, static strings and the static scratch page, as the call in the table wants them.
            unsafe { libc::syscall(kind.nr, arguments[0], arguments[1]) };
        }
    }
    touch(amounts.pages)?;
    discard(amounts.bytes)
}

/// Faults in `pages` fresh small pages.
fn touch(pages: usize) -> Result<(), String> {
    if pages == 0 {
        return Ok(());
    }
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh anonymous mapping aliases nothing.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err("mmap failed".into());
    }
    // SAFETY: advice on the mapping just made. A kernel without huge pages refuses it, and has only small ones.
    let _advised = unsafe { libc::madvise(start, pages * PAGE, libc::MADV_NOHUGEPAGE) };
    for page in 0..pages {
        // SAFETY: inside the mapping, which is never unmapped.
        let byte = unsafe { start.cast::<u8>().add(page * PAGE) };
        // SAFETY: as above.
        unsafe { byte.write_volatile(1) };
    }
    Ok(())
}

fn discard(bytes: usize) -> Result<(), String> {
    let buffer = vec![0u8; bytes];
    // SAFETY: the path is NUL-terminated.
    let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    // SAFETY: the buffer is alive and as long as said.
    let written = unsafe { libc::write(null, buffer.as_ptr().cast(), bytes) };
    if usize::try_from(written) == Ok(bytes) { Ok(()) } else { Err("short write to /dev/null".into()) }
}

fn expected(amounts: Amounts, workers: usize, created: usize) -> Value {
    let mut calls: Map<String, Value> = Map::new();
    for kind in kinds() {
        let errors = match kind.bad {
            Some((errno, _)) if amounts.failing > 0 => json!({ errno: amounts.failing * workers }),
            _ => json!({}),
        };
        calls.insert(kind.name.into(), json!({ "count": amounts.calls * workers, "errors": errors }));
    }
    // One write per worker, and the one that prints this.
    calls.insert("write".into(), json!({ "count": workers + 1, "errors": {} }));
    json!({ "calls": calls, "pages": amounts.pages * workers, "created": created })
}
