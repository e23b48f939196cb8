//! The first root file system of a machine: what vm-init needs, and nothing of the host.
//!
//! ```text
//! /init              tests/vm-init
//! /usr/bin/{skiff,probe,it,busybox}
//! /etc/{passwd,group,hostname,hosts,resolv.conf}
//! /modules/NN-NAME   kernel modules, in the order of loading
//! ```

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::kernel::Module;
use crate::command;

/// The programs that go into the archive.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) init: PathBuf,
    pub(crate) skiff: PathBuf,
    pub(crate) probe: PathBuf,
    /// The black-box suite.
    pub(crate) suite: PathBuf,
}

const DIRECTORIES: [&str; 13] = [
    "/dev", "/etc", "/modules", "/new", "/proc", "/root", "/run", "/sys", "/tmp", "/usr", "/usr/bin", "/var",
    "/var/lib",
];

const FILES: [(&str, &str); 5] = [
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nsomeone:x:1000:1000::/:/bin/sh\n"),
    ("/etc/group", "root:x:0:\nsomeone:x:1000:\n"),
    ("/etc/hostname", "vm\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n"),
    ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
];

/// The archive as the kernel wants it. Busybox comes from its package.
pub(crate) fn build(programs: &Programs, modules: &[Module]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory);
    }
    // Without it the kernel starts init with no standard streams.
    archive.device("/dev/console", (5, 1));
    let busybox = command::need("busybox")?;
    for (name, path) in [
        ("/init", &programs.init),
        ("/usr/bin/skiff", &programs.skiff),
        ("/usr/bin/probe", &programs.probe),
        ("/usr/bin/it", &programs.suite),
        ("/usr/bin/busybox", &busybox),
    ] {
        let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        archive.file(name, 0o755, &content);
    }
    for (name, content) in FILES {
        archive.file(name, 0o644, content.as_bytes());
    }
    for (order, (name, content)) in modules.iter().enumerate() {
        archive.file(&format!("/modules/{order:02}-{name}"), 0o644, content);
    }
    Ok(archive.finish())
}
