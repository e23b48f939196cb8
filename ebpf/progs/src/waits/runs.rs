//! Who had a CPU when: the last changes on each, and a wait divided among them.

use skiff_ebpf_abi::waits::{RUNS as KEPT, Run, Runs, column};

use crate::maps::{RUNS, beyond, blame, waits};

/// The runs of the CPU `cpu`.
#[inline(always)]
pub fn of(cpu: u32) -> Option<*mut Runs> {
    RUNS.get_ptr_mut(cpu)
}

/// The task that came last.
#[inline(always)]
pub fn last(runs: *const Runs) -> u64 {
    // SAFETY: `runs` points to a map value.
    unsafe { (*runs).pid }
}

#[inline(always)]
pub fn set_last(runs: *mut Runs, pid: u64) {
    // SAFETY: `runs` points to a map value that only this CPU writes.
    unsafe { (*runs).pid = pid };
}

/// `since_ns`, but not before the change that was noted last.
#[inline(always)]
pub fn begin(runs: *const Runs, since_ns: u64) -> u64 {
    // SAFETY: `runs` points to a map value; the mask keeps the index inside.
    let noted_ns = unsafe { (*runs).runs[(*runs).count as usize & (KEPT - 1)].since_ns };
    since_ns.max(noted_ns)
}

/// Notes that from `now_ns` on tasks of `column` run.
#[inline(always)]
pub fn note(runs: *mut Runs, now_ns: u64, column: u32, generation: u32) {
    // SAFETY: `runs` points to a map value that only this CPU writes; the masks keep the indices inside.
    unsafe {
        let count = (*runs).count;
        let last = &raw const (*runs).runs[count as usize & (KEPT - 1)];
        if (*last).column == column && (*last).generation == generation && (*last).since_ns != 0 {
            return;
        }
        (*runs).runs[(count as usize + 1) & (KEPT - 1)] = Run { since_ns: now_ns, column, generation };
        (*runs).count = count + 1;
    }
}

/// Blames whoever ran in the last `wait_ns` before `now_ns` for the wait of the slot `waiter`.
#[inline(always)]
pub fn divide(runs: *const Runs, waiter: u32, now_ns: u64, wait_ns: u64) {
    let (begin, mut end, mut left) = (now_ns - wait_ns, now_ns, wait_ns);
    // SAFETY: `runs` points to a map value.
    let count = unsafe { (*runs).count } as usize;
    let mut back = 0;
    while back < KEPT && left > 0 {
        // SAFETY: as above; the mask keeps the index inside.
        let run = unsafe { (*runs).runs[count.wrapping_sub(back) & (KEPT - 1)] };
        if run.since_ns == 0 || run.since_ns > end {
            break;
        }
        let since = if run.since_ns > begin { run.since_ns } else { begin };
        blame(waiter, still(&run), end - since);
        left -= end - since;
        end = since;
        back += 1;
    }
    if left > 0 {
        blame(waiter, beyond() + column::UNTOLD, left);
    }
}

/// The column of a run: that of a container that has given its slot back is not the next one's.
#[inline(always)]
fn still(run: &Run) -> u32 {
    if run.column >= beyond() {
        return run.column;
    }
    match waits(run.column) {
        // SAFETY: the pointer is to a map value.
        Some(waits) if unsafe { (*waits).generation } as u32 == run.generation => run.column,
        _ => beyond() + column::ENDED,
    }
}
