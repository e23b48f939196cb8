//! The descriptor by which another process answers a container's system calls (`SCMP_ACT_NOTIFY`), on its way there.
//! seccomp_unotify(2); OCI runtime spec, config-linux.md, "The Container Process State".
//!
//! The kernel gives it to the thread that installs the filter, which from then on may not be able to make any call but by
//! the answer of whoever has the descriptor. So the child has a second thread, outside of the filter, that sends it to
//! the parent (or to whoever opens the gate) and ends; the first looks at memory meanwhile and calls nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::Serialize;
use skiff_sys::seccomp::{self, Flags};

use super::sync::Channel;
use crate::Error;
use crate::error::Context;
use crate::oci::spec::State;
use crate::plan::Listener;
use crate::seccomp::Filter;

/// What is sent beside the descriptor.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a State,
}

/// A file that tells [`pass_on`] where to and with what: the socket's path, a NUL, the document. Runs in: child.
pub(super) fn notice(listener: &Listener, state: &State, pid: i32) -> io::Result<OwnedFd> {
    let metadata = &listener.metadata;
    let document =
        ContainerProcessState { oci_version: &state.oci_version, fds: ["seccompFd"], pid, metadata, state };
    let mut file = File::from(memfd_create(c"skiff-listener", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(listener.socket.as_os_str().as_bytes())?;
    file.write_all(&[0])?;
    file.write_all(&serde_json::to_vec(&document)?)?;
    Ok(file.into())
}

/// Sends `descriptor` to whoever listens where `notice` says, and lets the child go on. Runs in: the parent, or whoever opens
/// the gate.
pub(super) fn pass_on(channel: &Channel, descriptor: OwnedFd, notice: OwnedFd) -> Result<(), Error> {
    forward(descriptor.as_fd(), notice)?;
    channel.send_go(0).context(|| "speak to the child".into())
}

fn forward(descriptor: BorrowedFd<'_>, notice: OwnedFd) -> Result<(), Error> {
    let mut content = Vec::new();
    let mut notice = File::from(notice);
    let read = notice.seek(SeekFrom::Start(0)).and_then(|_| notice.read_to_end(&mut content));
    read.context(|| "read where the seccomp listener goes".into())?;
    let mut parts = content.splitn(2, |byte| *byte == 0);
    let (path, document) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let path = Path::new(OsStr::from_bytes(path));
    let what = || format!("send the seccomp listener to {}", path.display());
    let mut socket = UnixStream::connect(path).context(what)?;
    let descriptors = [descriptor.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(document)], &control, flags, None);
    // The descriptor goes with the first byte; a long document may need more than one call.
    socket.write_all(&document[sent.context(what)?..]).context(what)
}

/// No descriptor yet; and: it has arrived.
const NONE: i32 = -1;
const ARRIVED: i32 = -2;

/// Installs `filter` and has its listener sent through `channel`. Runs in: child, last before the exec, in memory of its own.
///
/// If it cannot be sent, or does not arrive, the process ends: whoever was to pass it on knows why, and by then this thread may
/// not be able to say anything.
pub(super) fn install(filter: &Filter, channel: &Channel, notice: &OwnedFd) -> io::Result<()> {
    // Not given back: freeing might take a system call.
    let place: &'static AtomicI32 = Box::leak(Box::new(AtomicI32::new(NONE)));
    let (channel, notice) = (channel.try_clone()?, notice.try_clone()?);
    let sender = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let listener = skiff_sys::file::received(wait(place));
        let sent = channel.send_listener(listener.as_fd(), notice.as_fd());
        // Nothing is run whose calls nobody answers. The container itself keeps no listener: it would wait for itself.
        let arrived = sent.and_then(|()| channel.receive_go());
        drop(listener);
        match arrived {
            Ok(_) => place.store(ARRIVED, Ordering::Release),
            Err(_) => skiff_sys::process::exit_now(126),
        }
    })?;
    drop(sender);
    let flags = Flags { listener: true, ..filter.flags };
    let listener = seccomp::install(&filter.program, flags)?;
    let listener = listener.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENOSYS))?;
    // The other thread's from here on.
    place.store(listener.into_raw_fd(), Ordering::Release);
    while place.load(Ordering::Acquire) != ARRIVED {
        std::hint::spin_loop();
    }
    Ok(())
}

/// Waits for the filtered thread, which cannot wake anybody.
fn wait(place: &AtomicI32) -> RawFd {
    loop {
        match place.load(Ordering::Acquire) {
            NONE => std::thread::yield_now(),
            listener => return listener,
        }
    }
}
