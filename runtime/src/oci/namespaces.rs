//! Namespaces, who the users in them are, and what moves into them.

use std::ffi::CString;

use nix::sched::CloneFlags;

use super::spec::{IdMapping, Linux};
use super::tables::{NAMESPACES, NEWTIME, Namespace};
use super::{Facts, c_text, invalid};
use crate::Error;
use crate::caps::CapSet;
use crate::plan::{IdRange, Join, MapWriter, NetDevice, Process, Users};

/// Which namespaces a container gets.
#[derive(Debug, Clone)]
pub(super) struct Spaces {
    /// To be born in.
    pub(super) new: CloneFlags,
    /// To enter, in the order in which that works.
    pub(super) joins: Vec<Join>,
    /// A new cgroup namespace.
    pub(super) cgroup: bool,
    /// A new time namespace.
    pub(super) time: bool,
}

impl Spaces {
    /// Reads `linux.namespaces`.
    pub(super) fn of(linux: &Linux, facts: &Facts) -> Result<Self, Error> {
        let mut found: Vec<(&Namespace, &str)> = Vec::new();
        for (index, entry) in linux.namespaces.iter().enumerate() {
            let place = || format!("linux.namespaces[{index}]");
            let kind = Namespace::named(&entry.r#type)
                .ok_or_else(|| invalid(&place(), format!("unknown namespace {:?}", entry.r#type)))?;
            if found.iter().any(|(known, _)| known.name == kind.name) {
                return Err(invalid(&place(), format!("second entry for {:?}", entry.r#type)));
            }
            if !entry.path.is_empty() && !entry.path.starts_with('/') {
                return Err(invalid(&place(), format!("path {:?} is not absolute", entry.path)));
            }
            found.push((kind, &entry.path));
        }
        let mut spaces = Self { new: CloneFlags::empty(), joins: Vec::new(), cgroup: false, time: false };
        for kind in NAMESPACES {
            match found.iter().find(|(known, _)| known.name == kind.name) {
                None => {}
                Some((_, "")) if kind.flag == CloneFlags::CLONE_NEWCGROUP => spaces.cgroup = true,
                Some((_, "")) if kind.flag == NEWTIME => spaces.time = true,
                Some((_, "")) => spaces.new |= kind.flag,
                // Entering one's own user namespace is refused by the kernel, entering another of one's own is nothing.
                Some(_) if facts.shared.contains(kind.flag) => {}
                Some((_, path)) => spaces.joins.push(Join { kind: kind.flag, path: path.into() }),
            }
        }
        spaces.check(facts)?;
        Ok(spaces)
    }

    fn check(&self, facts: &Facts) -> Result<(), Error> {
        if !self.is_own(CloneFlags::CLONE_NEWNS) {
            return Err(invalid("linux.namespaces", "a container needs a mount namespace of its own"));
        }
        if !facts.caps.contains(CapSet::SYS_ADMIN) && !self.has_users() {
            return Err(invalid(
                "linux.namespaces",
                "without CAP_SYS_ADMIN a container needs a user namespace",
            ));
        }
        Ok(())
    }

    /// Whether a namespace of this kind is not the one that the runtime is in.
    pub(super) fn is_own(&self, kind: CloneFlags) -> bool {
        self.new.contains(kind)
            || self.cgroup && kind == CloneFlags::CLONE_NEWCGROUP
            || self.time && kind == NEWTIME
            || self.joins.iter().any(|join| join.kind == kind)
    }

    fn has_users(&self) -> bool {
        self.is_own(CloneFlags::CLONE_NEWUSER)
    }

    /// Whether setgroups(2) works in the container: not where an unprivileged user has mapped their own group alone.
    pub(super) fn may_set_groups(&self, linux: &Linux, facts: &Facts) -> bool {
        if self.new.contains(CloneFlags::CLONE_NEWUSER) {
            writer(linux, facts) != MapWriter::OwnId
        } else {
            facts.may_set_groups || self.has_users()
        }
    }
}

/// Takes note that the program's groups stay as they are.
///
/// Errors: groups were asked for.
pub fn forbid_groups(process: &mut Process) -> Result<(), Error> {
    match process.groups.take() {
        Some(groups) if !groups.is_empty() => Err(invalid(
            "process.user.additionalGids",
            "cannot be set in a user namespace that forbids setgroups",
        )),
        _ => Ok(()),
    }
}

/// Who the users of a new user namespace are.
pub(super) fn users(linux: &Linux, spaces: &Spaces, facts: &Facts) -> Result<Option<Users>, Error> {
    let any = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    if !spaces.new.contains(CloneFlags::CLONE_NEWUSER) {
        return match any && !spaces.has_users() && !facts.shared.contains(CloneFlags::CLONE_NEWUSER) {
            true => Err(invalid("linux.uidMappings", "needs a user namespace")),
            false => Ok(None),
        };
    }
    Ok(Some(Users {
        uids: ranges(&linux.uid_mappings, "linux.uidMappings")?,
        gids: ranges(&linux.gid_mappings, "linux.gidMappings")?,
        writer: writer(linux, facts),
    }))
}

/// Checks id mappings as the kernel does. user_namespaces(7).
pub(super) fn ranges(mappings: &[IdMapping], place: &str) -> Result<Vec<IdRange>, Error> {
    if mappings.is_empty() {
        return Err(invalid(place, "a new user namespace needs at least one"));
    }
    let end = |first: u32, size: u32| first.checked_add(size);
    for (index, entry) in mappings.iter().enumerate() {
        let place = format!("{place}[{index}]");
        if entry.size == 0 {
            return Err(invalid(&place, "size must not be 0"));
        }
        let ends = (end(entry.container_id, entry.size), end(entry.host_id, entry.size));
        let (Some(inside), Some(outside)) = ends else {
            return Err(invalid(&place, "goes beyond the last id"));
        };
        let overlaps = |other: &IdMapping| {
            other.container_id < inside && entry.container_id < other.container_id.saturating_add(other.size)
                || other.host_id < outside && entry.host_id < other.host_id.saturating_add(other.size)
        };
        if mappings[..index].iter().any(overlaps) {
            return Err(invalid(&place, "overlaps with another"));
        }
    }
    let range =
        |entry: &IdMapping| IdRange { inside: entry.container_id, outside: entry.host_id, count: entry.size };
    Ok(mappings.iter().map(range).collect())
}

fn writer(linux: &Linux, facts: &Facts) -> MapWriter {
    if facts.caps.contains(CapSet::SETUID) && facts.caps.contains(CapSet::SETGID) {
        return MapWriter::Privileged;
    }
    let own = |mappings: &[IdMapping], id: u32| match mappings {
        [only] => only.size == 1 && only.host_id == id,
        _ => false,
    };
    match own(&linux.uid_mappings, facts.uid) && own(&linux.gid_mappings, facts.gid) {
        true => MapWriter::OwnId,
        false => MapWriter::Helpers,
    }
}

/// The lines of `/proc/self/timens_offsets` if there is to be a time namespace. time_namespaces(7).
pub(super) fn time(linux: &Linux, spaces: &Spaces) -> Result<Option<Vec<CString>>, Error> {
    let mut lines = Vec::new();
    for (clock, offset) in &linux.time_offsets {
        let place = format!("linux.timeOffsets.{clock}");
        if !spaces.time {
            return Err(invalid(&place, "needs a new time namespace"));
        }
        if clock != "monotonic" && clock != "boottime" {
            return Err(invalid(&place, "no clock of a time namespace: monotonic and boottime are"));
        }
        if offset.nanosecs >= 1_000_000_000 {
            return Err(invalid(&place, format!("nanosecs {} is a second or more", offset.nanosecs)));
        }
        lines.push(c_text(&format!("{clock} {} {}", offset.secs, offset.nanosecs), &place)?);
    }
    Ok(spaces.time.then_some(lines))
}

/// Devices of the host that move into the container's network namespace.
pub(super) fn net_devices(linux: &Linux, spaces: &Spaces, facts: &Facts) -> Result<Vec<NetDevice>, Error> {
    let mut devices: Vec<NetDevice> = Vec::new();
    for (host_name, device) in &linux.net_devices {
        let place = format!("linux.netDevices.{host_name}");
        let name = if device.name.is_empty() { host_name } else { &device.name };
        if !spaces.is_own(CloneFlags::CLONE_NEWNET) {
            return Err(invalid(&place, "needs a network namespace of the container"));
        }
        if !facts.caps.contains(CapSet::NET_ADMIN) {
            return Err(invalid(&place, "moving it needs CAP_NET_ADMIN"));
        }
        // The kernel puts the first number that is free in the place of `%d`.
        let template = name.strip_suffix("%d").unwrap_or(name);
        for (part, name) in [(host_name.as_str(), host_name), (template, name)] {
            if !is_interface(part) || name.len() > 15 {
                return Err(invalid(&place, format!("{name:?} cannot be the name of a network device")));
            }
        }
        if template == name && devices.iter().any(|known| known.name == *name) {
            return Err(invalid(&place, format!("a second device is to be named {name:?}")));
        }
        devices.push(NetDevice { host_name: host_name.clone(), name: name.clone() });
    }
    Ok(devices)
}

/// The kernel's rule: `dev_valid_name` in net/core/dev.c; `%` would make it number the device itself.
fn is_interface(name: &str) -> bool {
    let fits = (1..16).contains(&name.len()) && name != "." && name != "..";
    fits && !name.contains(|c: char| c == '/' || c == ':' || c == '%' || c == '\0' || c.is_whitespace())
}
