//! Prefetch profiles beside images in registries: an artifact for each, that refers to the image's manifest.
//!
//! What comes from a registry is anybody's: it is bounded, names files of the image's own layers only, and is looked at as closely as
//! one that was recorded here before it counts as good. Without it an image runs as well: nothing here fails a pull or a push.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use skiff_registry::{Access, Referrer, Registry, Repository};
use skiff_store::prefetch::{self, BYTES_MAX, Key, Profile, Profiles, class_of};
use skiff_store::{Digest, ImageName, ImageRef, ManifestRef, Remote, RemoteError};

use super::local::Local;

/// What a profile is called as an artifact, and as its only layer.
pub(super) const ARTIFACT: &str = "application/vnd.skiff.prefetch.v1+json";
/// Of the manifest: the command class.
const CLASS: &str = "skiff.prefetch.class";
/// Profiles of one image that are fetched.
const PROFILES_MAX: usize = 16;

/// An artifact's manifest, the part that matters here.
#[derive(Debug, Deserialize)]
struct Manifest {
    layers: Vec<Blob>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob {
    media_type: String,
    digest: Digest,
    size: u64,
}

/// Sends what is known of the image's own command along with it, after the manifest `subject`. Classes of others have words of command
/// lines, which are nobody else's business.
pub(super) fn attach(local: &Local, registry: &Registry, id: Digest, name: &ImageName, subject: Digest) {
    let mut profiles = Profiles::of(&local.roots.state).list().unwrap_or_default();
    profiles.retain(|profile| profile.image == id && profile.is_good());
    if profiles.is_empty() {
        return;
    }
    let image = match local.store.resolve(&ImageRef::Id(id)) {
        Ok(image) => image,
        Err(error) => return tracing::warn!("prefetch: {error}"),
    };
    let argv: Vec<OsString> =
        image.config.entrypoint.into_iter().chain(image.config.cmd).map(OsString::from).collect();
    let class = class_of(&argv);
    let Some(profile) = profiles.into_iter().find(|profile| profile.class == class) else { return };
    let repository = match registry.repository(name, Access::Push) {
        Ok(repository) => repository,
        Err(error) => return tracing::warn!("prefetch: {error}"),
    };
    if let Err(reason) = send(&repository, profile, subject, &local.roots.state) {
        tracing::warn!("prefetch profile of {class}: {reason}");
    }
}

fn send(repository: &Repository, profile: Profile, subject: Digest, root: &Path) -> Result<(), String> {
    let mut profile = profile.published();
    prefetch::seal(&mut profile, root).map_err(|error| error.to_string())?;
    let bytes = profile.to_json();
    if bytes.len() > BYTES_MAX {
        return Err(format!("more than {BYTES_MAX} bytes"));
    }
    let annotations = BTreeMap::from([(CLASS.to_owned(), profile.class)]);
    let sent = repository.attach(subject, ARTIFACT, ARTIFACT, &bytes, &annotations);
    sent.map(drop).map_err(|error| error.to_string())
}

/// Fetches what the registry has to say about the image, for commands of which nothing is known here.
pub(super) fn fetch(local: &Local, repository: &Repository, id: Digest) {
    if let Err(reason) = fetch_all(local, repository, id) {
        tracing::info!("prefetch: {reason}");
    }
}

fn fetch_all(local: &Local, repository: &Repository, id: Digest) -> Result<(), String> {
    let text = |error: skiff_store::Error| error.to_string();
    let subject = Digest::of(&local.store.documents(id).map_err(text)?.manifest.bytes);
    let mut offered =
        repository.referrers(subject, Some(ARTIFACT)).map_err(|error: RemoteError| error.to_string())?;
    // Later ones are newer, where lists have an order.
    offered.reverse();
    offered.truncate(PROFILES_MAX);
    if offered.is_empty() {
        return Ok(());
    }
    let image = local.store.resolve(&ImageRef::Id(id)).map_err(text)?;
    let profiles = Profiles::of(&local.roots.state);
    let mut found: BTreeMap<String, Profile> = BTreeMap::new();
    for referrer in &offered {
        match one(repository, referrer).map(|profile| prefetch::adopt(profile, id, &image.layers)) {
            Ok(Some(profile)) => {
                let is_newest =
                    found.get(&profile.class).is_none_or(|other| other.recorded_s < profile.recorded_s);
                if is_newest {
                    found.insert(profile.class.clone(), profile);
                }
            }
            Ok(None) => tracing::info!("prefetch: {}: nothing of the image", referrer.digest),
            Err(reason) => tracing::info!("prefetch: {}: {reason}", referrer.digest),
        }
    }
    for profile in found.into_values() {
        let key = Key { image: id, class: profile.class.clone() };
        // What was seen here is better known.
        if profiles.load(&key).is_ok_and(|known| known.is_none()) {
            profiles.save(&profile).map_err(text)?;
        }
    }
    Ok(())
}

/// The profile that an artifact holds.
fn one(repository: &Repository, referrer: &Referrer) -> Result<Profile, String> {
    let failed = |error: RemoteError| error.to_string();
    let document = repository.manifest(&ManifestRef::Digest(referrer.digest)).map_err(failed)?;
    if Digest::of(&document.bytes) != referrer.digest {
        return Err("its digest is another".into());
    }
    let manifest: Manifest =
        serde_json::from_slice(&document.bytes).map_err(|error| format!("its manifest: {error}"))?;
    let [blob] = manifest.layers.as_slice() else { return Err("not one layer".into()) };
    if blob.media_type != ARTIFACT || blob.size > BYTES_MAX as u64 {
        return Err(format!("{} of {} bytes", skiff_runtime::OneLine(&blob.media_type), blob.size));
    }
    let mut bytes = Vec::new();
    let content = repository.blob(blob.digest, 0).map_err(failed)?;
    // One byte more shows that there are more.
    content.take(blob.size + 1).read_to_end(&mut bytes).map_err(|error| skiff_runtime::cause(&error))?;
    if Digest::of(&bytes) != blob.digest {
        return Err("its content's digest is another".into());
    }
    Profile::parse(&bytes)
}
