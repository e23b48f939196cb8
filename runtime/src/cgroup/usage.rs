//! What a container's cgroups have counted by its end.

use std::fs;
use std::path::Path;

use super::Controller;
use super::dir::{Legacy, Unified};

/// What the cgroups of a container have counted; `None` where the host does not count it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode, µs.
    pub cpu_user_us: Option<u64>,
    /// CPU time in the kernel, µs.
    pub cpu_system_us: Option<u64>,
    /// Bandwidth periods that have passed while the container wanted CPU.
    pub periods: Option<u64>,
    /// Those in which it ran out of quota.
    pub throttled_periods: Option<u64>,
    /// How long it was held back, µs.
    pub throttled_us: Option<u64>,
    /// Most memory charged at one time, bytes, page cache and kernel memory included.
    pub memory_peak_bytes: Option<u64>,
    /// Processes that the OOM killer has ended.
    pub oom_kills: Option<u64>,
    /// Bytes read from block devices.
    pub block_read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub block_write_bytes: Option<u64>,
    /// Read requests.
    pub block_reads: Option<u64>,
    /// Write requests.
    pub block_writes: Option<u64>,
}

impl Unified {
    pub(super) fn usage(&self, usage: &mut Usage) {
        let field = |file: &str, key: &str| field(&self.path.join(file), key);
        usage.cpu_user_us = field("cpu.stat", "user_usec");
        usage.cpu_system_us = field("cpu.stat", "system_usec");
        usage.periods = field("cpu.stat", "nr_periods");
        usage.throttled_periods = field("cpu.stat", "nr_throttled");
        usage.throttled_us = field("cpu.stat", "throttled_usec");
        usage.memory_peak_bytes = number(&self.path.join("memory.peak"));
        usage.oom_kills = field("memory.events", "oom_kill");
        let Ok(text) = fs::read_to_string(self.path.join("io.stat")) else { return };
        let sum = |key: &str| {
            text.split_whitespace()
                .filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
                .sum()
        };
        usage.block_read_bytes = Some(sum("rbytes"));
        usage.block_write_bytes = Some(sum("wbytes"));
        usage.block_reads = Some(sum("rios"));
        usage.block_writes = Some(sum("wios"));
    }
}

impl Legacy {
    pub(super) fn usage(&self, usage: &mut Usage) {
        let at = |file: &str| self.path.join(file);
        match self.controller {
            Controller::Cpu => {
                usage.periods = field(&at("cpu.stat"), "nr_periods");
                usage.throttled_periods = field(&at("cpu.stat"), "nr_throttled");
                usage.throttled_us = field(&at("cpu.stat"), "throttled_time").map(|ns| ns / 1000);
            }
            Controller::Cpuacct => {
                usage.cpu_user_us = number(&at("cpuacct.usage_user")).map(|ns| ns / 1000);
                usage.cpu_system_us = number(&at("cpuacct.usage_sys")).map(|ns| ns / 1000);
            }
            Controller::Memory => {
                usage.memory_peak_bytes = number(&at("memory.max_usage_in_bytes"));
                usage.oom_kills = field(&at("memory.oom_control"), "oom_kill");
            }
            Controller::Blkio => {
                let bytes = at("blkio.throttle.io_service_bytes_recursive");
                let requests = at("blkio.throttle.io_serviced_recursive");
                usage.block_read_bytes = device_sum(&bytes, "Read");
                usage.block_write_bytes = device_sum(&bytes, "Write");
                usage.block_reads = device_sum(&requests, "Read");
                usage.block_writes = device_sum(&requests, "Write");
            }
            _ => {}
        }
    }
}

/// The number that is all of a file.
pub(super) fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of `key number` lines.
pub(super) fn field(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

/// The sum over all devices of a v1 file of `major:minor Operation number` lines.
fn device_sum(path: &Path, operation: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = |line: &str| {
        let mut words = line.split(' ').skip(1);
        (words.next() == Some(operation)).then(|| words.next()?.parse::<u64>().ok())?
    };
    Some(text.lines().filter_map(value).sum())
}
