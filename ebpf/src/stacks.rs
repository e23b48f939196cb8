//! Samples of the stacks of a cgroup's tasks, in order of time with what happens to their address spaces.
//!
//! The kernel samples every CPU and an eBPF program keeps what is of the cgroup. Executable mappings, executions, forks and ends come
//! with them, of all processes of the host, for nobody knows before whose they will be: so the stacks of a process can be
//! understood that has ended long before anybody looks. What is not read in time is counted as lost.

mod event;

use std::fmt;

use aya::maps::Array;
use aya::programs::PerfEvent;
use aya::{Ebpf, EbpfLoader};
use skiff_ebpf_abi::stacks::Target;
use skiff_sys::clock::monotonic_ns;
use skiff_sys::perf::{self, Samples};

use crate::Error;
use crate::load::check_privileges;
use crate::maps::Plain;
pub use event::{Event, FileId, Kind};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/stacks.bpf.o"));

/// Pages of each CPU's buffer: half a second of a busy host's executions, and minutes of samples.
const PAGES: usize = 128;

/// The sampler, loaded and not yet on. Dropping it ends it; so does the end of the process.
pub struct Sampler {
    // Held so that the program stays.
    _object: Ebpf,
    target: Array<aya::maps::MapData, Plain<Target>>,
    cpus: Vec<Samples>,
    /// Read, and perhaps later than something that has not been read yet.
    held: Vec<Event>,
    hz: u32,
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler").field("hz", &self.hz).finish_non_exhaustive()
    }
}

impl Sampler {
    /// Loads the program and opens the clock of each CPU that is on, at `hz` samples per second of CPU time.
    ///
    /// Needs `CAP_BPF` and `CAP_PERFMON` in the initial user namespace. Linux ≥ 5.8.
    pub fn load(hz: u32) -> Result<Self, Error> {
        check_privileges()?;
        let mut object = EbpfLoader::new()
            .btf(None)
            .load(OBJECT)
            .map_err(|cause| Error::refused("create the maps", &cause))?;
        let absent = |what: &str| Error::Refused {
            step: format!("look up {what}"),
            cause: "not in the object".into(),
        };
        let program = object.program_mut("sample").ok_or_else(|| absent("the program sample"))?;
        let program: &mut PerfEvent =
            program.try_into().map_err(|cause| Error::refused("look up the program sample", &cause))?;
        program.load().map_err(|cause| Error::refused("load the program sample", &cause))?;
        let filter = program.fd().map_err(|cause| Error::refused("load the program sample", &cause))?;
        let refused = |cause: std::io::Error| Error::refused("sample the CPUs", &cause);
        let mut cpus = Vec::new();
        for cpu in perf::online_cpus().map_err(refused)? {
            let samples = Samples::open(cpu, 1_000_000_000 / u64::from(hz.max(1)), PAGES).map_err(refused)?;
            samples.set_filter(std::os::fd::AsFd::as_fd(filter)).map_err(refused)?;
            cpus.push(samples);
        }
        let target = object.take_map("TARGET").ok_or_else(|| absent("the map TARGET"))?;
        let target = target.try_into().map_err(|cause| Error::refused("look up a map", &cause))?;
        Ok(Self { _object: object, target, cpus, held: Vec::new(), hz })
    }

    /// Samples from now on what runs in the cgroup2 with the id `cgroup` and in those below it.
    pub fn arm(&mut self, cgroup: u64) -> Result<(), Error> {
        let target = Target { cgroup, samples: 0 };
        self.target.set(0, Plain(target), 0).map_err(|cause| Error::refused("write a map", &cause))?;
        self.each(Samples::enable)
    }

    /// What has happened since it was asked last, in order of time. To be asked several times a second.
    pub fn read(&mut self) -> Vec<Event> {
        // What is older than this has been written, on whichever CPU.
        let complete_ns = monotonic_ns();
        self.take();
        self.held.sort_by_key(|event| event.time_ns);
        let later = self.held.partition_point(|event| event.time_ns < complete_ns);
        let rest = self.held.split_off(later);
        std::mem::replace(&mut self.held, rest)
    }

    /// Stops to sample; what has happened since it was asked last.
    pub fn stop(&mut self) -> Result<Vec<Event>, Error> {
        self.each(Samples::disable)?;
        self.take();
        self.held.sort_by_key(|event| event.time_ns);
        Ok(std::mem::take(&mut self.held))
    }

    /// Samples that the program has let through.
    pub fn samples(&self) -> Result<u64, Error> {
        let target = self.target.get(&0, 0).map_err(|cause| Error::refused("read a map", &cause))?;
        Ok(target.0.samples)
    }

    /// Samples per second of CPU time.
    #[must_use]
    pub const fn hz(&self) -> u32 {
        self.hz
    }

    fn take(&mut self) {
        for cpu in &mut self.cpus {
            cpu.read(&mut |record| self.held.extend(Event::parse(record)));
        }
    }

    fn each(&self, act: fn(&Samples) -> std::io::Result<()>) -> Result<(), Error> {
        self.cpus.iter().try_for_each(act).map_err(|cause| Error::refused("sample the CPUs", &cause))
    }
}
