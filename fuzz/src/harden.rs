//! Profiles of runs: what is accepted makes a policy whose files keep to their forms, whatever names are in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use skiff_fuzz::one_line;
use skiff_observe::harden::{Engine, Needs, Policy, Recorded, Terms, files, words};

fuzz_target!(|bytes: &[u8]| {
    let run = match Recorded::parse(bytes) {
        Ok(run) => run,
        Err(reason) => return one_line(&reason),
    };
    let runs = [run];
    let needs = match Needs::of(&runs, true) {
        Ok(needs) => needs,
        Err(reason) => return one_line(&reason),
    };
    needs.refusals(&runs[0]).iter().for_each(|line| one_line(line));
    let policy = match Policy::of(needs, Terms::default()) {
        Ok(policy) => policy,
        Err(reason) => return one_line(&reason),
    };
    for file in files(&policy, &Engine::ALL, "/policy").expect("a plain directory") {
        if file.path.ends_with(".json") {
            let _document: Value = serde_json::from_str(&file.content).expect("JSON");
        } else if file.path.ends_with("flags") {
            let flags = words(&file.content).expect("words");
            assert_eq!(flags.len(), file.content.lines().count());
            assert!(flags.iter().all(|flag| flag.starts_with("--")));
        } else {
            // Nothing in it can begin a key of its own: names are on lines of the form's making only.
            let keys = file.content.lines().filter(|line| line.trim_start().starts_with("privileged:"));
            assert!(keys.count() <= 1);
        }
    }
});
