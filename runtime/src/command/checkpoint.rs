//! `checkpoint`: a running container becomes files. criu(8) does it; this says what of the container is the host's.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use skiff_runtime::container::{Container, Process};
use skiff_runtime::oci::Bundle;
use skiff_runtime::oci::spec::{self, Status};
use skiff_runtime::plan::dev::DEVICES;

use crate::args::{Args, Global, Images};
use crate::criu::{Message, Service, Task, option};
use crate::failure::{Context, Failure};
use crate::root::root;
use crate::{config, lifecycle};

/// Which pipes and files the standard streams of the first process were, for `restore` to give it others.
pub(crate) const STREAMS: &str = "descriptors.json";

/// criu's log level: all but what is for its developers.
pub(crate) const LOG_LEVEL: i64 = 4;

/// `checkpoint CONTAINER`.
pub(crate) fn checkpoint(global: &Global, args: &Args) -> Result<u8, Failure> {
    let container = Container::open(&root(global), args.id())?;
    let process = match container.look()? {
        (Status::Running | Status::Paused, Some(process)) => process,
        _ => return Err(Failure::new("container not running")),
    };
    let bundle = config::bundle(&container)?;
    let places = Places::open(&args.images, Task::Dump)?;
    write_streams(&places.images, process.pid)?;
    let options = options(&container, &process, &bundle, &args.images, &places)?;
    let task = if args.images.pre_dump { Task::PreDump } else { Task::Dump };
    let criu = Service::start(program(global), places.log.clone())?;
    criu.ask(task, &options, &mut |_| Ok(()))?;
    if !args.images.pre_dump && !args.images.leave_running {
        // What is left of it is what any container leaves that has ended.
        lifecycle::remove(container, true)?;
    }
    Ok(0)
}

pub(crate) fn program(global: &Global) -> &Path {
    global.criu.as_deref().unwrap_or(Path::new("criu"))
}

/// Where files go.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) images: PathBuf,
    pub(crate) log: PathBuf,
    images_directory: File,
    work_directory: Option<File>,
    log_name: &'static str,
}

impl Places {
    /// Opens the directories of the command line. Those that are written to are made if they are missing; images that are to
    /// be read have to be there.
    pub(crate) fn open(flags: &Images, task: Task) -> Result<Self, Failure> {
        let images = flags.image_path.clone().unwrap_or_else(|| PathBuf::from("checkpoint"));
        let (images_directory, log_name) = match task {
            Task::Restore => {
                let opened = File::open(&images).context(|| format!("open {}", images.display()))?;
                (opened, "restore.log")
            }
            _ => (directory(&images)?, "dump.log"),
        };
        let work_directory = flags.work_path.as_deref().map(directory).transpose()?;
        let log = flags.work_path.as_ref().unwrap_or(&images).join(log_name);
        Ok(Self { images, log, images_directory, work_directory, log_name })
    }

    /// What criu is told of them, and what else is the same for `checkpoint` and `restore`.
    pub(crate) fn options(&self, flags: &Images) -> Message {
        let mut options = Message::default()
            .number(option::IMAGES_DIR_FD, self.images_directory.as_raw_fd().into())
            .number(option::LOG_LEVEL, LOG_LEVEL)
            .bytes(option::LOG_FILE, self.log_name.as_bytes())
            .flag(option::NOTIFY_SCRIPTS, true)
            .flag(option::EVASIVE_DEVICES, true)
            .flag(option::ORPHAN_PTS_MASTER, true)
            .flag(option::SHELL_JOB, flags.shell_job)
            .flag(option::EXT_UNIX_SK, flags.ext_unix_sk)
            .flag(option::TCP_ESTABLISHED, flags.tcp_established)
            .flag(option::FILE_LOCKS, flags.file_locks)
            .flag(option::AUTO_DEDUP, flags.auto_dedup)
            .flag(option::LAZY_PAGES, flags.lazy_pages)
            .number(option::MANAGE_CGROUPS_MODE, cgroup_mode(flags.manage_cgroups_mode.as_deref()));
        if let Some(work) = &self.work_directory {
            options = options.number(option::WORK_DIR_FD, work.as_raw_fd().into());
        }
        if !flags.empty_ns.is_empty() {
            options = options.number(option::EMPTY_NS, nix::libc::CLONE_NEWNET.into());
        }
        options
    }
}

fn directory(path: &Path) -> Result<File, Failure> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| File::open(path)).context(|| format!("open {}", path.display()))
}

/// `enum criu_cg_mode`.
fn cgroup_mode(mode: Option<&str>) -> i64 {
    match mode {
        Some("ignore") => 0,
        Some("full") => 4,
        Some("strict") => 5,
        _ => 3,
    }
}

fn options(
    container: &Container,
    process: &Process,
    bundle: &Bundle,
    flags: &Images,
    places: &Places,
) -> Result<Message, Failure> {
    let mut options = places
        .options(flags)
        .number(option::PID, process.pid.into())
        .bytes(option::ROOT, container.record().rootfs.as_os_str().as_encoded_bytes())
        .flag(option::LEAVE_RUNNING, flags.leave_running)
        .flag(option::TCP_SKIP_IN_FLIGHT, flags.tcp_skip_in_flight)
        .flag(option::LINK_REMAP, flags.link_remap)
        .flag(option::TRACK_MEM, flags.pre_dump || flags.parent_path.is_some());
    if let Some(freezer) = container.record().cgroups.freezer() {
        options = options.bytes(option::FREEZE_CGROUP, freezer.as_os_str().as_encoded_bytes());
    }
    if let Some(parent) = &flags.parent_path {
        options = options.bytes(option::PARENT_IMG, parent.as_os_str().as_encoded_bytes());
    }
    if let Some((address, port)) = &flags.page_server {
        let server = Message::default().bytes(1, address.as_bytes()).number(2, (*port).into());
        options = options.message(option::PAGE_SERVER, &server);
    }
    if let Some(descriptor) = flags.status_fd {
        options = options.number(option::STATUS_FD, descriptor.into());
    }
    if !flags.pre_dump {
        for (path, name) in outside(process.pid, bundle) {
            let mount = Message::default().bytes(1, path.as_bytes()).bytes(2, name.as_bytes());
            options = options.message(option::EXT_MNT, &mount);
        }
        for (kind, name) in given_namespaces(bundle) {
            let inode = inode(&format!("/proc/{}/ns/{kind}", process.pid))?;
            options = options.bytes(option::EXTERNAL, format!("{kind}[{inode}]:{name}").as_bytes());
        }
    }
    Ok(options)
}

fn inode(path: &str) -> Result<u64, Failure> {
    Ok(fs::metadata(path).context(|| format!("look at {path}"))?.ino())
}

/// The namespaces that were not made for the container, with a name for each, as criu knows to leave out.
pub(crate) fn given_namespaces(bundle: &Bundle) -> Vec<(&'static str, &'static str)> {
    const KNOWN: [(&str, &str, &str); 2] =
        [("network", "net", "extRootNetNS"), ("pid", "pid", "extRootPidNS")];
    let given = |kind: &str| {
        let mut all = bundle.spec.linux.iter().flat_map(|linux| &linux.namespaces);
        all.any(|entry| entry.r#type == kind && !entry.path.is_empty())
    };
    KNOWN.iter().filter(|(kind, ..)| given(kind)).map(|(_, file, name)| (*file, *name)).collect()
}

/// Mount points in the container at which something of the host is mounted, with the name it gets in the images.
fn outside(pid: i32, bundle: &Bundle) -> Vec<(String, String)> {
    let named = |path: String| (path.clone(), path);
    let binds = binds(bundle).map(|mount| named(inside(&mount.destination)));
    let masks = masked(pid, bundle).into_iter().map(|path| (path, NULL.to_owned()));
    binds
        .chain(devices(bundle).map(named))
        .chain(masks)
        .chain(legacy_cgroups(pid).into_iter().map(named))
        .collect()
}

/// What hides a file.
pub(crate) const NULL: &str = "/dev/null";

/// Mounts of a part of the host.
pub(crate) fn binds(bundle: &Bundle) -> impl Iterator<Item = &spec::Mount> {
    bundle.spec.mounts.iter().filter(|mount| {
        mount.r#type.as_deref() == Some("bind")
            || mount.options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"))
    })
}

/// A path in the container without `.`, `..` and double slashes.
pub(crate) fn inside(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// Devices are the host's where the container has a user namespace, which cannot make any.
pub(crate) fn devices(bundle: &Bundle) -> impl Iterator<Item = String> {
    let linux = bundle.spec.linux.as_ref().filter(|linux| !linux.uid_mappings.is_empty());
    let own = linux.into_iter().flat_map(|linux| linux.devices.iter().map(|device| inside(&device.path)));
    let common = DEVICES.iter().filter(move |_| linux.is_some()).map(|(name, ..)| format!("/dev/{name}"));
    let mut all: Vec<String> = own.chain(common).collect();
    all.sort();
    all.dedup();
    all.into_iter()
}

/// Paths that are hidden and are files: the null device is mounted there.
fn masked(pid: i32, bundle: &Bundle) -> Vec<String> {
    let all = bundle.spec.linux.iter().flat_map(|linux| &linux.masked_paths).map(|path| inside(path));
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let is_null = |path: &String| {
        mounts.lines().any(|line| {
            let mut words = line.split(' ').skip(3);
            words.next().is_some_and(|root| root.ends_with("/null")) && words.next() == Some(path.as_str())
        })
    };
    all.filter(is_null).collect()
}

/// Where version 1 hierarchies are mounted. proc_pid_mountinfo(5).
fn legacy_cgroups(pid: i32) -> Vec<String> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let point = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        (source.split(' ').next() == Some("cgroup")).then(|| mount.split(' ').nth(4).map(str::to_owned))?
    };
    mounts.lines().filter_map(point).collect()
}

/// Keeps what the standard streams are.
fn write_streams(images: &Path, pid: i32) -> Result<(), Failure> {
    let stream = |number: u32| fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
    let streams: Vec<String> = (0..3).map(|number| stream(number).to_string_lossy().into_owned()).collect();
    let text = serde_json::to_string(&streams).map_err(|error| Failure::new(error.to_string()))?;
    let path = images.join(STREAMS);
    fs::write(&path, text).context(|| format!("write {}", path.display()))
}
