//! The birth of a child: into namespaces and a cgroup, with a copy of its parent's memory or in it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sched::CloneFlags;

use super::pidfd::{own, reap};

/// The C library's declaration of `struct clone_args`, size 88 (Linux ≥ 5.7, with `cgroup`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

#[cfg(target_arch = "x86_64")]
pub(crate) use shared::clone3_onto;

const CLONE_FILES: u64 = 0x400;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child as its parent sees it.
#[derive(Debug)]
pub struct Child {
    /// Its process id in the parent's PID namespace.
    pub pid: i32,
    /// A descriptor that stays the child's even after the id is reused; readable when it has ended.
    pub pidfd: OwnedFd,
    /// Whether it was born in the cgroup that was asked for; if not, the parent must move it there.
    pub in_cgroup: bool,
    /// What became of the parent's memory.
    pub memory: Memory,
}

/// What a child has of its parent's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// A copy, made page by page as either writes. The two run side by side.
    Copied,
    /// The memory itself, until it executes a program or ends; the parent sleeps meanwhile (vfork(2)). Nothing is
    /// copied: page tables, nor the pages that both write to.
    Shared,
}

/// Forks into the new namespaces `namespaces` and, if given, into the cgroup v2 directory `cgroup`.
/// The child runs `run`, which is told what memory it has, and exits with what that returns.
///
/// With [`Memory::Shared`] the child does not share descriptors, working directory, umask, signal handlers or credentials;
/// what it allocates and does not free before it executes a program, the parent keeps. A child that would not be in its
/// cgroup at once gets a copy instead, for its parent has to do something about it.
///
/// clone3(2), Linux ≥ 5.3; `CLONE_INTO_CGROUP` ≥ 5.7; both fall back (clone3 without a cgroup, then clone(2)).
/// Must be called while the process has one thread: the child is that thread alone, and a lock that another thread held
/// would stay locked in it.
///
/// Errors: `ENOSPC` means that namespaces nest too deeply or a `/proc/sys/user/max_*_namespaces` is exhausted.
pub fn spawn<F: FnOnce(Memory) -> u8>(
    namespaces: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    memory: Memory,
    run: F,
) -> io::Result<Child> {
    spawn_as(0, namespaces, cgroup, memory, run)
}

/// As [`spawn`] with [`Memory::Copied`], where the child has not a copy of the descriptors but the table itself in common with its parent: where
/// that is long, to copy it takes longer than all else.
///
/// The child takes a table of its own first of all ([`super::take_descriptors_below`]); until it has, the parent must close nothing that
/// the child is to use. Not where a user namespace or an older kernel than 5.9 is concerned.
pub fn spawn_with_descriptors<F: FnOnce(Memory) -> u8>(
    namespaces: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    run: F,
) -> io::Result<Child> {
    spawn_as(CLONE_FILES, namespaces, cgroup, Memory::Copied, run)
}

/// As [`spawn`], once `enter` has been run where the child is to come from: in a process between this one and the child, which
/// has this one's memory and descriptors and ends with the clone. So the namespaces that `enter` joins are the child's, and own
/// those that are new, while the caller stays where it is; and still the child is the caller's.
///
/// `enter` must open nothing that it leaves open.
///
/// Errors: those of `enter`; `ENOSYS` where memory cannot be shared (older kernels than 5.3, other processors than x86-64).
pub fn spawn_from<E: FnOnce() -> io::Result<()>, F: FnOnce(Memory) -> u8>(
    enter: E,
    namespaces: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    memory: Memory,
    run: F,
) -> io::Result<Child> {
    let mut spawned = None;
    let mut pidfd: RawFd = -1;
    let args = CloneArgs {
        flags: CLONE_FILES | CLONE_PIDFD,
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    let mut between = Some(|_| {
        spawned = Some(enter().and_then(|()| spawn_as(CLONE_PARENT, namespaces, cgroup, memory, run)));
        0
    });
    if shared::clone3(&args, &mut between)?.is_none() {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    drop(between);
    reap(own(pidfd).as_fd(), true)?;
    spawned.unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::ECHILD)))
}

fn spawn_as<F: FnOnce(Memory) -> u8>(
    more: u64,
    namespaces: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    memory: Memory,
    run: F,
) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: u64::from(namespaces.bits().cast_unsigned()) | CLONE_PIDFD | more,
        // Exposed, for the kernel writes through it what is read below.
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        // A child of the caller's parent tells its end as the caller does.
        exit_signal: if more & CLONE_PARENT == 0 { u64::from(libc::SIGCHLD.cast_unsigned()) } else { 0 },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    let mut run = Some(run);
    if memory == Memory::Shared
        && let Some(pid) = shared::clone3(&args, &mut run)?
    {
        return Ok(Child { pid, pidfd: own(pidfd), in_cgroup: cgroup.is_some(), memory });
    }
    let mut in_cgroup = cgroup.is_some();
    let mut pid = clone3(&args);
    // ENOENT: the caller's cgroup namespace does not reach there, and cgroup2 is mounted with nsdelegate. cgroups(7).
    let without = [libc::E2BIG, libc::EINVAL, libc::EOPNOTSUPP, libc::ENOENT];
    if in_cgroup && refusal(&pid).is_some_and(|errno| without.contains(&errno)) {
        args.flags &= !CLONE_INTO_CGROUP;
        args.cgroup = 0;
        in_cgroup = false;
        pid = clone3(&args);
    }
    if more == 0 && matches!(refusal(&pid), Some(libc::ENOSYS | libc::EPERM)) {
        in_cgroup = false;
        pid = clone_legacy(namespaces, &mut pidfd);
    }
    match pid? {
        0 => exit_now(run.take().map_or(u8::MAX, |run| run(Memory::Copied))),
        pid => Ok(Child { pid, pidfd: own(pidfd), in_cgroup, memory: Memory::Copied }),
    }
}

/// Ends the calling process at once, with all its threads: a child, for what its parent has registered to run at exit is the
/// parent's. exit_group(2).
pub fn exit_now(code: u8) -> ! {
    // SAFETY: runs nothing of this process any more.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Children that borrow their parent's memory.
mod shared {
    use super::{CloneArgs, Memory, exit_now, io};

    const CLONE_VM: u64 = 0x100;
    const CLONE_VFORK: u64 = 0x4000;
    const STACK_BYTES: usize = 256 << 10;
    /// At least one page, of any processor's size.
    const GUARD_BYTES: usize = 64 << 10;

    /// Clones a child that takes `run` and runs it on a stack of its own; returns when it has executed a program or ended.
    /// `None` where this kernel, sandbox or processor has no such clone: then `run` is still there.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn clone3<F: FnOnce(Memory) -> u8>(
        args: &CloneArgs,
        run: &mut Option<F>,
    ) -> io::Result<Option<i32>> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
        const LENGTH: std::num::NonZeroUsize =
            std::num::NonZeroUsize::new(STACK_BYTES).expect("the stack is not empty");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_STACK | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let stack = unsafe { mmap_anonymous(None, LENGTH, access, flags) }?;
        // SAFETY: the lowest page of the new mapping, which nobody uses: a stack that overflows must fault.
        unsafe { mprotect(stack, GUARD_BYTES, ProtFlags::PROT_NONE) }?;
        let args = CloneArgs {
            flags: args.flags | CLONE_VM | CLONE_VFORK,
            stack: stack.addr().get() as u64,
            stack_size: STACK_BYTES as u64,
            ..*args
        };
        // SAFETY: the parent's thread is suspended (CLONE_VFORK) until the child has left its memory, so the child may use
        // `run`, what that borrows, and the C library's state as if it were called. It runs on `stack`, which is mapped
        // until then.
        let result = unsafe { clone3_onto(&args, std::ptr::from_mut(run), enter::<F>) };
        // SAFETY: the child has left the stack, and no reference to it is left.
        unsafe { munmap(stack, STACK_BYTES) }?;
        Ok(i32::try_from(result).ok().filter(|pid| *pid > 0))
    }

    /// The system call alone, of a child that runs `enter` with `argument` on the stack that `args` names; the parent gets the
    /// child's id or a negative errno.
    ///
    /// # Safety
    ///
    /// The stack is the child's alone, and stays while the child is in this memory. So does what `argument` points to, which
    /// `enter` may use, beside all that the parent does meanwhile.
    #[cfg(target_arch = "x86_64")]
    pub(crate) unsafe fn clone3_onto<T>(
        args: &CloneArgs,
        argument: *mut T,
        enter: unsafe extern "C" fn(*mut T) -> !,
    ) -> i64 {
        let result: i64;
        // SAFETY: by this function's contract; `enter` does not return.
        unsafe {
            std::arch::asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "xor ebp, ebp",
                "mov rdi, r8",
                "call r9",
                "ud2",
                "2:",
                inlateout("rax") libc::SYS_clone3 => result,
                in("rdi") std::ptr::from_ref(args),
                in("rsi") size_of::<CloneArgs>(),
                in("r8") argument,
                in("r9") enter,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        result
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn clone3<F: FnOnce(Memory) -> u8>(
        _args: &CloneArgs,
        _run: &mut Option<F>,
    ) -> io::Result<Option<i32>> {
        Ok(None)
    }

    /// The child's first function.
    ///
    /// # Safety
    ///
    /// `run` points to a value that nobody else uses meanwhile.
    #[cfg(target_arch = "x86_64")]
    unsafe extern "C" fn enter<F: FnOnce(Memory) -> u8>(run: *mut Option<F>) -> ! {
        // SAFETY: by this function's contract.
        let run = unsafe { (*run).take() };
        exit_now(run.map_or(u8::MAX, |run| run(Memory::Shared)))
    }
}

/// Forks a child in the same namespaces; in the child, returns `None`. fork(2).
///
/// As for [`spawn`], the process must have one thread.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: single-threaded by this function's contract, so the child's memory is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

fn clone3(args: &CloneArgs) -> io::Result<i32> {
    // SAFETY: no CLONE_VM, so the child runs on its own copy of the stack; `args` and the pidfd that it points to
    // are alive in the caller's frame.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(args), size_of::<CloneArgs>()) };
    returned(pid)
}

/// clone(2) with its pidfd in the place of `parent_tid`, Linux ≥ 5.2.
fn clone_legacy(namespaces: CloneFlags, pidfd: &mut RawFd) -> io::Result<i32> {
    let flags =
        u64::from(namespaces.bits().cast_unsigned()) | CLONE_PIDFD | u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: no CLONE_VM and a null stack: the child runs on its own copy of this one; `pidfd` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, std::ptr::from_mut(pidfd), 0, 0) };
    returned(pid)
}

fn refusal(result: &io::Result<i32>) -> Option<i32> {
    result.as_ref().err().and_then(io::Error::raw_os_error)
}

fn returned(result: libc::c_long) -> io::Result<i32> {
    i32::try_from(result).ok().filter(|pid| *pid >= 0).ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::super::Exit;
    use super::*;

    #[test]
    fn a_structure_has_the_size_of_the_kernels() {
        assert_eq!(size_of::<CloneArgs>(), 88);
    }

    #[test]
    fn a_child_is_reaped_with_its_code() {
        for memory in [Memory::Copied, Memory::Shared] {
            let child = spawn(CloneFlags::empty(), None, memory, |_| 7).expect("spawn");
            assert_eq!(reap(child.pidfd.as_fd(), true).expect("reap"), Some(Exit::Code(7)));
        }
    }

    #[test]
    fn a_child_that_shares_memory_writes_to_its_parents() {
        let mut said = String::new();
        let child = spawn(CloneFlags::empty(), None, Memory::Shared, |memory| {
            said = format!("{memory:?}");
            0
        })
        .expect("spawn");
        reap(child.pidfd.as_fd(), true).expect("reap");
        assert_eq!((said.as_str(), child.memory), ("Shared", Memory::Shared));
    }

    #[test]
    fn a_child_from_elsewhere_is_the_callers() {
        for memory in [Memory::Copied, Memory::Shared] {
            let mut entered = false;
            let enter = || {
                entered = true;
                Ok(())
            };
            let child = spawn_from(enter, CloneFlags::empty(), None, memory, |_| 7).expect("spawn");
            assert!(entered);
            assert_eq!(reap(child.pidfd.as_fd(), true).expect("reap"), Some(Exit::Code(7)));
        }
        let enter = || Err(io::Error::from_raw_os_error(libc::EXDEV));
        let error = spawn_from(enter, CloneFlags::empty(), None, Memory::Shared, |_| 7);
        assert_eq!(error.expect_err("it did not enter").raw_os_error(), Some(libc::EXDEV));
    }
}
