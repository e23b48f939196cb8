//! What descriptors a process keeps, and who owns what they have open.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::fcntl::FdFlag;

use super::check;

/// Closes `fd` in a child of [`spawn`](super::spawn), whose descriptors are its own while the value that owns this one may lie in memory
/// that is its parent's.
pub fn close_in_child(fd: BorrowedFd<'_>) {
    // SAFETY: the child is not to use `fd` again, which is this function's contract; its number is not reused for anything
    // that the parent's owner of it could close, since that closes the parent's.
    unsafe { libc::close(fd.as_raw_fd()) };
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

/// Closes every descriptor from 3 on but those in `keep`, in a child of [`spawn`](super::spawn) that has memory of its own and goes on for
/// long: what it has a copy of would stay open as long. close_range(2), Linux ≥ 5.9; otherwise close(2) for each number up to
/// the limit of open files.
///
/// As for [`close_in_child`], nothing that is closed here is to be used again in the child.
/// So it is with a process that has only begun, and closes what it was started with.
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

/// Gives the calling process a descriptor table of its own, with those below `end` alone. close_range(2) with
/// `CLOSE_RANGE_UNSHARE`, Linux ≥ 5.9.
///
/// In a child that has its parent's table; in a process whose table is its own, those from `end` on are closed, and nobody may own any.
pub fn take_descriptors_below(end: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_UNSHARE: libc::c_uint = 2;
    // SAFETY: takes integers only; that nobody uses what is left out is this function's contract.
    let result = unsafe { libc::syscall(libc::SYS_close_range, end, RawFd::MAX, CLOSE_RANGE_UNSHARE) };
    check(result)
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: that nobody uses what is closed is the contract of the callers.
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

/// The flags of the descriptor `number`, whoever owns it. fcntl(2) `F_GETFD`.
///
/// Errors: `EBADF` if none has that number.
pub fn descriptor_flags(number: RawFd) -> io::Result<FdFlag> {
    // SAFETY: takes integers only, and changes nothing.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    check(flags.into()).map(|()| FdFlag::from_bits_retain(flags))
}

/// Sets the flags of the descriptor `number`, whoever owns it. fcntl(2) `F_SETFD`.
pub fn set_descriptor_flags(number: RawFd, flags: FdFlag) -> io::Result<()> {
    // SAFETY: takes integers only; whether an exec closes it is nothing that its owner relies on for memory safety.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, flags.bits()) };
    check(result.into())
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

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use nix::sched::CloneFlags;

    use super::super::{Exit, Memory, reap, spawn};
    use super::*;

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
}
