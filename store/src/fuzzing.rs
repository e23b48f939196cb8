//! What the fuzz targets call, and nobody else: readers that are this crate's own business. See fuzz/README.md.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use serde_json::{Map, Value};

use crate::Platform;
use crate::digest::Digest;
use crate::entries::{Kind, Reader};
use crate::manifest::{self, Documents};
use crate::pack::Writer;
use crate::recipe::{Recorder, Replay};
use crate::remote::Document;
use crate::spec::{Configuration, Descriptor};
use crate::unpack;
use crate::{ImageConfig, instructions};

/// Reads the entries of a tar; what is read is written again and read once more, and must be the same.
pub fn entries(data: &[u8]) {
    let mut reader = Reader::new(Cursor::new(data));
    while let Ok(Some(mut entry)) = reader.next() {
        if entry.kind == Kind::Directory && !entry.path.ends_with(b"/") {
            entry.path.push(b'/');
        }
        let mut writer = Writer::new(Vec::new());
        writer.entry(&entry).expect("what was read can be written");
        let archive = writer.into_inner();
        let again = Reader::new(Cursor::new(&archive[..])).next();
        let again = again.expect("what was written can be read").expect("an entry");
        entry.xattrs.sort();
        assert_eq!(format!("{entry:?}"), format!("{again:?}"));
    }
}

/// Unpacks a tar below `directory`, which is empty and stays so, and makes it again of what has been unpacked.
pub fn unpack(data: &[u8], directory: &Path) {
    let open = |name: &str| {
        std::fs::create_dir(directory.join(name)).expect("mkdir");
        OwnedFd::from(File::open(directory.join(name)).expect("open"))
    };
    let (root, trash) = (open("root"), open("trash"));
    let path = directory.join("recipe");
    let recipe = File::options().read(true).write(true).create_new(true).open(&path).expect("create");
    let recorder = Recorder::new(recipe).expect("record");
    match unpack::unpack_recorded(Cursor::new(data), root, trash, recorder) {
        Err(message) => one_line(&message),
        Ok(()) => {
            let tree = directory.join("root");
            let open = move |name: &[u8]| File::open(tree.join(String::from_utf8_lossy(name).as_ref()));
            let is_text = std::str::from_utf8(data).is_ok() || data.iter().all(|byte| *byte < 0x80);
            let mut again = Vec::new();
            let replayed = Replay::new(File::open(&path).expect("open"), Box::new(open))
                .and_then(|mut replay| replay.read_to_end(&mut again));
            // Names that are no text cannot be opened this way.
            if is_text {
                replayed.expect("replay");
                assert!(again == data, "another tar than that which was unpacked");
            }
        }
    }
    let mut left: Vec<_> =
        std::fs::read_dir(directory).expect("list").flatten().map(|it| it.file_name()).collect();
    left.sort();
    assert_eq!(left, ["recipe", "root", "trash"]);
}

/// Follows a recipe over files that hold `content`.
pub fn recipe(data: &[u8], content: &File) {
    let content = content.try_clone().expect("clone");
    let Ok(replay) = Replay::new(data, Box::new(move |_| content.try_clone())) else { return };
    drop(std::io::copy(&mut replay.take(1 << 24), &mut std::io::sink()));
}

/// As [`recipe`], of steps that are not compressed yet, with the length of the tar in front.
pub fn recipe_of_steps(data: &[u8], content: &File) {
    let Some((length, steps)) = data.split_first_chunk::<8>() else { return };
    let mut whole = [&b"skiff tar 1\n"[..], length].concat();
    whole.extend(zstd::encode_all(steps, 1).expect("compress"));
    recipe(&whole, content);
}

/// Reads manifests, indexes and configurations out of `data` as if a registry had said it.
pub fn documents(data: &[u8]) {
    struct Said<'a>(&'a [u8]);
    impl Documents for Said<'_> {
        fn document(&self, _: &str, descriptor: &Descriptor) -> Result<Document, String> {
            Ok(Document { media_type: descriptor.media_type.clone(), bytes: self.0.to_vec() })
        }
    }
    let document = Document { media_type: String::new(), bytes: data.to_vec() };
    if let Err(message) = manifest::of_document(&Said(data), document, &Platform::host()) {
        one_line(&crate::store::printable(&message));
    }
    if let Ok(configuration) = serde_json::from_slice::<Configuration>(data) {
        drop(ImageConfig::from(configuration));
    }
    drop(serde_json::from_slice::<Vec<crate::spec::Saved>>(data));
    if let Ok(text) = std::str::from_utf8(data) {
        drop(Digest::try_from(text.to_owned()));
    }
}

/// Carries out instructions, one a line.
pub fn instructions(text: &str) {
    let changes: Vec<_> = text.lines().map(str::to_owned).collect();
    let mut config: Map<String, Value> = Map::new();
    if let Err(message) = instructions::apply(&mut config, &changes) {
        one_line(&crate::store::printable(&message));
    }
}

fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
}
