//! Where containers are kept.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::args::Global;

const NAME: &str = "skiff-runtime";

/// The inode number of the first user namespace. `PROC_USER_INIT_INO` in the kernel's include/linux/proc_ns.h.
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;

/// The directory given by `--root`; otherwise `/run/skiff-runtime`, or `$XDG_RUNTIME_DIR/skiff-runtime` for whoever is not
/// the host's root.
pub(crate) fn root(global: &Global) -> PathBuf {
    if let Some(root) = &global.root {
        return std::path::absolute(root).unwrap_or_else(|_| root.clone());
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty());
    match own {
        Some(own) if !is_hosts_root() => Path::new(&own).join(NAME),
        _ => Path::new("/run").join(NAME),
    }
}

fn is_hosts_root() -> bool {
    let is_first =
        || std::fs::metadata("/proc/self/ns/user").is_ok_and(|found| found.ino() == FIRST_USER_NAMESPACE);
    nix::unistd::geteuid().is_root() && is_first()
}
