//! What the recorder of page cache use and its loader share.

/// Pages of a file that are noted together: one bit each of a [`Chunk`].
pub const PAGES: u64 = 64;
/// Containers recorded at a time.
pub const SLOTS: u32 = 16;

/// What the process is called from its birth on that reads ahead for a container, in its cgroup: `skiff-reader`, in two halves.
pub const READER: [u64; 2] = [u64::from_ne_bytes(*b"skiff-re"), u64::from_ne_bytes(*b"ader\0\0\0\0")];
/// Pieces of files noted at a time, of all containers together.
pub const CHUNKS: u32 = 32_768;

/// Which 64 pages of which file, seen by which container.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The container's slot.
    pub slot: u32,
    /// The file system's device, as the kernel numbers it: 12 bits of major, 20 of minor.
    pub device: u32,
    /// The file's inode.
    pub inode: u64,
    /// The first of the pages, divided by [`PAGES`].
    pub chunk: u64,
}

/// What was used of them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chunk {
    /// When the first was used, ns of CLOCK_MONOTONIC.
    pub first_ns: u64,
    /// Pages that were read, or mapped by a fault; on kernels that do not tell, pages that came into the cache.
    pub used: u64,
}

/// How far a recording is.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// When the first program was executed, 0 before. ns of CLOCK_MONOTONIC, as the others.
    pub exec_ns: u64,
    /// When it first listened for connections, 0 before.
    pub listen_ns: u64,
    /// When a page was used that had not been before.
    pub last_ns: u64,
    /// Uses that found no room.
    pub lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Place>(), 4 * 2 + 8 * 2);
        assert_eq!(size_of::<Chunk>(), 8 * 2);
        assert_eq!(size_of::<Progress>(), 8 * 4);
    }
}
