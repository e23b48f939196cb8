//! Who reads ahead for a container in its cgroup is in none of the records of what the container does.
//!
//! Needs root and a kernel with BTF; elsewhere it says so.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::prctl;
use skiff_ebpf::trace::{Filter, Tracer};
use skiff_ebpf::{Accuracy, FileId, Recorder, UseRecorder};
use skiff_sys::cache;
use skiff_sys::process::{self, Memory};

use shared::{Cgroups, or_skip};

mod shared;

const READER: &CStr = c"skiff-reader";
const BYTES: usize = 20_480;

/// Lets a process called `name` from its birth on do `work` in `cgroup`.
fn child(cgroup: &File, name: &CStr, work: impl FnOnce()) {
    child_in(CloneFlags::empty(), cgroup, name, work);
}

/// The same in new namespaces.
fn child_in(namespaces: CloneFlags, cgroup: &File, name: &CStr, work: impl FnOnce()) {
    let own = prctl::get_name().expect("a name");
    prctl::set_name(name).expect("another");
    let run = |_: Memory| {
        work();
        0
    };
    let child = process::spawn(namespaces, Some(cgroup.as_fd()), Memory::Copied, run);
    prctl::set_name(&own).expect("the name");
    process::reap(child.expect("a process").pidfd.as_fd(), true).expect("its end");
}

/// Has a child and waits for it.
fn fork() {
    let child = process::spawn(CloneFlags::empty(), None, Memory::Copied, |_| 0).expect("a process");
    process::reap(child.pidfd.as_fd(), true).expect("its end");
}

#[test]
fn it_is_in_no_record() {
    let Some(mut pages) = or_skip(Recorder::load_as(Accuracy::Added)) else { return };
    let mut uses = UseRecorder::load().expect("load");
    let mut filter = Filter::none(1000);
    assert!(filter.add("getppid"));
    let mut tracer = Tracer::load(&filter).expect("load");
    let Some(cgroups) = Cgroups::new("reader") else { return };
    let (cgroup, id) = cgroups.make("one");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reader-{}", std::process::id()));
    fs::write(&path, [7; BYTES]).expect("write");
    let file = File::open(&path).expect("open");
    fs::remove_file(&path).expect("remove");
    file.sync_all().expect("sync");
    let found = file.metadata().expect("stat");
    let (major, minor) = (nix::sys::stat::major(found.dev()), nix::sys::stat::minor(found.dev()));
    let of_file =
        FileId { device: u32::try_from(major << 20 | minor).expect("a device"), inode: found.ino() };
    let read = || {
        nix::unistd::getppid();
        cache::read_ahead(file.as_fd(), 0, BYTES as u64).expect("read ahead");
    };
    let recording = pages.arm(id).expect("arm");
    uses.arm(id, 0).expect("arm");
    tracer.watch(cgroup.as_fd()).expect("watch");
    let mut calls = || std::iter::from_fn(|| tracer.next(|_| ())).count();

    cache::drop_pages(file.as_fd()).expect("drop");
    child(&cgroup, READER, read);
    assert_eq!(calls(), 0);
    // The second of the container's tasks, of which the recorder has been told one, is this one's child.
    child(&cgroup, c"another", fork);
    let (files, _) = pages.finish(recording).expect("finish");
    assert!(!files.contains_key(&of_file));

    let recording = pages.arm(id).expect("arm");
    // What is still on its way from the disk could not be dropped.
    file.read_exact_at(&mut [0; BYTES], 0).expect("read");
    cache::drop_pages(file.as_fd()).expect("drop");
    // A child of the container's own has its parent there: what it is called hides nothing.
    child(&cgroup, c"another", || {
        prctl::set_name(READER).expect("a name");
        let child = process::spawn(CloneFlags::empty(), None, Memory::Copied, |_| {
            read();
            0
        });
        process::reap(child.expect("a process").pidfd.as_fd(), true).expect("its end");
    });
    assert_eq!(calls(), 1);
    let (files, _) = pages.finish(recording).expect("finish");
    let pages: u64 = files.get(&of_file).into_iter().flatten().map(|used| used.pages).sum();
    assert_eq!(pages, (BYTES as u64).div_ceil(cache::PAGE));
    // A container's first process has its parent outside as well, but namespaces of its own.
    child_in(CloneFlags::CLONE_NEWNS, &cgroup, READER, || {
        nix::unistd::getppid();
    });
    assert_eq!(calls(), 1);
    assert_eq!(uses.finish().expect("finish").tasks_peak, Some(2));
}
