//! Images that have been resolved lately.
//!
//! Looking at an image means reading JSON, and at first unpacking layers: the one costs time on every launch, the other
//! would stop the daemon. So what was found is kept until the file that it was found by is another: an image's name, its
//! archive, its layout's index. As long as it is kept it is held, so that no collection takes it away.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::{cell::RefCell, fs};

use skiff_store::{Form, Image, ImageRef, Lease, Store};

use crate::Error;

/// So many images are remembered.
const IMAGES_MAX: usize = 64;

/// The store, and what was found in it.
#[derive(Debug)]
pub(crate) struct Images {
    store: Arc<Store>,
    known: RefCell<HashMap<String, Known>>,
}

/// An image that was found.
#[derive(Debug, Clone)]
struct Known {
    stamp: Stamp,
    image: Image,
    lease: Option<Rc<Lease>>,
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

    /// Finds the image that `text` names. It stays where it is for as long as the lease lives.
    pub(crate) async fn resolve(&self, text: &str) -> Result<(Image, Option<Rc<Lease>>), Error> {
        let reference = ImageRef::parse(text)?;
        if let ImageRef::Host | ImageRef::Rootfs(_) = reference {
            // A few system calls.
            return Ok((self.store.resolve(&reference)?, None));
        }
        let stamp = self.file(&reference).as_deref().and_then(stamp);
        if let Some(known) = stamp.and_then(|stamp| self.known(text, stamp)) {
            return Ok((known.image, known.lease));
        }
        let store = self.store.clone();
        let resolved = tokio::task::spawn_blocking(move || hold(&store, &reference));
        let (image, lease) = resolved.await.map_err(|error| Error::Host(error.to_string()))??;
        let lease = Some(Rc::new(lease));
        // Stamped before it was read: if it has changed since, it is read again.
        if let Some(stamp) = stamp {
            let mut known = self.known.borrow_mut();
            if known.len() >= IMAGES_MAX {
                known.clear();
            }
            known.insert(text.to_owned(), Known { stamp, image: image.clone(), lease: lease.clone() });
        }
        Ok((image, lease))
    }

    /// Forgets what is known of the image with this id, or of all; the layers of what was known.
    pub(crate) fn forget(&self, id: Option<&str>) -> Vec<Vec<PathBuf>> {
        let mut forgotten = Vec::new();
        self.known.borrow_mut().retain(|_, known| {
            let is_it = id.is_none() || known.image.id.as_deref() == id;
            if is_it {
                forgotten.push(known.image.layers.clone());
            }
            !is_it
        });
        forgotten
    }

    /// The file that says what is meant; none where there is no such.
    fn file(&self, reference: &ImageRef) -> Option<PathBuf> {
        match reference {
            // An id means the same for ever; there is little to read.
            ImageRef::Host | ImageRef::Rootfs(_) | ImageRef::Id(_) => None,
            ImageRef::Named(name) => Some(self.store.name_file(name)),
            ImageRef::OciLayout(at) => Some(at.path.join("index.json")),
            ImageRef::OciArchive(at) | ImageRef::DockerArchive(at) => Some(at.path.clone()),
        }
    }

    fn known(&self, text: &str, stamp: Stamp) -> Option<Known> {
        let known = self.known.borrow();
        let found = known.get(text).filter(|found| found.stamp == stamp)?;
        found.image.layers.iter().all(|layer| layer.exists()).then(|| found.clone())
    }
}

/// Finds an image and holds it.
fn hold(store: &Store, reference: &ImageRef) -> Result<(Image, Lease), skiff_store::Error> {
    let image = store.resolve(reference)?;
    match store.lease(&image) {
        Ok(lease) => Ok((image, lease)),
        // It has just been collected: the name is gone, or the layers are made anew.
        Err(_) => {
            let image = store.resolve(reference)?;
            store.lease(&image).map(|lease| (image, lease))
        }
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let found = fs::metadata(file).ok()?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec(), found.size()))
}
