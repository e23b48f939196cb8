//! `restore`: a container of the files of a checkpoint.
//!
//! criu makes the processes, with their namespaces and mounts; cgroups, hooks and what is on record are the runtime's, as
//! for any container.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use skiff_runtime::cgroup::Cgroup;
use skiff_runtime::container::{Container, Init};
use skiff_runtime::launch;
use skiff_runtime::observe::Counted;
use skiff_runtime::oci::Bundle;
use skiff_runtime::oci::spec::Status;
use skiff_runtime::plan::{Plan, Step};
use skiff_runtime::supervise::Signals;
use skiff_runtime::{hooks, oci};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::process;

use crate::args::{Args, Global, Images};
use crate::checkpoint::{self, Places, STREAMS};
use crate::create::{self, Making};
use crate::criu::{Message, Notice, Service, Task, option};
use crate::failure::{Context, Failure};
use crate::{lifecycle, pid_file};

/// `restore CONTAINER`.
pub(crate) fn restore(global: &Global, args: &Args) -> Result<u8, Failure> {
    let flags = &args.launch;
    let mut making = Making::begin(global, args)?;
    create::check_terminal(&making.plan.process, flags, flags.detach)?;
    let signals =
        if flags.detach { None } else { Some(Signals::block().context(|| "block signals".into())?) };
    let (begin_ns, mut counted) = (monotonic_ns(), Counted::default());
    let mut cgroup = Cgroup::create(&making.plan.cgroup)?;
    take_root(&making.record.rootfs)?;
    // In the new mount namespace, for criu mounts things there.
    let places = Places::open(&args.images, Task::Restore)?;
    let namespaces = Given::open(&making.bundle, &making.plan)?;
    let options = options(&making, &args.images, &places, &namespaces)?;
    let criu = Service::start(checkpoint::program(global), places.log.clone())?;
    // criu waits for its request, so systemd can make a scope around it; what it restores is born there.
    cgroup.order(&making.plan.cgroup, criu.pid())?;
    making.record.cgroups = cgroup.made(&making.record.cgroups);
    making.claim.write(&making.record)?;
    // What it does is set-up to those who read it: nothing is executed that would begin a program.
    counted.arm(cgroup.id(), &making.plan.id, 0, begin_ns);
    cgroup.take(criu.pid())?;
    // Its children are born where it is.
    create::enter_rdt(&mut making.record, criu.pid())?;
    let mut console = None;
    let asked = criu.ask(Task::Restore, &options, &mut |notice| attend(&mut making, notice, &mut console));
    let pid = match asked {
        Ok(pid) => pid,
        Err(failure) => {
            create::leave_rdt(&making.record);
            create::poststop(&making.plan.hooks);
            return Err(failure);
        }
    };
    let container = making.claim.keep(making.record)?;
    cgroup.release();
    counted.keep();
    pid_file::write(flags.pid_file.as_deref(), pid)?;
    if let (Some(socket), Some(master)) = (&flags.console_socket, &console) {
        launch::send_console(socket, master.as_fd())?;
    }
    match signals {
        None => Ok(0),
        Some(signals) => stay(container, pid, console.as_ref(), &signals, flags.keep),
    }
}

/// Does what belongs to a moment of the restoration.
fn attend(making: &mut Making, notice: Notice<'_>, console: &mut Option<OwnedFd>) -> Result<(), Failure> {
    let Notice { script, pid, descriptor } = notice;
    match script {
        "setup-namespaces" => {
            let all = &making.plan.hooks;
            let state = hooks::state(&all.subject, Status::Creating, Some(pid));
            hooks::run("prestart", &all.prestart, &state, &all.subject.bundle)?;
            hooks::run("createRuntime", &all.create_runtime, &state, &all.subject.bundle)?;
        }
        "post-restore" => {
            let start_time = process::stat(pid).context(|| format!("look at process {pid}"))?.start_time;
            making.record.init = Some(Init { pid, start_time });
            making.claim.write(&making.record)?;
        }
        "orphan-pts-master" => *console = descriptor,
        _ => {}
    }
    Ok(())
}

/// Gives the container's root a mount of its own, as criu wants it, in a mount namespace that nobody else sees.
fn take_root(rootfs: &Path) -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNS).context(|| "make a mount namespace".into())?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .context(|| "make the mount namespace private".into())?;
    mount(Some(rootfs), rootfs, none, MsFlags::MS_REC | MsFlags::MS_BIND, none)
        .context(|| format!("bind {}", rootfs.display()))
}

fn options(making: &Making, flags: &Images, places: &Places, namespaces: &Given) -> Result<Message, Failure> {
    let Making { plan, bundle, record, .. } = making;
    let root =
        Message::default().bytes(2, Path::new("/").join(&plan.cgroup.path).as_os_str().as_encoded_bytes());
    let mut options = places
        .options(flags)
        .bytes(option::ROOT, record.rootfs.as_os_str().as_encoded_bytes())
        .flag(option::RST_SIBLING, true)
        .flag(option::TCP_CLOSE, flags.tcp_close)
        .message(option::CG_ROOT, &root);
    for (name, source) in outside(plan, bundle) {
        let mount = Message::default().bytes(1, name.as_bytes()).bytes(2, source.as_bytes());
        options = options.message(option::EXT_MNT, &mount);
    }
    for (key, descriptor) in streams(&places.images)?.iter().chain(&namespaces.keys()) {
        let inherited = Message::default().bytes(1, key.as_bytes()).number(2, (*descriptor).into());
        options = options.message(option::INHERIT_FD, &inherited);
    }
    if let Some(profile) = &flags.lsm_profile {
        options = options.bytes(option::LSM_PROFILE, profile.as_bytes());
    }
    if let Some(context) = &flags.lsm_mount_context {
        options = options.bytes(option::LSM_MOUNT_CONTEXT, context.as_bytes());
    }
    Ok(options)
}

/// What is mounted of the host, by the names that `checkpoint` has given to it.
fn outside(plan: &Plan, bundle: &Bundle) -> Vec<(String, String)> {
    let bind = |mount: &oci::spec::Mount| {
        let source = bundle.path.join(mount.source.as_deref().unwrap_or_default());
        (checkpoint::inside(&mount.destination), source.to_string_lossy().into_owned())
    };
    let cgroup = |step: &Step| match step {
        Step::OwnCgroup { hierarchy, path, target, .. } => {
            let source = hierarchy.join(path).to_string_lossy().into_owned();
            Some((checkpoint::inside(&target.path.to_string_lossy()), source))
        }
        _ => None,
    };
    let mut all: Vec<(String, String)> = checkpoint::binds(bundle).map(bind).collect();
    all.extend(checkpoint::devices(bundle).map(|path| (path.clone(), path)));
    all.extend(plan.steps.iter().filter_map(cgroup));
    if !all.iter().any(|(name, _)| name == checkpoint::NULL) {
        all.push((checkpoint::NULL.to_owned(), checkpoint::NULL.to_owned()));
    }
    all
}

/// Standard streams that were pipes become those of the caller.
fn streams(images: &Path) -> Result<Vec<(String, i32)>, Failure> {
    let path = images.join(STREAMS);
    let streams: Vec<String> = match fs::read_to_string(&path) {
        Ok(text) => {
            oci::json::read(&text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).context(|| format!("read {}", path.display())),
    };
    Ok(streams.into_iter().zip(0..3).filter(|(stream, _)| stream.starts_with("pipe:")).collect())
}

/// Namespaces that the container is to have although they were not made for it.
struct Given(Vec<(String, OwnedFd)>);

impl Given {
    fn open(bundle: &Bundle, plan: &Plan) -> Result<Self, Failure> {
        let mut all = Vec::new();
        for (kind, name) in checkpoint::given_namespaces(bundle) {
            let flag = if kind == "net" { CloneFlags::CLONE_NEWNET } else { CloneFlags::CLONE_NEWPID };
            let Some(join) = plan.joins.iter().find(|join| join.kind == flag) else { continue };
            let what = || format!("open {}", join.path.display());
            let opened = fs::File::open(&join.path).context(what)?;
            fcntl(&opened, FcntlArg::F_SETFD(FdFlag::empty())).context(what)?;
            all.push((name.to_owned(), opened.into()));
        }
        Ok(Self(all))
    }

    fn keys(&self) -> Vec<(String, i32)> {
        use std::os::fd::AsRawFd;
        self.0.iter().map(|(name, descriptor)| (name.clone(), descriptor.as_raw_fd())).collect()
    }
}

/// Stays with the container until it ends, and removes it unless it is to be kept.
fn stay(
    container: Container,
    pid: i32,
    console: Option<&OwnedFd>,
    signals: &Signals,
    keep: bool,
) -> Result<u8, Failure> {
    let pidfd = process::open_pidfd(pid).context(|| format!("open process {pid}"))?;
    create::supervise(pidfd.as_fd(), console.map(AsFd::as_fd), signals, None)
        .context(|| "stand by the container".into())?;
    let exit = loop {
        let reaped = process::reap(pidfd.as_fd(), true).context(|| "wait for the container".into())?;
        if let Some(exit) = reaped {
            break exit;
        }
    };
    if !keep {
        lifecycle::remove(container, true)?;
    }
    Ok(create::exit_code(exit))
}
