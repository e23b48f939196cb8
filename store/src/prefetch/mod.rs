//! Prefetched layers: what containers of an image use of its files is kept as a *profile*, and read ahead at the next cold launch.
//!
//! ```text
//! ROOT/prefetch/HEX/CLASS.json    HEX: the image's id, CLASS: the beginning of the digest of the command class
//! ```
//!
//! Nothing depends on a profile: it is written by rename, not synced, and one that cannot be read counts as none. How it is recorded
//! is not known here. docs/prefetch.md describes the document.

mod bind;
mod find;
mod profile;
mod replay;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub use bind::{adopt, bind, seal};
pub use find::{Found, Origin, Use, find};
pub use profile::{
    Accuracy, BYTES_MAX, Checked, File, PAGE, Profile, Range, Run, SCHEMA, class_of, time_class,
};
pub use replay::{Lent, Outcome, Report, is_warm_in, replay};

use crate::error::cause;
use crate::{Digest, Error};

/// The profiles of a store.
#[derive(Debug, Clone)]
pub struct Profiles {
    root: PathBuf,
}

/// What a profile is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The image's id.
    pub image: Digest,
    /// The command class.
    pub class: String,
}

impl Profiles {
    /// Those of the store at `root`; nothing is made before there is one.
    pub fn of(root: &Path) -> Self {
        Self { root: root.join("prefetch") }
    }

    /// The profile of `key`, if there is one.
    ///
    /// Errors: it cannot be read, or makes no sense.
    pub fn load(&self, key: &Key) -> Result<Option<Profile>, Error> {
        let path = self.path(key);
        let Some(profile) = read(&path)? else { return Ok(None) };
        // A digest is cut short in the name.
        Ok(Some(profile).filter(|profile| profile.image == key.image && profile.class == key.class))
    }

    /// Keeps `profile`, in the place of any that there is.
    pub fn save(&self, profile: &Profile) -> Result<(), Error> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let path = self.path(&Key { image: profile.image, class: profile.class.clone() });
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let fresh = path.with_extension(format!("{}.{serial}", std::process::id()));
        let directory = path.parent().unwrap_or(&self.root);
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            fs::write(&fresh, profile.to_json())?;
            fs::rename(&fresh, &path)
        };
        write().map_err(|error| {
            // It may not have come to be.
            let _gone = fs::remove_file(&fresh);
            Error::store(&path, format!("write a prefetch profile: {}", cause(&error)))
        })
    }

    /// All there are, those that can be read, by image and class.
    pub fn list(&self) -> Result<Vec<Profile>, Error> {
        let mut found = Vec::new();
        for directory in entries(&self.root)? {
            for file in entries(&directory)? {
                if file.extension().is_some_and(|extension| extension == "json") {
                    match read(&file) {
                        Ok(profile) => found.extend(profile),
                        Err(error) => tracing::warn!("{error}"),
                    }
                }
            }
        }
        found.sort_by(|a, b| (a.image, &a.class).cmp(&(b.image, &b.class)));
        Ok(found)
    }

    /// Removes the profiles of images that have lost one of their layers, which are directories of `layers`: these images are gone.
    pub(crate) fn sweep(&self, layers: &Path) -> Result<(), Error> {
        for profile in self.list()? {
            let is_whole = profile.files.iter().all(|file| layers.join(file.layer.hex()).exists());
            if !is_whole {
                self.remove(&Key { image: profile.image, class: profile.class })?;
            }
        }
        Ok(())
    }

    /// Removes the profile of `key`; whether there was one.
    pub fn remove(&self, key: &Key) -> Result<bool, Error> {
        let path = self.path(key);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other,
        };
        removed.map_err(|error| Error::store(&path, format!("remove: {}", cause(&error))))?;
        if let Some(directory) = path.parent() {
            // Others of the image may be in it.
            let _kept = fs::remove_dir(directory);
        }
        Ok(true)
    }

    fn path(&self, key: &Key) -> PathBuf {
        let name = &Digest::of(key.class.as_bytes()).hex()[..16];
        self.root.join(key.image.hex()).join(format!("{name}.json"))
    }
}

/// Reads one document; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<Profile>, Error> {
    let fail = |reason: String| Error::store(path, format!("read a prefetch profile: {reason}"));
    let size = match fs::symlink_metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(cause(&error))),
    };
    if size > BYTES_MAX as u64 {
        return Err(fail(format!("more than {BYTES_MAX} bytes")));
    }
    let bytes = fs::read(path).map_err(|error| fail(cause(&error)))?;
    Profile::parse(&bytes).map(Some).map_err(fail)
}

/// What is in a directory; nothing if there is none.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        listed => listed.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    };
    listed.map_err(|error| Error::store(directory, cause(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_kept_listed_and_removed() {
        let root = std::env::temp_dir().join(format!("skiff-profiles-{}", std::process::id()));
        let profiles = Profiles::of(&root);
        let key = Key { image: Digest::of(b"image"), class: "python3 app.py".into() };
        assert_eq!(profiles.load(&key).expect("load"), None);
        assert_eq!(profiles.list().expect("list"), []);
        let document = format!(
            r#"{{"schema":"{SCHEMA}","image":"{}","class":"python3 app.py","recorded_s":1,"accuracy":"used","files":[]}}"#,
            key.image
        );
        let profile = Profile::parse(document.as_bytes()).expect("parse");
        profiles.save(&profile).expect("save");
        assert_eq!(profiles.load(&key).expect("load"), Some(profile.clone()));
        assert_eq!(profiles.list().expect("list"), std::slice::from_ref(&profile));
        // Of no file at all, and so of none that has gone.
        profiles.sweep(&root).expect("sweep");
        assert_eq!(profiles.list().expect("list").len(), 1);
        let layer = Digest::of(b"layer");
        let file = File { layer, path: "app".into(), size: 1, sha256: None, ranges: vec![Range(0, 0, 1)] };
        profiles.save(&Profile { files: vec![file], ..profile.clone() }).expect("save");
        fs::create_dir(root.join(layer.hex())).expect("mkdir");
        profiles.sweep(&root).expect("sweep");
        assert_eq!(profiles.list().expect("list").len(), 1);
        fs::remove_dir(root.join(layer.hex())).expect("remove");
        profiles.sweep(&root).expect("sweep");
        assert_eq!(profiles.list().expect("list"), []);
        profiles.save(&profile).expect("save");
        fs::write(profiles.path(&key), "{").expect("spoil");
        assert!(profiles.load(&key).is_err() && profiles.list().expect("list").is_empty());
        assert!(profiles.remove(&key).expect("remove") && !profiles.remove(&key).expect("remove"));
        assert!(entries(&profiles.root).expect("list").is_empty());
        fs::remove_dir_all(root).expect("clean up");
    }
}
