//! Makes sure that no container can write to the launcher's own executable (CVE-2019-5736, `sys::self_exe`).

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

use skiff_sys::self_exe;

use crate::Error;
use crate::error::Context;

/// The mount that this process's executable lies on, while it is attached nowhere.
static OWN_MOUNT: OnceLock<OwnedFd> = OnceLock::new();

/// Goes on only if no container can write to this process's executable; otherwise goes on from where none can, as the same process
/// or, where that is not to be had, by starting the executable again.
///
/// To be called before anything else is done. `name` is what the process is called then: a program executed by its
/// descriptor is named after that.
pub fn seal(name: &CStr) -> Result<(), Error> {
    seal_by(name).map(drop)
}

/// As [`seal`], for a process that launches one container, and has its executable's mount unmounted with the host's tree there.
pub fn seal_for_one(name: &CStr) -> Result<(), Error> {
    if let Some(mount) = seal_by(name)? {
        OWN_MOUNT.get_or_init(|| mount);
    }
    Ok(())
}

/// The mount that this process's executable lies on, if it may be attached somewhere.
pub(crate) fn own_mount() -> Option<BorrowedFd<'static>> {
    OWN_MOUNT.get().map(AsFd::as_fd)
}

fn seal_by(name: &CStr) -> Result<Option<OwnedFd>, Error> {
    let context = || "seal own executable".to_owned();
    if self_exe::sealed().context(context)?.is_some() {
        return nix::sys::prctl::set_name(name).context(context).map(|()| None);
    }
    if let Ok(mount) = self_exe::seal() {
        return nix::sys::prctl::set_name(name).context(context).map(|()| Some(mount));
    }
    let arguments = strings(&mut std::env::args_os()).context(context)?;
    let environment = strings(&mut std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    }));
    Err(self_exe::reexec(&arguments, &environment.context(context)?)).context(context)
}

fn strings(all: &mut dyn Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    all.map(|word| Ok(CString::new(word.into_vec())?)).collect()
}
