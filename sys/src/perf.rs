//! Samples of what runs on a CPU, with what happens to address spaces meanwhile: perf_event_open(2), on the software clock, which
//! every machine has.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::{SysconfVar, sysconf};

/// `struct perf_event_attr` in its fifth size, Linux ≥ 4.8.
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_watermark: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clockid: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// What a sample holds: process and thread, time, stack.
const SAMPLE_TYPE: u64 = 1 << 1 | 1 << 2 | 1 << 5;
/// disabled, exclude_idle, mmap, comm, task, watermark, sample_id_all, mmap2, comm_exec, use_clockid.
const FLAGS: u64 = 1 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 13 | 1 << 14 | 1 << 18 | 1 << 23 | 1 << 24 | 1 << 25;

const PERF_EVENT_IOC_ENABLE: libc::Ioctl = 0x2400;
const PERF_EVENT_IOC_DISABLE: libc::Ioctl = 0x2401;
const PERF_EVENT_IOC_SET_BPF: libc::Ioctl = 0x4004_2408;

/// Where `struct perf_event_mmap_page` has the ends of what is to be read.
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

/// The longest record: its length is 16 bits.
const RECORD_MAX: usize = u16::MAX as usize;

/// Samples of one CPU, all tasks, in a buffer shared with the kernel.
///
/// Records are those of perf_event_open(2): `PERF_RECORD_SAMPLE` with `pid, tid, time, nr, ips[nr]`, and `MMAP2` (executable
/// mappings only), `COMM`, `FORK`, `EXIT` and `LOST`, with `pid, tid, time` at their ends. Times are CLOCK_MONOTONIC.
#[derive(Debug)]
pub struct Samples {
    event: OwnedFd,
    map: NonNull<u8>,
    map_len: usize,
    page: usize,
}

// SAFETY: the mapping belongs to this value alone, and reading it needs `&mut`.
unsafe impl Send for Samples {}

impl Samples {
    /// Prepares to sample `cpu` each `period_ns` of its time that is not idle; still off. `pages` is a power of two.
    ///
    /// Needs CAP_PERFMON (or `perf_event_paranoid` of -1). Linux ≥ 5.8 for the capability.
    pub fn open(cpu: u32, period_ns: u64, pages: usize) -> io::Result<Self> {
        let page =
            sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096);
        let attr = Attr {
            kind: PERF_TYPE_SOFTWARE,
            size: 112,
            config: PERF_COUNT_SW_CPU_CLOCK,
            sample_period: period_ns,
            sample_type: SAMPLE_TYPE,
            flags: FLAGS,
            // Nobody is woken: the reader comes by itself.
            wakeup_watermark: u32::try_from(pages * page).unwrap_or(u32::MAX),
            clockid: libc::CLOCK_MONOTONIC,
            ..Attr::default()
        };
        let cpu = i32::try_from(cpu).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: the attributes have the size that they say, and outlive the call.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC)
        };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        let map_len = (pages + 1) * page;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(map.cast::<u8>()) {
            Some(map) if map.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { event, map, map_len, page }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Lets the eBPF program `filter`, of the type for perf events, decide which samples are kept.
    pub fn set_filter(&self, filter: BorrowedFd<'_>) -> io::Result<()> {
        self.control(PERF_EVENT_IOC_SET_BPF, filter.as_raw_fd())
    }

    /// Begins to sample.
    pub fn enable(&self) -> io::Result<()> {
        self.control(PERF_EVENT_IOC_ENABLE, 0)
    }

    /// Stops to sample; what has been written can still be read.
    pub fn disable(&self) -> io::Result<()> {
        self.control(PERF_EVENT_IOC_DISABLE, 0)
    }

    fn control(&self, request: libc::Ioctl, argument: i32) -> io::Result<()> {
        // SAFETY: none of these requests has a pointer for its argument.
        let result = unsafe { libc::ioctl(self.event.as_raw_fd(), request, argument) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Passes each record that there is to `each`, as a whole, and gives its room back.
    pub fn read(&mut self, each: &mut dyn FnMut(&[u8])) {
        let head = self.word(DATA_HEAD).load(Ordering::Acquire);
        let mut tail = self.word(DATA_TAIL).load(Ordering::Relaxed);
        let mut record = [0; RECORD_MAX];
        while tail < head {
            let mut header = [0; 8];
            self.copy(tail, &mut header);
            let len = usize::from(u16::from_ne_bytes([header[6], header[7]]));
            // The kernel writes whole records; a header that is none would be the end of all sense.
            if len < header.len() || len as u64 > head - tail {
                tail = head;
                break;
            }
            self.copy(tail, &mut record[..len]);
            each(&record[..len]);
            tail += len as u64;
        }
        self.word(DATA_TAIL).store(tail, Ordering::Release);
    }

    /// Copies what the kernel has written at `at`, around the end of the buffer.
    fn copy(&self, at: u64, to: &mut [u8]) {
        let size = self.map_len - self.page;
        // Its length is a power of two.
        let start = usize::try_from(at & (size as u64 - 1)).unwrap_or(0);
        let (first, rest) = to.split_at_mut(to.len().min(size - start));
        self.copy_part(start, first);
        self.copy_part(0, rest);
    }

    /// Copies from `start` on, which with the length of `to` lies within the buffer.
    fn copy_part(&self, start: usize, to: &mut [u8]) {
        assert!(self.page + start + to.len() <= self.map_len, "beyond the buffer");
        // SAFETY: within the mapping, as just compared.
        let from = unsafe { self.map.add(self.page + start) };
        // SAFETY: likewise. The kernel writes beyond the head only, and what lies before it is not given back before this has
        // ended.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
    }

    /// A word of the page that the buffer begins with.
    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: both offsets lie in the first page of the mapping.
        let word = unsafe { self.map.add(offset) };
        // SAFETY: the word is aligned there, and there for as long as `self` lives; the kernel reads and writes it whole.
        unsafe { AtomicU64::from_ptr(word.as_ptr().cast()) }
    }
}

impl AsFd for Samples {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Drop for Samples {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

/// The CPUs that are on, by their numbers. Documentation/admin-guide/cputopology.rst in the kernel tree.
pub fn online_cpus() -> io::Result<Vec<u32>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    cpus(&text).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

/// `0-3` or `0,2-7`.
fn cpus(list: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.extend(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn structs_have_the_layout_of_the_kernels() {
        assert_eq!(size_of::<Attr>(), 112);
        assert_eq!((offset_of!(Attr, flags), offset_of!(Attr, clockid)), (40, 92));
        assert_eq!((offset_of!(Attr, sample_max_stack), offset_of!(Attr, wakeup_watermark)), (108, 48));
    }

    #[test]
    fn cpus_are_listed() {
        assert_eq!(cpus("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!([cpus(""), cpus("a-b")], [None, None]);
    }

    #[test]
    fn what_this_process_does_is_sampled() {
        let cpu = online_cpus().unwrap()[0];
        let mut samples = match Samples::open(cpu, 1_000_000, 8) {
            // Not for everybody, and not in every container.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::ENOSYS)) => {
                assert!(
                    std::env::var_os("MUST_RUN").is_none_or(|v| v != "1"),
                    "MUST_RUN=1, but this test needs perf_event_open: {error}"
                );
                println!("skip: needs perf_event_open: {error}");
                return;
            }
            other => other.unwrap(),
        };
        samples.enable().unwrap();
        let named = std::thread::Builder::new().name("perf test".into()).spawn(|| ()).unwrap();
        named.join().unwrap();
        samples.disable().unwrap();
        // What ran on that CPU meanwhile is not known; that its records are whole is.
        samples.read(&mut |record| {
            let kind = u32::from_ne_bytes(*record.first_chunk().unwrap());
            assert!((1..=32).contains(&kind), "{kind}");
        });
        samples.read(&mut |_| panic!("all has been read"));
    }
}
