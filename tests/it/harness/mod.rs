//! What every test stands on: a [`Case`] with directories of its own, [`Skiff`] commands with a time limit, fixtures
//! that are built once, and the search for leaks at the end of each case.

use std::time::Duration;

mod case;
mod command;
pub(crate) mod fixture;
pub(crate) mod hung;
pub(crate) mod layout;
pub(crate) mod leak;
pub(crate) mod live;
pub(crate) mod pty;
pub(crate) mod registry;
pub(crate) mod world;

pub(crate) use case::{Case, parse};
pub(crate) use command::Skiff;
pub(crate) use live::{Live, Output};

/// The programs under test and beside it.
pub(crate) mod programs {
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;

    /// The skiff binary: `$SKIFF`, else the best build in the target directory.
    pub(crate) fn skiff() -> &'static Path {
        static FOUND: OnceLock<PathBuf> = OnceLock::new();
        FOUND.get_or_init(|| find("SKIFF", "skiff"))
    }

    /// Whether there is a runtime to test.
    pub(crate) fn has_runtime() -> bool {
        std::env::var_os("RUNTIME").is_some() || built("skiff-runtime").is_some()
    }

    /// Where the path has this program.
    pub(crate) fn on_path(name: impl AsRef<Path>) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|dir| dir.join(&name)).find(|program| program.exists())
    }

    /// The static program that runs inside: `$SKIFF_PROBE`, else likewise.
    pub(crate) fn probe() -> &'static Path {
        static FOUND: OnceLock<PathBuf> = OnceLock::new();
        FOUND.get_or_init(|| find("SKIFF_PROBE", "skiff-probe"))
    }

    /// The OCI runtime under test: `$RUNTIME`, a path or the name of a program, else skiff's own.
    pub(crate) fn runtime() -> &'static Path {
        static FOUND: OnceLock<PathBuf> = OnceLock::new();
        FOUND.get_or_init(|| {
            let named = std::env::var_os("RUNTIME").filter(|name| !Path::new(name).exists());
            let Some(name) = named else { return find("RUNTIME", "skiff-runtime") };
            on_path(&name).unwrap_or_else(|| panic!("RUNTIME: no program {}", name.display()))
        })
    }

    /// The build directory of this repository.
    pub(crate) fn target_dir() -> PathBuf {
        let repository =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is below the repository");
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from)
    }

    fn find(variable: &str, name: &str) -> PathBuf {
        if let Some(path) = std::env::var_os(variable) {
            return PathBuf::from(path).canonicalize().unwrap_or_else(|e| panic!("{variable}: {e}"));
        }
        built(name).unwrap_or_else(|| panic!("{variable} is not set and no {name} is built"))
    }

    fn built(name: &str) -> Option<PathBuf> {
        // They are built for what this is built for.
        let library = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
        let triple = target_dir().join(format!("{}-unknown-linux-{library}", std::env::consts::ARCH));
        let builds = ["release", "fast", "debug"].map(|profile| triple.join(profile).join(name));
        builds.into_iter().find(|path| path.exists())
    }
}

/// How long a command may take: far beyond what a loaded machine needs.
pub(crate) fn time_limit() -> Duration {
    Duration::from_secs(60) * patience()
}

/// How many times slower than usual this machine is: 1, or what `SKIFF_TEST_PATIENCE` says of an emulated one.
pub(crate) fn patience() -> u32 {
    std::env::var("SKIFF_TEST_PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Ends the test early with `skip: needs …` when something it needs is missing. With `MUST_RUN=1` that is a failure.
macro_rules! need {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            crate::harness::skip(&format!($($what)+));
            return;
        }
    };
}
pub(crate) use need;

/// The other half of [`need!`].
pub(crate) fn skip(what: &str) {
    assert!(std::env::var_os("MUST_RUN").is_none_or(|v| v != "1"), "MUST_RUN=1, but this test needs {what}");
    println!("skip: needs {what}");
}

/// Whether `program` is on the path.
pub(crate) fn installed(program: &str) -> bool {
    programs::on_path(program).is_some()
}

/// Version and patch level of the running kernel.
pub(crate) fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("read the kernel's release");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether the host has this cgroup v1 controller mounted.
pub(crate) fn v1(controller: &str) -> bool {
    std::path::Path::new("/sys/fs/cgroup").join(controller).join("tasks").exists()
}
