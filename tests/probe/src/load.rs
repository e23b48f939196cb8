//! Loads for the limits to stop: memory, processes, processor time, files.

use std::ffi::c_void;
use std::fs::File;
use std::io::{IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZero;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg, PosixFadviseAdvice, posix_fadvise};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pause};

use crate::out;

const PAGE: usize = 4096;

/// Touches `mib` MiB and says so.
pub(crate) fn eat(mib: usize) {
    let mut memory = vec![0u8; mib << 20];
    for page in memory.chunks_mut(PAGE) {
        page[0] = 1;
    }
    out::line(&format!("ate {} MiB", std::hint::black_box(&memory).len() >> 20));
}

/// Lets a child do that, and says how it ended.
pub(crate) fn eat_in_child(mib: usize) -> Result<(), String> {
    // SAFETY: one thread; the child runs to its own exit.
    match unsafe { fork() }.map_err(|e| e.to_string())? {
        ForkResult::Child => {
            eat(mib);
            // SAFETY: leaves without running anything of the parent's.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            let end = match waitpid(child, None).map_err(|e| e.to_string())? {
                WaitStatus::Exited(_, code) => format!("exited {code}"),
                WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
                other => format!("{other:?}"),
            };
            out::line(&end);
            Ok(())
        }
    }
}

/// Sends 1, 2, 3, … to a datagram socket, ten a second, through one that stays connected.
pub(crate) fn tell(socket: &str) -> Result<(), String> {
    let own = UnixDatagram::unbound().map_err(|e| e.to_string())?;
    own.connect(socket).map_err(|e| e.to_string())?;
    for number in 1_u64.. {
        own.send(number.to_string().as_bytes()).map_err(|e| e.to_string())?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Tells a service manager, by the socket of the environment, and waits. sd_notify(3)
pub(crate) fn say(messages: &[&str]) -> Result<i32, String> {
    let own = UnixDatagram::unbound().map_err(|e| e.to_string())?;
    let socket = std::env::var("NOTIFY_SOCKET").map_err(|e| e.to_string())?;
    own.connect(socket).map_err(|e| e.to_string())?;
    for message in messages {
        own.send(message.as_bytes()).map_err(|e| e.to_string())?;
    }
    crate::signals::wait()
}

/// Tells it one thing, together with a connection that takes for ever to close. socket(7), `SO_LINGER`
pub(crate) fn say_lingering(message: &str) -> Result<(), String> {
    let connection = unread().map_err(|e| e.to_string())?;
    let linger = libc::linger { l_onoff: 1, l_linger: 10_000 };
    setsockopt(&connection, sockopt::Linger, &linger).map_err(|e| e.to_string())?;
    let own = UnixDatagram::unbound().map_err(|e| e.to_string())?;
    let socket = std::env::var("NOTIFY_SOCKET").map_err(|e| e.to_string())?;
    own.connect(socket).map_err(|e| e.to_string())?;
    let descriptors = [connection.as_raw_fd()];
    let with = [ControlMessage::ScmRights(&descriptors)];
    let part = [IoSlice::new(message.as_bytes())];
    let sent = sendmsg::<()>(own.as_raw_fd(), &part, &with, MsgFlags::empty(), None);
    sent.map_err(|e| e.to_string())?;
    // Whoever has received it is the last to close it.
    drop(connection);
    out::line("said");
    loop {
        pause();
    }
}

/// A connection with as much in it as nobody reads.
fn unread() -> std::io::Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut connection = TcpStream::connect(listener.local_addr()?)?;
    std::mem::forget(listener.accept()?);
    connection.set_nonblocking(true)?;
    while connection.write(&[0; 65536]).is_ok() {}
    Ok(connection)
}

/// Makes a file and locks it, until it is killed. flock(2)
pub(crate) fn lock(file: &str) -> Result<(), String> {
    let file = File::create(file).map_err(|e| e.to_string())?;
    let _locked = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.to_string())?;
    loop {
        pause();
    }
}

/// Forks up to `count` children that stay, and says how many there were and what stopped it.
pub(crate) fn forks(count: usize) {
    let mut children: Vec<Pid> = Vec::new();
    let mut end = "ok".to_owned();
    while children.len() < count {
        // SAFETY: one thread; the child only waits to be killed.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => loop {
                pause();
            },
            Ok(ForkResult::Parent { child }) => children.push(child),
            Err(error) => {
                end = format!("{error:?}");
                break;
            }
        }
    }
    out::line(&format!("{} {end}", children.len()));
    for child in children {
        let _killed = kill(child, Signal::SIGKILL);
        let _reaped = waitpid(child, None);
    }
}

/// The same with threads.
pub(crate) fn threads(count: usize) {
    let mut started = 0;
    let start = || std::thread::Builder::new().spawn(std::thread::park);
    let end = loop {
        if started == count {
            break "ok".to_owned();
        }
        match start() {
            Ok(_) => started += 1,
            Err(error) => {
                break format!("{:?}", nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0)));
            }
        }
    };
    out::line(&format!("{started} {end}"));
}

/// Spins for `wall_ms` and prints the CPU time it got, in milliseconds.
pub(crate) fn burn(wall_ms: u64) -> Result<(), String> {
    // The clock runs on over exec: what the process did before it became this program is not this program's.
    let used = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from);
    let before = used().map_err(|e| e.to_string())?;
    let end = Instant::now() + Duration::from_millis(wall_ms);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    let after = used().map_err(|e| e.to_string())?;
    out::line(&(after - before).as_millis().to_string());
    Ok(())
}

/// Reads pages of a file (`rFIRST+COUNT`) and touches single ones in a mapping of it (`mPAGE`), in this order, and says so. Then `forget` takes
/// the file out of the page cache, and `told` says first which of its pages are in the mapping now.
pub(crate) fn touch(path: &str, pages: &[&str]) -> Result<(), String> {
    let odd = |word: &str| format!("use: {word}: neither rFIRST+COUNT nor mPAGE");
    let number = |text: &str, word: &str| text.parse::<usize>().map_err(|_| odd(word));
    let file = File::open(path).map_err(|e| format!("open {path}: {e}"))?;
    let size =
        usize::try_from(file.metadata().map_err(|e| e.to_string())?.len()).map_err(|e| e.to_string())?;
    let length = NonZero::new(size).ok_or("use: the file is empty")?;
    let mapped = map(&file, length).map_err(|e| format!("map {path}: {e}"))?.cast::<u8>();
    let (pages, then) = match pages {
        [pages @ .., then @ ("forget" | "told")] => (pages, *then),
        pages => (pages, ""),
    };
    for &word in pages {
        if let Some((first, count)) = word.strip_prefix('r').and_then(|text| text.split_once('+')) {
            let mut bytes = vec![0; number(count, word)? * PAGE];
            let offset = number(first, word)? * PAGE;
            file.read_exact_at(&mut bytes, offset as u64).map_err(|e| format!("{word}: {e}"))?;
        } else {
            let page = number(word.strip_prefix('m').ok_or_else(|| odd(word))?, word)?;
            if page * PAGE >= size {
                return Err(odd(word));
            }
            // SAFETY: inside of the mapping, as has just been looked at.
            let at = unsafe { mapped.add(page * PAGE) };
            // SAFETY: mapped, and nobody makes the file shorter.
            std::hint::black_box(unsafe { at.read_volatile() });
        }
    }
    if then == "told" {
        let there =
            there(mapped.addr().get() / PAGE, size.div_ceil(PAGE)).map_err(|e| format!("pagemap: {e}"))?;
        out::line(&there.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    }
    if then == "forget" {
        // SAFETY: nobody looks into the mapping any more.
        unsafe { munmap(mapped.cast(), size) }.map_err(|e| format!("unmap {path}: {e}"))?;
        let forgotten = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        forgotten.map_err(|e| format!("forget {path}: {e}"))?;
    }
    out::line("used");
    Ok(())
}

/// Which of `count` pages of memory from the page `first` on are there, counted from that.
fn there(first: usize, count: usize) -> std::io::Result<Vec<usize>> {
    let mut entries = vec![0; count * 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, first as u64 * 8)?;
    // Bit 63 of an entry.
    Ok((0..count).filter(|page| entries[page * 8 + 7] >> 7 == 1).collect())
}

/// Maps the file where the last of 16 pages that a fault looks at together is the first of 4 that the file may have in one folio.
fn map(file: &File, length: NonZero<usize>) -> nix::Result<NonNull<c_void>> {
    const AROUND: usize = 16;
    const BEFORE: usize = 3;
    let room = length.saturating_add((AROUND + BEFORE) * PAGE);
    // SAFETY: a new mapping at an address that the kernel chooses.
    let free = unsafe { mmap_anonymous(None, room, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }?;
    let start = free.addr().get().next_multiple_of(AROUND * PAGE) + BEFORE * PAGE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
    // SAFETY: inside of the mapping made above, of which nobody knows; of a file that nobody changes.
    unsafe { mmap(NonZero::new(start), length, ProtFlags::PROT_READ, flags, file, 0) }
}

/// Writes `mib` MiB to a file and prints `ok` or the errno.
pub(crate) fn fill(path: &str, mib: usize) {
    let chunk = vec![7u8; 1 << 20];
    let write = || {
        let mut file = std::fs::File::create(path)?;
        (0..mib).try_for_each(|_| file.write_all(&chunk))?;
        file.sync_all()
    };
    let errno =
        |e: std::io::Error| format!("{:?}", nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(0)));
    out::line(&write().map_or_else(errno, |()| "ok".into()));
}
