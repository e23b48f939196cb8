//! The hot path: every system call of every task on the host passes here.

use core::hint::black_box;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::{CALLS as CALL_COUNT, Calls, ROWS as ROWS_PER_SLOT, Row, Task};
use skiff_ebpf_abi::{bucket, call, call_parts, error_key, phase};

use crate::kernel::{Ptr, is_compat, now_ns, offset, this};
use crate::maps::{CALLS, ERRORS, ROWS, add, counted, lose, slot, take};

const MAX_ERRNO: i64 = 4095;

/// Notes the call; it is counted when it returns, or when its task dies in it.
#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter(ctx: BtfTracePointContext) -> i32 {
    let this = this();
    let Some(task) = counted(this) else { return 0 };
    task.call = call(task.phase, is_compat(this), ctx.arg::<u64>(1));
    task.settled = 1;
    task.entered_ns = now_ns();
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let Some(task) = counted(this()) else { return 0 };
    let entered_ns = task.entered_ns;
    let result = ctx.arg::<i64>(1);
    if entered_ns == 0 {
        refused(task, Ptr::new(ctx.arg::<*const u8>(0)), result);
        return 0;
    }
    let now_ns = now_ns();
    let ns = now_ns - entered_ns;
    task.entered_ns = 0;
    if let Some(row) = row(task.slot, task.call) {
        // SAFETY: the row is this CPU's own, and no system call ends in an interrupt.
        unsafe {
            (*row).total_ns += ns;
            if ns > (*row).max_ns {
                (*row).max_ns = ns;
            }
            (*row).histogram[bucket(ns)] += 1;
        }
    }
    if result < 0 {
        failed(task, result);
    } else if result > 0 && writes(task.call) {
        output(task, Ptr::new(ctx.arg::<*const u8>(0)), now_ns);
    }
    0
}

/// A call that did not return: its task died in it, or the slot is being read.
pub fn unreturned(task: &mut Task) {
    if task.entered_ns != 0 {
        task.entered_ns = 0;
        if let Some(row) = row(task.slot, task.call) {
            // SAFETY: the row points into a map value. Atomic, as this may interrupt a call on the same CPU.
            unsafe { add(&raw mut (*row).unreturned, 1) };
        }
    }
}

/// An exit without an entry: a seccomp filter answered. A new task's first exit is that of its creation and no call.
fn refused(task: &mut Task, regs: Ptr, result: i64) {
    if task.settled == 0 {
        task.settled = 1;
        return;
    }
    task.call = call(task.phase, is_compat(this()), regs.get(offset!(regs_orig_ax)));
    // Hidden from the compiler, which would prove that `row` needs no mask: the verifier of 6.1 cannot follow the proof.
    if let Some(row) = row(task.slot, black_box(task.call)) {
        // SAFETY: as in `unreturned`.
        unsafe { add(&raw mut (*row).refused, 1) };
    }
    if result < 0 {
        failed(task, result);
    }
}

/// This CPU's counts of `call`.
#[inline(always)]
fn row(slot: u32, call: u32) -> Option<*mut Row> {
    let calls = CALLS.get_ptr_mut(slot)?;
    // SAFETY: `calls` points to a map value, and the mask keeps the index inside.
    let mut row = unsafe { (*calls).row[call as usize & (CALL_COUNT - 1)] };
    if row == 0 {
        row = claim(slot, call, calls);
        if row == 0 {
            lose(slot);
            return None;
        }
    }
    ROWS.get_ptr_mut(slot * ROWS_PER_SLOT + u32::from(row) - 1)
}

/// Gives `call` a row, numbered from 1; 0 if there is none left. Two CPUs may give two rows to one call: the reader adds
/// them up.
#[inline(always)]
fn claim(index: u32, call: u32, calls: *mut Calls) -> u16 {
    let Some(slot) = slot(index) else { return 0 };
    // SAFETY: `slot` points to a map value.
    let row = unsafe { take(&raw mut (*slot).rows) };
    if row >= u64::from(ROWS_PER_SLOT) {
        return 0;
    }
    // SAFETY: `calls` points to a map value, and both indices are inside.
    unsafe {
        (*calls).call[row as usize & (ROWS_PER_SLOT as usize - 1)] = call as u16;
        (*calls).row[call as usize & (CALL_COUNT - 1)] = row as u16 + 1;
    }
    row as u16 + 1
}

/// Counts a failure. Returning from a signal handler restores a register and is none.
#[inline(always)]
fn failed(task: &Task, result: i64) {
    let (_, compat, nr) = call_parts(task.call);
    let restores = if compat { nr == 119 || nr == 173 } else { nr == 15 };
    if result < -MAX_ERRNO || restores {
        return;
    }
    let key = error_key(task.slot, task.call, -result as u32);
    let count = ERRORS.get_ptr_mut(key).or_else(|| {
        // Another CPU may have been first: then its element stays.
        let _ = ERRORS.insert(key, 0, aya_ebpf::bindings::BPF_NOEXIST.into());
        ERRORS.get_ptr_mut(key)
    });
    match count {
        // SAFETY: the pointer is to a map value that only the loader removes.
        Some(count) => unsafe { add(count, 1) },
        None => lose(task.slot),
    }
}

/// Whether the workload made `call`, and it may write to a descriptor.
#[inline(always)]
fn writes(call: u32) -> bool {
    let (phase, compat, nr) = call_parts(call);
    // write pwrite64 writev sendfile sendto sendmsg
    const LOW: u64 = 1 << 1 | 1 << 18 | 1 << 20 | 1 << 40 | 1 << 44 | 1 << 46;
    // splice pwritev sendmmsg copy_file_range pwritev2
    const HIGH: [u32; 5] = [275, 296, 307, 326, 328];
    // write writev sendfile
    const COMPAT: [u32; 3] = [4, 146, 187];
    phase == phase::WORKLOAD
        && if compat {
            COMPAT.contains(&nr)
        } else {
            nr < 64 && LOW >> nr & 1 == 1 || nr >= 64 && HIGH.contains(&nr)
        }
}

/// Notes the first successful write to descriptor 1 or 2.
#[inline(always)]
fn output(task: &Task, regs: Ptr, now_ns: u64) {
    let (_, compat, nr) = call_parts(task.call);
    let descriptor: u64 = match (compat, nr) {
        (true, _) => regs.get(offset!(regs_bx)),
        (false, 275 | 326) => regs.get(offset!(regs_dx)),
        (false, _) => regs.get(offset!(regs_di)),
    };
    if descriptor != 1 && descriptor != 2 {
        return;
    }
    if let Some(slot) = slot(task.slot) {
        // SAFETY: `slot` points to a map value. Two first writers are nanoseconds apart: either will do.
        unsafe {
            if (*slot).first_output_ns == 0 {
                (*slot).first_output_ns = now_ns;
            }
        }
    }
}
