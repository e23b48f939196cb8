//! Requests to a block device that a limit holds back: all of them are the container's, and so is the time.

use std::fs;

use serde_json::{Value, json};

use super::tier1::Loop;
use super::{World, can_observe, run};
use crate::harness::{need, parse, v1};
use crate::oci::{Bundle, group};

/// Bytes of a request.
const SIZE: u64 = 32 << 10;
const WRITES: u64 = 16;
const READS: u64 = 24;
/// Bytes written a second: 8 requests.
const RATE: u64 = 8 * SIZE;

/// A bundle that may use a device, which is of this file.
fn with_device(world: &World) -> Option<(Bundle, Loop, String)> {
    let mut bundle = world.bundle(&[]);
    let device = Loop::new(&bundle.dir.join("disk"), 8 << 20)?;
    let (major, minor) = device.lend(&mut bundle);
    bundle.set(
        "/linux/resources/blockIO/throttleWriteBpsDevice",
        json!([{"major": major, "minor": minor, "rate": RATE}]),
    );
    Some((bundle, device, format!("{major}:{minor}")))
}

/// How many of the requests took at least so long.
fn longer_than(times: &Value, ns: u64) -> u64 {
    let buckets = times["buckets"].as_array().expect("a list");
    buckets
        .iter()
        .filter(|bucket| bucket[0].as_u64() >= Some(ns))
        .filter_map(|bucket| bucket[2].as_u64())
        .sum()
}

/// How long the writer itself saw its writes take, ns.
fn in_writes(printed: &str) -> u64 {
    let ns = printed.strip_suffix(" ns in writes\n").and_then(|rest| rest.rsplit(", ").next());
    ns.and_then(|ns| ns.parse().ok()).unwrap_or_else(|| panic!("{printed}"))
}

#[test]
fn the_time_for_which_a_limit_holds_a_request_back_is_waited_for() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let can_limit = v1("blkio") || group("io", "/").is_some();
    need!(can_limit, "the io controller");
    let world = World::with_probes("syscalls,block", "2");
    let Some((mut bundle, _device, number)) = with_device(&world) else {
        return crate::harness::skip("a loop device");
    };
    let text = [WRITES, READS, SIZE].map(|number| number.to_string());
    bundle.args(&["/bin/probe", "direct", "/dev/disk", &text[0], &text[1], &text[2]]);
    let printed = run(&bundle);
    assert!(printed.contains("wrote 16 and read 24"), "{printed}{}", bundle.errors());
    let report = parse(&world.skiff(&["observe", "show", &bundle.id, "--format", "json"]).output().ok());
    let shown = &report["containers"][0];
    let (block, write, read) = (&shown["block"], &shown["block"]["write"], &shown["block"]["read"]);
    let is_exact = |one: &Value, count: u64| {
        assert_eq!((&one["count"], &one["bytes"]), (&json!(count), &json!(count * SIZE)), "{block}");
    };
    is_exact(read, READS);
    assert_eq!(block["requests_lost"], 0, "{block}");
    assert_eq!(controlled(&bundle, &number), [READS * SIZE, WRITES * SIZE]);
    if report["missing"].to_string().contains("the time for which a limit holds requests") {
        // Of cgroup2 the requests themselves tell whose they are.
        assert_eq!(write["count"], if v1("blkio") { 0 } else { WRITES }, "{block}");
        bundle.delete();
        return crate::oci::lacks("programs at functions of the kernel");
    }
    is_exact(write, WRITES);
    // One after the other, each waits for its turn, 125 ms after the last: all that a write takes but its way in and out. What the
    // writer loses between two of them it waits less.
    let waited_ns = in_writes(&printed);
    let total_ns = write["total_ns"].as_u64().expect("a sum");
    assert!(total_ns >= waited_ns / 2 && total_ns <= waited_ns, "{waited_ns}: {write}");
    assert!(longer_than(write, 60_000_000) >= WRITES / 2, "{write}");
    assert!(read["p50_ns"].as_u64() < write["p50_ns"].as_u64(), "{block}");
    // By the other programs.
    let profile = world.profile(&bundle.id);
    let workload = &profile["resources"]["workload"];
    assert_eq!(
        (&workload["block_writes"], &workload["block_write_bytes"]),
        (&json!(WRITES), &json!(WRITES * SIZE)),
        "{workload}"
    );
    assert_eq!(
        (&workload["block_reads"], &workload["block_read_bytes"]),
        (&json!(READS), &json!(READS * SIZE)),
        "{workload}"
    );
    bundle.delete();
}

/// Bytes read and written that the I/O controller has counted of a device.
fn controlled(bundle: &Bundle, number: &str) -> [u64; 2] {
    if v1("blkio") {
        let path = group("blkio", &bundle.id).expect("its group").join("blkio.throttle.io_service_bytes");
        let text = fs::read_to_string(path).expect("the account");
        return ["Read", "Write"].map(|word| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{number} {word} ")));
            line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
        });
    }
    let text =
        fs::read_to_string(group("io", &bundle.id).expect("its group").join("io.stat")).expect("the account");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{number} "))).expect("the device");
    ["rbytes=", "wbytes="].map(|name| {
        let word = line.split(' ').find_map(|word| word.strip_prefix(name));
        word.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
    })
}
