//! What the kernel itself says of eBPF programs: how often each has run, and for how long.

use std::os::fd::OwnedFd;

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use crate::Error;

/// A program that is loaded, whoever has loaded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runs {
    /// The kernel's number for it.
    pub id: u32,
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: String,
    /// How often it has run while programs were timed.
    pub count: u64,
    /// How long it has run in all, ns; the clock's own share, some 20 ns a run, is in it.
    pub ns: u64,
}

/// Has the kernel time programs, all of the host, until what this returns is dropped: each run takes longer meanwhile.
///
/// Needs `CAP_SYS_ADMIN`. Linux ≥ 5.8.
pub fn time_programs() -> Result<OwnedFd, Error> {
    enable_stats(Stats::RunTime).map_err(|cause| Error::refused("have programs timed", &cause))
}

/// All programs that are loaded. Of those that go meanwhile nothing is told.
#[must_use]
pub fn program_runs() -> Vec<Runs> {
    let told = loaded_programs().filter_map(|program| {
        let program = program.ok()?;
        Some(Runs {
            id: program.id(),
            name: program.name_as_str()?.to_owned(),
            count: program.run_count(),
            ns: u64::try_from(program.run_time().as_nanos()).unwrap_or(u64::MAX),
        })
    });
    told.collect()
}
