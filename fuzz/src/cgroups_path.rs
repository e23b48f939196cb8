//! `linux.cgroupsPath`, which must not lead out of the hierarchy.
#![no_main]

use std::path::Component;

use libfuzzer_sys::fuzz_target;
use skiff_fuzz::one_line;
use skiff_runtime::cgroup::CgroupsPath;

fuzz_target!(|input: (Option<&str>, bool)| {
    let (text, systemd) = input;
    match CgroupsPath::parse(text, "id", systemd) {
        Ok(path) => {
            let directory = path.directory();
            assert!(directory.components().next().is_some());
            assert!(directory.components().all(|part| matches!(part, Component::Normal(_))), "{directory:?}");
            assert!(!directory.as_os_str().as_encoded_bytes().iter().any(|byte| matches!(byte, 0 | b'\n')));
        }
        Err(error) => one_line(&error.to_string()),
    }
});
