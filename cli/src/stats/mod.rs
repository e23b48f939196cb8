//! What containers are doing: figures per second are differences of two samples; docker's columns mean what they mean there.

mod sample;
pub(crate) mod show;

use skiff_ebpf::Record;
use skiff_ebpf::pinned::Pinned;

use crate::counted::Names;
use crate::failure::Failure;
use crate::profile::off;
use crate::values::cause;
use crate::{counted, observe};
pub(crate) use sample::{Sample, Stats};

/// The containers called `names`, or all, of those that the pinned programs count; and what is to be said of those that they do not.
pub(crate) fn samples(names: &[String]) -> Result<(Vec<Sample>, String), Failure> {
    let pinned = observe::open()?.ok_or_else(off)?;
    let cleared = skiff_runtime::observe::reclaim();
    cleared.map_err(|error| Failure::engine(format!("stats: {}", cause(&error))))?;
    let containers = match names {
        [] => counted::all(&pinned)?,
        names => names.iter().map(|name| counted::find(&pinned, name)).collect::<Result<_, _>>()?,
    };
    Ok((samples_of(&pinned, containers)?, uncounted(&pinned)?))
}

/// What is counted of these containers.
pub(crate) fn samples_of(
    pinned: &Pinned,
    containers: Vec<counted::Container>,
) -> Result<Vec<Sample>, Failure> {
    let names = if containers.is_empty() { Names::default() } else { Names::find() };
    let take = |container: counted::Container| {
        let record = record(pinned, &container)?;
        let name = names.of(&container.id).map(str::to_owned);
        Ok(Sample::take(container, name, record.as_ref()))
    };
    containers.into_iter().map(take).collect()
}

/// What is to be said of containers that found no slot.
pub(crate) fn uncounted(pinned: &Pinned) -> Result<String, Failure> {
    Ok(show::uncounted(&pinned.refused().map_err(observe::failed)?, pinned.slots()))
}

/// What is counted of a container; nothing if system calls are not.
pub(crate) fn record(pinned: &Pinned, container: &counted::Container) -> Result<Option<Record>, Failure> {
    match pinned.snapshot(container.slot()) {
        Err(skiff_ebpf::Error::NoCalls) => Ok(None),
        other => other.map(Some).map_err(observe::failed),
    }
}
