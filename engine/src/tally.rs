//! What a container's processes use, where no control group counts it.
//!
//! Beside controllers of cgroup v1 the v2 hierarchy counts CPU time only, and each v1 hierarchy that a container without limits would be
//! in costs its launch a directory and its end another. So the processes themselves are asked: no lock of theirs is waited for, not even
//! where one is stuck in a page fault, which rules out what would be more exact (smaps(5)).

use std::fs;

use skiff_runtime::cgroup::{BlkioEntry, Stats};

/// So many processes are asked at most.
const PROCESSES_MAX: usize = 1024;

/// What processes have, and have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    /// Memory of their own, without pages of files.
    memory_bytes: u64,
    read_bytes: u64,
    written_bytes: u64,
}

/// Adds to `stats` what nothing has counted, of these processes.
pub(crate) fn complete(stats: &mut Stats, pids: &[i32]) {
    let has_memory = stats.memory.usage.usage > 0;
    let has_io = !stats.blkio.service_bytes.is_empty();
    if has_memory && has_io {
        return;
    }
    let page_bytes = page_bytes();
    let of = |file: &str, pid: i32| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let mut tally = Tally::default();
    for pid in pids.iter().copied().take(PROCESSES_MAX) {
        if !has_memory {
            tally.memory_bytes += own_pages(&of("statm", pid)) * page_bytes;
        }
        if !has_io {
            let [read, written] = transferred(&of("io", pid));
            tally.read_bytes += read;
            tally.written_bytes += written;
        }
    }
    if !has_memory {
        stats.memory.usage.usage = tally.memory_bytes;
    }
    if !has_io {
        let entry = |op: &str, value| BlkioEntry { op: op.to_owned(), value, ..BlkioEntry::default() };
        stats.blkio.service_bytes =
            vec![entry("Read", tally.read_bytes), entry("Write", tally.written_bytes)];
    }
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

fn page_bytes() -> u64 {
    let found = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    found.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
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
    fn what_is_counted_already_is_left_alone() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let mut stats = Stats::default();
        complete(&mut stats, &[own]);
        assert!(stats.memory.usage.usage > 4096 && stats.blkio.service_bytes.len() == 2);
        stats.memory.usage.usage = 7;
        stats.blkio.service_bytes.truncate(1);
        let before = stats.clone();
        complete(&mut stats, &[own]);
        assert_eq!(stats, before);
    }
}
