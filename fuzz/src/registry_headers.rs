//! Header fields of registries and token servers. Challenges that were read and are written again read the same.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use skiff_registry::header::{Challenge, challenges, content_range, next_link, retry_after, upload_range};

fuzz_target!(|field: &str| {
    let found = challenges(field);
    for challenge in &found {
        assert!(!challenge.scheme.is_empty());
        assert!(!challenge.scheme.contains(|c: char| c.is_ascii_uppercase() || c.is_whitespace()));
    }
    let written: Vec<String> = found.iter().map(write).collect();
    assert_eq!(challenges(&written.join(", ")), found);

    if let Some(link) = next_link(field) {
        assert!(field.contains(&format!("<{link}>")) && !link.contains('>'));
    }
    // The year 10000 is far enough.
    let most = Duration::from_secs(8100 * 366 * 86_400);
    assert!(
        retry_after(field, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 31))
            .is_none_or(|wait| wait < most)
    );
    if let Some(range) = content_range(field) {
        assert!(range.start.zip(range.total).is_none_or(|(start, total)| start < total));
    }
    if let Some(count) = upload_range(field) {
        assert_ne!(count, 1);
    }
});

fn write(challenge: &Challenge) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
    let parameter = |(name, value): &(String, String)| format!("{name}=\"{}\"", escaped(value));
    let parameters: Vec<String> = challenge.parameters.iter().map(parameter).collect();
    format!("{} {}", challenge.scheme, parameters.join(", ")).trim_end().to_owned()
}
