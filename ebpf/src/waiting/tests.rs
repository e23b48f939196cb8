//! Switches that the kernel tells nobody of.

use std::fs::File;
use std::io::{Read, Write};
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe, pipe2};
use skiff_ebpf_abi::waits::Waiter;
use skiff_sys::process::{self, Child, Memory};

use super::*;
use crate::shared::{Cgroups, keep_on, leave_a_cpu, or_skip};
use crate::tier1::{Culprit, RunQueue};

/// A counted process, which has the CPU only when it is told to, until this is dropped.
struct Counted {
    child: Child,
    go: File,
    answers: File,
    stop: File,
}

impl Counted {
    /// One in `cgroup`, kept on `cpu`.
    fn new(cgroup: &File, cpu: usize) -> Self {
        let (ready, go) = pipe().expect("a pipe");
        let (answers, answer) = pipe().expect("a pipe");
        let (stopped, stop) = pipe2(OFlag::O_NONBLOCK).expect("a pipe");
        let body = |_: Memory| {
            // With copies of the links the programs would stay attached.
            let own = [&ready, &answer, &stopped].map(AsRawFd::as_raw_fd);
            process::close_others_in_child(&own).expect("the others");
            let [mut ready, mut answer, mut stopped] =
                [&ready, &answer, &stopped].map(|pipe| File::from(pipe.try_clone().expect("a descriptor")));
            keep_on(cpu);
            let mut byte = [0];
            while answer.write_all(&byte).and_then(|()| ready.read_exact(&mut byte)).is_ok() {
                answer.write_all(&byte).expect("an answer");
                let end = Instant::now() + Duration::from_secs(10);
                while stopped.read_exact(&mut byte).is_err() && Instant::now() < end {}
            }
            0
        };
        let child = process::spawn(CloneFlags::empty(), Some(cgroup.as_fd()), Memory::Copied, body)
            .expect("a process");
        let mut counted = Self { child, go: go.into(), answers: answers.into(), stop: stop.into() };
        counted.answered();
        counted
    }

    /// Lets it run, until it does.
    fn run(&mut self) {
        self.go.write_all(b"g").expect("let it run");
        self.answered();
    }

    /// Has it go to sleep, from which only [`Counted::run`] wakes it.
    fn stop(&mut self) {
        self.stop.write_all(b"s").expect("let it sleep");
        self.answered();
    }

    fn answered(&mut self) {
        self.answers.read_exact(&mut [0]).expect("an answer");
    }

    /// When it was switched out to sleep, later than `since_ns`: waits until it is.
    fn sleeping(&self, waiting: &mut Waiting, since_ns: u64) -> u64 {
        let waiters = take(&mut waiting.object, "WAITERS").expect("the map");
        let key = self.child.pidfd.as_raw_fd().to_ne_bytes();
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let bytes = waiters.get(&key).expect("what is kept").expect("that it is counted");
            let asleep = &bytes[offset_of!(Waiter, asleep)..][..4];
            let out_ns = &bytes[offset_of!(Waiter, out_ns)..][..8];
            let out_ns = u64::from_ne_bytes(out_ns.try_into().expect("a word"));
            if asleep != [0; 4] && out_ns > since_ns {
                return out_ns;
            }
            assert!(Instant::now() < end, "out since {out_ns}");
            thread::yield_now();
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.child.pid), Signal::SIGKILL).expect("end it");
        process::reap(self.child.pidfd.as_fd(), true).expect("its end");
    }
}

fn read(waiting: &Waiting, slot: u32) -> RunQueue {
    waiting.read(slot).expect("the slot").run_queue.expect("the run queue")
}

fn blamed(counted: &RunQueue, culprit: Culprit) -> u64 {
    counted.blame.iter().filter(|(found, _)| *found == culprit).map(|(_, ns)| ns).sum()
}

/// Does `meanwhile` while the kernel tells of no switch.
fn untold(waiting: &mut Waiting, meanwhile: impl FnOnce()) {
    waiting.detach(SWITCH);
    meanwhile();
    let link = tracepoint(&mut waiting.object, SWITCH).expect("the program").attach().expect("a link");
    waiting.links.push((SWITCH, link));
}

#[test]
fn a_task_that_came_untold_has_slept_and_waited_and_is_waited_for() {
    const SLEPT: Duration = Duration::from_millis(20);
    let probes = Probes { run_queue: true, ..Probes::default() };
    let (Some(mut waiting), Some(cgroups)) =
        (or_skip(Waiting::load(2, probes)), Cgroups::new("waits-untold"))
    else {
        return;
    };
    let [(first, first_id), (second, second_id)] = ["first", "second"].map(|name| cgroups.make(name));
    waiting.arm(first_id, 0).expect("room for it");
    waiting.arm(second_id, 1).expect("room for it");
    let cpu = leave_a_cpu();
    let (mut first, mut second) = (Counted::new(&first, cpu), Counted::new(&second, cpu));
    let slept_ns = [&first, &second].map(|counted| counted.sleeping(&mut waiting, 0));
    let before = read(&waiting, 0);
    thread::sleep(SLEPT);
    untold(&mut waiting, || first.run());
    second.run();
    // Whoever sleeps has been switched out, and what is between was told.
    for (counted, slept_ns) in [&mut first, &mut second].into_iter().zip(slept_ns) {
        counted.stop();
        counted.sleeping(&mut waiting, slept_ns);
    }

    let [first, second] = [0, 1].map(|slot| read(&waiting, slot));
    let off_ns = first.off_cpu.total_ns - before.off_cpu.total_ns;
    assert!(u128::from(off_ns) >= SLEPT.as_nanos(), "{off_ns}");
    assert_eq!(first.off_cpu.count() - before.off_cpu.count(), 1);
    for counted in [&first, &second] {
        let blamed: u64 = counted.blame.iter().map(|(_, ns)| ns).sum();
        assert_eq!(blamed, counted.wait.total_ns + counted.throttled.total_ns);
    }
    assert!(blamed(&second, Culprit::Container(0)) > 0, "{:?}", second.blame);
}
