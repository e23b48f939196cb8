//! The recorder: which pages of which files the tasks of a recorded cgroup use.
//!
//! Used is what read(2) asks for and what a page fault maps, whether it was in the page cache or not: the kernel tells both since
//! 6.12. On older ones only what comes into the cache is seen, which overstates by what is read ahead. An object of its own,
//! loaded while something is to be recorded: it costs nobody anything otherwise.
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

use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::prefetch::{CHUNKS, Chunk, PAGES, Place, Progress, SLOTS};

use kernel::{Ptr, cgroup_id_of, is_reader, now_ns, offset, this};
use pages::{PIECES_AROUND, ones};

/// Recorded cgroups: their slot, by their id.
#[btf_map]
pub static RECORDED: HashMap<u64, u32, { SLOTS as usize }> = HashMap::new();
/// What they use.
#[btf_map]
pub static USES: HashMap<Place, Chunk, { CHUNKS as usize }> = HashMap::new();
/// One element per slot.
#[btf_map]
pub static PROGRESS: Array<Progress, { SLOTS as usize }> = Array::new();

/// `BPF_NOEXIST`
const NEW: u64 = 1;
/// Pieces that one event can touch, 16 MiB: a longer read makes several.
const PIECES: u64 = 64;
const PAGE_SHIFT: u32 = 12;
const TCP_LISTEN: i32 = 10;
const FORMAT: u16 = 0o170_000;
const REGULAR: u16 = 0o100_000;

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

/// A page fault that has found nothing to map, and may wait for its page.
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

/// The program begins, or another one after it.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(_ctx: BtfTracePointContext) -> i32 {
    if let Some(slot) = recorded()
        && let Some(progress) = PROGRESS.get_ptr_mut(slot)
    {
        // SAFETY: the pointer is to a map value.
        unsafe {
            if (*progress).exec_ns == 0 {
                (*progress).exec_ns = now_ns();
            }
        }
    }
    0
}

/// A socket begins to listen: the program is ready.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<i32>(2) == TCP_LISTEN
        && let Some(slot) = recorded()
        && let Some(progress) = PROGRESS.get_ptr_mut(slot)
    {
        // SAFETY: the pointer is to a map value.
        unsafe {
            if (*progress).listen_ns == 0 {
                (*progress).listen_ns = now_ns();
            }
        }
    }
    0
}

/// The slot of the cgroup that the current task is in. Those below a recorded one are not looked for. What a replay reads for the cgroup is no use of
/// it.
#[inline(always)]
fn recorded() -> Option<u32> {
    let this = this();
    let slot = RECORDED.get_ptr(cgroup_id_of(this))?;
    if is_reader(this) {
        return None;
    }
    // SAFETY: the pointer is to a map value.
    Some(unsafe { *slot })
}

/// Notes that the current task uses the pages `first` to `last` of what `mapping` caches, as far as there is a file; if it `MAPS` them, those that
/// a fault maps.
#[inline(always)]
fn range<const PIECES: u64, const MAPS: bool>(mapping: Ptr, first: u64, last: u64) -> i32 {
    let Some(slot) = recorded() else { return 0 };
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
    let place = Place {
        slot,
        device: inode.follow(offset!(inode_superblock)).get(offset!(superblock_device)),
        inode: inode.get(offset!(inode_number)),
        chunk: first / PAGES,
    };
    let mut nth = 0;
    while nth < PIECES {
        let chunk = place.chunk + nth;
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
        let mask =
            if MAPS { pages::mapped(mapping, chunk, (from, to), first == last, end) } else { ones(from, to) };
        note(&Place { chunk, ..place }, mask);
        nth += 1;
    }
    0
}

#[inline(always)]
fn note(place: &Place, mask: u64) {
    let Some(progress) = PROGRESS.get_ptr_mut(place.slot) else { return };
    if let Some(chunk) = USES.get_ptr_mut(place) {
        // SAFETY: the pointers are to map values.
        unsafe {
            if (*chunk).used & mask == mask {
                return;
            }
            add(&raw mut (*chunk).used, mask);
            (*progress).last_ns = now_ns();
        }
        return;
    }
    let now_ns = now_ns();
    let inserted = USES.insert(place, Chunk { first_ns: now_ns, used: mask }, NEW);
    if inserted.is_err() {
        // Somebody else has been quicker, or there is no room.
        match USES.get_ptr_mut(place) {
            // SAFETY: the pointer is to a map value.
            Some(chunk) => unsafe { add(&raw mut (*chunk).used, mask) },
            // SAFETY: likewise.
            None => unsafe {
                atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*progress).lost, 1);
            },
        }
    }
    // SAFETY: the pointer is to a map value.
    unsafe { (*progress).last_ns = now_ns };
}

/// Sets the bits of `mask`.
///
/// # Safety
///
/// `bits` points into a map value.
#[inline(always)]
unsafe fn add(bits: *mut u64, mask: u64) {
    // SAFETY: as the caller promises.
    unsafe { atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(bits, mask) };
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
