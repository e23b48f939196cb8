//! The recorder with what kernels tell that know no uses, only what comes into the page cache.
//!
//! Needs root and a kernel with BTF; elsewhere it says so.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use skiff_ebpf::{Accuracy, Error, FileId, Recorder};

const PAGE: usize = 4096;

/// A cgroup of this test, until it is dropped.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Nobody is in it any more.
        let _removed = fs::remove_dir(&self.0);
    }
}

/// A file whose pages are not in the cache, and how the kernel calls it.
fn cold(path: &Path, pages: usize) -> FileId {
    fs::write(path, vec![7; pages * PAGE]).expect("write");
    let file = File::open(path).expect("open");
    file.sync_all().expect("sync");
    skiff_sys::cache::drop_pages(file.as_fd()).expect("drop its pages");
    let found = file.metadata().expect("stat");
    let (major, minor) = (nix::sys::stat::major(found.dev()), nix::sys::stat::minor(found.dev()));
    FileId { device: u32::try_from(major << 20 | minor).expect("a device"), inode: found.ino() }
}

#[test]
fn where_uses_are_not_told_what_comes_into_the_cache_is_recorded() {
    let mut recorder = match Recorder::load_as(Accuracy::Added) {
        Ok(recorder) => recorder,
        Err(error @ (Error::Privilege(_) | Error::NoTypes { .. }))
            if std::env::var_os("MUST_RUN").is_none() =>
        {
            eprintln!("skip: needs root and a kernel with BTF: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(recorder.accuracy(), Accuracy::Added);
    let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let Some(mount) = mounts.into_iter().find(|mount| mount.join("cgroup.procs").is_file()) else {
        eprintln!("skip: needs a cgroup v2 hierarchy");
        return;
    };
    let cgroup = Cgroup(mount.join(format!("skiff-recorder-{}", std::process::id())));
    fs::create_dir(&cgroup.0).expect("a cgroup");
    let id = fs::metadata(&cgroup.0).expect("stat").ino();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("recorder-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("mkdir");
    let read_with = |program: &Path, path: &Path, inside: bool| {
        let script =
            if inside { r#"echo $$ >"$3/cgroup.procs" && exec "$1" "$2""# } else { r#"exec "$1" "$2""# };
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).args([program, path, &cgroup.0]);
        let output = command.output().expect("sh");
        assert!(output.status.success(), "{output:?}");
    };
    let read = |path: &Path, inside: bool| read_with(Path::new("cat"), path, inside);
    let (first, second) = (directory.join("first"), directory.join("second"));
    let (first_id, second_id) = (cold(&first, 100), cold(&second, 3));
    let recording = recorder.arm(id).expect("arm");
    read(&first, true);
    read(&second, false);
    let (files, progress) = recorder.finish(recording).expect("finish");
    let pages: u64 = files[&first_id].iter().map(|used| used.pages).sum();
    assert_eq!((pages, files.contains_key(&second_id)), (100, false));
    assert!(progress.exec_ns > 0 && progress.lost == 0);
    // A program that is only called as a reader is none.
    let third = directory.join("third");
    let third_id = cold(&third, 5);
    let reader = directory.join("skiff-reader");
    std::os::unix::fs::symlink("/bin/cat", &reader).expect("a link");
    let recording = recorder.arm(id).expect("arm");
    read_with(&reader, &third, true);
    let (files, _) = recorder.finish(recording).expect("finish");
    assert!(files.contains_key(&third_id));
    // What is in the cache already does not come into it, and nothing of an earlier recording is in a later one.
    let recording = recorder.arm(id).expect("arm");
    read(&first, true);
    let (files, _) = recorder.finish(recording).expect("finish");
    assert!(!files.contains_key(&first_id));
    fs::remove_dir_all(directory).expect("clean up");
}
