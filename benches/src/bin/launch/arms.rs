//! The launchers that are compared.
//!
//! Every one runs the same static program of the same root file system, which tells when its first instruction was run.
//! Commands get the configuration of `runc spec` (new pid, net, ipc, uts, mount and cgroup namespaces, masks, read-only root,
//! three capabilities, no_new_privs); what is asked of the daemon directly, docker's complete default configuration, which
//! is more: a writable overlay, 14 capabilities, docker's masks.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use skiff_benches::lab::Lab;
use skiff_benches::watchdog;
use skiff_sys::clock::monotonic_ns;

use crate::Sample;
use crate::daemon::{Asked, Daemon};

/// A launcher under measurement.
#[derive(Debug)]
pub(crate) struct Arm<'a> {
    pub(crate) name: &'static str,
    pub(crate) how: How<'a>,
}

/// How it is asked.
#[derive(Debug)]
pub(crate) enum How<'a> {
    /// Over the socket, by this program.
    Request {
        daemon: &'a Daemon,
        /// Whether one that is parked may be taken.
        pool: bool,
    },
    /// By a command.
    Command(Words),
}

/// A command line.
#[derive(Debug)]
pub(crate) struct Words {
    /// Program and arguments; `{id}` stands for a name not used before.
    run: Vec<String>,
    /// What removes a container that a failed launcher left.
    delete: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
    stderr: PathBuf,
}

/// A launch that was asked for.
#[derive(Debug)]
pub(crate) enum Launch {
    Request(Box<Asked>),
    Command { child: Child, asked_ns: u64, id: usize },
}

/// The launchers, with or without docker's seccomp profile.
pub(crate) fn arms<'a>(lab: &Lab, daemon: &'a Daemon, seccomp: bool) -> Result<Vec<Arm<'a>>> {
    let text = |path: PathBuf| path.display().to_string();
    let bundle = text(lab.write_bundle(if seccomp { "bundle" } else { "plain" }, &["/bin/now"], seccomp)?);
    let (rootfs, state) = (text(lab.rootfs()), text(lab.state()));
    let scratch = lab.path("scratch");
    fs::create_dir_all(&scratch).context("make a directory for overlays")?;
    let scratch = text(scratch);
    let filter = if seccomp { text(lab.write_filter()?) } else { "-".to_owned() };
    let arm = |name, line: &str, delete: &str, roots: [PathBuf; 2], off: bool| {
        let [root, run_root] = roots;
        let mut environment = vec![("SKIFF_ROOT", root), ("SKIFF_RUN_ROOT", run_root)];
        environment.extend(off.then(|| ("SKIFF_DAEMON", "off".into())));
        let stderr = lab.path("stderr");
        Arm {
            name,
            how: How::Command(Words { run: words(line), delete: words(delete), environment, stderr }),
        }
    };
    let own = || [lab.path("alone"), lab.state().join("alone")];
    let shared = || [daemon.state.clone(), daemon.run.clone()];
    let plain = |name, line: &str| arm(name, line, "", own(), false);
    let oci = |name: &'static str| {
        let line = format!("{name} --root {state}/{name} run --bundle {bundle} {{id}}");
        arm(name, &line, &format!("{name} --root {state}/{name} delete --force {{id}}"), own(), false)
    };
    let unconfined = if seccomp { "" } else { "--security-opt seccomp=unconfined" };
    let (skiff, floor) = (text(lab.program("skiff")), text(lab.program("floor")));
    let run = |more: &str| {
        format!(
            "{skiff} run --rm {more} --read-only --network none --cap-drop ALL --cap-add KILL --cap-add NET_BIND_SERVICE \
             --cap-add AUDIT_WRITE --ulimit nofile=1024:1024 --security-opt no-new-privileges {unconfined} \
             rootfs:{rootfs} /bin/now"
        )
    };
    let mut all = vec![
        plain("fork+exec", &format!("{rootfs}/bin/now")),
        plain("floor", &format!("{floor} {rootfs} /bin/now {filter} {}", lab.cgroup2())),
        plain("writable floor", &format!("{floor} {rootfs}:{scratch} /bin/now {filter} {}", lab.cgroup2())),
    ];
    if seccomp {
        all.push(Arm { name: "request", how: How::Request { daemon, pool: true } });
        all.push(Arm { name: "request --pool 0", how: How::Request { daemon, pool: false } });
    }
    all.extend([
        arm("skiff", &run(""), "", shared(), false),
        arm("skiff --pool 0", &run("--pool 0"), "", shared(), false),
        arm("skiff alone", &run(""), "", own(), true),
        oci("crun"),
        oci("runc"),
        oci("youki"),
        plain("unshare", &format!("unshare --fork -p -n -i -u -m -C --root={rootfs} /bin/now")),
    ]);
    Ok(all)
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

impl Arm<'_> {
    /// Asks for a launch, and does not wait.
    pub(crate) fn ask(&self) -> Result<Launch> {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        match &self.how {
            How::Request { daemon, pool } => Ok(Launch::Request(Box::new(daemon.ask(*pool)?))),
            How::Command(words) => {
                let id = TURN.fetch_add(1, Ordering::Relaxed);
                let mut command = words.command(&words.run, id);
                command.stdout(Stdio::piped());
                command.stderr(File::create(&words.stderr).context("make a file for what goes wrong")?);
                let asked_ns = monotonic_ns();
                Ok(Launch::Command { child: watchdog::start(&mut command)?, asked_ns, id })
            }
        }
    }

    /// Waits for the end of a launch.
    pub(crate) fn wait(&self, launch: Launch) -> Result<Sample> {
        match (launch, &self.how) {
            (Launch::Request(mut asked), _) => {
                while !asked.advance()? {}
                asked.sample()
            }
            (Launch::Command { mut child, asked_ns, id }, How::Command(words)) => {
                let mut first = [0; 8];
                let read = child.stdout.as_mut().context("it has an output")?.read_exact(&mut first);
                let status = watchdog::wait(&mut child)?;
                let since = |ns: u64| ns.saturating_sub(asked_ns) as f64 / 1e3;
                let whole_us = since(monotonic_ns());
                if read.is_err() || !status.success() {
                    words.clean_up(self.name, id);
                    bail!("{status}: {}", first_line(&words.stderr));
                }
                let first_us = since(u64::from_ne_bytes(first));
                Ok(Sample { first_us, started_us: f64::NAN, whole_us })
            }
            (Launch::Command { .. }, How::Request { .. }) => bail!("a launch of another arm"),
        }
    }

    /// One launch.
    pub(crate) fn launch(&self) -> Result<Sample> {
        self.wait(self.ask()?)
    }
}

impl Words {
    fn command(&self, words: &[String], turn: usize) -> Command {
        let id = format!("bench-{}-{turn}", std::process::id());
        let mut words = words.iter().map(|word| word.replace("{id}", &id));
        let mut command = Command::new(words.next().unwrap_or_default());
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Removes what a failed launcher left, as far as it can itself.
    fn clean_up(&self, name: &str, id: usize) {
        if self.delete.is_empty() {
            return;
        }
        match watchdog::run(&mut self.command(&self.delete, id)) {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("{name}: remove its container: {status}"),
            // Not installed: there is no container either.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => eprintln!("{name}: remove its container: {error}"),
        }
    }
}

fn first_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().lines().next().unwrap_or("no message").to_owned()
}
