//! Which resctrl group a container belongs to. config-linux.md, "IntelRdt".

use super::{Facts, invalid, spec};
use crate::Error;
use crate::rdt::{Group, Origin};

const PLACE: &str = "linux.intelRdt";

/// The group of container `id`, if its configuration asks for one.
///
/// Errors: this host has none; a name or a line that cannot be one.
pub(super) fn group(linux: &spec::Linux, id: &str, facts: &Facts) -> Result<Option<Group>, Error> {
    let Some(given) = &linux.intel_rdt else { return Ok(None) };
    if !facts.resctrl {
        return Err(invalid(PLACE, "resctrl is not mounted on this host"));
    }
    let schemata = schemata(given)?;
    let origin = match (given.clos_id.as_str(), schemata.is_empty()) {
        ("", _) => Origin::Own,
        (_, false) => Origin::Shared,
        (_, true) => Origin::Given,
    };
    let directory = match given.clos_id.as_str() {
        "" => id,
        "/" => "",
        name if is_name(name) => name,
        name => return Err(invalid(PLACE, format!("closID {name:?} cannot be the name of a group"))),
    };
    let monitors = given.enable_monitoring || given.enable_cmt || given.enable_mbm;
    let monitor = monitors.then(|| id.to_owned());
    Ok(Some(Group { directory: directory.into(), origin, schemata, monitor }))
}

fn is_name(name: &str) -> bool {
    let reserved = [".", "..", "info", "mon_groups", "mon_data"];
    !reserved.contains(&name) && !name.contains(['/', '\n', '\0'])
}

/// The lines, in the order in which they are to be written. Bandwidth in the line for caches counts only where no line of
/// its own is given.
fn schemata(given: &spec::IntelRdt) -> Result<Vec<String>, Error> {
    let own_bandwidth = !given.mem_bw_schema.is_empty();
    let caches =
        given.l3_cache_schema.lines().filter(|line| !(own_bandwidth && line.trim().starts_with("MB:")));
    if given.mem_bw_schema.contains('\n') || own_bandwidth && !given.mem_bw_schema.starts_with("MB:") {
        return Err(invalid(
            PLACE,
            format!("memBwSchema {:?} is not a line that begins with MB:", given.mem_bw_schema),
        ));
    }
    let bandwidth = own_bandwidth.then_some(given.mem_bw_schema.as_str());
    let more = given.schemata.iter().flat_map(|lines| lines.lines());
    let lines = caches.chain(bandwidth).chain(more).map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}
