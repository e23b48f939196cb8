//! The recorder of files and processes: what the tasks in one cgroup and below open, which pages of which files they use, and what
//! becomes of their processes.
//!
//! Pages are used as the recorder of `prefetch` has it: what read(2) asks for and what a page fault maps, whether it was in the
//! page cache or not. A file is named, on its own file system, when it is first used.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the only way to atomic operations on this target")]

#[path = "../kernel.rs"]
#[allow(dead_code, reason = "what counting needs, recording does not")]
mod kernel;
#[path = "../pages.rs"]
mod pages;

use core::intrinsics::{AtomicOrdering, atomic_or, atomic_xadd};
use core::ptr;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::btf_maps::{Array, CgroupArray, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::{
    bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user, bpf_probe_read_user_str,
    bpf_ringbuf_output,
};
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::files::{
    ARGV, CHUNKS, Chunk, Event, FILES, Fields, File, HEADER, LONGEST, Lost, Name, OPENS, Open, PAGES, PART,
    PARTS, PATH, Place, RING, event,
};

use kernel::{Ptr, constant, is_compat, is_reader, now_ns, offset, pid, tgid, this};
use pages::{PIECES_AROUND, ones};

/// Whose doings are recorded.
#[btf_map]
static CGROUPS: CgroupArray<1> = CgroupArray::new();
/// What becomes of processes.
#[btf_map]
static EVENTS: RingBuf<Event, { RING as usize }> = RingBuf::new();
/// How often what was opened.
#[btf_map]
static OPENED: HashMap<Open, u64, { OPENS as usize }> = HashMap::new();
/// Pages that are used.
#[btf_map]
static USES: HashMap<Place, Chunk, { CHUNKS as usize }> = HashMap::new();
/// Names of the files that they are of.
#[btf_map]
static NAMES: HashMap<File, Name, { FILES as usize }> = HashMap::new();
#[btf_map]
static LOST: Array<Lost, 1> = Array::new();
/// Where a key or a value is made that is too large for the stack.
#[btf_map]
static OPEN: PerCpuArray<Open, 1> = PerCpuArray::new();
#[btf_map]
static LONG: PerCpuArray<[u64; LONGEST / 8], 1> = PerCpuArray::new();
#[btf_map]
static NAME: PerCpuArray<Name, 1> = PerCpuArray::new();
#[btf_map]
static EVENT: PerCpuArray<Event, 1> = PerCpuArray::new();

/// `BPF_NOEXIST`
const NEW: u64 = 1;
/// Pieces that one event can touch, 16 MiB: a longer read makes several.
const PIECES: u64 = 64;
const PAGE_SHIFT: u32 = 12;
const FORMAT: u16 = 0o170_000;
const REGULAR: u16 = 0o100_000;

/// Where `struct pt_regs` has the number of a call and what may be its path: uapi/asm/ptrace.h, which does not change.
const ORIG_AX: u64 = 120;
const DI: u64 = 112;
const SI: u64 = 104;
const CX: u64 = 88;
const BX: u64 = 40;

/// Whether the current task is in the cgroup, or in one below it, and does not only read ahead for it.
#[inline(always)]
fn is_watched() -> bool {
    CGROUPS.current_task_under_cgroup(0) == Ok(true) && !is_reader(this())
}

/// A process has been made; its parent runs here.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let child = Ptr::new(ctx.arg::<*const u8>(1));
    if is_watched() && pid(child) == tgid(child) {
        tell(child, event::FORK, Ptr::new(ptr::null::<u8>()));
    }
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    if is_watched() {
        tell(Ptr::new(ctx.arg::<*const u8>(0)), event::EXEC, Ptr::new(ctx.arg::<*const u8>(2)));
    }
    0
}

/// A task ends; with the first of a process, the process.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let this = Ptr::new(ctx.arg::<*const u8>(0));
    if is_watched() && pid(this) == tgid(this) {
        tell(this, event::EXIT, Ptr::new(ptr::null::<u8>()));
    }
    0
}

#[inline(always)]
fn tell(task: Ptr, kind: u32, binprm: Ptr) {
    let Some(event) = EVENT.get_ptr_mut(0) else { return };
    // SAFETY: the pointer is to this CPU's map value, which programs of this kind have one after the other.
    let event = unsafe { &mut *event };
    event.at_ns = now_ns();
    event.start_ns = task.get(constant!(Fields, task_start));
    event.pid = tgid(task);
    event.parent = tgid(task.follow(constant!(Fields, task_parent)));
    event.kind = kind;
    event.status = task.get(constant!(Fields, task_exit_code));
    task.copy(offset!(task_comm), &raw mut event.comm);
    let mut length = HEADER as u64;
    if kind == event::EXEC {
        length = size_of::<Event>() as u64;
        describe(task, event, binprm);
    }
    let map = ptr::from_ref(&EVENTS).cast_mut().cast();
    // SAFETY: `length` bytes are there; they are read when all is over.
    let told =
        unsafe { bpf_ringbuf_output(map, ptr::from_mut(event).cast(), length, BPF_RB_NO_WAKEUP.into()) };
    if told != 0 {
        lose(|lost| &raw mut lost.events);
    }
}

#[inline(always)]
fn describe(task: Ptr, event: &mut Event, binprm: Ptr) {
    let memory = task.follow(offset!(task_mm));
    let start: u64 = memory.get(offset!(mm_arg_start));
    let length = memory.get::<u64>(offset!(mm_arg_end)) - start;
    let path = binprm.follow(offset!(binprm_filename));
    event.argv_len = length;
    let kept = if length < ARGV as u64 { length as u32 } else { ARGV as u32 };
    // SAFETY: the helpers check their sources, and there is room for what they are told.
    unsafe {
        if bpf_probe_read_kernel_str((&raw mut event.path).cast(), PATH as u32, path.address().cast()) < 0 {
            event.path[0] = 0;
        }
        if bpf_probe_read_user((&raw mut event.argv).cast(), kept, start as *const _) != 0 {
            event.argv_len = 0;
        }
    }
}

/// A call returns: of those that open files, what they were given is counted by what came of them.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let regs = Ptr::new(ctx.arg::<*const u8>(0));
    let compat = is_compat(this());
    let path: u64 = match (compat, regs.get::<u64>(ORIG_AX)) {
        // open, creat
        (false, 2 | 85) => regs.get(DI),
        // openat, openat2
        (false, 257 | 437) => regs.get(SI),
        (true, 5 | 8) => regs.get(BX),
        (true, 295 | 437) => regs.get(CX),
        _ => return 0,
    };
    if is_watched() {
        opened(if compat { path & 0xffff_ffff } else { path }, ctx.arg::<i64>(1));
    }
    0
}

#[inline(always)]
fn opened(path: u64, result: i64) {
    let Some(open) = OPEN.get_ptr_mut(0) else { return };
    // SAFETY: the pointer is to this CPU's map value, which no other program uses meanwhile.
    let open = unsafe { &mut *open };
    open.path = [0; PATH];
    open.errno = if result < 0 { -result as u32 } else { 0 };
    open.hash = 0;
    // SAFETY: the helper checks its source. What cannot be read stays empty.
    let length =
        unsafe { bpf_probe_read_user_str((&raw mut open.path).cast(), PATH as u32, path as *const _) };
    open.length = if length > 0 { length as u32 } else { 0 };
    if length == PATH as i64 {
        tell_apart(open, path);
    }
    if let Some(count) = OPENED.get_ptr_mut(&*open) {
        // SAFETY: the pointer is to a map value.
        unsafe { add(count) };
        return;
    }
    if OPENED.insert(&*open, 1, NEW).is_err() {
        // Somebody else has been quicker, or there is no room.
        match OPENED.get_ptr_mut(&*open) {
            // SAFETY: the pointer is to a map value.
            Some(count) => unsafe { add(count) },
            None => lose(|lost| &raw mut lost.opens),
        }
    }
}

/// Of a path for which there is no room, its length and a hash of all of it (FNV-1a, of words).
#[inline(always)]
fn tell_apart(open: &mut Open, path: u64) {
    let Some(long) = LONG.get_ptr_mut(0) else { return };
    // SAFETY: the pointer is to this CPU's map value; the helper checks its source.
    let length = unsafe { bpf_probe_read_user_str(long.cast(), LONGEST as u32, path as *const _) };
    if length <= PATH as i64 || length > LONGEST as i64 {
        return;
    }
    let words = length as usize / 8;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut nth = 0;
    while nth < LONGEST / 8 {
        if nth >= words {
            break;
        }
        // SAFETY: `nth` is inside of the value.
        let word = unsafe { *long.cast::<u64>().add(nth) };
        hash = (hash ^ word).wrapping_mul(0x100_0000_01b3);
        nth += 1;
    }
    // The last bytes, some of them once more: there are more than eight.
    let last = (length as usize - 8) & (LONGEST - 1);
    if last <= LONGEST - 8 {
        // SAFETY: inside of the value, as has just been looked at.
        let word = unsafe { long.cast::<u8>().add(last).cast::<u64>().read_unaligned() };
        hash = (hash ^ word).wrapping_mul(0x100_0000_01b3);
    }
    open.length = length as u32;
    open.hash = hash;
}

/// read(2): pages of the range that are about to be copied.
#[btf_tracepoint(function = "mm_filemap_get_pages")]
pub fn mm_filemap_get_pages(ctx: BtfTracePointContext) -> i32 {
    range::<PIECES, false>(Ptr::new(ctx.arg::<*const u8>(0)), ctx.arg(1), ctx.arg(2))
}

/// A page fault that has mapped what is in the cache around it.
#[btf_tracepoint(function = "mm_filemap_map_pages")]
pub fn mm_filemap_map_pages(ctx: BtfTracePointContext) -> i32 {
    range::<PIECES_AROUND, true>(Ptr::new(ctx.arg::<*const u8>(0)), ctx.arg(1), ctx.arg(2))
}

/// A page fault on a page that is to be mapped alone.
#[btf_tracepoint(function = "mm_filemap_fault")]
pub fn mm_filemap_fault(ctx: BtfTracePointContext) -> i32 {
    range::<1, true>(Ptr::new(ctx.arg::<*const u8>(0)), ctx.arg(1), ctx.arg(1))
}

/// A page that comes into the cache; in the task that wants it, or reads ahead.
#[btf_tracepoint(function = "mm_filemap_add_to_page_cache")]
pub fn mm_filemap_add_to_page_cache(ctx: BtfTracePointContext) -> i32 {
    let page = Ptr::new(ctx.arg::<*const u8>(0));
    let index: u64 = page.get(offset!(page_index));
    range::<1, false>(page.follow(offset!(page_mapping)), index, index)
}

/// Notes that the current task uses the pages `first` to `last` of what `mapping` caches, as far as there is a file; if it `MAPS` them, those that
/// a fault maps.
#[inline(always)]
fn range<const PIECES: u64, const MAPS: bool>(mapping: Ptr, first: u64, last: u64) -> i32 {
    if !is_watched() {
        return 0;
    }
    let inode = mapping.follow(offset!(mapping_inode));
    if inode.get::<u16>(offset!(inode_mode)) & FORMAT != REGULAR {
        return 0;
    }
    let size: u64 = inode.get(offset!(inode_size));
    if size == 0 {
        return 0;
    }
    let end = (size - 1) >> PAGE_SHIFT;
    let last = if last < end { last } else { end };
    let device: u32 = inode.follow(offset!(inode_superblock)).get(offset!(superblock_device));
    let file = File { device: device.into(), inode: inode.get(offset!(inode_number)) };
    if NAMES.get_ptr(&file).is_none() {
        name(&file, inode, size);
    }
    let begin = first / PAGES;
    let mut nth = 0;
    while nth < PIECES {
        let chunk = begin + nth;
        let start = chunk * PAGES;
        if start > last {
            break;
        }
        let from = if first > start { first - start } else { 0 };
        let to = last - start;
        let to = if to < PAGES { to } else { PAGES - 1 };
        if from > to {
            break;
        }
        let used = if MAPS {
            Chunk { read: 0, mapped: pages::mapped(mapping, chunk, (from, to), first == last, end) }
        } else {
            Chunk { read: ones(from, to), mapped: 0 }
        };
        note(&Place { file, chunk }, &used);
        nth += 1;
    }
    0
}

#[inline(always)]
fn note(place: &Place, used: &Chunk) {
    if let Some(chunk) = USES.get_ptr_mut(place) {
        // SAFETY: the pointer is to a map value.
        unsafe { merge(chunk, used) };
        return;
    }
    if USES.insert(place, used, NEW).is_err() {
        match USES.get_ptr_mut(place) {
            // SAFETY: as above.
            Some(chunk) => unsafe { merge(chunk, used) },
            None => lose(|lost| &raw mut lost.uses),
        }
    }
}

/// Sets the bits of `used`.
///
/// # Safety
///
/// `chunk` is a map value.
#[inline(always)]
unsafe fn merge(chunk: *mut Chunk, used: &Chunk) {
    // SAFETY: as the caller promises. Most are set already, and then nothing is written.
    unsafe {
        if (*chunk).read & used.read != used.read {
            atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*chunk).read, used.read);
        }
        if (*chunk).mapped & used.mapped != used.mapped {
            atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*chunk).mapped, used.mapped);
        }
    }
}

/// Notes what a file is called: its directory entry, and those above it up to the root of its file system.
#[inline(always)]
fn name(file: &File, inode: Ptr, bytes: u64) {
    let Some(name) = NAME.get_ptr_mut(0) else { return };
    // SAFETY: the pointer is to this CPU's map value. Should an interrupt's program use it meanwhile, a name is wrong.
    let name = unsafe { &mut *name };
    name.bytes = bytes;
    let first: u64 = inode.get(constant!(Fields, inode_names));
    let mut entry = first.wrapping_sub(constant!(Fields, name_alias));
    let mut nth = 0;
    name.parts[0][0] = 0;
    while nth < PARTS {
        if first == 0 {
            break;
        }
        let parent = word(entry.wrapping_add(constant!(Fields, name_parent)));
        // The root is its own parent.
        if parent == entry || parent == 0 {
            break;
        }
        let text = word(entry.wrapping_add(constant!(Fields, name_text)));
        let to = (&raw mut name.parts).cast::<[u8; PART]>();
        // SAFETY: `nth` is below `PARTS`; the helper checks its source.
        unsafe { bpf_probe_read_kernel_str(to.add(nth).cast(), PART as u32, text as *const _) };
        entry = parent;
        nth += 1;
        if nth < PARTS {
            // SAFETY: as above.
            unsafe { *to.add(nth).cast::<u8>() = 0 };
        }
    }
    if NAMES.insert(file, &*name, NEW).is_err() && NAMES.get_ptr(file).is_none() {
        lose(|lost| &raw mut lost.names);
    }
}

/// A word of the kernel's memory; 0 if it cannot be read.
#[inline(always)]
fn word(address: u64) -> u64 {
    let mut word = 0_u64;
    // SAFETY: the helper checks its source.
    unsafe { bpf_probe_read_kernel((&raw mut word).cast(), 8, address as *const _) };
    word
}

#[inline(always)]
fn lose(which: impl Fn(&mut Lost) -> *mut u64) {
    if let Some(lost) = LOST.get_ptr_mut(0) {
        // SAFETY: the pointer is to a map value.
        unsafe { add(which(&mut *lost)) };
    }
}

/// Adds 1.
///
/// # Safety
///
/// `sum` points into a map value.
#[inline(always)]
unsafe fn add(sum: *mut u64) {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(sum, 1) };
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
