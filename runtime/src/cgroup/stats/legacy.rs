//! The figures of cgroup v1. Documentation/admin-guide/cgroup-v1 in the kernel tree.

use std::path::Path;

use super::super::Controller;
use super::{
    Amount, BlkioEntry, CpuUsage, Cpuset, Hugetlb, Stats, Throttling, fields, number_or, page_sizes, text,
};

/// Reads what `controller` counts in `directory`.
pub(super) fn read(controller: Controller, directory: &Path, stats: &mut Stats) {
    let number = |file: &str| number_or(directory, file, 0);
    match controller {
        Controller::Cpu => stats.cpu.throttling = throttling(directory),
        Controller::Cpuacct => stats.cpu.usage = cpu(directory),
        Controller::Cpuset => stats.cpuset = cpuset(directory),
        Controller::Memory => {
            let memory = &mut stats.memory;
            memory.raw = fields(directory, "memory.stat");
            memory.cache = memory.raw.get("cache").copied().unwrap_or(0);
            memory.usage = amount(directory, "memory");
            memory.swap = amount(directory, "memory.memsw");
            memory.kernel = amount(directory, "memory.kmem");
            memory.kernel_tcp = amount(directory, "memory.kmem.tcp");
        }
        Controller::Pids => {
            stats.pids.current = number("pids.current");
            stats.pids.limit = number("pids.max");
        }
        Controller::Blkio => {
            let [bytes, requests] = ["io_service_bytes_recursive", "io_serviced_recursive"];
            stats.blkio.service_bytes = block(directory, bytes);
            stats.blkio.serviced = block(directory, requests);
        }
        Controller::Hugetlb => {
            for size in page_sizes(directory, ".limit_in_bytes") {
                let number = |what: &str| number(&format!("hugetlb.{size}.{what}"));
                let [usage, max, failcnt] = ["usage_in_bytes", "max_usage_in_bytes", "failcnt"].map(number);
                stats.hugetlb.insert(size.clone(), Hugetlb { usage, max, failcnt });
            }
        }
        _ => {}
    }
}

fn throttling(directory: &Path) -> Throttling {
    let stat = fields(directory, "cpu.stat");
    let field = |key: &str| stat.get(key).copied().unwrap_or(0);
    Throttling {
        periods: field("nr_periods"),
        throttled_periods: field("nr_throttled"),
        throttled_time: field("throttled_time"),
    }
}

/// The unit of `cpuacct.stat`, ns: `USER_HZ` is 100. time(7).
const TICK_NS: u64 = 10_000_000;

/// `cpuacct.usage_all` has a line of `cpu user system` for each CPU, after a heading.
fn cpu(directory: &Path) -> CpuUsage {
    let number = |file: &str| number_or(directory, file, 0);
    let all = text(directory, "cpuacct.usage_all").unwrap_or_default();
    let column = |index: usize| {
        let word = |line: &str| line.split_whitespace().nth(index)?.parse().ok();
        all.lines().skip(1).filter_map(word).collect()
    };
    // Unlike the columns, of which each has what ticks have met, these two make up the total.
    let sums = fields(directory, "cpuacct.stat");
    let ticks = |key: &str| sums.get(key).copied().unwrap_or(0) * TICK_NS;
    let percpu = text(directory, "cpuacct.usage_percpu").unwrap_or_default();
    CpuUsage {
        total: number("cpuacct.usage"),
        percpu: percpu.split_whitespace().filter_map(|word| word.parse().ok()).collect(),
        percpu_kernel: column(2),
        percpu_user: column(1),
        kernel: ticks("system"),
        user: ticks("user"),
    }
}

fn cpuset(directory: &Path) -> Cpuset {
    let number = |file: &str| number_or(directory, &format!("cpuset.{file}"), 0);
    let list = |file: &str| ids(&text(directory, file).unwrap_or_default());
    let level = text(directory, "cpuset.sched_relax_domain_level");
    Cpuset {
        cpus: list("cpuset.cpus"),
        cpu_exclusive: number("cpu_exclusive"),
        mems: list("cpuset.mems"),
        mem_hardwall: number("mem_hardwall"),
        mem_exclusive: number("mem_exclusive"),
        memory_migrate: number("memory_migrate"),
        memory_spread_page: number("memory_spread_page"),
        memory_spread_slab: number("memory_spread_slab"),
        memory_pressure: number("memory_pressure"),
        sched_load_balance: number("sched_load_balance"),
        sched_relax_domain_level: level.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
    }
}

/// The numbers of a list such as `0-2,7`.
pub(super) fn ids(list: &str) -> Vec<u16> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse::<u16>().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

fn amount(directory: &Path, kind: &str) -> Amount {
    let number = |what: &str| number_or(directory, &format!("{kind}.{what}"), 0);
    Amount {
        limit: number("limit_in_bytes"),
        usage: number("usage_in_bytes"),
        max: number("max_usage_in_bytes"),
        failcnt: number("failcnt"),
    }
}

/// Lines of `major:minor operation number`, of the BFQ scheduler where it counts something, else of throttling.
fn block(directory: &Path, file: &str) -> Vec<BlkioEntry> {
    let entries = |policy: &str| -> Vec<BlkioEntry> {
        let text = text(directory, &format!("blkio.{policy}.{file}")).unwrap_or_default();
        text.lines().filter_map(entry).collect()
    };
    let scheduled = entries("bfq");
    if scheduled.is_empty() { entries("throttle") } else { scheduled }
}

fn entry(line: &str) -> Option<BlkioEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let op = words.next()?.to_owned();
    let value = words.next()?.parse().ok()?;
    Some(BlkioEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_spelt_out() {
        assert_eq!(ids("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(ids("\n"), Vec::<u16>::new());
    }

    #[test]
    fn block_lines_have_device_operation_and_number() {
        let expect = BlkioEntry { major: 8, minor: 16, op: "Read".into(), value: 4096 };
        assert_eq!(entry("8:16 Read 4096"), Some(expect));
        assert_eq!(entry("Total 0"), None);
    }

    #[test]
    fn kernel_and_user_time_are_those_that_make_up_the_total() {
        let directory = std::env::temp_dir().join(format!("skiff-stats-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory");
        for (file, text) in [
            ("cpuacct.usage", "86736625\n"),
            ("cpuacct.usage_percpu", "50000000 36736625 \n"),
            ("cpuacct.usage_all", "cpu user system\n0 0 8000000\n1 4000000 0\n"),
            ("cpuacct.stat", "user 1\nsystem 7\n"),
        ] {
            std::fs::write(directory.join(file), text).expect("a file");
        }
        let found = cpu(&directory);
        std::fs::remove_dir_all(&directory).expect("clean up");
        let expected = CpuUsage {
            total: 86_736_625,
            percpu: vec![50_000_000, 36_736_625],
            percpu_kernel: vec![8_000_000, 0],
            percpu_user: vec![0, 4_000_000],
            kernel: 70_000_000,
            user: 10_000_000,
        };
        assert_eq!(found, expected);
    }
}
