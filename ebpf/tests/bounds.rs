//! What is always on, and what is for recorded runs, at their bounds: as many containers as there is room for, one more, memory.
//!
//! Needs root and a kernel with BTF; elsewhere it says so.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use nix::sched::CloneFlags;
use skiff_ebpf::events::{Counts, Events};
use skiff_ebpf::{Error, Profiler};
use skiff_sys::process::{self, Memory};

mod shared;

use shared::{Cgroups, or_skip};

/// A process in `cgroup` that is born and ends.
fn mayfly(cgroup: &File) {
    let child = process::spawn(CloneFlags::empty(), Some(cgroup.as_fd()), Memory::Copied, |_: Memory| 0);
    process::reap(child.expect("a process").pidfd.as_fd(), true).expect("its end");
}

#[test]
fn a_thousand_containers_always_have_their_own_counts() {
    let (Some(events), Some(cgroups)) = (or_skip(Events::load()), Cgroups::new("events-many")) else {
        return;
    };
    let made: Vec<(File, u64)> = (0..1000).map(|nth| cgroups.make(&nth.to_string())).collect();
    for (_, id) in &made {
        // Late: there is no program that begins.
        events.arm(*id, true).expect("room for it");
    }
    for (nth, (directory, _)) in made.iter().enumerate() {
        (0..nth % 3).for_each(|_| mayfly(directory));
    }
    for (nth, (_, id)) in made.iter().enumerate() {
        let counts = events.counts(*id).expect("it is counted");
        let born = (nth % 3) as u64;
        assert_eq!((counts.processes, counts.exits), (1 + born, born), "container {nth}");
    }
}

#[test]
fn one_more_container_than_there_is_room_for_is_refused_and_nobodys() {
    let (Some(events), Some(cgroups)) = (or_skip(Events::load()), Cgroups::new("events-full")) else {
        return;
    };
    let (first, first_id) = cgroups.make("first");
    events.arm(first_id, false).expect("room for it");
    // The ids of cgroups that there are not.
    let armed = |nths: Range<u64>| -> Vec<u64> {
        nths.map(|nth| u64::MAX - nth).filter(|id| events.arm(*id, false).is_ok()).collect()
    };
    assert_eq!(armed(0..8191).len(), 8191);
    let others = armed(0..100_000);
    let (late, late_id) = cgroups.make("late");
    let refused = events.arm(late_id, false).expect_err("no room");
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert!(!events.is_armed(late_id));
    mayfly(&late);
    assert_eq!(events.counts(late_id), None);
    let nobody = Counts::default();
    for id in (0..8191).map(|nth| u64::MAX - nth).chain(others).chain([first_id]) {
        assert_eq!(events.counts(id), Some(nobody), "cgroup {id}");
    }
    mayfly(&first);
    assert_eq!(events.counts(first_id).map(|counts| counts.exits), Some(1));
    // With its directory it is forgotten: there is room again, and nothing in it.
    drop(first);
    cgroups.remove("first");
    assert_eq!(events.counts(first_id), None);
    let [next] = armed(100_000..200_000)[..] else { panic!("one place is free") };
    assert_eq!(events.counts(next), Some(nobody));
}

#[test]
fn what_is_always_on_takes_the_memory_that_is_stated() {
    let Some(events) = or_skip(Events::load()) else { return };
    let bytes = |fd: i32| {
        let text =
            fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("a descriptor of this process");
        text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let all: u64 = events.descriptors().iter().map(|fd| bytes(fd.as_raw_fd())).sum();
    // docs/observe.md: 3.8 MiB for all containers together.
    assert!((1 << 20..=3_900 << 10).contains(&all), "{all} bytes");
}

#[test]
fn recorded_runs_take_the_memory_that_is_stated_and_one_more_is_refused() {
    let (Some(mut few), Some(mut many)) =
        (or_skip(Profiler::with_slots(1)), or_skip(Profiler::with_slots(5)))
    else {
        return;
    };
    let cpus = fs::read_to_string("/sys/devices/system/cpu/possible").expect("the CPUs");
    let last = cpus.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<f64>().ok());
    let cpus = last.expect("a number") + 1.0;
    let slot = few.arm(u64::MAX - 1, 0).expect("room for it");
    assert!(matches!(few.arm(u64::MAX - 2, 0), Err(Error::NoSlot(1))));
    let mib = |profiler: &mut Profiler, slot| {
        profiler.detach(slot).expect("its record").cost.map_bytes as f64 / f64::from(1 << 20)
    };
    let one = mib(&mut few, slot);
    assert!(few.arm(u64::MAX - 2, 0).is_ok(), "room again");
    let slot = many.arm(u64::MAX - 3, 0).expect("room for it");
    let each = (mib(&mut many, slot) - one) / 4.0;
    // docs/ebpf.md: 0.8 MiB and 0.63 MiB per CPU, and 0.45 MiB and 0.63 MiB per CPU for each further one.
    assert!(one > 0.5 && one <= 0.85 + 0.635 * cpus, "{one} MiB for one, {cpus} CPUs");
    assert!(each > 0.5 && each <= 0.46 + 0.635 * cpus, "{each} MiB for each further one, {cpus} CPUs");
}
