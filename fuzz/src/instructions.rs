//! Changes to an image in the words of a Dockerfile.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| skiff_store::fuzzing::instructions(text));
