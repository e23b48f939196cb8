//! The programs of sockets: loaded once, attached to each container's cgroup by whoever launches it.

use std::path::Path;

use aya::programs::{CgroupSkb, SockOps};
use aya::{Ebpf, EbpfLoader};

use crate::Error;
use crate::load::check_privileges;
use crate::maps::memory;
use crate::tier1::Probes;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/net.bpf.o"));

const NET: &str = "network traffic (programs on a cgroup's packets are refused)";
const TCP: &str = "TCP connections (programs on a cgroup's connections are refused)";

/// What has been pinned.
pub(crate) struct Pinned {
    /// Kernel memory of the maps, in bytes.
    pub(crate) bytes: u64,
    /// What this kernel does not give.
    pub(crate) missing: Vec<String>,
}

/// Loads what `probes` asks for and pins maps and programs in `directory`; nothing is attached yet.
pub(crate) fn pin(directory: &Path, slots: u32, probes: Probes) -> Result<Pinned, Error> {
    check_privileges()?;
    let mut object = EbpfLoader::new()
        .btf(None)
        .allow_unsupported_maps()
        .map_max_entries("NET", slots)
        .load(OBJECT)
        .map_err(|cause| Error::refused("create the maps", &cause))?;
    let bytes = object.maps().map(|(_, map)| memory(map)).sum();
    for (name, map) in object.maps().filter(|(name, _)| !name.starts_with('.')) {
        let path = directory.join(name.to_lowercase());
        map.pin(path).map_err(|cause| Error::refused(format!("pin the map {name}"), &cause))?;
    }
    let mut missing = Vec::new();
    let mut both = ["ingress", "egress"].into_iter();
    if probes.net
        && let Err(error) = both.try_for_each(|name| packets(&mut object, name, directory))
    {
        missing.push(format!("{NET}: {error}"));
    }
    if probes.tcp
        && let Err(error) = connections(&mut object, directory)
    {
        missing.push(format!("{TCP}: {error}"));
    }
    Ok(Pinned { bytes, missing })
}

fn packets(object: &mut Ebpf, name: &str, directory: &Path) -> Result<(), Error> {
    let refused = |cause: &(dyn std::error::Error + 'static)| Error::refused(format!("load {name}"), cause);
    let program = object.program_mut(name).ok_or_else(|| lacks(name))?;
    let program: &mut CgroupSkb = program.try_into().map_err(|cause| refused(&cause))?;
    program.load().map_err(|cause| refused(&cause))?;
    program.pin(directory.join(name)).map_err(|cause| refused(&cause))
}

fn connections(object: &mut Ebpf, directory: &Path) -> Result<(), Error> {
    let name = "connections";
    let refused = |cause: &(dyn std::error::Error + 'static)| Error::refused(format!("load {name}"), cause);
    let program: &mut SockOps =
        object.program_mut(name).ok_or_else(|| lacks(name))?.try_into().map_err(|cause| refused(&cause))?;
    program.load().map_err(|cause| refused(&cause))?;
    program.pin(directory.join(name)).map_err(|cause| refused(&cause))
}

fn lacks(name: &str) -> Error {
    Error::Refused { step: format!("look up the program {name}"), cause: "not in the object".into() }
}
