//! Records what a container's program uses beside system calls: an object of its own, loaded with a recorded run.

use std::collections::BTreeMap;
use std::fmt;

use aya::maps::{Array, HashMap, MapData};
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf, EbpfLoader};
use skiff_ebpf_abi::Offsets;
use skiff_ebpf_abi::harden::{Check, Opened, Recorded, Thing, UseOffsets, kind};
use skiff_sys::{heap, syscalls};

use crate::btf::Types;
use crate::load::check_privileges;
use crate::maps::Plain;
use crate::marks::Object;
use crate::{Error, calibration};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/harden.bpf.o"));

/// What there is on every kernel.
const TASKS: [&str; 3] = ["sched_process_fork", "sched_process_exec", "sched_process_exit"];
/// Linux ≥ 6.14.
const CHECKS: &str = "cap_capable";
/// The fields of [`UseRecord`] that may be missing.
pub const PARTS: [&str; 5] = ["capabilities", "devices", "sysctls", "tasks_peak", "descriptors_peak"];
/// On every system call of the host: attached last, so that its cost can be measured.
const CALLS: &str = "sys_exit";

/// The programs, loaded and attached. Dropping it detaches and unloads them; so does the end of the process.
pub struct UseRecorder {
    // Held so that the programs stay attached.
    _object: Ebpf,
    recorded: Array<MapData, Plain<Recorded>>,
    checks: HashMap<MapData, Plain<Check>, u64>,
    things: HashMap<MapData, Plain<Thing>, Plain<Opened>>,
    tells_checks: bool,
    /// Fields that the kernel does not have; without one, nothing is told.
    absent: Vec<&'static str>,
    ns_per_call: u64,
}

/// What a program has used. What this kernel does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UseRecord {
    /// Checks for capabilities, by number.
    pub capabilities: Option<Vec<CapabilityUse>>,
    /// Devices that were opened, by kind and number.
    pub devices: Option<Vec<DeviceUse>>,
    /// Kernel parameters that were opened, as paths below `/proc/sys`.
    pub sysctls: Option<Vec<SysctlUse>>,
    /// The most tasks that lived at one time.
    pub tasks_peak: Option<u64>,
    /// The room in the largest table of open files; `None` also if no task has ended.
    pub descriptors_peak: Option<u64>,
    /// Uses that are missing.
    pub lost: u64,
    /// Why, by the name of the field, for each that is `None`.
    pub reasons: BTreeMap<&'static str, String>,
    /// What the recorder adds to each system call of any task on the host, measured while it was loaded.
    pub ns_per_call: u64,
}

/// The checks for one capability.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapabilityUse {
    /// Its number.
    pub capability: u32,
    /// Checks that found it.
    pub granted: u64,
    /// Checks that did not.
    pub refused: u64,
    /// The system calls during which, and how often.
    pub calls: BTreeMap<String, u64>,
}

/// A device that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceUse {
    /// A block device, not a character device.
    pub is_block: bool,
    /// Its number.
    pub major: u32,
    /// Its number.
    pub minor: u32,
    /// How often it was opened to be read.
    pub reads: u64,
    /// How often it was opened to be written.
    pub writes: u64,
}

/// A kernel parameter that was opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SysctlUse {
    /// Its path below `/proc/sys`.
    pub name: String,
    /// How often it was opened to be read.
    pub reads: u64,
    /// How often it was opened to be written.
    pub writes: u64,
}

impl fmt::Debug for UseRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UseRecorder").field("ns_per_call", &self.ns_per_call).finish_non_exhaustive()
    }
}

impl UseRecorder {
    /// Loads and attaches the programs. Needs what [`Profiler::load`](crate::Profiler::load) needs. Linux ≥ 5.15.
    pub fn load() -> Result<Self, Error> {
        check_privileges()?;
        let types = Types::of_kernel(&[Offsets::PATHS, UseOffsets::PATHS].concat())?;
        let offsets = UseOffsets::new(|path| types.offset(path));
        let tasks = Plain(Offsets::new(|path| types.offset(path), false));
        let tells_checks = types.has_tracepoint(CHECKS);
        let absent: Vec<&str> = offsets.absent().collect();
        let tells_things = absent.is_empty();
        drop(types);
        let globals = Plain(offsets);
        let mut object = EbpfLoader::new()
            .btf(None)
            .override_global("USE_OFFSETS", &globals, true)
            .load(Object::new(OBJECT).with(&tasks).bytes())
            .map_err(|cause| Error::refused("create the maps", &cause))?;
        let btf = Btf::from_sys_fs().map_err(|cause| Error::refused("read the kernel's types", &cause))?;
        // Without the others nothing is taken for the workload's.
        let checks = tells_checks.then_some(CHECKS);
        for name in TASKS.into_iter().chain(checks).filter(|_| tells_things) {
            load(&mut object, name, &btf)?;
            attach(&mut object, name)?;
        }
        let mut ns_per_call = 0;
        if tells_things {
            load(&mut object, CALLS, &btf)?;
            let alone = calibration::call_ns();
            attach(&mut object, CALLS)?;
            ns_per_call = calibration::rounded(calibration::call_ns() - alone);
        }
        drop(btf);
        let recorder = Self {
            recorded: map(&mut object, "RECORDED")?,
            checks: map(&mut object, "CHECKS")?,
            things: map(&mut object, "THINGS")?,
            tells_checks,
            absent,
            ns_per_call,
            _object: object,
        };
        heap::trim();
        Ok(recorder)
    }

    /// Records from now on what the tasks of the cgroup2 with the id `cgroup_id`, and of those below it, use, once `execs_before`
    /// programs have been executed and one more. One map write.
    pub fn arm(&mut self, cgroup_id: u64, execs_before: u32) -> Result<(), Error> {
        // The first task is not forked by one of the container's.
        let begun = Recorded {
            cgroup: cgroup_id,
            execs_before: execs_before.into(),
            tasks: 1,
            tasks_peak: 1,
            ..Recorded::default()
        };
        self.recorded.set(0, Plain(begun), 0).map_err(|cause| Error::refused("write a map", &cause))
    }

    /// Reads what was used. To be called when the container's processes have ended.
    pub fn finish(self) -> Result<UseRecord, Error> {
        let sums = self.recorded.get(&0, 0).map_err(|cause| read_error(&cause))?.0;
        let mut record = UseRecord { lost: sums.lost, ns_per_call: self.ns_per_call, ..UseRecord::default() };
        let mut lacks = |part: &'static str, why: String| drop(record.reasons.insert(part, why));
        if !self.absent.is_empty() {
            let why = format!("this kernel has no field {}", self.absent.join(", "));
            PARTS.into_iter().for_each(|part| lacks(part, why.clone()));
            return Ok(record);
        }
        if !self.tells_checks {
            lacks(PARTS[0], format!("this kernel has no tracepoint {CHECKS} (Linux >= 6.14)"));
        }
        if sums.descriptors_peak == 0 {
            lacks(PARTS[4], "no process of the program has ended".to_owned());
        }
        record.capabilities = self.tells_checks.then(|| self.capabilities()).transpose()?;
        (record.devices, record.sysctls) =
            self.opened().map(|(devices, sysctls)| (Some(devices), Some(sysctls)))?;
        record.tasks_peak = Some(sums.tasks_peak);
        record.descriptors_peak = (sums.descriptors_peak > 0).then_some(sums.descriptors_peak);
        Ok(record)
    }

    fn capabilities(&self) -> Result<Vec<CapabilityUse>, Error> {
        let mut all = BTreeMap::<u32, CapabilityUse>::new();
        for entry in self.checks.iter() {
            let (Plain(check), count) = entry.map_err(|cause| read_error(&cause))?;
            let used = all.entry(check.capability).or_default();
            used.capability = check.capability;
            *if check.granted == 1 { &mut used.granted } else { &mut used.refused } += count;
            *used.calls.entry(call_name(check)).or_default() += count;
        }
        Ok(all.into_values().collect())
    }

    fn opened(&self) -> Result<(Vec<DeviceUse>, Vec<SysctlUse>), Error> {
        let (mut devices, mut sysctls) = (Vec::new(), BTreeMap::<String, (u64, u64)>::new());
        for entry in self.things.iter() {
            let (Plain(thing), Plain(opened)) = entry.map_err(|cause| read_error(&cause))?;
            if thing.kind == kind::SYSCTL {
                let (reads, writes) = sysctls.entry(sysctl_name(&opened)).or_default();
                *reads += opened.reads;
                *writes += opened.writes;
                continue;
            }
            let number = u32::try_from(thing.number).unwrap_or(u32::MAX);
            devices.push(DeviceUse {
                is_block: thing.kind == kind::BLOCK,
                major: number >> 20,
                minor: number & 0xf_ffff,
                reads: opened.reads,
                writes: opened.writes,
            });
        }
        devices.sort_unstable();
        let sysctl = |(name, (reads, writes))| SysctlUse { name, reads, writes };
        Ok((devices, sysctls.into_iter().map(sysctl).collect()))
    }
}

/// The call's name; between calls the kernel has −1 for its number.
fn call_name(check: Check) -> String {
    let known = if check.compat == 1 { syscalls::name_i386(check.call) } else { syscalls::name(check.call) };
    match known {
        Some(name) => name.to_owned(),
        None if check.call == u32::MAX => "none".to_owned(),
        None => format!("syscall_{}", check.call),
    }
}

/// The path below `sys`, from its parts, the last first.
fn sysctl_name(opened: &Opened) -> String {
    let parts = opened.path.iter().map(|part| part.split(|byte| *byte == 0).next().unwrap_or_default());
    let mut parts: Vec<_> = parts.take_while(|part| !part.is_empty()).map(String::from_utf8_lossy).collect();
    parts.pop();
    parts.reverse();
    parts.join("/")
}

fn load(object: &mut Ebpf, name: &str, btf: &Btf) -> Result<(), Error> {
    program(object, name)?.load(name, btf).map_err(|cause| Error::refused(format!("load {name}"), &cause))
}

fn attach(object: &mut Ebpf, name: &str) -> Result<(), Error> {
    let attached = program(object, name)?.attach();
    attached.map(drop).map_err(|cause| Error::refused(format!("attach {name}"), &cause))
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint, Error> {
    let program = object.program_mut(name).ok_or_else(|| Error::Refused {
        step: format!("look up the program {name}"),
        cause: "not in the object".into(),
    })?;
    program.try_into().map_err(|cause| Error::refused(format!("look up {name}"), &cause))
}

fn map<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    object: &mut Ebpf,
    name: &str,
) -> Result<T, Error> {
    let map = object.take_map(name).ok_or_else(|| Error::Refused {
        step: format!("look up the map {name}"),
        cause: "not in the object".into(),
    })?;
    map.try_into().map_err(|cause| Error::refused("look up a map", &cause))
}

fn read_error(cause: &aya::maps::MapError) -> Error {
    Error::refused("read a map", cause)
}

#[cfg(test)]
mod tests {
    use skiff_ebpf_abi::harden::{DEPTH, PART};

    use super::*;

    #[test]
    fn parameters_are_named_by_their_path() {
        let mut opened = Opened { reads: 1, writes: 0, path: [[0; PART]; DEPTH] };
        for (part, name) in opened.path.iter_mut().zip(["somaxconn", "core", "net", "sys"]) {
            part[..name.len()].copy_from_slice(name.as_bytes());
        }
        assert_eq!(sysctl_name(&opened), "net/core/somaxconn");
    }

    #[test]
    fn calls_are_named_by_their_table() {
        let check = |call: u32, compat: u32, expected: &str| {
            assert_eq!(call_name(Check { call, compat, ..Check::default() }), expected);
        };
        check(0, 0, "read");
        check(1, 1, "exit");
        check(u32::MAX, 0, "none");
        check(500, 0, "syscall_500");
    }
}
