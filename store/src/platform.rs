//! Which of several manifests is for this host.

use crate::spec::{Descriptor, Platform};

/// This host's architecture in Go's words.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// The first manifest for linux on `architecture`, the baseline variant before any other.
///
/// Manifests that name no platform are taken only if none does. Errors: the platforms that there are.
pub(crate) fn choose<'a>(manifests: &[&'a Descriptor], architecture: &str) -> Result<&'a Descriptor, String> {
    let fits = |descriptor: &&&Descriptor| {
        let platform = descriptor.platform.as_ref();
        platform.is_some_and(|p| p.os == "linux" && p.architecture == architecture)
    };
    let best = manifests.iter().filter(fits).min_by_key(|it| rank(it.platform.as_ref(), architecture));
    let unnamed = || match manifests {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    };
    best.or_else(unnamed).copied().ok_or_else(|| {
        let mut there: Vec<_> = manifests.iter().filter_map(|it| it.platform.as_ref()).map(show).collect();
        there.retain(|platform| platform != "unknown/unknown");
        there.dedup();
        match there.is_empty() {
            true => "no manifest names a platform".to_owned(),
            false => format!("nothing for linux/{architecture}, only for {}", there.join(", ")),
        }
    })
}

/// As Docker writes it.
pub(crate) fn show(platform: &Platform) -> String {
    let variant = if platform.variant.is_empty() { "" } else { "/" };
    format!("{}/{}{variant}{}", platform.os, platform.architecture, platform.variant)
}

/// Lower is better: a variant that every host of the architecture can run comes first.
fn rank(platform: Option<&Platform>, architecture: &str) -> u8 {
    let variant = platform.map_or("", |platform| &platform.variant);
    match (architecture, variant) {
        (_, "") | ("amd64", "v1") | ("arm64", "v8") | ("arm", "v7") => 0,
        ("arm", "v6") => 1,
        ("arm", "v5") => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    /// `platforms` are separated by blanks, `-` names none; `expect` is the index chosen or the error.
    fn check(platforms: &str, architecture: &str, expect: &str) {
        let descriptor = |platform: &str| {
            let mut part = platform.split('/').map(str::to_owned);
            let mut next = || part.next().unwrap_or_default();
            Descriptor {
                media_type: String::new(),
                digest: Digest::of(platform.as_bytes()),
                size: 0,
                platform: (platform != "-").then(|| Platform {
                    os: next(),
                    architecture: next(),
                    variant: next(),
                }),
                annotations: Default::default(),
            }
        };
        let all: Vec<_> = platforms.split_whitespace().map(descriptor).collect();
        let refs: Vec<_> = all.iter().collect();
        let got = match choose(&refs, architecture) {
            Ok(chosen) => all.iter().position(|it| it.digest == chosen.digest).unwrap().to_string(),
            Err(error) => error,
        };
        assert_eq!(got, expect, "{platforms} on {architecture}");
    }

    #[test]
    fn platforms() {
        check("linux/arm64/v8 linux/amd64", "amd64", "1");
        check("linux/arm64/v8 linux/amd64", "arm64", "0");
        check("linux/amd64/v3 linux/amd64", "amd64", "1");
        check("linux/amd64/v3 linux/arm64", "amd64", "0");
        check("linux/arm/v5 linux/arm/v7 linux/arm/v6", "arm", "1");
        check("windows/amd64 linux/amd64", "amd64", "1");
        check("unknown/unknown linux/s390x", "s390x", "1");
        check("-", "amd64", "0");
        check(
            "linux/arm64/v8 windows/amd64",
            "amd64",
            "nothing for linux/amd64, only for linux/arm64/v8, windows/amd64",
        );
        check("linux/s390x unknown/unknown", "amd64", "nothing for linux/amd64, only for linux/s390x");
        check("- -", "amd64", "no manifest names a platform");
        check("", "amd64", "no manifest names a platform");
    }
}
