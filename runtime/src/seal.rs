//! Makes sure that no container can write to the launcher's own executable (CVE-2019-5736, `sys::self_exe`).

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;

use skiff_sys::self_exe;

use crate::Error;
use crate::error::Context;

/// Goes on only if no container can write to this process's executable; otherwise starts that again from where none can.
///
/// To be called before anything else is done. `name` is what the process is called then: a program executed by its
/// descriptor is named after that.
pub fn seal(name: &CStr) -> Result<(), Error> {
    let context = || "seal own executable".to_owned();
    if self_exe::sealed().context(context)?.is_some() {
        // What is started from now on is not to have it.
        self_exe::own_mount();
        return nix::sys::prctl::set_name(name).context(context);
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
