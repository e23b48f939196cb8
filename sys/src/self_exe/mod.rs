//! The launcher's own executable, out of a container's reach.
//!
//! A container whose program is `/proc/self/exe` – by a link, as the interpreter of a script or of an ELF file – runs
//! skiff itself, and another process of the container could then write to the file behind `/proc/PID/exe`
//! (CVE-2019-5736). So skiff runs from a place that cannot be written to: a private read-only mount of its own file,
//! attached nowhere, or where mounting is not allowed a sealed copy in memory.

mod exchange;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{OFlag, SealFlag};
use nix::sys::memfd::MFdFlags;
use nix::sys::statvfs::FsFlags;

use crate::{file, mount, process};

const SELF: &CStr = c"/proc/self/exe";
const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Opens this process's executable if it is out of reach already.
///
/// It is when no write through `/proc/PID/exe` can succeed: the file lies on a read-only mount or is a sealed memfd.
pub fn sealed() -> io::Result<Option<OwnedFd>> {
    let file = file::open(SELF, OFlag::O_RDONLY, 0)?;
    let read_only = nix::sys::statvfs::fstatvfs(&file)?.flags().contains(FsFlags::ST_RDONLY);
    let sealed = || {
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GET_SEALS)
            .is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(SEALS))
    };
    Ok(if read_only || sealed() { Some(file) } else { None })
}

/// Goes on from a place that cannot be written to: the executable on a read-only mount of its own, which is attached nowhere, and is
/// returned. It is unmounted when that is dropped and this process has ended, which waits for an RCU grace period; whoever attaches it
/// has it unmounted with what it lies below.
///
/// To be called when [`sealed`] has found nothing, while there is one thread. open_tree(2) and mount_setattr(2), Linux ≥ 5.12,
/// CAP_SYS_ADMIN, x86-64; errors leave it to [`reexec`].
pub fn seal() -> io::Result<OwnedFd> {
    let mount = read_only_mount()?;
    let file = file::open(&file::proc_fd_path(mount.as_fd()), OFlag::O_RDONLY, 0)?;
    exchange::exchange(file.as_fd())?;
    Ok(mount)
}

/// Starts this program again, with the same arguments, from a place that cannot be written to; returns only on
/// failure. To be called when [`sealed`] has found nothing, before anything else is done.
pub fn reexec(arguments: &[CString], environment: &[CString]) -> io::Error {
    match read_only_mount().or_else(|_| sealed_copy()) {
        Ok(file) => process::exec_fd(file.as_fd(), arguments, environment),
        Err(error) => error,
    }
}

/// The executable on a read-only mount of its own. open_tree(2) and mount_setattr(2), Linux ≥ 5.12, CAP_SYS_ADMIN.
fn read_only_mount() -> io::Result<OwnedFd> {
    let file = file::open(SELF, OFlag::O_PATH, 0)?;
    let mount = mount::clone_tree(file.as_fd(), c"", false)?;
    mount::set_attr(mount.as_fd(), mount::Attr::RDONLY, false)?;
    Ok(mount)
}

/// What tells this process's executable from another: its size, bytes, and the time of its last change, ns since 1970. A
/// sealed copy has those of the file that it is of. Zeros where it cannot be looked at.
#[must_use]
pub fn identity() -> [u64; 2] {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/exe").map_or([0; 2], |own| {
        let changed_ns = own.mtime().wrapping_mul(1_000_000_000).wrapping_add(own.mtime_nsec());
        [own.len(), changed_ns.cast_unsigned()]
    })
}

/// The executable copied to memory and sealed. memfd_create(2), fcntl(2) `F_ADD_SEALS`.
fn sealed_copy() -> io::Result<OwnedFd> {
    let memory =
        nix::sys::memfd::memfd_create(c"skiff", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let (mut copy, mut own) = (std::fs::File::from(memory), std::fs::File::open("/proc/self/exe")?);
    io::copy(&mut own, &mut copy)?;
    copy.set_modified(own.metadata()?.modified()?)?;
    nix::fcntl::fcntl(&copy, nix::fcntl::FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_copy_refuses_writes_and_is_known_by_what_it_is_of() {
        use std::io::Write;
        use std::os::unix::fs::MetadataExt;
        let copy = sealed_copy().expect("memfd");
        let mut copy = std::fs::File::from(copy);
        let seen = copy.metadata().expect("it is open");
        let changed_ns = seen.mtime() * 1_000_000_000 + seen.mtime_nsec();
        assert_eq!([seen.len(), changed_ns.cast_unsigned()], identity());
        let error = copy.write(b"x").expect_err("sealed");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
