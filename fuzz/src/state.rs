//! State files: what is on record of a container, and the state that hooks are told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_fuzz::one_line;
use skiff_runtime::container::Record;
use skiff_runtime::oci::json;
use skiff_runtime::oci::spec::State;

fuzz_target!(|text: &str| {
    match json::read::<Record>(text) {
        Ok(record) => {
            let again = serde_json::to_string(&record).expect("what has been read can be written");
            assert_eq!(json::read::<Record>(&again).as_ref(), Ok(&record));
        }
        Err(message) => one_line(&message),
    }
    match json::read::<State>(text) {
        Ok(state) => {
            let again = serde_json::to_string(&state).expect("what has been read can be written");
            assert_eq!(json::read::<State>(&again).as_ref(), Ok(&state));
        }
        Err(message) => one_line(&message),
    }
});
