//! Two threads of one CPU that wake each other, or a socket that sends to another: what one switch, or one packet, takes.
//!
//! ```text
//! exchange switches COUNT   prints `exchange: 1203.5 ns per switch`
//! exchange packets COUNT    prints `exchange: 2611.0 ns per packet`, from one socket to another on loopback
//! ```

use std::io::{Read, Write, pipe};
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use skiff_sys::schedule;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [what, count] = words[..] else { bail!("usage: exchange switches|packets COUNT") };
    let count: u32 = count.parse().context("COUNT is no number")?;
    schedule::keep_on_this_cpu().context("stay on a CPU")?;
    let ns = match what {
        "switches" => switches(count)?,
        "packets" => packets(count)?,
        other => bail!("{other} is neither switches nor packets"),
    };
    println!("exchange: {ns:.1} ns per {}", what.trim_end_matches("es").trim_end_matches('s'));
    Ok(())
}

/// A byte goes to and fro through two pipes: two switches each time.
fn switches(count: u32) -> Result<f64> {
    let ((mut from, mut to), (mut back_from, mut back_to)) = (pipe()?, pipe()?);
    let peer = thread::spawn(move || {
        let mut byte = [0];
        while from.read_exact(&mut byte).and_then(|()| back_to.write_all(&byte)).is_ok() {}
    });
    let mut byte = [0];
    let begun = Instant::now();
    for _ in 0..count / 2 {
        to.write_all(&byte)?;
        back_from.read_exact(&mut byte)?;
    }
    let ns = begun.elapsed().as_secs_f64() * 1e9 / f64::from(count / 2 * 2);
    drop(to);
    drop(peer.join());
    Ok(ns)
}

fn packets(count: u32) -> Result<f64> {
    let to = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind a socket")?;
    let from = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind a socket")?;
    from.connect(to.local_addr()?)?;
    let mut bytes = [0; 64];
    let begun = Instant::now();
    for _ in 0..count {
        from.send(&bytes)?;
        to.recv(&mut bytes)?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e9 / f64::from(count))
}
