//! Images that are made or brought here: from layouts and archives, from imported trees, from containers.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::AtomicBool;

use serde_json::json;

use crate::catalogue;
use crate::digest::Digest;
use crate::disk::sync_parent;
use crate::error::cause;
use crate::faults;
use crate::layers::{KnownBlob, LayerRecord, warn_of};
use crate::lease::{Held, Lease};
use crate::manifest::{CONFIGURATION_TYPE, LAYER_TYPE, MANIFEST_TYPE};
use crate::progress::Progress;
use crate::reference::ImageRef;
use crate::spec::Configuration;
use crate::staging::Claim;
use crate::store::{Store, printable};
use crate::unpack::Privilege;
use crate::unpack::stream::{self, Checked};
use crate::{Error, ImageName};

/// An image in the making: its layers are kept as long as this is there.
#[derive(Debug)]
pub struct Draft<'a> {
    store: &'a Store,
    lease: Lease,
}

impl Store {
    /// Begins an image.
    pub fn draft(&self) -> Result<Draft<'_>, Error> {
        let lease = Lease::new(&self.disk, Held::default()).map_err(|e| self.error(&cause(&e)))?;
        Ok(Draft { store: self, lease })
    }

    /// Keeps an image of a layout or an archive under `names`, or without one. Returns its id.
    pub fn load(
        &self,
        from: &ImageRef,
        names: &[ImageName],
        progress: &dyn Progress,
    ) -> Result<Digest, Error> {
        let fail = |reason: String| Error::Image { image: from.to_string(), reason: printable(&reason) };
        let Some((source, manifest)) = self.read(from)? else {
            return Err(fail("is no layout and no archive".to_owned()));
        };
        let (id, _) = self.keep(&manifest, &source, names, &[], progress).map_err(fail)?;
        Ok(id)
    }

    /// A manifest for an image that has none: layers as a registry is known to have them, or as plain tars.
    pub(crate) fn describe(&self, id: Digest, configuration_bytes: &[u8]) -> io::Result<Vec<u8>> {
        let configuration: Configuration =
            serde_json::from_slice(configuration_bytes).map_err(io::Error::other)?;
        let mut layers = Vec::new();
        for diff_id in configuration.rootfs.diff_ids {
            let record = LayerRecord::read(&self.disk, diff_id)?.unwrap_or_default();
            let plain = || KnownBlob {
                media_type: LAYER_TYPE.to_owned(),
                digest: diff_id,
                size: record.tar_bytes,
                repositories: Vec::new(),
            };
            let blob = record.blobs.first().cloned().unwrap_or_else(plain);
            layers.push(json!({ "mediaType": blob.media_type, "digest": blob.digest, "size": blob.size }));
        }
        let config =
            json!({ "mediaType": CONFIGURATION_TYPE, "digest": id, "size": configuration_bytes.len() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers,
        });
        serde_json::to_vec(&manifest).map_err(io::Error::other)
    }
}

impl Draft<'_> {
    /// Unpacks a layer's tar, compressed or not, and returns the digest of its content.
    pub fn layer(&mut self, tar: &mut (dyn Read + Send)) -> Result<Digest, Error> {
        let fail = |reason: String| Error::Image { image: "layer".to_owned(), reason: printable(&reason) };
        let failed = |e: io::Error| self.store.error(&format!("add a layer: {}", cause(&e)));
        let disk = &self.store.disk;
        let claim = Claim::fresh(&disk.tmp).map_err(failed)?;
        let place = claim.place().map_err(failed)?;
        let checked =
            Checked { blob: Box::new(tar), size: u64::MAX, digest: None, diff_id: None, compression: None };
        let never = AtomicBool::new(false);
        let unpacked = stream::unpack(checked, place, Privilege::of_caller(), &never).map_err(fail)?;
        let diff_id = unpacked.diff_id;
        warn_of(unpacked.skipped, &diff_id.to_string());
        self.lease.extend(Held { layers: [diff_id].into(), ..Held::default() }).map_err(failed)?;
        self.commit_layer(&claim, unpacked).map_err(failed)?;
        Ok(diff_id)
    }

    fn commit_layer(&self, claim: &Claim, unpacked: stream::Unpacked) -> io::Result<()> {
        let disk = &self.store.disk;
        let target = disk.layer(unpacked.diff_id);
        // Others may be at the same layer: who has its claim commits.
        let _own = Claim::own(&disk.tmp, unpacked.diff_id)?;
        if target.exists() {
            return Ok(());
        }
        let record = LayerRecord {
            tar_bytes: unpacked.tar_bytes,
            file_bytes: unpacked.skipped.file_bytes,
            blobs: Vec::new(),
        };
        record.write(disk, unpacked.diff_id)?;
        let layers = File::open(&disk.layers)?;
        faults::point()?;
        nix::unistd::syncfs(&layers)?;
        faults::point()?;
        claim.commit_recipe(&disk.tar(unpacked.diff_id))?;
        sync_parent(&disk.tar(unpacked.diff_id))?;
        faults::point()?;
        claim.commit(&target)?;
        faults::point()?;
        layers.sync_all()
    }

    /// Makes an image of a configuration, whose layers must be here, and lets `names` mean it. Returns its id.
    ///
    /// Without a manifest one is made. Errors: the configuration is none; a layer is missing.
    pub fn commit(
        &mut self,
        configuration: &[u8],
        manifest: Option<&[u8]>,
        names: &[ImageName],
    ) -> Result<Digest, Error> {
        let store = self.store;
        let failed = |e: io::Error| store.error(&format!("add an image: {}", cause(&e)));
        let id = Digest::of(configuration);
        let fail = |reason: String| Error::Image { image: id.to_string(), reason };
        let parsed: Configuration =
            serde_json::from_slice(configuration).map_err(|e| fail(format!("configuration: {e}")))?;
        let layers = parsed.rootfs.diff_ids;
        let held = Held { layers: layers.iter().copied().collect(), blobs: [id].into() };
        self.lease.extend(held).map_err(failed)?;
        if let Some(missing) = layers.iter().find(|layer| !store.disk.layer(**layer).exists()) {
            return Err(fail(format!("layer {missing} is missing")));
        }
        let manifest = match manifest {
            Some(manifest) => manifest.to_vec(),
            None => store.describe(id, configuration).map_err(failed)?,
        };
        let digest = Digest::of(&manifest);
        self.lease.extend(Held { blobs: [digest].into(), ..Held::default() }).map_err(failed)?;
        store.put_blob(id, configuration).map_err(failed)?;
        store.put_blob(digest, &manifest).map_err(failed)?;
        let record = catalogue::Record {
            name: None,
            image: id,
            manifest: digest,
            digests: Vec::new(),
            when: catalogue::now(),
        };
        for name in names {
            catalogue::put(&store.disk, name, record.clone()).map_err(failed)?;
        }
        if names.is_empty() {
            catalogue::put_untagged(&store.disk, record).map_err(failed)?;
        }
        Ok(id)
    }
}
