//! Two threads of one CPU that wake each other, a socket that sends to another, or a file that is written: what one of these takes.
//!
//! ```text
//! exchange switches COUNT       prints `exchange: 1203.5 ns per switch`
//! exchange packets COUNT        prints `exchange: 2611.0 ns per packet`, from one socket to another on loopback
//! exchange segments COUNT       the same of TCP, whose connection is made beforehand
//! exchange connections COUNT    of TCP connections, each made, accepted and closed
//! exchange blocks COUNT         writes so many blocks to /blocks, past the page cache
//! exchange processes COUNT      starts `exchange nothing 0` so often
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Read, Write, pipe};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use skiff_benches::samples::Samples;
use skiff_sys::schedule;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [what, count] = words[..] else {
        bail!("usage: exchange switches|packets|segments|connections|blocks|processes COUNT")
    };
    let count: u32 = count.parse().context("COUNT is no number")?;
    if what == "nothing" {
        return Ok(());
    }
    schedule::keep_on_this_cpu().context("stay on a CPU")?;
    let (ns, one) = match what {
        "switches" => (switches(count)?, "switch"),
        "packets" => (packets(count)?, "packet"),
        "segments" => (segments(count)?, "segment"),
        "connections" => (connections(count)?, "connection"),
        "blocks" => (blocks(count)?, "block"),
        "processes" => (processes(count)?, "process"),
        other => bail!("nothing is called {other}"),
    };
    println!("exchange: {ns:.1} ns per {one}");
    Ok(())
}

/// What one of `count` takes, ns: the median of a hundred parts, since others may run during some of them.
fn middle(count: u32, mut one: impl FnMut(u32) -> Result<()>) -> Result<f64> {
    const PARTS: u32 = 100;
    let each = count.div_ceil(PARTS);
    let mut samples = Samples::new();
    for part in 0..PARTS {
        let begun = Instant::now();
        (part * each..(part + 1) * each).try_for_each(&mut one)?;
        samples.push(begun.elapsed().as_secs_f64() * 1e9 / f64::from(each.max(1)));
    }
    Ok(samples.median())
}

/// A byte goes to and fro through two pipes: two switches each time.
fn switches(count: u32) -> Result<f64> {
    let ((mut from, mut to), (mut back_from, mut back_to)) = (pipe()?, pipe()?);
    let peer = thread::spawn(move || {
        let mut byte = [0];
        while from.read_exact(&mut byte).and_then(|()| back_to.write_all(&byte)).is_ok() {}
    });
    let mut byte = [0];
    let ns = middle(count / 2, |_| {
        to.write_all(&byte)?;
        Ok(back_from.read_exact(&mut byte)?)
    })? / 2.0;
    drop(to);
    drop(peer.join());
    Ok(ns)
}

fn packets(count: u32) -> Result<f64> {
    let to = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind a socket")?;
    let from = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind a socket")?;
    from.connect(to.local_addr()?)?;
    let mut bytes = [0; 64];
    middle(count, |_| {
        from.send(&bytes)?;
        to.recv(&mut bytes)?;
        Ok(())
    })
}

fn segments(count: u32) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind a socket")?;
    let mut from = TcpStream::connect(listener.local_addr()?).context("connect")?;
    let (mut to, _) = listener.accept().context("accept")?;
    from.set_nodelay(true)?;
    let mut bytes = [0; 64];
    middle(count, |_| {
        from.write_all(&bytes)?;
        Ok(to.read_exact(&mut bytes)?)
    })
}

fn connections(count: u32) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind a socket")?;
    let at = listener.local_addr()?;
    middle(count, |_| {
        let from = TcpStream::connect(at).context("connect")?;
        drop((listener.accept().context("accept")?, from));
        Ok(())
    })
}

/// What a disk takes whole.
#[repr(align(4096))]
struct Block([u8; 4096]);

fn blocks(count: u32) -> Result<f64> {
    const PLACES: u32 = 64;
    let path = "/blocks";
    let file: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .context("open /blocks")?;
    let block = Block([1; 4096]);
    let write = |nth: u32| {
        file.write_all_at(&block.0, u64::from(nth % PLACES) * 4096)
            .context("write a block past the page cache")
    };
    (0..PLACES).try_for_each(write)?;
    middle(count, write)
}

fn processes(count: u32) -> Result<f64> {
    let this = std::env::current_exe().context("find this program")?;
    middle(count, |_| {
        Command::new(&this).args(["nothing", "0"]).status().context("start this program")?;
        Ok(())
    })
}
