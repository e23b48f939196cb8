//! A reader in a container's cgroups: what is read ahead for the container is charged to it, as what it reads itself is.
//!
//! It is a process of the host's, in no namespace of the container's, with nothing open but its socket. It ends with the
//! socket, with its parent, and with the container, whose cgroups are killed empty. Whoever has things read says what
//! ([`skiff_sys::reader`]).
//!
//! It is none of the container's processes: what counts these in the kernel knows it from its birth on by its name, by that it executes no program,
//! and by its parent, which is in another cgroup and in the same mount namespace (`is_reader` in `ebpf/progs/src/kernel.rs`).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::prctl;
use skiff_ebpf_abi::prefetch::READER;
use skiff_sys::process::{self, Child, Memory};
use skiff_sys::reader;

use crate::Error;
use crate::cgroup::Cgroup;
use crate::error::Context;

/// Makes one that reads what is asked for over `socket`, in `cgroup`, which has been opened or made to be joined.
///
/// The calling process must have one thread; it has to reap the child. Errors: `EAGAIN` if a limit of processes is reached.
pub fn begin(cgroup: &Cgroup, socket: OwnedFd) -> Result<Child, Error> {
    let context = || "make a process that reads ahead".into();
    let run = |_| u8::from(serve(cgroup, socket.as_fd()).is_err());
    let name = READER.map(u64::to_ne_bytes).concat();
    let name = CStr::from_bytes_until_nul(&name).map_err(io::Error::other).context(context)?;
    // The child is called what its parent is called.
    let own = prctl::get_name().and_then(|own| prctl::set_name(name).map(|()| own)).context(context)?;
    let spawned = process::spawn(CloneFlags::empty(), cgroup.unified_fd(), Memory::Copied, run);
    prctl::set_name(&own).context(context)?;
    spawned.context(context)
}

/// Runs in: the reader.
fn serve(cgroup: &Cgroup, socket: BorrowedFd<'_>) -> io::Result<()> {
    process::die_with_parent()?;
    let tasks: Vec<_> = cgroup.legacy_tasks().collect();
    let keep: Vec<_> = tasks.iter().chain([&socket]).map(AsRawFd::as_raw_fd).collect();
    process::close_others_in_child(&keep)?;
    for tasks in tasks {
        nix::unistd::write(tasks, b"0")?;
    }
    // Where it was born elsewhere: CLONE_INTO_CGROUP, Linux ≥ 5.7. This waits for the kernel, and nobody for this.
    cgroup.enter_unified()?;
    process::set_undumpable()?;
    nix::unistd::chdir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    drop(null);
    process::close_others_in_child(&[socket.as_raw_fd()])?;
    reader::serve(socket)
}
