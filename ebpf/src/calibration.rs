//! What the hot path costs on this machine, measured on this process's own calls before there is a container.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use skiff_ebpf_abi::Task;

use crate::Error;
use crate::maps::Maps;

const CALLS: u32 = 100;
const ROUNDS: usize = 100;
const FEWEST_ROUNDS: usize = 3;

/// After which no round begins any more. Where a call is dear, as with the programs of many profiles at once or in an
/// emulated machine, all rounds would keep a launch waiting for seconds.
const ENOUGH: Duration = Duration::from_millis(5);

/// What the programs add to one `getppid`: a difference of the best of up to [`ROUNDS`] means, as other tasks only ever delay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calibration {
    /// In a task that is counted.
    pub(crate) counted_ns: u64,
    /// In any other.
    pub(crate) others_ns: u64,
}

/// Time of one call now.
pub(crate) fn call_ns() -> f64 {
    let begun = Instant::now();
    let goes_on = |round: &usize| *round < FEWEST_ROUNDS || begun.elapsed() < ENOUGH;
    (0..ROUNDS).take_while(goes_on).map(|_| round_ns()).fold(f64::INFINITY, f64::min)
}

fn round_ns() -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS {
        std::hint::black_box(std::os::unix::process::parent_id());
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

/// Compares `alone`, the time of one call before the programs were attached, with now. Counts this process in the first
/// slot for a moment. `None` if that can't be done, as from any but the main thread.
pub(crate) fn measure(maps: &Maps, alone: f64) -> Result<Option<Calibration>, Error> {
    let others = call_ns();
    let Some(this) = own_pidfd().ok() else { return Ok(None) };
    if store(maps, &this, Task { settled: 1, ..Task::default() }).is_err() {
        return Ok(None);
    }
    let counted = call_ns();
    remove(maps, &this).map_err(|cause| Error::refused("stop to count this process", &cause))?;
    let seen: u64 = maps.counters.counts(0)?.rows.iter().flat_map(|(_, row)| row.histogram).sum();
    let calibration =
        Calibration { counted_ns: rounded(counted - alone), others_ns: rounded(others - alone) };
    Ok((seen >= u64::from(CALLS)).then_some(calibration))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number of nanoseconds"
)]
pub(crate) fn rounded(ns: f64) -> u64 {
    ns.max(0.0).round() as u64
}

/// The main thread, by its pidfd. pidfd_open(2), Linux ≥ 5.3.
fn own_pidfd() -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The part of `union bpf_attr` for one element of a map.
#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Stores `value` with a task, whose pidfd is the key in task storage.
fn store(maps: &Maps, task: &OwnedFd, mut value: Task) -> io::Result<()> {
    const BPF_MAP_UPDATE_ELEM: i32 = 2;
    bpf(BPF_MAP_UPDATE_ELEM, maps, task, (&raw mut value).addr() as u64)
}

/// Removes what is stored with a task.
fn remove(maps: &Maps, task: &OwnedFd) -> io::Result<()> {
    const BPF_MAP_DELETE_ELEM: i32 = 3;
    bpf(BPF_MAP_DELETE_ELEM, maps, task, 0)
}

fn bpf(command: i32, maps: &Maps, task: &OwnedFd, value: u64) -> io::Result<()> {
    let key = task.as_raw_fd();
    let element = Element {
        map: maps.tasks.fd().as_fd().as_raw_fd().cast_unsigned(),
        key: (&raw const key).addr() as u64,
        value,
        ..Element::default()
    };
    // SAFETY: the attributes have the length that is passed; they point to a key and, for the command that reads one, to a
    // value of the map's sizes (an `int`, a `Task`), which the callers keep for the time of the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const element, size_of::<Element>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
