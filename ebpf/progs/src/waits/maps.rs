//! The maps, and how tasks and slots are found in them. The loader sizes those that grow with slots and CPUs.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::macros::btf_map;
use skiff_ebpf_abi::waits::{Blocks, Runs, Times, Waiter, Waits, column};
use skiff_ebpf_abi::{Armed, BUCKETS, bucket};

use crate::kernel::{self, TaskPtr};
use crate::storage::TaskStorage;

/// Armed cgroups and those made below them, by cgroup id: one map with all other programs.
#[btf_map]
pub static ARMED: HashMap<u64, Armed, 4096> = HashMap::new();
/// One element per slot.
#[btf_map]
static WAITS: Array<Waits, 1> = Array::new();
/// One element per slot.
#[btf_map]
static BLOCKS: Array<Blocks, 1> = Array::new();
/// A row per slot: one element per slot and [`column::COUNT`] more.
#[btf_map]
static BLAME: Array<u64, 1> = Array::new();
/// One element per CPU.
#[btf_map]
pub static RUNS: Array<Runs, 1> = Array::new();
/// What is kept with each counted task.
#[btf_map]
static WAITERS: TaskStorage<Waiter> = TaskStorage::new();

/// How many slots there are, as the loader wrote it.
#[unsafe(no_mangle)]
pub static SLOTS: u32 = 1;

/// What is kept with `task`, if it is counted. Its slot may have been given back: see [`current`].
#[inline(always)]
pub fn waiter(task: TaskPtr) -> Option<&'static mut Waiter> {
    if kernel::has_no_storage(task) {
        return None;
    }
    WAITERS.get(task)
}

/// Starts to count `task`. `None` if the kernel has no memory for it.
#[inline(always)]
pub fn count(task: TaskPtr, initial: Waiter) -> Option<&'static mut Waiter> {
    WAITERS.make_of(task, initial)
}

/// The slot `index`.
#[inline(always)]
pub fn waits(index: u32) -> Option<*mut Waits> {
    WAITS.get_ptr_mut(index)
}

/// The slot of something that was begun in its generation `generation`, unless another container has it by now.
#[inline(always)]
pub fn current(index: u32, generation: u64) -> Option<*mut Waits> {
    // SAFETY: the pointer is to a map value.
    waits(index).filter(|waits| unsafe { (**waits).generation } == generation)
}

#[inline(always)]
pub fn blocks(index: u32) -> Option<*mut Blocks> {
    BLOCKS.get_ptr_mut(index)
}

/// The first column that is no slot's.
#[inline(always)]
pub fn beyond() -> u32 {
    // SAFETY: a reference to a static; volatile because the loader has replaced the value that the compiler sees.
    unsafe { (&raw const SLOTS).read_volatile() }
}

/// Adds `ns` to what the slot `waiter` waited for `culprit`, a column.
#[inline(always)]
pub fn blame(waiter: u32, culprit: u32, ns: u64) {
    let row = waiter * (beyond() + column::COUNT);
    if let Some(sum) = BLAME.get_ptr_mut(row + culprit) {
        // SAFETY: the pointer is to a map value.
        unsafe { add(sum, ns) };
    }
}

/// Adds a duration.
///
/// # Safety
///
/// `times` points into a map value.
#[inline(always)]
pub unsafe fn time(times: *mut Times, ns: u64) {
    let bucket = bucket(ns);
    if bucket < BUCKETS {
        // SAFETY: as the caller promises, and the index is inside.
        unsafe {
            add(&raw mut (*times).total_ns, ns);
            add((&raw mut (*times).histogram).cast::<u64>().add(bucket), 1);
        }
    }
}

/// Adds to a sum that several CPUs may add to.
///
/// # Safety
///
/// `sum` points into a map value.
#[inline(always)]
pub unsafe fn add(sum: *mut u64, value: u64) {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(sum, value) };
}
