//! What the tracer of system calls and its loader share.

/// Bytes kept of a string argument, the NUL at its end included, and of an address.
pub const TEXT: usize = 256;
/// Arguments of a call that are copied at most: strings and addresses.
pub const COPIES: usize = 2;
/// Bytes of the ring buffer.
pub const RING: u32 = 8 << 20;
/// For so long a number of calls is admitted, ns.
pub const WINDOW_NS: u64 = 100_000_000;
/// System call numbers told apart per table; greater ones are never traced.
pub const NUMBERS: usize = 512;

/// Properties of an [`Event`].
pub mod flag {
    /// By the 32-bit table.
    pub const COMPAT: u32 = 1;
    /// A seccomp filter answered: there was no entry.
    pub const REFUSED: u32 = 2;
    /// The task's first event: it entered the call before it was traced, or a filter answered.
    pub const RESUMED: u32 = 4;
    /// The task died in the call.
    pub const DIED: u32 = 8;
}

/// What is copied of an argument, in bits 3 and 4 of a part of [`Settings::copies`]; its number, from 1, is in bits 0 to 2.
pub mod copy {
    /// A string that ends with a NUL.
    pub const STRING: u16 = 1 << 3;
    /// As many bytes as the next argument says.
    pub const BYTES: u16 = 2 << 3;
}

/// What is traced: a global of the programs, which the loader writes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// By table (native, 32 bits): a bit for each number that is traced.
    pub calls: [[u64; NUMBERS / 64]; 2],
    /// By table and number: which arguments are copied, one in each byte, 0 for none. See [`copy`].
    pub copies: [[u16; NUMBERS]; 2],
    /// Calls admitted in each [`WINDOW_NS`].
    pub admitted: u64,
    /// 1 if calls that succeed are not told of.
    pub failed_only: u64,
}

/// A system call, as it stands in the ring buffer: up to `text`, and of that what there is.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// When it was entered, ns of CLOCK_MONOTONIC; 0 if that was not seen.
    pub entered_ns: u64,
    /// When it returned, or its task died.
    pub left_ns: u64,
    /// What it returned.
    pub result: i64,
    /// Its arguments; the last two are nothing.
    pub arguments: [u64; 8],
    /// Its number.
    pub number: u32,
    /// [`flag`]s.
    pub flags: u32,
    /// The thread, as the host numbers it.
    pub tid: u32,
    /// Its process.
    pub pid: u32,
    /// The thread's name.
    pub comm: [u8; 16],
    /// What was copied: bytes of each copy, the NUL of a string included; 0 if it could not be read.
    pub lengths: [u32; COPIES],
    /// The copies.
    pub text: [[u8; TEXT]; COPIES],
}

/// Bytes of an [`Event`] without copies.
pub const HEADER: usize = core::mem::offset_of!(Event, text);

/// What the programs keep with a task.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Note {
    /// [`state`]
    pub state: u64,
    /// The call it is in.
    pub event: Event,
}

/// Where a task is.
pub mod state {
    /// In no call.
    pub const OUTSIDE: u64 = 0;
    /// In a call that will be told of.
    pub const TRACED: u64 = 1;
    /// In a call that will not.
    pub const PASSED: u64 = 2;
}

/// How many calls were admitted.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gate {
    /// Since when, ns of CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// How many.
    pub admitted: u64,
}

/// Calls that were to be told of and are not.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops {
    /// There were more than are admitted.
    pub too_many: u64,
    /// The ring buffer was full.
    pub no_room: u64,
    /// The kernel had no memory to note the entry.
    pub no_memory: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Settings>(), 2 * (8 * NUMBERS / 64 + 2 * NUMBERS) + 2 * 8);
        assert_eq!(HEADER, 8 * 3 + 8 * 8 + 4 * 4 + 16 + 4 * COPIES);
        assert_eq!(size_of::<Event>(), HEADER + COPIES * TEXT);
        assert_eq!(size_of::<Note>(), 8 + size_of::<Event>());
        assert_eq!((size_of::<Gate>(), size_of::<Drops>()), (16, 24));
    }
}
