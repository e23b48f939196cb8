//! Processes: birth into a cgroup, pidfds, and what a child gives up before it runs a stranger's program.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sched::CloneFlags;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

/// The C library's declaration of `struct clone_args`, size 88 (Linux ≥ 5.7, with `cgroup`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

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
    parent: u64,
    namespaces: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    memory: Memory,
    run: F,
) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: u64::from(namespaces.bits().cast_unsigned()) | CLONE_PIDFD | parent,
        // Exposed, for the kernel writes through it what is read below.
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        // A child of the caller's parent tells its end as the caller does.
        exit_signal: if parent == 0 { u64::from(libc::SIGCHLD.cast_unsigned()) } else { 0 },
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
    if parent == 0 && matches!(refusal(&pid), Some(libc::ENOSYS | libc::EPERM)) {
        in_cgroup = false;
        pid = clone_legacy(namespaces, &mut pidfd);
    }
    match pid? {
        0 => exit_now(run.take().map_or(u8::MAX, |run| run(Memory::Copied))),
        pid => Ok(Child { pid, pidfd: own(pidfd), in_cgroup, memory: Memory::Copied }),
    }
}

/// Takes the descriptor that clone3 has made for the parent.
fn own(pidfd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just written this descriptor (CLONE_PIDFD); nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(pidfd) }
}

/// Ends the calling process at once, with all its threads: a child, for what its parent has registered to run at exit is the
/// parent's. exit_group(2).
pub fn exit_now(code: u8) -> ! {
    // SAFETY: runs nothing of this process any more.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Closes `fd` in a child of [`spawn`], whose descriptors are its own while the value that owns this one may lie in memory
/// that is its parent's.
pub fn close_in_child(fd: BorrowedFd<'_>) {
    // SAFETY: the child is not to use `fd` again, which is this function's contract; its number is not reused for anything
    // that the parent's owner of it could close, since that closes the parent's.
    unsafe { libc::close(fd.as_raw_fd()) };
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
        let result: i64;
        // SAFETY: the parent's thread is suspended (CLONE_VFORK) until the child has left its memory, so the child may use
        // `run`, what that borrows, and the C library's state as if it were called. It runs on `stack`, which is mapped
        // until then, and `enter` does not return.
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
                in("rdi") &raw const args,
                in("rsi") size_of::<CloneArgs>(),
                in("r8") std::ptr::from_mut(run),
                in("r9") enter::<F> as unsafe extern "C" fn(*mut Option<F>) -> !,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        // SAFETY: the child has left the stack, and no reference to it is left.
        unsafe { munmap(stack, STACK_BYTES) }?;
        Ok(i32::try_from(result).ok().filter(|pid| *pid > 0))
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

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It called exit with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// Reaps the child behind `pidfd`; `None` if it still runs and `block` is false. waitid(2) with `P_PIDFD`, Linux ≥ 5.4.
pub fn reap(pidfd: BorrowedFd<'_>, block: bool) -> io::Result<Option<Exit>> {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    let mut flags = WaitPidFlag::WEXITED;
    if !block {
        flags |= WaitPidFlag::WNOHANG;
    }
    loop {
        match waitid(Id::PIDFd(pidfd), flags) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(Some(Exit::Code(code))),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Some(Exit::Signal(signal as i32))),
            Ok(_) => return Ok(None),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A descriptor for the process `pid`, which stays its even after the id is reused. pidfd_open(2), Linux ≥ 5.3.
///
/// Whether `pid` was meant for this process has to be found out afterwards, from what belongs to it alone ([`stat`]).
/// Errors: `ESRCH` if there is none, or none that has not ended and been reaped.
pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match RawFd::try_from(fd) {
        Ok(fd) if fd >= 0 => Ok(own(fd)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What `/proc/PID/stat` says of a process. proc_pid_stat(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its name, up to 15 bytes.
    pub name: Vec<u8>,
    /// `R`, `S`, …; `Z` for one that has ended and is not reaped.
    pub state: u8,
    /// When it started, in clock ticks since boot: no two processes with one id have this in common.
    pub start_time: u64,
}

/// Reads `/proc/PID/stat` of the process `pid`.
pub fn stat(pid: i32) -> io::Result<Stat> {
    let bytes = std::fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&bytes).ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))
}

/// The name, which may hold any byte, stands between the first `(` and the last `)`.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let name = bytes.get(open + 1..close)?.to_vec();
    // Field 3 is the state, field 22 the time.
    let mut fields = bytes.get(close + 1..)?.split(|byte| *byte == b' ').skip(1);
    let state = *fields.next()?.first()?;
    let start_time = std::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()?;
    Some(Stat { name, state, start_time })
}

/// `struct pidfd_info`, size 64 (Linux ≥ 6.13; its last field is set from 6.15 on).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, and real, effective, saved and file system ids.
    ids: [u32; 11],
    exit_status: i32,
}

const PIDFD_INFO_CGROUP: u64 = 4;
const PIDFD_INFO_EXIT: u64 = 8;

/// The id of the cgroup v2 directory that the process behind `pidfd` is in. ioctl(2) `PIDFD_GET_INFO`, Linux ≥ 6.13.
///
/// Errors: `ESRCH` if it has ended and was reaped; `ENOTTY` on older kernels.
pub fn cgroup_of(pidfd: BorrowedFd<'_>) -> io::Result<u64> {
    let info = pidfd_info(pidfd, PIDFD_INFO_CGROUP)?;
    if info.mask & PIDFD_INFO_CGROUP == 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(info.cgroup)
}

/// How the process behind `pidfd` has ended, whoever has reaped it; `None` if nobody has yet. ioctl(2) `PIDFD_GET_INFO` with
/// `PIDFD_INFO_EXIT`, Linux ≥ 6.15.
///
/// Errors: `ENOTTY`, or `EOPNOTSUPP` here, on kernels that do not tell.
pub fn exit_of(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    let info = match pidfd_info(pidfd, PIDFD_INFO_EXIT) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        other => other?,
    };
    if info.mask & PIDFD_INFO_EXIT == 0 {
        return Ok(None);
    }
    let status = info.exit_status;
    Ok(Some(if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    }))
}

fn pidfd_info(pidfd: BorrowedFd<'_>, mask: u64) -> io::Result<PidfdInfo> {
    const PIDFD_GET_INFO: libc::Ioctl = 0xc040_ff0b;
    let mut info = PidfdInfo { mask, ..PidfdInfo::default() };
    // SAFETY: the request's number holds the size of `info`, which the kernel reads and writes.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    check(result.into()).map(|()| info)
}

/// Sends `signal` to the process behind `pidfd`. pidfd_send_signal(2), Linux ≥ 5.1.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: takes integers and a null pointer, which stands for default signal information.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(result)
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// close_range(2) with `CLOSE_RANGE_CLOEXEC`, Linux ≥ 5.11; otherwise one fcntl(2) for each number up to the limit of
/// open files, which needs no `/proc`.
pub fn cloexec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: takes integers only.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if result == 0 {
        return Ok(());
    }
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    let end = RawFd::try_from(soft.min(1 << 20)).unwrap_or(1 << 20);
    for fd in first..end {
        // SAFETY: fcntl with integers; a number that is not open answers EBADF, which is what is wanted.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Closes every descriptor from 3 on but those in `keep`, in a child of [`spawn`] that has memory of its own and goes on for
/// long: what it has a copy of would stay open as long. close_range(2), Linux ≥ 5.9; otherwise close(2) for each number up to
/// the limit of open files.
///
/// As for [`close_in_child`], nothing that is closed here is to be used again in the child.
pub fn close_others_in_child(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|number| *number > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for number in keep {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = first.max(number + 1);
    }
    close_range(first, RawFd::MAX)
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: that nobody uses what is closed is the contract of the one caller.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return Ok(());
    }
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    let end = RawFd::try_from(soft.min(1 << 20)).unwrap_or(1 << 20);
    for number in first..=last.min(end) {
        // SAFETY: as above; a number that is not open answers EBADF, which is what is wanted.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Kill this process when its parent ends. prctl(2); forgotten by the kernel when credentials change.
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL.cast_unsigned().into())
}

/// Takes [`die_with_parent`] back, also where a change of credentials has not.
pub fn outlive_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, 0)
}

/// The flags of the descriptor `number`, whoever owns it. fcntl(2) `F_GETFD`.
///
/// Errors: `EBADF` if none has that number.
pub fn descriptor_flags(number: RawFd) -> io::Result<nix::fcntl::FdFlag> {
    // SAFETY: takes integers only, and changes nothing.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    check(flags.into()).map(|()| nix::fcntl::FdFlag::from_bits_retain(flags))
}

/// Makes `user` the owner of what the descriptor `number` has open, unless that is the device `except`. fchown(2).
pub fn give_descriptor(number: RawFd, user: u32, except: u64) -> io::Result<()> {
    // SAFETY: borrowed for this call only, which tells of a number that is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let found = nix::sys::stat::fstat(fd)?;
    if found.st_uid == user || found.st_rdev == except {
        return Ok(());
    }
    Ok(nix::unistd::fchown(fd, Some(nix::unistd::Uid::from_raw(user)), None)?)
}

/// No program run from here on gains privileges. prctl(2) `PR_SET_NO_NEW_PRIVS`.
pub fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Keep permitted capabilities over the change from user 0 to another. prctl(2) `PR_SET_KEEPCAPS`.
pub fn keep_capabilities() -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1)
}

/// Makes the process's memory and `/proc` entries inaccessible to others of its user. prctl(2) `PR_SET_DUMPABLE`.
pub fn set_undumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Removes `capability` from the bounding set, for good. capabilities(7).
pub fn drop_bounding(capability: u8) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability.into())
}

/// Empties the ambient set. capabilities(7), Linux ≥ 4.3.
pub fn clear_ambient() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL.cast_unsigned().into())
}

/// Raises `capability` in the ambient set; it must be permitted and inheritable.
pub fn raise_ambient(capability: u8) -> io::Result<()> {
    // SAFETY: takes integers only.
    let result = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::c_ulong::from(libc::PR_CAP_AMBIENT_RAISE.cast_unsigned()),
            libc::c_ulong::from(capability),
            0,
            0,
        )
    };
    check(result.into())
}

/// The bounding set as a mask of capability numbers, and the highest number that the kernel knows. capabilities(7).
pub fn bounding_set() -> (u64, u8) {
    let known = (0..64).map(|number| (number, bounding(number))).take_while(|(_, held)| *held >= 0);
    known.fold((0, 0), |(mask, _), (number, held)| (mask | u64::from(held == 1) << number, number))
}

/// Those of `wanted` (bit masks) that are in the bounding set, and the number of the last capability that the kernel knows,
/// with as few calls as that takes: a kernel of these years has 41.
#[must_use]
pub fn bounding_of(wanted: u64) -> (u64, u8) {
    const USUAL: u8 = 40;
    let is_last = |number: u8| bounding(number) >= 0 && bounding(number + 1) < 0;
    let last = if is_last(USUAL) {
        USUAL
    } else {
        (0..63).take_while(|number| bounding(*number) >= 0).last().unwrap_or(0)
    };
    let asked = (0..=last).filter(|number| wanted >> number & 1 == 1 && bounding(*number) == 1);
    (asked.fold(0, |mask, number| mask | 1 << number), last)
}

fn bounding(number: u8) -> libc::c_int {
    // SAFETY: takes integers only.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(number)) }
}

/// The effective, permitted and inheritable capabilities of the calling thread, as masks of capability numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Those in force.
    pub effective: u64,
    /// Those that may be put in force.
    pub permitted: u64,
    /// Those kept by a program that has them in its file.
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

/// Reads the calling thread's capabilities. capget(2).
pub fn capabilities() -> io::Result<Capabilities> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 writes two CapData, the length of `data`.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    check(result)?;
    let join = |part: fn(&CapData) -> u32| u64::from(part(&data[0])) | u64::from(part(&data[1])) << 32;
    Ok(Capabilities {
        effective: join(|data| data.effective),
        permitted: join(|data| data.permitted),
        inheritable: join(|data| data.inheritable),
    })
}

/// Sets the calling thread's capabilities. capset(2).
pub fn set_capabilities(sets: Capabilities) -> io::Result<()> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: low_half(sets.effective >> shift),
        permitted: low_half(sets.permitted >> shift),
        inheritable: low_half(sets.inheritable >> shift),
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two CapData, the length of `data`.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    check(result)
}

fn low_half(mask: u64) -> u32 {
    u32::try_from(mask & 0xffff_ffff).unwrap_or(u32::MAX)
}

/// Sets the NIS domain name of the caller's UTS namespace. setdomainname(2), CAP_SYS_ADMIN over that namespace.
pub fn set_domain_name(name: &CStr) -> io::Result<()> {
    // SAFETY: reads as many bytes as are told, all of them `name`'s.
    let result = unsafe { libc::setdomainname(name.as_ptr(), name.count_bytes()) };
    check(result.into())
}

/// Lets children be waited for, whatever the caller of this program has set: where SIGCHLD is ignored, they vanish. wait(2).
pub fn keep_children() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of this process.
    unsafe { nix::sys::signal::sigaction(Signal::SIGCHLD, &default) }?;
    Ok(())
}

/// Gives every signal its default action. sigaction(2).
pub fn default_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs no code of this process.
        unsafe { nix::sys::signal::sigaction(signal, &default) }?;
    }
    Ok(())
}

/// Gives up the session keyring of the caller for a new, empty one. keyctl(2).
///
/// A kernel without keyrings (`ENOSYS`) has nothing to give up.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    };
    match check(result) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other,
    }
}

/// Runs `program` in the place of this process; returns only on failure. execve(2).
pub fn exec(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    match nix::unistd::execve(program, arguments, environment) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// As [`exec`], for the program that `file` has open. execveat(2) with `AT_EMPTY_PATH`, Linux ≥ 3.19.
pub fn exec_fd(file: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end in null and point to NUL-terminated strings that the caller's slices keep alive.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: every option that this module passes takes integers only.
    let result = unsafe { libc::prctl(option, value, 0, 0, 0) };
    check(result.into())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn structures_have_the_sizes_of_the_kernels() {
        assert_eq!(size_of::<CloneArgs>(), 88);
        assert_eq!(size_of::<CapHeader>(), 8);
        assert_eq!(size_of::<CapData>(), 12);
        assert_eq!(size_of::<PidfdInfo>(), 64);
    }

    #[test]
    fn the_bounding_set_is_the_same_asked_for_in_parts() {
        let (all, last) = bounding_set();
        assert_eq!(bounding_of(u64::MAX), (all, last));
        assert_eq!(bounding_of(0b1001), (all & 0b1001, last));
        assert_eq!(bounding_of(0), (0, last));
    }

    #[test]
    fn what_a_pidfd_tells_is_the_process_s_own() {
        let child = spawn(CloneFlags::empty(), None, Memory::Copied, |_| 7).expect("spawn");
        let cgroup = cgroup_of(child.pidfd.as_fd());
        let own = cgroup_of(open_pidfd(std::process::id().cast_signed()).expect("pidfd_open").as_fd());
        reap(child.pidfd.as_fd(), true).expect("reap");
        match cgroup {
            Ok(cgroup) => {
                assert_eq!(Some(cgroup), own.ok());
                let gone = cgroup_of(child.pidfd.as_fd()).expect_err("it is reaped");
                assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOTTY)),
        }
        match exit_of(child.pidfd.as_fd()) {
            Ok(exit) => assert_eq!(exit, Some(Exit::Code(7))),
            Err(error) => {
                assert!(matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP)), "{error}");
            }
        }
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
    fn a_process_is_told_by_its_start_even_under_a_strange_name() {
        let line = b"7 (a) S (b) c) Z 1 7 7 0 -1 4194560 99 0 0 0 0 0 0 0 20 0 1 0 12345 0 0 1";
        let stat = parse_stat(line).expect("of that form");
        assert_eq!(stat, Stat { name: b"a) S (b) c".to_vec(), state: b'Z', start_time: 12345 });
        assert_eq!(parse_stat(b"7 (a) S 1 2"), None);
        assert_eq!(parse_stat(b"7 )a("), None);

        let child = spawn(CloneFlags::empty(), None, Memory::Copied, |_| 0).expect("spawn");
        let start = stat_of(child.pid).start_time;
        assert!(start >= stat_of(std::process::id().cast_signed()).start_time);
        let again = open_pidfd(child.pid).expect("pidfd_open");
        reap(again.as_fd(), true).expect("reap");
        let gone = open_pidfd(child.pid).expect_err("it is reaped");
        assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
    }

    fn stat_of(pid: i32) -> Stat {
        stat(pid).expect("stat")
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

    #[test]
    fn a_child_can_close_all_but_a_few() {
        let files: Vec<OwnedFd> =
            (0..4).map(|_| std::fs::File::open("/dev/null").expect("open").into()).collect();
        let [a, b, c, d] = [0, 1, 2, 3].map(|index: usize| files[index].as_raw_fd());
        let child = spawn(CloneFlags::empty(), None, Memory::Copied, |_| {
            let closed = close_others_in_child(&[c, a, 0]).is_ok();
            let is_open = |number| descriptor_flags(number).is_ok();
            u8::from(closed && [a, b, c, d].map(is_open) == [true, false, true, false])
        });
        let child = child.expect("spawn");
        assert_eq!(reap(child.pidfd.as_fd(), true).expect("reap"), Some(Exit::Code(1)));
    }

    #[test]
    fn own_capabilities_can_be_read_and_set_to_themselves() {
        let now = capabilities().expect("capget");
        set_capabilities(now).expect("capset");
    }
}
