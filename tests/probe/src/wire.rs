//! Conversations of known size with a peer behind a wire, and the peer.
//!
//! `peer` listens for datagrams and connections on [`PORT`]. A datagram that begins with [`CALL`] asks it to connect to whoever has sent
//! it, so often as the next byte says; any other comes back. A connection is driven by the one side, `talk`, that says first how many
//! rounds of how many bytes there will be; the other sends back each, and closes first, so that the driver's socket is a whole one up to
//! the last packet. On `deaf`, a line on its standard input, the peer receives nothing more of its connections until `hear`.

use std::io::{BufRead, Read, Write};
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::out;

const PORT: u16 = 7007;
const CALL: u8 = b'c';
/// Where the driver listens for calls.
const BACK: u16 = 7008;

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Answers until standard input ends.
pub(crate) fn peer() -> Result<(), String> {
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).map_err(told)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).map_err(told)?;
    let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let (all, called) = (Arc::clone(&open), Arc::clone(&open));
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer(stream, &all))));
    thread::spawn(move || reflect(&datagrams, &called));
    out::line("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(told)?;
        // Who has connected may not have been accepted yet.
        while open.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            thread::yield_now();
        }
        for stream in open.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            set_deaf(stream, line == "deaf")?;
        }
        out::line(&line);
    }
    Ok(())
}

fn reflect(datagrams: &UdpSocket, open: &Mutex<Vec<TcpStream>>) -> Result<(), String> {
    let mut bytes = vec![0; 65536];
    loop {
        let (length, from) = datagrams.recv_from(&mut bytes).map_err(told)?;
        match bytes[..length] {
            [CALL, times] => (0..times).for_each(|_| drop(call(from.ip(), open))),
            _ => drop(datagrams.send_to(&bytes[..length], from).map_err(told)?),
        }
    }
}

fn call(whom: IpAddr, open: &Mutex<Vec<TcpStream>>) -> Result<(), String> {
    answer(TcpStream::connect((whom, BACK)).map_err(told)?, open)
}

/// Sends back what the driver sends, and closes.
fn answer(mut stream: TcpStream, open: &Mutex<Vec<TcpStream>>) -> Result<(), String> {
    stream.set_nodelay(true).map_err(told)?;
    open.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone().map_err(told)?);
    let mut head = [0; 8];
    stream.read_exact(&mut head).map_err(told)?;
    let [a, b, c, d, rest @ ..] = head;
    let (rounds, size) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(rest));
    let mut bytes = vec![0; size as usize];
    for _ in 0..rounds {
        stream.read_exact(&mut bytes).and_then(|()| stream.write_all(&bytes)).map_err(told)?;
    }
    open.lock().unwrap_or_else(PoisonError::into_inner).pop();
    Ok(())
}

/// Has the kernel throw away what comes for the socket before TCP sees it, or not any more. socket(7), `SO_ATTACH_FILTER`.
fn set_deaf(stream: &TcpStream, is_deaf: bool) -> Result<(), String> {
    // "return 0": of each packet nothing is kept.
    let mut nothing = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
    let filter = libc::sock_fprog { len: 1, filter: &raw mut nothing };
    let option = if is_deaf { libc::SO_ATTACH_FILTER } else { libc::SO_DETACH_FILTER };
    let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(told)?;
    // SAFETY: the program is alive and as long as said; to detach, it is not looked at.
    let set = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const filter).cast(), length)
    };
    if set == 0 { Ok(()) } else { Err(told(std::io::Error::last_os_error())) }
}

/// Sends `count` datagrams of `size` bytes to the peer, one at a time, and receives each back.
pub(crate) fn datagrams(peer: &str, count: usize, size: usize) -> Result<(), String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(told)?;
    socket.connect(address(peer)?).map_err(told)?;
    let (sent, mut received) = (vec![7; size], vec![0; size + 1]);
    for _ in 0..count {
        socket.send(&sent).map_err(told)?;
        if socket.recv(&mut received).map_err(told)? != size {
            return Err("a datagram of another size".to_owned());
        }
    }
    out::line(&format!("sent {count} datagrams of {size} bytes"));
    Ok(())
}

/// Connects to the peer `count` times, and drives `rounds` of `size` bytes on each.
pub(crate) fn connect(peer: &str, count: usize, rounds: u32, size: u32) -> Result<(), String> {
    for _ in 0..count {
        talk(TcpStream::connect(address(peer)?).map_err(told)?, rounds, size)?;
    }
    out::line(&format!("made {count} connections"));
    Ok(())
}

/// Has the peer connect to this `count` times, and drives `rounds` of `size` bytes on each.
pub(crate) fn accept(peer: &str, count: u8, rounds: u32, size: u32) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, BACK)).map_err(told)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(told)?;
    socket.send_to(&[CALL, count], address(peer)?).map_err(told)?;
    for _ in 0..count {
        talk(listener.accept().map_err(told)?.0, rounds, size)?;
    }
    out::line(&format!("accepted {count} connections"));
    Ok(())
}

/// Connects once, says `ready`, and talks when it is sent SIGUSR1.
pub(crate) fn connect_then_wait(peer: &str, rounds: u32, size: u32) -> Result<(), String> {
    let mut awaited = nix::sys::signal::SigSet::empty();
    awaited.add(nix::sys::signal::Signal::SIGUSR1);
    awaited.thread_block().map_err(told)?;
    let stream = TcpStream::connect(address(peer)?).map_err(told)?;
    out::line("ready");
    awaited.wait().map_err(told)?;
    talk(stream, rounds, size)?;
    out::line("talked");
    Ok(())
}

fn talk(mut stream: TcpStream, rounds: u32, size: u32) -> Result<(), String> {
    stream.set_nodelay(true).map_err(told)?;
    stream.write_all(&[rounds.to_le_bytes(), size.to_le_bytes()].concat()).map_err(told)?;
    let (sent, mut received) = (vec![7; size as usize], vec![0; size as usize]);
    for _ in 0..rounds {
        stream.write_all(&sent).and_then(|()| stream.read_exact(&mut received)).map_err(told)?;
    }
    match stream.read(&mut received).map_err(told)? {
        0 => Ok(()),
        _ => Err("more than was sent".to_owned()),
    }
}

fn address(peer: &str) -> Result<SocketAddr, String> {
    Ok(SocketAddr::new(peer.parse().map_err(told)?, PORT))
}
