//! A layer's tar into a directory: nothing appears beside it, and what is unpacked makes the same tar again.
#![no_main]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let directory = DIRECTORY.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        place.join(format!("skiff-fuzz-unpack-{}", std::process::id()))
    });
    fs::create_dir(directory).expect("mkdir");
    fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).expect("chmod");
    skiff_store::fuzzing::unpack(data, directory);
    fs::remove_dir_all(directory).expect("remove");
});
