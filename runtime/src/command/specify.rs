//! `spec`: a configuration to start from.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use skiff_runtime::cgroup::Layout;
use skiff_runtime::oci::{self, Owner};

use crate::args::{Args, Global};
use crate::failure::{Context, Failure};

/// `spec`. A file that is there is not touched.
pub(crate) fn spec(_: &Global, args: &Args) -> Result<u8, Failure> {
    let name = args.launch.config.as_deref().unwrap_or(Path::new("config.json"));
    let path = args.launch.bundle.as_deref().unwrap_or(Path::new(".")).join(name);
    let owner = if args.rootless {
        Owner::User { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    } else {
        Owner::Root
    };
    let text = oci::template(owner, Layout::of_host().legacy.is_empty());
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Failure::new(format!("{} is there already: remove it first", path.display())))
        }
        other => other.map(|()| 0).context(|| format!("write {}", path.display())),
    }
}
