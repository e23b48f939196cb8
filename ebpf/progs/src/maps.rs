//! The maps, and how tasks and slots are found in them. The loader sizes those that grow with the number of slots.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use skiff_ebpf_abi::{
    Armed, Calls, ERRORS as ERRORS_PER_SLOT, EXECS as EXECS_PER_SLOT, ExecEvent, ROWS as ROWS_PER_SLOT,
};
use skiff_ebpf_abi::{NO_SLOT, Row, Slot, Task};

use crate::kernel::{self, TaskPtr};
use crate::storage::TaskStorage;

/// Armed cgroups and those made below them, by cgroup id.
#[btf_map]
pub static ARMED: HashMap<u64, Armed, 4096> = HashMap::new();
/// One element per slot.
#[btf_map]
pub static SLOTS: Array<Slot, 1> = Array::new();
/// One element per slot.
#[btf_map]
pub static CALLS: Array<Calls, 1> = Array::new();
/// `ROWS_PER_SLOT` elements per slot.
#[btf_map]
pub static ROWS: PerCpuArray<Row, { ROWS_PER_SLOT as usize }> = PerCpuArray::new();
/// Failed calls by `error_key`.
#[btf_map]
pub static ERRORS: HashMap<u64, u64, { ERRORS_PER_SLOT as usize }> = HashMap::new();
/// `EXECS_PER_SLOT` elements per slot.
#[btf_map]
pub static EXECS: Array<ExecEvent, { EXECS_PER_SLOT as usize }> = Array::new();
/// When the OOM killer chose a task, by its id; until the task dies.
#[btf_map]
pub static VICTIMS: LruHashMap<u32, u64, 256> = LruHashMap::new();
/// The slot that the loader is closing, plus 1.
#[btf_map]
pub static CLOSING: Array<u32, 1> = Array::new();
/// What is kept with each counted task.
#[btf_map]
static TASKS: TaskStorage<Task> = TaskStorage::new();

/// What is kept with `task`, if it is counted. It is no longer once its slot was closed.
#[inline(always)]
pub fn counted(task: TaskPtr) -> Option<&'static mut Task> {
    if kernel::has_no_storage(task) {
        return None;
    }
    TASKS.get(task).filter(|task| task.slot != NO_SLOT)
}

/// Starts to count `task`, which was not counted. `None` if the kernel has no memory for it.
#[inline(always)]
pub fn count(task: TaskPtr, initial: Task) -> Option<&'static mut Task> {
    TASKS.make_of(task, initial)
}

#[inline(always)]
pub fn slot(index: u32) -> Option<*mut Slot> {
    SLOTS.get_ptr_mut(index)
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

/// Adds 1, and returns what was there before.
///
/// # Safety
///
/// `sum` points to a `u32` or `u64` in a map value.
#[inline(always)]
pub unsafe fn take<T: Copy + From<u8>>(sum: *mut T) -> T {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<T, T, { AtomicOrdering::SeqCst }>(sum, T::from(1)) }
}

/// Says that something was not counted.
pub fn lose(index: u32) {
    if let Some(slot) = slot(index) {
        // SAFETY: `slot` points into a map value.
        unsafe { add(&raw mut (*slot).lost, 1) };
    }
}
