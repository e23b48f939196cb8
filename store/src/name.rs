//! Names of images in registries, by docker's rules and with docker's defaults.

use std::fmt;

use crate::digest::Digest;

/// The registry that names without a host mean.
const DEFAULT_HOST: &str = "docker.io";
/// What docker.io's names without a slash stand below.
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// Longest path of a repository, in bytes (distribution's `NameTotalLengthMax`).
const PATH_MAX: usize = 255;
/// Longest tag, in bytes.
const TAG_MAX: usize = 128;

/// An image's name: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, completed as docker does.
///
/// Source: the reference grammar of the OCI distribution specification and of the distribution project.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageName {
    /// Reads a name as people write it: `alpine` is `docker.io/library/alpine:latest`.
    ///
    /// A name with a digest has a tag only if that was written. Errors: one line without the name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::try_from(digest.to_owned())?)),
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag)),
            _ => (rest, None),
        };
        let (host, path) = split_host(rest);
        check_host(host)?;
        let path = if host == DEFAULT_HOST && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        check_path(&path)?;
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let tag = tag.or(digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
        Ok(Self { host: host.to_owned(), path, tag, digest })
    }

    /// Host and port of the registry, such as `docker.io` or `localhost:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's path on that host, such as `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index, if there is one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `HOST/PATH`, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// `HOST/PATH` the way docker prints it: without the default host, and without `library/` there.
    pub fn familiar_repository(&self) -> String {
        match self.path.strip_prefix(OFFICIAL) {
            _ if self.host != DEFAULT_HOST => self.repository(),
            Some(official) if !official.contains('/') => official.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole name the way docker prints it.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_repository())
    }

    /// The same repository with another tag and no digest. Errors: not a tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, String> {
        check_tag(tag)?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository with a digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

/// In full: `docker.io/library/alpine:latest`.
impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.repository()))
    }
}

/// What stands before the first slash is a host if it could not be a path component, or is `localhost`.
fn split_host(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((host, path))
            if host.contains(['.', ':'])
                || host == "localhost"
                || host.contains(|c: char| c.is_ascii_uppercase()) =>
        {
            (if host == "index.docker.io" { DEFAULT_HOST } else { host }, path)
        }
        _ => (DEFAULT_HOST, text),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    let refuse = || Err(format!("{host:?} is not a registry's host and port"));
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return refuse();
    }
    if let Some(address) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().map(drop).or_else(|_| refuse());
    }
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.split('.').all(label) { Ok(()) } else { refuse() }
}

fn check_path(path: &str) -> Result<(), String> {
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("repository name must be lowercase".to_owned());
    }
    if path.len() > PATH_MAX {
        return Err(format!("repository name has more than {PATH_MAX} characters"));
    }
    if path.split('/').all(is_component) { Ok(()) } else { Err("invalid reference format".to_owned()) }
}

/// Letters and digits, with single dots, one or two underscores, or any number of dashes between them.
fn is_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = component.split(alphanumeric).filter(|separator| !separator.is_empty());
    component.starts_with(alphanumeric)
        && component.ends_with(alphanumeric)
        && separators.into_iter().all(|it| matches!(it, "." | "_" | "__") || it.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let all = tag.chars().all(|c| word(c) || c == '.' || c == '-');
    let fine = all && tag.starts_with(word) && tag.len() <= TAG_MAX;
    if fine { Ok(()) } else { Err("invalid reference format".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_and_shortened() {
        let check = |text: &str, full: &str, familiar: &str| {
            let name = ImageName::parse(text).expect(text);
            assert_eq!((name.to_string().as_str(), name.familiar().as_str()), (full, familiar), "{text}");
            assert_eq!(ImageName::parse(full), Ok(name), "{full}");
        };
        check("alpine", "docker.io/library/alpine:latest", "alpine:latest");
        check("alpine:3", "docker.io/library/alpine:3", "alpine:3");
        check("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest");
        check("index.docker.io/me/app:v1", "docker.io/me/app:v1", "me/app:v1");
        check("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest");
        check("localhost/app", "localhost/app:latest", "localhost/app:latest");
        check("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest");
        check(
            "[::1]:5000/a/b__c.d--e:T_1.2-3",
            "[::1]:5000/a/b__c.d--e:T_1.2-3",
            "[::1]:5000/a/b__c.d--e:T_1.2-3",
        );
        check("quay.io/x/y", "quay.io/x/y:latest", "quay.io/x/y:latest");
        check(&format!("a@{D}"), &format!("docker.io/library/a@{D}"), &format!("a@{D}"));
        check(&format!("a:1@{D}"), &format!("docker.io/library/a:1@{D}"), &format!("a:1@{D}"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            ":",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a/B",
            "a:",
            "a:-x",
            "a:b:c",
            "a@sha256:00",
            "a b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a._b",
            "../etc",
            "a/../b",
            "h.:1/a",
            "h.x:99999/a",
            "[::g]:1/a",
            "a:\u{e9}",
            "é",
        ] {
            assert!(ImageName::parse(text).is_err(), "{text}");
        }
        assert!(ImageName::parse(&"a".repeat(300)).is_err());
        assert!(ImageName::parse(&format!("a:{}", "t".repeat(129))).is_err());
    }

    #[test]
    fn tag_and_digest_replace_each_other() {
        let name = ImageName::parse("a:1").expect("a name");
        let digest = Digest::of(b"");
        assert_eq!(name.with_digest(digest).familiar(), format!("a@{D}"));
        assert_eq!(name.with_digest(digest).with_tag("2").map(|name| name.familiar()), Ok("a:2".to_owned()));
        assert!(name.with_tag("/").is_err());
    }
}
