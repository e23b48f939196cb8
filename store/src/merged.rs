//! Which images have their layers merged into one tree, and where those trees are.
//!
//! ```text
//! ROOT/erofs/sha256/HEX     the merged tree of the layers whose digests, bottom first, have this digest together
//! ```
//!
//! A tree is made when its image is first resolved, and can be made again at any time. It pays off for images of many
//! layers only (`benches/src/bin/layers.rs`): opening a file takes two look-ups instead of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Store;
use crate::digest::Digest;
use crate::disk::{Durable, make_directory};
use crate::erofs;
use crate::error::cause;
use crate::lease::{Held, Lease};

/// So many layers make it pay off.
const LAYERS_MIN: usize = 24;

/// The first Linux on which overlayfs finds contents elsewhere without `metacopy`.
const LINUX_MIN: (u32, u32) = (6, 16);

/// An image's layers as one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The tree: an EROFS image.
    pub tree: PathBuf,
    /// The directory where it finds the contents of files.
    pub data: PathBuf,
}

/// What images are to be mounted from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// Merged where there are many layers and the kernel can mount that, else directories.
    #[default]
    Automatic,
    /// Always the layers' directories.
    Directories,
    /// Merged, however few layers there are; for root.
    Merged,
}

impl Form {
    /// By the environment variable `SKIFF_ROOTFS`: `auto`, `directories` or `merged`.
    ///
    /// Errors: one line that names the variable.
    pub fn of_environment() -> Result<Self, String> {
        match std::env::var("SKIFF_ROOTFS").as_deref() {
            Err(_) | Ok("" | "auto") => Ok(Self::Automatic),
            Ok("directories") => Ok(Self::Directories),
            Ok("merged") => Ok(Self::Merged),
            Ok(other) => Err(format!("SKIFF_ROOTFS: {other:?} is none of auto, directories, merged")),
        }
    }

    fn merges(self, layers: usize) -> bool {
        match self {
            _ if layers == 0 || !nix::unistd::geteuid().is_root() => false,
            Self::Automatic => layers >= LAYERS_MIN && can_mount(),
            Self::Directories => false,
            Self::Merged => true,
        }
    }
}

impl Store {
    /// The same store, whose images are given in this form.
    #[must_use]
    pub fn with_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// The merged tree of layers that are all here, bottom first, made if need be.
    ///
    /// None where directories will do, and where it cannot be made: directories always will do.
    pub(crate) fn merged(&self, diff_ids: &[Digest]) -> Option<Merged> {
        // A layer that occurs twice counts where it is on top.
        let layers: Vec<_> = self.stack(diff_ids).into_iter().rev().collect();
        if !self.form.merges(layers.len()) {
            return None;
        }
        let tree = self.disk.kind("erofs").join(chain(diff_ids).hex());
        if !tree.exists() {
            let digest = |path: &PathBuf| Digest::from_hex(path.file_name()?.to_str()?);
            let named =
                layers.into_iter().map(|path| Some((digest(&path)?, path))).collect::<Option<Vec<_>>>()?;
            match self.make_merged(&tree, diff_ids, &named) {
                Ok(true) => {}
                // Collected meanwhile.
                Ok(false) => return None,
                Err(error) => {
                    tracing::warn!("layers stay apart: {}", cause(&error));
                    return None;
                }
            }
        }
        Some(Merged { tree, data: self.disk.layers.clone() })
    }

    /// Removes every merged tree. Who has mounted one keeps it.
    pub(crate) fn remove_merged(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.disk.kind("erofs")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Holds the layers while their tree is made: half of one that is on its way out must not be kept. Says whether all were
    /// there.
    fn make_merged(&self, tree: &Path, diff_ids: &[Digest], named: &[(Digest, PathBuf)]) -> io::Result<bool> {
        let held = Held { layers: diff_ids.iter().copied().collect(), ..Held::default() };
        let _lease = Lease::new(&self.disk, held)?;
        if !named.iter().all(|(_, path)| path.exists()) {
            return Ok(false);
        }
        let image = erofs::merge(named)?;
        make_directory(&self.disk.kind("erofs"))?;
        self.disk.publish(tree, &image, Durable::Yes)?;
        Ok(true)
    }
}

/// The name of the merged tree of these layers, bottom first.
pub(crate) fn chain(diff_ids: &[Digest]) -> Digest {
    let all: Vec<String> = diff_ids.iter().map(Digest::hex).collect();
    Digest::of(all.join("\n").as_bytes())
}

/// Whether it is worth trying; a launch that fails to mount a tree takes the directories.
fn can_mount() -> bool {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= LINUX_MIN && read("/proc/filesystems").lines().any(|line| line.trim() == "erofs")
}
