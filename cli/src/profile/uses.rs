//! What `skiff harden` needs of a run beside its figures: how it was asked for, and what its program used.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Serialize;
use skiff_ebpf::{CapabilityUse, DeviceUse, SysctlUse, USES as PARTS, UseRecord};
use skiff_observe::harden::CAPABILITIES;
use skiff_runtime::options::{Rootfs, Seccomp};
use skiff_runtime::plan::Upper;
use skiff_runtime::{Options, Plan};
use skiff_store::{Change, ChangeKind, Tree};
use skiff_sys::file::{self, Resolve};

use crate::args::Args;
use crate::client::run::absolute;
use crate::images::containers::MOUNTS;

/// Directories that are told; with more, none is.
const MOST: usize = 4096;

/// How the run was asked for, and what it was given.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Asked {
    /// One word each; of variables the names only, for their values may be secrets.
    flags: Vec<String>,
    image: String,
    command: Vec<String>,
    uid: u32,
    gid: u32,
    seccomp: &'static str,
    capabilities: Vec<&'static str>,
    devices: Vec<Given>,
}

/// A device of `--device`.
#[derive(Debug, Clone, Serialize)]
struct Given {
    source: String,
    target: String,
    major: u64,
    minor: u64,
}

/// What the program used; `None` where that could not be recorded.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Uses {
    pub(crate) capabilities: Option<Vec<Capability>>,
    pub(crate) written: Option<Vec<Written>>,
    pub(crate) devices: Option<Vec<Device>>,
    pub(crate) sysctls: Option<Vec<Sysctl>>,
    pub(crate) tasks_peak: Option<u64>,
    pub(crate) descriptors_peak: Option<u64>,
    pub(crate) lost: u64,
    /// Why, by the name of the field, for each that is `None`.
    pub(crate) reasons: BTreeMap<&'static str, String>,
}

/// Checks for a capability.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Capability {
    pub(crate) name: &'static str,
    pub(crate) granted: u64,
    pub(crate) refused: u64,
    /// During which system calls.
    pub(crate) calls: BTreeMap<String, u64>,
}

/// A directory of the image in which something was made, changed or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Written {
    directory: String,
    uid: u32,
    gid: u32,
    mode: u32,
    /// Whether the image has something in it.
    filled: bool,
}

/// A device that was opened.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Device {
    pub(crate) kind: &'static str,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

/// A kernel parameter that was opened, as a path below `/proc/sys`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sysctl {
    pub(crate) name: String,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

impl Uses {
    /// Of the recorder's figures, and of where the container has written; of either, why there are none.
    pub(crate) fn new(found: Result<UseRecord, String>, written: Result<Vec<Written>, String>) -> Self {
        let mut uses = match found {
            Ok(found) => Self::of_record(found),
            Err(why) => {
                let reasons = PARTS.into_iter().map(|part| (part, why.clone())).collect();
                Self { reasons, ..Self::default() }
            }
        };
        match written {
            Ok(written) => uses.written = Some(written),
            Err(why) => drop(uses.reasons.insert("written", why)),
        }
        uses
    }

    /// What is missing, one phrase for each reason.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut parts = BTreeMap::<&str, Vec<&str>>::new();
        for (part, why) in self.reasons.iter().filter(|(part, _)| **part != "written") {
            parts.entry(why).or_default().push(part);
        }
        parts.into_iter().map(|(why, parts)| format!("use of {} ({why})", parts.join(", "))).collect()
    }

    fn of_record(found: UseRecord) -> Self {
        let capability = |used: CapabilityUse| {
            let name = CAPABILITIES.get(usize::try_from(used.capability).ok()?)?;
            Some(Capability { name, granted: used.granted, refused: used.refused, calls: used.calls })
        };
        let device = |used: DeviceUse| Device {
            kind: if used.is_block { "block" } else { "char" },
            major: used.major,
            minor: used.minor,
            reads: used.reads,
            writes: used.writes,
        };
        let sysctl = |used: SysctlUse| Sysctl { name: used.name, reads: used.reads, writes: used.writes };
        Self {
            capabilities: found.capabilities.map(|all| all.into_iter().filter_map(capability).collect()),
            written: None,
            devices: found.devices.map(|all| all.into_iter().map(device).collect()),
            sysctls: found.sysctls.map(|all| all.into_iter().map(sysctl).collect()),
            tasks_peak: found.tasks_peak,
            descriptors_peak: found.descriptors_peak,
            lost: found.lost,
            reasons: found.reasons,
        }
    }
}

impl Asked {
    pub(crate) fn new(args: &Args, options: &Options, plan: &Plan) -> Self {
        let text = |word: &OsStr| word.to_string_lossy().into_owned();
        let devices = options.devices.iter().filter_map(|device| {
            let number = fs::metadata(&device.source).ok()?.rdev();
            Some(Given {
                source: text(device.source.as_os_str()),
                target: text(device.target.as_os_str()),
                major: nix::sys::stat::major(number),
                minor: nix::sys::stat::minor(number),
            })
        });
        Self {
            flags: args.given.clone(),
            image: absolute(&args.spec.image),
            command: args.spec.command.iter().map(|word| text(word)).collect(),
            uid: plan.process.uid,
            gid: plan.process.gid,
            seccomp: match &options.seccomp {
                _ if options.privileged => "unconfined",
                Seccomp::Default => "builtin",
                Seccomp::Unconfined => "unconfined",
                Seccomp::Profile(_) => "profile",
            },
            capabilities: plan.process.caps.bounding.names().collect(),
            devices: devices.collect(),
        }
    }
}

/// Where a container that has ended has written, by what is in its writable layer. Errors: why nobody can tell.
pub(crate) fn written(options: &Options, plan: &Plan) -> Result<Vec<Written>, String> {
    if options.read_only || plan.root.upper == Upper::None {
        return Ok(Vec::new());
    }
    let Rootfs::Layers(layers) = &options.rootfs else {
        return Err("the root is no image's: what it had before is not known".to_owned());
    };
    if !plan.root.upper.is_on_disk() {
        return Err("the writable layer was in memory, and has gone with the container".to_owned());
    }
    let upper = plan.state_root.join("containers").join(&plan.id).join("upper");
    let own = MOUNTS.iter().map(PathBuf::from);
    let asked = options.mounts.iter().map(|mount| mount.target().to_owned());
    let tree =
        Tree { upper: Some(upper.clone()), layers: layers.clone(), mounts: own.chain(asked).collect() };
    let changes = tree.changes().map_err(|error| format!("look for what was written: {error}"))?;
    let is_folder = |path: &[u8]| below(&upper, path).symlink_metadata().is_ok_and(|found| found.is_dir());
    let all = directories(&changes, &is_folder);
    if all.len() > MOST {
        return Err(format!("it has written in more than {MOST} directories"));
    }
    let described = all.iter().map(|path| describe(path, &upper, layers)).collect::<Option<_>>();
    described.ok_or_else(|| "a directory that it has written in cannot be read".to_owned())
}

/// The directories in which `changes` need leave to write.
fn directories(changes: &[Change], is_folder: &dyn Fn(&[u8]) -> bool) -> BTreeSet<Vec<u8>> {
    let added = |kind: ChangeKind| kind == ChangeKind::Added;
    let new: BTreeSet<&[u8]> =
        changes.iter().filter(|change| added(change.kind)).map(|change| &*change.path).collect();
    let parents: BTreeSet<&[u8]> = changes.iter().map(|change| parent(&change.path)).collect();
    let place = |change: &Change| {
        let (path, above) = (&*change.path, parent(&change.path));
        let is_folder = change.kind != ChangeKind::Deleted && is_folder(path);
        match change.kind {
            ChangeKind::Added if new.contains(above) => None,
            // What is new in the root can be mounted there.
            ChangeKind::Added if above == b"/" && is_folder => Some(path.to_vec()),
            // It was copied for the sake of what is in it, if there is something in it.
            ChangeKind::Modified if is_folder => (!parents.contains(path)).then(|| path.to_vec()),
            _ => Some(above.to_vec()),
        }
    };
    changes.iter().filter_map(place).collect()
}

fn describe(path: &[u8], upper: &Path, layers: &[PathBuf]) -> Option<Written> {
    let found = below(upper, path).symlink_metadata().ok()?;
    Some(Written {
        directory: String::from_utf8_lossy(path).into_owned(),
        uid: found.uid(),
        gid: found.gid(),
        mode: found.mode() & 0o7777,
        filled: layers.iter().any(|layer| has_entries(layer, path)),
    })
}

/// Whether there is something in the directory `path` of a layer, whose links lead nowhere.
fn has_entries(layer: &Path, path: &[u8]) -> bool {
    let relative = path.strip_prefix(b"/").filter(|relative| !relative.is_empty()).unwrap_or(b".");
    let Ok(relative) = CString::new(relative) else { return false };
    let Ok(layer) = fs::File::open(layer) else { return false };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let Ok(folder) = file::open_beneath(layer.as_fd(), &relative, flags, 0, Resolve::NoSymlinks) else {
        return false;
    };
    let entries = fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    entries.is_ok_and(|mut entries| entries.next().is_some())
}

fn below(root: &Path, path: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
}

fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) if at > 0 => &path[..at],
        _ => b"/",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_names_that_flags_know() {
        for (number, name) in CAPABILITIES.iter().enumerate() {
            let found = skiff_runtime::caps::CapSet::named(name).expect("a capability");
            assert!(found.numbers().map(usize::from).eq([number]), "{name}");
        }
    }

    #[test]
    fn each_part_that_is_missing_has_its_reason() {
        let none = Uses::new(Err("no CAP_BPF".to_owned()), Err("no image".to_owned()));
        let json = serde_json::to_value(&none).expect("JSON");
        for part in PARTS.into_iter().chain(["written"]) {
            assert!(json[part].is_null() && json["reasons"][part].is_string(), "{part}: {json}");
        }
        assert_eq!(
            none.missing(),
            ["use of capabilities, descriptors_peak, devices, sysctls, tasks_peak (no CAP_BPF)"]
        );
        let whole = UseRecord { tasks_peak: Some(1), ..UseRecord::default() };
        let some = Uses::new(Ok(whole), Ok(Vec::new()));
        assert_eq!((some.written, some.reasons.len(), some.tasks_peak), (Some(Vec::new()), 0, Some(1)));
    }

    #[test]
    fn changes_are_told_by_the_directories_of_the_image_that_they_need() {
        let check = |lines: &[&str], expected: &[&str]| {
            let change = |line: &&str| {
                let (kind, path) = line.split_once(' ').expect("a line of diff");
                let kind = match kind {
                    "A" => ChangeKind::Added,
                    "C" => ChangeKind::Modified,
                    _ => ChangeKind::Deleted,
                };
                Change { path: path.trim_end_matches('/').as_bytes().to_vec(), kind }
            };
            let changes: Vec<Change> = lines.iter().map(change).collect();
            let folders: Vec<&str> = lines.iter().filter_map(|line| line[2..].strip_suffix('/')).collect();
            let is_folder = |path: &[u8]| folders.iter().any(|folder| folder.as_bytes() == path);
            let found: Vec<String> = directories(&changes, &is_folder)
                .iter()
                .map(|path| String::from_utf8_lossy(path).into_owned())
                .collect();
            assert_eq!(found, expected, "{lines:?}");
        };
        check(&["C /run/", "A /run/web.pid"], &["/run"]);
        check(&["C /run/"], &["/run"]);
        check(&["C /var/", "C /var/log/", "C /var/log/web/", "C /var/log/web/error.log"], &["/var/log/web"]);
        check(&["C /var/lib/web/", "A /var/lib/web/body/", "A /var/lib/web/body/1"], &["/var/lib/web"]);
        check(&["D /etc/motd", "C /etc/"], &["/etc"]);
        check(&["A /data/", "A /data/dump"], &["/data"]);
        check(&["A /dump"], &["/"]);
        check(&[], &[]);
    }
}
