//! eBPF maps by their pins: opened, read and written as bytes of the right length. Programs by their pins: attached to cgroups.
//! bpf(2).
//!
//! For those who only look up, store and attach: loading programs is another crate's. Every key and value is compared with the
//! sizes that the kernel names for the map, so that it never reads or writes beyond what it is given.

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// How a value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In any case.
    Any = 0,
    /// Only under a new key: `EEXIST` otherwise. One of several that try at the same time succeeds.
    New = 1,
    /// Only in place of another: `ENOENT` otherwise.
    Existing = 2,
}

/// The kinds of maps that are made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `BPF_MAP_TYPE_HASH`, all of its memory taken at once.
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
}

/// A map.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    shape: Shape,
    /// Bytes of a value as bpf(2) passes it: of every possible CPU for a map that has a value per CPU.
    value: usize,
}

/// What the kernel says of a map: the head of `struct bpf_map_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;

/// `BPF_TRACE_ITER`, in `enum bpf_attach_type`.
const TRACE_ITER: u32 = 28;

/// Map types with a value per CPU: hash, array, LRU hash.
const PER_CPU: [u32; 3] = [5, 6, 10];

/// The parts of `union bpf_attr` that the commands here read; what is left out counts as zero.
#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
    numa_node: u32,
    name: [u8; 16],
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct ObjectAttr {
    pathname: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map: u32,
    pad: u32,
    key: u64,
    /// Of the next key for `BPF_MAP_GET_NEXT_KEY`.
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct TracepointAttr {
    name: u64,
    program: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    /// The key before the first; none for the first of all.
    after: u64,
    last: u64,
    keys: u64,
    values: u64,
    /// Room for so many, and then how many there are.
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkAttr {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct IterAttr {
    link: u32,
    flags: u32,
}

/// Attaches a loaded program to the tracepoint that it was loaded for (`BPF_TRACE_RAW_TP`); it stays attached for as long as anybody has
/// the descriptor. Linux ≥ 5.5.
pub fn attach_tracepoint(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd().cast_unsigned();
    Ok(own(bpf(BPF_RAW_TRACEPOINT_OPEN, &TracepointAttr { program, ..TracepointAttr::default() })?))
}

/// Makes a link of a loaded iterator over all that there is of its kind. Linux ≥ 5.8.
pub fn link_iterator(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd().cast_unsigned();
    Ok(own(bpf(BPF_LINK_CREATE, &LinkAttr { program, kind: TRACE_ITER, ..LinkAttr::default() })?))
}

/// Opens a run of a linked iterator: it takes place while the file is read.
pub fn iterate(link: BorrowedFd<'_>) -> io::Result<std::fs::File> {
    let link = link.as_raw_fd().cast_unsigned();
    Ok(own(bpf(BPF_ITER_CREATE, &IterAttr { link, flags: 0 })?).into())
}

/// Returns when all programs have ended that were running when it was called, but for those that may sleep: what they had looked up by then,
/// nobody writes to any more. The kernel waits for readers of RCU, as which programs run. membarrier(2); some milliseconds.
pub fn await_programs() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes numbers alone.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if answer != 0 {
        // Some kernels refuse it (`nohz_full`). Programs take microseconds.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// What of a cgroup a program can be attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets that sockets receive.
    Ingress = 0,
    /// Packets that sockets send.
    Egress = 1,
    /// Events of TCP connections.
    SockOps = 3,
}

/// A program.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Opens the program that is pinned at `path`. Errors as [`Map::open`].
    pub fn open(path: &CStr) -> io::Result<Self> {
        let attr = ObjectAttr { pathname: path.as_ptr().expose_provenance() as u64, ..ObjectAttr::default() };
        Ok(Self(own(bpf(BPF_OBJ_GET, &attr)?)))
    }

    /// Attaches it to a cgroup2 and pins that at `pin`: it stays attached until the pin is removed, or the cgroup. Others that
    /// are attached stay too. Linux ≥ 5.7.
    ///
    /// Errors: `EPERM` also if somebody has attached a program above that allows no other.
    pub fn attach(&self, cgroup: BorrowedFd<'_>, hook: Hook, pin: &CStr) -> io::Result<()> {
        let attr = LinkAttr {
            program: self.0.as_raw_fd().cast_unsigned(),
            target: cgroup.as_raw_fd().cast_unsigned(),
            kind: hook as u32,
            ..LinkAttr::default()
        };
        pin_at(&own(bpf(BPF_LINK_CREATE, &attr)?), pin)
    }
}

impl Map {
    /// The map behind a descriptor that was kept or passed.
    ///
    /// Errors: `EINVAL` if it is nothing of eBPF; what is not a map is refused when it is first used.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::of(fd)
    }

    /// Opens the map that is pinned at `path`.
    ///
    /// Errors: `ENOENT` if there is no pin, `EPERM` without CAP_BPF, `EINVAL` if what is pinned is no map.
    pub fn open(path: &CStr) -> io::Result<Self> {
        let attr = ObjectAttr { pathname: path.as_ptr().expose_provenance() as u64, ..ObjectAttr::default() };
        Self::of(own(bpf(BPF_OBJ_GET, &attr)?))
    }

    /// Makes a map. `name` is for those who look at the host's maps; the kernel takes letters, digits, `_` and `.`.
    pub fn create(kind: Kind, name: &str, key: usize, value: usize, entries: u32) -> io::Result<Self> {
        let mut attr = CreateAttr {
            kind: kind as u32,
            key_size: narrow(key)?,
            value_size: narrow(value)?,
            max_entries: entries,
            ..CreateAttr::default()
        };
        attr.name.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
        Self::of(own(bpf(BPF_MAP_CREATE, &attr)?))
    }

    /// The map behind `fd`.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        let mut shape = Shape::default();
        info(fd.as_fd(), &mut shape)?;
        // Of a program or a link the same words mean other things, and the kernel refuses them as maps below.
        let one = shape.value_size as usize;
        let value =
            if PER_CPU.contains(&shape.kind) { one.next_multiple_of(8) * possible_cpus()? } else { one };
        Ok(Self { fd, shape, value })
    }

    /// Pins the map at `path`, on a bpffs.
    pub fn pin(&self, path: &CStr) -> io::Result<()> {
        pin_at(&self.fd, path)
    }

    /// How many elements it can have.
    #[must_use]
    pub const fn max_entries(&self) -> u32 {
        self.shape.max_entries
    }

    /// Bytes of a value.
    #[must_use]
    pub const fn value_len(&self) -> usize {
        self.value
    }

    /// The value under `key`, if there is one.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value];
        let attr = self.element(key, value.as_mut_ptr().expose_provenance() as u64)?;
        found(bpf(BPF_MAP_LOOKUP_ELEM, &attr)).map(|found| found.map(|()| value))
    }

    /// The values of `count` elements of an array from `first` on, one after the other, by one call. Linux ≥ 5.6.
    pub fn range(&self, first: u32, count: u32) -> io::Result<Vec<u8>> {
        const ARRAY: u32 = 2;
        if self.shape.kind != ARRAY || first.checked_add(count).is_none_or(|end| end > self.shape.max_entries)
        {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        // The kernel keeps each value in a multiple of 8 bytes, but hands out what it is long.
        let (mut keys, mut values) =
            (vec![0_u8; count as usize * 4], vec![0_u8; count as usize * self.value]);
        let (after, mut last) = (first.wrapping_sub(1), 0_u32);
        let mut attr = BatchAttr {
            after: if first == 0 { 0 } else { (&raw const after).expose_provenance() as u64 },
            last: (&raw mut last).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count,
            map: self.fd.as_raw_fd().cast_unsigned(),
            ..BatchAttr::default()
        };
        // The end of the array is told as if nothing had been found.
        found(bpf_mut(BPF_MAP_LOOKUP_BATCH, &mut attr))?;
        if attr.count == count { Ok(values) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// The memory of all values of an array, one after the other, as the programs have it. mmap(2), Linux ≥ 5.5.
    ///
    /// Errors: `EINVAL` if it is no array of words, or was not made to be mapped (`BPF_F_MMAPABLE`).
    pub fn words(&self) -> io::Result<Words> {
        const MMAPABLE: u32 = 1 << 10;
        let is_mapped = self.shape.kind == Kind::Array as u32 && self.shape.flags & MMAPABLE != 0;
        let length = (self.shape.max_entries as usize).checked_mul(self.value).and_then(NonZeroUsize::new);
        let Some(length) = length.filter(|_| is_mapped && self.value.is_multiple_of(size_of::<u64>())) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory; an array keeps its length.
        let at = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &self.fd, 0) }?;
        Ok(Words { at: at.cast(), length })
    }

    /// Stores `value` under `key`.
    ///
    /// Errors: `E2BIG` if a new key finds no room; see [`Store`].
    pub fn set(&self, key: &[u8], value: &[u8], store: Store) -> io::Result<()> {
        if value.len() != self.value {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let attr = self.element(key, value.as_ptr().expose_provenance() as u64)?;
        bpf(BPF_MAP_UPDATE_ELEM, &ElementAttr { flags: store as u64, ..attr }).map(drop)
    }

    /// Removes what is under `key`; whether there was something.
    pub fn remove(&self, key: &[u8]) -> io::Result<bool> {
        let attr = self.element(key, 0)?;
        Ok(found(bpf(BPF_MAP_DELETE_ELEM, &attr))?.is_some())
    }

    /// All keys of a hash, as of now: those that come and go meanwhile may be among them.
    pub fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        // A key that is removed while it is here begins the walk anew: bounded, as others may go on and on.
        while keys.len() < 2 * self.max_entries() as usize {
            let mut next = vec![0; self.shape.key_size as usize];
            let attr = ElementAttr {
                map: self.fd.as_raw_fd().cast_unsigned(),
                key: keys.last().map_or(0, |key| key.as_ptr().expose_provenance() as u64),
                value: next.as_mut_ptr().expose_provenance() as u64,
                ..ElementAttr::default()
            };
            if found(bpf(BPF_MAP_GET_NEXT_KEY, &attr))?.is_none() {
                break;
            }
            keys.push(next);
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    fn element(&self, key: &[u8], value: u64) -> io::Result<ElementAttr> {
        if key.len() != self.shape.key_size as usize {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let map = self.fd.as_raw_fd().cast_unsigned();
        Ok(ElementAttr { map, key: key.as_ptr().expose_provenance() as u64, value, ..ElementAttr::default() })
    }
}

/// Memory that is shared with programs, which may change each word at any time.
#[derive(Debug)]
pub struct Words {
    at: NonNull<AtomicU64>,
    /// Bytes.
    length: NonZeroUsize,
}

// SAFETY: all that the pointer is used for is reading and writing atomics, and unmapping when nobody has a reference.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this length, lives until drop, begins at a page, and is only ever used as these atomics.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.length.get() / size_of::<u64>()) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.at.cast(), self.length.get()) };
        debug_assert!(unmapped.is_ok(), "it was mapped by its constructor");
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn pin_at(fd: &OwnedFd, path: &CStr) -> io::Result<()> {
    let attr = ObjectAttr {
        pathname: path.as_ptr().expose_provenance() as u64,
        fd: fd.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    bpf(BPF_OBJ_PIN, &attr).map(drop)
}

fn found(result: io::Result<i32>) -> io::Result<Option<()>> {
    match result {
        Ok(_) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn narrow(size: usize) -> io::Result<u32> {
    u32::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))
}

/// CPUs that the kernel has memory for: `0-3` or `0,2-7`. Documentation/admin-guide/cputopology.rst in the kernel tree.
fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    count(&text).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

fn count(list: &str) -> Option<usize> {
    let range = |part: &str| -> Option<usize> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        Some(last.checked_sub(first)? + 1)
    };
    list.trim().split(',').map(range).sum()
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: only called with what a command that makes a descriptor has just returned; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Calls bpf(2). `attr` is the head of the union that `command` reads, and what it points to is as long as `command` wants
/// it: of the calls on maps above, `element` and `set` have compared the lengths. `command` writes nothing to `attr` itself: for
/// those that do there is [`bpf_mut`].
pub(crate) fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<i32> {
    // SAFETY: `attr` comes with its size and outlives the call, as what it points to does, by this function's contract.
    answer(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) })
}

/// As [`bpf`], for commands that answer in `attr`. `T` has nothing but integers in it, which may have any value.
fn bpf_mut<T>(command: libc::c_int, attr: &mut T) -> io::Result<i32> {
    // SAFETY: as in `bpf`; nobody else has `attr` while the kernel writes to it, within its size.
    answer(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) })
}

fn answer(result: libc::c_long) -> io::Result<i32> {
    i32::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)
}

/// Has the kernel write what it knows of the object behind `fd` to `info`, the head of the structure for its kind. `T` has
/// nothing but integers in it, which may have any value: that is its caller's to see to.
pub(crate) fn info<T>(fd: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = InfoAttr {
        fd: fd.as_raw_fd().cast_unsigned(),
        len: narrow(size_of::<T>())?,
        // Exposed, for the kernel writes through it.
        info: std::ptr::from_mut(info).expose_provenance() as u64,
    };
    bpf_mut(BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_have_the_layout_of_the_kernels() {
        use std::mem::offset_of;
        assert_eq!((size_of::<Shape>(), offset_of!(Shape, max_entries)), (24, 16));
        assert_eq!((offset_of!(CreateAttr, name), size_of::<CreateAttr>()), (28, 48));
        assert_eq!((offset_of!(ObjectAttr, fd), size_of::<ObjectAttr>()), (8, 16));
        assert_eq!((offset_of!(InfoAttr, info), size_of::<InfoAttr>()), (8, 16));
        assert_eq!((offset_of!(TracepointAttr, program), size_of::<TracepointAttr>()), (8, 16));
        assert_eq!(size_of::<IterAttr>(), 8);
        assert_eq!((offset_of!(ElementAttr, key), size_of::<ElementAttr>()), (8, 32));
        assert_eq!((offset_of!(BatchAttr, map), size_of::<BatchAttr>()), (36, 56));
        assert_eq!((offset_of!(LinkAttr, kind), size_of::<LinkAttr>()), (8, 16));
    }

    #[test]
    fn cpus_are_counted() {
        assert_eq!([count("0\n"), count("0-3\n"), count("0,2-7")], [Some(1), Some(4), Some(7)]);
        assert_eq!([count(""), count("3-1"), count("x")], [None; 3]);
    }

    #[test]
    fn a_pin_that_is_not_there_is_not_found_or_not_allowed() {
        let error = Map::open(c"/sys/fs/bpf/no/such/pin").unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EPERM)), "{error}");
    }

    #[test]
    fn a_range_of_an_array_is_read_at_once() {
        let map = match Map::create(Kind::Array, "skiff_test", 4, 8, 5) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return,
            other => other.unwrap(),
        };
        for at in 0..5_u32 {
            map.set(&at.to_ne_bytes(), &u64::from(at + 10).to_ne_bytes(), Store::Any).unwrap();
        }
        let check = |first, count, expected: &[u64]| {
            let words: Vec<u64> = map
                .range(first, count)
                .unwrap()
                .chunks(8)
                .map(|word| u64::from_ne_bytes(*word.first_chunk().unwrap()))
                .collect();
            assert_eq!(words, expected);
        };
        check(0, 5, &[10, 11, 12, 13, 14]);
        check(0, 2, &[10, 11]);
        check(3, 2, &[13, 14]);
        check(4, 1, &[14]);
        check(2, 0, &[]);
        assert_eq!(map.range(4, 2).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn only_an_array_that_was_made_for_it_is_mapped() {
        let map = match Map::create(Kind::Array, "skiff_test", 4, 8, 5) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return,
            other => other.unwrap(),
        };
        assert_eq!(map.words().unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_map_takes_what_fits_and_nothing_else() {
        let map = match Map::create(Kind::Hash, "skiff_test", 4, 8, 2) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return,
            other => other.unwrap(),
        };
        map.set(&[1; 4], &[7; 8], Store::New).unwrap();
        assert_eq!(map.set(&[1; 4], &[8; 8], Store::New).unwrap_err().raw_os_error(), Some(libc::EEXIST));
        assert_eq!(
            map.set(&[2; 4], &[8; 8], Store::Existing).unwrap_err().raw_os_error(),
            Some(libc::ENOENT)
        );
        assert_eq!(map.set(&[2; 4], &[8; 7], Store::Any).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        map.set(&[2; 4], &[8; 8], Store::Any).unwrap();
        assert_eq!(map.set(&[3; 4], &[8; 8], Store::New).unwrap_err().raw_os_error(), Some(libc::E2BIG));
        assert_eq!(map.keys().unwrap(), [vec![1; 4], vec![2; 4]]);
        assert_eq!(map.get(&[1; 4]).unwrap(), Some(vec![7; 8]));
        assert!(map.remove(&[1; 4]).unwrap() && !map.remove(&[1; 4]).unwrap());
        assert_eq!(map.get(&[1; 4]).unwrap(), None);
        assert!(map.get(&[1; 3]).is_err());
    }
}
