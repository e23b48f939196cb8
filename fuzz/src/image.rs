//! Manifests, indexes and configurations of images, as registries and archives say them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| skiff_store::fuzzing::documents(data));
