//! Traffic of known size on the container's own loopback device, and direct I/O.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use crate::out;

/// What O_DIRECT wants addresses and lengths to be a multiple of.
const ALIGNED: usize = 4096;

/// Sends `count` datagrams of `size` bytes and receives each.
pub(crate) fn packets(count: usize, size: usize) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let to = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(told)?;
    let from = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(told)?;
    from.connect(to.local_addr().map_err(told)?).map_err(told)?;
    let (sent, mut received) = (vec![7; size], vec![0; size + 1]);
    for _ in 0..count {
        from.send(&sent).map_err(told)?;
        if to.recv(&mut received).map_err(told)? != size {
            return Err("a datagram of another size".to_owned());
        }
    }
    out::line(&format!("sent {count} packets of {size} bytes"));
    Ok(())
}

/// Makes `count` TCP connections to itself, with a byte to and fro on each, and tries `refused` that nobody listens for.
pub(crate) fn connections(count: usize, refused: usize) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(told)?;
    let address = listener.local_addr().map_err(told)?;
    for _ in 0..count {
        let mut one = TcpStream::connect(address).map_err(told)?;
        let (mut other, _) = listener.accept().map_err(told)?;
        let mut byte = [1];
        one.write_all(&byte).and_then(|()| other.read_exact(&mut byte)).map_err(told)?;
        other.write_all(&byte).and_then(|()| one.read_exact(&mut byte)).map_err(told)?;
    }
    drop(listener);
    for _ in 0..refused {
        if TcpStream::connect(address).is_ok() {
            return Err("somebody listens".to_owned());
        }
    }
    out::line(&format!("made {count} connections, was refused {refused}"));
    Ok(())
}

/// Writes and reads so many blocks of `size` bytes of a file or device, past the page cache, and says how long the writes took. open(2),
/// O_DIRECT.
pub(crate) fn direct(path: &str, writes: usize, reads: usize, size: usize) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    if size == 0 || !size.is_multiple_of(ALIGNED) {
        return Err(format!("not a multiple of {ALIGNED}: {size}"));
    }
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).map_err(told)?;
    let mut room = vec![0; size + ALIGNED];
    let first = room.as_ptr().align_offset(ALIGNED);
    let block = &mut room[first..first + size];
    let mut waited = Duration::ZERO;
    for nth in 0..writes {
        let begun = Instant::now();
        file.write_all_at(block, (nth * size) as u64).map_err(told)?;
        waited += begun.elapsed();
    }
    for nth in 0..reads {
        file.read_exact_at(block, (nth * size) as u64).map_err(told)?;
    }
    let waited_ns = waited.as_nanos();
    out::line(&format!("wrote {writes} and read {reads} blocks of {size} bytes, {waited_ns} ns in writes"));
    Ok(())
}
