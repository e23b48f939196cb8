//! Finding and repairing what should not be.
//!
//! What can be checked: that every name tells of an image, that documents are what their digests say, that the layers of
//! images are there, and that the files of layers still give the tars that they came from. What is damaged beyond use is
//! taken away, with the names of the images that need it, so that the next pull brings it again.
//!
//! What cannot be read – the disk fails, or rights are missing – may be whole: it is told of and left alone, and so is what only seems
//! to belong to nothing as long as it cannot be read what it might belong to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::num::NonZero;
use std::path::Path;
use std::thread;

use crossbeam::channel::unbounded;

use crate::catalogue::{self, Known, Record};
use crate::collect::digests;
use crate::digest::Digest;
use crate::disk::Durable;
use crate::error::{at, cause, is_unreadable};
use crate::faults;
use crate::layers::LayerRecord;
use crate::lease::{Held, Lease};
use crate::spec::Configuration;
use crate::store::Store;
use crate::{Error, ImageName};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// One line: what, and what is wrong with it; why that could not be put right, if it was tried.
    pub what: String,
    /// Whether it has been put right, as far as it can be.
    pub is_repaired: bool,
}

impl Store {
    /// Looks at everything, and with `repair` puts right what is wrong.
    ///
    /// Reads every byte of every layer. Layers of a store of format 1 cannot be compared with anything. What is in use stays,
    /// damaged or not.
    pub fn check(&self, repair: bool) -> Result<Vec<Finding>, Error> {
        let failed = |e: io::Error| self.error(&format!("check: {}", cause(&e)));
        let mut check = Check { store: self, repair, findings: Vec::new() };
        if repair {
            self.disk.make().map_err(failed)?;
            // Nothing says whether they are what they were, and the next run makes them again.
            self.remove_merged().map_err(failed)?;
        }
        check.records().map_err(failed)?;
        let damaged = check.damaged_layers().map_err(failed)?;
        check.documents().map_err(failed)?;
        check.images(&damaged).map_err(failed)?;
        check.layers(&damaged).map_err(failed)?;
        check.leftovers().map_err(failed)?;
        check.findings.sort();
        Ok(check.findings)
    }
}

impl Store {
    /// Errors: a container uses this layer, so it has to stay, and with it the images that have it: pulled again, they would get
    /// the same layer.
    fn free(&self, layer: Digest) -> io::Result<()> {
        let path = self.disk.layer(layer);
        let mut users = self.read_users()?.into_iter();
        match users.find(|used| used.layers.iter().any(|it| it.file_name() == path.file_name())) {
            None => Ok(()),
            Some(used) => Err(io::Error::other(format!("container {} uses it", used.owner))),
        }
    }
}

struct Check<'a> {
    store: &'a Store,
    repair: bool,
    findings: Vec<Finding>,
}

impl Check<'_> {
    /// Notes something, and puts it right by `repair` if that is asked for. Whether that works or not, it has to be known what else
    /// there is.
    fn found(&mut self, what: String, repair: impl FnOnce() -> io::Result<()>) {
        let finding = match self.repair.then(repair) {
            None => Finding { what, is_repaired: false },
            Some(Ok(())) => Finding { what, is_repaired: true },
            Some(Err(error)) => {
                let what = format!("{what}; not repaired: {}", cause(&error));
                Finding { what, is_repaired: false }
            }
        };
        self.findings.push(finding);
    }

    /// Notes something that may be as it should.
    fn unreadable(&mut self, what: &str, error: &io::Error) {
        let what = format!("{what}: cannot be read: {}", cause(error));
        self.findings.push(Finding { what, is_repaired: false });
    }

    /// Whether something that was found is still as it was.
    fn is_left(&self) -> bool {
        self.findings.iter().any(|finding| !finding.is_repaired)
    }

    /// Files that should tell of images.
    fn records(&mut self) -> io::Result<()> {
        let disk = &self.store.disk;
        for directory in [disk.names(), disk.untagged()] {
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                let expected = |record: &Record| match record.name.as_deref().map(ImageName::parse) {
                    Some(Ok(name)) => disk.name(&name),
                    Some(Err(_)) => disk.names(),
                    None => disk.untagged().join(record.image.hex()),
                };
                let wrong = match catalogue::read(&path) {
                    Ok(Some(record)) if expected(&record) == path => continue,
                    Ok(None) => continue,
                    Ok(Some(_)) => format!("{}: is the record of another name", path.display()),
                    Err(error) if is_unreadable(&error) => {
                        self.unreadable(&path.display().to_string(), &error);
                        continue;
                    }
                    Err(error) => cause(&error),
                };
                self.found(wrong, || {
                    let _lock = disk.names_lock()?;
                    disk.remove(&path).map(drop)
                });
            }
        }
        Ok(())
    }

    /// Layers that do not give their tars any more, and why.
    fn damaged_layers(&mut self) -> io::Result<BTreeMap<Digest, String>> {
        let (mut damaged, mut unreadable) = (BTreeMap::new(), Vec::new());
        for (layer, error) in self.failing_layers()? {
            match is_unreadable(&error) {
                true => unreadable.push((layer, error)),
                false => drop(damaged.insert(layer, cause(&error))),
            }
        }
        for (layer, error) in unreadable {
            self.unreadable(&format!("layer {layer}"), &error);
        }
        Ok(damaged)
    }

    /// Reads the tars of all layers on as many threads as there are processors. Layers for which that fails, and how.
    fn failing_layers(&self) -> io::Result<Vec<(Digest, io::Error)>> {
        let (jobs, queue) = unbounded();
        let (done, results) = unbounded();
        for layer in digests(&self.store.disk.layers)? {
            jobs.send(layer).map_err(io::Error::other)?;
        }
        drop(jobs);
        let workers = thread::available_parallelism().map_or(1, NonZero::get);
        thread::scope(|scope| {
            for _ in 0..workers {
                let (queue, done) = (queue.clone(), done.clone());
                scope.spawn(move || {
                    for layer in queue {
                        if let Err(error) = self.read(layer) {
                            // The receiver outlives the workers.
                            drop(done.send((layer, error)));
                        }
                    }
                });
            }
        });
        drop(done);
        Ok(results.iter().collect())
    }

    /// Reads a layer's tar to its end, if it is known how that looked.
    fn read(&self, layer: Digest) -> io::Result<()> {
        // One that is collected while it is read would look damaged.
        let held = Held { layers: [layer].into(), ..Held::default() };
        let _lease = Lease::new(&self.store.disk, held).map_err(|e| at("lease", e))?;
        if !is_there(&self.store.disk.tar(layer))? {
            return Ok(());
        }
        match self.store.open_layer_tar(layer) {
            Ok(mut tar) => io::copy(&mut tar, &mut io::sink()).map(drop),
            // Collected meanwhile.
            Err(_) if !is_there(&self.store.disk.layer(layer))? => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Manifests and configurations that are not what their names say.
    fn documents(&mut self) -> io::Result<()> {
        for digest in digests(&self.store.disk.kind("blobs"))? {
            let path = self.store.disk.blob(digest);
            let bytes = match self.store.disk.read_blob(digest) {
                Err(error) if is_unreadable(&error) => {
                    self.unreadable(&format!("document {digest}"), &error);
                    continue;
                }
                // Collected meanwhile, or no file.
                Err(_) => continue,
                Ok(bytes) => bytes,
            };
            let found = Digest::of(&bytes);
            if found != digest {
                let what = format!("document {digest}: has digest {found}");
                self.found(what, || self.store.disk.remove(&path).map(drop));
            }
        }
        Ok(())
    }

    /// Images that lack something.
    fn images(&mut self, damaged: &BTreeMap<Digest, String>) -> io::Result<()> {
        let store = self.store;
        let all = match catalogue::images(&store.disk) {
            Err(error) if is_unreadable(&error) => {
                self.unreadable("names of images", &error);
                return Ok(());
            }
            all => all?,
        };
        for known in all.into_values() {
            let shown = shown(&known);
            let mut parts = Vec::new();
            for (part, digest) in [("configuration", known.image), ("manifest", known.manifest)] {
                match document(store, digest) {
                    Ok(bytes) => parts.push(bytes),
                    Err(error) => self.unreadable(&format!("image {shown}: its {part}"), &error),
                }
            }
            let Ok([configuration, manifest]) = <[_; 2]>::try_from(parts) else { continue };
            let parse = |bytes: &Vec<u8>| serde_json::from_slice::<Configuration>(bytes).ok();
            let layers = configuration.as_ref().and_then(parse).map(|it| it.rootfs.diff_ids);
            let (Some(configuration), Some(layers)) = (configuration, layers) else {
                let what = format!("image {shown}: its configuration is missing or damaged");
                self.found(what, || forget(store, &known));
                continue;
            };
            let mut lacks = None;
            for layer in &layers {
                match is_there(&store.disk.layer(*layer)) {
                    Ok(true) => {}
                    Ok(false) => lacks = lacks.or(Some(layer)),
                    Err(error) => self.unreadable(&format!("image {shown}: its layer {layer}"), &error),
                }
            }
            if let Some(layer) = lacks {
                let what = format!("image {shown}: its layer {layer} is missing");
                self.found(what, || forget(store, &known));
            } else if let Some(layer) = layers.iter().find(|layer| damaged.contains_key(layer)) {
                let what = format!("image {shown}: its layer {layer} is damaged");
                self.found(what, || store.free(*layer).and_then(|()| forget(store, &known)));
            } else if manifest.is_none() {
                let what = format!("image {shown}: its manifest is missing or damaged");
                self.found(what, || describe_again(store, &known, &configuration));
            }
        }
        Ok(())
    }

    /// Layers that are not what they were. They go unless somebody uses them.
    fn layers(&mut self, damaged: &BTreeMap<Digest, String>) -> io::Result<()> {
        for (layer, damage) in damaged {
            let only = Held { layers: [*layer].into(), ..Held::default() };
            let store = self.store;
            let named = format!("layer {layer}");
            let what = if damage.starts_with(&named) { damage.clone() } else { format!("{named}: {damage}") };
            self.found(what, || {
                store.free(*layer)?;
                store.sweep(Some(&only))?;
                match is_there(&store.disk.layer(*layer))? {
                    true => Err(io::Error::other("it is in use")),
                    false => Ok(()),
                }
            });
        }
        for layer in digests(&self.store.disk.layers)? {
            if let Err(error) = LayerRecord::read(&self.store.disk, layer) {
                if is_unreadable(&error) {
                    self.unreadable(&format!("layer {layer}: its record"), &error);
                    continue;
                }
                let path = self.store.disk.source(layer);
                let what = format!("layer {layer}: its record cannot be read: {}", cause(&error));
                self.found(what, || self.store.disk.remove(&path).map(drop));
            }
        }
        Ok(())
    }

    /// What belongs to nothing.
    fn leftovers(&mut self) -> io::Result<()> {
        let store = self.store;
        let layers: BTreeSet<_> = digests(&store.disk.layers)?.into_iter().collect();
        let mut lost = BTreeSet::new();
        for kind in ["tars", "sources"] {
            lost.extend(digests(&store.disk.kind(kind))?.into_iter().filter(|it| !layers.contains(it)));
        }
        let live = match store.live() {
            // A damaged name has been found; what it speaks of is not known before it is gone.
            Err(error) if error.kind() == io::ErrorKind::InvalidData && self.is_left() => return Ok(()),
            Err(error) if is_unreadable(&error) => {
                self.unreadable("what is in use", &error);
                return Ok(());
            }
            live => live?,
        };
        for layer in lost.difference(&live.layers) {
            let only = Held { layers: [*layer].into(), ..Held::default() };
            self.found(format!("layer {layer}: is gone, but not all that belongs to it"), || {
                store.sweep(Some(&only)).map(drop)
            });
        }
        for blob in digests(&store.disk.kind("blobs"))? {
            if live.blobs.contains(&blob) {
                continue;
            }
            let only = Held { blobs: [blob].into(), ..Held::default() };
            self.found(format!("document {blob}: belongs to no image"), || {
                store.sweep(Some(&only)).map(drop)
            });
        }
        Ok(())
    }
}

/// Whether there is something. Errors: that cannot be known.
fn is_there(path: &Path) -> io::Result<bool> {
    faults::reading()?;
    path.try_exists()
}

/// A document's bytes; none if it is missing or not what its digest says. Errors: that cannot be known.
fn document(store: &Store, digest: Digest) -> io::Result<Option<Vec<u8>>> {
    match store.disk.read_blob(digest) {
        Err(error) if is_unreadable(&error) => Err(error),
        read => Ok(read.ok().filter(|bytes| Digest::of(bytes) == digest)),
    }
}

fn shown(known: &Known) -> String {
    known.names.first().or(known.digests.first()).map_or_else(|| known.image.to_string(), ImageName::familiar)
}

/// Takes an image's names away that cannot be used any more.
fn forget(store: &Store, known: &Known) -> io::Result<()> {
    for name in known.names.iter().chain(&known.digests) {
        catalogue::take(&store.disk, name, known.image)?;
    }
    catalogue::take_untagged(&store.disk, known.image).map(drop)
}

/// Makes a manifest in place of the one that is lost.
fn describe_again(store: &Store, known: &Known, configuration: &[u8]) -> io::Result<()> {
    let manifest = store.describe(known.image, configuration)?;
    let digest = Digest::of(&manifest);
    store.disk.publish(&store.disk.blob(digest), &manifest, Durable::Yes)?;
    catalogue::replace_manifest(&store.disk, known.image, digest)
}
