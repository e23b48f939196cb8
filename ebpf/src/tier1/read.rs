//! From the maps, as bytes, to what they tell.

use std::collections::BTreeMap;
use std::io;

use skiff_ebpf_abi::BUCKETS;
use skiff_ebpf_abi::net::Net;
use skiff_ebpf_abi::waits::{Blocks, Waits, column};
use skiff_sys::bpf::{Map, Store};

use super::{Block, Culprit, Histogram, RunQueue, Tcp, Tier1, Traffic};

/// Words of [`Times`](skiff_ebpf_abi::waits::Times).
const TIMES: usize = 1 + BUCKETS;

/// How often at most who was waited for and how long are read until both are of the same instant: a wait may end between the two, and
/// one of a task that is moved to another CPU is blamed before it is counted.
const READINGS: usize = 16;

/// The maps of the probes that are on.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) slots: u32,
    pub(crate) waits: Option<Map>,
    pub(crate) blame: Option<Map>,
    pub(crate) blocks: Option<Map>,
    pub(crate) net: Option<Map>,
    /// Which parts of `net` are counted: traffic, connections.
    pub(crate) sockets: [bool; 2],
}

impl Reader {
    /// What was counted in `slot`.
    pub(crate) fn read(&self, slot: u32) -> io::Result<Tier1> {
        let mut read = Tier1::default();
        if let (Some(waits), Some(blame)) = (&self.waits, &self.blame) {
            let row = self.slots + column::COUNT;
            for _ in 0..READINGS {
                let blame = words(&blame.range(slot * row, row)?);
                read.run_queue = run_queue(&element(waits, slot)?, &blame, self.slots);
                if read.run_queue.as_ref().is_none_or(adds_up) {
                    break;
                }
            }
        }
        if let Some(blocks) = &self.blocks {
            read.block = block(&element(blocks, slot)?);
        }
        if let Some(net) = &self.net {
            let net = element(net, slot)?;
            read.net = traffic(&net).filter(|_| self.sockets[0]);
            read.tcp = tcp(&net).filter(|_| self.sockets[1]);
        }
        Ok(read)
    }
}

impl Reader {
    /// Forgets what was counted of waiting in `slot` while no other had an owner, and lets it be another container's.
    pub(crate) fn empty(&self, slot: u32) -> io::Result<()> {
        let (Some(waits), Some(blame)) = (&self.waits, &self.blame) else { return Ok(()) };
        let mut value = element(waits, slot)?;
        let generation = value.first().copied().unwrap_or_default();
        value.fill(0);
        value.iter_mut().take(1).for_each(|first| *first = generation + 1);
        let bytes: Vec<u8> = value.iter().flat_map(|word| word.to_ne_bytes()).collect();
        waits.set(&slot.to_ne_bytes(), &bytes, Store::Any)?;
        let row = self.slots + column::COUNT;
        for at in slot * row..(slot + 1) * row {
            blame.set(&at.to_ne_bytes(), &[0; 8], Store::Any)?;
        }
        Ok(())
    }
}

fn element(map: &Map, slot: u32) -> io::Result<Vec<u64>> {
    let value = map.get(&slot.to_ne_bytes())?;
    Ok(words(&value.unwrap_or_default()))
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .filter_map(|word| word.first_chunk())
        .map(|word| u64::from_ne_bytes(*word))
        .collect()
}

fn run_queue(words: &[u64], blame: &[u64], slots: u32) -> Option<RunQueue> {
    let [_generation, lost] = *words.first_chunk::<2>()?;
    let times = |nth: usize| histogram(words.get(2 + nth * TIMES..)?);
    let mut sums = BTreeMap::<_, u64>::new();
    for (column, ns) in (0..).zip(blame).filter(|(_, ns)| **ns > 0) {
        *sums.entry(culprit(column, slots)).or_default() += ns;
    }
    let mut blame: Vec<_> = sums.into_iter().collect();
    blame.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    Some(RunQueue { wait: times(0)?, throttled: times(1)?, off_cpu: times(2)?, blame, lost })
}

/// Whether those who were waited for and the waits are of the same instant.
fn adds_up(of: &RunQueue) -> bool {
    of.blame.iter().map(|(_, ns)| ns).sum::<u64>() == of.wait.total_ns + of.throttled.total_ns
}

/// Who a column of the blame matrix is.
const fn culprit(column: u32, slots: u32) -> Culprit {
    match column.checked_sub(slots) {
        None => Culprit::Container(column),
        Some(column::HOST) => Culprit::Host,
        Some(column::KERNEL) => Culprit::Kernel,
        Some(column::NOBODY) => Culprit::Nobody,
        Some(column::QUOTA) => Culprit::Quota,
        Some(column::ENDED | column::MOVED) => Culprit::Ended,
        Some(_) => Culprit::Untold,
    }
}

fn block(words: &[u64]) -> Option<Block> {
    let [lost, _, read, written] = *words.first_chunk::<4>()?;
    let latency = [histogram(words.get(4..)?)?, histogram(words.get(4 + TIMES..)?)?];
    Some(Block { latency, bytes: [read, written], lost })
}

fn traffic(words: &[u64]) -> Option<Traffic> {
    let [received_bytes, sent_bytes, received_packets, sent_packets] = *words.first_chunk()?;
    Some(Traffic { received_bytes, received_packets, sent_bytes, sent_packets })
}

fn tcp(words: &[u64]) -> Option<Tcp> {
    let [connects, connected, accepts, retransmits] = *words.get(4..)?.first_chunk()?;
    Some(Tcp { connects, connected, accepts, retransmits, rtt: histogram(words.get(8..)?)? })
}

fn histogram(words: &[u64]) -> Option<Histogram> {
    let (total_ns, counts) = words.get(..TIMES)?.split_first()?;
    Some(Histogram::new(*total_ns, counts.to_vec()))
}

// What the functions above take apart.
const _: () = assert!(size_of::<Waits>() == 8 * (2 + 3 * TIMES));
const _: () = assert!(size_of::<Blocks>() == 8 * (4 + 2 * TIMES));
const _: () = assert!(size_of::<Net>() == 8 * (8 + TIMES));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_taken_apart_where_they_stand() {
        let words: Vec<u64> = (0..2 + 3 * TIMES as u64).collect();
        let read = run_queue(&words, &[0, 7, 0, 9, 1, 2, 3, 4, 10], 2).expect("all of it");
        assert_eq!((read.lost, read.wait.total_ns), (1, 2));
        assert_eq!(
            (read.throttled.total_ns, read.off_cpu.total_ns),
            (2 + TIMES as u64, 2 + 2 * TIMES as u64)
        );
        let expected = [
            (Culprit::Ended, 13),
            (Culprit::Kernel, 9),
            (Culprit::Container(1), 7),
            (Culprit::Untold, 4),
            (Culprit::Quota, 2),
            (Culprit::Nobody, 1),
        ];
        assert_eq!(read.blame, expected);
        assert_eq!(run_queue(&words[1..], &[], 2), None, "a map of another size");
        let read = block(&words).expect("all of it");
        assert_eq!((read.lost, read.bytes, read.latency[1].total_ns), (0, [2, 3], 4 + TIMES as u64));
        let read = traffic(&words).expect("all of it");
        let all = [read.received_bytes, read.sent_bytes, read.received_packets, read.sent_packets];
        assert_eq!(all, [0, 1, 2, 3]);
        let read = tcp(&words).expect("all of it");
        assert_eq!([read.connects, read.connected, read.accepts, read.retransmits], [4, 5, 6, 7]);
        assert_eq!(read.rtt.total_ns, 8);
    }
}
