//! What control groups count. Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ in the kernel tree.
//!
//! On hybrid hosts both are read: version 2 counts processor time and pressure of every group, controllers or none, and the
//! hierarchies of version 1 that the container has joined the rest.

use skiff_runtime::cgroup::Controller;

use super::groups::{Directory, Groups};
use super::{Block, Cpu, Figures, Memory, Pressure, Pressures};

/// From here on a limit of version 1 is none: the kernel rounds the greatest number down to a page.
const UNLIMITED: u64 = 1 << 62;

/// Adds what `groups` count.
pub(super) fn read(groups: &Groups<'_>, figures: &mut Figures) {
    if let Some(directory) = groups.unified() {
        Unified(directory, groups).read(figures);
    }
    for (controller, directory) in groups.legacy() {
        Legacy(&directory).read(controller, figures);
    }
}

/// A directory of version 2.
struct Unified<'a>(&'a Directory, &'a Groups<'a>);

impl Unified<'_> {
    fn read(&self, figures: &mut Figures) {
        if let Some(text) = self.0.text("cpu.stat") {
            cpu_unified(&text, &mut figures.cpu);
        }
        figures.pressure = self.pressures();
        if self.1.may_have("memory")
            && let Some(usage) = self.0.number("memory.current")
        {
            figures.memory = self.memory(usage);
        }
        if self.1.may_have("pids")
            && let Some(current) = self.0.number("pids.current")
        {
            figures.processes.current = Some(current);
            figures.processes.limit = self.0.number("pids.max");
            figures.processes.peak = self.0.number("pids.peak");
        }
        if self.1.may_have("io")
            && let Some(text) = self.0.text("io.stat")
        {
            figures.block = block_unified(&text);
        }
    }

    fn memory(&self, usage: u64) -> Memory {
        let stat = self.0.text("memory.stat").unwrap_or_default();
        let events = self.0.text("memory.events").unwrap_or_default();
        let [idle, majors] = ["inactive_file", "pgmajfault"].map(|key| field(&stat, key));
        Memory {
            usage_bytes: Some(usage),
            working_set_bytes: Some(usage.saturating_sub(idle.unwrap_or(0))),
            peak_bytes: self.0.number("memory.peak"),
            limit_bytes: self.0.number("memory.max"),
            rss_bytes: field(&stat, "anon"),
            cache_bytes: field(&stat, "file"),
            mapped_bytes: field(&stat, "file_mapped"),
            kernel_bytes: field(&stat, "kernel"),
            swap_bytes: self.0.number("memory.swap.current"),
            peak_process_bytes: None,
            minor_faults: minor(field(&stat, "pgfault"), majors),
            major_faults: majors,
            limit_hits: field(&events, "max"),
            oom_kills: field(&events, "oom_kill"),
        }
    }

    fn pressures(&self) -> Option<Pressures> {
        let of = |file: &str| self.0.text(file).map(|text| pressure(&text));
        Some(Pressures { cpu: of("cpu.pressure")?, memory: of("memory.pressure")?, io: of("io.pressure")? })
    }
}

/// A directory of version 1.
struct Legacy<'a>(&'a Directory);

impl Legacy<'_> {
    fn read(&self, controller: Controller, figures: &mut Figures) {
        match controller {
            Controller::Cpu => {
                let stat = self.0.text("cpu.stat").unwrap_or_default();
                let cpu = &mut figures.cpu;
                cpu.periods = field(&stat, "nr_periods").or(cpu.periods);
                cpu.throttled_periods = field(&stat, "nr_throttled").or(cpu.throttled_periods);
                cpu.throttled_ns = field(&stat, "throttled_time").or(cpu.throttled_ns);
            }
            // Beside version 2 that has counted it, to a microsecond.
            Controller::Cpuacct if figures.cpu.usage_ns.is_none() => {
                figures.cpu.usage_ns = self.0.number("cpuacct.usage");
                figures.cpu.user_ns = self.0.number("cpuacct.usage_user");
                figures.cpu.system_ns = self.0.number("cpuacct.usage_sys");
            }
            Controller::Memory => {
                if let Some(usage) = self.0.number("memory.usage_in_bytes") {
                    figures.memory = self.memory(usage);
                }
            }
            Controller::Pids => {
                figures.processes.current = self.0.number("pids.current").or(figures.processes.current);
                figures.processes.limit = self.0.number("pids.max").or(figures.processes.limit);
                figures.processes.peak = self.0.number("pids.peak").or(figures.processes.peak);
            }
            Controller::Blkio => {
                let bytes = self.0.text("blkio.throttle.io_service_bytes_recursive");
                let requests = self.0.text("blkio.throttle.io_serviced_recursive");
                if let (Some(bytes), Some(requests)) = (bytes, requests) {
                    figures.block = block_legacy(&bytes, &requests);
                }
            }
            _ => {}
        }
    }

    fn memory(&self, usage: u64) -> Memory {
        let stat = self.0.text("memory.stat").unwrap_or_default();
        let control = self.0.text("memory.oom_control").unwrap_or_default();
        let [idle, majors] = ["total_inactive_file", "total_pgmajfault"].map(|key| field(&stat, key));
        Memory {
            usage_bytes: Some(usage),
            working_set_bytes: Some(usage.saturating_sub(idle.unwrap_or(0))),
            peak_bytes: self.0.number("memory.max_usage_in_bytes"),
            limit_bytes: self.0.number("memory.limit_in_bytes").filter(|limit| *limit < UNLIMITED),
            rss_bytes: field(&stat, "total_rss"),
            cache_bytes: field(&stat, "total_cache"),
            mapped_bytes: field(&stat, "total_mapped_file"),
            kernel_bytes: self.0.number("memory.kmem.usage_in_bytes"),
            swap_bytes: field(&stat, "total_swap"),
            peak_process_bytes: None,
            minor_faults: minor(field(&stat, "total_pgfault"), majors),
            major_faults: majors,
            limit_hits: self.0.number("memory.failcnt"),
            oom_kills: field(&control, "oom_kill"),
        }
    }
}

fn cpu_unified(stat: &str, cpu: &mut Cpu) {
    let ns = |key: &str| field(stat, key).map(|us| us.saturating_mul(1000));
    cpu.usage_ns = ns("usage_usec");
    cpu.user_ns = ns("user_usec");
    cpu.system_ns = ns("system_usec");
    cpu.periods = field(stat, "nr_periods");
    cpu.throttled_periods = field(stat, "nr_throttled");
    cpu.throttled_ns = ns("throttled_usec");
}

/// Faults that were no major ones, of all.
fn minor(all: Option<u64>, majors: Option<u64>) -> Option<u64> {
    Some(all?.saturating_sub(majors?))
}

/// `io.stat`: a line of `major:minor key=number …` for each device.
fn block_unified(stat: &str) -> Block {
    let sum = |key: &str| {
        let values = stat.split_whitespace();
        let values = values.filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok());
        Some(values.fold(0, u64::saturating_add))
    };
    Block { read_bytes: sum("rbytes"), write_bytes: sum("wbytes"), reads: sum("rios"), writes: sum("wios") }
}

/// Lines of `major:minor Operation number`.
fn block_legacy(bytes: &str, requests: &str) -> Block {
    let sum = |text: &str, operation: &str| {
        let value = |line: &str| {
            let mut words = line.split(' ').skip(1);
            (words.next() == Some(operation)).then(|| words.next()?.parse::<u64>().ok())?
        };
        Some(text.lines().filter_map(value).fold(0, u64::saturating_add))
    };
    Block {
        read_bytes: sum(bytes, "Read"),
        write_bytes: sum(bytes, "Write"),
        reads: sum(requests, "Read"),
        writes: sum(requests, "Write"),
    }
}

/// Lines of `some avg10=… avg60=… avg300=… total=…`, µs.
fn pressure(text: &str) -> Pressure {
    let of = |word: &str| {
        let line = text.lines().find(|line| line.starts_with(word))?;
        line.rsplit_once("total=")?.1.trim().parse().ok()
    };
    Pressure { some_us: of("some").unwrap_or(0), full_us: of("full").unwrap_or(0) }
}

/// The number after `key` in lines of `key number`.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_whole_word() {
        let stat = "anon_thp 1\nanon 2\nfile 3\nfile_mapped 4\n";
        assert_eq!((field(stat, "anon"), field(stat, "file"), field(stat, "none")), (Some(2), Some(3), None));
    }

    #[test]
    fn devices_are_added_up() {
        let unified = "8:0 rbytes=4096 wbytes=1 rios=1 wios=2 dbytes=9\n254:16 rbytes=7 rios=3\n";
        let block = |read_bytes, write_bytes, reads, writes| Block {
            read_bytes: Some(read_bytes),
            write_bytes: Some(write_bytes),
            reads: Some(reads),
            writes: Some(writes),
        };
        assert_eq!(block_unified(unified), block(4103, 1, 4, 2));
        let bytes = "8:0 Read 10\n8:0 Write 20\n8:16 Read 1\nTotal 31\n";
        assert_eq!(block_legacy(bytes, "8:0 Read 2\n8:0 Write 3\n"), block(11, 20, 2, 3));
        assert_eq!(block_unified(""), block(0, 0, 0, 0));
    }

    #[test]
    fn pressure_is_the_totals() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.25 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        assert_eq!(pressure(text), Pressure { some_us: 77, full_us: 5 });
        assert_eq!(pressure("what"), Pressure::default());
    }

    #[test]
    fn processor_time_is_in_nanoseconds() {
        let mut cpu = Cpu::default();
        cpu_unified("usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 2\n", &mut cpu);
        assert_eq!((cpu.usage_ns, cpu.periods, cpu.throttled_ns), (Some(7000), Some(2), None));
    }
}
