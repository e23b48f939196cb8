//! What a container's processes use, where no control group counts it.
//!
//! Beside controllers of cgroup v1 the v2 hierarchy counts CPU time only, and each v1 hierarchy that a container without limits would be
//! in costs its launch a directory and its end another. So the processes themselves are asked: no lock of theirs is waited for, not even
//! where one is stuck in a page fault, which rules out what would be more exact (smaps(5)).

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::groups::{Groups, text};
use super::{Figures, Network};

/// So many processes are asked at most.
const PROCESSES_MAX: usize = 1024;

/// Adds what no group has counted, of the processes that there are; of block devices nothing if somebody else `counts_block`.
pub(super) fn complete(groups: &Groups<'_>, counts_block: bool, figures: &mut Figures) {
    let has_memory = figures.memory.usage_bytes.is_some();
    let has_block = figures.block.read_bytes.is_some() || counts_block;
    if figures.processes.current.is_none() {
        figures.processes.current = groups.threads().map(|threads| threads.len() as u64);
    }
    if has_memory && has_block {
        return;
    }
    let pids = groups.processes().unwrap_or_default();
    let of = |file: &str, pid: i32| text(&format!("/proc/{pid}/{file}"));
    let own = if has_memory { None } else { own_memory(pids) };
    // What no process tells, be it that this kernel does not, is unknown.
    let mut moved = None;
    for pid in pids.iter().copied().take(PROCESSES_MAX) {
        if !has_block && let Some(io) = of("io", pid) {
            let ([read, written], [more_read, more_written]) = (moved.unwrap_or_default(), transferred(&io));
            moved = Some([read + more_read, written + more_written]);
        }
    }
    if !has_memory {
        figures.memory.rss_bytes = own;
        figures.memory.usage_bytes = own;
        figures.memory.working_set_bytes = own;
    }
    if !has_block {
        [figures.block.read_bytes, figures.block.write_bytes] =
            moved.map_or([None; 2], |[read, written]| [Some(read), Some(written)]);
    }
}

/// Memory of their own that these processes have, bytes: what is no file's. `None` if none of them tells.
#[must_use]
pub fn own_memory(pids: &[i32]) -> Option<u64> {
    let tell = |pid: &i32| Some(own_pages(&text(&format!("/proc/{pid}/statm"))?) * page_bytes());
    pids.iter().take(PROCESSES_MAX).filter_map(tell).reduce(|one, other| one + other)
}

/// Those in memory that are no file's. proc_pid_statm(5).
fn own_pages(statm: &str) -> u64 {
    let mut fields = statm.split_whitespace().skip(1).filter_map(|field| field.parse::<u64>().ok());
    let (resident, of_files) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
    resident.saturating_sub(of_files)
}

/// Bytes read from disks and written to them. proc_pid_io(5).
fn transferred(io: &str) -> [u64; 2] {
    let number = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    let written = number("write_bytes:").unwrap_or(0_u64);
    // What was to be written and is gone before it was.
    [
        number("read_bytes:").unwrap_or(0),
        written.saturating_sub(number("cancelled_write_bytes:").unwrap_or(0)),
    ]
}

pub(super) fn page_bytes() -> u64 {
    let found = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    found.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

/// What the interfaces of the network namespace of `pid` have received and sent; none if that is the host's.
pub(super) fn network(pid: i32) -> Option<Network> {
    /// This process stays in its own.
    static HOST: OnceLock<Option<PathBuf>> = OnceLock::new();
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    if namespace(&pid.to_string())? == *HOST.get_or_init(|| namespace("self")).as_ref()? {
        return None;
    }
    Some(traffic(&text(&format!("/proc/{pid}/net/dev"))?))
}

/// The sums over all interfaces but the loopback in the form of `/proc/net/dev`. proc_pid_net(5).
fn traffic(table: &str) -> Network {
    let mut sum = Network::default();
    for (name, figures) in table.lines().skip(2).filter_map(|line| line.split_once(':')) {
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
        if name.trim() == "lo" {
            continue;
        }
        if let [
            received,
            packets,
            errors,
            drops,
            _,
            _,
            _,
            _,
            sent,
            sent_packets,
            sent_errors,
            sent_drops,
            ..,
        ] = figures[..]
        {
            sum.received_bytes += received;
            sum.received_packets += packets;
            sum.receive_errors += errors;
            sum.receive_drops += drops;
            sum.sent_bytes += sent;
            sum.sent_packets += sent_packets;
            sum.send_errors += sent_errors;
            sum.send_drops += sent_drops;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use skiff_runtime::cgroup::Paths;

    use super::*;

    #[test]
    fn processes_tell_what_they_use() {
        assert_eq!(own_pages("500 120 20 1 0 50 0\n"), 100);
        assert_eq!(own_pages(""), 0);
        let io = "rchar: 9\nwchar: 9\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 4096\n";
        assert_eq!(transferred(io), [4096, 4096]);
        assert_eq!(transferred("what"), [0, 0]);
    }

    #[test]
    fn traffic_is_all_but_the_loopback() {
        let table = "Inter-|   Receive                                                |  Transmit\n face |bytes packets\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 100 1 0 3 0 0 0 0 200 1 0 0 0 0 0 0\n  eth1:1 1 0 0 0 0 0 0 2 1 4 0 0 0 0 0\n";
        let traffic = traffic(table);
        assert_eq!((traffic.received_bytes, traffic.sent_bytes, traffic.received_packets), (101, 202, 2));
        assert_eq!((traffic.receive_drops, traffic.send_errors), (3, 4));
    }

    #[test]
    fn what_is_counted_already_is_left_alone() {
        let mut figures = Figures::default();
        figures.memory.usage_bytes = Some(7);
        figures.block.read_bytes = Some(8);
        complete(&Groups::open(&Paths::default()), false, &mut figures);
        assert_eq!((figures.memory.usage_bytes, figures.memory.rss_bytes), (Some(7), None));
        assert_eq!((figures.block.read_bytes, figures.block.write_bytes), (Some(8), None));
    }

    #[test]
    fn what_nobody_tells_is_unknown() {
        let mut figures = Figures::default();
        complete(&Groups::open(&Paths::default()), false, &mut figures);
        assert_eq!((figures.memory.usage_bytes, figures.block.read_bytes), (None, None));
    }
}
