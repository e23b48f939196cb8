//! `cargo xtask setup`: installs what the other verbs call.
//!
//! Packages come from the distribution (Debian and its kin), tools that it lacks from crates.io. What is there
//! already is left alone, so a second run is quick. No service is started, and no package is removed for another's sake:
//! a machine may have its own Docker.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{command, target, workspace};

pub(crate) const ARGUMENTS: &str = "[--check] [--with-deny] [--with-youki]";
pub(crate) const HELP: &str =
    "installs what tests and benches need, by apt and cargo (root); --check only lists it;
                               --with-… adds an optional tool that takes minutes to build";

/// Packages, by what needs them.
const PACKAGES: &[(&str, &[&str])] = &[
    ("building", &["gcc", "libc6-dev"]),
    ("eBPF programs", &["cargo-web", "llvm-22", "llvm-22-dev", "rust-web-src", "rustc-web"]),
    (
        "tests",
        &[
            "buildah",
            "busybox-static",
            "debootstrap",
            "docker-registry",
            "iproute2",
            "openssl",
            "prometheus",
            "python3",
            "skopeo",
            "strace",
            "uidmap",
            "umoci",
        ],
    ),
    (
        "tests with other programs",
        &["catatonit", "conmon", "containerd", "criu", "docker.io", "nginx", "podman", "redis-server"],
    ),
    ("benches", &["bpftrace", "crun", "hyperfine", "libarchive-tools", "linux-perf", "runc", "wrk"]),
    ("virtual machines", &["e2fsprogs", "qemu-system-x86", "xz-utils", "zstd"]),
];

/// Packages that others may stand in for, in particular Docker's own, which those conflict with; and the program by
/// which to tell.
const REPLACEABLE: &[(&str, &str)] =
    &[("containerd", "containerd"), ("docker.io", "dockerd"), ("runc", "runc")];

/// For rustfmt and clippy where Rust itself comes from the distribution; rustup brings its own.
const LINTERS: &[&str] = &["rust-web-clippy", "rustfmt-web"];

/// What youki is built with.
const YOUKI_PACKAGES: &[&str] = &["libseccomp-dev", "pkg-config"];

/// A tool that is built from crates.io.
struct Tool {
    name: &'static str,
    /// The option that asks for it; always wanted if empty.
    option: &'static str,
    environment: &'static [(&'static str, &'static str)],
    arguments: &'static [&'static str],
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "bpf-linker",
        option: "",
        environment: &[("LLVM_SYS_221_PREFIX", "/usr/lib/llvm-22"), ("LLVM_PREFIX", "/usr/lib/llvm-22")],
        arguments: &["--version", "0.13.0", "--locked", "--no-default-features", "--features", "llvm-22"],
    },
    Tool {
        name: "cargo-deny",
        option: "--with-deny",
        environment: &[],
        arguments: &["--version", "0.20.2", "--locked"],
    },
    Tool {
        name: "youki",
        option: "--with-youki",
        environment: &[],
        // Without v1 it does not start on hosts with v1 controllers.
        arguments: &["--version", "0.7.0", "--locked", "--features", "v1"],
    },
];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let asked = |option: &str| arguments.iter().any(|argument| argument == option);
    let known = |argument: &String| argument == "--check" || TOOLS.iter().any(|tool| tool.option == argument);
    if let Some(argument) = arguments.iter().find(|argument| !known(argument)) {
        bail!("setup: no option {argument:?}: {ARGUMENTS}");
    }
    let packages = missing_packages(&wanted_packages(asked("--with-youki")))?;
    let wanted = |tool: &&Tool| tool.option.is_empty() || asked(tool.option);
    let tools: Vec<&Tool> =
        TOOLS.iter().filter(wanted).filter(|tool| command::find(tool.name).is_none()).collect();
    if asked("--check") {
        return list(&packages, &tools);
    }
    install_packages(&packages)?;
    for tool in tools {
        let mut cargo = Command::new("cargo");
        cargo.envs(tool.environment.iter().copied()).args(["install", tool.name]).args(tool.arguments);
        // These run on this machine only; the flags of this workspace are for the program it ships.
        command::run(cargo.current_dir("/"))?;
    }
    target::prepare();
    println!("setup: everything is installed");
    Ok(())
}

fn wanted_packages(with_youki: bool) -> Vec<&'static str> {
    let mut wanted: Vec<&str> = PACKAGES.iter().flat_map(|(_, packages)| packages.iter().copied()).collect();
    let works = |verb: &str| {
        let probe =
            workspace::cargo().args([verb, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    if !works("fmt") || !works("clippy") {
        wanted.extend(LINTERS);
    }
    if with_youki {
        wanted.extend(YOUKI_PACKAGES);
    }
    wanted
}

fn missing_packages(wanted: &[&'static str]) -> Result<Vec<&'static str>> {
    if command::find("dpkg-query").is_none() {
        bail!("setup installs with apt, which is not here; install these by hand: {}", wanted.join(" "));
    }
    let mut query = Command::new("dpkg-query");
    query
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(wanted)
        .stderr(Stdio::null());
    // It fails when it does not know one of the names, and lists the others all the same.
    let output = query.output().context("start dpkg-query")?;
    let mut missing = without_installed(wanted, &String::from_utf8_lossy(&output.stdout));
    let is_replaced = |package: &str| {
        REPLACEABLE.iter().any(|(name, program)| *name == package && command::find(program).is_some())
    };
    missing.retain(|package| !is_replaced(package));
    Ok(missing)
}

/// Those of `wanted` that are not `NAME installed` in the listing.
fn without_installed<'a>(wanted: &[&'a str], listing: &str) -> Vec<&'a str> {
    let installed: Vec<&str> = listing.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    wanted.iter().filter(|name| !installed.contains(name)).copied().collect()
}

fn list(packages: &[&str], tools: &[&Tool]) -> Result<()> {
    if packages.is_empty() && tools.is_empty() {
        println!("setup: everything is installed");
        return Ok(());
    }
    for package in packages {
        let purpose =
            PACKAGES.iter().find(|(_, all)| all.contains(package)).map_or("building", |(purpose, _)| purpose);
        println!("missing package {package} (for {purpose})");
    }
    for tool in tools {
        println!("missing tool {} (cargo install)", tool.name);
    }
    bail!("{} packages and {} tools are missing: run 'cargo xtask setup'", packages.len(), tools.len());
}

fn install_packages(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    command::need_root("installing packages")?;
    let apt_get = || {
        let mut apt_get = Command::new("apt-get");
        apt_get.env("DEBIAN_FRONTEND", "noninteractive").args(["--quiet", "--yes"]);
        apt_get
    };
    command::run(apt_get().arg("update"))?;
    let _policy = Policy::set(Path::new("/usr/sbin/policy-rc.d"))?;
    command::run(apt_get().args(["install", "--no-install-recommends", "--no-remove"]).args(packages))
}

/// What keeps packages from starting their services: Debian's scripts ask this program first, and 101 means no. It
/// speaks only for as long as this process lives, in case it stays behind.
struct Policy<'a>(&'a Path);

impl<'a> Policy<'a> {
    /// Writes it; `None` if the machine has a policy of its own.
    fn set(path: &'a Path) -> Result<Option<Self>> {
        if path.exists() {
            return Ok(None);
        }
        let setup = std::process::id();
        let script = format!("#!/bin/sh\n# cargo xtask setup\n[ ! -e /proc/{setup} ] || exit 101\n");
        let policy = Self(path);
        fs::write(path, script).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", path.display()))?;
        Ok(Some(policy))
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(self.0) {
            eprintln!("setup: remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_counts_only_when_it_is_installed() {
        let listing = "runc installed\ncrun config-files\nstrace not-installed\n";
        assert_eq!(
            without_installed(&["runc", "crun", "strace", "umoci"], listing),
            ["crun", "strace", "umoci"]
        );
    }

    #[test]
    fn services_stay_stopped_while_setup_runs() {
        let path = std::env::temp_dir().join(format!("skiff-policy-{}", std::process::id()));
        let policy = Policy::set(&path).unwrap();
        assert!(policy.is_some() && Policy::set(&path).unwrap().is_none());
        assert_eq!(Command::new(&path).status().unwrap().code(), Some(101));
        drop(policy);
        assert!(!path.exists());
    }

    #[test]
    fn no_package_stands_in_the_table_twice() {
        let mut all: Vec<&str> = PACKAGES.iter().flat_map(|(_, packages)| packages.iter().copied()).collect();
        all.extend(LINTERS);
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
