//! Network devices of the host that become the container's.
//!
//! Runs in: parent, once the container's network namespace is there. A device keeps its permanent addresses, and is up. It
//! is not looked after from then on; what becomes of it at the container's end is the kernel's to decide.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use skiff_sys::file;
use skiff_sys::netlink::Route;

use crate::Error;
use crate::error::Context;
use crate::plan::{NetDevice, c_path};

/// Moves `devices` into the network namespace `target`, that of process `pid` if there is none to join.
pub(super) fn move_all(devices: &[NetDevice], target: Option<BorrowedFd<'_>>, pid: i32) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let opened = match target {
        Some(_) => None,
        None => Some(open(&format!("/proc/{pid}/ns/net"))?),
    };
    let Some(target) = target.or(opened.as_ref().map(AsFd::as_fd)) else { return Ok(()) };
    let (here, there) = routes(target).context(|| "look into the container's network namespace".into())?;
    devices.iter().try_for_each(|device| {
        let NetDevice { host_name, name } = device;
        move_one(device, &here, &there, target)
            .context(|| format!("move network device {host_name} into the container as {name}"))
    })
}

fn open(path: &str) -> Result<OwnedFd, Error> {
    file::open(&c_path(path.as_ref())?, OFlag::O_RDONLY, 0).context(|| format!("open {path}"))
}

/// The routing tables of the caller's namespace and of `target`.
fn routes(target: BorrowedFd<'_>) -> io::Result<(Route, Route)> {
    let own = file::open(c"/proc/self/ns/net", OFlag::O_RDONLY, 0)?;
    let here = Route::open()?;
    setns(target, CloneFlags::CLONE_NEWNET)?;
    let there = Route::open();
    setns(own, CloneFlags::CLONE_NEWNET)?;
    Ok((here, there?))
}

fn move_one(device: &NetDevice, here: &Route, there: &Route, target: BorrowedFd<'_>) -> io::Result<()> {
    let found = here.links()?.into_iter().find(|link| link.name == device.host_name);
    let index = found.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENODEV))?.index;
    let addresses = here.addresses(index)?;
    let before = there.links()?;
    // The kernel would move it first, and it would be gone with the container that is not made.
    if before.iter().any(|link| link.name == device.name) {
        return Err(io::Error::from_raw_os_error(nix::libc::EEXIST));
    }
    here.move_link(index, target, &device.name)?;
    // Its number may be another, and its name too where that is a template.
    let moved = there.links()?.into_iter().find(|link| !before.contains(link));
    let index = moved.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENODEV))?.index;
    addresses.iter().try_for_each(|address| there.add_address(index, address))?;
    there.set_up(index)
}
