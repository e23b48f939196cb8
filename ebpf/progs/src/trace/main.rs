//! The tracer: tells of each system call of the tasks in one cgroup and below, as far as it is asked for.
//!
//! A call is told of when it returns, with what was noted when it was entered: its arguments, and copies of the strings among
//! them. What is not asked for is passed over here, so that it costs the container next to nothing, and only so many calls are
//! told of in a time: beyond that, and where the reader is too slow, they are counted and dropped.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the only way to atomic operations on this target")]

#[path = "../kernel.rs"]
#[allow(dead_code, reason = "what counting needs, tracing does not")]
mod kernel;
#[path = "../storage.rs"]
mod storage;

use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::ptr;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::btf_maps::{Array, CgroupArray, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::{
    bpf_probe_read_kernel_str, bpf_probe_read_user, bpf_probe_read_user_str, bpf_ringbuf_output,
};
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::trace::{
    COPIES, Drops, Event, Gate, HEADER, NUMBERS, Note, RING, Settings, TEXT, WINDOW_NS, copy, flag, state,
};

use kernel::{Ptr, is_compat, is_reader, now_ns, offset, pid, tgid, this};
use storage::TaskStorage;

#[unsafe(no_mangle)]
static SETTINGS: Settings =
    Settings { calls: [[0; NUMBERS / 64]; 2], copies: [[0; NUMBERS]; 2], admitted: 0, failed_only: 0 };

/// Whose calls are traced.
#[btf_map]
static CGROUPS: CgroupArray<1> = CgroupArray::new();
/// What is told.
#[btf_map]
static EVENTS: RingBuf<Event, { RING as usize }> = RingBuf::new();
#[btf_map]
static GATE: Array<Gate, 1> = Array::new();
#[btf_map]
static DROPS: PerCpuArray<Drops, 1> = PerCpuArray::new();
/// The call that each task is in.
#[btf_map]
static NOTES: TaskStorage<Note> = TaskStorage::new();

/// Where `struct pt_regs` has the arguments of a call, by table: uapi/asm/ptrace.h, which does not change.
const DI: u64 = 112;
const SI: u64 = 104;
const DX: u64 = 96;
const CX: u64 = 88;
const R8: u64 = 72;
const R9: u64 = 64;
const R10: u64 = 56;
const BX: u64 = 40;
const BP: u64 = 32;
const ORIG_AX: u64 = 120;

const CLONE: u32 = 56;
const FORK: u32 = 57;
const VFORK: u32 = 58;
const CLONE3: u32 = 435;
const COMPAT_FORK: u32 = 2;
const COMPAT_CLONE: u32 = 120;
const COMPAT_VFORK: u32 = 190;

#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter(ctx: BtfTracePointContext) -> i32 {
    if !is_watched() {
        return 0;
    }
    let this = this();
    let Some(note) = NOTES.make(this) else {
        count(|drops| &raw mut drops.no_memory);
        return 0;
    };
    let (compat, number) = (is_compat(this), ctx.arg::<u64>(1));
    note.state = state::PASSED;
    if !is_asked_for(compat, number) {
        return 0;
    }
    let now_ns = now_ns();
    let waits = is_failed_only();
    if !waits && !is_admitted(now_ns) {
        return 0;
    }
    let regs = Ptr::new(ctx.arg::<*const u8>(0));
    note.state = state::TRACED;
    begin(&mut note.event, regs, compat, number as u32, now_ns);
    if !waits {
        take_copies(&mut note.event, compat, number as u32);
    }
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    if !is_watched() {
        return 0;
    }
    let this = this();
    let (regs, result) = (Ptr::new(ctx.arg::<*const u8>(0)), ctx.arg::<i64>(1));
    let Some(note) = NOTES.get(this) else {
        if let Some(note) = NOTES.make(this) {
            without_entry(this, note, regs, result, flag::RESUMED);
        }
        return 0;
    };
    let was = note.state;
    note.state = state::OUTSIDE;
    if was == state::OUTSIDE {
        without_entry(this, note, regs, result, flag::REFUSED);
    } else if was == state::TRACED && !(is_failed_only() && !is_failure(result)) {
        let now_ns = now_ns();
        if is_failed_only() && !is_admitted(now_ns) {
            return 0;
        }
        let event = &mut note.event;
        let (compat, number) = (event.flags & flag::COMPAT != 0, event.number);
        // What could not be read was not in memory yet; the call itself has brought it there.
        take_copies(event, compat, number);
        event.result = result;
        event.left_ns = now_ns;
        tell(this, event);
    }
    0
}

/// A task dies in the call that it is in: exit(2) for one.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(_ctx: BtfTracePointContext) -> i32 {
    let this = this();
    if kernel::has_no_storage(this) {
        return 0;
    }
    let Some(note) = NOTES.get(this) else { return 0 };
    if note.state == state::TRACED && !is_failed_only() {
        note.state = state::OUTSIDE;
        note.event.flags |= flag::DIED;
        note.event.left_ns = now_ns();
        tell(this, &mut note.event);
    }
    0
}

/// The memory in which execve(2) was told the path goes with the old program.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let this = this();
    if kernel::has_no_storage(this) {
        return 0;
    }
    let Some(note) = NOTES.get(this) else { return 0 };
    if note.state == state::TRACED && note.event.lengths[0] == 0 {
        let path = Ptr::new(ctx.arg::<*const u8>(2)).follow(offset!(binprm_filename));
        let to = (&raw mut note.event.text[0]).cast();
        // SAFETY: the helper checks its source, and there is room for `TEXT` bytes.
        let length = unsafe { bpf_probe_read_kernel_str(to, TEXT as u32, path.address().cast()) };
        note.event.lengths[0] = if length > 0 { length as u32 } else { 0 };
    }
    0
}

/// Whether the current task is in the cgroup, or in one below it, and does not only read ahead for it.
#[inline(always)]
fn is_watched() -> bool {
    CGROUPS.current_task_under_cgroup(0) == Ok(true) && !is_reader(this())
}

#[inline(always)]
fn is_failed_only() -> bool {
    // SAFETY: a reference to a static; volatile because the loader has replaced the value.
    unsafe { ptr::read_volatile(&raw const SETTINGS.failed_only) != 0 }
}

#[inline(always)]
const fn is_failure(result: i64) -> bool {
    result < 0 && result >= -4095
}

#[inline(always)]
fn is_asked_for(compat: bool, number: u64) -> bool {
    if number >= NUMBERS as u64 {
        return false;
    }
    let bits = (&raw const SETTINGS.calls).cast::<u64>();
    let at = (usize::from(compat) * (NUMBERS / 64) + (number as usize >> 6)) & (2 * NUMBERS / 64 - 1);
    // SAFETY: the mask keeps the index inside.
    unsafe { ptr::read_volatile(bits.add(at)) >> (number & 63) & 1 == 1 }
}

/// Whether one more call may be told of now. Several CPUs that begin a window at once admit a few more.
#[inline(always)]
fn is_admitted(now_ns: u64) -> bool {
    let Some(gate) = GATE.get_ptr_mut(0) else { return false };
    // SAFETY: a reference to a static, and a pointer to a map value.
    unsafe {
        let most = ptr::read_volatile(&raw const SETTINGS.admitted);
        if now_ns.wrapping_sub((*gate).since_ns) > WINDOW_NS {
            (*gate).since_ns = now_ns;
            (*gate).admitted = 0;
        }
        if (*gate).admitted < most {
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*gate).admitted, 1);
            return true;
        }
    }
    count(|drops| &raw mut drops.too_many);
    false
}

#[inline(always)]
fn begin(event: &mut Event, regs: Ptr, compat: bool, number: u32, now_ns: u64) {
    event.entered_ns = now_ns;
    event.result = 0;
    event.number = number;
    event.flags = if compat { flag::COMPAT } else { 0 };
    event.lengths = [0; COPIES];
    let from = if compat { [BX, CX, DX, SI, DI, BP] } else { [DI, SI, DX, R10, R8, R9] };
    let mask = if compat { u64::from(u32::MAX) } else { u64::MAX };
    event.arguments[0] = regs.get::<u64>(from[0]) & mask;
    event.arguments[1] = regs.get::<u64>(from[1]) & mask;
    event.arguments[2] = regs.get::<u64>(from[2]) & mask;
    event.arguments[3] = regs.get::<u64>(from[3]) & mask;
    event.arguments[4] = regs.get::<u64>(from[4]) & mask;
    event.arguments[5] = regs.get::<u64>(from[5]) & mask;
}

/// An exit without an entry.
#[inline(always)]
fn without_entry(this: Ptr, note: &mut Note, regs: Ptr, result: i64, how: u32) {
    let (compat, number) = (is_compat(this), regs.get::<u64>(ORIG_AX));
    note.state = state::OUTSIDE;
    if !is_asked_for(compat, number) || (how == flag::RESUMED && is_birth(compat, number as u32, result)) {
        return;
    }
    let now_ns = now_ns();
    if (is_failed_only() && !is_failure(result)) || !is_admitted(now_ns) {
        return;
    }
    let event = &mut note.event;
    begin(event, regs, compat, number as u32, 0);
    event.flags |= how;
    event.result = result;
    event.left_ns = now_ns;
    take_copies(event, compat, number as u32);
    tell(this, event);
}

/// Whether it is a new task that returns from the call that has made it, which its parent is told of.
#[inline(always)]
const fn is_birth(compat: bool, number: u32, result: i64) -> bool {
    let makes = if compat {
        matches!(number, COMPAT_FORK | COMPAT_CLONE | COMPAT_VFORK | CLONE3)
    } else {
        matches!(number, CLONE | FORK | VFORK | CLONE3)
    };
    makes && result == 0
}

/// Copies what the table says of the arguments, as far as it is not there yet and can be read.
#[inline(always)]
fn take_copies(event: &mut Event, compat: bool, number: u32) {
    let all = (&raw const SETTINGS.copies).cast::<u16>();
    let at = (usize::from(compat) * NUMBERS + number as usize) & (2 * NUMBERS - 1);
    // SAFETY: the mask keeps the index inside.
    let copies = unsafe { ptr::read_volatile(all.add(at)) };
    take_copy::<0>(event, copies & 0xff);
    take_copy::<1>(event, copies >> 8);
}

#[inline(always)]
fn take_copy<const NTH: usize>(event: &mut Event, what: u16) {
    if what == 0 || event.lengths[NTH] != 0 {
        return;
    }
    let arguments = (&raw const event.arguments).cast::<u64>();
    let at = (what as usize & 7).wrapping_sub(1) & 7;
    // SAFETY: the masks keep the indices inside.
    let (from, size) = unsafe { (*arguments.add(at), *arguments.add((at + 1) & 7)) };
    let to = (&raw mut event.text[NTH]).cast();
    if what & copy::BYTES != 0 {
        let size = if size < TEXT as u64 { size as u32 } else { TEXT as u32 };
        // SAFETY: the helper checks its source, and there is room for `TEXT` bytes.
        if unsafe { bpf_probe_read_user(to, size, from as *const _) } == 0 {
            event.lengths[NTH] = size;
        }
    } else {
        // SAFETY: as above.
        let length = unsafe { bpf_probe_read_user_str(to, TEXT as u32, from as *const _) };
        if length > 0 {
            event.lengths[NTH] = length as u32;
        }
    }
}

/// Puts an event into the ring buffer, with as much text as there is.
#[inline(always)]
fn tell(this: Ptr, event: &mut Event) {
    event.tid = pid(this);
    event.pid = tgid(this);
    this.copy(offset!(task_comm), &raw mut event.comm);
    let (first, second) = (event.lengths[0], event.lengths[1]);
    let text = if second != 0 { TEXT as u32 + second } else { first };
    let text = if text <= (COPIES * TEXT) as u32 { text } else { (COPIES * TEXT) as u32 };
    let length = (HEADER as u32 + text) as u64;
    let map = ptr::from_ref(&EVENTS).cast_mut().cast();
    // SAFETY: `length` bytes are there, and the reader looks by itself.
    let told =
        unsafe { bpf_ringbuf_output(map, ptr::from_mut(event).cast(), length, BPF_RB_NO_WAKEUP.into()) };
    if told != 0 {
        count(|drops| &raw mut drops.no_room);
    }
}

/// Adds 1 to what this CPU has dropped.
#[inline(always)]
fn count(which: impl Fn(&mut Drops) -> *mut u64) {
    if let Some(drops) = DROPS.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's map value, and these programs do not interrupt each other on it.
        unsafe { *which(&mut *drops) += 1 };
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
