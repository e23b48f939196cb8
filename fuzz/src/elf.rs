//! Symbols of executables, from containers: whatever they say, reading ends, within bounds, and names are clean.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_observe::stacks::{elf::Symbols, parse_maps};

/// Functions: fewer than a file of some KiB may name.
const MOST: usize = 99;

fuzz_target!(|data: &[u8]| {
    // The first bytes say where a name is asked for, too.
    let offset = data.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if let Ok(symbols) = Symbols::read(data, MOST) {
        assert!(symbols.len() <= MOST);
        for offset in [offset, offset & 0xffff, 0, data.len() as u64] {
            if let Some(name) = symbols.name(data, offset) {
                assert!(name.chars().count() <= 512 && !name.chars().any(char::is_control), "{name:?}");
            }
        }
        assert!(symbols.build_id().is_none_or(|id| id.len() <= 64));
    }
    for line in parse_maps(data).take(64) {
        assert!(line.name.len() <= data.len());
    }
});
