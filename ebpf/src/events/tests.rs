//! The programs in the kernel, and what is read of them.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::prctl;
use skiff_ebpf_abi::prefetch::READER;
use skiff_sys::bpf::Store;
use skiff_sys::process::{self, Memory};

use super::*;

/// A cgroup of this test, with those below it, until it is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Option<Self> {
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let mount = mounts.into_iter().find(|mount| mount.join("cgroup.procs").is_file())?;
        let path = mount.join(format!("skiff-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup");
        Some(Self(path))
    }

    /// One below; its directory.
    fn below(&self, name: &str) -> File {
        let path = self.0.join(name);
        fs::create_dir(&path).expect("a cgroup");
        File::open(path).expect("its directory")
    }

    fn remove(&self, name: &str) {
        fs::remove_dir(self.0.join(name)).expect("remove a cgroup");
    }

    fn directory(&self) -> File {
        File::open(&self.0).expect("its directory")
    }

    fn id(&self) -> u64 {
        self.directory().metadata().expect("its inode").ino()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for entry in
            fs::read_dir(&self.0).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
        {
            fs::remove_dir(entry.path()).expect("remove a cgroup");
        }
        fs::remove_dir(&self.0).expect("remove the cgroup");
    }
}

/// The programs with room for so many cgroups below containers', and the notes of the OOM killer, which are looked for whether or not the
/// kernel has marked a task; nothing where they can't be loaded.
fn load(nested: u32) -> Option<(Events, Map)> {
    let (mut object, btf, missing) = match create(nested, Marks::Absent) {
        Err(Error::Privilege(_) | Error::NoTypes { .. }) => {
            println!("skip: needs CAP_BPF, CAP_PERFMON and the kernel's types");
            return None;
        }
        other => other.expect("load"),
    };
    let events = Events::attach(&mut object, &btf, missing).expect("attach");
    Some((events, map(&mut object, "VICTIMS").expect("the notes")))
}

/// As the kernel has it.
fn bytes_of(kill: &Kill) -> Vec<u8> {
    kill.words().into_iter().flat_map(u64::to_ne_bytes).collect()
}

/// Lets a process be born in `cgroup` and end, after `meanwhile` has been done with its id.
fn live(cgroup: &File, meanwhile: impl FnOnce(u32)) {
    let (ready, go) = nix::unistd::pipe().expect("a pipe");
    let body = |_: Memory| {
        let mut byte = [0];
        // The other end is the parent's to close; this one's copy would hold it open.
        let _read = nix::unistd::read(&ready, &mut byte);
        0
    };
    let child =
        process::spawn(CloneFlags::empty(), Some(cgroup.as_fd()), Memory::Copied, body).expect("a process");
    meanwhile(child.pid.cast_unsigned());
    nix::unistd::write(&go, &[1]).expect("let it end");
    process::reap(child.pidfd.as_fd(), true).expect("its end");
}

#[test]
fn a_record_of_a_live_task_is_its_words() {
    let words: Vec<u8> = (1..=9_u64).flat_map(u64::to_ne_bytes).collect();
    let used = Used::of_words([2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(live_from_bytes(&words), Some(Live { container: 1, used }));
    assert_eq!(live_from_bytes(&words[..71]), None);
}

#[test]
fn a_cgroup_is_counted_until_its_directory_goes_also_by_whoever_kept_the_descriptors() {
    let events = match Events::load() {
        Err(Error::Privilege(_) | Error::NoTypes { .. }) => {
            return println!("skip: needs CAP_BPF, CAP_PERFMON and the kernel's types");
        }
        other => other.expect("load"),
    };
    assert_eq!(events.missing(), [""; 0]);
    let Some(directory) = Cgroup::new("events-kept") else { return };
    let cgroup = directory.id();
    events.arm(cgroup, true).expect("arm");
    assert!(events.is_armed(cgroup) && events.arm(cgroup, false).is_err());
    let kept: Vec<OwnedFd> =
        events.descriptors().iter().map(|fd| fd.try_clone_to_owned().expect("dup")).collect();
    let restored = Events::restore(kept, true, Vec::new()).expect("restore").expect("of this build");
    assert_eq!(restored.counts(cgroup).map(|counts| counts.execs), Some(1));
    assert!(restored.live().expect("iterate").is_empty());
    drop(events);
    live(&directory.directory(), |pid| {
        let born = restored.live().expect("iterate");
        assert_eq!(born.iter().map(|task| task.container).collect::<Vec<_>>(), [cgroup], "task {pid}");
    });
    let counts = restored.counts(cgroup).expect("counted");
    assert_eq!((counts.processes, counts.exits), (2, 1));
    drop(directory);
    assert_eq!(restored.counts(cgroup), None);
}

#[test]
fn a_note_of_the_oom_killer_is_for_the_task_that_lived_then() {
    let (Some((events, victims)), Some(cgroup)) = (load(NESTED), Cgroup::new("events-oom")) else { return };
    let directory = cgroup.directory();
    events.arm(cgroup.id(), false).expect("arm");
    let cgroup_id = cgroup.id();
    let noted = |at_ns: u64, inside: u64| {
        let mut killer_name = [0; 16];
        killer_name[..6].copy_from_slice(b"killer");
        let kill = Kill { at_ns, killer_pid: 7, killer_name, is_inside: inside, ..Kill::default() };
        live(&directory, |pid| {
            victims.set(&pid.to_ne_bytes(), &bytes_of(&kill), Store::Any).expect("a note");
        });
        events.counts(cgroup_id).expect("counted")
    };
    // From before the process was born: that was for another, which had its id.
    let counts = noted(monotonic_ns(), 0);
    assert_eq!((counts.oom_kills, counts.oom), (0, Kill::default()), "{counts:?}");
    assert!(victims.keys().expect("the notes").is_empty(), "it is used up");
    // As of a time when it lives.
    let counts = noted(monotonic_ns() + 60_000_000_000, cgroup_id);
    assert_eq!((counts.oom_kills, counts.oom.killer_pid, counts.oom.is_inside), (1, 7, 1), "{counts:?}");
    assert_ne!(counts.oom.victim_pid, 0);
}

#[test]
fn a_killer_of_another_container_is_not_inside() {
    let (Some((events, victims)), Some(cgroup)) = (load(NESTED), Cgroup::new("events-killer")) else {
        return;
    };
    let directory = cgroup.directory();
    events.arm(cgroup.id(), false).expect("arm");
    let kill = Kill { at_ns: u64::MAX, is_inside: cgroup.id() + 1, ..Kill::default() };
    live(&directory, |pid| {
        victims.set(&pid.to_ne_bytes(), &bytes_of(&kill), Store::Any).expect("a note");
    });
    let counts = events.counts(cgroup.id()).expect("counted");
    assert_eq!((counts.oom_kills, counts.oom.is_inside), (1, 0), "{counts:?}");
}

#[test]
fn cgroups_without_room_are_counted_and_are_nobody_elses() {
    let (Some((events, _)), Some(cgroup)) = (load(1), Cgroup::new("events-room")) else { return };
    let Some(other) = Cgroup::new("events-beside") else { return };
    for cgroup in [&cgroup, &other] {
        events.arm(cgroup.id(), true).expect("arm");
    }
    let before = events.counts(cgroup.id()).expect("counted");
    let below = ["first", "second", "third"].map(|name| cgroup.below(name));
    below.iter().for_each(|directory| live(directory, |_| {}));
    let counts = events.counts(cgroup.id()).expect("counted");
    assert_eq!(counts.nested_refused, 2, "{counts:?}");
    assert_eq!((counts.processes - before.processes, counts.exits), (1, 1), "those of the first alone");
    let beside = events.counts(other.id()).expect("counted");
    assert_eq!((beside.nested_refused, beside.exits, beside.processes), (0, 0, 1), "{beside:?}");
    // With the first its room is given back, to whoever comes next.
    cgroup.remove("first");
    live(&other.below("fourth"), |_| {});
    let beside = events.counts(other.id()).expect("counted");
    assert_eq!((beside.nested_refused, beside.exits), (0, 1), "{beside:?}");
}

#[test]
fn a_process_that_the_kernel_has_not_marked_is_no_victim() {
    let created = match create(NESTED, Marks::Used) {
        Err(Error::Privilege(_) | Error::NoTypes { .. }) => {
            return println!("skip: needs CAP_BPF, CAP_PERFMON and the kernel's types");
        }
        other => other.expect("load"),
    };
    let (mut object, btf, missing) = created;
    let events = Events::attach(&mut object, &btf, missing).expect("attach");
    let victims = map(&mut object, "VICTIMS").expect("the notes");
    let Some(cgroup) = Cgroup::new("events-unmarked") else { return };
    events.arm(cgroup.id(), false).expect("arm");
    let kill = Kill { at_ns: u64::MAX, ..Kill::default() };
    live(&cgroup.directory(), |pid| {
        victims.set(&pid.to_ne_bytes(), &bytes_of(&kill), Store::Any).expect("a note");
    });
    let counts = events.counts(cgroup.id()).expect("counted");
    assert_eq!((counts.exits, counts.oom_kills), (1, 0), "{counts:?}");
}

#[test]
fn who_reads_ahead_is_no_process_of_the_container() {
    let Some((events, _)) = load(NESTED) else { return };
    let Some(cgroup) = Cgroup::new("reader") else { return };
    events.arm(cgroup.id(), false).expect("arm");
    let counts = || events.counts(cgroup.id()).expect("armed");
    let name = READER.map(u64::to_ne_bytes).concat();
    let name = CStr::from_bytes_until_nul(&name).expect("a name");
    let own = prctl::get_name().expect("a name");
    prctl::set_name(name).expect("another");
    live(&cgroup.directory(), |reader| assert_eq!(counts(), Counts { reader, ..Counts::default() }));
    prctl::set_name(&own).expect("the name");
    assert_eq!(counts(), Counts::default());
    // Those of the container that call themselves so are counted.
    let body = |_: Memory| {
        let named = prctl::set_name(name).is_ok();
        let child = process::spawn(CloneFlags::empty(), None, Memory::Copied, |_| 0);
        let ended = child.and_then(|child| process::reap(child.pidfd.as_fd(), true));
        u8::from(!named || ended.is_err())
    };
    let directory = cgroup.directory();
    let child = process::spawn(CloneFlags::empty(), Some(directory.as_fd()), Memory::Copied, body);
    process::reap(child.expect("a process").pidfd.as_fd(), true).expect("its end");
    let counts = counts();
    assert_eq!((counts.processes, counts.exits, counts.reader), (2, 2, 0), "{counts:?}");
    assert!(counts.peak_pages > 0 && counts.used.minor_faults > 0, "{counts:?}");
}
