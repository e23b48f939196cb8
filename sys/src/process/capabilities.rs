//! The capabilities of the calling thread. capabilities(7).

use std::io;

use super::{check, prctl};

/// Keep permitted capabilities over the change from user 0 to another. prctl(2) `PR_SET_KEEPCAPS`.
pub fn keep_capabilities() -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1)
}

/// Removes `capability` from the bounding set, for good. capabilities(7).
pub fn drop_bounding(capability: u8) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability.into())
}

/// Empties the ambient set. capabilities(7), Linux ≥ 4.3.
pub fn clear_ambient() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL.cast_unsigned().into())
}

/// Raises `capability` in the ambient set; it must be permitted and inheritable.
pub fn raise_ambient(capability: u8) -> io::Result<()> {
    // SAFETY: takes integers only.
    let result = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::c_ulong::from(libc::PR_CAP_AMBIENT_RAISE.cast_unsigned()),
            libc::c_ulong::from(capability),
            0,
            0,
        )
    };
    check(result.into())
}

/// The bounding set as a mask of capability numbers, and the highest number that the kernel knows. capabilities(7).
pub fn bounding_set() -> (u64, u8) {
    let known = (0..64).map(|number| (number, bounding(number))).take_while(|(_, held)| *held >= 0);
    known.fold((0, 0), |(mask, _), (number, held)| (mask | u64::from(held == 1) << number, number))
}

/// Those of `wanted` (bit masks) that are in the bounding set, and the number of the last capability that the kernel knows,
/// with as few calls as that takes: a kernel of these years has 41.
#[must_use]
pub fn bounding_of(wanted: u64) -> (u64, u8) {
    const USUAL: u8 = 40;
    let is_last = |number: u8| bounding(number) >= 0 && bounding(number + 1) < 0;
    let last = if is_last(USUAL) {
        USUAL
    } else {
        (0..63).take_while(|number| bounding(*number) >= 0).last().unwrap_or(0)
    };
    let asked = (0..=last).filter(|number| wanted >> number & 1 == 1 && bounding(*number) == 1);
    (asked.fold(0, |mask, number| mask | 1 << number), last)
}

fn bounding(number: u8) -> libc::c_int {
    // SAFETY: takes integers only.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(number)) }
}

/// The effective, permitted and inheritable capabilities of the calling thread, as masks of capability numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Those in force.
    pub effective: u64,
    /// Those that may be put in force.
    pub permitted: u64,
    /// Those kept by a program that has them in its file.
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

/// Reads the calling thread's capabilities. capget(2).
pub fn capabilities() -> io::Result<Capabilities> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 writes two CapData, the length of `data`.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    check(result)?;
    let join = |part: fn(&CapData) -> u32| u64::from(part(&data[0])) | u64::from(part(&data[1])) << 32;
    Ok(Capabilities {
        effective: join(|data| data.effective),
        permitted: join(|data| data.permitted),
        inheritable: join(|data| data.inheritable),
    })
}

/// Sets the calling thread's capabilities. capset(2).
pub fn set_capabilities(sets: Capabilities) -> io::Result<()> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: low_half(sets.effective >> shift),
        permitted: low_half(sets.permitted >> shift),
        inheritable: low_half(sets.inheritable >> shift),
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two CapData, the length of `data`.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    check(result)
}

fn low_half(mask: u64) -> u32 {
    u32::try_from(mask & 0xffff_ffff).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernels() {
        assert_eq!(size_of::<CapHeader>(), 8);
        assert_eq!(size_of::<CapData>(), 12);
    }

    #[test]
    fn the_bounding_set_is_the_same_asked_for_in_parts() {
        let (all, last) = bounding_set();
        assert_eq!(bounding_of(u64::MAX), (all, last));
        assert_eq!(bounding_of(0b1001), (all & 0b1001, last));
        assert_eq!(bounding_of(0), (0, last));
    }

    #[test]
    fn own_capabilities_can_be_read_and_set_to_themselves() {
        let now = capabilities().expect("capget");
        set_capabilities(now).expect("capset");
    }
}
