//! How much containers have written, and how large they are with their images.

use std::collections::HashMap;
use std::fmt;

use skiff_engine::record::Records;

use super::containers::written_bytes;
use super::documents;
use super::local::Local;
use crate::client::{os, refused};
use crate::failure::Failure;
use crate::format::units::decimal;

/// Looks at containers' files and at their images, at each of these once.
#[derive(Debug)]
pub(crate) struct Sizes {
    local: Local,
    records: Records,
    images: HashMap<String, Option<u64>>,
}

/// The size of a container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Bytes in the files that it has written.
    pub(crate) written: u64,
    /// The same with those of its image, if it has one.
    pub(crate) whole: Option<u64>,
}

impl Sizes {
    /// Errors: the caller may not look at the containers' files.
    pub(crate) fn open() -> Result<Self, Failure> {
        let local = Local::open()?;
        let records = Records::open(&local.roots.state)
            .map_err(|error| refused(os("read the containers' records", &error)))?;
        Ok(Self { local, records, images: HashMap::new() })
    }

    /// The size of container `id`, which is of the image of this id, or of none.
    pub(crate) fn of(&mut self, id: &str, image: &str) -> Size {
        let written = written_bytes(&self.records.directory(id));
        let look = || documents::inspect(&self.local.find(image).ok()?)["Size"].as_u64();
        let image = *self.images.entry(image.to_owned()).or_insert_with(look);
        Size { written, whole: image.map(|bytes| bytes + written) }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&decimal(self.written))?;
        self.whole.map_or(Ok(()), |bytes| write!(f, " (virtual {})", decimal(bytes)))
    }
}
