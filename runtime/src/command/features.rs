//! `features`: what this runtime can do.

use std::env;
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use skiff_runtime::oci;

use crate::args::{Args, Global};
use crate::failure::Failure;
use crate::{checkpoint, print};

/// `features`.
pub(crate) fn features(global: &Global, _: &Args) -> Result<u8, Failure> {
    let document = oci::features(is_there(checkpoint::program(global)));
    let mut text = serde_json::to_vec_pretty(&document).map_err(|error| Failure::new(error.to_string()))?;
    text.push(b'\n');
    print(&text)
}

/// Whether `program` can be run: a path, or a name that is looked up as execvp(3) does.
fn is_there(program: &Path) -> bool {
    let can_run = |file: &Path| file.is_file() && access(file, AccessFlags::X_OK).is_ok();
    if program.components().count() > 1 {
        return can_run(program);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| can_run(&directory.join(program)))
}
