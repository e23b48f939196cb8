//! What is always on: births, executions and deaths of containers' tasks, and the OOM killer.
//!
//! Nothing here is on a path that a program takes often. What a task has used is no event at all: the kernel keeps it, and it is
//! read when the task ends, before its parent can know of that. A container is known by its cgroup, which whoever launches it has
//! entered; cgroups made below it count as it, and both are forgotten when their directories go: nobody is in them then.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the only way to atomic operations on this target")]

mod containers;
#[path = "../kernel.rs"]
#[allow(dead_code, reason = "what counting needs, these programs do not")]
mod kernel;

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::seq_file;
use aya_ebpf::btf_maps::{HashMap, LruHashMap};
use aya_ebpf::helpers::generated::bpf_seq_write;
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::events::{BELOW, Counts, Fields, Kill, Live, NESTED as NESTED_MAX, Used};

use containers::number;
use kernel::{
    ABSENT, Ptr, TaskPtr, cgroup_id, cgroup_id_of, constant, is_cgroup2, is_reader, now_ns, offset, pid,
    tgid, this,
};

/// The container that a cgroup below it counts as: its id.
#[btf_map]
pub static NESTED: HashMap<u64, u64, { NESTED_MAX as usize }> = HashMap::new();
/// Tasks that the OOM killer has chosen, until they die.
#[btf_map]
pub static VICTIMS: LruHashMap<u32, Kill, 256> = LruHashMap::new();

/// `PF_EXITING`: its end has begun.
const EXITING: u32 = 4;

/// One more task; its cgroup is final, and it has not run.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn skiff_fork(ctx: BtfTracePointContext) -> i32 {
    let child = Ptr::new(ctx.arg::<*const u8>(1));
    let Some((_, counts)) = counts_of(child) else { return 0 };
    let is_thread = pid(child) != tgid(child);
    // SAFETY: `counts` points to a map value.
    unsafe {
        if !is_thread && is_reader(child) {
            (*counts).reader = pid(child);
            return 0;
        }
        add(if is_thread { &raw mut (*counts).threads } else { &raw mut (*counts).processes }, 1);
    }
    0
}

/// One more program. The first one is the container's own: whatever was used before it was used to set the container up.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn skiff_exec(ctx: BtfTracePointContext) -> i32 {
    let this = Ptr::new(ctx.arg::<*const u8>(0));
    let Some((_, counts)) = counts_of(this) else { return 0 };
    let used = used_by(this);
    // SAFETY: `counts` points to a map value. Nobody else is in the container before its first program.
    unsafe {
        if (*counts).execs == 0 {
            (*counts).used = Used::of_words(used.words().map(u64::wrapping_neg));
            (*counts).processes = 1;
            (*counts).threads = 0;
            (*counts).exits = 0;
            (*counts).peak_pages = 0;
            (*counts).setup_cpu_ns = this.get(offset!(task_cpu));
        }
        add(&raw mut (*counts).execs, 1);
        // A thread that was not the first has taken the id of that, whose end was none of the process.
        if ctx.arg::<u32>(1) != pid(this) {
            add(&raw mut (*counts).exits, u64::MAX);
        }
    }
    0
}

/// A task ends.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn skiff_exit(ctx: BtfTracePointContext) -> i32 {
    let this = Ptr::new(ctx.arg::<*const u8>(0));
    let Some((container, counts)) = counts_of(this) else { return 0 };
    let mut used = used_by(this);
    let signal = this.follow(constant!(Fields, task_signal));
    let peak: u64 = signal.get(constant!(Fields, signal_peak));
    // SAFETY: `counts` points to a map value.
    unsafe {
        if is_reader_of(this, counts) {
            used = for_container(used);
            add_all(&raw mut (*counts).used, &used);
            (*counts).reader = 0;
            return 0;
        }
        add_all(&raw mut (*counts).used, &used);
        // Another may write at the same time: the greater one stays, unless that happens four times in a row.
        let mut tries = 0;
        while tries < 4 && (&raw const (*counts).peak_pages).read_volatile() < peak {
            (&raw mut (*counts).peak_pages).write_volatile(peak);
            tries += 1;
        }
        if pid(this) == tgid(this) {
            add(&raw mut (*counts).exits, 1);
        }
    }
    // The kernel marks a process that the OOM killer has chosen, before it tells of that.
    let mark = constant!(Fields, signal_oom);
    if mark == ABSENT || !signal.follow(mark).is_null() {
        killed(this, container, counts);
    }
    0
}

/// The OOM killer has chosen a task, in the name of the one that runs here. Whose that is, is looked up now: it may be gone when the victim
/// dies.
#[btf_tracepoint(function = "mark_victim")]
pub fn skiff_oom(ctx: BtfTracePointContext) -> i32 {
    let victim =
        if offset!(victim_is_task) == 1 { pid(Ptr::new(ctx.arg::<*const u8>(0))) } else { ctx.arg::<u32>(0) };
    let this = this();
    let mut kill = Kill {
        at_ns: now_ns(),
        killer_pid: tgid(this),
        is_inside: counts_of(this).map_or(0, |(container, _)| container),
        ..Kill::default()
    };
    this.copy(offset!(task_comm), &raw mut kill.killer_name);
    // A full map forgets the oldest note, which nobody has come for.
    let _ = VICTIMS.insert(victim, kill, 0);
    0
}

/// Notes the end of `this`, of `container`, if the OOM killer chose it. A note from before its time was for another that had its id.
#[inline(always)]
fn killed(this: TaskPtr, container: u64, counts: *mut Counts) {
    let pid = pid(this);
    let Some(kill) = VICTIMS.get_ptr_mut(pid) else { return };
    // SAFETY: the pointer is to a map value, which is copied before its note goes.
    let mut told = unsafe { *kill };
    let _ = VICTIMS.remove(pid);
    if told.at_ns < this.get::<u64>(constant!(Fields, task_start)) {
        return;
    }
    // SAFETY: the pointer is to a map value; one task sees 0 and describes itself.
    unsafe {
        if take(&raw mut (*counts).oom_kills) == 0 {
            told.victim_pid = tgid(this);
            this.copy(offset!(task_comm), &raw mut told.victim_name);
            told.is_inside = (told.is_inside == container) as u64;
            (*counts).oom = told;
        }
    }
}

/// A cgroup below a container's counts as it.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn skiff_mkdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup = Ptr::new(ctx.arg::<*const u8>(0));
    if !is_cgroup2(cgroup) {
        return 0;
    }
    let parent = cgroup.follow(offset!(cgroup_parent)).follow(offset!(css_cgroup));
    if let Some((container, counts)) = counts_in(cgroup_id(parent)) {
        let Some(below) = number(BELOW) else { return 0 };
        // SAFETY: both point to map values. The kernel makes one cgroup at a time.
        unsafe {
            add(below, 1);
            // Without room its tasks are not counted, and that is.
            if NESTED.insert(cgroup_id(cgroup), container, 0).is_err() {
                add(below, u64::MAX);
                (*counts).nested_refused += 1;
            }
        }
    }
    0
}

/// It has gone, and so have all tasks that were in it.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn skiff_rmdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup = Ptr::new(ctx.arg::<*const u8>(0));
    if !is_cgroup2(cgroup) {
        return 0;
    }
    let id = cgroup_id(cgroup);
    if !containers::remove(id)
        && has_nested()
        && NESTED.remove(id).is_ok()
        && let Some(below) = number(BELOW)
    {
        // SAFETY: the pointer is to a map value.
        unsafe { add(below, u64::MAX) };
    }
    0
}

/// Run over all tasks: writes what those have used that live. One whose end has begun is about to be counted, or has been.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn skiff_live(ctx: *mut core::ffi::c_void) -> i32 {
    let ctx = ctx.cast::<*const u8>();
    // SAFETY: the context of a task iterator is `{ meta, task }`; `meta` begins with a pointer to the file that it is read from.
    let (meta, task) = unsafe { (*ctx, Ptr::new(*ctx.add(1))) };
    if task.is_null() || task.get::<u32>(constant!(Fields, task_flags)) & EXITING != 0 {
        return 0;
    }
    let Some((container, counts)) = counts_of(task) else { return 0 };
    let used = used_by(task);
    let live = Live { container, used: if is_reader_of(task, counts) { for_container(used) } else { used } };
    // SAFETY: the verifier knows the file by its type; `live` has the length that is passed.
    unsafe {
        let file = *meta.cast::<*mut seq_file>();
        // What finds no room is written again, to the reader's next read.
        bpf_seq_write(file, (&raw const live).cast(), size_of::<Live>() as u32);
    }
    0
}

/// Whether `task` reads ahead for the container with these `counts`.
#[inline(always)]
fn is_reader_of(task: TaskPtr, counts: *mut Counts) -> bool {
    // SAFETY: `counts` points to a map value; volatile because other programs change it.
    unsafe { (&raw const (*counts).reader).read_volatile() == pid(task) }
}

/// What of that which its reader has used is the container's: what it has read.
#[inline(always)]
fn for_container(used: Used) -> Used {
    Used {
        read_bytes: used.read_bytes,
        write_bytes: used.write_bytes,
        cancelled_bytes: used.cancelled_bytes,
        ..Used::default()
    }
}

/// The container that `task` is of: its id and counts.
#[inline(always)]
fn counts_of(task: TaskPtr) -> Option<(u64, *mut Counts)> {
    counts_in(cgroup_id_of(task))
}

/// The container that the cgroup with the id `cgroup` counts as.
#[inline(always)]
fn counts_in(cgroup: u64) -> Option<(u64, *mut Counts)> {
    if let Some(counts) = containers::counts(cgroup) {
        return Some((cgroup, counts));
    }
    if !has_nested() {
        return None;
    }
    // SAFETY: the pointer is to a map value.
    let container = unsafe { *NESTED.get_ptr(cgroup)? };
    Some((container, containers::counts(container)?))
}

/// Whether there may be something in [`NESTED`].
#[inline(always)]
fn has_nested() -> bool {
    // SAFETY: the pointer is to a map value; volatile because other programs change it.
    number(BELOW).is_some_and(|below| unsafe { below.read_volatile() } != 0)
}

#[inline(always)]
fn used_by(task: TaskPtr) -> Used {
    Used {
        minor_faults: task.get(offset!(task_minor)),
        major_faults: task.get(offset!(task_major)),
        run_queue_ns: task.get(offset!(task_run_delay)),
        voluntary_switches: task.get(offset!(task_voluntary)),
        involuntary_switches: task.get(offset!(task_involuntary)),
        read_bytes: task.get(constant!(Fields, task_read)),
        write_bytes: task.get(constant!(Fields, task_written)),
        cancelled_bytes: task.get(constant!(Fields, task_cancelled)),
    }
}

/// Adds every word.
///
/// # Safety
///
/// `to` points into a map value.
#[inline(always)]
unsafe fn add_all(to: *mut Used, used: &Used) {
    let words = used.words();
    let mut nth = 0;
    while nth < Used::WORDS {
        // Most are 0 of most tasks.
        if words[nth] != 0 {
            // SAFETY: as the caller promises; the struct is its words.
            unsafe { add(to.cast::<u64>().add(nth), words[nth]) };
        }
        nth += 1;
    }
}

/// # Safety
///
/// `to` points into a map value.
#[inline(always)]
unsafe fn add(to: *mut u64, more: u64) {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(to, more) };
}

/// Adds 1; what was there before.
///
/// # Safety
///
/// As [`add`].
#[inline(always)]
unsafe fn take(to: *mut u64) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(to, 1) }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
