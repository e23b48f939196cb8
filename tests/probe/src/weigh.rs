//! CPU time in known proportions, for those who sample it: three functions that stand one, two and four times as much of the same
//! work, and one that has the kernel work.

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Rounds of a piece of work: some microseconds.
const PIECE: u64 = 4096;

/// Uses so much CPU time.
pub(crate) fn functions(cpu_ms: u64) -> Result<(), String> {
    let mut state = 1;
    while used()? < Duration::from_millis(cpu_ms) {
        // Seldom enough that reading the clock is nothing beside it.
        for _ in 0..64 {
            state = probe_weighs_one(state);
            state = probe_weighs_two(state);
            state = probe_weighs_four(state);
        }
    }
    black_box(state);
    Ok(())
}

/// Has the kernel fill memory for so long, in CPU time.
pub(crate) fn zeros(cpu_ms: u64) -> Result<(), String> {
    let mut memory = vec![0; 1 << 20];
    let mut file = File::open("/dev/zero").map_err(|e| e.to_string())?;
    while used()? < Duration::from_millis(cpu_ms) {
        file.read_exact(black_box(&mut memory)).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn used() -> Result<Duration, String> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).map_err(|e| e.to_string())
}

/// The same instructions in each function, which differ in nothing but how often.
macro_rules! weighs {
    ($name:ident, $times:literal) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(mut state: u64) -> u64 {
            for round in 0..PIECE * $times {
                state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round));
            }
            // So that no two of them are one to the linker.
            state ^ $times
        }
    };
}
weighs!(probe_weighs_one, 1);
weighs!(probe_weighs_two, 2);
weighs!(probe_weighs_four, 4);
