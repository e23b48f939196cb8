//! The file of `exec --process`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_fuzz::{able_host, bare_host, one_line};
use skiff_runtime::oci::spec::Process;
use skiff_runtime::oci::{Terms, json, process};

fuzz_target!(|text: &str| {
    let given: Process = match json::read(text) {
        Ok(given) => given,
        Err(message) => return one_line(&message),
    };
    for facts in [able_host(), bare_host()] {
        match process(&given, None, &facts, &Terms::default()) {
            Ok(process) => {
                assert!(!process.argv.is_empty() && !process.cwd.to_bytes().starts_with(b"/"));
                process.warnings.iter().for_each(|warning| one_line(warning));
            }
            Err(error) => one_line(&error.to_string()),
        }
    }
});
