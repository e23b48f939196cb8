//! The page cache of a file: what of it is there, and asking for more.

use std::io;
use std::num::NonZero;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::mman::{self, MapFlags, ProtFlags};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// A piece of a file, and where it lies on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file, bytes.
    pub logical: u64,
    /// Offset on the device, bytes.
    pub physical: u64,
    /// Bytes.
    pub length: u64,
}

/// How many of the `pages` pages from `first` on are in the page cache.
///
/// cachestat(2), Linux ≥ 6.5; below that mincore(2) of a mapping, which says "all" of files that the caller neither owns nor may
/// write to.
pub fn resident(file: BorrowedFd<'_>, first: u64, pages: u64) -> io::Result<u64> {
    /// `struct cachestat_range`
    #[repr(C)]
    struct Range {
        offset: u64,
        length: u64,
    }
    /// `struct cachestat`
    #[repr(C)]
    #[derive(Default)]
    struct Found {
        cached: u64,
        dirty: u64,
        written: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    const SYS_CACHESTAT: libc::c_long = 451;
    if pages == 0 {
        // A length of 0 would mean the rest of the file.
        return Ok(0);
    }
    let range = Range { offset: first * PAGE, length: pages * PAGE };
    let mut found = Found::default();
    // SAFETY: both structs are those of the call's interface and outlive it.
    let status =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut found, 0) };
    if status == 0 {
        return Ok(found.cached);
    }
    let map = residency(file, first, pages)?;
    Ok(map.into_iter().filter(|resident| *resident).count() as u64)
}

/// Which of the `pages` pages from `first` on are in the page cache. mincore(2) of a mapping, which says "all" of files that the
/// caller neither owns nor may write to.
pub fn residency(file: BorrowedFd<'_>, first: u64, pages: u64) -> io::Result<Vec<bool>> {
    let overflow = || io::Error::from(io::ErrorKind::InvalidInput);
    let length = usize::try_from(pages.checked_mul(PAGE).ok_or_else(overflow)?).map_err(|_| overflow())?;
    let offset = i64::try_from(first.checked_mul(PAGE).ok_or_else(overflow)?).map_err(|_| overflow())?;
    let Some(size) = NonZero::new(length) else { return Ok(Vec::new()) };
    // SAFETY: a new mapping at an address that the kernel chooses; it is not accessed.
    let at = unsafe { mman::mmap(None, size, ProtFlags::PROT_NONE, MapFlags::MAP_SHARED, file, offset) }?;
    let mut bytes = vec![0_u8; usize::try_from(pages).map_err(|_| overflow())?];
    // SAFETY: the range is the mapping, and there is a byte for each of its pages.
    let status = unsafe { libc::mincore(at.as_ptr(), length, bytes.as_mut_ptr()) };
    let result = if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the mapping made above, which nobody else knows of.
    unsafe { mman::munmap(at, length) }?;
    result?;
    Ok(bytes.into_iter().map(|byte| byte & 1 == 1).collect())
}

/// Has the kernel read `length` bytes from `offset` on into the page cache, and does not wait for it. readahead(2).
pub fn read_ahead(file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    let overflow = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (offset, length) =
        (i64::try_from(offset).map_err(overflow)?, usize::try_from(length).map_err(overflow)?);
    // SAFETY: the call takes numbers alone.
    let status = unsafe { libc::readahead(file.as_raw_fd(), offset, length) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the clean pages of `file` out of the page cache that nobody has mapped. posix_fadvise(2).
pub fn drop_pages(file: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Where the first pieces of the file lie, 32 at most, in the order of the file.
///
/// ioctl(2) `FS_IOC_FIEMAP`. Errors: `EOPNOTSUPP` where the file system cannot tell.
pub fn extents(file: BorrowedFd<'_>) -> io::Result<Vec<Extent>> {
    const EXTENTS: u32 = 32;
    /// `_IOWR('f', 11, struct fiemap)`
    const FS_IOC_FIEMAP: libc::Ioctl = 0xc020_660b_u32 as libc::Ioctl;
    /// `struct fiemap_extent`
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Raw {
        logical: u64,
        physical: u64,
        length: u64,
        reserved: [u64; 2],
        flags: u32,
        reserved_too: [u32; 3],
    }
    /// `struct fiemap`
    #[repr(C)]
    struct Map {
        start: u64,
        length: u64,
        flags: u32,
        mapped: u32,
        room: u32,
        reserved: u32,
        extents: [Raw; EXTENTS as usize],
    }
    const { assert!(size_of::<Raw>() == 56 && size_of::<Map>() == 32 + 56 * EXTENTS as usize) };
    let none = Raw { logical: 0, physical: 0, length: 0, reserved: [0; 2], flags: 0, reserved_too: [0; 3] };
    let mut map = Map {
        start: 0,
        length: u64::MAX,
        flags: 0,
        mapped: 0,
        room: EXTENTS,
        reserved: 0,
        extents: [none; EXTENTS as usize],
    };
    // SAFETY: `map` has room for as many extents as it says, and outlives the call.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    let found = map.extents.iter().take(map.mapped as usize);
    Ok(found.map(|raw| Extent { logical: raw.logical, physical: raw.physical, length: raw.length }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn what_was_just_written_is_in_the_cache() {
        let path = std::env::temp_dir().join(format!("skiff-cache-{}", std::process::id()));
        let mut file =
            std::fs::File::options().read(true).write(true).create_new(true).open(&path).expect("make");
        std::fs::remove_file(&path).expect("remove");
        file.write_all(&[7; 5 * 4096]).expect("write");
        assert_eq!(resident(file.as_fd(), 1, 3).expect("ask"), 3);
        assert_eq!(resident(file.as_fd(), 0, 0).expect("ask"), 0);
        assert_eq!(residency(file.as_fd(), 0, 5).expect("ask"), [true; 5]);
        assert!(residency(file.as_fd(), u64::MAX, 2).is_err());
        read_ahead(file.as_fd(), 0, PAGE).expect("ask for it");
    }
}
