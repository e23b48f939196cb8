//! Runs a command in a cgroup of its own and prints what it did to the kernel: the profiler without a container.
//!
//! `arm [--execs-before N] COMMAND [ARGUMENT…]`, as root, with cgroup2 at the path in `CGROUP2` (or its usual places).

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sched::CloneFlags;
use skiff_ebpf::{Phase, Profiler, Record};
use skiff_sys::process;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() {
    if let Err(error) = run() {
        eprintln!("arm: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let mut arguments: Vec<CString> = std::env::args_os()
        .skip(1)
        .map(|argument| CString::new(argument.into_vec()))
        .collect::<std::result::Result<_, _>>()?;
    let mut execs_before = 0;
    if arguments.first().is_some_and(|first| first.as_bytes() == b"--execs-before") {
        execs_before = arguments.get(1).ok_or("--execs-before needs a number")?.to_str()?.parse()?;
        arguments.drain(..2);
    }
    let program = find(arguments.first().ok_or("usage: arm [--execs-before N] COMMAND [ARGUMENT…]")?)?;
    let mut profiler = Profiler::load()?;
    let cgroup = cgroup2()?.join(format!("arm-{}", std::process::id()));
    fs::create_dir(&cgroup)?;
    let record = record(&mut profiler, &cgroup, execs_before, &program, &arguments);
    print(&record?);
    Ok(fs::remove_dir(&cgroup)?)
}

fn record(
    profiler: &mut Profiler,
    cgroup: &PathBuf,
    execs_before: u32,
    program: &CString,
    arguments: &[CString],
) -> Result<Record> {
    let directory = File::open(cgroup)?;
    let slot = profiler.arm(directory.metadata()?.ino(), execs_before)?;
    let environment: Vec<CString> = std::env::vars_os()
        .filter_map(|(name, value)| CString::new([name.into_vec(), value.into_vec()].join(&b'=')).ok())
        .collect();
    let child =
        process::spawn(CloneFlags::empty(), Some(directory.as_fd()), process::Memory::Copied, |_| {
            eprintln!("arm: {}", process::exec(program, arguments, &environment));
            127
        })?;
    process::reap(child.pidfd.as_fd(), true)?;
    Ok(profiler.finish(slot)?)
}

fn find(name: &CString) -> Result<CString> {
    if name.as_bytes().contains(&b'/') {
        return Ok(name.clone());
    }
    let path = std::env::var("PATH")?;
    let mut candidates =
        path.split(':').map(|directory| PathBuf::from(directory).join(name.to_str().unwrap_or("")));
    let found = candidates.find(|candidate| candidate.is_file()).ok_or("no such command")?;
    Ok(CString::new(found.into_os_string().into_vec())?)
}

fn cgroup2() -> Result<PathBuf> {
    let given = std::env::var_os("CGROUP2").map(PathBuf::from);
    let usual = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let mut candidates = given.into_iter().chain(usual);
    Ok(candidates.find(|path| path.join("cgroup.procs").is_file()).ok_or("no cgroup2: name it in CGROUP2")?)
}

fn print(record: &Record) {
    for (name, phase) in [("init", &record.init), ("workload", &record.workload)] {
        println!("{name}:");
        for call in &phase.syscalls {
            println!(
                "  {:20} {:>9} calls {:>12} ns  p50 {:>9} p99 {:>9} max {:>9}  returned {} refused {} unreturned {}  {:?}",
                call.name,
                call.count,
                call.total_ns,
                call.p50_ns,
                call.p99_ns,
                call.max_ns,
                call.returned,
                call.refused,
                call.unreturned,
                call.errors
            );
        }
        println!("  {:?}", Phase { syscalls: Vec::new(), ..phase.clone() });
    }
    println!("{:?}", Record { init: Phase::default(), workload: Phase::default(), ..record.clone() });
}
