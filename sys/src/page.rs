//! A page on which a child leaves numbers and a text for whoever launched it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::clock::monotonic_ns;

/// How many numbers a [`SharedPage`] holds.
pub const CELLS: usize = 16;

/// How long its text can be, bytes.
pub const TEXT_BYTES: usize = 1024;

#[repr(C)]
#[derive(Debug)]
struct Layout {
    cells: [AtomicU64; CELLS],
    text_bytes: AtomicU64,
    text: [AtomicU8; TEXT_BYTES],
}

const LENGTH: std::num::NonZeroUsize =
    std::num::NonZeroUsize::new(size_of::<Layout>()).expect("the page is not empty");
const ACCESS: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// [`CELLS`] numbers and a text in memory that stays shared over a fork, so that leaving one takes no system call.
#[derive(Debug)]
pub struct SharedPage(NonNull<Layout>);

// SAFETY: all that the pointer is used for is reading and writing atomics, and unmapping when nobody has a reference.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Maps the page, all zero. mmap(2).
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let page = unsafe { mmap_anonymous(None, LENGTH, ACCESS, MapFlags::MAP_SHARED) }?;
        Ok(Self(page.cast()))
    }

    /// The same, with a descriptor by which another process can [map](Self::map) it. memfd_create(2).
    pub fn with_descriptor() -> io::Result<(Self, OwnedFd)> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let memory = memfd_create(c"skiff-page", flags)?;
        nix::unistd::ftruncate(&memory, i64::try_from(LENGTH.get()).unwrap_or(i64::MAX))?;
        // Whoever maps it must not find it gone from under them (SIGBUS).
        let seals = nix::fcntl::SealFlag::F_SEAL_SHRINK;
        nix::fcntl::fcntl(&memory, nix::fcntl::FcntlArg::F_ADD_SEALS(seals))?;
        Ok((Self::map(memory.as_fd())?, memory))
    }

    /// Maps a page that [`with_descriptor`](Self::with_descriptor) has made.
    ///
    /// Errors: `EINVAL` if it is not one: smaller, or not sealed against becoming so.
    pub fn map(memory: BorrowedFd<'_>) -> io::Result<Self> {
        let seals = nix::fcntl::fcntl(memory, nix::fcntl::FcntlArg::F_GET_SEALS)?;
        let is_kept = seals & nix::fcntl::SealFlag::F_SEAL_SHRINK.bits() != 0;
        let length = usize::try_from(nix::sys::stat::fstat(memory)?.st_size).unwrap_or(0);
        if !is_kept || length < LENGTH.get() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory; the file cannot shrink.
        let page = unsafe { mmap(None, LENGTH, ACCESS, MapFlags::MAP_SHARED, memory, 0) }?;
        Ok(Self(page.cast()))
    }

    /// Sets cell `index` to now.
    pub fn stamp(&self, index: usize) {
        self.set(index, monotonic_ns());
    }

    /// Sets cell `index`.
    pub fn set(&self, index: usize, value: u64) {
        self.layout().cells[index].store(value, Ordering::Relaxed);
    }

    /// Cell `index`, 0 while it is not set.
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        self.layout().cells[index].load(Ordering::Relaxed)
    }

    /// Leaves `text`, or as much of it as there is room for.
    pub fn write(&self, text: &[u8]) {
        let layout = self.layout();
        let length = text.len().min(TEXT_BYTES);
        for (to, from) in layout.text.iter().zip(&text[..length]) {
            to.store(*from, Ordering::Relaxed);
        }
        layout.text_bytes.store(length as u64, Ordering::Relaxed);
    }

    /// The text, empty while none is left.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let layout = self.layout();
        let length = usize::try_from(layout.text_bytes.load(Ordering::Relaxed)).unwrap_or(0);
        layout.text.iter().take(length).map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    fn layout(&self) -> &Layout {
        // SAFETY: the mapping lives until drop, is page-aligned, and is only ever used as these atomics.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.0.cast(), LENGTH.get()) };
        debug_assert!(unmapped.is_ok(), "the page was mapped by a constructor");
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

    #[test]
    fn a_page_by_descriptor_is_the_same_page() {
        let (page, memory) = SharedPage::with_descriptor().expect("memfd");
        let other = SharedPage::map(memory.as_fd()).expect("mmap");
        assert_eq!(other.text(), b"");
        page.set(7, 42);
        page.write(b"broken");
        assert_eq!((other.get(7), other.text()), (42, b"broken".to_vec()));
        page.write(&[b'x'; TEXT_BYTES + 1]);
        assert_eq!(other.text(), [b'x'; TEXT_BYTES]);
    }

    #[test]
    fn other_files_are_not_taken_for_a_page() {
        let memory = memfd_create(c"other", MFdFlags::MFD_CLOEXEC).expect("memfd");
        assert!(SharedPage::map(memory.as_fd()).is_err());
    }
}
