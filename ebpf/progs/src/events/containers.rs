//! The containers that are counted, by their cgroups' ids: a table of the programs' own, in memory that whoever launches them has mapped, so that
//! neither entering one nor reading its counts is a system call.
//!
//! A cgroup's id chooses a row; if that is full, one of those after it. Whoever launches writes the counts, and then the id over a 0; the
//! id is taken away here when the cgroup goes.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;
use skiff_ebpf_abi::events::{ALL_ROWS, Counts, MOVED, REACH, ROW, row_of};

use crate::add;

const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// The ids of each row; 0 is nobody's. The last row has numbers.
#[btf_map]
static KEYS: Array<[u64; ROW as usize], { ALL_ROWS as usize + 1 }, MAPPED> = Array::new();
/// The counts of each, row after row.
#[btf_map]
static COUNTS: Array<Counts, { (ALL_ROWS * ROW) as usize }, MAPPED> = Array::new();

/// The counts of the container with the cgroup `id`.
#[inline(always)]
pub fn counts(id: u64) -> Option<*mut Counts> {
    let (_, index) = place(id)?;
    COUNTS.get_ptr_mut(index)
}

/// Forgets the container with the cgroup `id`; whether there was one.
#[inline(always)]
pub fn remove(id: u64) -> bool {
    let Some((at, index)) = place(id) else { return false };
    // SAFETY: the pointer is to a map value.
    let is_removed =
        unsafe { atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(at, id, 0).1 };
    if is_removed
        && index / ROW != row_of(id)
        && let Some(moved) = number(MOVED)
    {
        // SAFETY: the pointer is to a map value.
        unsafe { add(moved, u64::MAX) };
    }
    is_removed
}

/// One of the numbers beside the table.
#[inline(always)]
pub fn number(nth: u32) -> Option<*mut u64> {
    let numbers: *mut u64 = KEYS.get_ptr_mut(ALL_ROWS)?.cast();
    // SAFETY: `nth` is a constant below `ROW`.
    Some(unsafe { numbers.add(nth as usize) })
}

/// Where the id stands, and the index of its counts.
#[inline(always)]
fn place(id: u64) -> Option<(*mut u64, u32)> {
    // A free place is nobody's.
    if id == 0 {
        return None;
    }
    let row = row_of(id);
    if let Some(found) = in_row(row, id) {
        return Some(found);
    }
    // SAFETY: the pointer is to a map value; volatile because others change it.
    if unsafe { number(MOVED)?.read_volatile() } == 0 {
        return None;
    }
    let row = row_after(row, id);
    if row == 0 { None } else { in_row(row, id) }
}

/// The row in which the id stands of those after `row`, or 0. Once for all: it is seldom needed, and long. Without a name of its own it would
/// have one that depends on where it was built.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn row_after(row: u32, id: u64) -> u32 {
    let mut nth = 1;
    while nth < REACH {
        if in_row(row + nth, id).is_some() {
            return row + nth;
        }
        nth += 1;
    }
    0
}

#[inline(always)]
fn in_row(row: u32, id: u64) -> Option<(*mut u64, u32)> {
    let keys: *mut u64 = KEYS.get_ptr_mut(row)?.cast();
    let mut nth = 0;
    while nth < ROW {
        // SAFETY: the index is inside of the row; volatile because others change their places.
        let at = unsafe { keys.add(nth as usize) };
        // SAFETY: as above.
        if unsafe { at.read_volatile() } == id {
            return Some((at, row * ROW + nth));
        }
        nth += 1;
    }
    None
}
