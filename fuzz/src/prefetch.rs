//! Prefetch profiles: what is accepted keeps to its bounds, comes back as it was written, and compares with itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_store::Digest;
use skiff_store::prefetch::{PAGE, Profile, Run, adopt, replay};

fuzz_target!(|bytes: &[u8]| {
    let Ok(profile) = Profile::parse(bytes) else { return };
    assert!(profile.pages() <= 1 << 18);
    for file in &profile.files {
        assert!(!file.path.starts_with('/') && file.path.split('/').all(|part| part != ".."));
        let end = file.ranges.last().map_or(0, |range| range.1 + range.2);
        assert!(end <= file.size.div_ceil(PAGE));
    }
    assert_eq!(Profile::parse(&profile.to_json()).as_ref(), Ok(&profile));
    for (was_replayed, has_failed) in [(false, false), (true, false), (false, true)] {
        let learnt = profile.learn(profile.clone(), Run { was_replayed, has_failed });
        assert!(Profile::parse(&learnt.to_json()).is_ok());
    }
    assert_eq!(adopt(profile.clone(), Digest::of(b"image"), &[]), None);
    // None of its layers is here.
    assert_eq!(replay(&profile, &[], 16, || None).bytes, 0);
});
