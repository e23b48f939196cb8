//! The first root file system of a machine: what vm-init needs, and nothing of the host.
//!
//! ```text
//! /init             tests/vm-init
//! /bin/{skiff,probe,busybox,sh}
//! /etc/{passwd,group,hosts,resolv.conf}
//! /modules/NN-NAME  kernel modules, in the order of loading
//! /rootfs/          a prepared root for `skiff run rootfs:/rootfs`, with the probe and busybox
//! ```

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::kernel::Module;
use crate::command;

/// The programs that go into the archive.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) init: Vec<u8>,
    pub(crate) skiff: Vec<u8>,
    pub(crate) probe: Vec<u8>,
    pub(crate) busybox: Vec<u8>,
}

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nsomeone:x:1000:1000::/:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nsomeone:x:1000:\n";
const HOSTS: &[u8] = b"127.0.0.1 localhost\n";

impl Programs {
    /// Reads the programs built here, and busybox from its package.
    pub(crate) fn read(init: &Path, skiff: &Path, probe: &Path) -> Result<Programs> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
        let busybox = command::need("busybox")?;
        Ok(Programs { init: read(init)?, skiff: read(skiff)?, probe: read(probe)?, busybox: read(&busybox)? })
    }
}

/// The archive as the kernel wants it.
pub(crate) fn build(programs: &Programs, modules: &[Module]) -> Vec<u8> {
    let mut archive = Archive::default();
    for directory in [
        "/bin", "/dev", "/etc", "/modules", "/new", "/proc", "/root", "/run", "/sys", "/tmp", "/var",
        "/var/lib",
    ] {
        archive.directory(directory);
    }
    // Without it the kernel starts init with no standard streams.
    archive.device("/dev/console", (5, 1));
    archive.file("/init", 0o755, &programs.init);
    archive.file("/bin/skiff", 0o755, &programs.skiff);
    archive.file("/etc/resolv.conf", 0o644, b"nameserver 127.0.0.1\n");
    shared(&mut archive, "", programs);
    archive.directory("/rootfs");
    for directory in ["/bin", "/dev", "/etc", "/proc", "/root", "/sys", "/tmp"] {
        archive.directory(&format!("/rootfs{directory}"));
    }
    shared(&mut archive, "/rootfs", programs);
    for (order, (name, content)) in modules.iter().enumerate() {
        archive.file(&format!("/modules/{order:02}-{name}"), 0o644, content);
    }
    archive.finish()
}

/// What both the machine itself and the prepared root below it have.
fn shared(archive: &mut Archive, root: &str, programs: &Programs) {
    archive.file(&format!("{root}/bin/probe"), 0o755, &programs.probe);
    archive.file(&format!("{root}/bin/busybox"), 0o755, &programs.busybox);
    for name in ["cat", "echo", "ls", "sh", "true"] {
        archive.symlink(&format!("{root}/bin/{name}"), "busybox");
    }
    archive.file(&format!("{root}/etc/passwd"), 0o644, PASSWD);
    archive.file(&format!("{root}/etc/group"), 0o644, GROUP);
    archive.file(&format!("{root}/etc/hosts"), 0o644, HOSTS);
}
