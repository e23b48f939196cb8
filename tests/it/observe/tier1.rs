//! The probes that can be left on: waiting and for whom, block devices, sockets. Everything that can be exact is.

use std::fs;
use std::os::fd::AsRawFd;

use serde_json::{Value, json};

use super::{World, can_observe, run};
use crate::harness::pty::Terminal;
use crate::harness::{need, parse, v1};
use crate::oci::Bundle;

/// A CPU that this program may run on.
fn some_cpu() -> String {
    let cpus = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("the own CPUs");
    let first = (0..nix::sched::CpuSet::count()).find(|cpu| cpus.is_set(*cpu) == Ok(true));
    first.expect("a CPU").to_string()
}

/// The sum of what a container waited for those that `is` picks, ms.
fn blamed_ms(waits: &Value, is: impl Fn(&Value) -> bool) -> f64 {
    let blame = waits["blame"].as_array().expect("a list");
    let ns: u64 = blame.iter().filter(|one| is(one)).filter_map(|one| one["ns"].as_u64()).sum();
    ns as f64 / 1e6
}

/// Every wait is somebody's.
#[track_caller]
fn adds_up(waits: &Value) {
    let total = |name: &str| waits[name]["total_ns"].as_u64().expect("a sum");
    let blame = waits["blame"].as_array().expect("a list");
    let blamed: u64 = blame.iter().filter_map(|one| one["ns"].as_u64()).sum();
    assert_eq!(blamed, total("wait") + total("throttled"), "{waits}");
    for name in ["wait", "throttled", "off_cpu"] {
        let buckets = waits[name]["buckets"].as_array().expect("a list");
        let counted: u64 = buckets.iter().filter_map(|bucket| bucket[2].as_u64()).sum();
        assert_eq!(waits[name]["count"], counted, "{name}");
    }
    assert_eq!(waits["tasks_lost"], 0);
}

/// The CPU time that `probe burn` says it got, ms.
#[track_caller]
fn burnt_ms(printed: &str) -> f64 {
    let word = printed.split_whitespace().find_map(|word| word.parse::<f64>().ok());
    word.unwrap_or_else(|| panic!("{printed}"))
}

/// A container that can run on `cpu` only: by its cpuset, as a task that enters one loses its own affinity below Linux 6.2.
fn on_cpu(world: &World, cpu: &str, args: &[&str]) -> Bundle {
    let mut bundle = world.bundle(args);
    bundle.set("/linux/resources/cpu", json!({"cpus": cpu}));
    bundle
}

#[test]
fn two_that_want_the_same_cpu_wait_for_each_other() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let (world, cpu) = (World::with_probes("run-queue", "3"), some_cpu());
    let busy = "while :; do :; done";
    let mut first = on_cpu(&world, &cpu, &[]);
    first.wait_ready(&["/bin/sh", "-c", &format!("echo ready; {busy}")]);
    let second = on_cpu(&world, &cpu, &["/bin/probe", "burn", "1500"]);
    let printed = run(&second);
    let (one, other) = (world.shown(&first.id), world.shown(&second.id));
    let (one, other) = (&one["run_queue"], &other["run_queue"]);
    adds_up(one);
    adds_up(other);
    // The first always wanted to run: whenever the second did, it waited for it.
    let (burnt, for_second) =
        (burnt_ms(&printed), blamed_ms(one, |culprit| culprit["id"] == second.id.as_str()));
    assert!(
        for_second >= 0.9 * burnt - 20.0 && for_second <= 1.1 * burnt + 100.0,
        "{for_second} of {burnt}: {one}"
    );
    // The second waited while the first ran, and for nobody in its own container to speak of.
    let all = blamed_ms(other, |_| true);
    let for_first = blamed_ms(other, |culprit| culprit["id"] == first.id.as_str());
    let elsewhere = blamed_ms(other, |culprit| culprit["culprit"] != "container");
    assert!(for_first > 0.0 && for_first + elsewhere >= 0.95 * all, "{other}");
    assert_eq!((blamed_ms(one, is_quota), blamed_ms(other, is_quota)), (0.0, 0.0));
    let text = world.skiff(&["observe", "show"]).output().ok();
    assert!(text.contains("WAITED FOR") && text.contains(&first.id) && text.contains(&second.id), "{text}");
    let text = world.skiff(&["observe", "show", &first.id]).output().ok();
    assert!(text.contains("waited for a CPU: ") && text.contains("waited for\n"), "{text}");
    // What has been waited for a container that is gone is not the next one's.
    second.delete();
    let next = world.bundle(&["/bin/probe", "exit", "0"]);
    run(&next);
    let after = world.shown(&first.id);
    assert_eq!(blamed_ms(&after["run_queue"], |culprit| culprit["id"] == second.id.as_str()), 0.0);
    let ended = blamed_ms(&after["run_queue"], |culprit| culprit["culprit"] == "ended");
    assert!(ended >= for_second, "{after}");
    adds_up(&after["run_queue"]);
    next.delete();
    first.end();
}

#[test]
fn top_shows_who_waited_for_whom() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let (world, cpu) = (World::with_probes("run-queue", "2"), some_cpu());
    let busy = || {
        let mut bundle = on_cpu(&world, &cpu, &[]);
        bundle.wait_ready(&["/bin/sh", "-c", "echo ready; while :; do :; done"]);
        bundle
    };
    let (one, other) = (busy(), busy());
    let top = world.skiff(&["top"]).env("TERM", "xterm-256color").env("SKIFF_DAEMON", "off");
    let mut terminal = Terminal::start(&top, 40, 160);
    terminal.see(40, 160, &|seen| seen.contains(&one.id) && seen.contains(&other.id));
    // Whichever is chosen has waited for the other, and the other for it.
    terminal.send(b"\r");
    let inside =
        terminal.see(40, 160, &|seen| seen.contains("waited for: ") && seen.contains("waited for it: "));
    assert!(
        inside.contains(&format!("{} ", one.id)) && inside.contains(&format!("{} ", other.id)),
        "{inside}"
    );
    terminal.send(b"q");
    assert_eq!(terminal.finish().0, 0);
    one.end();
    other.end();
}

fn is_quota(culprit: &Value) -> bool {
    culprit["culprit"] == "own_quota"
}

#[test]
fn the_own_quota_is_nobody_elses_fault() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    need!(v1("cpu"), "the cpu controller");
    let world = World::with_probes("run-queue", "1");
    let mut bundle = world.bundle(&["/bin/probe", "burn", "1000"]);
    bundle.set("/linux/resources/cpu", json!({"quota": 5_000, "period": 100_000}));
    let printed = run(&bundle);
    let shown = world.shown(&bundle.id);
    let waits = &shown["run_queue"];
    adds_up(waits);
    let throttled = waits["throttled"]["total_ns"].as_u64().expect("a sum") as f64 / 1e6;
    assert_eq!(blamed_ms(waits, is_quota), throttled);
    // Of each 100 ms it may have 5; a wait counts when it ends.
    let burnt = burnt_ms(&printed);
    assert!(throttled >= 500.0 && throttled + burnt <= 1500.0, "throttled {throttled}, ran {burnt}: {waits}");
    bundle.delete();
}

#[test]
fn sleep_is_no_wait() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_probes("run-queue", "1");
    let bundle = world.bundle(&["/bin/sh", "-c", "sleep 0.3; sleep 0.2"]);
    run(&bundle);
    let shown = world.shown(&bundle.id);
    let waits = &shown["run_queue"];
    adds_up(waits);
    let slept: u64 = waits["off_cpu"]["buckets"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|bucket| bucket[0].as_u64() >= Some(180_000_000))
        .filter_map(|bucket| bucket[2].as_u64())
        .sum();
    assert!(slept >= 2, "{waits}");
    assert!(waits["off_cpu"]["total_ns"].as_u64() >= Some(500_000_000), "{waits}");
    bundle.delete();
}

#[test]
fn every_packet_and_byte_is_counted() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_probes("net", "2");
    let bundle = world.bundle(&["/bin/probe", "packets", "500", "1000"]);
    let bystander = world.bundle(&["/bin/probe", "packets", "7", "100"]);
    run(&bundle);
    run(&bystander);
    let counted = |bundle: &Bundle| world.shown(&bundle.id)["network"].clone();
    // A datagram has 20 bytes of IP header and 8 of UDP.
    let expected = |packets: u64, size: u64| {
        let bytes = packets * (size + 28);
        json!({
            "received_bytes": bytes, "received_packets": packets, "sent_bytes": bytes, "sent_packets": packets,
        })
    };
    assert_eq!(counted(&bundle), expected(500, 1000));
    assert_eq!(counted(&bystander), expected(7, 100));
    assert_eq!(world.shown(&bundle.id)["tcp"], Value::Null, "it is off");
    bundle.delete();
    bystander.delete();
    // A slot that is taken again begins at nothing.
    let quiet = world.bundle(&["/bin/probe", "exit", "0"]);
    run(&quiet);
    assert_eq!(counted(&quiet), expected(0, 0));
    quiet.delete();
}

#[test]
fn connections_are_counted_from_both_sides() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_probes("tcp", "1");
    let bundle = world.bundle(&["/bin/probe", "connections", "120", "30"]);
    run(&bundle);
    let tcp = world.shown(&bundle.id)["tcp"].clone();
    assert_eq!(
        (&tcp["connects"], &tcp["connected"], &tcp["accepts"]),
        (&150.into(), &120.into(), &120.into())
    );
    assert_eq!(tcp["retransmits"], 0);
    assert!(tcp["rtt"]["count"].as_u64() >= Some(120), "{tcp}");
    assert!(tcp["rtt"]["p50_ns"].as_u64().is_some_and(|ns| (1_000..1_000_000_000).contains(&ns)), "{tcp}");
    bundle.delete();
}

/// A block device that is a file, until it is dropped. loop(4)
pub(super) struct Loop {
    pub(super) device: String,
    open: fs::File,
}

impl Loop {
    const SET_FD: libc::c_ulong = 0x4c00;
    const CLR_FD: libc::c_ulong = 0x4c01;
    const GET_FREE: libc::c_ulong = 0x4c82;

    /// None if this host makes none.
    pub(super) fn new(file: &std::path::Path, bytes: u64) -> Option<Self> {
        let both = || fs::OpenOptions::new().read(true).write(true).to_owned();
        let backing = both().create(true).truncate(true).open(file).expect("a file for the device");
        backing.set_len(bytes).expect("its size");
        let control = both().open("/dev/loop-control").ok()?;
        // Another may be quicker to take what is free.
        for _ in 0..100 {
            // SAFETY: takes and gives numbers.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), Self::GET_FREE as _) };
            let device = format!("/dev/loop{number}");
            let open = both().open(&device).ok()?;
            // SAFETY: as above.
            if unsafe { libc::ioctl(open.as_raw_fd(), Self::SET_FD as _, backing.as_raw_fd()) } == 0 {
                return Some(Self { device, open });
            }
        }
        None
    }

    /// Lets a bundle use it as `/dev/disk`, and no other device; its number, major and minor.
    pub(super) fn lend(&self, bundle: &mut Bundle) -> (u64, u64) {
        use std::os::unix::fs::MetadataExt;
        let number = fs::metadata(&self.device).expect("the device").rdev();
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        let device = json!([{"path": "/dev/disk", "type": "b", "major": major, "minor": minor}]);
        let allowed = json!([{"allow": false, "access": "rwm"},
                             {"allow": true, "type": "b", "major": major, "minor": minor, "access": "rw"}]);
        bundle.set("/linux/devices", device).set("/linux/resources/devices", allowed);
        (major, minor)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // SAFETY: takes numbers.
        let _detached = unsafe { libc::ioctl(self.open.as_raw_fd(), Self::CLR_FD as _, 0) };
    }
}

#[test]
fn requests_of_block_devices_are_timed() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_probes("block", "1");
    let mut bundle = world.bundle(&[]);
    let Some(device) = Loop::new(&bundle.dir.join("disk"), 8 << 20) else {
        crate::harness::skip("a loop device");
        return;
    };
    device.lend(&mut bundle);
    bundle.args(&["/bin/probe", "direct", "/dev/disk", "40", "25", "8192"]);
    let printed = run(&bundle);
    assert!(printed.contains("wrote 40 and read 25 blocks"), "{printed}{}", bundle.errors());
    let shown = world.shown(&bundle.id);
    let block = &shown["block"];
    for (direction, count) in [("write", 40_u64), ("read", 25)] {
        let one = &block[direction];
        assert_eq!((&one["count"], &one["bytes"]), (&count.into(), &(count * 8192).into()), "{block}");
        let (p50, total) = (one["p50_ns"].as_u64().expect("ns"), one["total_ns"].as_u64().expect("ns"));
        assert!(p50 >= 500 && total >= p50 && total < 60_000_000_000, "{block}");
    }
    assert_eq!(block["requests_lost"], 0);
    bundle.delete();
}

#[test]
fn all_probes_go_together() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_probes("syscalls,run-queue,block,net,tcp", "1");
    let said = world.skiff(&["observe"]).output().ok();
    for needle in ["syscalls, run-queue, block, net, tcp", "cost of a system call", "cost of a switch"] {
        assert!(said.contains(needle), "{said}");
    }
    let status = parse(&world.skiff(&["observe", "--format", "json"]).output().ok());
    assert_eq!((&status["schema"], &status["is_on"]), (&json!("skiff.observing/1"), &json!(true)));
    assert_eq!(
        (&status["slots"], &status["slots_taken"], &status["containers_refused"]),
        (&json!(1), &json!(0), &json!(0))
    );
    assert_eq!(status["probes"], json!(["syscalls", "run-queue", "block", "net", "tcp"]));
    assert!(status["cost"]["map_bytes"].as_u64() > Some(1 << 20), "{status}");
    for _ in 0..2 {
        let bundle = world.bundle(&["/bin/probe", "packets", "20", "100"]);
        let printed = run(&bundle);
        assert!(printed.starts_with("sent 20"), "{printed}");
        assert_eq!(world.shown(&bundle.id)["network"]["sent_packets"], 20);
        assert_eq!(super::call(&world.profile(&bundle.id), "workload", "sendto")["calls"], 20);
        bundle.delete();
        assert_eq!(world.taken(), 0);
    }
    world.skiff(&["observe", "on", "net,tcp"]).output().ok();
    world
        .skiff(&["observe", "on", "net", "--slots", "4"])
        .output()
        .fails(125, "pinned already, with 1 slots");
    world.skiff(&["observe", "off"]).output().ok();
    let left = world.tool(&["find", "/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug"]).ok();
    assert_eq!(left, "");
    let status = parse(&world.skiff(&["observe", "--format", "json"]).output().ok());
    assert_eq!(status, json!({"schema": "skiff.observing/1", "is_on": false}));
}

#[test]
fn containers_are_called_by_their_names() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_probes("run-queue", "2");
    let root = crate::harness::fixture::small_root();
    let mut live = world.skiff(&["run", "--rm", "--name", "observed", root, "probe", "trap"]).start();
    live.until("ready");
    let shown = world.shown("observed");
    let id = shown["id"].as_str().expect("an id").to_owned();
    assert_eq!((&shown["name"], id.len()), (&json!("observed"), 64));
    let blame = shown["run_queue"]["blame"].as_array().expect("a list");
    for one in blame.iter().filter(|one| one["culprit"] == "container") {
        assert_eq!((&one["id"], &one["name"]), (&json!(id), &json!("observed")));
    }
    let text = world.skiff(&["observe", "show"]).output().ok();
    assert!(text.contains("\nobserved ") && !text.contains(&id[..12]), "{text}");
    let text = world.skiff(&["observe", "show", "--no-trunc"]).output().ok();
    assert!(text.contains(&id) && !text.contains("observed"), "{text}");
    let text = world.skiff(&["observe", "show", "observed"]).output().ok();
    assert!(text.starts_with(&format!("container {id} observed\n")), "{text}");
    // Of a runtime's container nobody knows a name.
    let mut bundle = world.bundle(&[]);
    bundle.wait_ready(&["/bin/probe", "trap"]);
    assert_eq!(world.shown(&bundle.id)["name"], Value::Null);
    bundle.end();
    live.signal(nix::sys::signal::Signal::SIGTERM);
    live.finish();
}

#[test]
fn what_is_not_on_is_not_asked_for() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_probes("net", "1");
    let mut bundle = world.bundle(&[]);
    bundle.wait_ready(&["/bin/probe", "trap"]);
    world.skiff(&["profile", &bundle.id]).output().fails(125, "system calls are not observed");
    world.skiff(&["observe", "on", "run-queue"]).output().fails(125, "pinned already, with 1 slots, for net");
    let shown = world.shown(&bundle.id);
    assert_eq!(
        (&shown["run_queue"], &shown["block"], &shown["tcp"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    // Sockets of a container that lives are let go when observing ends.
    world.skiff(&["observe", "off"]).output().ok();
    world.skiff(&["observe", "show"]).output().fails(125, "observing is off");
    bundle.end();
}

#[test]
fn a_container_without_a_slot_is_in_nobodys_figures() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_probes("run-queue,net,tcp", "1");
    let mut first = world.bundle(&[]);
    first.wait_ready(&["/bin/probe", "trap"]);
    let second = world.bundle(&["/bin/probe", "packets", "9", "9"]);
    assert!(run(&second).starts_with("sent 9"));
    let report = parse(&world.skiff(&["observe", "show", "--format", "json"]).output().ok());
    assert_eq!(report["containers_refused"], 1);
    assert_eq!(report["containers"].as_array().map(Vec::len), Some(1));
    assert_eq!(report["containers"][0]["network"]["sent_packets"], 0);
    let text = world.skiff(&["observe", "show"]).output().ok();
    assert!(text.contains("not counted: 1 containers found no slot"), "{text}");
    second.delete();
    first.end();
}

#[test]
fn sockets_of_a_thousand_containers_take_the_memory_that_is_stated() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_probes("net,tcp", "1000");
    let text = world.skiff(&["observe"]).output().ok();
    let each = text.lines().find_map(|line| {
        let (_, each) = line.trim().strip_prefix("memory: ")?.split_once(", ")?;
        each.strip_suffix(" KiB a slot")?.parse::<f64>().ok()
    });
    // docs/ebpf.md: 4.9 KiB each; what does not grow is a hundredth of that.
    assert!(each.is_some_and(|kib| (4.5..=5.0).contains(&kib)), "{text}");
}
