//! Runs a command in a cgroup of its own and prints which pages of which files it used: the recorder without a container.
//!
//! `record COMMAND [ARGUMENT…]`, as root, with cgroup2 at the path in `CGROUP2` (or its usual places).

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sched::CloneFlags;
use skiff_ebpf::Recorder;
use skiff_sys::process;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<CString> = std::env::args().skip(1).map(CString::new).collect::<Result<_, _>>()?;
    let program = arguments.first().ok_or("usage: record /PATH/COMMAND [ARGUMENT…]")?.clone();
    let begin = std::time::Instant::now();
    let mut recorder = Recorder::load()?;
    eprintln!("loaded in {:?}: {:?}", begin.elapsed(), recorder.accuracy());
    let given = std::env::var_os("CGROUP2").map(PathBuf::from);
    let usual = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let mut candidates = given.into_iter().chain(usual);
    let cgroup = candidates.find(|path| path.join("cgroup.procs").is_file()).ok_or("no cgroup2")?;
    let cgroup = cgroup.join(format!("record-{}", std::process::id()));
    fs::create_dir(&cgroup)?;
    let directory = File::open(&cgroup)?;
    let recording = recorder.arm(directory.metadata()?.ino())?;
    let child =
        process::spawn(CloneFlags::empty(), Some(directory.as_fd()), process::Memory::Copied, |_| {
            eprintln!("record: {}", process::exec(&program, &arguments, &[]));
            127
        })?;
    process::reap(child.pidfd.as_fd(), true)?;
    let (files, progress) = recorder.finish(recording)?;
    fs::remove_dir(&cgroup)?;
    println!("{progress:?}");
    for (file, used) in files {
        let pages: u64 = used.iter().map(|used| used.pages).sum();
        println!("{:#x} {}: {pages} pages in {} ranges", file.device, file.inode, used.len());
    }
    Ok(())
}
