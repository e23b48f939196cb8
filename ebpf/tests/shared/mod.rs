//! What the tests of programs at their bounds have in common.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::CpuSet;
use skiff_ebpf::Error;
use skiff_sys::schedule;

/// What `loaded` is; nothing where programs can't be loaded.
pub(crate) fn or_skip<T>(loaded: Result<T, Error>) -> Option<T> {
    match loaded {
        Ok(loaded) => Some(loaded),
        Err(error @ (Error::Privilege(_) | Error::NoTypes { .. }))
            if std::env::var_os("MUST_RUN").is_none() =>
        {
            eprintln!("skip: needs root and a kernel with BTF: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Keeps the calling thread on one CPU. Another, if there is any, which it leaves to those that it looks at.
#[allow(dead_code, reason = "not each of the tests that share this does")]
pub(crate) fn leave_a_cpu() -> usize {
    let own = schedule::cpus().expect("the own CPUs");
    let mut own = (0..CpuSet::count()).filter(|cpu| own.is_set(*cpu) == Ok(true));
    let here = own.next().expect("one that this runs on");
    keep_on(here);
    own.next_back().unwrap_or(here)
}

/// Keeps the calling thread on `cpu`.
#[allow(dead_code, reason = "not each of the tests that share this does")]
pub(crate) fn keep_on(cpu: usize) {
    schedule::cpu_set(&[cpu]).and_then(|cpus| schedule::set_cpus(&cpus)).expect("one CPU");
}

/// Cgroups of this test, until it is dropped.
pub(crate) struct Cgroups(PathBuf);

impl Cgroups {
    pub(crate) fn new(name: &str) -> Option<Self> {
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let mount = mounts.into_iter().find(|mount| mount.join("cgroup.procs").is_file())?;
        let path = mount.join(format!("skiff-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup");
        Some(Self(path))
    }

    /// Makes one; its directory and id.
    pub(crate) fn make(&self, name: &str) -> (File, u64) {
        let path = self.0.join(name);
        fs::create_dir(&path).expect("a cgroup");
        let directory = File::open(&path).expect("the cgroup");
        let id = directory.metadata().expect("its inode").ino();
        (directory, id)
    }

    /// Removes one.
    #[allow(dead_code, reason = "not each of the tests that share this does")]
    pub(crate) fn remove(&self, name: &str) {
        fs::remove_dir(self.0.join(name)).expect("remove a cgroup");
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(directory) {
        eprintln!("remove {}: {error}", directory.display());
    }
}
