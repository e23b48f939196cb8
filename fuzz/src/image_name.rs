//! Names of images: what is one is printed as it is read, and is no path that leads anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_fuzz::one_line;
use skiff_store::{ImageName, ImageRef, Platform};

fuzz_target!(|text: &str| {
    match ImageName::parse(text) {
        Ok(name) => {
            for written in [name.to_string(), name.familiar()] {
                assert_eq!(ImageName::parse(&written).as_ref(), Ok(&name), "{written}");
            }
            assert!(!name.path().split('/').any(|part| matches!(part, "" | "." | "..")), "{name}");
            assert!(name.to_string().bytes().all(|byte| byte.is_ascii_graphic()), "{name}");
        }
        Err(message) => one_line(&message),
    }
    if let Ok(platform) = Platform::parse(text) {
        assert_eq!(Platform::parse(&platform.to_string()), Ok(platform));
    }
    if let Err(error) = ImageRef::parse(text) {
        one_line(&error.to_string());
    }
});
