//! `create`, `start` and `run`: from a bundle to a container whose program runs.
//!
//! What is on record grows with what there is: the id is claimed, the cgroups are noted, then the process; so whoever is
//! left behind by a runtime that is killed can be found again, and removed by `delete --force`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::fcntl::FdFlag;
use nix::libc;
use skiff_runtime::container::{self, Claim, Container, Init, Record};
use skiff_runtime::launch::{self, Attendance, Exit, Gate, Running};
use skiff_runtime::observe::{self, Counted};
use skiff_runtime::oci::spec::{self, Spec, Status};
use skiff_runtime::oci::{self, Bundle, Facts, Terms};
use skiff_runtime::plan::Hooks;
use skiff_runtime::supervise::{self, Aside, Caller, Signals};
use skiff_runtime::{Plan, cgroup, hooks, plan, rdt, seal};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::process::{self, descriptor_flags};
use skiff_sys::terminal;

use crate::args::{Args, CgroupManager, Global, Launch};
use crate::failure::{Context, Failure};
use crate::notify::{self, Heard, Listener, Manager};
use crate::pidfd_socket::{self, Socket};
use crate::root::root;
use crate::{config, lifecycle, pid_file, time};

/// `create CONTAINER`.
pub(crate) fn create(global: &Global, args: &Args) -> Result<u8, Failure> {
    let mut making = Making::begin(global, args)?;
    check_terminal(&making.plan.process, &args.launch, true)?;
    let pidfd_socket = Socket::connect(args.launch.pidfd_socket.as_deref())?;
    let gate = Gate::make(making.claim.directory())?;
    let running = making.launch(args.launch.console_socket.as_deref(), Some(&gate))?;
    pidfd_socket.send(running.pidfd(), pidfd_socket::FIRST)?;
    pid_file::write(args.launch.pid_file.as_deref(), running.pid())?;
    making.claim.keep(making.record)?;
    running.release();
    Ok(0)
}

/// `start CONTAINER`.
pub(crate) fn start(global: &Global, args: &Args) -> Result<u8, Failure> {
    let mut container = Container::open(&root(global), args.id())?;
    let lock = container.lock()?.ok_or_else(|| container::does_not_exist(args.id()))?;
    // In runc's words, but for one that it does not know.
    match container.status()? {
        Status::Created => {}
        Status::Stopped => return Err(Failure::new("cannot start a container that has stopped")),
        Status::Paused => return Err(Failure::new("cannot start a container in the paused state")),
        Status::Creating => return Err(Failure::new("cannot start a container that is not created")),
        Status::Running => return Err(Failure::new("cannot start an already running container")),
    }
    let manager = Manager::of_caller().filter(|_| container.record().has_notify);
    let listener = listen(manager.as_ref(), container.directory())?;
    // Before it may end.
    let process = listener.as_ref().map(|_| container.process()).transpose()?.flatten();
    launch::open_gate(container.directory())?;
    container.started()?;
    tracing::debug!("started");
    drop(lock);
    if container.record().has_poststart {
        let pid = container.record().init.map(|init| init.pid);
        let run = config::hooks(&container).map_err(Failure::from).and_then(|hooks| poststart(&hooks, pid));
        // A hook that fails stops the container.
        run.or_else(|failure| lifecycle::end(&container).and(Err(failure)))?;
    }
    if let (Some(listener), Some(process)) = (listener, process) {
        listener.wait(process.pidfd.as_fd(), process.pid);
    }
    Ok(0)
}

/// `run CONTAINER`.
pub(crate) fn run(global: &Global, args: &Args) -> Result<u8, Failure> {
    let mut making = Making::begin(global, args)?;
    let flags = &args.launch;
    check_terminal(&making.plan.process, flags, flags.detach)?;
    fit_terminal(&mut making.plan.process, flags.detach);
    let signals =
        if flags.detach { None } else { Some(Signals::block().context(|| "block signals".into())?) };
    let pidfd_socket = Socket::connect(flags.pidfd_socket.as_deref())?;
    let listener = listen(making.manager.as_ref(), making.claim.directory())?;
    let running = making.launch(flags.console_socket.as_deref(), None)?;
    pidfd_socket.send(running.pidfd(), pidfd_socket::FIRST)?;
    pid_file::write(flags.pid_file.as_deref(), running.pid())?;
    let Making { plan, claim, record, .. } = making;
    let container = claim.keep(record)?;
    if let Err(failure) = poststart(&plan.hooks, Some(running.pid())) {
        return remove(container, running, &plan).and(Err(failure));
    }
    match signals {
        None => {
            if let Some(listener) = listener {
                listener.wait(running.pidfd(), running.pid());
            }
            running.release();
            Ok(0)
        }
        Some(signals) => attend(container, running, &plan, (&signals, listener.as_ref()), flags.keep),
    }
}

/// Listens for whoever wants to know when the program of the container in `directory` is ready.
fn listen(manager: Option<&Manager>, directory: &Path) -> Result<Option<Listener>, Failure> {
    manager.map_or(Ok(None), |manager| Listener::bind(manager, directory))
}

/// Stays with the container until it ends, and removes it unless it is to be kept.
fn attend(
    container: Container,
    mut running: Running,
    plan: &Plan,
    (signals, listener): (&Signals, Option<&Listener>),
    keep: bool,
) -> Result<u8, Failure> {
    let exit = stand_by(&mut running, signals, listener)?;
    if keep {
        running.release();
    } else {
        remove(container, running, plan)?;
    }
    Ok(exit_code(exit))
}

/// Ends the container, if it has not, and removes it, unless somebody else has.
fn remove(mut container: Container, running: Running, plan: &Plan) -> Result<(), Failure> {
    let Some(lock) = container.lock()? else {
        // Its cgroups went with it; those of that name are another container's by now.
        running.release();
        return Ok(());
    };
    let cgroup = running.cgroup_id();
    running.remove()?;
    observe::released(cgroup);
    leave_rdt(container.record());
    container.forget(lock)?;
    poststop(&plan.hooks);
    Ok(())
}

pub(crate) fn stand_by(
    running: &mut Running,
    signals: &Signals,
    listener: Option<&Listener>,
) -> Result<Exit, Failure> {
    let stood = supervise(running.pidfd(), running.console(), signals, listener);
    stood.and_then(|()| running.wait()).context(|| "stand by the container".into())
}

/// Passes signals on to the process behind `pidfd`, and carries its terminal, until it has ended.
pub(crate) fn supervise(
    pidfd: BorrowedFd<'_>,
    console: Option<BorrowedFd<'_>>,
    signals: &Signals,
    listener: Option<&Listener>,
) -> io::Result<()> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let caller =
        Caller { signals, stdin: stdin.as_fd(), stdout: stdout.as_fd(), detach_keys: b"", deputy: None };
    let terms = supervise::Terms {
        sig_proxy: true,
        interactive: true,
        stop_signal: libc::SIGTERM,
        stop_timeout: None,
        timeout: None,
    };
    // Whoever reports to the manager is the main process as long as it stays.
    let ready = || listener.is_some_and(|listener| listener.hear(std::process::id()) == Heard::Nothing);
    let aside = listener.map(|listener| Aside { fd: listener.as_fd(), ready: &ready });
    supervise::stand_by_with(pidfd, console, caller, &terms, aside).map(drop)
}

/// The program's own code, or 128 + n if signal n killed it.
pub(crate) fn exit_code(exit: Exit) -> u8 {
    let code = match exit {
        Exit::Code(code) => code & 0xff,
        Exit::Signal(signal) => 128 + signal,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Tells of a process that has been made, and when each part of that was over.
pub(crate) fn tell_of(running: &Running) {
    let stamps = running.stamps();
    let us = |ns: u64| ns.saturating_sub(stamps.start) / 1000;
    tracing::debug!(
        pid = running.pid(),
        rootfs_us = us(stamps.rootfs_done),
        cgroup_us = us(stamps.cgroup_done),
        child_us = us(stamps.child),
        mounts_us = us(stamps.mounts_done),
        security_us = us(stamps.security_done),
        exec_us = us(stamps.exec_seen),
        "launched"
    );
}

/// Tells of what was asked for and is left out.
pub(crate) fn tell(process: &plan::Process) {
    for warning in &process.warnings {
        tracing::warn!("{warning}");
    }
}

/// Puts process `pid` into the container's resctrl group, which is as good as none if that fails: it leaves no trace then.
pub(crate) fn enter_rdt(record: &mut Record, pid: i32) -> Result<(), skiff_runtime::Error> {
    let entered = record.rdt.as_ref().map_or(Ok(()), |group| group.enter(Path::new(rdt::ROOT), pid));
    if entered.is_err() {
        record.rdt = None;
    }
    entered
}

/// Removes the container's resctrl group, once nothing is in it.
pub(crate) fn leave_rdt(record: &Record) {
    let Some(group) = &record.rdt else { return };
    let root = Path::new(rdt::ROOT);
    let removed = if record.init.is_some() { group.remove(root) } else { group.remove_unused(root) };
    if let Err(error) = removed {
        tracing::warn!("{error}");
    }
}

/// Runs the hooks of a container whose program runs, as `pid`.
fn poststart(hooks: &Hooks, pid: Option<i32>) -> Result<(), Failure> {
    let state = hooks::state(&hooks.subject, Status::Running, pid);
    Ok(hooks::run("poststart", &hooks.poststart, &state, &hooks.subject.bundle)?)
}

/// Runs the hooks of a container that is gone, when nothing can fail any more.
pub(crate) fn poststop(hooks: &Hooks) {
    let state = hooks::state(&hooks.subject, Status::Stopped, None);
    hooks::run_late("poststop", &hooks.poststop, &state, &hooks.subject.bundle);
}

/// Whether what becomes of the terminal fits what the configuration says of it.
pub(crate) fn check_terminal(
    process: &plan::Process,
    flags: &Launch,
    is_detached: bool,
) -> Result<(), Failure> {
    let has_terminal = process.terminal.is_some();
    match (has_terminal, is_detached, &flags.console_socket) {
        (true, true, None) => {
            Err(Failure::new("a terminal needs --console-socket unless the runtime stays with the container"))
        }
        (false, _, Some(_)) => {
            Err(Failure::new("--console-socket is given, but process.terminal is not set"))
        }
        (true, false, Some(_)) => {
            Err(Failure::new("--console-socket is given, but the runtime stays with the container"))
        }
        _ => Ok(()),
    }
}

/// Gives the program's terminal the size of the caller's, if the runtime is to stand between them: the program may ask for it first of all.
pub(crate) fn fit_terminal(process: &mut plan::Process, is_detached: bool) {
    if let (Some(size), false) = (&mut process.terminal, is_detached) {
        let now = terminal::size(io::stdout().as_fd()).or_else(|_| terminal::size(io::stdin().as_fd()));
        *size = now.ok().or(*size);
    }
}

/// A container that is being made.
pub(crate) struct Making {
    pub(crate) bundle: Bundle,
    pub(crate) plan: Plan,
    pub(crate) claim: Claim,
    pub(crate) record: Record,
    /// Who wants to know when its program is ready.
    pub(crate) manager: Option<Manager>,
}

impl Making {
    /// Decides everything, claims the id, and puts on record what there will be.
    pub(crate) fn begin(global: &Global, args: &Args) -> Result<Self, Failure> {
        seal::seal_for_one(c"skiff-runtime")?;
        cgroup::keep_root_open();
        let root = root(global);
        container::check_id(args.id())?;
        let (mut bundle, text) = load(&args.launch)?;
        let mut terms = terms(global, &args.launch, root.clone());
        let listened = listen_fds(bundle.spec.process.as_mut());
        terms.descriptors = passed(listened.saturating_add(args.launch.preserve_fds))?;
        let manager = Manager::of_caller();
        if manager.is_some() {
            notify::mention(&mut bundle.spec, &root.join(args.id()))?;
        }
        let mut plan = oci::plan(&bundle, args.id(), &Facts::probe(&bundle)?, &terms)?;
        tell(&plan.process);
        if global.cgroup_manager == CgroupManager::None {
            plan.cgroup = cgroup::Plan::default();
        }
        plan.cgroup.mark = Some(cgroup::Mark::of_now());
        let mut record = record(&bundle, &plan);
        record.has_notify = manager.is_some();
        let mut claim = container::claim(&root, args.id())?;
        // Before anything is on record: what another container is in must not be taken for this one's. And not before the id
        // is claimed: the one that had it may have been on its way out, with its directories.
        record.cgroups.found = plan.cgroup.found()?;
        plan.rdt.iter().try_for_each(|group| group.check(Path::new(rdt::ROOT)))?;
        claim.write(&record)?;
        claim.write_config(text.as_bytes())?;
        if manager.is_some() {
            notify::make(claim.directory())?;
        }
        Ok(Self { bundle, plan, claim, record, manager })
    }

    /// Launches it; its process is on record before its hooks run.
    fn launch(&mut self, console_socket: Option<&Path>, gate: Option<&Gate>) -> Result<Running, Failure> {
        let Self { plan, claim, record, .. } = self;
        let (begin_ns, mut counted) = (monotonic_ns(), Counted::default());
        let launched = launch::launch(
            plan,
            Attendance {
                arm: &mut |cgroup| {
                    counted.arm(cgroup, &plan.id, 0, begin_ns);
                    Ok(())
                },
                born: &mut |birth| {
                    let start_time = process::stat(birth.pid).map_err(|error| error.to_string())?.start_time;
                    record.cgroups = birth.cgroup.made(&record.cgroups);
                    record.init = Some(Init { pid: birth.pid, start_time });
                    claim.write(record).map_err(|error| error.to_string())?;
                    enter_rdt(record, birth.pid).map_err(|error| error.to_string())
                },
                gate,
                console_socket,
            },
        );
        if launched.is_err() {
            // A container that fails is stopped and destroyed, and that has its hooks.
            if record.init.is_some() {
                leave_rdt(record);
            }
            poststop(&plan.hooks);
        }
        let running = launched?;
        tell_of(&running);
        counted.note(running.stamps());
        counted.keep();
        Ok(running)
    }
}

/// Reads the bundle; its configuration comes as text too.
fn load(flags: &Launch) -> Result<(Bundle, String), Failure> {
    let directory = flags.bundle.as_deref().unwrap_or(Path::new("."));
    let path = directory.canonicalize().context(|| format!("bundle {}", directory.display()))?;
    let file = flags.config.clone().unwrap_or_else(|| path.join("config.json"));
    let text = fs::read_to_string(&file).context(|| format!("read {}", file.display()))?;
    let spec: Spec =
        oci::json::read(&text).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    Ok((Bundle { path, spec }, text))
}

/// Tells the program of descriptors that a service manager has passed to this very process, as if it had got them itself,
/// and counts them. sd_listen_fds(3); like runc, for a container's own program alone.
fn listen_fds(process: Option<&mut spec::Process>) -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        // What is open belongs to somebody else.
        return 0;
    }
    let count = number("LISTEN_FDS").unwrap_or(0);
    if let Some(process) = process.filter(|_| count > 0) {
        process.env.extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()]);
    }
    count
}

/// Those of `count` descriptors from 3 on that the caller has open: what closes on exec is this process's.
pub(crate) fn passed(count: u32) -> Result<Vec<RawFd>, Failure> {
    let end = RawFd::try_from(count).unwrap_or(RawFd::MAX).saturating_add(3);
    let is_passed = |number: RawFd| {
        let flags = descriptor_flags(number);
        (3..end).contains(&number) && flags.is_ok_and(|flags| !flags.contains(FdFlag::FD_CLOEXEC))
    };
    if count == 0 {
        return Ok(Vec::new());
    }
    let names: io::Result<Vec<_>> =
        fs::read_dir("/proc/self/fd").and_then(|all| all.map(|entry| Ok(entry?.file_name())).collect());
    let names = names.context(|| "look at the own descriptors".into())?;
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse().ok());
    Ok(numbers.filter(|number| is_passed(*number)).collect())
}

fn terms(global: &Global, flags: &Launch, root: PathBuf) -> Terms {
    Terms {
        root,
        no_pivot: flags.no_pivot,
        no_new_keyring: flags.no_new_keyring,
        descriptors: Vec::new(),
        systemd_cgroup: global.cgroup_manager == CgroupManager::Systemd,
        rootless: global.rootless,
    }
}

fn record(bundle: &Bundle, plan: &Plan) -> Record {
    Record {
        oci_version: bundle.spec.oci_version.clone(),
        id: plan.id.clone(),
        bundle: bundle.path.clone(),
        rootfs: bundle.root(),
        annotations: bundle.spec.annotations.clone(),
        created: time::now_exactly(),
        owner: nix::unistd::getuid().as_raw(),
        init: None,
        cgroups: plan.cgroup.paths(),
        has_poststart: !plan.hooks.poststart.is_empty(),
        has_poststop: !plan.hooks.poststop.is_empty(),
        has_notify: false,
        rdt: plan.rdt.clone(),
    }
}
