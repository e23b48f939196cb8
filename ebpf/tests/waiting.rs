//! The programs of waiting at their bounds: a thousand containers at once, more cgroups than there is room for, memory.
//!
//! Needs root and a kernel with BTF; elsewhere it says so.

use std::fs::File;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use nix::sched::CloneFlags;
use skiff_ebpf::{Probes, RunQueue, Waiting};
use skiff_sys::process::{self, Memory};

mod shared;

use shared::{Cgroups, or_skip};

const ALL: Probes = Probes { syscalls: false, run_queue: true, block: true, net: false, tcp: false };

/// The programs for `slots` containers; nothing where they can't be loaded.
fn load(slots: u32) -> Option<Waiting> {
    let waiting = or_skip(Waiting::load(slots, ALL))?;
    // Not every host lets programs be put at functions of its kernel.
    let held = "the time for which a limit holds requests";
    let missing: Vec<_> = waiting.missing().iter().filter(|missing| !missing.starts_with(held)).collect();
    assert_eq!(missing, [""; 0]);
    Some(waiting)
}

/// A process in `cgroup` that sleeps some times, and ends. A sleep may be over before the process is switched away, where a
/// hypervisor keeps the CPU to itself meanwhile.
fn sleeper(cgroup: &File) {
    let sleep = |_: Memory| {
        (0..5).for_each(|_| thread::sleep(Duration::from_millis(1)));
        0
    };
    let child =
        process::spawn(CloneFlags::empty(), Some(cgroup.as_fd()), Memory::Copied, sleep).expect("a process");
    process::reap(child.pidfd.as_fd(), true).expect("its end");
}

/// Times off a CPU that took half a millisecond and more.
fn sleeps(counted: &RunQueue) -> u64 {
    counted.off_cpu.count() - counted.off_cpu.below(1 << 19)
}

fn read(waiting: &Waiting, slot: u32) -> RunQueue {
    waiting.read(slot).expect("the slot").run_queue.expect("the run queue")
}

#[test]
fn a_thousand_containers_are_told_apart() {
    const SLOTS: u32 = 1000;
    let (Some(waiting), Some(cgroups)) = (load(SLOTS), Cgroups::new("waits-many")) else { return };
    let made: Vec<(File, u64)> = (0..SLOTS).map(|slot| cgroups.make(&slot.to_string())).collect();
    for (slot, (_, id)) in (0..).zip(&made) {
        waiting.arm(*id, slot).expect("room for it");
    }
    // In every second one something happens, in some of them below.
    for (slot, (directory, _)) in (0_u32..).zip(&made).step_by(2) {
        sleeper(directory);
        if slot % 100 == 0 {
            let (below, _) = cgroups.make(&format!("{slot}/below"));
            sleeper(&below);
        }
    }
    for slot in 0..SLOTS {
        let counted = read(&waiting, slot);
        assert_eq!(counted.lost, 0, "slot {slot}");
        if slot % 2 == 1 {
            assert_eq!(counted, RunQueue::default(), "slot {slot}");
            continue;
        }
        assert!(sleeps(&counted) > 0, "slot {slot}");
        let blamed: u64 = counted.blame.iter().map(|(_, ns)| ns).sum();
        assert_eq!(blamed, counted.wait.total_ns + counted.throttled.total_ns, "slot {slot}");
    }
}

#[test]
fn cgroups_without_room_are_lost_and_nobodys() {
    let (Some(waiting), Some(cgroups)) = (load(2), Cgroups::new("waits-full")) else { return };
    let (directory, id) = cgroups.make("armed");
    waiting.arm(id, 0).expect("room for it");
    // The ids of cgroups that there are not.
    let filled = (0..8192).take_while(|nth| waiting.arm(u64::MAX - nth, 1).is_ok()).count();
    assert_eq!(filled, 4095);
    let (below, _) = cgroups.make("armed/below");
    sleeper(&below);
    let counted = read(&waiting, 0);
    assert_eq!(counted, RunQueue { lost: 1, ..RunQueue::default() });
    sleeper(&directory);
    let counted = read(&waiting, 0);
    assert!(counted.off_cpu.count() > 0 && counted.lost == 1, "{counted:?}");
    assert_eq!(read(&waiting, 1), RunQueue::default());
}

#[test]
fn a_container_takes_the_memory_that_is_stated() {
    let (Some(few), Some(many)) = (load(16), load(1016)) else { return };
    let (few, many) = (few.map_bytes(), many.map_bytes());
    // docs/ebpf.md: 24.5 KiB of histograms, and in the matrix a word for each other slot.
    let each = (many - few) as f64 / 1000.0;
    assert!(each <= 24.6 * 1024.0 + 8.0 * (1016.0 + 16.0 + 6.0), "{each} bytes a slot");
    // What does not grow: requests under way, armed cgroups, runs.
    assert!(few <= 2 << 20, "{few} bytes for 16 slots");
}
