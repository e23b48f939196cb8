use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::*;

/// The same numbers in every run. Xorshift.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// Few different names, so that entries get in each other's way.
    fn path(&mut self) -> Vec<u8> {
        let names: [&[u8]; 10] = [b"a", b"b", b"c", b"a", b"b", b".", b"", b".wh.a", b".wh..wh..opq", b".."];
        let parts: Vec<_> = (0..=self.below(3)).map(|_| self.one_of(&names)).collect();
        parts.join(&b'/')
    }

    /// Where a link may point: inside, or at `outside` in some way.
    fn target(&mut self, outside: &Path) -> Vec<u8> {
        match self.below(6) {
            0 => outside.as_os_str().as_bytes().to_vec(),
            1 => outside.join("f").as_os_str().as_bytes().to_vec(),
            2 => b"../../out".to_vec(),
            3 => b"../out/f".to_vec(),
            4 => [b"/", &self.path()[..]].concat(),
            _ => self.path(),
        }
    }

    fn archive(&mut self, outside: &Path) -> Vec<u8> {
        let mut archive = Vec::new();
        for _ in 0..=self.below(10) {
            let mut header = tar::Header::new_gnu();
            let path = self.path();
            header.as_old_mut().name[..path.len()].copy_from_slice(&path);
            header.set_entry_type(tar::EntryType::new(b"00055562221"[self.below(11)]));
            let target = self.target(outside);
            header.as_old_mut().linkname[..target.len()].copy_from_slice(&target);
            header.set_mode(0o700);
            header.set_size(0);
            header.set_cksum();
            archive.extend(header.as_bytes());
        }
        archive
    }
}

/// What nothing in an archive may change.
fn look_at(outside: &Path) -> Vec<(PathBuf, u32, i64, i64, u64, u64)> {
    let mut seen: Vec<_> = fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().path()).collect();
    seen.push(outside.to_owned());
    seen.sort();
    let look = |path: PathBuf| {
        let meta = path.symlink_metadata().unwrap();
        (path, meta.mode(), meta.ctime(), meta.ctime_nsec(), meta.nlink(), meta.len())
    };
    seen.into_iter().map(look).collect()
}

#[test]
fn no_sequence_of_entries_reaches_outside() {
    let dir = std::env::temp_dir().join(format!("skiff-outside-{}", std::process::id()));
    let outside = dir.join("out");
    fs::create_dir_all(outside.join("d")).unwrap();
    fs::write(outside.join("f"), "canary").unwrap();
    let before = look_at(&outside);
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let (mut good, mut refused) = (0, 0);
    for round in 0..1500 {
        let archive = numbers.archive(&outside);
        let [root, trash] = ["root", "trash"].map(|name| {
            fs::create_dir(dir.join(name)).unwrap();
            OwnedFd::from(File::open(dir.join(name)).unwrap())
        });
        let mut reader = Reader::new(Tap::new(Cursor::new(&archive[..]), None));
        let unpacked = unpack(&mut reader, root, trash, Privilege::of_caller());
        match unpacked.and_then(|(_, tree)| finish(tree, None)) {
            Ok(_) => good += 1,
            Err(_) => refused += 1,
        }
        assert_eq!(look_at(&outside), before, "round {round}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3, "round {round}");
        fs::remove_dir_all(dir.join("root")).unwrap();
        fs::remove_dir_all(dir.join("trash")).unwrap();
    }
    fs::remove_dir_all(dir).unwrap();
    assert!(
        good > 300 && refused > 300,
        "{good} unpacked, {refused} refused: too one-sided to show anything"
    );
}

#[test]
fn a_layer_with_too_many_entries_is_refused() {
    let dir = std::env::temp_dir().join(format!("skiff-entries-{}", std::process::id()));
    let attempt = |count: usize| {
        let [root, trash] = ["root", "trash"].map(|name| {
            fs::create_dir_all(dir.join(name)).unwrap();
            OwnedFd::from(File::open(dir.join(name)).unwrap())
        });
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_path("d/").unwrap();
        header.set_mode(0o755);
        header.set_cksum();
        let archive = header.as_bytes().repeat(count);
        let mut reader = Reader::new(Tap::new(Cursor::new(&archive[..]), None));
        let unpacked = unpack(&mut reader, root, trash, Privilege::of_caller()).map(drop);
        fs::remove_dir_all(&dir).unwrap();
        unpacked
    };
    assert_eq!(attempt(100), Ok(()));
    assert_eq!(attempt(101), Err("more than 100 entries".to_owned()));
}
