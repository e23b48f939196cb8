//! Time stamps, and a page on which a child leaves them for its parent.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds of CLOCK_MONOTONIC, the clock of the kernel's `bpf_ktime_get_ns`. clock_gettime(2), by the vDSO.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec. CLOCK_MONOTONIC always exists, so the call can't fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// How many numbers a [`SharedPage`] holds.
pub const CELLS: usize = 16;

/// [`CELLS`] numbers in memory that stays shared over a fork, so that leaving one for the parent takes no system call.
#[derive(Debug)]
pub struct SharedPage(NonNull<[AtomicU64; CELLS]>);

impl SharedPage {
    /// Maps the page, all zero. mmap(2).
    pub fn new() -> io::Result<Self> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
        const LENGTH: std::num::NonZeroUsize =
            std::num::NonZeroUsize::new(size_of::<[AtomicU64; CELLS]>()).expect("the array is not empty");
        let (access, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let page = unsafe { mmap_anonymous(None, LENGTH, access, flags) }?;
        Ok(Self(page.cast()))
    }

    /// Sets cell `index` to now.
    pub fn stamp(&self, index: usize) {
        self.set(index, monotonic_ns());
    }

    /// Sets cell `index`.
    pub fn set(&self, index: usize, value: u64) {
        self.cells()[index].store(value, Ordering::Relaxed);
    }

    /// Cell `index`, 0 while it is not set.
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        self.cells()[index].load(Ordering::Relaxed)
    }

    fn cells(&self) -> &[AtomicU64; CELLS] {
        // SAFETY: the mapping lives until drop, is page-aligned, and is only ever used as these atomics.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and no reference outlives `self`.
        let unmapped = unsafe { nix::sys::mman::munmap(self.0.cast(), size_of::<[AtomicU64; CELLS]>()) };
        debug_assert!(unmapped.is_ok(), "the page was mapped by new");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_start_at_zero() {
        let stamps = SharedPage::new().expect("mmap");
        assert_eq!(stamps.get(3), 0);
        stamps.stamp(3);
        stamps.stamp(4);
        assert!(stamps.get(3) > 0 && stamps.get(4) >= stamps.get(3));
    }
}
