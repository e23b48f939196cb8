//! The file tree: mounts, devices, what is hidden, and the root.

use std::ffi::CString;

use skiff_sys::device_filter::Kind;
use skiff_sys::mount::{Attr, FsOption};

use super::{Bundle, Facts, Terms, c_text, invalid};
use crate::Error;
use crate::host::Node;
use crate::plan::{ChangeRoot, Hide, Root, Step, Symlinks, Target, TargetKind, Upper};

/// What is decided here.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Root,
    pub(super) steps: Vec<Step>,
    pub(super) hide: Vec<Hide>,
}

/// Decides the file tree of `bundle`.
pub(super) fn plan(bundle: &Bundle, _facts: &Facts, terms: &Terms) -> Result<Tree, Error> {
    let spec = &bundle.spec;
    let mut steps = Vec::new();
    for (index, mount) in spec.mounts.iter().enumerate() {
        steps.push(filesystem(mount, &format!("mounts[{index}]"))?);
    }
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        steps.push(Step::Node(node(name, major, minor)));
    }
    let links = [
        ("/proc/self/fd", "dev/fd"),
        ("/proc/self/fd/0", "dev/stdin"),
        ("/proc/self/fd/1", "dev/stdout"),
        ("/proc/self/fd/2", "dev/stderr"),
        ("pts/ptmx", "dev/ptmx"),
    ];
    for (content, path) in links {
        steps.push(Step::Symlink { content: c_text(content, "dev")?, path: c_text(path, "dev")? });
    }
    let linux = spec.linux.as_ref();
    let mut hide = Vec::new();
    for path in linux.into_iter().flat_map(|linux| &linux.masked_paths) {
        hide.push(Hide::Mask(c_text(path.trim_start_matches('/'), "linux.maskedPaths")?));
    }
    for path in linux.into_iter().flat_map(|linux| &linux.readonly_paths) {
        hide.push(Hide::ReadOnly(c_text(path.trim_start_matches('/'), "linux.readonlyPaths")?));
    }
    let root = Root {
        layers: vec![bundle.root()],
        upper: Upper::Direct,
        read_only: spec.root.as_ref().is_some_and(|root| root.readonly),
        propagation: None,
        change: if terms.no_pivot { ChangeRoot::Move } else { ChangeRoot::Pivot },
    };
    Ok(Tree { root, steps, hide })
}

fn node(name: &str, major: u32, minor: u32) -> Node {
    Node {
        source: format!("/dev/{name}").into(),
        target: format!("/dev/{name}").into(),
        kind: Kind::Char,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rwm".into(),
    }
}

fn filesystem(mount: &super::spec::Mount, place: &str) -> Result<Step, Error> {
    let fstype = match mount.r#type.as_deref() {
        Some("cgroup") => "cgroup2",
        Some(known @ ("proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue")) => known,
        other => return Err(invalid(place, format!("type {other:?} is not supported"))),
    };
    let (mut attr, mut options) = (Attr::NONE, Vec::new());
    for option in &mount.options {
        match option.as_str() {
            "nosuid" => attr = attr.with(Attr::NOSUID),
            "noexec" => attr = attr.with(Attr::NOEXEC),
            "nodev" => attr = attr.with(Attr::NODEV),
            "ro" => attr = attr.with(Attr::RDONLY),
            "strictatime" | "relatime" => {}
            other => {
                let text = |text: &str| -> Result<CString, Error> { c_text(text, place) };
                options.push(match other.split_once('=') {
                    Some((key, value)) => FsOption::Value(text(key)?, text(value)?),
                    None => FsOption::Flag(text(other)?),
                });
            }
        }
    }
    Ok(Step::Filesystem {
        fstype: c_text(fstype, place)?,
        source: None,
        options,
        flags: attr.into(),
        target: Target {
            path: c_text(mount.destination.trim_start_matches('/'), place)?,
            kind: TargetKind::Directory,
            symlinks: Symlinks::InRoot,
        },
        copy_up: false,
    })
}
