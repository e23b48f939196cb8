//! What `run` and `create` say of the image that they need, and what is done if it is not here.

use skiff_store::{Digest, ImageName, ImageRef, Platform};

use super::local::{Local, failed};
use super::progress::To;
use super::pull::{pull, registry};
use crate::client::refused;
use crate::failure::Failure;

/// `--pull` of `run` and `create`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Policy {
    Always,
    #[default]
    Missing,
    Never,
}

impl Policy {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "always" => Ok(Self::Always),
            "missing" => Ok(Self::Missing),
            "never" => Ok(Self::Never),
            _ => Err("neither always, missing nor never".into()),
        }
    }
}

/// What `run` and `create` say of the image that they need.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// `--pull`.
    pub(crate) policy: Policy,
    /// `--platform`.
    pub(crate) platform: Option<Platform>,
    /// `--quiet`.
    pub(crate) quiet: bool,
    /// `--prefetch off`: what the registry knows of the image's use stays there.
    pub(crate) leaves_profiles: bool,
    /// `--tls-verify`.
    pub(crate) tls_verify: Option<bool>,
}

/// Fetches what has to be fetched before anything is asked of `image`: with `--pull always`, or if what is here is for
/// another platform than the one that is wanted.
///
/// Errors: what `run` exits with is 125.
pub(crate) fn before(image: &str, wanted: &Wanted) -> Result<(), Failure> {
    let Ok(name) = name_of(image) else { return Ok(()) };
    let usual = wanted.policy != Policy::Always && wanted.platform.is_none();
    if usual || name.is_none() {
        return Ok(());
    }
    let local = Local::open()?;
    if wanted.policy != Policy::Always {
        let here = local.store.find(image).and_then(|found| local.store.image(found.id));
        let fits = here.is_ok_and(|here| wanted.platform.as_ref().is_none_or(|it| here.platform.fits(it)));
        if fits || wanted.policy == Policy::Never {
            return Ok(());
        }
    }
    fetch(&local, image, wanted)
}

/// `--platform` of what takes images that are here: of those, a name means one.
///
/// Errors: `image`, which is called `text`, is for another.
pub(super) fn is_for(
    local: &Local,
    image: Digest,
    text: &str,
    want: Option<&Platform>,
) -> Result<(), Failure> {
    let Some(want) = want else { return Ok(()) };
    let here = local.store.image(image).map_err(failed)?.platform;
    match here.fits(want) {
        true => Ok(()),
        false => Err(refused(Failure::engine(format!(
            "image with reference {text} was found but does not provide the specified platform ({want}), only {here}"
        )))),
    }
}

/// Fetches `image`, which is not here, if that is wanted; otherwise says that it is not here.
pub(crate) fn missing(image: &str, wanted: &Wanted) -> Result<(), Failure> {
    let none = || Failure::engine(format!("no such image: {image}"));
    if wanted.policy == Policy::Never {
        return Err(none());
    }
    let name = name_of(image)?.ok_or_else(none)?;
    if !wanted.quiet {
        eprintln!("Unable to find image '{}' locally", name.familiar());
    }
    fetch(&Local::open()?, image, wanted)
}

/// The name that an image has in a registry, if it can have one.
fn name_of(image: &str) -> Result<Option<ImageName>, Failure> {
    match ImageRef::parse(image).map_err(|error| Failure::engine(error.to_string()))? {
        ImageRef::Named(name) => Ok(Some(name)),
        _ => Ok(None),
    }
}

fn fetch(local: &Local, image: &str, wanted: &Wanted) -> Result<(), Failure> {
    let to = if wanted.quiet { To::Nothing } else { To::Stderr };
    let name = name_of(image)?.ok_or_else(|| Failure::engine(format!("no such image: {image}")))?;
    let registry = registry(wanted.tls_verify).map_err(|it| Failure::engine(it.message))?;
    pull(local, &registry, &name, wanted.platform.as_ref(), to, !wanted.leaves_profiles)
        .map(drop)
        .map_err(|it| Failure::engine(it.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_docker_s() {
        assert_eq!(Policy::parse("missing"), Ok(Policy::Missing));
        assert!(Policy::parse("newer").is_err());
    }
}
