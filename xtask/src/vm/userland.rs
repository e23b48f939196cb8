//! Small Debians with systemd, for the machines that boot it.
//!
//! Each is made once by debootstrap, in `target/vm/debian-bookworm-NAME/`, which appears by rename, so it is whole or
//! absent.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use crate::{command, workspace};

/// A system that systemd boots, and what is tested there.
#[derive(Debug)]
pub(crate) struct Userland {
    /// The machine's name.
    pub(crate) name: &'static str,
    /// Packages beyond those of the smallest system.
    packages: &'static str,
    /// What the tests need of the kernel that is not built in.
    pub(crate) modules: &'static [&'static str],
    /// The tests, by what their names contain; the other machines run the rest, and skip these.
    pub(crate) tests: &'static [&'static str],
    /// How many machines share its tests.
    pub(crate) shares: usize,
    /// How many times as long as other machines it may run, by itself.
    pub(crate) patience: u32,
}

impl Userland {
    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|userland| userland.name == name)
    }
}

static ALL: [Userland; 2] = [
    Userland {
        name: "systemd",
        packages: "--include=apparmor,criu,dbus,dbus-user-session,iproute2,iptables,libpam-systemd,systemd,systemd-sysv,uidmap",
        modules: CRIU,
        tests: &["systemd", "checkpoint"],
        shares: 1,
        patience: 1,
    },
    Userland {
        name: "engines",
        packages: "--include=apparmor,catatonit,conmon,containerd,crun,dbus,dbus-user-session,docker.io,iproute2,\
                   libpam-systemd,netavark,podman,procps,runc,systemd,systemd-sysv,uidmap",
        modules: &["overlay"],
        tests: &["peers::"],
        shares: 3,
        patience: 2,
    },
];

/// What criu asks the kernel for, of sockets and packet filters above all.
const CRIU: &[&str] = &[
    "overlay",
    "crc32c_generic",
    "tun",
    "unix_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "netlink_diag",
    "af_packet_diag",
    "nf_tables",
    "nf_conntrack_netlink",
    "nft_compat",
    "xt_mark",
    "veth",
];

const SUITE: &str = "bookworm";

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

const DIRECTORIES: [&str; 7] = ["/dev", "/proc", "/run", "/sys", "/var", "/var/lib", "/var/lib/dbus"];

/// An ordinary user with subordinate ids, beside whom the system knows.
const USER: [(&str, &str); 5] = [
    ("etc/passwd", "someone:x:1000:1000::/:/bin/sh\n"),
    ("etc/group", "someone:x:1000:\n"),
    ("etc/shadow", "someone:*:19000:0:99999:7:::\n"),
    ("etc/subuid", "someone:100000:65536\n"),
    ("etc/subgid", "someone:100000:65536\n"),
];

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

/// Says of a directory which packages it was made of, in its `/var`, which no machine gets.
const MADE_OF: &str = "var/packages";

/// Its directory, made if need be: if there is none, or one of other packages.
pub(crate) fn fetch(userland: &Userland) -> Result<PathBuf> {
    let place = workspace::scratch("vm")?.join(format!("debian-{SUITE}-{}", userland.name));
    if fs::read_to_string(place.join(MADE_OF)).is_ok_and(|packages| packages == userland.packages) {
        return Ok(place);
    }
    let partial = place.with_extension("partial");
    for old in [&place, &partial] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
        }
    }
    command::run(
        Command::new(command::need("debootstrap")?)
            .args(["--variant=minbase", userland.packages, SUITE])
            .arg(&partial),
    )?;
    fs::write(partial.join(MADE_OF), userland.packages).context("write down the packages")?;
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
    archive.shared_directory("/var/tmp");
    for (name, content) in FILES {
        archive.file(name, 0o644, content.as_bytes());
    }
    for (name, line) in USER {
        // What comes later in an archive replaces what came before.
        let known = fs::read_to_string(userland.join(name)).with_context(|| format!("read {name}"))?;
        archive.file(name, 0o644, (known + line).as_bytes());
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
