//! The images of a store: to list, to find, to name and to let go.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::catalogue::{self, Known, Record};
use crate::collect::{Use, digests};
use crate::digest::Digest;
use crate::error::cause;
use crate::lease::{Held, Lease};
use crate::manifest;
use crate::platform::Platform;
use crate::remote::Document;
use crate::spec::Configuration;
use crate::store::Store;
use crate::{Error, Image, ImageConfig, ImageName};

/// An image as listings show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Digest of the configuration.
    pub id: Digest,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// With tags, sorted.
    pub names: Vec<ImageName>,
    /// `REPOSITORY@DIGEST`, sorted.
    pub digests: Vec<ImageName>,
    /// RFC 3339 as the configuration has it; may be empty.
    pub created: String,
    /// When it came here, seconds since 1970.
    pub since: u64,
    /// Bytes in the files of its layers.
    pub size_bytes: u64,
    /// What it runs on.
    pub platform: Platform,
    /// What it asks for.
    pub config: ImageConfig,
    /// Digests of the contents of its layers, bottom first.
    pub layers: Vec<Digest>,
}

/// What a text on the command line means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Digest of the configuration.
    pub id: Digest,
    /// The name that was meant; absent if it was found by its id.
    pub name: Option<ImageName>,
}

/// The documents of an image, word for word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The manifest.
    pub manifest: Document,
    /// The configuration.
    pub configuration: Vec<u8>,
}

/// What [`Store::remove`] did, in docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name does not mean anything any more.
    Untagged(ImageName),
    /// An image is gone.
    Deleted(Digest),
}

/// Fewest digits of an id that are taken for one.
const PREFIX_MIN: usize = 1;

impl Store {
    /// All images, the newest first.
    pub fn images(&self) -> Result<Vec<Summary>, Error> {
        let known = catalogue::images(&self.disk).map_err(|e| self.error(&cause(&e)))?;
        let mut all = Vec::new();
        for known in known.into_values() {
            match self.summary(known) {
                Ok(summary) => all.push(summary),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        all.sort_by(|a, b| (&b.created, b.since, a.id).cmp(&(&a.created, a.since, b.id)));
        Ok(all)
    }

    /// One image. Errors: [`Error::NoSuchImage`].
    pub fn image(&self, id: Digest) -> Result<Summary, Error> {
        let mut known = catalogue::images(&self.disk).map_err(|e| self.error(&cause(&e)))?;
        self.summary(known.remove(&id).ok_or_else(|| Error::NoSuchImage { image: id.to_string() })?)
    }

    fn summary(&self, known: Known) -> Result<Summary, Error> {
        let configuration: Configuration = self.configuration(known.image)?;
        let layers = configuration.rootfs.diff_ids.clone();
        Ok(Summary {
            id: known.image,
            manifest: known.manifest,
            names: known.names,
            digests: known.digests,
            created: configuration.created.clone(),
            since: known.since,
            size_bytes: layers.iter().map(|layer| self.layer_size(*layer).unwrap_or(0)).sum(),
            platform: configuration.platform.clone(),
            config: configuration.into(),
            layers,
        })
    }

    /// What `text` means: a name, a name with a digest, an id or the beginning of one, by docker's rules.
    ///
    /// Errors: [`Error::NoSuchImage`]; [`Error::Invalid`] if it could mean none, or several.
    pub fn find(&self, text: &str) -> Result<Found, Error> {
        let none = || Error::NoSuchImage { image: text.to_owned() };
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Some(id) = Digest::from_hex(hex) {
            let is_there = self.record_of(id)?.is_some();
            return if is_there { Ok(Found { id, name: None }) } else { Err(none()) };
        }
        let could_be_id = (PREFIX_MIN..64).contains(&hex.len())
            && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !text.starts_with("sha256:") {
            match ImageName::parse(text) {
                Ok(name) => {
                    if let Some(record) = self.named(&name)? {
                        let name =
                            name.digest().map_or_else(|| name.clone(), |digest| name.with_digest(digest));
                        return Ok(Found { id: record.image, name: Some(name) });
                    }
                }
                Err(reason) if !could_be_id => {
                    return Err(Error::Invalid { image: text.to_owned(), reason });
                }
                Err(_) => {}
            }
        }
        if !could_be_id {
            return Err(none());
        }
        let known = catalogue::images(&self.disk).map_err(|e| self.error(&cause(&e)))?;
        let mut fitting = known.keys().filter(|id| id.hex().starts_with(hex));
        match (fitting.next(), fitting.next()) {
            (Some(&id), None) => Ok(Found { id, name: None }),
            (None, _) => Err(none()),
            (Some(_), Some(_)) => {
                let reason = "the id begins several images".to_owned();
                Err(Error::Invalid { image: text.to_owned(), reason })
            }
        }
    }

    /// What `name` means here.
    pub(crate) fn named(&self, name: &ImageName) -> Result<Option<Record>, Error> {
        let failed = |e| self.error(&cause(&e));
        let Some(digest) = name.digest() else { return catalogue::lookup(&self.disk, name).map_err(failed) };
        let plain = name.with_digest(digest);
        if let Some(record) = catalogue::lookup(&self.disk, &plain).map_err(failed)? {
            return Ok(Some(record));
        }
        // An image that came by its tag has its digest noted with that.
        let plain = plain.to_string();
        let records = catalogue::records(&self.disk).map_err(failed)?;
        let own = |record: &Record| {
            let manifest = record.manifest == digest
                && record
                    .name
                    .as_deref()
                    .and_then(|it| ImageName::parse(it).ok())
                    .is_some_and(|it| it.repository() == name.repository());
            manifest || record.digests.contains(&plain)
        };
        Ok(records.into_iter().find(own))
    }

    pub(crate) fn record_of(&self, id: Digest) -> Result<Option<Record>, Error> {
        let records = catalogue::records(&self.disk).map_err(|e| self.error(&cause(&e)))?;
        Ok(records.into_iter().find(|record| record.image == id))
    }

    /// The file that says what `name` means: another one at each change, gone with the name.
    pub fn name_file(&self, name: &ImageName) -> PathBuf {
        self.disk.name(name)
    }

    /// Manifest and configuration of an image. Errors: [`Error::NoSuchImage`]; they are missing or damaged.
    pub fn documents(&self, id: Digest) -> Result<Documents, Error> {
        let record = self.record_of(id)?.ok_or_else(|| Error::NoSuchImage { image: id.to_string() })?;
        let bytes = self.blob(record.manifest)?;
        let said: MediaType = serde_json::from_slice(&bytes).unwrap_or_default();
        let media_type = said.media_type.unwrap_or_else(|| manifest::MANIFEST_TYPE.to_owned());
        Ok(Documents { manifest: Document { media_type, bytes }, configuration: self.blob(id)? })
    }

    /// Lets `name`, which has a tag, mean the image `id`. Errors: [`Error::NoSuchImage`].
    pub fn tag(&self, id: Digest, name: &ImageName) -> Result<(), Error> {
        let failed = |e| self.error(&cause(&e));
        if name.tag().is_none() || name.digest().is_some() {
            let reason = "refusing to create a tag with a digest reference".to_owned();
            return Err(Error::Invalid { image: name.familiar(), reason });
        }
        let gone = || Error::NoSuchImage { image: id.to_string() };
        let record = self.record_of(id)?.ok_or_else(gone)?;
        let _lease = Lease::new(&self.disk, self.held(&record)?).map_err(failed)?;
        let record = self.record_of(id)?.ok_or_else(gone)?;
        // What it is called elsewhere is no matter of this name.
        let record = Record { digests: Vec::new(), when: catalogue::now(), ..record };
        catalogue::put(&self.disk, name, record).map_err(failed)?;
        Ok(())
    }

    /// Notes that the registry of `name` has the image `id` under this digest. Nothing, if the name means another one by now.
    pub fn pushed(&self, id: Digest, name: &ImageName, digest: Digest) -> Result<(), Error> {
        let known = name.with_digest(digest).to_string();
        catalogue::add_digest(&self.disk, name, id, known).map_err(|e| self.error(&cause(&e)))
    }

    /// Takes the name away that `text` is, and the image with its last one; or, if `text` is an id, all its names and the
    /// image. What nobody else needs of it goes, too.
    ///
    /// Errors: [`Error::NoSuchImage`]; [`Error::Conflict`] if containers use the image, or it has names in several
    /// repositories and was called by its id. `force` overrides that, but for the id of an image that runs. An image that
    /// runs and loses its last name stays without one.
    pub fn remove(&self, text: &str, force: bool) -> Result<Vec<Removed>, Error> {
        let failed = |e| self.error(&cause(&e));
        let found = self.find(text)?;
        let summary = self.image(found.id)?;
        let uses: Vec<_> = self.uses()?.into_iter().filter(|used| used.image == Some(found.id)).collect();
        let mut removed = Vec::new();
        match &found.name {
            Some(name) => {
                let is_last = summary.names.iter().all(|other| other == name);
                if is_last && let (Some(used), false) = (uses.first(), force) {
                    return Err(Error::Conflict(format!(
                        "unable to remove repository reference {text:?} (must force) - container {} is using its \
                         referenced image {}",
                        short(&used.owner),
                        short(&found.id.hex())
                    )));
                }
                let runs = uses.iter().any(|used| used.is_running);
                if !is_last || runs {
                    catalogue::untag(&self.disk, name, found.id).map_err(failed)?;
                    removed.push(Removed::Untagged(name.clone()));
                    // With the last tag in a repository goes what the image is called by there.
                    let left = self.image(found.id).map(|it| it.digests).unwrap_or_default();
                    let gone = summary.digests.iter().filter(|it| !left.contains(it) && *it != name);
                    removed.extend(gone.cloned().map(Removed::Untagged));
                    return Ok(removed);
                }
            }
            None => {
                if let Some(reason) = in_the_way(&summary, &uses, force) {
                    let id = short(&found.id.hex()).to_owned();
                    return Err(Error::Conflict(format!("unable to delete {id} {reason}")));
                }
            }
        }
        // Before anything changes.
        catalogue::whole(&self.disk).map_err(failed)?;
        removed.extend(self.forget(&summary)?);
        // Each of its names may have had a manifest of its own, which went with the name.
        let blobs = digests(&self.disk.kind("blobs")).map_err(failed)?;
        let held =
            Held { layers: summary.layers.iter().copied().collect(), blobs: blobs.into_iter().collect() };
        let collected = self.sweep(Some(&held)).map_err(failed)?;
        let mut chains = chains(&summary.layers);
        chains.reverse();
        let gone = chains.into_iter().filter(|(layer, _)| collected.layers.contains(layer));
        removed.extend(gone.map(|(_, chain)| Removed::Deleted(chain)));
        Ok(removed)
    }

    /// The image `id` ready to be run.
    pub(crate) fn kept(&self, id: Digest) -> Result<Image, Error> {
        let configuration = self.configuration(id)?;
        let layers = self.stack(&configuration.rootfs.diff_ids);
        if let Some(missing) = layers.iter().find(|layer| !layer.exists()) {
            let hex = missing.file_name().unwrap_or_default().to_string_lossy();
            let reason = format!("layer sha256:{hex} is missing; pull the image again");
            return Err(Error::Image { image: id.to_string(), reason });
        }
        let merged = self.merged(&configuration.rootfs.diff_ids);
        Ok(Image { layers, merged, id: Some(id.to_string()), config: configuration.into() })
    }

    pub(crate) fn configuration(&self, id: Digest) -> Result<Configuration, Error> {
        let bytes = self.blob(id)?;
        manifest::parse(&format!("configuration {id}"), &bytes)
            .map_err(|reason| Error::Image { image: id.to_string(), reason })
    }

    /// A document, checked.
    pub(crate) fn blob(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let bytes = self
            .disk
            .read_blob(digest)
            .map_err(|e| self.error(&format!("document {digest}: {}", cause(&e))))?;
        let found = Digest::of(&bytes);
        match found == digest {
            true => Ok(bytes),
            false => Err(self.error(&format!("document {digest} has digest {found}"))),
        }
    }

    /// All that an image needs.
    pub(crate) fn held(&self, record: &Record) -> Result<Held, Error> {
        let configuration = self.configuration(record.image)?;
        Ok(Held {
            layers: configuration.rootfs.diff_ids.into_iter().collect(),
            blobs: [record.image, record.manifest].into(),
        })
    }
}

/// Why an image cannot be deleted by its id.
fn in_the_way(summary: &Summary, uses: &[Use], force: bool) -> Option<String> {
    let container = |is_running: bool| uses.iter().find(|used| used.is_running == is_running);
    if let Some(used) = container(true) {
        let owner = short(&used.owner);
        return Some(format!("(cannot be forced) - image is being used by running container {owner}"));
    }
    let names = summary.names.iter().chain(&summary.digests);
    let repositories: BTreeSet<_> = names.map(ImageName::repository).collect();
    if force {
        return None;
    }
    if repositories.len() > 1 {
        return Some("(must be forced) - image is referenced in multiple repositories".to_owned());
    }
    let owner = container(false).map(|used| short(&used.owner))?;
    Some(format!("(must be forced) - image is being used by stopped container {owner}"))
}

/// The first twelve digits of an id.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Each layer with the digest of all up to it, as the OCI image specification has it.
fn chains(layers: &[Digest]) -> Vec<(Digest, Digest)> {
    let chain = |last: &mut Option<Digest>, layer: &Digest| {
        let chain = last.map_or(*layer, |last| Digest::of(format!("{last} {layer}").as_bytes()));
        *last = Some(chain);
        Some((*layer, chain))
    };
    layers.iter().scan(None, chain).collect()
}

/// What a manifest calls itself.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct MediaType {
    media_type: Option<String>,
}
