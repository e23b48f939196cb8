//! What the recorder of uses – capabilities, devices, kernel parameters – and its loader share.

use crate::ABSENT;

/// Different uses of capabilities that are noted.
pub const CAPABILITIES: u32 = 2048;
/// Different devices and kernel parameters that are noted.
pub const OPENED: u32 = 1024;
/// Parts of a path below procfs that are noted.
pub const DEPTH: usize = 8;
/// Bytes of each, with the NUL at its end.
pub const PART: usize = 40;

macro_rules! offsets {
    ($($field:ident: $path:literal,)*) => {
        /// Byte offsets in kernel structs, as [`crate::Offsets`] has others.
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct UseOffsets {
            $(#[doc = concat!("`", $path, "`")] pub $field: u32,)*
        }

        impl UseOffsets {
            /// The C path of each field, in the order of the struct.
            pub const PATHS: &[&str] = &[$($path),*];

            /// Offsets in the order of [`UseOffsets::PATHS`].
            #[must_use]
            pub fn new(mut find: impl FnMut(&str) -> Option<u32>) -> Self {
                Self { $($field: find($path).unwrap_or(ABSENT),)* }
            }

            /// What the object holds before the loader replaces it.
            pub const NONE: Self = Self { $($field: ABSENT,)* };

            /// The paths of those that the kernel does not have.
            pub fn absent(&self) -> impl Iterator<Item = &'static str> {
                let offsets = [$(self.$field),*];
                Self::PATHS.iter().copied().zip(offsets).filter(|(_, offset)| *offset == ABSENT).map(|(path, _)| path)
            }
        }
    };
}

offsets! {
    task_status: "task_struct.thread_info.status",
    task_credentials: "task_struct.real_cred",
    task_files: "task_struct.files",
    credentials_bounds: "cred.cap_bset",
    files_table: "files_struct.fdt",
    table_files: "fdtable.fd",
    table_room: "fdtable.max_fds",
    file_inode: "file.f_inode",
    file_mode: "file.f_mode",
    file_dentry: "file.f_path.dentry",
    inode_mode: "inode.i_mode",
    inode_device: "inode.i_rdev",
    inode_number: "inode.i_ino",
    inode_superblock: "inode.i_sb",
    superblock_magic: "super_block.s_magic",
    dentry_parent: "dentry.d_parent",
    dentry_name: "dentry.d_name.name",
}

/// The container that is recorded, and its sums.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The id of its cgroup; 0 if there is none.
    pub cgroup: u64,
    /// Programs executed in it.
    pub execs: u64,
    /// Of these, so many come before the workload.
    pub execs_before: u64,
    /// Tasks that live.
    pub tasks: u64,
    /// The most there were.
    pub tasks_peak: u64,
    /// The room in the largest table of files of a task that has ended.
    pub descriptors_peak: u64,
    /// Uses that found no room, or could not be read.
    pub lost: u64,
}

/// A check for a capability.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Check {
    /// The capability's number.
    pub capability: u32,
    /// 1 if it was there, else 0.
    pub granted: u32,
    /// The system call during which.
    pub call: u32,
    /// 1 if that is of the 32-bit table, else 0.
    pub compat: u32,
}

/// What kind of thing was opened.
pub mod kind {
    /// A character device.
    pub const CHARACTER: u32 = 0;
    /// A block device.
    pub const BLOCK: u32 = 1;
    /// A file below `/proc/sys`.
    pub const SYSCTL: u32 = 2;
}

/// A device, or a kernel parameter.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Thing {
    /// The device's number as the kernel has it (12 bits of major, 20 of minor), or the parameter's inode.
    pub number: u64,
    /// One of [`kind`].
    pub kind: u32,
    /// 0.
    pub pad: u32,
}

/// How often it was opened.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// To be read.
    pub reads: u64,
    /// To be written.
    pub writes: u64,
    /// Of a kernel parameter: the parts of its path, the last first, without the root of procfs; each ends with a NUL.
    pub path: [[u8; PART]; DEPTH],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<UseOffsets>(), 4 * UseOffsets::PATHS.len());
        assert_eq!(size_of::<Recorded>(), 8 * 7);
        assert_eq!(size_of::<Check>(), 4 * 4);
        assert_eq!(size_of::<Thing>(), 8 + 4 * 2);
        assert_eq!(size_of::<Opened>(), 8 * 2 + PART * DEPTH);
    }

    #[test]
    fn one_absent_field_is_named() {
        let all = UseOffsets::new(|_| Some(8));
        assert_eq!(all.absent().count(), 0);
        assert!(UseOffsets { file_mode: ABSENT, ..all }.absent().eq(["file.f_mode"]));
    }
}
