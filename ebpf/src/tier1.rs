//! What the probes that can be left on tell of a container: how it waited, for whom, and what its sockets did.

mod read;

use std::fmt;

use skiff_ebpf_abi::{BUCKETS, bucket, bucket_lower, bucket_middle};

pub(crate) use read::Reader;

/// What can be switched on, each on its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Probes {
    /// System calls, and what the kernel keeps per task ([`Record`](crate::Record)).
    pub syscalls: bool,
    /// Waiting for a CPU, sleeping, and who was waited for.
    pub run_queue: bool,
    /// The time that block devices take.
    pub block: bool,
    /// Bytes and packets of sockets.
    pub net: bool,
    /// Connections, retransmits and round trips.
    pub tcp: bool,
}

impl Probes {
    /// Their names, in the order of the fields and of the bits.
    pub const NAMES: [&str; 5] = ["syscalls", "run-queue", "block", "net", "tcp"];

    /// Those that are named in `list`, separated by commas; the word that is none of them as an error.
    pub fn parse(list: &str) -> Result<Self, &str> {
        let mut bits = 0;
        for word in list.split(',') {
            let bit = Self::NAMES.iter().position(|name| *name == word).ok_or(word)?;
            bits |= 1 << bit;
        }
        Ok(Self::of_bits(bits))
    }

    /// The names of those that are on.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let on = self.all().into_iter().zip(Self::NAMES);
        on.filter_map(|(on, name)| on.then_some(name)).collect()
    }

    /// As bits, in the order of the fields.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.all().into_iter().enumerate().map(|(bit, on)| u64::from(on) << bit).sum()
    }

    /// The reverse of [`Probes::bits`].
    #[must_use]
    pub const fn of_bits(bits: u64) -> Self {
        Self {
            syscalls: bits & 1 != 0,
            run_queue: bits & 2 != 0,
            block: bits & 4 != 0,
            net: bits & 8 != 0,
            tcp: bits & 16 != 0,
        }
    }

    const fn all(self) -> [bool; 5] {
        [self.syscalls, self.run_queue, self.block, self.net, self.tcp]
    }
}

/// What was counted of a container; `None` where the probe is off or this kernel does not give the figure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tier1 {
    /// How its tasks waited for a CPU, and slept.
    pub run_queue: Option<RunQueue>,
    /// What block devices did for it.
    pub block: Option<Block>,
    /// The traffic of its sockets.
    pub net: Option<Traffic>,
    /// Its TCP connections.
    pub tcp: Option<Tcp>,
}

/// What the program at a switch between tasks takes, ns, in the mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwitchCost {
    /// Where one of the two is counted.
    pub counted_ns: u64,
    /// Where neither is.
    pub others_ns: u64,
}

/// What the probes beside that of system calls cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier1Cost {
    /// What a switch between tasks takes longer; `None` if it was not measured, or the run queue is not observed.
    pub switch: Option<SwitchCost>,
    /// Kernel memory of the maps for waiting and block devices, in bytes.
    pub waits_bytes: u64,
    /// … for sockets.
    pub net_bytes: u64,
}

/// How the tasks of a container waited. Waits count when they end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunQueue {
    /// Runnable, without a CPU; without the time of being throttled.
    pub wait: Histogram,
    /// Runnable, but the quota of the container or of a cgroup in it or above it was used up. Part of no other figure.
    pub throttled: Histogram,
    /// Asleep or blocked.
    pub off_cpu: Histogram,
    /// Who had the CPU while its tasks were runnable, the longest first: ns. Sums up to `wait` and `throttled`.
    pub blame: Vec<(Culprit, u64)>,
    /// Tasks that could not be counted.
    pub lost: u64,
}

/// For whom a container waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Culprit {
    /// Tasks of the container in this slot, which may be the one that waits.
    Container(u32),
    /// Tasks of the host, and of containers that are not counted.
    Host,
    /// Threads of the kernel.
    Kernel,
    /// Nobody: the CPU was idle and had to be woken.
    Nobody,
    /// Its own CPU quota.
    Quota,
    /// Containers that have ended.
    Ended,
    /// Somebody who ran too long ago to be remembered.
    Untold,
}

/// What block devices did for a container: requests that have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// From the hand-over to the block layer to the end of the request, by direction: reads, writes.
    pub latency: [Histogram; 2],
    /// Bytes read and written.
    pub bytes: [u64; 2],
    /// Requests that could not be timed.
    pub lost: u64,
}

/// What the sockets of a container received and sent, in IP packets with their headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
}

/// The TCP connections of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Connections that it began.
    pub connects: u64,
    /// Those of them that were established.
    pub connected: u64,
    /// Connections that others began and that were established.
    pub accepts: u64,
    /// Segments that it sent again.
    pub retransmits: u64,
    /// The smoothed round-trip time, as each acknowledgement left it.
    pub rtt: Histogram,
}

/// Durations, ns, in buckets that are at most 1/16 of their lower bound wide.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    /// Their sum.
    pub total_ns: u64,
    counts: Vec<u64>,
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let buckets = self.buckets().map(|(from, to, count)| (from..to, count));
        write!(f, "{} ns ", self.total_ns)?;
        f.debug_map().entries(buckets).finish()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { total_ns: 0, counts: vec![0; BUCKETS] }
    }
}

impl Histogram {
    /// Of the counts of each [`skiff_ebpf_abi::bucket`].
    #[must_use]
    pub fn new(total_ns: u64, counts: Vec<u64>) -> Self {
        Self { total_ns, counts }
    }

    /// Of these durations.
    #[must_use]
    pub fn of(durations_ns: impl Iterator<Item = u64>) -> Self {
        let mut histogram = Self::default();
        for ns in durations_ns {
            histogram.total_ns += ns;
            if let Some(count) = histogram.counts.get_mut(bucket(ns)) {
                *count += 1;
            }
        }
        histogram
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their mean, ns; 0 of none.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        self.total_ns.checked_div(self.count()).unwrap_or(0)
    }

    /// The least duration that `percent` of all do not exceed, ns (± 3.2 %); 0 of none.
    #[must_use]
    pub fn percentile_ns(&self, percent: u64) -> u64 {
        let rank = u128::from(self.count()) * u128::from(percent);
        let mut seen = 0_u128;
        let bucket = self.counts.iter().position(|count| {
            seen += u128::from(*count);
            seen > 0 && seen * 100 >= rank
        });
        bucket.map_or(0, bucket_middle)
    }

    /// The buckets that are not empty, shortest first: from (included), to (excluded), both ns, and how many. The last
    /// bucket of all has no end.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let counts = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counts.map(|(bucket, count)| (bucket_lower(bucket), bucket_lower(bucket + 1), *count))
    }

    /// How many are shorter than `ns`; exact for powers of two, else those of the bucket that `ns` is in are left out.
    #[must_use]
    pub fn below(&self, ns: u64) -> u64 {
        self.buckets().take_while(|(_, to, _)| *to <= ns).map(|(.., count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[u64]) -> Histogram {
        Histogram::of(values.iter().copied())
    }

    #[test]
    fn probes_are_named_and_counted() {
        let both = Probes { run_queue: true, tcp: true, ..Probes::default() };
        assert_eq!(Probes::parse("tcp,run-queue"), Ok(both));
        assert_eq!(both.names(), ["run-queue", "tcp"]);
        assert_eq!(Probes::of_bits(both.bits()), both);
        assert_eq!(Probes::parse("net,"), Err(""));
        assert_eq!(Probes::parse("net,cpu"), Err("cpu"));
        for bit in 0..5 {
            assert_eq!(Probes::of_bits(1 << bit).names(), [Probes::NAMES[bit]]);
        }
    }

    #[test]
    fn percentiles_are_of_the_bucket_that_reaches_them() {
        let all = of(&[1, 2, 3, 1_000_000]);
        assert_eq!(
            [all.count(), all.mean_ns(), all.percentile_ns(50), all.percentile_ns(75)],
            [4, 250_001, 2, 3]
        );
        assert!(all.percentile_ns(99).abs_diff(1_000_000) < 32_000);
        assert_eq!([of(&[]).percentile_ns(50), of(&[]).count(), of(&[]).mean_ns()], [0; 3]);
        assert_eq!(of(&[7, 9]).percentile_ns(0), 7);
    }

    #[test]
    fn buckets_have_bounds() {
        let all = of(&[5, 5, 1024, 5000]);
        let buckets: Vec<_> = all.buckets().collect();
        assert_eq!(buckets, [(5, 6, 2), (1024, 1088, 1), (4864, 5120, 1)]);
        assert_eq!(
            [all.below(5), all.below(8), all.below(1024), all.below(2048), all.below(1 << 40)],
            [0, 2, 2, 3, 4]
        );
    }
}
