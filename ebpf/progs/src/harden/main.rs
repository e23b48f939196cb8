//! The recorder of uses: which capabilities the program of one container needed, which devices and kernel parameters it
//! opened, and how many tasks and open files it had at the most.
//!
//! An object of its own, for one container, loaded with a recorded run. A task belongs to the container if its cgroup is the
//! container's or lies below it. What comes before the program – the runtime – is not noted.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the only way to atomic operations on this target")]

#[path = "../kernel.rs"]
#[allow(dead_code, unused_imports, reason = "what counting needs, recording does not")]
mod kernel;

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xsub};
use core::ptr;

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_task, bpf_get_current_task_btf,
    bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_task_pt_regs,
};
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::harden::{
    CAPABILITIES, Check, DEPTH, OPENED, Opened, PART, Recorded, Thing, UseOffsets, kind,
};

#[unsafe(no_mangle)]
pub static USE_OFFSETS: UseOffsets = UseOffsets::NONE;

/// The one container.
#[btf_map]
pub static RECORDED: Array<Recorded, 1> = Array::new();
/// How often each check was made.
#[btf_map]
pub static CHECKS: HashMap<Check, u64, { CAPABILITIES as usize }> = HashMap::new();
/// What was opened.
#[btf_map]
pub static THINGS: HashMap<Thing, Opened, { OPENED as usize }> = HashMap::new();
/// Room for one path.
#[btf_map]
pub static SCRATCH: PerCpuArray<Opened, 1> = PerCpuArray::new();

/// `BPF_NOEXIST`
const NEW: u64 = 1;
/// Levels of cgroups that are looked at.
const LEVELS: i32 = 12;
/// `thread_info.status`: the call came through a 32-bit entry.
const TS_COMPAT: u32 = 2;
const FORMAT: u16 = 0o170_000;
const CHARACTER: u16 = 0o020_000;
const BLOCK: u16 = 0o060_000;
const PROCFS: u64 = 0x9fa0;
const READ: u32 = 1;
const WRITE: u32 = 2;

/// The offset of one field, as the loader wrote it.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a reference to a static; volatile because the value is not the one that the compiler sees.
        unsafe { ptr::read_volatile(&USE_OFFSETS.$field) }
    };
}

/// A check for a capability: `(cred, target_ns, capable_ns, cap, ret)`. Linux ≥ 6.14.
#[btf_tracepoint(function = "cap_capable")]
pub fn cap_capable(ctx: BtfTracePointContext) -> i32 {
    let Some(recorded) = workload() else { return 0 };
    let result: i32 = ctx.arg(4);
    let (call, compat) = current_call();
    if !is_own(ctx.arg(0), call, compat) {
        return 0;
    }
    let check = Check { capability: ctx.arg(3), granted: (result == 0).into(), call, compat };
    if let Some(count) = CHECKS.get_ptr_mut(&check) {
        add(count, 1);
    } else if CHECKS.insert(&check, 1, NEW).is_err() {
        match CHECKS.get_ptr_mut(&check) {
            Some(count) => add(count, 1),
            // SAFETY: the pointer is to a map value.
            None => add(unsafe { &raw mut (*recorded).lost }, 1),
        }
    }
    0
}

/// Whether the credentials that are checked are the program's: in overlayfs they are those of whoever has mounted it. access(2)
/// asks with a copy of the program's.
#[inline(always)]
fn is_own(credentials: u64, call: u32, compat: u32) -> bool {
    let own: u64 = read(task() + u64::from(offset!(task_credentials)));
    if credentials == own {
        return true;
    }
    let bounds = |credentials: u64| read::<u64>(credentials + u64::from(offset!(credentials_bounds)));
    let is_access = if compat == 1 { matches!(call, 33 | 307 | 439) } else { matches!(call, 21 | 269 | 439) };
    is_access && bounds(credentials) == bounds(own)
}

/// The end of a system call: looks at what has been opened.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let regs = ctx.arg::<*const pt_regs>(0);
    // SAFETY: the verifier knows the type of the tracepoint's argument.
    let number = unsafe { ptr::read_volatile(&raw const (*regs).orig_rax) };
    // open, creat, openat, open_by_handle_at, openat2; and of the 32-bit table open, creat, openat, openat2.
    if !matches!(number, 2 | 5 | 8 | 85 | 257 | 295 | 304 | 437) {
        return 0;
    }
    let descriptor: i64 = ctx.arg(1);
    if descriptor < 0 {
        return 0;
    }
    let Some(recorded) = workload() else { return 0 };
    let is_open = match is_compat() {
        true => matches!(number, 5 | 8 | 295 | 437),
        false => matches!(number, 2 | 85 | 257 | 304 | 437),
    };
    if is_open {
        opened(recorded, descriptor as u64);
    }
    0
}

/// A task of the container is about to have a child.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(_ctx: BtfTracePointContext) -> i32 {
    let Some(recorded) = container() else { return 0 };
    // SAFETY: the pointer is to a map value.
    unsafe {
        let tasks = atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(&raw mut (*recorded).tasks, 1) + 1;
        raise(&raw mut (*recorded).tasks_peak, tasks);
    }
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(_ctx: BtfTracePointContext) -> i32 {
    if let Some(recorded) = container() {
        // SAFETY: the pointer is to a map value.
        add(unsafe { &raw mut (*recorded).execs }, 1);
    }
    0
}

/// A task ends; its files are still open.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(_ctx: BtfTracePointContext) -> i32 {
    let Some(recorded) = container() else { return 0 };
    // SAFETY: the pointer is to a map value.
    unsafe { atomic_xsub::<u64, u64, { AtomicOrdering::SeqCst }>(&raw mut (*recorded).tasks, 1) };
    let files: u64 = read(task() + u64::from(offset!(task_files)));
    if files != 0 {
        let table: u64 = read(files + u64::from(offset!(files_table)));
        let room: u32 = read(table + u64::from(offset!(table_room)));
        // SAFETY: likewise.
        unsafe { raise(&raw mut (*recorded).descriptors_peak, room.into()) };
    }
    0
}

/// Notes what the current task has open as `descriptor`, if it is a device or a kernel parameter.
#[inline(always)]
fn opened(recorded: *mut Recorded, descriptor: u64) {
    let files: u64 = read(task() + u64::from(offset!(task_files)));
    let table: u64 = read(files + u64::from(offset!(files_table)));
    let all: u64 = read(table + u64::from(offset!(table_files)));
    let file: u64 = read(all + descriptor * 8);
    let inode: u64 = read(file + u64::from(offset!(file_inode)));
    if file == 0 || inode == 0 {
        // Another thread has closed it already.
        // SAFETY: the pointer is to a map value.
        return add(unsafe { &raw mut (*recorded).lost }, 1);
    }
    let format = read::<u16>(inode + u64::from(offset!(inode_mode))) & FORMAT;
    let device: u32 = read(inode + u64::from(offset!(inode_device)));
    let thing = match format {
        CHARACTER => Thing { number: device.into(), kind: kind::CHARACTER, pad: 0 },
        BLOCK => Thing { number: device.into(), kind: kind::BLOCK, pad: 0 },
        _ => {
            let superblock: u64 = read(inode + u64::from(offset!(inode_superblock)));
            if read::<u64>(superblock + u64::from(offset!(superblock_magic))) != PROCFS {
                return;
            }
            let number: u64 = read(inode + u64::from(offset!(inode_number)));
            Thing { number, kind: kind::SYSCTL, pad: 0 }
        }
    };
    let mode: u32 = read(file + u64::from(offset!(file_mode)));
    if let Some(known) = THINGS.get_ptr_mut(&thing) {
        return count(known, mode);
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: the pointer is to this CPU's own map value, and the program is not preempted by another of its kind.
    unsafe {
        (*scratch).reads = 0;
        (*scratch).writes = 0;
        if thing.kind == kind::SYSCTL && !path(file, scratch) {
            return;
        }
        // The verifier wants the initial value as a reference.
        let _there = THINGS.insert(&thing, &*scratch, NEW);
    }
    match THINGS.get_ptr_mut(&thing) {
        Some(known) => count(known, mode),
        // SAFETY: the pointer is to a map value.
        None => add(unsafe { &raw mut (*recorded).lost }, 1),
    }
}

#[inline(always)]
fn count(known: *mut Opened, mode: u32) {
    // SAFETY: the pointer is to a map value.
    unsafe {
        if mode & READ != 0 {
            add(&raw mut (*known).reads, 1);
        }
        if mode & WRITE != 0 {
            add(&raw mut (*known).writes, 1);
        }
    }
}

/// Writes the parts of the path of `file` in procfs, the last first; whether it lies below `sys`.
///
/// # Safety
///
/// `to` points to a map value that nobody else uses.
#[inline(always)]
unsafe fn path(file: u64, to: *mut Opened) -> bool {
    let mut depth = 0;
    while depth < DEPTH {
        // SAFETY: the index is below the array's length.
        unsafe { (*to).path[depth][0] = 0 };
        depth += 1;
    }
    let mut dentry: u64 = read(file + u64::from(offset!(file_dentry)));
    let mut is_sysctl = false;
    let mut depth = 0;
    while depth < DEPTH {
        let parent: u64 = read(dentry + u64::from(offset!(dentry_parent)));
        // Out of the loop: Linux 6.1 refuses one that falls through to its beginning, as the compiler may lay it out otherwise.
        if parent == dentry || parent == 0 {
            return is_sysctl;
        }
        let name: u64 = read(dentry + u64::from(offset!(dentry_name)));
        // SAFETY: the index is below the array's length.
        let part = unsafe { &raw mut (*to).path[depth] };
        // SAFETY: the helper checks the source and writes no more than the part holds.
        let length = unsafe { bpf_probe_read_kernel_str(part.cast(), PART as u32, name as *const _) };
        // SAFETY: the pointer is into a map value.
        let start = unsafe { [(*part)[0], (*part)[1], (*part)[2], (*part)[3]] };
        is_sysctl = length == 4 && start == *b"sys\0";
        dentry = parent;
        depth += 1;
    }
    is_sysctl
}

/// The container, if the current task is in it and its program runs.
#[inline(always)]
fn workload() -> Option<*mut Recorded> {
    let recorded = container()?;
    // SAFETY: the pointer is to a map value.
    unsafe { ((*recorded).execs > (*recorded).execs_before).then_some(recorded) }
}

/// The container, if the current task is in it, and does not only read ahead for it.
#[inline(always)]
fn container() -> Option<*mut Recorded> {
    let recorded = RECORDED.get_ptr_mut(0)?;
    // SAFETY: the pointer is to a map value.
    let wanted = unsafe { (*recorded).cgroup };
    if wanted == 0 {
        return None;
    }
    let mut level = 1;
    while level < LEVELS {
        // SAFETY: the helper has no precondition.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == wanted {
            return if kernel::is_reader(kernel::this()) { None } else { Some(recorded) };
        }
        if id == 0 {
            return None;
        }
        level += 1;
    }
    None
}

/// The system call that the current task is in, and 1 if it is of the 32-bit table.
#[inline(always)]
fn current_call() -> (u32, u32) {
    // SAFETY: the helpers have no precondition; the verifier knows what they return.
    let number = unsafe {
        let regs = bpf_task_pt_regs(bpf_get_current_task_btf()) as *const pt_regs;
        ptr::read_volatile(&raw const (*regs).orig_rax)
    };
    (number as u32, is_compat().into())
}

#[inline(always)]
fn is_compat() -> bool {
    read::<u32>(task() + u64::from(offset!(task_status))) & TS_COMPAT != 0
}

#[inline(always)]
fn task() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_get_current_task() }
}

/// What is at an address of the kernel's; 0 if nothing is.
#[inline(always)]
fn read<T: Copy + Default>(address: u64) -> T {
    let mut value = T::default();
    // SAFETY: the helper checks the source, and `value` has the size that is passed.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, address as *const _) };
    value
}

#[inline(always)]
fn add(sum: *mut u64, value: u64) {
    // SAFETY: all callers pass pointers into map values.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(sum, value) };
}

/// Makes `most` at least `value`. After some tries in which others were quicker it stays below.
///
/// # Safety
///
/// `most` points into a map value.
#[inline(always)]
unsafe fn raise(most: *mut u64, value: u64) {
    let mut tries = 0;
    while tries < 8 {
        // SAFETY: as the caller promises.
        unsafe {
            let before = ptr::read_volatile(most);
            if before >= value
                || atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                    most, before, value,
                )
                .1
            {
                return;
            }
        }
        tries += 1;
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
