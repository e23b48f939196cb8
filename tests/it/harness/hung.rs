//! A file system that never answers, as one on a network whose server is gone.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Whoever looks into its directory waits until this is dropped, or is killed.
#[derive(Debug)]
pub(crate) struct Hung {
    path: PathBuf,
    /// While this is open, the kernel waits for somebody to read and answer. fuse(4).
    _server: File,
}

impl Hung {
    /// Mounts it on `path`, which is made; `None` where there is no FUSE.
    pub(crate) fn mount(path: &Path) -> Option<Self> {
        let server = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        fs::create_dir_all(path).expect("a directory");
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        mount(Some("hung"), path, Some("fuse"), MsFlags::empty(), Some(data.as_str())).ok()?;
        Some(Self { path: path.to_owned(), _server: server })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let gone = umount2(&self.path, MntFlags::MNT_DETACH);
        assert!(gone.is_ok() || std::thread::panicking(), "unmount {}: {gone:?}", self.path.display());
    }
}

/// A file system that hands on what is mounted in it to those that have it bound as a slave.
#[derive(Debug)]
pub(crate) struct Shared(PathBuf);

impl Shared {
    /// Mounts it on `path`, which is made.
    pub(crate) fn mount(path: &Path) -> Self {
        fs::create_dir_all(path).expect("a directory");
        mount(Some("shared"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mount");
        let made = Self(path.to_owned());
        mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).expect("share");
        made
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let gone = umount2(&self.0, MntFlags::MNT_DETACH);
        assert!(gone.is_ok() || std::thread::panicking(), "unmount {}: {gone:?}", self.0.display());
    }
}
