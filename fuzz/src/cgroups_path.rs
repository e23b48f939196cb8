//! `linux.cgroupsPath`, which must not lead out of the hierarchy.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use skiff_fuzz::one_line;
use skiff_runtime::cgroup::{CgroupsPath, Manager};

fuzz_target!(|input: (Option<&str>, u8)| {
    let (text, manager) = input;
    let manager = match manager % 3 {
        0 => Manager::Files,
        1 => Manager::Systemd,
        _ => Manager::UserSystemd(Path::new("user.slice/user-1000.slice/user@1000.service")),
    };
    match CgroupsPath::parse(text, "id", manager) {
        Ok(path) => {
            let directory = path.directory();
            assert!(directory.components().next().is_some());
            assert!(directory.components().all(|part| matches!(part, Component::Normal(_))), "{directory:?}");
            assert!(!directory.as_os_str().as_encoded_bytes().iter().any(|byte| matches!(byte, 0 | b'\n')));
        }
        Err(error) => one_line(&error.to_string()),
    }
});
