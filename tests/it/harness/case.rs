//! One test's private world.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::command::Skiff;
use super::live::{Live, Output};
use super::{fixture, leak};
use crate::peers::world::eventually;

/// Directories for one test, and the guard that looks for leaks when it ends.
///
/// `dir` is free for the test's own files; `state` and `run` are skiff's `SKIFF_ROOT` and `SKIFF_RUN_ROOT`.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) dir: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
    /// Ids of containers, beyond those in the `cid.*` files.
    ids: RefCell<Vec<String>>,
    shared_state: bool,
    /// Whether commands go to a daemon of this world.
    daemon: bool,
    /// Whether `run` gets `--rm`.
    removes: bool,
    commands: AtomicUsize,
}

impl Case {
    /// A world with an empty store. Containers are run without a daemon, unless `SKIFF_TEST_DAEMON` is `on`.
    pub(crate) fn new() -> Self {
        Self::make(None, by_daemon())
    }

    /// A world whose store is shared by all tests, so that big images are unpacked once.
    pub(crate) fn with_shared_store() -> Self {
        // Two daemons cannot share a store.
        if by_daemon() { Self::new() } else { Self::make(Some(fixture::store()), false) }
    }

    /// A world with a daemon, which the first command starts and which ends with the test.
    pub(crate) fn with_daemon() -> Self {
        let mut case = Self::make(None, true);
        case.removes = false;
        case
    }

    fn make(store: Option<PathBuf>, daemon: bool) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        leak::check_at_exit();
        let dir = leak::base().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        let shared_state = store.is_some();
        let (state, run) = (store.unwrap_or_else(|| dir.join("state")), dir.join("run"));
        for made in [&state, &run, &dir.join("tmp")] {
            fs::create_dir_all(made).expect("a directory for the test");
        }
        Self {
            dir,
            state,
            run,
            ids: RefCell::default(),
            shared_state,
            daemon,
            removes: daemon,
            commands: AtomicUsize::new(0),
        }
    }

    /// `skiff ARGS…` in this world. A `run` gets a `--cidfile` unless it has one, so that the guard knows the id. Where
    /// [`Self::new`] has made the world, it gets `--rm`, too: without a daemon, a container is always removed.
    pub(crate) fn skiff<A: AsRef<str>>(&self, args: &[A]) -> Skiff {
        let mut args: Vec<String> = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        if args.first().is_some_and(|verb| verb == "run") && !args.iter().any(|arg| arg.contains("--cidfile"))
        {
            args.insert(1, format!("--cidfile={}", self.dir.join(format!("cid.{number}")).display()));
        }
        let restarts = args.iter().any(|arg| arg.starts_with("--restart"));
        if self.removes && !restarts && args.first().is_some_and(|verb| verb == "run") {
            args.insert(1, "--rm".into());
        }
        Skiff::new(args)
            .env("SKIFF_DAEMON", if self.daemon { "on" } else { "off" })
            .env("SKIFF_ROOT", &self.state)
            .env("SKIFF_RUN_ROOT", &self.run)
            .env("TMPDIR", self.dir.join("tmp"))
    }

    /// `skiff run --rm FLAGS… <small root> COMMAND…`, not yet started.
    pub(crate) fn command(&self, flags: &[&str], command: &[&str]) -> Skiff {
        let root = fixture::small_root();
        let args: Vec<&str> =
            ["run", "--rm"].iter().chain(flags).chain(&[root]).chain(command).copied().collect();
        self.skiff(&args)
    }

    /// The same, run to its end.
    pub(crate) fn run(&self, flags: &[&str], command: &[&str]) -> Output {
        self.command(flags, command).output()
    }

    /// What a process in a container with these flags sees, as `probe see` tells it.
    pub(crate) fn see(&self, flags: &[&str]) -> Value {
        parse(&self.run(flags, &["probe", "see"]).ok())
    }

    /// The verdicts of `probe try OPERATIONS…`, one per operation.
    pub(crate) fn attempt(&self, flags: &[&str], operations: &[&str]) -> Vec<String> {
        let command: Vec<&str> = ["probe", "try"].iter().chain(operations).copied().collect();
        self.run(flags, &command).ok().lines().map(str::to_owned).collect()
    }

    /// Starts a container with these flags and returns it when its process runs; the process waits for SIGTERM.
    pub(crate) fn waiting(&self, flags: &[&str]) -> Live {
        let mut live = self.command(flags, &["probe", "trap"]).start();
        live.until("ready");
        live
    }

    /// What the host's control group files say about a container with these flags, by file name.
    pub(crate) fn control_files(&self, flags: &[&str]) -> BTreeMap<String, String> {
        let live = self.waiting(flags);
        // By a daemon, the program may run before its id is written down.
        eventually(|| !self.all_ids().is_empty());
        let ids = self.all_ids();
        let groups = leak::groups(&ids);
        assert!(!groups.is_empty(), "no control group is named after {ids:?}");
        let files = groups.iter().flat_map(fs::read_dir).flatten().flatten();
        let read = |file: fs::DirEntry| {
            let text = fs::read_to_string(file.path()).ok()?;
            Some((file.file_name().to_string_lossy().into_owned(), text.trim_end().to_owned()))
        };
        let found = files.filter_map(read).collect();
        live.signal(Signal::SIGTERM);
        live.finish().ok();
        found
    }

    /// Writes a file into the test's directory and returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        fs::write(&path, text).expect("a file for the test");
        path.display().to_string()
    }

    /// Makes a directory in the test's directory and returns its path.
    pub(crate) fn subdir(&self, name: &str) -> String {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).expect("a directory for the test");
        path.display().to_string()
    }

    /// A copy of the small root that the test may spoil; returns its directory.
    pub(crate) fn own_root(&self) -> PathBuf {
        let root = self.dir.join("root");
        fixture::tool("cp", &["-a", &text(&fixture::small_root_dir()), &text(&root)]);
        root
    }

    /// `skiff run --rm FLAGS… rootfs:ROOT COMMAND…`, run to its end.
    pub(crate) fn run_root(&self, root: &Path, flags: &[&str], command: &[&str]) -> Output {
        let root = format!("rootfs:{}", root.display());
        let args: Vec<&str> =
            ["run", "--rm"].iter().chain(flags).chain(&[&root[..]]).chain(command).copied().collect();
        self.skiff(&args).output()
    }

    /// Remembers the containers that the run directory names now: their skiff may die before it has said its id.
    pub(crate) fn note_containers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.run.join("containers")).into_iter().flatten().flatten();
        let found: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        self.ids.borrow_mut().extend(found.iter().cloned());
        found
    }

    /// Everything this test's containers have left behind so far, one line each; empty when all is well.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let mut found = leak::of_containers(&self.all_ids());
        found.extend(leak::of_directory(&self.dir));
        found.extend(leak::files(&self.run, &self.dir.join("tmp")));
        match self.shared_state {
            true => found.extend(leak::layers(&self.state, &self.all_ids())),
            false => found.extend(leak::unfinished(&self.state)),
        }
        found
    }

    /// Removes all containers and ends the daemon, if one was started. What is left then has leaked.
    fn end_daemon(&self) {
        if !self.daemon || !self.run.join("skiff.sock").exists() {
            return;
        }
        let listed = self.skiff(&["ps", "-aq", "--no-trunc"]).output().stdout;
        let ids: Vec<&str> = listed.lines().collect();
        self.ids.borrow_mut().extend(ids.iter().map(|id| (*id).to_owned()));
        if !ids.is_empty() {
            let _reported = self.skiff(&[&["rm", "-f"], &ids[..]].concat()).output();
        }
        let _reported = self.skiff(&["daemon", "--stop"]).output();
    }

    fn all_ids(&self) -> Vec<String> {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let cids = files.filter(|file| file.file_name().to_string_lossy().starts_with("cid"));
        let mut ids: Vec<String> = cids.filter_map(|file| fs::read_to_string(file.path()).ok()).collect();
        ids.extend(self.ids.borrow().iter().cloned());
        ids.retain(|id| id.len() == 64);
        ids
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        self.end_daemon();
        // The daemon's own helper goes a moment after it.
        if self.daemon {
            eventually(|| self.leaks().is_empty());
        }
        let leaks = self.leaks();
        leak::remember(self.all_ids());
        if leak::mounts_below(&self.dir).is_empty() {
            // Only now: removing through a leaked bind mount would destroy what is behind it.
            let _best_effort = fs::remove_dir_all(&self.dir);
        }
        if std::thread::panicking() {
            leaks.iter().for_each(|leak| println!("also leaked: {leak}"));
        } else {
            assert!(leaks.is_empty(), "left behind:\n{}", leaks.join("\n"));
        }
    }
}

/// Whether tests that do not care run their containers by a daemon.
fn by_daemon() -> bool {
    std::env::var_os("SKIFF_TEST_DAEMON").is_some_and(|value| value == "on")
}

/// Parses what the probe printed.
pub(crate) fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
}

/// The path as text; the tests use no other kind.
pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}
