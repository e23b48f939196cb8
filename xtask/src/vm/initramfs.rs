//! The first root file system of a machine: what vm-init needs, and nothing of the host.
//!
//! ```text
//! /init              tests/vm-init
//! /usr/bin/{skiff,skiff-runtime,probe,it,busybox}
//! /etc/{passwd,group,hostname,hosts,resolv.conf}
//! /modules/NN-NAME   kernel modules, in the order of loading
//! /target/fixtures   images that the black-box ring has made with this probe, if it has run here
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::kernel::Module;
use super::userland;
use crate::{command, workspace};

/// The programs that go into the archive.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) init: PathBuf,
    pub(crate) skiff: PathBuf,
    pub(crate) runtime: PathBuf,
    pub(crate) probe: PathBuf,
    /// The black-box suite.
    pub(crate) suite: PathBuf,
}

const DIRECTORIES: [&str; 14] = [
    "/dev",
    "/etc",
    "/modules",
    "/new",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/target",
    "/target/fixtures",
    "/usr",
    "/usr/bin",
    "/var",
    "/var/lib",
];

const FILES: [(&str, &str); 5] = [
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nsomeone:x:1000:1000::/:/bin/sh\n"),
    ("/etc/group", "root:x:0:\nsomeone:x:1000:\n"),
    ("/etc/hostname", "vm\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n"),
    ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
];

/// The archive as the kernel wants it, with a `userland` of its own for a machine that has one. Busybox comes from its
/// package.
pub(crate) fn build(programs: &Programs, modules: &[Module], userland: Option<&Path>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    if let Some(userland) = userland {
        userland::add(&mut archive, userland)?;
    }
    for directory in DIRECTORIES {
        archive.directory(directory);
    }
    archive.shared_directory("/tmp");
    // Without it the kernel starts init with no standard streams.
    archive.device("/dev/console", (5, 1));
    let busybox = command::need("busybox")?;
    for (name, path) in [
        ("/init", &programs.init),
        ("/usr/bin/skiff", &programs.skiff),
        ("/usr/bin/skiff-runtime", &programs.runtime),
        ("/usr/bin/probe", &programs.probe),
        ("/usr/bin/it", &programs.suite),
        ("/usr/bin/busybox", &busybox),
    ] {
        let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        archive.file(name, 0o755, &content);
    }
    for (name, content) in FILES.iter().filter(|_| userland.is_none()) {
        archive.file(name, 0o644, content.as_bytes());
    }
    for (order, (name, content)) in modules.iter().enumerate() {
        archive.file(&format!("/modules/{order:02}-{name}"), 0o644, content);
    }
    for fixture in fixtures(&programs.probe)? {
        let name = fixture.file_name().unwrap_or_default().to_string_lossy();
        add(&mut archive, &fixture, &format!("/target/fixtures/{name}"))?;
    }
    Ok(archive.finish())
}

/// The images that were made with `probe`: their names contain the start of its digest.
///
/// The tools that make them are not in the machine. The root directory that the tests use is made there.
fn fixtures(probe: &Path) -> Result<Vec<PathBuf>> {
    let sum = command::capture(Command::new("sha256sum").arg(probe))?;
    let digest = sum.get(..12).with_context(|| format!("digest of {}", probe.display()))?;
    let mut found = Vec::new();
    for entry in fs::read_dir(workspace::scratch("fixtures")?).context("read target/fixtures")? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.contains(digest) && !name.ends_with(".lock") && !name.contains("root") {
            found.push(workspace::scratch("fixtures")?.join(name));
        }
    }
    Ok(found)
}

/// Adds a file, or a directory with everything in it.
fn add(archive: &mut Archive, from: &Path, to: &str) -> Result<()> {
    if !from.is_dir() {
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        archive.file(to, 0o644, &content);
        return Ok(());
    }
    archive.directory(to);
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        add(archive, &entry.path(), &format!("{to}/{}", entry.file_name().to_string_lossy()))?;
    }
    Ok(())
}
