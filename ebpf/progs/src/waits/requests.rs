//! Requests under way, by the address of their bio.
//!
//! A table of the programs' own: a hash map would take its locks at both ends of each request, though nobody else has that. The keys of a row are
//! together in memory; a request that finds its row full is refused.

use core::arch::asm;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg};

use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;
use skiff_ebpf_abi::waits::{BIO_ROWS, Bio, ROW};

/// The keys of each row; 0 is nobody's.
#[btf_map]
static KEYS: Array<[u64; ROW as usize], { BIO_ROWS as usize }> = Array::new();
/// What is known of each, row after row.
#[btf_map]
static BIOS: Array<Bio, { (BIO_ROWS * ROW) as usize }> = Array::new();

/// The place of one request.
#[derive(Clone, Copy)]
pub struct Place {
    key: *mut u64,
    bio: *mut Bio,
}

impl Place {
    /// What is noted there.
    pub fn bio(self) -> *mut Bio {
        self.bio
    }

    /// Gives the place back, after all else has been read.
    #[inline(always)]
    pub fn leave(self) {
        // SAFETY: the pointer is to a map value.
        unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(self.key, 0) };
    }
}

/// Where the request `key` is noted.
#[inline(always)]
pub fn find(key: u64) -> Option<Place> {
    // SAFETY: the pointer is to a map value; volatile because others change their keys.
    place(key, |at| unsafe { at.read_volatile() } == key)
}

/// Takes a place for the request `key`, which has none. `None` if its row is full.
#[inline(always)]
pub fn enter(key: u64) -> Option<Place> {
    // SAFETY: as in `find`.
    place(key, |at| unsafe { at.read_volatile() } == 0 && take(at, key))
}

/// The first place of the row of `key` whose own key `is_it`.
#[inline(always)]
fn place(key: u64, is_it: impl Fn(*mut u64) -> bool) -> Option<Place> {
    let (row, keys) = row_of(key)?;
    let mut nth = 0;
    while nth < ROW {
        // SAFETY: the index is inside of the row.
        let at = unsafe { keys.add(nth as usize) };
        if is_it(at) {
            return Some(Place { key: at, bio: BIOS.get_ptr_mut(row * ROW + nth)? });
        }
        nth += 1;
    }
    None
}

/// Whether the place at `at` was free, and is the request's now.
#[inline(always)]
fn take(at: *mut u64, key: u64) -> bool {
    // SAFETY: `at` points into a map value.
    unsafe { atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(at, 0, key).1 }
}

/// The row of `key`, and its keys.
#[inline(always)]
fn row_of(key: u64) -> Option<(u32, *mut u64)> {
    // Fibonacci hashing: addresses of bios differ by multiples of their size.
    let row = number(key).wrapping_mul(0x9e37_79b9) >> (32 - BIO_ROWS.trailing_zeros());
    Some((row, KEYS.get_ptr_mut(row)?.cast()))
}

/// The lower half of an address, with which may be reckoned: the verifier knows `key` as a pointer, and the half of one as no pointer.
#[inline(always)]
fn number(key: u64) -> u32 {
    let number: u32;
    // SAFETY: one move between registers.
    unsafe {
        asm!("{} = {}", out(wreg) number, in(wreg) key as u32, options(pure, nomem, nostack, preserves_flags))
    };
    number
}
