//! What the recorder of files and processes and its loader share.

/// Offsets of fields that only these programs read; as [`crate::Offsets`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// `task_struct.start_time`
    pub task_start: u32,
    /// `task_struct.real_parent`
    pub task_parent: u32,
    /// `task_struct.exit_code`
    pub task_exit_code: u32,
    /// `inode.i_dentry`
    pub inode_names: u32,
    /// `dentry.d_u.d_alias`
    pub name_alias: u32,
    /// `dentry.d_parent`
    pub name_parent: u32,
    /// `dentry.d_name.name`
    pub name_text: u32,
    /// 1 if what is in the page cache already is told of too (Linux ≥ 6.12).
    pub tells_uses: u32,
}

impl Fields {
    /// As [`crate::Offsets::MARK`].
    pub const MARK: u32 = 0x5eed_3000;

    /// The C path of each field but the last, in the order of the struct.
    pub const PATHS: [&str; 7] = [
        "task_struct.start_time",
        "task_struct.real_parent",
        "task_struct.exit_code",
        "inode.i_dentry",
        "dentry.d_u.d_alias",
        "dentry.d_parent",
        "dentry.d_name.name",
    ];

    /// Offsets in the order of [`Fields::PATHS`].
    #[must_use]
    pub const fn of(offsets: [u32; 7], tells_uses: bool) -> Self {
        let [task_start, task_parent, task_exit_code, inode_names, name_alias, name_parent, name_text] =
            offsets;
        let tells_uses = tells_uses as u32;
        Self {
            task_start,
            task_parent,
            task_exit_code,
            inode_names,
            name_alias,
            name_parent,
            name_text,
            tells_uses,
        }
    }
}

/// Pages of a file that are noted together: one bit each of a [`Chunk`].
pub const PAGES: u64 = 64;
/// Pieces of files that can be noted.
pub const CHUNKS: u32 = 16_384;
/// Files that can be named.
pub const FILES: u32 = 4096;
/// Different paths, by what came of opening them, that can be counted.
pub const OPENS: u32 = 4096;
/// Bytes of the buffer for what becomes of processes.
pub const RING: u32 = 4 << 20;
/// Bytes kept of a path as it was opened, the NUL included.
pub const PATH: usize = 192;
/// Bytes kept of a part of a file's name, the NUL included.
pub const PART: usize = 64;
/// Parts of a file's name that are kept, from its end.
pub const PARTS: usize = 12;
/// Bytes kept of a program's arguments.
pub const ARGV: usize = 512;

/// A file.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct File {
    /// The file system's device, as the kernel numbers it: 12 bits of major, 20 of minor.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

/// What it is called on its own file system.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Name {
    /// Its size when it was first used.
    pub bytes: u64,
    /// The last part of its path first, up to an empty one.
    pub parts: [[u8; PART]; PARTS],
}

/// Which 64 pages of which file.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file.
    pub file: File,
    /// The first of the pages, divided by [`PAGES`].
    pub chunk: u64,
}

/// What was used of them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Pages that read(2) asked for; where the kernel does not tell, pages that came into the cache.
    pub read: u64,
    /// Pages that a page fault mapped.
    pub mapped: u64,
}

/// What was opened, and what came of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Open {
    /// The error, 0 if there was none.
    pub errno: u32,
    /// Bytes of the path, its NUL included; 0 if it could not be read.
    pub length: u32,
    /// Of a path that is longer than [`PATH`], what tells it from others that begin so; else 0.
    pub hash: u64,
    /// The path, zeros after it.
    pub path: [u8; PATH],
}

/// Most bytes of a path, its NUL included.
pub const LONGEST: usize = 4096;

/// What happens to a process.
pub mod event {
    /// It was made.
    pub const FORK: u32 = 0;
    /// It executes another program.
    pub const EXEC: u32 = 1;
    /// It has ended.
    pub const EXIT: u32 = 2;
}

/// Something that happened to a process; `text` is there of an execution only, and of that what there is.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// When, ns of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// When the process was made.
    pub start_ns: u64,
    /// The process, as the host numbers it.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// What: [`event`].
    pub kind: u32,
    /// How it ended, as wait(2) tells it.
    pub status: u32,
    /// Its name.
    pub comm: [u8; 16],
    /// Bytes of arguments there are; [`ARGV`] of them are kept at most.
    pub argv_len: u64,
    /// The path of the program, NUL-terminated.
    pub path: [u8; PATH],
    /// The arguments, each with its NUL.
    pub argv: [u8; ARGV],
}

/// Bytes of an [`Event`] that is no execution.
pub const HEADER: usize = core::mem::offset_of!(Event, argv_len);

/// What did not fit.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Events of processes.
    pub events: u64,
    /// Opens.
    pub opens: u64,
    /// Uses of pages.
    pub uses: u64,
    /// Files that have no name.
    pub names: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Fields>(), 4 * (Fields::PATHS.len() + 1));
        assert_eq!(size_of::<File>(), 16);
        assert_eq!(size_of::<Place>(), 24);
        assert_eq!(size_of::<Chunk>(), 16);
        assert_eq!(size_of::<Name>(), 8 + PART * PARTS);
        assert_eq!(size_of::<Open>(), 4 * 2 + 8 + PATH);
        assert_eq!(HEADER, 8 * 2 + 4 * 4 + 16);
        assert_eq!(size_of::<Event>(), HEADER + 8 + PATH + ARGV);
        assert_eq!(size_of::<Lost>(), 32);
    }
}
