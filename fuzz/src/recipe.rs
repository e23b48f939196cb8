//! What is kept beside a layer to give its tar again, with damage in it.
#![no_main]

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static CONTENT: OnceLock<File> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let content = CONTENT.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("skiff-fuzz-recipe-{}", std::process::id()));
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).expect("create");
        std::fs::remove_file(path).expect("remove");
        file.write_all(b"content of a file").expect("write");
        file
    });
    // Steps are compressed, which damage would seldom get past: also as they stand.
    skiff_store::fuzzing::recipe(data, content);
    skiff_store::fuzzing::recipe_of_steps(data, content);
});
