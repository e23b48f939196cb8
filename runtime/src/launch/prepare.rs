//! What is opened and made of the host for a container, while every host path still means what it says: by the parent before
//! the child is born, or by the child itself before it leaves its parent's mount namespace ([`super::parking`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sched::CloneFlags;
use skiff_sys::device_filter::Kind;
use skiff_sys::file::{self, Resolve};
use skiff_sys::mount::{self, Propagation};

use super::id_map::Mappings;
use super::overlay;
use crate::Error;
use crate::error::Context;
use crate::host::Node;
use crate::plan::{IdMap, Plan, Root, Step, TargetKind, Upper, c_path};

/// Descriptors for the child. Where one is missing the kernel has no call for it, or the caller no right to it: the
/// child then goes by path, in its own mount namespace, unless that has none of the host's.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The root file system, attached nowhere, or why there is none.
    pub(super) root: io::Result<OwnedFd>,
    /// The source of each step that binds part of the host.
    pub(super) sources: Vec<Option<Source>>,
    /// The host's `/dev/null`, verified.
    pub(super) null: OwnedFd,
    /// A mount of it, to hide files with, or why there is none.
    pub(super) null_mount: io::Result<OwnedFd>,
    /// skiff's own executable, for `--init`.
    pub(super) executable: Option<OwnedFd>,
}

impl Prepared {
    /// `writable` is where the writable layer belongs.
    pub(super) fn new(plan: &Plan, writable: &Path) -> Result<Self, Error> {
        make_writable(plan, writable)?;
        let null = open_null()?;
        let null_mount = mount::clone_tree(null.as_fd(), c"", false);
        let executable = if plan.process.init { Some(executable()?) } else { None };
        Ok(Self { root: root(&plan.root, writable), sources: sources(plan)?, null, null_mount, executable })
    }
}

impl Prepared {
    /// All that is open here.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let sources = self.sources.iter().flatten().map(|source| source.opened.as_raw_fd());
        let others = self.executable.iter().chain(&self.null_mount).chain(&self.root).map(AsRawFd::as_raw_fd);
        sources.chain(others).chain([self.null.as_raw_fd()])
    }

    /// Whether nothing of the host is in it but layers: these are there, and answer.
    pub(super) fn is_only_layers(&self) -> bool {
        self.executable.is_none() && self.sources.iter().all(Option::is_none)
    }

    /// Whether a child that carries out `plan` needs no path of the host.
    pub(super) fn is_all(&self, plan: &Plan) -> bool {
        let is_copy = |source: &Option<Source>| source.as_ref().is_none_or(|source| source.is_copy);
        !in_user_namespace(plan)
            && self.root.is_ok()
            && self.null_mount.is_ok()
            && self.sources.iter().all(is_copy)
            && !plan.steps.iter().any(|step| matches!(step, Step::OwnCgroup { .. }))
    }
}

impl Prepared {
    /// Itself, if [it is all](Self::is_all) that a child needs; else why not: what the kernel has said of the root, or of the null
    /// device, where that is it.
    pub(super) fn into_all(self, plan: &Plan) -> io::Result<Self> {
        if self.is_all(plan) {
            return Ok(self);
        }
        self.root.and(self.null_mount).and(Err(io::Error::from_raw_os_error(nix::libc::EOPNOTSUPP)))
    }
}

/// The device that hides files, opened on the host and seen to be what it is: an image's `/dev/null` may be anything
/// (CVE-2025-31133).
pub(super) fn open_null() -> Result<OwnedFd, Error> {
    let what = || "open /dev/null".to_owned();
    let null = file::open(c"/dev/null", OFlag::O_RDWR | OFlag::O_NOFOLLOW, 0).context(what)?;
    let found = nix::sys::stat::fstat(&null).context(what)?;
    let is_null = found.st_mode & nix::libc::S_IFMT == nix::libc::S_IFCHR
        && found.st_rdev == nix::sys::stat::makedev(1, 3);
    if is_null { Ok(null) } else { Err(Error::Option("/dev/null is not the null device".into())) }
}

/// skiff's executable, which must be out of the container's reach for the container's init is run from it.
fn executable() -> Result<OwnedFd, Error> {
    skiff_sys::self_exe::sealed()
        .context(|| "open /proc/self/exe".into())?
        .ok_or_else(|| Error::Option("skiff's own executable could be written to by a container".into()))
}

/// Makes the directories of a writable layer on disk.
fn make_writable(plan: &Plan, directory: &Path) -> Result<(), Error> {
    if !plan.root.upper.is_on_disk() {
        return Ok(());
    }
    let what = || format!("make {}", directory.display());
    super::note::make_own(&plan.state_root, directory).context(what)?;
    let opened = open_path(directory).context(what)?;
    match overlay::make_writable(opened.as_fd()) {
        // The container has run before and goes on with what it has written; overlayfs would not take its workings again.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            super::note::remove_tree(&directory.join("work"))
                .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
                .and_then(|()| overlay::make_work(opened.as_fd()))
                .context(what)
        }
        other => other.context(what),
    }
}

/// The root as a detached mount, layers given by descriptor (Linux ≥ 6.13).
///
/// Errors: `EOPNOTSUPP` for a root whose writable layer is the child's to make.
fn root(root: &Root, writable: &Path) -> io::Result<OwnedFd> {
    if root.layers.is_empty() || root.upper == Upper::Memory {
        return Err(io::Error::from_raw_os_error(nix::libc::EOPNOTSUPP));
    }
    match (root.upper, &root.layers[..]) {
        (Upper::None, [only]) => return mount::clone_tree(open_path(only)?.as_fd(), c"", false),
        (Upper::Direct, [only]) => return mount::clone_tree(open_path(only)?.as_fd(), c"", true),
        _ => {}
    }
    let upper = if root.upper.is_on_disk() { Some(open_path(writable)?) } else { None };
    let (upper, options) = (upper.as_ref().map(AsFd::as_fd), overlay::options(root.upper, false));
    match root.merged.as_ref().map(|merged| overlay::mount_merged(merged, upper, &options)) {
        Some(Ok(mounted)) => Ok(mounted),
        _ => overlay::mount(&open_layers(root)?, upper, &options),
    }
}

/// Opens the layers, top first.
pub(super) fn open_layers(root: &Root) -> io::Result<Vec<OwnedFd>> {
    root.layers.iter().map(|layer| open_path(layer)).collect()
}

/// A part of the host that is to be mounted in the container.
#[derive(Debug)]
pub(super) struct Source {
    /// The thing itself, or a copy of the mount that it lies in.
    opened: OwnedFd,
    is_copy: bool,
    is_directory: bool,
    is_mapped: bool,
}

impl Source {
    /// A copy of its mount, attached nowhere.
    pub(super) fn copy(&self) -> Option<BorrowedFd<'_>> {
        self.is_copy.then_some(self.opened.as_fd())
    }

    /// Whether its files are shown as those of other users.
    pub(super) const fn is_mapped(&self) -> bool {
        self.is_mapped
    }

    /// What it is mounted on, if that is to be of its kind.
    pub(super) const fn as_target(&self, kind: TargetKind) -> TargetKind {
        match (kind, self.is_directory) {
            (TargetKind::AsSource, true) => TargetKind::Directory,
            (TargetKind::AsSource, false) => TargetKind::File,
            (given, _) => given,
        }
    }

    /// The same file, found again in another mount namespace.
    ///
    /// Errors: `ESTALE` if the path leads to another file there.
    pub(super) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        self.checked(open_path(path)?)
    }

    /// What was found elsewhere, if it is the same file.
    pub(super) fn checked(&self, found: OwnedFd) -> io::Result<OwnedFd> {
        if is_same_file(found.as_fd(), self.opened.as_fd())? { Ok(found) } else { Err(Errno::ESTALE.into()) }
    }
}

/// What step `index` of `plan` binds, in the mount namespace of the child `pid`, which has not left that tree yet. Runs in: parent.
pub(super) fn find_for(pid: i32, plan: Option<&Plan>, index: u32) -> io::Result<OwnedFd> {
    let step = plan.and_then(|plan| plan.steps.get(usize::try_from(index).ok()?));
    let Some(Step::Bind { source, .. }) = step else { return Err(Errno::EINVAL.into()) };
    let root = open_path(Path::new(&format!("/proc/{pid}/root")))?;
    let path = c_path(source).map_err(|_| Errno::EINVAL)?;
    file::open_beneath(root.as_fd(), &path, OFlag::O_PATH, 0, Resolve::InRoot)
}

/// Whether the container is in another user namespace than the launcher.
pub(super) fn in_user_namespace(plan: &Plan) -> bool {
    plan.users.is_some() || plan.joins.iter().any(|join| join.kind == CloneFlags::CLONE_NEWUSER)
}

/// The sources of all steps, as detached copies made before any namespace changes.
fn sources(plan: &Plan) -> Result<Vec<Option<Source>>, Error> {
    let mut mappings = Mappings::new(plan);
    let in_user_namespace = in_user_namespace(plan);
    plan.steps
        .iter()
        .map(|step| match step {
            Step::Bind { source, create, recursive, id_map, .. } => {
                if *create {
                    std::fs::create_dir_all(source).context(|| format!("make {}", source.display()))?;
                }
                take(source, *recursive, id_map.as_ref(), &mut mappings, in_user_namespace).map(Some)
            }
            // Nodes cannot be made there.
            Step::Node(node) if in_user_namespace => {
                take(&node.source, false, None, &mut mappings, true).map(Some)
            }
            _ => Ok(None),
        })
        .collect()
}

fn take(
    path: &Path,
    recursive: bool,
    id_map: Option<&IdMap>,
    mappings: &mut Mappings<'_>,
    is_shut_off: bool,
) -> Result<Source, Error> {
    let what = || format!("bind source {}", path.display());
    let mapping = || format!("map the ids of {}", path.display());
    let name = c_path(path)?;
    let copy = mount::clone_tree(AT_FDCWD, &name, recursive);
    let (opened, is_copy) = match copy {
        Err(error) if mount::is_refusal(&error) && id_map.is_none() => {
            (file::open(&name, OFlag::O_PATH, 0).context(what)?, false)
        }
        Err(error) if mount::is_refusal(&error) => return Err(error).context(mapping),
        other => (other.context(what)?, true),
    };
    if let Some(id_map) = id_map {
        mappings.apply(id_map, opened.as_fd()).context(mapping)?;
        if is_shut_off {
            // As all that a user namespace gets: what it mounts there is not for the host.
            mount::change(opened.as_fd(), &Propagation::Slave.into(), true).context(mapping)?;
        }
    }
    let mode = nix::sys::stat::fstat(&opened).context(what)?.st_mode;
    let is_directory = mode & nix::libc::S_IFMT == nix::libc::S_IFDIR;
    Ok(Source { opened, is_copy, is_directory, is_mapped: id_map.is_some() })
}

/// Makes sure that the host's node is the device that is meant.
pub(super) fn check_node(found: BorrowedFd<'_>, node: &Node) -> io::Result<()> {
    let status = nix::sys::stat::fstat(found)?;
    let kind = if node.kind == Kind::Block { nix::libc::S_IFBLK } else { nix::libc::S_IFCHR };
    let number = nix::sys::stat::makedev(node.major.into(), node.minor.into());
    let is_meant = status.st_mode & nix::libc::S_IFMT == kind && status.st_rdev == number;
    if is_meant { Ok(()) } else { Err(Errno::ENODEV.into()) }
}

pub(super) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path).map_err(|_| io::Error::from_raw_os_error(nix::libc::EINVAL))?;
    file::open(&path, OFlag::O_PATH, 0)
}

/// Whether two descriptors have the same file open.
pub(super) fn is_same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
    let (a, b) = (nix::sys::stat::fstat(a)?, nix::sys::stat::fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;
    use crate::options::Options;

    #[test]
    fn what_is_wrong_with_the_root_is_not_forgotten() {
        let options = Options { argv: vec!["true".into()], ..Options::default() };
        let host = Host::probe(&options, Path::new("/state"), Path::new("/run")).expect("a host");
        let mut plan = Plan::build(&options, &host).expect("a plan");
        plan.root.layers = vec!["/nonexistent".into(); 2];
        plan.root.upper = Upper::None;
        let prepared = Prepared::new(&plan, Path::new("/nonexistent")).expect("all else is there");
        let why = prepared.into_all(&plan).expect_err("there is no root");
        assert_eq!(why.raw_os_error(), Some(nix::libc::ENOENT));
    }
}
