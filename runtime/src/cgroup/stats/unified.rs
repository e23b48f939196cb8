//! The figures of cgroup v2. Documentation/admin-guide/cgroup-v2.rst in the kernel tree.

use std::path::Path;

use super::legacy::ids;
use super::{
    Amount, BlkioEntry, CpuUsage, Hugetlb, Memory, Pressure, Stall, Stats, Throttling, fields, number_or,
    page_sizes, text,
};

/// Reads what v2 counts in `directory`.
pub(super) fn read(directory: &Path, stats: &mut Stats) {
    cpu(directory, stats);
    stats.memory = memory(directory);
    stats.pids.current = number_or(directory, "pids.current", 0);
    stats.pids.limit = number_or(directory, "pids.max", 0);
    let list = |file: &str| ids(&text(directory, file).unwrap_or_default());
    stats.cpuset.cpus = list("cpuset.cpus.effective");
    stats.cpuset.mems = list("cpuset.mems.effective");
    let io = text(directory, "io.stat").unwrap_or_default();
    stats.blkio.service_bytes = block(&io, &[("rbytes", "Read"), ("wbytes", "Write"), ("dbytes", "Discard")]);
    stats.blkio.serviced = block(&io, &[("rios", "Read"), ("wios", "Write"), ("dios", "Discard")]);
    stats.blkio.psi = pressure(directory, "io.pressure");
    for size in page_sizes(directory, ".max") {
        let number = |what: &str| number_or(directory, &format!("hugetlb.{size}.{what}"), 0);
        let failcnt = fields(directory, &format!("hugetlb.{size}.events")).get("max").copied().unwrap_or(0);
        stats.hugetlb.insert(size.clone(), Hugetlb { usage: number("current"), max: 0, failcnt });
    }
}

/// Without the controller too, the directory counts the time of its processes.
fn cpu(directory: &Path, stats: &mut Stats) {
    let stat = fields(directory, "cpu.stat");
    let ns = |key: &str| stat.get(key).copied().unwrap_or(0).saturating_mul(1000);
    let field = |key: &str| stat.get(key).copied().unwrap_or(0);
    stats.cpu.usage = CpuUsage {
        total: ns("usage_usec"),
        kernel: ns("system_usec"),
        user: ns("user_usec"),
        ..CpuUsage::default()
    };
    stats.cpu.throttling = Throttling {
        periods: field("nr_periods"),
        throttled_periods: field("nr_throttled"),
        throttled_time: ns("throttled_usec"),
    };
    stats.cpu.psi = pressure(directory, "cpu.pressure");
}

/// v1 counts memory and swap together, and so does this.
fn memory(directory: &Path) -> Memory {
    let raw = fields(directory, "memory.stat");
    let number = |file: &str| number_or(directory, file, u64::MAX);
    let events = fields(directory, "memory.events");
    let usage = Amount {
        limit: number("memory.max"),
        usage: number("memory.current"),
        max: number("memory.peak"),
        failcnt: events.get("max").copied().unwrap_or(0),
    };
    let swap_events = fields(directory, "memory.swap.events");
    let swap = Amount {
        limit: number("memory.swap.max").saturating_add(usage.limit),
        usage: number("memory.swap.current").saturating_add(usage.usage),
        max: 0,
        failcnt: swap_events.get("max").copied().unwrap_or(0),
    };
    let kernel = Amount { usage: raw.get("kernel").copied().unwrap_or(0), ..Amount::default() };
    let cache = raw.get("file").copied().unwrap_or(0);
    let psi = pressure(directory, "memory.pressure");
    Memory { cache, usage, swap, kernel, kernel_tcp: Amount::default(), raw, psi }
}

/// `io.stat` has a line of `major:minor key=number …` for each device.
fn block(io: &str, keys: &[(&str, &str)]) -> Vec<BlkioEntry> {
    let mut entries = Vec::new();
    for line in io.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let op = keys.iter().find(|(known, _)| *known == key);
            if let (Some((_, op)), Ok(value)) = (op, value.parse()) {
                entries.push(BlkioEntry { major, minor, op: (*op).to_owned(), value });
            }
        }
    }
    entries
}

/// Lines of `some avg10=… avg60=… avg300=… total=…`; none on a kernel that does not count it.
fn pressure(directory: &Path, file: &str) -> Option<Pressure> {
    let text = text(directory, file)?;
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let stall = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        *stall = self::stall(words);
    }
    Some(pressure)
}

fn stall<'a>(words: impl Iterator<Item = &'a str>) -> Stall {
    let mut stall = Stall::default();
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        match key {
            "avg10" => stall.avg10 = value.parse().unwrap_or(0.0),
            "avg60" => stall.avg60 = value.parse().unwrap_or(0.0),
            "avg300" => stall.avg300 = value.parse().unwrap_or(0.0),
            "total" => stall.total = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    stall
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_apart_and_keys_translated() {
        let io = "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n254:16 rbytes=7\n";
        let entry = |major, minor, op: &str, value| BlkioEntry { major, minor, op: op.into(), value };
        assert_eq!(
            block(io, &[("rbytes", "Read"), ("wbytes", "Write")]),
            [entry(8, 0, "Read", 4096), entry(8, 0, "Write", 0), entry(254, 16, "Read", 7)]
        );
    }

    #[test]
    fn pressure_is_read_from_its_words() {
        let words = "avg10=1.50 avg60=0.00 avg300=0.25 total=77".split(' ');
        assert_eq!(stall(words), Stall { avg10: 1.5, avg60: 0.0, avg300: 0.25, total: 77 });
    }
}
