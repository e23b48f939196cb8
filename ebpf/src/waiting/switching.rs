//! What a switch between tasks costs on this machine, measured on two threads of this process before there is a container.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use aya::sys::{Stats, enable_stats};
use skiff_ebpf_abi::waits::Waiter;
use skiff_sys::{process, schedule};

use super::{SWITCH, Waiting, take};
use crate::Error;
use crate::tier1::SwitchCost;

const ROUNDS: usize = 15;
const EXCHANGES: usize = 200;

impl Waiting {
    /// What the program at `sched_switch` takes: measured on two threads of this process that wake each other on one CPU, once as
    /// tasks like any other, once with the main thread counted, in slot 0, which is emptied again. `None` if the run queue is not
    /// observed, the kernel does not time programs (Linux < 5.8), or from any but the main thread.
    pub fn calibrate(&mut self) -> Result<Option<SwitchCost>, Error> {
        let failed = |cause: &io::Error| Error::refused("measure a switch", cause);
        if self.reader.blame.is_none() {
            return Ok(None);
        }
        let Ok(_timed) = enable_stats(Stats::RunTime) else { return Ok(None) };
        let waiters = take(&mut self.object, "WAITERS")?;
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        let this = process::open_pidfd(pid).map_err(|cause| failed(&cause))?;
        let others = self.together()?;
        let key = this.as_fd().as_raw_fd().to_ne_bytes();
        // Of any thread but the main one there is no descriptor.
        if waiters.set(&key, &[0; size_of::<Waiter>()], skiff_sys::bpf::Store::Any).is_err() {
            return Ok(None);
        }
        let counted = self.together();
        waiters.remove(&key).and_then(|_| self.reader.empty(0)).map_err(|cause| failed(&cause))?;
        let counted = counted?;
        Ok(counted.zip(others).map(|(counted_ns, others_ns)| SwitchCost { counted_ns, others_ns }))
    }

    /// The middle of some rounds' means, ns, on one CPU; others' switches on other CPUs are among them.
    fn together(&mut self) -> Result<Option<u64>, Error> {
        let before = schedule::keep_on_this_cpu();
        let means = self.rounds();
        if let Ok(before) = before {
            schedule::set_cpus(&before).map_err(|cause| Error::refused("leave a CPU", &cause))?;
        }
        let mut means = means?;
        means.sort_unstable();
        Ok(means.get(means.len() / 2).copied())
    }

    fn rounds(&mut self) -> Result<Vec<u64>, Error> {
        let ((to, from), (back_to, back_from)) = (channel(), channel());
        let peer = thread::spawn(move || exchange(&back_to, &from));
        let mut means = Vec::new();
        for _ in 0..ROUNDS {
            let before = self.switches()?;
            for _ in 0..EXCHANGES {
                if to.send(()).is_err() || back_from.recv().is_err() {
                    break;
                }
            }
            let after = self.switches()?;
            let (runs, ns) = (after.0 - before.0, after.1 - before.1);
            means.extend(ns.checked_div(runs));
        }
        drop(to);
        drop(peer.join());
        Ok(means)
    }

    fn switches(&mut self) -> Result<(u64, u64), Error> {
        let found = self.runs()?.into_iter().find(|(name, ..)| name == SWITCH);
        Ok(found.map_or((0, 0), |(_, runs, ns)| (runs, ns)))
    }
}

fn exchange(to: &Sender<()>, from: &Receiver<()>) {
    while from.recv().is_ok() && to.send(()).is_ok() {}
}
