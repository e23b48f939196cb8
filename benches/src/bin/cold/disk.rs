//! A file whose reads take as long as those of a slow disk, for a loop device: FUSE, by hand, since the kernel's dm-delay is not
//! everywhere. fuse(4), `include/uapi/linux/fuse.h`.
//!
//! A read takes its latency, whatever else is under way, and the disk gives so many bytes in a second, one read after the other.
//! What is written is there at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// How slow it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speed {
    /// Of each read.
    pub(crate) latency: Duration,
    /// Of all reads together.
    pub(crate) bytes_per_s: u64,
}

/// The file, as long as it is mounted.
#[derive(Debug)]
pub(crate) struct Disk {
    directory: PathBuf,
    queue: Arc<Queue>,
}

const NAME: &str = "disk";
const ROOT_NODE: u64 = 1;
const FILE_NODE: u64 = 2;
const HEADER: usize = 40;
/// Bytes of one request: the greatest write, and its headers.
const REQUEST_MAX: usize = (1 << 20) + 4096;
/// `FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES`
const FLAGS: u32 = 1 | 1 << 5 | 1 << 15 | 1 << 22;

/// What was read of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Taken {
    pub(crate) reads: u64,
    pub(crate) bytes: u64,
}

/// A read that waits for its time: that, its number, offset and size.
type Waiting = Reverse<(Instant, u64, u64, u32)>;

/// Those there are.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<BinaryHeap<Waiting>>,
    changed: Condvar,
    /// Reads so far, and their bytes.
    taken: Mutex<Taken>,
}

impl Disk {
    /// Shows the file `backing` as a slow one below `directory`, which has to be there.
    pub(crate) fn mount(directory: &Path, backing: &Path, speed: Speed) -> Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse").context("open /dev/fuse")?;
        let backing = File::options().read(true).write(true).open(backing).context("open the disk's file")?;
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,max_read=1048576", device.as_raw_fd());
        mount(
            Some("skiff-bench"),
            directory,
            Some("fuse"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(options.as_str()),
        )
        .context("mount the slow disk")?;
        let (device, backing) = (Arc::new(device), Arc::new(backing));
        let queue = Arc::new(Queue::default());
        let (own_device, own_backing, own_queue) = (device.clone(), backing.clone(), queue.clone());
        thread::spawn(move || answer_in_time(&own_device, &own_backing, &own_queue));
        let own_queue = queue.clone();
        thread::spawn(move || serve(&device, &backing, &own_queue, speed));
        Ok(Self { directory: directory.to_owned(), queue })
    }

    /// What was read since it was last asked.
    pub(crate) fn taken(&self) -> Taken {
        std::mem::take(&mut *self.queue.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The slow file.
    #[must_use]
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.join(NAME)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // With the mount the threads' device ends.
        let _unmounted = umount2(&self.directory, MntFlags::MNT_DETACH);
    }
}

fn serve(device: &File, backing: &File, queue: &Queue, speed: Speed) {
    let mut buffer = vec![0; REQUEST_MAX];
    let mut free_at = Instant::now();
    loop {
        let mut from = device;
        let length = match from.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Unmounted.
            Err(_) => return,
        };
        let request = &buffer[..length];
        let (opcode, unique, node) = (word(request, 4), long(request, 8), long(request, 16));
        let body = request.get(HEADER..).unwrap_or_default();
        if opcode == 15 {
            let (offset, size) = (long(body, 8), word(body, 16));
            let now = Instant::now();
            let transfer = Duration::from_nanos(u64::from(size) * 1_000_000_000 / speed.bytes_per_s);
            free_at = free_at.max(now) + transfer;
            let due = free_at.max(now + speed.latency);
            let mut taken = queue.taken.lock().unwrap_or_else(PoisonError::into_inner);
            *taken = Taken { reads: taken.reads + 1, bytes: taken.bytes + u64::from(size) };
            drop(taken);
            let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Reverse((due, unique, offset, size)));
            queue.changed.notify_one();
            continue;
        }
        let answer = match opcode {
            // FORGET, INTERRUPT, BATCH_FORGET: nobody waits.
            2 | 36 | 42 => continue,
            // LOOKUP
            1 if body == b"disk\0" => Ok(entry(backing)),
            1 => Err(libc::ENOENT),
            // GETATTR
            3 => Ok([&[0; 16][..], &attributes(node, backing)].concat()),
            // OPEN
            14 => Ok(vec![0; 16]),
            // WRITE
            16 => write(body, backing),
            // STATFS
            17 => Ok(vec![0; 80]),
            // RELEASE, FSYNC, FLUSH
            18 | 20 | 25 => Ok(Vec::new()),
            // INIT
            26 => Ok(init()),
            _ => Err(libc::ENOSYS),
        };
        reply(device, unique, answer);
    }
}

fn answer_in_time(device: &File, backing: &File, queue: &Queue) {
    let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let now = Instant::now();
        match waiting.peek() {
            Some(Reverse((due, ..))) if *due <= now => {
                let Some(Reverse((_, unique, offset, size))) = waiting.pop() else { continue };
                drop(waiting);
                let mut data = vec![0; size as usize];
                let read = backing.read_at(&mut data, offset);
                let answer = read.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
                reply(device, unique, answer.map(|length| data[..length].to_vec()));
                waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            }
            Some(Reverse((due, ..))) => {
                let left = *due - now;
                let woken = queue.changed.wait_timeout(waiting, left);
                waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            None => waiting = queue.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

fn reply(device: &File, unique: u64, answer: Result<Vec<u8>, i32>) {
    let (error, data) = match answer {
        Ok(data) => (0, data),
        Err(errno) => (-errno, Vec::new()),
    };
    let length = u32::try_from(16 + data.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(16 + data.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(error.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(data);
    let mut to = device;
    // Whoever asked may have been interrupted.
    let _written = to.write(&bytes);
}

fn init() -> Vec<u8> {
    // Version 7.31, 1 MiB of readahead and of each write, 512 requests at a time, 256 pages each.
    let mut bytes = Vec::with_capacity(64);
    for value in [7, 31, 1 << 20, FLAGS] {
        bytes.extend(u32::to_ne_bytes(value));
    }
    for value in [512_u16, 512] {
        bytes.extend(value.to_ne_bytes());
    }
    bytes.extend((1_u32 << 20).to_ne_bytes());
    bytes.extend(1_u32.to_ne_bytes());
    bytes.extend(256_u16.to_ne_bytes());
    bytes.resize(64, 0);
    bytes
}

fn entry(backing: &File) -> Vec<u8> {
    let mut bytes = FILE_NODE.to_ne_bytes().to_vec();
    bytes.resize(40, 0);
    bytes.extend(attributes(FILE_NODE, backing));
    bytes
}

fn attributes(node: u64, backing: &File) -> [u8; 88] {
    let (mode, size) = match node {
        ROOT_NODE => (libc::S_IFDIR | 0o700, 0),
        _ => (libc::S_IFREG | 0o600, backing.metadata().map_or(0, |found| found.len())),
    };
    let mut bytes = [0; 88];
    bytes[..8].copy_from_slice(&node.to_ne_bytes());
    bytes[8..16].copy_from_slice(&size.to_ne_bytes());
    bytes[16..24].copy_from_slice(&size.div_ceil(512).to_ne_bytes());
    bytes[60..64].copy_from_slice(&mode.to_ne_bytes());
    bytes[64..68].copy_from_slice(&1_u32.to_ne_bytes());
    bytes[80..84].copy_from_slice(&4096_u32.to_ne_bytes());
    bytes
}

fn write(body: &[u8], backing: &File) -> Result<Vec<u8>, i32> {
    let (offset, size) = (long(body, 8), word(body, 16));
    let data = body.get(40..40 + size as usize).ok_or(libc::EINVAL)?;
    backing.write_all_at(data, offset).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
    let mut bytes = size.to_ne_bytes().to_vec();
    bytes.resize(8, 0);
    Ok(bytes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}
