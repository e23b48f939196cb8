//! `update`: other limits for a container that is there.

use std::io::{self, Read};
use std::path::Path;

use skiff_runtime::cgroup::Cgroup;
use skiff_runtime::container::Container;
use skiff_runtime::oci::spec::{Resources, Status};
use skiff_runtime::{oci, rdt};

use crate::args::{Args, Global, Limits};
use crate::failure::{Context, Failure};
use crate::root::root;

/// `update CONTAINER`.
pub(crate) fn update(global: &Global, args: &Args) -> Result<u8, Failure> {
    let container = Container::open(&root(global), args.id())?;
    if container.status()? == Status::Stopped {
        return Err(Failure::new("container not running"));
    }
    let limits = &args.limits;
    let from_file = limits.file.as_deref().map(read).transpose()?;
    Cgroup::open(&container.record().cgroups)?.update(from_file.as_ref().unwrap_or(&limits.resources))?;
    if from_file.is_none() { update_rdt(&container, limits) } else { Ok(0) }
}

/// The limits in a file; `-` is standard input.
fn read(file: &Path) -> Result<Resources, Failure> {
    if file != Path::new("-") {
        return Ok(oci::read_file(file)?);
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context(|| "read standard input".into())?;
    oci::json::read(&text).map_err(|error| Failure::new(format!("standard input: {error}")))
}

fn update_rdt(container: &Container, limits: &Limits) -> Result<u8, Failure> {
    let lines: Vec<&String> =
        [&limits.l3_cache_schema, &limits.mem_bw_schema].into_iter().flatten().collect();
    if lines.is_empty() {
        return Ok(0);
    }
    let group = container.record().rdt.as_ref();
    let group = group.ok_or_else(|| Failure::new("the container is in no resctrl group"))?;
    group.set(Path::new(rdt::ROOT), lines)?;
    Ok(0)
}
