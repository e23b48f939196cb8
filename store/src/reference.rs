//! The ways to name an image on the command line.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::digest::Digest;
use crate::name::ImageName;

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRef {
    /// `host`: the host's own root.
    Host,
    /// `rootfs:DIR`: a directory used as it is.
    Rootfs(PathBuf),
    /// `oci:DIR[:TAG]`: an OCI image layout.
    OciLayout(Located),
    /// `oci-archive:FILE[:TAG]`: a tar file of an OCI image layout.
    OciArchive(Located),
    /// `docker-archive:FILE[:TAG]`: what `docker save` writes.
    DockerArchive(Located),
    /// `[HOST/]PATH[:TAG][@DIGEST]`: the name of an image of the store. It may be the beginning of an id as well.
    Named(ImageName),
    /// `sha256:HEX` or 64 digits: an image of the store by its id.
    Id(Digest),
}

/// A file or directory that may hold several images, and which of them is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The layout's directory or the archive's file.
    pub path: PathBuf,
    /// `TAG` or `NAME:TAG`; absent means the only image there is.
    pub tag: Option<String>,
}

impl ImageRef {
    /// Reads IMAGE as written on the command line.
    ///
    /// A path may contain colons: of all ways to split `PATH[:TAG]`, the one with the longest path that exists wins.
    /// What has none of the forms is a name or an id. Errors: it is neither; nothing exists at any split.
    pub fn parse(image: &str) -> Result<Self, Error> {
        Self::parse_with(image, &|path| path.exists())
    }

    fn parse_with(image: &str, exists: &dyn Fn(&Path) -> bool) -> Result<Self, Error> {
        let not_found = |reason: String| Error::NotFound { image: image.to_owned(), reason };
        let (form, rest) = image.split_once(':').unwrap_or((image, ""));
        let known = matches!(form, "rootfs" | "oci" | "oci-archive" | "docker-archive");
        if known && rest.is_empty() {
            return Err(not_found(format!("no path after \"{form}:\"")));
        }
        let located =
            || locate(rest, exists).ok_or_else(|| not_found(format!("no file or directory at {rest:?}")));
        match form {
            "host" if image == "host" => Ok(Self::Host),
            "rootfs" => Ok(Self::Rootfs(PathBuf::from(rest))),
            "oci" => Ok(Self::OciLayout(located()?)),
            "oci-archive" => Ok(Self::OciArchive(located()?)),
            "docker-archive" => Ok(Self::DockerArchive(located()?)),
            _ => match Digest::from_hex(image.strip_prefix("sha256:").unwrap_or(image)) {
                Some(id) => Ok(Self::Id(id)),
                None => ImageName::parse(image)
                    .map(Self::Named)
                    .map_err(|reason| Error::Invalid { image: image.to_owned(), reason }),
            },
        }
    }
}

/// As the user would write it.
impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Rootfs(path) => write!(f, "rootfs:{}", path.display()),
            Self::OciLayout(at) => write!(f, "oci:{at}"),
            Self::OciArchive(at) => write!(f, "oci-archive:{at}"),
            Self::DockerArchive(at) => write!(f, "docker-archive:{at}"),
            Self::Named(name) => f.write_str(&name.familiar()),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

fn locate(rest: &str, exists: &dyn Fn(&Path) -> bool) -> Option<Located> {
    if exists(Path::new(rest)) {
        return Some(Located { path: PathBuf::from(rest), tag: None });
    }
    rest.rmatch_indices(':').find_map(|(at, _)| {
        let (path, tag) = (Path::new(&rest[..at]), &rest[at + 1..]);
        (!tag.is_empty() && exists(path))
            .then(|| Located { path: path.to_owned(), tag: Some(tag.to_owned()) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expect` is the parsed reference in debug form, or a part of the error.
    fn check(image: &str, expect: &str) {
        let there = ["/img", "/img:1", "/a.tar"];
        let got = match ImageRef::parse_with(image, &|path| there.iter().any(|p| Path::new(p) == path)) {
            Ok(reference) => format!("{reference:?}"),
            Err(error) => error.to_string(),
        };
        assert!(got.contains(expect), "{image}: {got}, expected {expect}");
    }

    #[test]
    fn references() {
        check("host", "Host");
        check("rootfs:/some/dir", "Rootfs(\"/some/dir\")");
        check("rootfs:/with:colon", "Rootfs(\"/with:colon\")");
        check("oci:/img", "OciLayout(Located { path: \"/img\", tag: None })");
        check("oci:/img:v2", "OciLayout(Located { path: \"/img\", tag: Some(\"v2\") })");
        check("oci:/img:1", "OciLayout(Located { path: \"/img:1\", tag: None })");
        check("oci:/img:1:v2", "OciLayout(Located { path: \"/img:1\", tag: Some(\"v2\") })");
        check("oci-archive:/a.tar:x", "OciArchive(Located { path: \"/a.tar\", tag: Some(\"x\") })");
        check("docker-archive:/a.tar:n:t", "DockerArchive(Located { path: \"/a.tar\", tag: Some(\"n:t\") })");
        check(
            "docker-archive:/a.tar:localhost:5000/n:t",
            "DockerArchive(Located { path: \"/a.tar\", tag: Some(\"localhost:5000/n:t\") })",
        );
    }

    #[test]
    fn names_and_ids() {
        check("ubuntu", "Named(ImageName { host: \"docker.io\", path: \"library/ubuntu\"");
        check("localhost:5000/host", "Named(ImageName { host: \"localhost:5000\", path: \"host\"");
        check(&format!("sha256:{}", "0".repeat(64)), "Id(Digest([0");
        check(&"0".repeat(64), "Id(Digest([0");
    }

    #[test]
    fn bad_references() {
        check("", "\"\": invalid reference format");
        check("host:", "\"host:\": invalid reference format");
        check("docker://ubuntu", "\"docker://ubuntu\": \"docker:\" is not a registry");
        check("Ubuntu", "\"Ubuntu\": repository name must be lowercase");
        check("rootfs:", "no path after \"rootfs:\"");
        check("oci:/nowhere:v1", "no file or directory at \"/nowhere:v1\"");
        check("oci:/img2:", "no file or directory at \"/img2:\"");
    }

    #[test]
    fn display_is_what_parse_reads() {
        for image in ["host", "rootfs:/x", "oci:/img:v2", "oci-archive:/a.tar", "docker-archive:/a.tar:n:t"] {
            assert_eq!(ImageRef::parse_with(image, &|p| p.as_os_str().len() < 7).unwrap().to_string(), image);
        }
    }
}
