//! A profile of one image for another that has the same files: those of layers that both have, and those of the same path and content.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File as Open;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::libc;
use sha2::{Digest as _, Sha256};
use skiff_sys::file::{Resolve, open_beneath};

use super::profile::{File, Profile};
use super::replay;
use crate::error::cause;
use crate::{Digest, Error};

/// So much is read for the digests of one profile, bytes.
const HASHED_MAX: u64 = 512 << 20;

/// Notes the digest of each file's content, by which the profile fits other images. `root` is the store's.
///
/// Errors: a file is not what the profile says.
pub fn seal(profile: &mut Profile, root: &Path) -> Result<(), Error> {
    for file in &mut profile.files {
        let layer = layer_of(root, file.layer);
        let digest = digest(&layer, file, &mut u64::MAX.clone());
        let digest = digest.map_err(|error| Error::store(&layer.join(&file.path), cause(&error)))?;
        file.sha256 = Some(digest);
    }
    Ok(())
}

/// What of `profile` holds for the image `image` that has `layers`, directories of the store at `root`; `None` if it is less than half.
///
/// Reads files of layers that only one of the two has, up to 512 MiB.
pub fn bind(profile: &Profile, image: Digest, layers: &[PathBuf], root: &Path) -> Option<Profile> {
    let has = |layer: Digest| layers.iter().any(|path| replay::name(path) == Some(layer));
    let mut left = HASHED_MAX;
    let files: Vec<File> = profile
        .files
        .iter()
        .filter_map(
            |file| if has(file.layer) { Some(file.clone()) } else { moved(file, layers, root, &mut left) },
        )
        .collect();
    let bound = Profile {
        image,
        files,
        runs: 0,
        replays: 0,
        checked: None,
        poor: 0,
        waited_us: None,
        ..profile.clone()
    };
    (bound.pages() > 0 && bound.pages() * 2 >= profile.pages()).then_some(bound)
}

/// What of a profile from elsewhere is about files of `layers`, for the image `image` that has these; `None` if nothing is.
///
/// No file is looked at: those that are not what the profile says are left out when it is replayed.
pub fn adopt(profile: Profile, image: Digest, layers: &[PathBuf]) -> Option<Profile> {
    let known: HashSet<Digest> = layers.iter().filter_map(|path| replay::name(path)).collect();
    let mut adopted = Profile { image, ..profile.published() };
    adopted.runs = 0;
    adopted.files.retain(|file| known.contains(&file.layer));
    (adopted.pages() > 0).then_some(adopted)
}

/// The file in another layer, if its content is the same.
fn moved(file: &File, layers: &[PathBuf], root: &Path, left: &mut u64) -> Option<File> {
    // The uppermost is the one that a container sees.
    let (layer, path) = layers.iter().find_map(|path| {
        let other = File { layer: replay::name(path)?, ..file.clone() };
        is_taken(path, &file.path).then_some((other, path))
    })?;
    let found = digest(path, &layer, left).ok()?;
    let wanted = match file.sha256 {
        Some(digest) => digest,
        None => digest(&layer_of(root, file.layer), file, left).ok()?,
    };
    (found == wanted).then_some(File { sha256: Some(found), ..layer })
}

/// Whether the layer says what `path` is, so that a container does not see those below it there: any file, or a link or a file
/// where the path has a directory. Follows no link, for the image has made them.
fn is_taken(layer: &Path, path: &str) -> bool {
    let (Ok(root), Ok(name)) = (Open::open(layer), CString::new(path)) else { return false };
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    match open_beneath(root.as_fd(), &name, flags, 0, Resolve::NoXdev) {
        Ok(_) => true,
        Err(error) => matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)),
    }
}

/// The digest of the file's content. Errors: there is none such, or `left` bytes are fewer than it has.
fn digest(layer: &Path, file: &File, left: &mut u64) -> io::Result<Digest> {
    *left = left.checked_sub(file.size).ok_or(io::ErrorKind::FileTooLarge)?;
    let root = Open::open(layer)?;
    let open = replay::open_below(root.as_fd(), file).ok_or(io::ErrorKind::NotFound)?;
    let (mut from, mut hasher) = (Open::from(open), Sha256::new());
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(Digest::finish(hasher));
        }
        hasher.update(&buffer[..count]);
    }
}

fn layer_of(root: &Path, layer: Digest) -> PathBuf {
    root.join("layers/sha256").join(layer.hex())
}

#[cfg(test)]
mod tests {
    use super::super::profile::{Range, SCHEMA};
    use super::*;
    use std::fs;

    #[test]
    fn profiles_follow_their_files_into_a_rebuilt_image() {
        let root = std::env::temp_dir().join(format!("skiff-bind-{}", std::process::id()));
        let layer = |name: &[u8], content: &str| {
            let path = layer_of(&root, Digest::of(name));
            fs::create_dir_all(path.join("app")).expect("mkdir");
            fs::write(path.join("app/same"), vec![1; 9000]).expect("write");
            fs::write(path.join("app/other"), content).expect("write");
            path
        };
        let base = layer(b"base", "base");
        layer(b"old", "one");
        let new = layer(b"new", "two");
        let file = |layer: &[u8], path: &str, size, pages| File {
            layer: Digest::of(layer),
            path: path.into(),
            size,
            sha256: None,
            ranges: vec![Range(0, 0, pages)],
        };
        let document = format!(
            r#"{{"schema":"{SCHEMA}","image":"{}","class":"app","recorded_s":1,"accuracy":"used","files":[]}}"#,
            Digest::of(b"one")
        );
        let files = vec![
            file(b"base", "app/other", 4, 1),
            file(b"old", "app/same", 9000, 3),
            file(b"old", "app/other", 3, 1),
        ];
        let mut old = Profile { files, ..Profile::parse(document.as_bytes()).expect("parse") };
        let bound =
            bind(&old, Digest::of(b"two"), &[new.clone(), base.clone()], &root).expect("more than half");
        assert_eq!(bound.image, Digest::of(b"two"));
        let paths: Vec<_> = bound.files.iter().map(|file| (file.layer, file.path.as_str())).collect();
        assert_eq!(paths, [(Digest::of(b"base"), "app/other"), (Digest::of(b"new"), "app/same")]);
        seal(&mut old, &root).expect("seal");
        assert_eq!(old.files[1].sha256, Some(Digest::of(&[1; 9000])));
        // With the digests in it, the old layer is not needed.
        fs::remove_dir_all(layer_of(&root, Digest::of(b"old"))).expect("remove");
        assert_eq!(bind(&old, Digest::of(b"two"), &[new, base.clone()], &root).expect("bind").pages(), 4);
        assert_eq!(bind(&old, Digest::of(b"three"), &[base], &root).map(|bound| bound.pages()), Some(4));
        fs::remove_dir_all(root).expect("clean up");
    }

    #[test]
    fn what_comes_from_elsewhere_is_about_layers_of_the_image_alone() {
        let file = |layer: &[u8]| File {
            layer: Digest::of(layer),
            path: "app".into(),
            size: 9000,
            sha256: None,
            ranges: vec![Range(0, 0, 2)],
        };
        let document = format!(
            r#"{{"schema":"{SCHEMA}","image":"{}","class":"app","recorded_s":1,"accuracy":"used","runs":9,"replays":7,
                "poor":1,"files":[]}}"#,
            Digest::of(b"other")
        );
        let empty = Profile::parse(document.as_bytes()).expect("parse");
        let foreign = Profile { files: vec![file(b"own"), file(b"foreign")], ..empty };
        let layers = [PathBuf::from("/layers").join(Digest::of(b"own").hex())];
        let adopted = adopt(foreign.clone(), Digest::of(b"image"), &layers).expect("one file");
        assert_eq!((adopted.image, &adopted.files), (Digest::of(b"image"), &vec![file(b"own")]));
        // Nothing of it was seen here.
        assert!((adopted.runs, adopted.replays, adopted.poor) == (0, 0, 0) && adopted.is_young());
        assert_eq!(adopt(foreign, Digest::of(b"image"), &[]), None);
    }

    #[test]
    fn links_of_an_image_lead_nowhere() {
        let root = std::env::temp_dir().join(format!("skiff-bind-links-{}", std::process::id()));
        let host = root.join("host");
        fs::create_dir_all(host.join("below")).expect("mkdir");
        fs::write(host.join("below/file"), "same").expect("write");
        let layer = |name: &[u8]| layer_of(&root, Digest::of(name));
        let (old, upper, lower) = (layer(b"old"), layer(b"upper"), layer(b"lower"));
        for path in [old.join("net/below"), upper.clone(), lower.join("net/below")] {
            fs::create_dir_all(path).expect("mkdir");
        }
        for path in [&old, &lower] {
            fs::write(path.join("net/below/file"), "same").expect("write");
        }
        let path = "net/below/file";
        let file = File {
            layer: Digest::of(b"old"),
            path: path.into(),
            size: 4,
            sha256: None,
            ranges: vec![Range(0, 0, 1)],
        };
        let both = [upper.clone(), lower.clone()];
        let found = || moved(&file, &both, &root, &mut HASHED_MAX.clone()).map(|file| file.layer);
        assert!(!is_taken(&upper, path) && is_taken(&lower, path));
        assert_eq!(found(), Some(Digest::of(b"lower")));
        // On the host neither the file that is there nor the one that is not can be told from the other.
        std::os::unix::fs::symlink(&host, upper.join("net")).expect("link");
        assert!(is_taken(&upper, path) && is_taken(&upper, "net/none/file"));
        assert_eq!(found(), None);
        // A file takes the place of a directory as well.
        fs::remove_file(upper.join("net")).expect("remove");
        fs::write(upper.join("net"), "").expect("write");
        assert!(is_taken(&upper, path));
        assert_eq!(found(), None);
        fs::remove_dir_all(root).expect("clean up");
    }
}
