//! The tar that a layer was unpacked from, again.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use sha2::{Digest as _, Sha256};
use skiff_sys::file::{Resolve, open_beneath};

use crate::digest::Digest;
use crate::error::{at, cause, is_unreadable};
use crate::faults;
use crate::recipe::{Opened, Replay};
use crate::{Error, Store};

/// A layer's tar, made of its files while it is read.
///
/// Reading ends with an error instead of the end if the bytes are not those that the layer's digest stands for: then
/// somebody has changed a file of the layer.
#[derive(Debug)]
pub struct LayerTar {
    replay: Replay<BufReader<File>>,
    layer: Digest,
    length: u64,
    hasher: Sha256,
    path: PathBuf,
}

impl LayerTar {
    /// Bytes of the whole tar.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl Store {
    /// The tar of the layer with this digest, byte for byte.
    ///
    /// Errors: the layer is not here; it was unpacked by a skiff that did not record what is needed, or was too
    /// odd for that (over 1 GiB of what its tree does not have).
    pub fn layer_tar(&self, layer: Digest) -> Result<LayerTar, Error> {
        self.open_layer_tar(layer).map_err(|e| self.error(&format!("layer {layer}: {}", cause(&e))))
    }

    /// The same; errors say whether something could not be read ([`crate::error::is_unreadable`]).
    pub(crate) fn open_layer_tar(&self, layer: Digest) -> io::Result<LayerTar> {
        let missing = |what: &'static str| io::Error::new(io::ErrorKind::NotFound, what);
        let path = self.disk.layer(layer);
        let root = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(missing("is not here"));
            }
            root => root.map_err(|e| at("open", e))?,
        };
        let recipe = match faults::reading().and_then(|()| File::open(self.disk.tar(layer))) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let why =
                    "it is not known how its archive looked; remove the image and pull or load it again";
                return Err(missing(why));
            }
            recipe => recipe.map_err(|e| at("recipe", e))?,
        };
        let open: Opened = Box::new(move |path| {
            const FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK);
            let path = std::ffi::CString::new(path)?;
            faults::reading()?;
            let file = open_beneath(root.as_fd(), &path, FLAGS, 0, Resolve::NoXdev).map(File::from)?;
            match file.metadata()?.is_file() {
                true => Ok(file),
                false => Err(io::Error::other("not a regular file")),
            }
        });
        let replay = Replay::new(BufReader::new(recipe), open).map_err(|e| at("recipe", e))?;
        let length = replay.left();
        Ok(LayerTar { replay, layer, length, hasher: Sha256::new(), path })
    }
}

impl Read for LayerTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.replay.read(buffer).map_err(|e| match is_unreadable(&e) {
            true => at(self.path.display().to_string(), e),
            false => self.wrong(&cause(&e)),
        })?;
        self.hasher.update(&buffer[..count]);
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        match Digest::finish(self.hasher.clone()) {
            found if found == self.layer => Ok(0),
            found => Err(self.wrong(&format!("content has digest {found}"))),
        }
    }
}

impl LayerTar {
    fn wrong(&self, what: &str) -> io::Error {
        let (layer, path) = (self.layer, self.path.display());
        io::Error::new(io::ErrorKind::InvalidData, format!("layer {layer} in {path} is damaged: {what}"))
    }
}
