//! `--pid-file`.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::failure::{Context, Failure};

/// Writes `pid` to `path`, if there is one to write. It appears with its content, whenever somebody looks.
pub(crate) fn write(path: Option<&Path>, pid: i32) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let new = path.with_file_name(name);
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .context(|| format!("write {}", path.display()))
}
