//! `cargo xtask bench`: builds skiff and the benchmarks as they are shipped, then runs one.
//!
//! The benchmarks themselves are in `benches/`; what is in `benches/benches/` is criterion's.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

pub(crate) const ARGUMENTS: &str = "launch|runtime|profile|observe|layers|pull|unpack|cold|soak|micro [-n COUNT] [--arms A,B,…] [--parts P,Q,…] [--save]";
pub(crate) const HELP: &str = "measures side by side with what else is installed (root):
                               launch   a whole run against crun, runc, youki, unshare and the bare system calls
                               runtime  run, create+start+delete and exec of skiff-runtime, crun, runc, youki and
                                        of those in $RUNTIME (paths, separated by commas)
                               profile  a system call traced by skiff, bpftrace, perf and strace
                               observe  what is always on, a switch between tasks, a packet, each program, a thousand containers, redis
                                        and nginx while skiff, bpftrace or perf look on (parts always, events, programs, room,
                                        throughput)
                               layers   mounting images of 1 to 100 layers, as directories and merged
                               pull     an image of 1 GB from a registry on loopback against skopeo with umoci, podman and
                                        docker (arms skiff, umoci, podman, docker)
                               unpack   a layer of 200 MB, plain and compressed, beside tar and bsdtar
                               cold     how long four programs take to be ready on a slow disk, with their images not in
                                        memory: without a profile, with one, with the whole image read ahead; and warm
                               soak     launches through the daemon while containers, clients, spawner and daemon are
                                        killed at random, and what that leaves behind
                                        ([--seed N] [--jobs N] [--kill-every N])
                               micro    criterion's: compiling filters, planning, unpacking (any user)";

/// Topics that are programs of `benches/`.
const PROGRAMS: &[&str] =
    &["launch", "runtime", "profile", "observe", "layers", "pull", "unpack", "cold", "soak"];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some((topic, rest)) = arguments.split_first() else {
        bail!("bench needs a topic: {ARGUMENTS}");
    };
    if topic == "micro" {
        return command::run(workspace::cargo().args(["bench", "--package", "skiff-benches"]).args(rest));
    }
    if !PROGRAMS.contains(&topic.as_str()) {
        bail!("bench has no topic {topic:?}: {ARGUMENTS}");
    }
    command::need_root("bench")?;
    let [skiff, _] = workspace::build_each(["skiff", "skiff-runtime"], "release")?;
    command::run(workspace::cargo().args(["build", "--release", "--bins", "--package", "skiff-benches"]))?;
    // In place of this program, so that nothing but the benchmark runs beside what it measures.
    let error = Command::new(skiff.with_file_name(topic)).args(rest).current_dir(workspace::root()).exec();
    Err(error).with_context(|| format!("start the benchmark {topic}"))
}
