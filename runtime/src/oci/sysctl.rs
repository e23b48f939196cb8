//! Kernel parameters: which of them a container may set.

use std::ffi::CString;

use nix::sched::CloneFlags;

use super::namespaces::Spaces;
use super::spec::{Linux, Spec};
use super::{c_text, invalid};
use crate::Error;

/// Parameters of an IPC namespace. ipc_namespaces(7).
const IPC: &[&str] = &[
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// The parameters of `linux.sysctl`: path below `/proc/sys`, value.
///
/// Errors: one that is not confined to a namespace, or to one that is the host's: setting it would change the host.
pub(super) fn values(spec: &Spec, linux: &Linux, spaces: &Spaces) -> Result<Vec<(CString, CString)>, Error> {
    let mut values = Vec::new();
    for (key, value) in &linux.sysctl {
        let place = format!("linux.sysctl.{key}");
        let path = path(key);
        check(spec, &path, &place, spaces)?;
        values.push((c_text(&path, &place)?, c_text(value, &place)?));
    }
    Ok(values)
}

/// The path of `key`. sysctl(8): whichever of `.` and `/` comes first separates, and the other is part of a name, so that
/// `net.ipv4.conf.eth0/1.forwarding` and `net/ipv4/conf/eth0.1/forwarding` are the same.
fn path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(first) if key.as_bytes()[first] == b'/' => key.to_owned(),
        _ => key
            .chars()
            .map(|letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
    }
}

fn check(spec: &Spec, path: &str, place: &str, spaces: &Spaces) -> Result<(), Error> {
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(invalid(place, "not the name of a kernel parameter"));
    }
    let (kind, name) = if IPC.contains(&path) || path.starts_with("fs/mqueue/") {
        (CloneFlags::CLONE_NEWIPC, "IPC")
    } else if path.starts_with("net/") {
        (CloneFlags::CLONE_NEWNET, "network")
    } else if matches!(path, "kernel/domainname" | "kernel/hostname") {
        (CloneFlags::CLONE_NEWUTS, "UTS")
    } else if path.starts_with("user/") {
        (CloneFlags::CLONE_NEWUSER, "user")
    } else {
        return Err(invalid(place, "not in a namespace of the container"));
    };
    if !spaces.is_own(kind) {
        return Err(invalid(place, format!("needs the container to have its own {name} namespace")));
    }
    let is_said = |name: &Option<String>| name.as_deref().is_some_and(|name| !name.is_empty());
    match path {
        "kernel/hostname" if is_said(&spec.hostname) => Err(invalid(place, "contradicts hostname")),
        "kernel/domainname" if is_said(&spec.domainname) => Err(invalid(place, "contradicts domainname")),
        _ => Ok(()),
    }
}
