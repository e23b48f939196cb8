//! Which images there are: names, and images that are kept without one.
//!
//! ```text
//! names/HOST+PATH:TAG       {"name", "image", "manifest", "digest", "when"}: one name
//! untagged/HEX              the same without "name": an image that lost its last one, or never had any
//! ```
//!
//! An image is there as long as one of these files speaks of it. Whoever changes names holds `names.lock`; readers hold
//! nothing. When a name moves, its old image is noted as untagged first: at no instant is it forgotten by accident.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::disk::{Disk, Durable};
use crate::faults;
use crate::name::ImageName;

/// Most bytes that are read of a record.
const RECORD_MAX: u64 = 1 << 20;

/// What is known of an image by one of its names, or without one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// In full; absent for an untagged image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) name: Option<String>,
    /// Digest of the configuration.
    pub(crate) image: Digest,
    /// Digest of the manifest.
    pub(crate) manifest: Digest,
    /// `REPOSITORY@DIGEST` that the image has elsewhere: of the index or manifest that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) digests: Vec<String>,
    /// Since when the name means this, seconds since 1970.
    pub(crate) when: u64,
}

/// An image with all that speaks of it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) image: Digest,
    pub(crate) manifest: Digest,
    /// Sorted.
    pub(crate) names: Vec<ImageName>,
    /// With digests, sorted.
    pub(crate) digests: Vec<ImageName>,
    /// The oldest record's time.
    pub(crate) since: u64,
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What `name` means.
pub(crate) fn lookup(disk: &Disk, name: &ImageName) -> io::Result<Option<Record>> {
    read(&disk.name(name))
}

/// Every record. Damaged ones are left out; [`crate::Store::check`] tells of them.
pub(crate) fn records(disk: &Disk) -> io::Result<Vec<Record>> {
    let mut all = Vec::new();
    for directory in [disk.names(), disk.untagged()] {
        for entry in fs::read_dir(directory)? {
            match read(&entry?.path()) {
                Ok(record) => all.extend(record),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => tracing::warn!("{error}"),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(all)
}

/// Every record, for who takes away what none of them speaks of. Errors: `InvalidData` if one is damaged: nobody knows then
/// what it speaks of.
pub(crate) fn whole(disk: &Disk) -> io::Result<Vec<Record>> {
    let mut all = Vec::new();
    for directory in [disk.names(), disk.untagged()] {
        for entry in fs::read_dir(directory)? {
            all.extend(read(&entry?.path()).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => {
                    io::Error::new(error.kind(), format!("{error}; see skiff system fsck"))
                }
                _ => error,
            })?);
        }
    }
    Ok(all)
}

/// Every image, by its configuration's digest.
pub(crate) fn images(disk: &Disk) -> io::Result<BTreeMap<Digest, Known>> {
    let mut all: BTreeMap<Digest, Known> = BTreeMap::new();
    for record in records(disk)? {
        let (image, manifest, since) = (record.image, record.manifest, record.when);
        let known = all.entry(image).or_insert_with(|| Known {
            image,
            manifest,
            names: Vec::new(),
            digests: Vec::new(),
            since,
        });
        known.since = known.since.min(since);
        let name = record.name.and_then(|name| ImageName::parse(&name).ok());
        match name {
            Some(name) if name.tag().is_none() => known.digests.push(name),
            name => known.names.extend(name),
        }
        known.digests.extend(record.digests.iter().filter_map(|name| ImageName::parse(name).ok()));
    }
    for known in all.values_mut() {
        known.names.sort();
        known.digests.sort();
        known.digests.dedup();
    }
    Ok(all)
}

/// Lets `name` mean what `record` says, and keeps the image that it meant. Returns that record.
pub(crate) fn put(disk: &Disk, name: &ImageName, record: Record) -> io::Result<Option<Record>> {
    let _lock = disk.names_lock()?;
    let path = disk.name(name);
    let old = read(&path).unwrap_or_default();
    if let Some(old) = old.clone().filter(|old| old.image != record.image) {
        keep(disk, old)?;
    }
    let image = record.image;
    disk.publish(&path, &json(&Record { name: Some(name.to_string()), ..record })?, Durable::Yes)?;
    disk.remove(&disk.untagged().join(image.hex()))?;
    Ok(old)
}

/// Notes one more `REPOSITORY@DIGEST` with `name`, as long as that means `image`.
pub(crate) fn add_digest(disk: &Disk, name: &ImageName, image: Digest, digest: String) -> io::Result<()> {
    let _lock = disk.names_lock()?;
    let path = disk.name(name);
    let is_new = |record: &Record| record.image == image && !record.digests.contains(&digest);
    let Some(mut record) = read(&path)?.filter(is_new) else { return Ok(()) };
    record.digests.push(digest);
    disk.publish(&path, &json(&record)?, Durable::Yes).map(drop)
}

/// Keeps an image that has no name.
pub(crate) fn put_untagged(disk: &Disk, record: Record) -> io::Result<()> {
    let _lock = disk.names_lock()?;
    let named = records(disk)?.iter().any(|other| other.image == record.image && other.name.is_some());
    if named { Ok(()) } else { keep(disk, record) }
}

/// Takes a name away that means `image`, and the image with it unless another name speaks of it. Says whether it was there.
pub(crate) fn take(disk: &Disk, name: &ImageName, image: Digest) -> io::Result<bool> {
    let _lock = disk.names_lock()?;
    let path = disk.name(name);
    // Meanwhile it may mean another one.
    let is_there = read(&path)?.is_some_and(|old| old.image == image);
    if is_there { disk.remove(&path) } else { Ok(false) }
}

/// Takes a name away that means `image`, which stays, if need be without a name. What it is called by in the repository of that name stays
/// with another tag that it has there, and goes with the last.
pub(crate) fn untag(disk: &Disk, name: &ImageName, image: Digest) -> io::Result<()> {
    let _lock = disk.names_lock()?;
    let path = disk.name(name);
    // Meanwhile it may mean another one, and others may have taken its other names.
    let Some(old) = read(&path)?.filter(|old| old.image == image) else { return Ok(()) };
    let named = |record: Record| Some((ImageName::parse(record.name.as_deref()?).ok()?, record));
    let others = records(disk)?.into_iter().filter(|record| record.image == image).filter_map(named);
    let others: Vec<_> = others.filter(|(other, _)| other != name).collect();
    let is_near = |other: &ImageName| other.repository() == name.repository();
    let mut gone: Vec<&ImageName> = Vec::new();
    match others.iter().find(|(other, _)| is_near(other) && other.tag().is_some()) {
        Some((other, record)) => {
            let is_passed_on = |digest: &&String| {
                !record.digests.contains(digest) && ImageName::parse(digest).is_ok_and(|it| is_near(&it))
            };
            let mut passed_on = old.digests.iter().filter(is_passed_on).cloned().peekable();
            if passed_on.peek().is_some() {
                let digests = record.digests.iter().cloned().chain(passed_on).collect();
                let record = Record { digests, ..record.clone() };
                disk.publish(&disk.name(other), &json(&record)?, Durable::Yes)?;
            }
        }
        None if name.tag().is_some() => gone.extend(others.iter().map(|(it, _)| it).filter(|it| is_near(it))),
        None => {}
    }
    if others.len() == gone.len() {
        keep(disk, old)?;
    }
    for other in gone {
        disk.remove(&disk.name(other))?;
    }
    disk.remove(&path).map(drop)
}

/// Forgets that images are kept without a name which have one.
pub(crate) fn tidy(disk: &Disk) -> io::Result<()> {
    let _lock = disk.names_lock()?;
    let named: BTreeSet<_> = whole(disk)?.into_iter().filter_map(|it| it.name.map(|_| it.image)).collect();
    for entry in fs::read_dir(disk.untagged())? {
        let path = entry?.path();
        if read(&path).unwrap_or_default().is_some_and(|record| named.contains(&record.image)) {
            disk.remove(&path)?;
        }
    }
    Ok(())
}

/// Forgets that `image` is kept without a name.
pub(crate) fn take_untagged(disk: &Disk, image: Digest) -> io::Result<bool> {
    let _lock = disk.names_lock()?;
    disk.remove(&disk.untagged().join(image.hex()))
}

/// Lets all that speaks of `image` name another manifest.
pub(crate) fn replace_manifest(disk: &Disk, image: Digest, manifest: Digest) -> io::Result<()> {
    let _lock = disk.names_lock()?;
    for record in records(disk)?.into_iter().filter(|record| record.image == image) {
        let path = match record.name.as_deref().map(ImageName::parse) {
            Some(Ok(name)) => disk.name(&name),
            Some(Err(_)) => continue,
            None => disk.untagged().join(image.hex()),
        };
        disk.publish(&path, &json(&Record { manifest, ..record })?, Durable::Yes)?;
    }
    Ok(())
}

/// Notes that `old` is to be kept although this name goes; digests are gathered.
fn keep(disk: &Disk, old: Record) -> io::Result<()> {
    let path = disk.untagged().join(old.image.hex());
    let mut digests = read(&path).unwrap_or_default().map(|record| record.digests).unwrap_or_default();
    digests.extend(old.digests.iter().cloned());
    digests.sort();
    digests.dedup();
    disk.publish(&path, &json(&Record { name: None, digests, ..old })?, Durable::Yes).map(drop)
}

/// Errors: `InvalidData`, naming the file, if it is no record.
pub(crate) fn read(path: &Path) -> io::Result<Option<Record>> {
    use io::Read;
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    faults::reading()?;
    file.take(RECORD_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map(Some).map_err(|e| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: not a record of an image: {e}", path.display()),
        )
    })
}

fn json<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}
