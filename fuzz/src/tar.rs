//! The entries of a tar stream: reading ends, and what is read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| skiff_store::fuzzing::entries(data));
