//! Images that have been resolved lately.
//!
//! Looking at an image means reading JSON, and at first unpacking layers: the one costs time on every launch, the other
//! would stop the daemon. So what was found is kept until the image's file, or its layout's index, is another.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{cell::RefCell, fs};

use skiff_store::{Form, Image, ImageRef, Store};

use crate::Error;

/// So many images are remembered.
const IMAGES_MAX: usize = 64;

/// The store, and what was found in it.
#[derive(Debug)]
pub(crate) struct Images {
    store: Arc<Store>,
    known: RefCell<HashMap<String, (Stamp, Image)>>,
}

/// Device, inode, change time and size of the file that an image is found by.
type Stamp = (u64, u64, i64, i64, u64);

impl Images {
    /// Opens the store below `state_root`.
    pub(crate) fn open(state_root: &Path) -> Result<Self, Error> {
        let form = Form::of_environment().map_err(Error::Invalid)?;
        let store = Store::open(state_root)?.with_form(form);
        Ok(Self { store: Arc::new(store), known: RefCell::default() })
    }

    /// Finds the image that `text` names.
    pub(crate) async fn resolve(&self, text: &str) -> Result<Image, Error> {
        let reference = ImageRef::parse(text)?;
        let file: PathBuf = match &reference {
            // A few system calls.
            ImageRef::Host | ImageRef::Rootfs(_) => return Ok(self.store.resolve(&reference)?),
            ImageRef::Named(name) => self.store.name_file(name),
            ImageRef::Id(_) => return Ok(self.store.resolve(&reference)?),
            ImageRef::OciLayout(at) => at.path.join("index.json"),
            ImageRef::OciArchive(at) | ImageRef::DockerArchive(at) => at.path.clone(),
        };
        let stamp = stamp(&file);
        if let Some(image) = stamp.and_then(|stamp| self.known(text, stamp)) {
            return Ok(image);
        }
        let store = self.store.clone();
        let resolved = tokio::task::spawn_blocking(move || store.resolve(&reference));
        let image = resolved.await.map_err(|error| Error::Host(error.to_string()))??;
        // Stamped before it was read: if it has changed since, it is read again.
        if let Some(stamp) = stamp {
            let mut known = self.known.borrow_mut();
            if known.len() >= IMAGES_MAX {
                known.clear();
            }
            known.insert(text.to_owned(), (stamp, image.clone()));
        }
        Ok(image)
    }

    fn known(&self, text: &str, stamp: Stamp) -> Option<Image> {
        let known = self.known.borrow();
        let (_, image) = known.get(text).filter(|(found, _)| *found == stamp)?;
        image.layers.iter().all(|layer| layer.exists()).then(|| image.clone())
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let found = fs::metadata(file).ok()?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec(), found.size()))
}
