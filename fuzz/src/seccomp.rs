//! Filters in the specification's format and in docker's, and whether the kernel would take the programs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_fuzz::one_line;
use skiff_runtime::caps::CapSet;
use skiff_runtime::oci::json;
use skiff_runtime::oci::spec::Seccomp;
use skiff_runtime::seccomp::{Filter, Instruction, Kernel, Profile, compile, compile_spec};

fuzz_target!(|text: &str| {
    if let Ok(given) = json::read::<Seccomp>(text) {
        judge(compile_spec(&given));
    }
    if let Ok(profile) = Profile::parse(text) {
        judge(compile(&profile, CapSet::DOCKER, Kernel(6, 18)));
        judge(compile(&profile, CapSet::NONE, Kernel(3, 0)));
    }
});

fn judge(filter: Result<Filter, skiff_runtime::seccomp::Error>) {
    match filter {
        Ok(filter) => check(&filter.program),
        Err(error) => one_line(&error.to_string()),
    }
}

/// The kernel's rules (`bpf_check_classic`, `seccomp_check_filter`): known instructions, jumps that stay inside, loads of
/// whole words, a return at the end.
fn check(program: &[Instruction]) {
    assert!((1..=4096).contains(&program.len()));
    for (at, instruction) in program.iter().enumerate() {
        let left = program.len() - at - 1;
        match instruction.code {
            0x20 => assert!(instruction.k % 4 == 0 && instruction.k < 64),
            0x54 => {}
            0x05 => assert!((instruction.k as usize) < left),
            0x15 | 0x25 | 0x35 => assert!(usize::from(instruction.jt.max(instruction.jf)) < left),
            0x06 => {}
            code => panic!("instruction {code:#x}"),
        }
    }
    assert_eq!(program.last().map(|last| last.code), Some(0x06));
}
