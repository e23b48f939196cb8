//! What the kernel grants a process of its CPUs, disks and memory nodes, and how it behaves towards it.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// The first version of the kernel's `struct sched_attr`, which every kernel takes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// A scheduling policy and its parameters, as sched_setattr(2) has them; times in ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// `SCHED_OTHER` and so on.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// −20..=19.
    pub nice: i32,
    /// Of real-time policies.
    pub priority: u32,
    /// Of `SCHED_DEADLINE`.
    pub runtime_ns: u64,
    /// Likewise.
    pub deadline_ns: u64,
    /// Likewise.
    pub period_ns: u64,
}

/// Sets the calling thread's. sched_setattr(2).
pub fn set_policy(policy: &Policy) -> io::Result<()> {
    let attr = SchedAttr {
        size: u32::try_from(size_of::<SchedAttr>()).unwrap_or(0),
        policy: policy.policy,
        flags: policy.flags,
        nice: policy.nice,
        priority: policy.priority,
        runtime: policy.runtime_ns,
        deadline: policy.deadline_ns,
        period: policy.period_ns,
    };
    // SAFETY: `attr` tells its own size and outlives the call, which only reads it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    check(result)
}

/// The right to have something done beside, on a processor that is likely to be idle. It ends when this is dropped, in whichever
/// processes it has got to.
#[derive(Debug)]
pub struct IdleProcessor {
    _held: Flock<OwnedFd>,
}

/// Takes that right, if fewer threads run, or could, than there are processors that this process may run on, and if nobody else
/// has it. proc_loadavg(5), sched_getaffinity(2), flock(2).
///
/// One at a time: of many at once most sleep, for locks of the kernel's that those who help them would have to wait for, too, so
/// that processors seem to be idle. Who else would lock [`LOCKED`] may slow launches down anyway.
#[must_use]
pub fn idle_processor() -> Option<IdleProcessor> {
    let mut text = [0; 128];
    let file = crate::file::open(c"/proc/loadavg", OFlag::O_RDONLY, 0).ok()?;
    let length = nix::unistd::read(file, &mut text).ok()?;
    let runnable = runnable(&text[..length])?;
    let own = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let processors = (0..CpuSet::count()).filter(|processor| own.is_set(*processor) == Ok(true)).count();
    if runnable >= processors {
        return None;
    }
    IdleProcessor::take(crate::file::open(LOCKED, OFlag::O_RDONLY, 0).ok()?)
}

/// A file that every host has and root alone can open; what is in it does not matter.
const LOCKED: &CStr = c"/proc/vmallocinfo";

impl IdleProcessor {
    fn take(file: OwnedFd) -> Option<Self> {
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        Some(Self { _held: held })
    }
}

/// The number before the slash: those that run or could.
fn runnable(loadavg: &[u8]) -> Option<usize> {
    let field = loadavg.split(|byte| *byte == b' ').nth(3)?;
    std::str::from_utf8(field.split(|byte| *byte == b'/').next()?).ok()?.parse().ok()
}

/// Sets the calling thread's I/O priority: class << 13 | level. ioprio_set(2).
pub fn set_io_priority(priority: u16) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: takes integers only.
    let result =
        unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, libc::c_int::from(priority)) };
    check(result)
}

/// Sets the calling process's execution domain. personality(2).
pub fn set_personality(domain: u64) -> io::Result<()> {
    // SAFETY: takes an integer.
    let result = unsafe { libc::personality(domain) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets where the calling thread's memory comes from: `mode` is `MPOL_*` with its flags. set_mempolicy(2).
///
/// Errors: `ENOSYS` on a kernel without memory nodes.
pub fn set_memory_policy(mode: i32, nodes: &[usize]) -> io::Result<()> {
    const BITS: usize = u64::BITS as usize;
    let words = nodes.iter().max().map_or(0, |highest| highest / BITS + 1);
    let mut mask = vec![0_u64; words];
    for node in nodes {
        mask[node / BITS] |= 1 << (node % BITS);
    }
    let pointer = if mask.is_empty() { std::ptr::null() } else { mask.as_ptr() };
    // The kernel takes one bit less than it is told, for historical reasons.
    let bits = if mask.is_empty() { 0 } else { mask.len() * BITS + 1 };
    // SAFETY: the mask has at least the bits that are told but the last, which is not read; it outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) };
    check(result)
}

/// The CPUs that the calling thread may run on. sched_getaffinity(2).
pub fn cpus() -> io::Result<CpuSet> {
    Ok(sched_getaffinity(Pid::from_raw(0))?)
}

/// Makes the calling thread, and those that it starts from now on, stay on the CPU that it is on; where they might have run before.
pub fn keep_on_this_cpu() -> io::Result<CpuSet> {
    let before = cpus()?;
    let mut here = CpuSet::new();
    here.set(sched_getcpu()?)?;
    set_cpus(&here)?;
    Ok(before)
}

/// Makes the calling thread run on `cpus` only. sched_setaffinity(2).
pub fn set_cpus(cpus: &CpuSet) -> io::Result<()> {
    Ok(sched_setaffinity(Pid::from_raw(0), cpus)?)
}

/// A set of CPUs by their numbers.
///
/// Errors: `EINVAL` for a number that no set has room for.
pub fn cpu_set(numbers: &[usize]) -> io::Result<CpuSet> {
    let mut set = CpuSet::new();
    numbers.iter().try_for_each(|number| set.set(*number))?;
    Ok(set)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `test` in a thread of its own, for what it sets stays set.
    fn apart(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().expect("the thread ends");
    }

    #[test]
    fn one_at_a_time_has_something_done_beside() {
        let path = std::env::temp_dir().join(format!("skiff-beside-{}", std::process::id()));
        let file =
            || OwnedFd::from(std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("open"));
        std::fs::write(&path, "").expect("a file");
        let held = IdleProcessor::take(file()).expect("the first");
        // What a child has got of it ends with it.
        let copy = held._held.try_clone().expect("dup");
        assert!(IdleProcessor::take(file()).is_none());
        drop(held);
        assert!(IdleProcessor::take(file()).is_some());
        drop(copy);
        std::fs::remove_file(&path).expect("remove");
    }

    #[test]
    fn only_root_can_keep_everybody_from_having_things_done_beside() {
        use std::os::unix::fs::MetadataExt;
        let path = LOCKED.to_str().expect("a path");
        let found = std::fs::metadata(path).expect("every host has it");
        assert_eq!((found.uid(), found.mode() & 0o077), (0, 0));
    }

    #[test]
    fn the_first_version_of_a_policy_has_its_size() {
        assert_eq!(size_of::<SchedAttr>(), 48);
    }

    #[test]
    fn a_policy_is_set() {
        apart(|| {
            const SCHED_BATCH: u32 = 3;
            set_policy(&Policy { policy: SCHED_BATCH, nice: 5, ..Policy::default() }).expect("sched_setattr");
            // SAFETY: takes an integer.
            assert_eq!(unsafe { libc::sched_getscheduler(0) }, 3);
        });
    }

    #[test]
    fn an_io_priority_is_set() {
        apart(|| {
            set_io_priority(2 << 13 | 6).expect("ioprio_set");
            // SAFETY: takes integers only.
            assert_eq!(unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) }, 2 << 13 | 6);
        });
    }

    #[test]
    fn cpus_are_set() {
        apart(|| {
            let first =
                (0..CpuSet::count()).find(|number| cpus().is_ok_and(|set| set.is_set(*number) == Ok(true)));
            let first = first.expect("some CPU");
            set_cpus(&cpu_set(&[first]).expect("a set")).expect("sched_setaffinity");
            assert_eq!(cpus().expect("sched_getaffinity"), cpu_set(&[first]).expect("a set"));
            assert!(cpu_set(&[usize::MAX]).is_err());
        });
    }

    #[test]
    fn a_memory_policy_is_set() {
        apart(|| {
            const MPOL_BIND: i32 = 2;
            match set_memory_policy(MPOL_BIND, &[0]) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
                other => other.expect("set_mempolicy"),
            }
            const MPOL_DEFAULT: i32 = 0;
            if let Err(error) = set_memory_policy(MPOL_DEFAULT, &[]) {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
            }
            let error = set_memory_policy(MPOL_BIND, &[5000]).expect_err("no such node");
            assert!(error.raw_os_error().is_some());
        });
    }

    #[test]
    fn those_that_could_run_stand_before_the_slash() {
        assert_eq!(runnable(b"0.26 0.97 2.13 3/120 4974\n"), Some(3));
        assert_eq!(runnable(b"0.26 0.97\n"), None);
    }
}
