//! What every container finds in `/dev`, whoever has asked for it: docker's list, and config-linux.md, "Default Devices", with
//! runtime-linux.md, "Dev symbolic links".

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use skiff_sys::device_filter::Kind;

use super::Step;
use crate::host::Node;

/// Devices for everybody: name below `/dev`, major and minor number.
pub const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"dev/fd"),
    (c"/proc/self/fd/0", c"dev/stdin"),
    (c"/proc/self/fd/1", c"dev/stdout"),
    (c"/proc/self/fd/2", c"dev/stderr"),
    (c"pts/ptmx", c"dev/ptmx"),
];

const KCORE: (&CStr, &CStr) = (c"/proc/kcore", c"dev/core");

/// The nodes of [`DEVICES`].
pub(crate) fn nodes() -> impl Iterator<Item = Node> {
    DEVICES.iter().map(|(name, major, minor)| node(Path::new("/dev").join(name), Kind::Char, *major, *minor))
}

/// A device for everybody to use, of the same name on the host.
pub(crate) fn node(path: PathBuf, kind: Kind, major: u32, minor: u32) -> Node {
    let access = "rwm".into();
    Node { source: path.clone(), target: path, kind, major, minor, mode: 0o666, uid: 0, gid: 0, access }
}

/// The links, one more where `/proc` shows the kernel's memory.
pub(crate) fn links(kcore: bool) -> impl Iterator<Item = Step> {
    let link = |(content, path): (&CStr, &CStr)| Step::Symlink { content: content.into(), path: path.into() };
    LINKS.into_iter().chain(kcore.then_some(KCORE)).map(link)
}
