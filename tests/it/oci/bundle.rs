//! A bundle on disk, and the container that a runtime makes of it.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde_json::Value;

use super::stream::{Stream, await_input};
use super::{config, hosting};
use crate::harness::live::{Live, Output, pidfd, try_pidfd};
use crate::harness::{fixture, leak, parse, patience, programs};

/// A directory with `config.json` and `rootfs`, and one container that is, or will be, made of it.
///
/// The container's standard output is a pipe that the test reads; its standard error, and the runtime's own while it
/// makes the container, is the file `stderr` in the directory.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) dir: PathBuf,
    /// The id of the container, which is also the name of its control groups.
    pub(crate) id: String,
    pub(crate) config: Value,
    out: RefCell<Option<Stream>>,
    /// A command that takes the runtime and its arguments as its last arguments.
    through: Vec<String>,
    /// Flags of the runtime itself.
    global: Vec<String>,
    /// Whether what is written has to be a configuration in the eyes of `oci_spec`.
    valid: bool,
}

impl Bundle {
    /// A bundle with the usual configuration.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        leak::check_at_exit();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Padded, so that none is part of another.
        let id = format!("oci-{}-{number:04}", std::process::id());
        let dir = leak::base().join(format!("oci-{number}"));
        fs::create_dir_all(dir.join("state")).expect("a directory for the bundle");
        let (from, to) = (fixture::small_root_dir(), dir.join("rootfs"));
        fixture::tool("cp", &["-a", &from.display().to_string(), &to.display().to_string()]);
        let config = config::usual(&id);
        Self {
            dir,
            id,
            config,
            out: RefCell::default(),
            through: Vec::new(),
            global: Vec::new(),
            valid: true,
        }
    }

    /// The same with these settings: place and value.
    pub(crate) fn with<const N: usize>(settings: [(&str, Value); N]) -> Self {
        let mut bundle = Self::new();
        for (pointer, value) in settings {
            bundle.set(pointer, value);
        }
        bundle
    }

    /// Puts `value` at `pointer` in the configuration; see [`config::place`].
    pub(crate) fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        config::place(&mut self.config, pointer, value);
        self
    }

    /// Sets a field of the configuration's `root`.
    pub(crate) fn set_root(&mut self, field: &str, value: impl Into<Value>) -> &mut Self {
        self.config["root"][field] = value.into();
        self
    }

    /// Starts the runtime through another command.
    pub(crate) fn through(mut self, words: &[String]) -> Self {
        self.through = words.to_vec();
        self
    }

    /// Gives the runtime these flags before any command.
    pub(crate) fn global(mut self, flags: &[&str]) -> Self {
        self.global = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self
    }

    /// Sets the program and its arguments.
    pub(crate) fn args(&mut self, args: &[&str]) -> &mut Self {
        self.set("/process/args", args.into())
    }

    /// Adds a mount after the usual ones.
    pub(crate) fn mount(&mut self, mount: Value) -> &mut Self {
        self.set("/mounts/-", mount)
    }

    /// Gives the process these capabilities beyond the usual ones, in all sets but the ambient.
    pub(crate) fn capable(&mut self, names: &[&str]) -> &mut Self {
        for set in ["bounding", "effective", "permitted"] {
            for name in names {
                self.set(&format!("/process/capabilities/{set}/-"), (*name).into());
            }
        }
        self
    }

    /// Removes the namespace of this kind, so that the container shares the runtime's.
    pub(crate) fn share(&mut self, kind: &str) -> &mut Self {
        let list = self.config["linux"]["namespaces"].as_array_mut().expect("a list of namespaces");
        list.retain(|entry| entry["type"] != kind);
        self
    }

    /// Says that the configuration is wrong on purpose, so that it is not checked before it is written.
    pub(crate) fn wrong(&mut self) -> &mut Self {
        self.valid = false;
        self
    }

    /// A path in the container's root directory, as the host sees it.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        self.dir.join("rootfs").join(path.trim_start_matches('/'))
    }

    /// Writes a file into the bundle's directory, with directories on the way; its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().expect("below the bundle")).expect("a directory for the test");
        fs::write(&path, text).expect("a file for the test");
        path
    }

    /// Makes a directory in the bundle's directory; its path.
    pub(crate) fn subdir(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).expect("a directory for the test");
        path
    }

    /// `runtime --root … ARGS`, not yet started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let runtime = programs::runtime().as_os_str();
        let mut words = self.through.iter().map(OsStr::new).chain([runtime]);
        let mut command = Command::new(words.next().unwrap_or(runtime));
        command
            .args(words)
            .arg("--root")
            .arg(self.dir.join("state"))
            .args(&self.global)
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// `runtime --root … ARGS`, run to its end.
    pub(crate) fn runtime(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Live::spawn(command, None, limit()).finish()
    }

    /// Writes the configuration and creates the container; its output can be read afterwards.
    pub(crate) fn try_create(&self, flags: &[&str]) -> Output {
        self.write();
        self.try_create_written(flags)
    }

    /// The same with the `config.json` that is there.
    pub(crate) fn try_create_written(&self, flags: &[&str]) -> Output {
        let bundle = self.dir.display().to_string();
        let words = [&["create", "--bundle", &bundle][..], flags, &[&self.id]].concat();
        let (stream, out) = Stream::pipe();
        *self.out.borrow_mut() = Some(stream);
        let mut output = self.launch(&words, out);
        output.stderr = fs::read_to_string(self.dir.join("stderr")).unwrap_or_default();
        output
    }

    /// Runs a command whose standard output the container inherits.
    fn launch(&self, words: &[&str], out: OwnedFd) -> Output {
        let mut command = self.command(words);
        let errors = OpenOptions::new().append(true).create(true).open(self.dir.join("stderr"));
        command.stdout(out).stderr(errors.expect("a file for standard error"));
        Live::spawn(command, None, limit()).finish()
    }

    /// Writes `config.json`.
    pub(crate) fn write(&self) {
        if self.valid {
            let parsed = serde_json::from_value::<oci_spec::runtime::Spec>(self.config.clone());
            parsed.unwrap_or_else(|e| panic!("a test writes a wrong configuration: {e}"));
        }
        fs::write(self.dir.join("config.json"), format!("{:#}", self.config)).expect("write config.json");
    }

    /// Creates the container.
    #[track_caller]
    pub(crate) fn create(&self) -> &Self {
        succeeds(&self.try_create(&[]));
        self
    }

    /// Starts the container's program.
    #[track_caller]
    pub(crate) fn start(&self) -> &Self {
        succeeds(&self.runtime(&["start", &self.id]));
        self
    }

    /// Sends the container's process a signal.
    #[track_caller]
    pub(crate) fn kill(&self, signal: &str) {
        succeeds(&self.runtime(&["kill", &self.id, signal]));
    }

    /// Deletes the container.
    #[track_caller]
    pub(crate) fn delete(&self) {
        succeeds(&self.runtime(&["delete", &self.id]));
    }

    /// The container's state.
    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        parse(&succeeds(&self.runtime(&["state", &self.id])))
    }

    /// The state's `status`.
    #[track_caller]
    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap_or_default().to_owned()
    }

    /// The container's process, as the host numbers it.
    #[track_caller]
    pub(crate) fn pid(&self) -> i32 {
        let pid = self.state()["pid"].as_i64().expect("the state has a pid");
        i32::try_from(pid).expect("a pid fits")
    }

    /// The next line that the container prints.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.out.borrow_mut().as_mut().expect("a container has been created").line()
    }

    /// What the container prints up to its end.
    #[track_caller]
    pub(crate) fn rest(&self) -> String {
        self.out.borrow_mut().as_mut().expect("a container has been created").rest()
    }

    /// What the container, and the runtime while it made it, has written to standard error.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
    }

    /// Waits until the process with this number has ended.
    #[track_caller]
    pub(crate) fn wait(&self, pid: i32) {
        await_exit(pid);
    }

    /// The whole life: create, start, wait for the end, delete. What the container printed.
    #[track_caller]
    pub(crate) fn run(&self) -> String {
        let pid = self.create().pid();
        self.start();
        let text = self.rest();
        self.wait(pid);
        self.delete();
        text
    }

    /// Creates and starts a program that prints `ready` and then waits; its process.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self, args: &[&str]) -> i32 {
        let pid = self.args(args).create().pid();
        self.start();
        assert_eq!(self.line(), "ready", "{}", self.errors());
        pid
    }

    /// Kills the container's process, waits for its end, and deletes the container.
    #[track_caller]
    pub(crate) fn end(&self) {
        let pid = self.pid();
        self.kill("KILL");
        self.wait(pid);
        self.delete();
    }

    /// What a program in the container sees.
    #[track_caller]
    pub(crate) fn see(&mut self) -> Value {
        let text = self.args(&["/bin/probe", "see"]).run();
        assert!(!text.is_empty(), "the program printed nothing: {}", self.errors());
        parse(&text)
    }

    /// The verdicts of `probe try OPERATIONS…`, one per operation.
    #[track_caller]
    pub(crate) fn attempt(&mut self, operations: &[&str]) -> Vec<String> {
        let text = self.args(&[&["/bin/probe", "try"], operations].concat()).run();
        assert!(!text.is_empty(), "the program printed nothing: {}", self.errors());
        text.lines().map(str::to_owned).collect()
    }

    /// Asserts that no container can be made of this configuration, that the runtime says so, and that none is there
    /// afterwards.
    #[track_caller]
    pub(crate) fn create_fails(&self) {
        fails(&self.try_create(&[]));
        fails(&self.runtime(&["state", &self.id]));
    }

    /// Asserts that it fails at the latest when it is started: for what concerns the process, a runtime may choose.
    #[track_caller]
    pub(crate) fn never_runs(&self) {
        if self.try_create(&[]).code == 0 {
            fails(&self.runtime(&["start", &self.id]));
            assert_eq!(self.rest(), "", "the program ran");
            let _cleared = self.runtime(&["delete", "--force", &self.id]);
        }
    }

    fn clear(&self) {
        let mut delete = self.command(&["delete", "--force", &self.id]);
        let Ok(mut child) = delete.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else { return };
        let exit = pidfd(Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)));
        if !await_input(&exit, Instant::now() + limit()) {
            let _gone = child.kill();
        }
        let _reaped = child.wait();
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.clear();
        // A process that has been killed needs a moment to be gone from /proc and from its group.
        let deadline = Instant::now() + Duration::from_secs(2);
        let ids = [self.id.clone()];
        let search = || {
            leak::of_containers(&ids)
                .into_iter()
                .chain(leak::of_mounting_directory(&self.dir))
                .collect::<Vec<_>>()
        };
        let mut leaks = search();
        while !leaks.is_empty()
            && leaks.iter().all(|leak| leak.starts_with("process"))
            && Instant::now() < deadline
        {
            std::thread::yield_now();
            leaks = search();
        }
        hosting::sweep(&self.id, &self.dir);
        if leak::mounts_below(&self.dir).is_empty() {
            let _best_effort = fs::remove_dir_all(&self.dir);
        }
        if std::thread::panicking() {
            leaks.iter().for_each(|leak| println!("also left behind: {leak}"));
        } else {
            assert!(leaks.is_empty(), "left behind:\n{}", leaks.join("\n"));
        }
    }
}

/// Asserts that the command generated no error; its standard output.
#[track_caller]
pub(crate) fn succeeds(output: &Output) -> String {
    assert!(output.code == 0, "failed: {output}");
    output.stdout.clone()
}

/// Asserts that the command generated an error, and was not killed.
#[track_caller]
pub(crate) fn fails(output: &Output) {
    assert!(output.code > 0, "no error: {output}");
}

/// Waits until a process has ended, be it a child of this one or not.
#[track_caller]
pub(crate) fn await_exit(pid: i32) {
    // Without one it has gone already.
    if let Some(process) = try_pidfd(Pid::from_raw(pid)) {
        assert!(await_input(process, Instant::now() + limit()), "process {pid} does not end");
    }
}

/// Whether the process with this number has ended.
pub(crate) fn has_ended(pid: i32) -> bool {
    try_pidfd(Pid::from_raw(pid)).is_none_or(|process| await_input(process, Instant::now()))
}

/// How long one command of a runtime may take.
fn limit() -> Duration {
    Duration::from_secs(30) * patience()
}
