//! Switches that the kernel tells nobody of.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::unistd::{execv, pipe, pipe2};
use skiff_sys::process::{self, Memory};

use super::*;
use crate::shared::{Cgroups, keep_on, leave_a_cpu, or_skip};

const SWITCH: &str = "sched_switch";

#[test]
fn a_task_that_came_untold_has_slept_before_its_program() {
    const SLEPT: Duration = Duration::from_millis(50);
    let (Some(mut profiler), Some(cgroups)) = (or_skip(Profiler::load()), Cgroups::new("profile-untold"))
    else {
        return;
    };
    let (cgroup, id) = cgroups.make("armed");
    let slot = profiler.arm(id, 0).expect("room for it");
    let there = leave_a_cpu();
    let (woken, wake) = pipe().expect("a pipe");
    let (answered, answer) = pipe().expect("a pipe");
    let (told, tell) = pipe2(OFlag::O_NONBLOCK).expect("a pipe");
    let [mut wake, mut answered, mut tell] = [wake, answered, tell].map(File::from);
    let body = |_: Memory| {
        // With copies of the links the programs would stay attached.
        let own = [&woken, &answer, &told].map(AsRawFd::as_raw_fd);
        process::close_others_in_child(&own).expect("the others");
        keep_on(there);
        let [mut woken, mut answer, mut told] =
            [&woken, &answer, &told].map(|pipe| File::from(pipe.try_clone().expect("a descriptor")));
        woken.read_exact(&mut [0]).and_then(|()| answer.write_all(b"a")).expect("an answer");
        // It keeps its CPU until its program.
        let end = Instant::now() + Duration::from_secs(10);
        while told.read_exact(&mut [0]).is_err() && Instant::now() < end {}
        u8::from(execv(c"/bin/true", &[c"true"]).is_err())
    };
    let child =
        process::spawn(CloneFlags::empty(), Some(cgroup.as_fd()), Memory::Copied, body).expect("a process");
    let stat = format!("/proc/{}/stat", child.pid);
    while !fs::read_to_string(&stat).expect("its state").contains(") S ") {
        thread::yield_now();
    }
    thread::sleep(SLEPT);

    profiler.loaded.detach(SWITCH);
    wake.write_all(b"w").and_then(|()| answered.read_exact(&mut [0])).expect("its answer");
    profiler.loaded.attach(SWITCH).expect("attach it again");
    tell.write_all(b"t").expect("tell it");
    process::reap(child.pidfd.as_fd(), true).expect("its end");
    let record = profiler.finish(slot).expect("what was counted");

    let slept_ns = record.init.off_cpu_ns.expect("the time that it slept");
    assert!(u128::from(slept_ns) >= SLEPT.as_nanos(), "{slept_ns} ns, and {:?} on a CPU", record.init.cpu_ns);
}
