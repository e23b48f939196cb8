//! What images run on, and which of several manifests is for it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::spec::{Descriptor, or_default};

/// What an image runs on, in Go's words: `linux/arm64/v8`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    /// `amd64`, `arm64`, ….
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    /// `v7`, …; mostly empty.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// This host's.
    pub fn host() -> Self {
        Self { os: "linux".into(), architecture: host_architecture().into(), variant: String::new() }
    }

    /// Reads `OS[/ARCHITECTURE[/VARIANT]]`, or an architecture alone. Errors: one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let word = |part: &str| {
            let fine =
                !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
            let bad = || format!("{text:?} is not a platform, which is OS/ARCHITECTURE[/VARIANT]");
            if fine { Ok(part.to_lowercase()) } else { Err(bad()) }
        };
        let parts = text.split('/').map(word).collect::<Result<Vec<_>, _>>()?;
        let named = |os: &str, architecture: &str, variant: &str| {
            let (architecture, implied) = match architecture {
                "x86_64" | "x86-64" => ("amd64", ""),
                "i386" | "i686" => ("386", ""),
                "aarch64" => ("arm64", ""),
                "armhf" => ("arm", "v7"),
                "armel" => ("arm", "v6"),
                other => (other, ""),
            };
            let variant = if variant.is_empty() { implied } else { variant };
            Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.to_owned() }
        };
        match &*parts {
            [os] if matches!(&**os, "linux" | "windows" | "darwin" | "freebsd") => {
                Ok(named(os, host_architecture(), ""))
            }
            [architecture] => Ok(named("linux", architecture, "")),
            [os, architecture] => Ok(named(os, architecture, "")),
            [os, architecture, variant] => Ok(named(os, architecture, variant)),
            _ => Err(format!("{text:?} is not a platform, which is OS/ARCHITECTURE[/VARIANT]")),
        }
    }

    /// Whether this is the platform that is wanted, and no other that it can run as well; a variant matters only if one is wanted.
    pub fn fits(&self, want: &Self) -> bool {
        let variant = want.variant.is_empty()
            || variant(&want.architecture, &want.variant) == variant(&self.architecture, &self.variant);
        self.os == want.os && self.architecture == want.architecture && variant
    }

    /// Whether an image that says `self` is what is wanted; what it leaves out is not held against it.
    pub(crate) fn is_for(&self, want: &Self) -> bool {
        let architecture = match (&*want.architecture, &*self.architecture) {
            (_, "") | ("amd64", "386") | ("arm64", "arm") => true,
            (want, found) => want == found,
        };
        let os = self.os.is_empty() || self.os == want.os;
        let variant = want.variant.is_empty()
            || self.variant.is_empty()
            || variant(&want.architecture, &want.variant) == variant(&self.architecture, &self.variant);
        os && architecture && variant
    }
}

/// As Docker writes it.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = if self.variant.is_empty() { "" } else { "/" };
        write!(f, "{}/{}{variant}{}", self.os, self.architecture, self.variant)
    }
}

/// The variant that is meant where none is named.
fn variant<'a>(architecture: &str, variant: &'a str) -> &'a str {
    match (architecture, variant) {
        ("arm64", "") => "v8",
        ("arm", "") => "v7",
        ("amd64", "") => "v1",
        (_, variant) => variant,
    }
}

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

/// The manifest for the platform that is wanted, the baseline variant before any other unless one is named.
///
/// Manifests that name no platform are taken only if none does. Errors: the platforms that there are.
pub(crate) fn choose<'a>(manifests: &[&'a Descriptor], want: &Platform) -> Result<&'a Descriptor, String> {
    let fits =
        |descriptor: &&&Descriptor| descriptor.platform.as_ref().is_some_and(|platform| platform.fits(want));
    let best = manifests.iter().filter(fits).min_by_key(|it| rank(it.platform.as_ref(), &want.architecture));
    let unnamed = || match manifests {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    };
    best.or_else(unnamed).copied().ok_or_else(|| {
        let platforms = manifests.iter().filter_map(|it| it.platform.as_ref());
        let mut there: Vec<_> = platforms.map(Platform::to_string).collect();
        there.retain(|platform| platform != "unknown/unknown");
        there.dedup();
        match there.is_empty() {
            true => "no manifest names a platform".to_owned(),
            false => format!("nothing for {want}, only for {}", there.join(", ")),
        }
    })
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
    fn check(platforms: &str, want: &str, expect: &str) {
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
                urls: Vec::new(),
                annotations: Default::default(),
            }
        };
        let all: Vec<_> = platforms.split_whitespace().map(descriptor).collect();
        let refs: Vec<_> = all.iter().collect();
        let got = match choose(&refs, &Platform::parse(want).unwrap()) {
            Ok(chosen) => all.iter().position(|it| it.digest == chosen.digest).unwrap().to_string(),
            Err(error) => error,
        };
        assert_eq!(got, expect, "{platforms} on {want}");
    }

    #[test]
    fn platforms() {
        check("linux/arm64/v8 linux/amd64", "amd64", "1");
        check("linux/arm64/v8 linux/amd64", "arm64", "0");
        check("linux/amd64/v3 linux/amd64", "amd64", "1");
        check("linux/amd64/v3 linux/arm64", "amd64", "0");
        check("linux/arm/v5 linux/arm/v7 linux/arm/v6", "arm", "1");
        check("linux/arm/v5 linux/arm/v7 linux/arm/v6", "linux/arm/v6", "2");
        check("linux/arm64", "linux/arm64/v8", "0");
        check("linux/arm64/v9", "linux/arm64/v8", "nothing for linux/arm64/v8, only for linux/arm64/v9");
        check("windows/amd64 linux/amd64", "amd64", "1");
        check("linux/amd64 windows/amd64", "windows/amd64", "1");
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

    #[test]
    fn platforms_are_read_as_people_write_them() {
        let check = |text: &str, expect: &str| {
            let got = Platform::parse(text).map_or_else(|error| error, |platform| platform.to_string());
            assert!(got.starts_with(expect), "{text}: {got}, expected {expect}");
        };
        check("linux/amd64", "linux/amd64");
        check("Linux/ARM64/v8", "linux/arm64/v8");
        check("aarch64", "linux/arm64");
        check("linux/armhf", "linux/arm/v7");
        check("linux", "linux/");
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/amd64/\u{1b}", "l x/a"] {
            check(bad, &format!("{bad:?} is not a platform"));
        }
    }
}
