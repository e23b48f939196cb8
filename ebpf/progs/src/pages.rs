//! What is in the page cache of a file: a tree of nodes of 64 slots, `i_pages` of its `address_space` (xarray).
//!
//! A slot has a folio, if it is the first of those that this takes; in the others of these a reference to that one (*sibling*); a node below; or
//! the mark of a page that has gone. Nodes stay as long as a program runs, by RCU.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

use crate::kernel::{Ptr, offset};

/// As many as a file of 4 TiB has.
const LEVELS: u64 = 5;
const SLOTS: u64 = 64;
/// Low bits of what is no folio: a mark has the first of them, what the tree has for itself the second.
const KIND: u64 = 3;
const OWN: u64 = 2;
/// Siblings are below, nodes above.
const SIBLINGS_END: u64 = (SLOTS - 1) << 2 | OWN;
const NODES: u64 = 4096;
/// Slots that are read at once.
const AT_ONCE: usize = 8;

/// Pieces of 64 pages that one fault looks at, which does at 16 pages, unless the kernel is told otherwise (`fault_around_bytes`).
pub const PIECES_AROUND: u64 = 2;

/// What a fault maps that has looked at the pages from bit `from` to bit `to` of piece `chunk`: those that are in the cache, and what is in
/// one folio with them, for since 6.18 it maps all of it. Of a fault that `is_single`, its own page, whether it is there yet or not. `end` is the file's last
/// page; a folio can go beyond that.
#[inline(always)]
pub fn mapped(mapping: Ptr, chunk: u64, (from, to): (u64, u64), is_single: bool, end: u64) -> u64 {
    let last = end - chunk * SLOTS;
    let whole = ones(0, if last < SLOTS { last } else { SLOTS - 1 });
    let own = if is_single { ones(from, to) } else { 0 };
    (cached(mapping, chunk, from, to) | own) & whole
}

/// Which of the 64 pages of piece `chunk` are in the cache of `mapping`, of those from bit `from` to bit `to` and what is in one folio with
/// them.
#[inline(always)]
fn cached(mapping: Ptr, chunk: u64, from: u64, to: u64) -> u64 {
    let mut entry: u64 = mapping.get(offset!(mapping_pages));
    if is_folio(entry) {
        // The file's first page is the only one.
        return u64::from(chunk == 0 && from == 0);
    }
    let (mut slots, mut level) = (0, 0);
    while slots == 0 {
        if !is_node(entry) || level == LEVELS {
            // A folio of 64 pages or more.
            return if is_folio(entry) { u64::MAX } else { 0 };
        }
        let node = entry - OWN;
        let shift = u64::from(read::<u8>(node + offset!(pages_shift)));
        let below = node + offset!(pages_slots);
        let nth = (chunk * SLOTS) >> (shift & 63);
        if level == 0 && nth >= SLOTS {
            return 0;
        }
        if shift == 0 {
            slots = below;
        } else {
            entry = slot(below, nth);
            if is_sibling(entry) {
                entry = slot(below, entry >> 2);
            }
        }
        level += 1;
    }
    lowest(slots, from, to)
}

/// The same of a lowest node. No branch depends on what is in a slot: there would be more ways through than the verifier follows.
#[inline(always)]
fn lowest(slots: u64, from: u64, to: u64) -> u64 {
    let (mut folios, mut siblings) = (0, 0);
    let mut nth = 0;
    while nth < SLOTS {
        let entries: [u64; AT_ONCE] = read(slots + nth * 8);
        let mut at = 0;
        while at < AT_ONCE {
            let (entry, bit) = (entries[at], nth + at as u64);
            folios |= (is_not_zero(entry) & !(entry >> 1) & !entry & 1) << (bit & 63);
            siblings |= ((entry >> 1) & !entry & !is_not_zero(entry >> 8) & 1) << (bit & 63);
            at += 1;
        }
        nth += AT_ONCE as u64;
    }
    let tried = ones(from, to) & (folios | siblings);
    // What the first page's folio has before it, and the last one's after it.
    let heads = folios & ones(0, from);
    let before =
        if siblings >> (from & 63) & 1 == 1 { ones(u64::from((heads | 1).ilog2()), from) } else { 0 };
    let after = siblings >> (to & 63) >> 1;
    let after = (after ^ after.wrapping_add(1)) >> 1;
    tried | before | after << (to & 63) << 1
}

/// Ones from bit `from` to bit `to`.
#[inline(always)]
pub fn ones(from: u64, to: u64) -> u64 {
    (u64::MAX << (from & 63)) & (u64::MAX >> (63 - (to & 63)))
}

/// 0 if it is 0, else 1.
#[inline(always)]
fn is_not_zero(word: u64) -> u64 {
    (word | word.wrapping_neg()) >> 63
}

#[inline(always)]
fn is_folio(entry: u64) -> bool {
    entry != 0 && entry & KIND == 0
}

#[inline(always)]
fn is_node(entry: u64) -> bool {
    entry & KIND == OWN && entry > NODES
}

#[inline(always)]
fn is_sibling(entry: u64) -> bool {
    entry & KIND == OWN && entry < SIBLINGS_END
}

#[inline(always)]
fn slot(slots: u64, nth: u64) -> u64 {
    read(slots + (nth & (SLOTS - 1)) * 8)
}

/// What the kernel has at `address`; zero if there is nothing.
#[inline(always)]
fn read<T: Copy + Default>(address: u64) -> T {
    let mut value = T::default();
    // SAFETY: the helper checks the source, and `value` has the size.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, address as *const _) };
    value
}
