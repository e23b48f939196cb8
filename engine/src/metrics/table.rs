//! The table of metrics: what each is called, what it means, and how it is taken.
//!
//! Names that begin with `container_` are cAdvisor's, for what they mean there, and names that begin with `process_` those that
//! Prometheus' own libraries have for the process that answers. The names for OpenTelemetry are those of its semantic conventions
//! where these have one. Labels are few and have few values: nothing that a container can multiply becomes a label.

use std::sync::LazyLock;

use skiff_ebpf::Histogram as Durations;
use skiff_observe::exposition::{Histogram, Kind, Metric, Subject, Unit, Value};

use super::read::{Container, Counted, Daemon};
use super::totals::{ENDS, LAUNCHES, seconds};
use crate::figures::{Network, Pressures};
use crate::health::Status;

/// One metric.
#[derive(Debug)]
pub struct Row {
    /// What it is called and what it means.
    pub metric: Metric,
    take: Take,
}

/// What it is of, and how it is taken.
#[derive(Debug, Clone, Copy)]
enum Take {
    Container(fn(&Container, &mut Points<'_>)),
    /// What programs count that are pinned: of any engine's containers.
    Counted(fn(&Counted, &mut Points<'_>)),
    Daemon(fn(&Daemon, &mut Points<'_>)),
}

/// Where the points of one metric go.
pub(super) struct Points<'a> {
    subject: &'a mut Subject,
    metric: usize,
}

/// Names and meanings alone, in the order of the table.
pub(super) static METRICS: LazyLock<Vec<Metric>> =
    LazyLock::new(|| TABLE.iter().map(|row| row.metric).collect());

/// Adds all that is to be told of a container to its subject.
pub(super) fn take_container(container: &Container, subject: &mut Subject) {
    for (metric, row) in TABLE.iter().enumerate() {
        let points = &mut Points { subject, metric };
        match (row.take, &container.counted) {
            (Take::Container(take), _) => take(container, points),
            (Take::Counted(take), Some(counted)) => take(counted, points),
            _ => {}
        }
    }
}

/// Adds what is to be told of one that is not the daemon's.
pub(super) fn take_counted(counted: &Counted, subject: &mut Subject) {
    for (metric, row) in TABLE.iter().enumerate() {
        if let Take::Counted(take) = row.take {
            take(counted, &mut Points { subject, metric });
        }
    }
}

/// Adds all that is to be told of the daemon to its subject.
pub(super) fn take_daemon(daemon: &Daemon, subject: &mut Subject) {
    for (metric, row) in TABLE.iter().enumerate() {
        if let Take::Daemon(take) = row.take {
            take(daemon, &mut Points { subject, metric });
        }
    }
}

impl Row {
    /// Whether there is one for each container that runs.
    #[must_use]
    pub const fn is_of_containers(&self) -> bool {
        matches!(self.take, Take::Container(_) | Take::Counted(_))
    }

    const fn labels(mut self, labels: &'static [&'static str]) -> Self {
        self.metric.labels = labels;
        self
    }

    const fn attributes(mut self, attributes: &'static [(&'static str, &'static str)]) -> Self {
        self.metric.attributes = attributes;
        self
    }
}

impl Points<'_> {
    fn put(&mut self, labels: &[&'static str], value: Value) {
        self.subject.put(self.metric, labels.to_vec(), value);
    }

    /// A whole number, if it is known.
    fn number(&mut self, value: impl Into<Option<u64>>) {
        self.of(&[], value);
    }

    /// The same, of what has these labels.
    fn of(&mut self, labels: &[&'static str], value: impl Into<Option<u64>>) {
        if let Some(value) = value.into() {
            self.put(labels, Value::Integer(value));
        }
    }

    /// A time, if it is known.
    fn ns(&mut self, ns: impl Into<Option<u64>>) {
        self.ns_of(&[], ns);
    }

    fn ns_of(&mut self, labels: &[&'static str], ns: impl Into<Option<u64>>) {
        if let Some(ns) = ns.into() {
            self.put(labels, Value::Real(seconds(ns)));
        }
    }

    fn real(&mut self, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            self.put(&[], Value::Real(value));
        }
    }

    fn durations(&mut self, labels: &[&'static str], durations: Option<&Durations>) {
        if let Some(durations) = durations {
            self.put(labels, Value::Histogram(classes(durations)));
        }
    }
}

/// Upper bounds of durations in the kernel, log2 of ns.
const BITS: [u32; 11] = [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];

/// The same, s.
const BOUNDS: &[f64] = &[
    0.000_001_024,
    0.000_004_096,
    0.000_016_384,
    0.000_065_536,
    0.000_262_144,
    0.001_048_576,
    0.004_194_304,
    0.016_777_216,
    0.067_108_864,
    0.268_435_456,
    1.073_741_824,
];

/// Few classes of the many: those whose bounds are exact.
fn classes(durations: &Durations) -> Histogram {
    let mut before = 0;
    let mut counts: Vec<u64> = BITS
        .into_iter()
        .map(|bits| {
            let below = durations.below(1 << bits);
            let count = below.saturating_sub(before);
            before = below;
            count
        })
        .collect();
    counts.push(durations.count().saturating_sub(before));
    Histogram { bounds: BOUNDS, counts, sum: seconds(durations.total_ns) }
}

const fn metric(
    name: &'static str,
    otlp: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
) -> Metric {
    Metric { name, otlp, kind, unit, help, labels: &[], attributes: &[] }
}

const fn container(
    name: &'static str,
    otlp: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
    take: fn(&Container, &mut Points<'_>),
) -> Row {
    Row { metric: metric(name, otlp, kind, unit, help), take: Take::Container(take) }
}

const fn counted(
    name: &'static str,
    otlp: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
    take: fn(&Counted, &mut Points<'_>),
) -> Row {
    Row { metric: metric(name, otlp, kind, unit, help), take: Take::Counted(take) }
}

const fn daemon(
    name: &'static str,
    otlp: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
    take: fn(&Daemon, &mut Points<'_>),
) -> Row {
    Row { metric: metric(name, otlp, kind, unit, help), take: Take::Daemon(take) }
}

/// Of the network, where the container has its own.
fn network(container: &Container, figure: fn(&Network) -> u64) -> Option<u64> {
    container.figures.network.as_ref().map(figure)
}

/// Of pressure, ns.
fn pressure(container: &Container, figure: fn(&Pressures) -> u64) -> Option<u64> {
    container.figures.pressure.as_ref().map(|all| figure(all).saturating_mul(1000))
}

/// The CPU quota in a period, both µs; the quota is absent without one.
fn quota(container: &Container) -> (Option<u64>, u64) {
    let limits = &container.record.spec.options.resources;
    let period = limits.cpu_period_us.unwrap_or(100_000);
    let of_cpus = |nano_cpus: u64| nano_cpus.saturating_mul(period) / 1_000_000_000;
    let quota = limits.cpu_quota_us.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0);
    (quota.or_else(|| limits.nano_cpus.map(of_cpus)), period)
}

use Kind::{Counter, Gauge};
use Unit::{Bytes, Count, Ratio, Seconds};

/// All of them.
pub static TABLE: &[Row] = &[
    container("container_cpu_usage_seconds_total", "", Counter, Seconds, "CPU time, in user mode and in the kernel.", |c, p| {
        p.ns_of(&["total"], c.figures.cpu.usage_ns);
    })
    .labels(&["cpu"]),
    container("container_cpu_user_seconds_total", "container.cpu.time", Counter, Seconds, "CPU time in user mode.", |c, p| {
        p.ns(c.figures.cpu.user_ns);
    })
    .attributes(&[("cpu.mode", "user")]),
    container("container_cpu_system_seconds_total", "container.cpu.time", Counter, Seconds, "CPU time in the kernel.", |c, p| {
        p.ns(c.figures.cpu.system_ns);
    })
    .attributes(&[("cpu.mode", "system")]),
    container("container_cpu_cfs_periods_total", "skiff.container.cpu.quota.periods", Counter, Count("period"), "Periods of its CPU quota that have passed while it wanted to run.", |c, p| {
        p.number(c.figures.cpu.periods);
    }),
    container("container_cpu_cfs_throttled_periods_total", "skiff.container.cpu.quota.throttled_periods", Counter, Count("period"), "Those in which it ran out of its CPU quota.", |c, p| {
        p.number(c.figures.cpu.throttled_periods);
    }),
    container("container_cpu_cfs_throttled_seconds_total", "skiff.container.cpu.quota.throttled_time", Counter, Seconds, "How long it was held back by its CPU quota.", |c, p| {
        p.ns(c.figures.cpu.throttled_ns);
    }),
    container("skiff_container_run_queue_seconds_total", "skiff.container.cpu.run_queue_time", Counter, Seconds, "How long its threads could have run and waited for a CPU.", |c, p| {
        p.ns(c.figures.cpu.run_queue_ns);
    }),
    container("skiff_container_context_switches_total", "skiff.container.cpu.context_switches", Counter, Count("switch"), "Context switches: voluntary, because a thread blocked, or involuntary, because it was preempted.", |c, p| {
        p.of(&["voluntary"], c.figures.cpu.voluntary_switches);
        p.of(&["involuntary"], c.figures.cpu.involuntary_switches);
    })
    .labels(&["kind"]),
    container("container_memory_usage_bytes", "container.memory.usage", Gauge, Bytes, "Memory in use, page cache and kernel memory included.", |c, p| {
        p.number(c.figures.memory.usage_bytes);
    }),
    container("container_memory_working_set_bytes", "container.memory.working_set", Gauge, Bytes, "Memory in use without pages of files that nobody has touched for a while.", |c, p| {
        p.number(c.figures.memory.working_set_bytes);
    }),
    container("container_memory_rss", "container.memory.rss", Gauge, Bytes, "Anonymous memory, bytes.", |c, p| {
        p.number(c.figures.memory.rss_bytes);
    }),
    container("container_memory_cache", "skiff.container.memory.cache", Gauge, Bytes, "Page cache, tmpfs included, bytes.", |c, p| {
        p.number(c.figures.memory.cache_bytes);
    }),
    container("container_memory_mapped_file", "skiff.container.memory.mapped_file", Gauge, Bytes, "Pages of files that are mapped, bytes.", |c, p| {
        p.number(c.figures.memory.mapped_bytes);
    }),
    container("container_memory_kernel_usage", "skiff.container.memory.kernel", Gauge, Bytes, "Kernel memory, bytes.", |c, p| {
        p.number(c.figures.memory.kernel_bytes);
    }),
    container("container_memory_swap", "skiff.container.memory.swap", Gauge, Bytes, "What is in swap, bytes.", |c, p| {
        p.number(c.figures.memory.swap_bytes);
    }),
    container("container_memory_max_usage_bytes", "skiff.container.memory.peak", Gauge, Bytes, "The most memory that was in use at one time.", |c, p| {
        p.number(c.figures.memory.peak_bytes);
    }),
    container("container_memory_failures_total", "", Counter, Count("fault"), "Page faults: pgfault, all of them, and pgmajfault, those that waited for I/O.", |c, p| {
        let memory = &c.figures.memory;
        let all = memory.minor_faults.zip(memory.major_faults).map(|(minor, major)| minor.saturating_add(major));
        p.of(&["pgfault", "hierarchy"], all);
        p.of(&["pgmajfault", "hierarchy"], memory.major_faults);
    })
    .labels(&["failure_type", "scope"]),
    container("", "container.memory.paging.faults", Counter, Count("fault"), "Page faults.", |c, p| {
        p.of(&["minor"], c.figures.memory.minor_faults);
        p.of(&["major"], c.figures.memory.major_faults);
    })
    .labels(&["system.paging.fault.type"]),
    container("skiff_container_memory_limit_hits_total", "skiff.container.memory.limit_hits", Counter, Count("hit"), "How often its memory limit was reached.", |c, p| {
        p.number(c.figures.memory.limit_hits);
    }),
    container("container_oom_events_total", "skiff.container.memory.oom_kills", Counter, Count("kill"), "Processes that the kernel has killed in it for want of memory.", |c, p| {
        p.number(c.figures.memory.oom_kills.or_else(|| c.figures.oom.as_ref().map(|oom| oom.kills)));
    }),
    container("container_fs_reads_bytes_total", "container.disk.io", Counter, Bytes, "Bytes read from block devices, all together.", |c, p| {
        p.number(c.figures.block.read_bytes);
    })
    .attributes(&[("disk.io.direction", "read")]),
    container("container_fs_writes_bytes_total", "container.disk.io", Counter, Bytes, "Bytes written to block devices, all together.", |c, p| {
        p.number(c.figures.block.write_bytes);
    })
    .attributes(&[("disk.io.direction", "write")]),
    container("container_fs_reads_total", "skiff.container.disk.operations", Counter, Count("operation"), "Read requests to block devices.", |c, p| {
        p.number(c.figures.block.reads);
    })
    .attributes(&[("disk.io.direction", "read")]),
    container("container_fs_writes_total", "skiff.container.disk.operations", Counter, Count("operation"), "Write requests to block devices.", |c, p| {
        p.number(c.figures.block.writes);
    })
    .attributes(&[("disk.io.direction", "write")]),
    container("container_network_receive_bytes_total", "container.network.io", Counter, Bytes, "Bytes received by its interfaces but the loopback, all together.", |c, p| {
        p.number(network(c, |n| n.received_bytes));
    })
    .attributes(&[("network.io.direction", "receive")]),
    container("container_network_transmit_bytes_total", "container.network.io", Counter, Bytes, "Bytes sent by its interfaces but the loopback, all together.", |c, p| {
        p.number(network(c, |n| n.sent_bytes));
    })
    .attributes(&[("network.io.direction", "transmit")]),
    container("container_network_receive_packets_total", "skiff.container.network.packets", Counter, Count("packet"), "Packets received.", |c, p| {
        p.number(network(c, |n| n.received_packets));
    })
    .attributes(&[("network.io.direction", "receive")]),
    container("container_network_transmit_packets_total", "skiff.container.network.packets", Counter, Count("packet"), "Packets sent.", |c, p| {
        p.number(network(c, |n| n.sent_packets));
    })
    .attributes(&[("network.io.direction", "transmit")]),
    container("container_network_receive_packets_dropped_total", "skiff.container.network.dropped", Counter, Count("packet"), "Packets that were dropped on receipt.", |c, p| {
        p.number(network(c, |n| n.receive_drops));
    })
    .attributes(&[("network.io.direction", "receive")]),
    container("container_network_transmit_packets_dropped_total", "skiff.container.network.dropped", Counter, Count("packet"), "Packets that were dropped when they were to be sent.", |c, p| {
        p.number(network(c, |n| n.send_drops));
    })
    .attributes(&[("network.io.direction", "transmit")]),
    container("container_network_receive_errors_total", "skiff.container.network.errors", Counter, Count("packet"), "Packets that could not be received.", |c, p| {
        p.number(network(c, |n| n.receive_errors));
    })
    .attributes(&[("network.io.direction", "receive")]),
    container("container_network_transmit_errors_total", "skiff.container.network.errors", Counter, Count("packet"), "Packets that could not be sent.", |c, p| {
        p.number(network(c, |n| n.send_errors));
    })
    .attributes(&[("network.io.direction", "transmit")]),
    container("container_processes", "skiff.container.processes", Gauge, Count("process"), "Processes that there are.", |c, p| {
        p.number(c.processes);
    }),
    container("container_threads", "skiff.container.threads", Gauge, Count("thread"), "Threads that there are.", |c, p| {
        p.number(c.figures.processes.current);
    }),
    container("container_threads_max", "skiff.container.threads.limit", Gauge, Count("thread"), "Threads that there may be; 0 without a limit.", |c, p| {
        p.number(c.figures.processes.limit.unwrap_or(0));
    }),
    container("skiff_container_processes_created_total", "skiff.container.processes.created", Counter, Count("process"), "Processes created, the first included.", |c, p| {
        p.number(c.figures.processes.created);
    }),
    container("skiff_container_executions_total", "skiff.container.executions", Counter, Count("execution"), "Programs executed, the first included.", |c, p| {
        p.number(c.figures.processes.executed);
    }),
    container("container_pressure_cpu_waiting_seconds_total", "skiff.container.pressure.cpu.waiting", Counter, Seconds, "How long at least one of its threads waited for a CPU.", |c, p| {
        p.ns(pressure(c, |all| all.cpu.some_us));
    }),
    container("container_pressure_cpu_stalled_seconds_total", "skiff.container.pressure.cpu.stalled", Counter, Seconds, "How long all of its threads that could have run waited for a CPU.", |c, p| {
        p.ns(pressure(c, |all| all.cpu.full_us));
    }),
    container("container_pressure_memory_waiting_seconds_total", "skiff.container.pressure.memory.waiting", Counter, Seconds, "How long at least one of its threads waited for memory.", |c, p| {
        p.ns(pressure(c, |all| all.memory.some_us));
    }),
    container("container_pressure_memory_stalled_seconds_total", "skiff.container.pressure.memory.stalled", Counter, Seconds, "How long all of its threads waited for memory.", |c, p| {
        p.ns(pressure(c, |all| all.memory.full_us));
    }),
    container("container_pressure_io_waiting_seconds_total", "skiff.container.pressure.io.waiting", Counter, Seconds, "How long at least one of its threads waited for I/O.", |c, p| {
        p.ns(pressure(c, |all| all.io.some_us));
    }),
    container("container_pressure_io_stalled_seconds_total", "skiff.container.pressure.io.stalled", Counter, Seconds, "How long all of its threads waited for I/O.", |c, p| {
        p.ns(pressure(c, |all| all.io.full_us));
    }),
    container("container_start_time_seconds", "", Gauge, Seconds, "When it was started, since 1970.", |c, p| {
        p.ns(c.record.started_ns);
    }),
    container("", "container.uptime", Gauge, Seconds, "How long it has been running.", |c, p| {
        p.ns(c.figures.at_ns.saturating_sub(c.record.started_ns));
    }),
    container("container_last_seen", "", Gauge, Seconds, "When its figures were read, seconds since 1970.", |c, p| {
        p.number(c.figures.at_ns / 1_000_000_000);
    }),
    container("container_spec_memory_limit_bytes", "skiff.container.memory.limit", Gauge, Bytes, "Its memory limit; 0 without one.", |c, p| {
        p.number(c.figures.memory.limit_bytes.or(c.record.spec.options.resources.memory_bytes).unwrap_or(0));
    }),
    container("container_spec_memory_reservation_limit_bytes", "skiff.container.memory.reservation", Gauge, Bytes, "Its memory reservation; 0 without one.", |c, p| {
        p.number(c.record.spec.options.resources.memory_reservation_bytes.unwrap_or(0));
    }),
    container("container_spec_cpu_shares", "skiff.container.cpu.shares", Gauge, Count("share"), "Its CPU shares, if it was given any.", |c, p| {
        p.number(c.record.spec.options.resources.cpu_shares);
    }),
    container("container_spec_cpu_quota", "skiff.container.cpu.quota", Gauge, Count("us"), "Its CPU quota in a period, microseconds, if it has one.", |c, p| {
        p.number(quota(c).0);
    }),
    container("container_spec_cpu_period", "skiff.container.cpu.period", Gauge, Count("us"), "The period of its CPU quota, microseconds.", |c, p| {
        p.number(quota(c).1);
    }),
    container("skiff_container_restarts_total", "", Counter, Count("restart"), "How often its restart policy has started it again since somebody did.", |c, p| {
        p.number(u64::from(c.record.restart_count));
    }),
    // Its sums begin when it is started, and this goes on from one start to the next.
    container("", "skiff.container.restarts", Gauge, Count("restart"), "How often its restart policy has started it again since somebody did.", |c, p| {
        p.number(u64::from(c.record.restart_count));
    }),
    container("skiff_container_healthy", "skiff.container.healthy", Gauge, Count("container"), "1 if it is healthy, 0 if not or not yet; of containers whose health is checked.", |c, p| {
        p.number(c.record.health.as_ref().map(|health| u64::from(health.status == Status::Healthy)));
    }),
    container("skiff_container_health_failing_streak", "skiff.container.health.failing_streak", Gauge, Count("check"), "How many checks of its health have failed in a row.", |c, p| {
        p.number(c.record.health.as_ref().map(|health| u64::from(health.failing_streak)));
    }),
    counted("skiff_container_system_calls_total", "skiff.container.system_calls", Counter, Count("call"), "System calls; where programs are pinned that count them.", |c, p| {
        p.number(c.calls.map(|calls| calls.all));
    }),
    counted("skiff_container_system_calls_failed_total", "skiff.container.system_calls.failed", Counter, Count("call"), "System calls that have failed; where programs are pinned that count them.", |c, p| {
        p.number(c.calls.map(|calls| calls.failed));
    }),
    counted("skiff_container_run_queue_wait_seconds", "skiff.container.run_queue.wait", Kind::Histogram, Seconds, "How long threads waited for a CPU each time; with observe run-queue.", |c, p| {
        p.durations(&[], c.tier1.run_queue.as_ref().map(|queue| &queue.wait));
    }),
    counted("skiff_container_off_cpu_seconds", "skiff.container.off_cpu", Kind::Histogram, Seconds, "How long threads slept or were blocked each time; with observe run-queue.", |c, p| {
        p.durations(&[], c.tier1.run_queue.as_ref().map(|queue| &queue.off_cpu));
    }),
    counted("skiff_container_throttled_wait_seconds", "skiff.container.throttled.wait", Kind::Histogram, Seconds, "How long threads waited for CPU quota each time; with observe run-queue.", |c, p| {
        p.durations(&[], c.tier1.run_queue.as_ref().map(|queue| &queue.throttled));
    }),
    counted("skiff_container_block_latency_seconds", "skiff.container.block.latency", Kind::Histogram, Seconds, "How long requests to block devices took; with observe block.", |c, p| {
        let block = c.tier1.block.as_ref();
        p.durations(&["read"], block.map(|block| &block.latency[0]));
        p.durations(&["write"], block.map(|block| &block.latency[1]));
    })
    .labels(&["operation"]),
    counted("skiff_container_socket_bytes_total", "skiff.container.socket.io", Counter, Bytes, "What its sockets received and sent, with IP headers; with observe net.", |c, p| {
        p.of(&["receive"], c.tier1.net.map(|net| net.received_bytes));
        p.of(&["transmit"], c.tier1.net.map(|net| net.sent_bytes));
    })
    .labels(&["direction"]),
    counted("skiff_container_socket_packets_total", "skiff.container.socket.packets", Counter, Count("packet"), "Packets that its sockets received and sent; with observe net.", |c, p| {
        p.of(&["receive"], c.tier1.net.map(|net| net.received_packets));
        p.of(&["transmit"], c.tier1.net.map(|net| net.sent_packets));
    })
    .labels(&["direction"]),
    counted("skiff_container_tcp_connections_total", "skiff.container.tcp.connections", Counter, Count("connection"), "TCP connections: begun by it, of those established, and accepted by it; with observe tcp.", |c, p| {
        let tcp = c.tier1.tcp.as_ref();
        p.of(&["begun"], tcp.map(|tcp| tcp.connects));
        p.of(&["established"], tcp.map(|tcp| tcp.connected));
        p.of(&["accepted"], tcp.map(|tcp| tcp.accepts));
    })
    .labels(&["state"]),
    counted("skiff_container_tcp_retransmits_total", "skiff.container.tcp.retransmits", Counter, Count("segment"), "TCP segments that it sent again; with observe tcp.", |c, p| {
        p.number(c.tier1.tcp.as_ref().map(|tcp| tcp.retransmits));
    }),
    counted("skiff_container_tcp_round_trip_seconds", "skiff.container.tcp.round_trip", Kind::Histogram, Seconds, "Smoothed round-trip times of TCP connections, at each acknowledgement; with observe tcp.", |c, p| {
        p.durations(&[], c.tier1.tcp.as_ref().map(|tcp| &tcp.rtt));
    }),
    counted("skiff_container_lost_events_total", "skiff.container.lost_events", Counter, Count("event"), "What could not be counted of it, by the programs that are pinned.", |c, p| {
        p.number(c.lost());
    }),
    daemon("skiff_build_info", "", Gauge, Count("daemon"), "1; its label is the version.", |_, p| {
        p.of(&[env!("CARGO_PKG_VERSION")], 1);
    })
    .labels(&["version"]),
    daemon("skiff_containers", "skiff.containers", Gauge, Count("container"), "Containers by what they are doing.", |d, p| {
        d.look.states.iter().for_each(|(state, count)| p.of(&[state.word()], *count));
    })
    .labels(&["state"]),
    daemon("skiff_launches_total", "skiff.launches", Counter, Count("launch"), "Launches, by outcome.", |d, p| {
        LAUNCHES.iter().zip(d.look.counts.launches).for_each(|(outcome, count)| p.of(&[outcome], count));
    })
    .labels(&["outcome"]),
    daemon("skiff_launch_duration_seconds", "skiff.launch.duration", Kind::Histogram, Seconds, "From the request to the program's execution, of launches that succeeded.", |d, p| {
        p.put(&[], Value::Histogram(d.look.counts.launch.clone()));
    }),
    daemon("skiff_container_ends_total", "skiff.container_ends", Counter, Count("container"), "Ends of containers: with exit code 0, with another, or by a signal.", |d, p| {
        ENDS.iter().zip(d.look.counts.ends).for_each(|(outcome, count)| p.of(&[outcome], count));
    })
    .labels(&["outcome"]),
    daemon("skiff_policy_restarts_total", "skiff.policy_restarts", Counter, Count("restart"), "Containers started again by their restart policy.", |d, p| {
        p.number(d.look.counts.restarts);
    }),
    daemon("skiff_ended_cpu_seconds_total", "skiff.ended.cpu.time", Counter, Seconds, "CPU time of containers that have ended.", |d, p| {
        p.ns_of(&["user"], d.look.counts.ended.cpu_user_ns);
        p.ns_of(&["system"], d.look.counts.ended.cpu_system_ns);
    })
    .labels(&["mode"]),
    daemon("skiff_ended_throttled_seconds_total", "skiff.ended.cpu.throttled_time", Counter, Seconds, "How long containers that have ended were held back by their CPU quota.", |d, p| {
        p.ns(d.look.counts.ended.throttled_ns);
    }),
    daemon("skiff_ended_block_bytes_total", "skiff.ended.disk.io", Counter, Bytes, "What containers that have ended read from block devices and wrote to them.", |d, p| {
        p.of(&["read"], d.look.counts.ended.block_read_bytes);
        p.of(&["write"], d.look.counts.ended.block_write_bytes);
    })
    .labels(&["operation"]),
    daemon("skiff_ended_major_faults_total", "skiff.ended.memory.major_faults", Counter, Count("fault"), "Page faults of containers that have ended that waited for I/O.", |d, p| {
        p.number(d.look.counts.ended.major_faults);
    }),
    daemon("skiff_ended_oom_kills_total", "skiff.ended.memory.oom_kills", Counter, Count("kill"), "Processes that the kernel has killed for want of memory in containers that have ended.", |d, p| {
        p.number(d.look.counts.ended.oom_kills);
    }),
    daemon("skiff_pool_containers", "skiff.pool.containers", Gauge, Count("container"), "Containers made ahead: ready, being made, and how many are to be kept.", |d, p| {
        let pools = &d.look.pools;
        for (state, count) in [("ready", pools.ready), ("making", pools.under_way), ("wanted", pools.target)] {
            p.of(&[state], count as u64);
        }
    })
    .labels(&["state"]),
    daemon("skiff_pool_requests_total", "skiff.pool.requests", Counter, Count("request"), "Launches that asked for a container made ahead: hit, there was one; miss, there was none.", |d, p| {
        p.of(&["hit"], d.look.pools.figures.hits);
        p.of(&["miss"], d.look.pools.figures.misses);
    })
    .labels(&["result"]),
    daemon("skiff_pool_wasted_total", "skiff.pool.wasted", Counter, Count("container"), "Containers made ahead and not used.", |d, p| {
        p.number(d.look.pools.figures.wasted);
    }),
    daemon("skiff_pool_memory_bytes", "skiff.pool.memory", Gauge, Bytes, "Memory of the containers made ahead: their share of what they have in common with others.", |d, p| {
        p.number(d.pool_memory_bytes);
    }),
    daemon("skiff_clients", "skiff.clients", Gauge, Count("client"), "Clients that are connected to the daemon.", |d, p| {
        p.number(d.look.clients as u64);
    }),
    daemon("skiff_spawner_replacements_total", "skiff.spawner.replacements", Counter, Count("spawner"), "Spawners that have gone and were replaced.", |d, p| {
        p.number(d.look.counts.spawners);
    }),
    daemon("skiff_spawner_resident_memory_bytes", "skiff.spawner.memory", Gauge, Bytes, "Memory of the spawner.", |d, p| {
        p.number(d.spawner.resident_bytes);
    }),
    daemon("skiff_spawner_cpu_seconds_total", "skiff.spawner.cpu.time", Counter, Seconds, "CPU time of the spawner.", |d, p| {
        p.real(d.spawner.cpu_s);
    }),
    daemon("process_cpu_seconds_total", "process.cpu.time", Counter, Seconds, "CPU time of the daemon.", |d, p| {
        p.real(d.own.cpu_s);
    }),
    daemon("process_resident_memory_bytes", "process.memory.usage", Gauge, Bytes, "Memory of the daemon.", |d, p| {
        p.number(d.own.resident_bytes);
    }),
    daemon("process_virtual_memory_bytes", "process.memory.virtual", Gauge, Bytes, "Address space of the daemon.", |d, p| {
        p.number(d.own.virtual_bytes);
    }),
    daemon("process_open_fds", "process.unix.file_descriptor.count", Gauge, Count("file_descriptor"), "Descriptors that the daemon has open.", |d, p| {
        p.number(d.descriptors);
    }),
    daemon("process_max_fds", "skiff.daemon.file_descriptor.limit", Gauge, Count("file_descriptor"), "Descriptors that the daemon may have.", |d, p| {
        p.number(d.descriptors_max);
    }),
    daemon("process_start_time_seconds", "", Gauge, Seconds, "When the daemon has started, since 1970.", |d, p| {
        p.ns(d.since_ns);
    }),
    daemon("skiff_observe_enabled", "skiff.observe.enabled", Gauge, Ratio, "1 for each kind of programs that is pinned.", |d, p| {
        d.observe.iter().flat_map(|observe| &observe.probes).for_each(|probe| p.of(&[probe], 1));
    })
    .labels(&["probe"]),
    daemon("skiff_observe_slots", "skiff.observe.slots", Gauge, Count("container"), "Containers that the programs that are pinned count, and how many they could.", |d, p| {
        p.of(&["taken"], d.observe.as_ref().map(|observe| observe.taken));
        p.of(&["all"], d.observe.as_ref().map(|observe| observe.slots));
    })
    .labels(&["state"]),
    daemon("skiff_observe_refused_containers_total", "skiff.observe.refused", Counter, Count("container"), "Containers that found no slot since programs were pinned; 4096 at most.", |d, p| {
        p.number(d.observe.as_ref().map(|observe| observe.refused));
    }),
    daemon("skiff_scrape_duration_seconds", "skiff.scrape.duration", Gauge, Seconds, "How long it took to read these figures.", |d, p| {
        p.ns(d.took_ns);
    }),
    daemon("skiff_scrape_cpu_seconds_total", "skiff.scrape.cpu.time", Counter, Seconds, "CPU time that these figures have cost so far: reading, writing and sending them.", |d, p| {
        p.ns(d.cost.cpu_ns);
    }),
    daemon("skiff_scrape_samples_total", "skiff.scrape.samples", Counter, Count("sample"), "How often figures were read. Of scrapes within 250 ms only one reads them.", |d, p| {
        p.number(d.cost.samples);
    }),
    daemon("skiff_scrapes_total", "skiff.scrapes", Counter, Count("request"), "Requests to the endpoint, by outcome.", |d, p| {
        p.of(&["answered"], d.cost.answered);
        p.of(&["refused"], d.cost.refused);
        p.of(&["failed"], d.cost.failed);
        p.of(&["evicted"], d.cost.evicted);
    })
    .labels(&["outcome"]),
    daemon("skiff_otlp_requests_total", "skiff.otlp.requests", Counter, Count("request"), "Requests of the exporter: sent; retried later; dropped, because the collector refused them or there was no room.", |d, p| {
        let cost = &d.cost;
        if cost.is_exporting {
            for (outcome, count) in [("sent", cost.sent), ("retried", cost.retried), ("dropped", cost.dropped)] {
                p.of(&[outcome], count);
            }
        }
    })
    .labels(&["outcome"]),
    daemon("skiff_otlp_rejected_points_total", "skiff.otlp.rejected_points", Counter, Count("point"), "Points that the collector has refused of what it took.", |d, p| {
        p.number(d.cost.is_exporting.then_some(d.cost.rejected));
    }),
    daemon("skiff_otlp_queue_bytes", "skiff.otlp.queue", Gauge, Bytes, "What waits for the collector.", |d, p| {
        p.number(d.cost.is_exporting.then_some(d.cost.queued_bytes));
    }),
];

#[cfg(test)]
mod tests;
