//! A tight loop of the cheapest system call, getppid(2), that says what one took.
//!
//! ```text
//! spin COUNT   makes COUNT calls and prints `spin: 103.5 ns per call`
//! spin wait    prints `ready` and ends with its standard input
//! ```

use std::io::{self, Read, Write};
use std::time::Instant;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let argument = std::env::args().nth(1).context("usage: spin COUNT | spin wait")?;
    if argument == "wait" {
        io::stdout().write_all(b"ready\n").context("write to standard output")?;
        io::stdin().read_to_end(&mut Vec::new()).context("read standard input")?;
        return Ok(());
    }
    let count: u32 = argument.parse().context("COUNT is no number")?;
    let begun = Instant::now();
    for _ in 0..count {
        std::hint::black_box(nix::unistd::getppid());
    }
    println!("spin: {:.1} ns per call", begun.elapsed().as_secs_f64() * 1e9 / f64::from(count));
    Ok(())
}
