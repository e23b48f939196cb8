//! A small Debian with systemd and criu, for the machine that boots it.
//!
//! Made once by debootstrap, in `target/vm/debian-bookworm-criu/`, which appears by rename, so it is whole or absent.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use crate::{command, workspace};

const SUITE: &str = "bookworm";
const PACKAGES: &str = "--include=criu,dbus,iproute2,iptables,systemd,systemd-sysv";

/// What a running machine has of its own, and what nobody reads there.
const LEFT_OUT: [&str; 17] = [
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr/lib/python3",
    "usr/lib/python3.11",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/share/bash-completion",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/python3",
    "usr/share/zoneinfo",
    "var",
];

const DIRECTORIES: [&str; 8] = ["/dev", "/proc", "/run", "/sys", "/tmp", "/var", "/var/lib", "/var/lib/dbus"];

/// The target that the machine boots into: the checks, with a message bus beside them.
const FILES: [(&str, &str); 3] = [
    // A machine that has an identity is not set up for the first time.
    ("/etc/machine-id", "5d1c0ffee5d1c0ffee5d1c0ffee5d1c0\n"),
    ("/etc/systemd/system/checks.target", "[Unit]\nRequires=checks.service\nAllowIsolate=yes\n"),
    (
        "/etc/systemd/system/checks.service",
        "[Unit]\nDefaultDependencies=no\nWants=dbus.service\nAfter=dbus.service\n\
         [Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/init\n\
         StandardOutput=file:/dev/console\nStandardError=inherit\n",
    ),
];

/// The directory, made if need be.
pub(crate) fn fetch() -> Result<PathBuf> {
    let place = workspace::scratch("vm")?.join(format!("debian-{SUITE}-criu"));
    if place.is_dir() {
        return Ok(place);
    }
    let partial = place.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
    }
    command::run(
        Command::new(command::need("debootstrap")?)
            .args(["--variant=minbase", PACKAGES, SUITE])
            .arg(&partial),
    )?;
    fs::rename(&partial, &place)
        .with_context(|| format!("rename {} to {}", partial.display(), place.display()))?;
    Ok(place)
}

/// Adds it to an archive.
pub(crate) fn add(archive: &mut Archive, userland: &Path) -> Result<()> {
    for entry in read(userland)? {
        add_below(archive, userland, &entry)?;
    }
    for directory in DIRECTORIES {
        archive.directory(directory);
    }
    for (name, content) in FILES {
        archive.file(name, 0o644, content.as_bytes());
    }
    Ok(())
}

fn read(directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("read {}", directory.display());
    let entries = fs::read_dir(directory).with_context(context)?;
    entries.map(|entry| Ok(entry.with_context(context)?.path())).collect()
}

fn add_below(archive: &mut Archive, userland: &Path, path: &Path) -> Result<()> {
    let name = path.strip_prefix(userland)?;
    if LEFT_OUT.iter().any(|left_out| name == Path::new(left_out)) {
        return Ok(());
    }
    let place = name.to_string_lossy();
    let metadata = path.symlink_metadata().with_context(|| format!("stat {}", path.display()))?;
    if metadata.is_dir() {
        archive.directory(&place);
        return read(path)?.iter().try_for_each(|entry| add_below(archive, userland, entry));
    }
    if metadata.is_symlink() {
        let to = fs::read_link(path).with_context(|| format!("read link {}", path.display()))?;
        archive.symlink(&place, &to.to_string_lossy());
    } else if metadata.is_file() {
        let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        archive.file(&place, metadata.permissions().mode() & 0o7777, &content);
    }
    Ok(())
}
