//! Other processes, told by descriptors that stay theirs: what they are, how they end, signals to them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::check;

/// Takes the descriptor that clone3 has made for the parent.
pub(crate) fn own(pidfd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just written this descriptor (CLONE_PIDFD); nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(pidfd) }
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
    wait(pidfd, if block { WaitPidFlag::empty() } else { WaitPidFlag::WNOHANG })
}

/// How the child behind `pidfd` has ended, without reaping it; `None` if it runs.
///
/// Errors: `ECHILD` if it is none of the caller's, or reaped.
pub fn peek(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    wait(pidfd, WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT)
}

fn wait(pidfd: BorrowedFd<'_>, flags: WaitPidFlag) -> io::Result<Option<Exit>> {
    let flags = flags | WaitPidFlag::WEXITED;
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
    let path = std::ffi::CString::new(format!("/proc/{pid}/stat"))?;
    // The kernel writes all of it at once: 52 numbers, and a name of at most 64 bytes.
    let mut text = [0; 2048];
    let length = nix::unistd::read(crate::file::open(&path, nix::fcntl::OFlag::O_RDONLY, 0)?, &mut text)?;
    parse_stat(&text[..length]).ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))
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

/// The mount namespace of the process behind `pidfd`. ioctl(2) `PIDFD_GET_MNT_NAMESPACE`, Linux ≥ 6.11.
///
/// Errors: `ESRCH` if it has ended; `ENOTTY` or `EINVAL` on older kernels; `EPERM` for whoever may not look into it.
pub fn mount_namespace(pidfd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const PIDFD_GET_MNT_NAMESPACE: libc::Ioctl = 0xff03;
    // SAFETY: takes integers only.
    let fd = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_MNT_NAMESPACE, 0) };
    check(fd.into()).map(|()| own(fd))
}

fn pidfd_info(pidfd: BorrowedFd<'_>, mask: u64) -> io::Result<PidfdInfo> {
    const PIDFD_GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sched::CloneFlags;

    use super::super::{Memory, spawn};
    use super::*;

    #[test]
    fn a_structure_has_the_size_of_the_kernels() {
        assert_eq!(size_of::<PidfdInfo>(), 64);
    }

    #[test]
    fn what_a_pidfd_tells_is_the_process_s_own() {
        let child = spawn(CloneFlags::empty(), None, Memory::Copied, |_| 7).expect("spawn");
        let cgroup = cgroup_of(child.pidfd.as_fd());
        let own = cgroup_of(open_pidfd(std::process::id().cast_signed()).expect("pidfd_open").as_fd());
        while peek(child.pidfd.as_fd()).expect("a child").is_none() {}
        assert_eq!(peek(child.pidfd.as_fd()).expect("it stays"), Some(Exit::Code(7)));
        reap(child.pidfd.as_fd(), true).expect("reap");
        assert!(peek(child.pidfd.as_fd()).is_err());
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
}
