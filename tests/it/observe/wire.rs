//! What passes a wire between two network namespaces, counted by three: the one who sends it, the kernel of the namespace, and skiff.

use std::collections::HashMap;
use std::fs;

use serde_json::{Value, json};

use super::{World, can_observe, run};
use crate::harness::live::Live;
use crate::harness::{Skiff, need, programs};
use crate::oci::Bundle;
use crate::peers::world::eventually;

const PEER: &str = "192.0.2.2";

/// Two network namespaces with a wire between them: one for a container, one for the peer that it talks to.
struct Wire {
    inside: Live,
    peer: Live,
}

impl Wire {
    /// None where there are no such wires.
    fn new() -> Option<Self> {
        let probe = programs::probe().display().to_string();
        let own = |verb: &str| Skiff::tool(&["unshare", "--net", &probe, verb]).stdin_open().start();
        let mut wire = Self { inside: own("hold"), peer: own("peer") };
        wire.inside.until("ready");
        wire.peer.until("ready");
        // The other end is called so by the kernel, in a namespace without any.
        let made = within(&wire.inside, "ip link add inside type veth");
        if made.code != 0 {
            return None;
        }
        let give = format!("ip link set veth0 netns {}", wire.peer.pid());
        within(&wire.inside, &give).ok();
        for (side, name, address) in [(&wire.inside, "inside", "192.0.2.1"), (&wire.peer, "veth0", PEER)] {
            let up = format!(
                "ip address add {address}/24 dev {name} && ip link set {name} up && ip link set lo up"
            );
            within(side, &up).ok();
        }
        Some(wire)
    }

    /// A container on the wire.
    fn bundle(&self, world: &World, args: &[&str]) -> Bundle {
        let mut bundle = world.bundle(args);
        let path = format!("/proc/{}/ns/net", self.inside.pid());
        bundle.share("network").set("/linux/namespaces/-", json!({"type": "network", "path": path}));
        bundle
    }

    /// What the kernel has counted in the container's namespace. proc_net(5)
    fn counted(&self) -> Counted {
        let number = |file: &str, group: &str, name: &str| {
            let path = format!("/proc/{}/net/{file}", self.inside.pid());
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
            let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
            let all: HashMap<&str, &str> = names.split(' ').zip(values.split(' ')).collect();
            all[name].parse::<u64>().expect("a number")
        };
        Counted {
            bytes: [number("netstat", "IpExt", "InOctets"), number("netstat", "IpExt", "OutOctets")],
            packets: [number("snmp", "Ip", "InReceives"), number("snmp", "Ip", "OutRequests")],
            connections: [number("snmp", "Tcp", "ActiveOpens"), number("snmp", "Tcp", "PassiveOpens")],
            retransmits: number("snmp", "Tcp", "RetransSegs"),
        }
    }
}

/// Runs a shell's words in the network namespace of a process.
fn within(process: &Live, words: &str) -> crate::harness::Output {
    Skiff::tool(&["nsenter", "--net", "--target", &process.pid().to_string(), "--", "sh", "-c", words])
        .output()
}

/// What a network namespace has counted.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    /// Of IP packets with their headers: received, sent.
    bytes: [u64; 2],
    packets: [u64; 2],
    /// TCP connections begun here, and there.
    connections: [u64; 2],
    /// Segments.
    retransmits: u64,
}

impl Counted {
    fn since(&self, before: &Self) -> Self {
        let less = |now: [u64; 2], then: [u64; 2]| [now[0] - then[0], now[1] - then[1]];
        Self {
            bytes: less(self.bytes, before.bytes),
            packets: less(self.packets, before.packets),
            connections: less(self.connections, before.connections),
            retransmits: self.retransmits - before.retransmits,
        }
    }
}

/// What skiff has counted of a container, as the kernel would say it.
fn shown(world: &World, bundle: &Bundle) -> Counted {
    let shown = world.shown(&bundle.id);
    let number = |group: &str, name: &str| shown[group][name].as_u64().unwrap_or_else(|| panic!("{shown}"));
    Counted {
        bytes: [number("network", "received_bytes"), number("network", "sent_bytes")],
        packets: [number("network", "received_packets"), number("network", "sent_packets")],
        connections: [number("tcp", "connected"), number("tcp", "accepts")],
        retransmits: number("tcp", "retransmits"),
    }
}

/// Asserts that both say the same, once the last packet of the container, which nobody waits for, has arrived.
#[track_caller]
fn is_what_the_kernel_counted(world: &World, wire: &Wire, bundle: &Bundle, before: &Counted) -> Counted {
    let both = || (wire.counted().since(before), shown(world, bundle));
    eventually(|| {
        let (kernel, shown) = both();
        kernel == shown
    });
    let (kernel, shown) = both();
    assert_eq!(shown, kernel, "skiff, and the kernel");
    shown
}

#[test]
fn datagrams_through_a_wire_are_counted_to_the_byte() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let Some(wire) = Wire::new() else { return crate::oci::lacks("virtual network devices") };
    let world = World::with_probes("net,tcp", "2");
    // One size that fits into a packet, and one that makes three of each datagram.
    for (count, size, packets) in [("300", "1000", 300), ("40", "4000", 3 * 40)] {
        let before = wire.counted();
        let bundle = wire.bundle(&world, &["/bin/probe", "wire", PEER, "datagrams", count, size]);
        let printed = run(&bundle);
        assert_eq!(printed, format!("sent {count} datagrams of {size} bytes\n"), "{}", bundle.errors());
        let (number, bytes): (u64, u64) = (count.parse().expect("a number"), size.parse().expect("a number"));
        let kernel = wire.counted().since(&before);
        // What is sent, older kernels count before it is divided.
        assert_eq!(kernel.bytes[0], packets * 20 + number * (8 + bytes));
        // The container's socket gives and gets a datagram whole, with one header.
        let counted = shown(&world, &bundle);
        assert_eq!((counted.bytes, counted.packets), ([number * (28 + bytes); 2], [number; 2]));
        bundle.delete();
    }
}

#[test]
fn connections_through_a_wire_are_counted_to_the_byte() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let Some(wire) = Wire::new() else { return crate::oci::lacks("virtual network devices") };
    let world = World::with_probes("net,tcp", "2");
    for (verb, count, connections) in [("connect", "12", [12, 0]), ("accept", "7", [0, 7])] {
        let before = wire.counted();
        let bundle = wire.bundle(&world, &["/bin/probe", "wire", PEER, verb, count, "5", "900"]);
        assert!(run(&bundle).contains("connections"), "{}", bundle.errors());
        let counted = is_what_the_kernel_counted(&world, &wire, &bundle, &before);
        assert_eq!(counted.connections, connections);
        let payload = (connections[0] + connections[1]) * 5 * 900;
        assert!(counted.bytes.iter().all(|bytes| *bytes > payload), "{counted:?}");
        bundle.delete();
    }
}

#[test]
fn what_is_sent_in_one_piece_is_counted_to_the_byte() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let Some(wire) = Wire::new() else { return crate::oci::lacks("virtual network devices") };
    let world = World::with_probes("net,tcp", "1");
    let before = wire.counted();
    // The device takes segments of up to 64 KiB whole: of these the headers count once.
    let bundle = wire.bundle(&world, &["/bin/probe", "wire", PEER, "connect", "1", "4", "1000000"]);
    assert!(run(&bundle).contains("connections"), "{}", bundle.errors());
    let same = || shown(&world, &bundle).bytes == wire.counted().since(&before).bytes;
    assert!(eventually(same), "{:?} {:?}", shown(&world, &bundle), wire.counted().since(&before));
    assert!(shown(&world, &bundle).bytes.iter().all(|bytes| *bytes > 4_000_000));
    bundle.delete();
}

#[test]
fn segments_that_are_lost_are_counted_when_they_are_sent_again() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let Some(mut wire) = Wire::new() else { return crate::oci::lacks("virtual network devices") };
    let world = World::with_probes("net,tcp", "1");
    let before = wire.counted();
    let mut bundle = wire.bundle(&world, &[]);
    let pid = bundle.wait_ready(&["/bin/probe", "wire", PEER, "wait", "3", "700"]);
    wire.peer.send(b"deaf\n");
    wire.peer.until("deaf");
    bundle.kill("USR1");
    // Nothing comes through until it has been sent three times.
    let again = || wire.counted().since(&before).retransmits >= 2;
    assert!(eventually(again), "{:?}", wire.counted());
    wire.peer.send(b"hear\n");
    wire.peer.until("hear");
    assert_eq!(bundle.rest(), "talked\n", "{}", bundle.errors());
    bundle.wait(pid);
    let counted = is_what_the_kernel_counted(&world, &wire, &bundle, &before);
    assert!(counted.retransmits >= 2, "{counted:?}");
    let rtt = &world.shown(&bundle.id)["tcp"]["rtt"];
    assert!(rtt["count"].as_u64() >= Some(4), "{rtt}");
    bundle.delete();
}

#[test]
fn what_others_on_the_same_wire_do_is_not_the_containers() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let Some(wire) = Wire::new() else { return crate::oci::lacks("virtual network devices") };
    let world = World::with_probes("net,tcp", "1");
    let mut bundle = wire.bundle(&world, &[]);
    bundle.wait_ready(&["/bin/probe", "trap"]);
    let probe = programs::probe().display().to_string();
    within(
        &wire.inside,
        &format!("{probe} wire {PEER} datagrams 20 100 && {probe} wire {PEER} connect 2 1 10"),
    )
    .ok();
    let shown: Value = world.shown(&bundle.id);
    assert_eq!(
        (&shown["network"]["sent_packets"], &shown["network"]["received_packets"]),
        (&json!(0), &json!(0))
    );
    assert_eq!((&shown["tcp"]["connects"], &shown["tcp"]["rtt"]["count"]), (&json!(0), &json!(0)));
    bundle.end();
}
