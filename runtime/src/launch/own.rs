//! What a process tells the kernel of itself through `/proc`: its OOM score, its clocks, its security labels.
//!
//! Runs in: child, where nothing else is said, before anything of the container is mounted or entered, so that `/proc` is the one that the launcher
//! was given. Still it is seen to be a procfs, and nothing mounted over parts of it is written to (CVE-2025-52881).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use skiff_sys::file::{self, Resolve};

use super::sync::{At, Failure, Stage};
use crate::Error;
use crate::error::Context;
use crate::plan::Process;

/// The calling process's entries below `/proc`, opened when the first is asked for.
#[derive(Debug, Default)]
pub(super) struct Own {
    directory: Option<OwnedFd>,
}

impl Own {
    /// Opens the entry `name`.
    fn open(&mut self, name: &CStr, how: OFlag) -> io::Result<OwnedFd> {
        let directory = match &self.directory {
            Some(directory) => directory,
            None => self.directory.insert(own_directory()?),
        };
        file::open_beneath(directory.as_fd(), name, how, 0, Resolve::NoXdev)
    }

    /// Takes a time namespace with these offsets. time_namespaces(7), Linux ≥ 5.6.
    pub(super) fn take_clocks(&mut self, offsets: &[CString]) -> io::Result<()> {
        unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME))?;
        for offset in offsets {
            write(self.open(c"timens_offsets", OFlag::O_WRONLY)?.as_fd(), offset)?;
        }
        // Only children are in it so far; a program that this process executes would be from Linux 6.1 on.
        let namespace = file::open(c"/proc/self/ns/time_for_children", OFlag::O_RDONLY, 0)?;
        Ok(setns(namespace, CloneFlags::from_bits_retain(CLONE_NEWTIME))?)
    }
}

/// The calling process's OOM score, another one while a child is made that is to have that; back when this is dropped.
///
/// Runs in: parent, before it makes itself undumpable, which leaves its entries to root.
#[derive(Debug)]
pub(super) struct OomScore {
    file: OwnedFd,
    before: CString,
}

impl OomScore {
    /// Takes on the score that is planned for `process`, if one is.
    pub(super) fn lend(process: &Process) -> Result<Option<Self>, Error> {
        let Some(score) = &process.oom_score_adj else { return Ok(None) };
        let take = || {
            let file = Own::default().open(c"oom_score_adj", OFlag::O_RDWR)?;
            let mut text = [0; 16];
            let length = nix::unistd::read(&file, &mut text)?;
            let before = CString::new(text[..length].trim_ascii_end())?;
            write(file.as_fd(), score)?;
            Ok(Self { file, before })
        };
        let taken: io::Result<Self> = take();
        taken.map(Some).context(|| format!("set oom_score_adj to {}", score.to_string_lossy()))
    }
}

impl Drop for OomScore {
    fn drop(&mut self) {
        if let Err(error) = write(self.file.as_fd(), &self.before) {
            tracing::warn!("set oom_score_adj back: {error}");
        }
    }
}

/// Not among nix's flags.
pub(super) const CLONE_NEWTIME: i32 = 0x80;

/// Where the labels of a process go that it is to have from its next exec on.
///
/// Opened early and written late: a hook that is run in between must not have them, and by then `/proc` is the container's.
#[derive(Debug, Default)]
pub(super) struct Labels {
    apparmor: Option<(OwnedFd, CString)>,
    selinux: Option<(OwnedFd, CString)>,
}

impl Labels {
    pub(super) fn open(own: &mut Own, process: &Process) -> Result<Self, Failure> {
        let write_only = OFlag::O_WRONLY;
        let mut labels = Self::default();
        if let Some(profile) = &process.apparmor {
            // An entry of its own since Linux 5.8, for hosts with more than one such module.
            let file =
                own.open(c"attr/apparmor/exec", write_only).or_else(|_| own.open(c"attr/exec", write_only));
            let value = CString::new([b"exec ", profile.to_bytes()].concat()).map_err(io::Error::from);
            labels.apparmor = Some((file.at(Stage::Label)?, value.at(Stage::Label)?));
        }
        if let Some(label) = &process.selinux {
            labels.selinux = Some((own.open(c"attr/exec", write_only).at(Stage::Label)?, label.clone()));
        }
        Ok(labels)
    }

    /// What is open for it.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.apparmor.iter().chain(&self.selinux).map(|(file, _)| file.as_raw_fd())
    }

    /// Takes them on. proc_pid_attr(5).
    pub(super) fn set(&self) -> io::Result<()> {
        let mut all = self.apparmor.iter().chain(&self.selinux);
        all.try_for_each(|(file, value)| write(file.as_fd(), value))
    }
}

/// The directory of the calling process in the host's procfs.
fn own_directory() -> io::Result<OwnedFd> {
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let proc = file::open(c"/proc", directory, 0)?;
    if fstatfs(&proc)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(io::Error::from_raw_os_error(nix::libc::EXDEV));
    }
    // A link of the procfs; the number is that of this process in the PID namespace of the procfs.
    let number = nix::fcntl::readlinkat(&proc, c"self")?;
    let number = CString::new(std::os::unix::ffi::OsStringExt::into_vec(number))?;
    file::open_beneath(proc.as_fd(), &number, directory, 0, Resolve::NoXdev)
}

fn write(file: BorrowedFd<'_>, value: &CStr) -> io::Result<()> {
    let written = nix::unistd::write(file, value.to_bytes())?;
    if written == value.count_bytes() { Ok(()) } else { Err(io::Error::from_raw_os_error(nix::libc::EIO)) }
}
