//! Carries out the steps of a plan in the container's file tree.
//!
//! Runs in: child, before pivot, with CAP_SYS_ADMIN over its mount namespace. Mount points are opened below the root's
//! descriptor, never by path, and mounted on by descriptor; what is missing is made on the way. What has been mounted is
//! known by the descriptor that the kernel gave for it, and found again by its path only where there was none.

mod copy_up;
mod hide;
mod node;
mod root;
mod target;

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use skiff_sys::file::{self, Resolve};
use skiff_sys::mount::{self, Attr, Change, FsOption, Propagation};
use skiff_sys::terminal::{self, Size};

use root::{is_taken_here, mount_home, mount_root_here, needs_home};
use target::Place;

use super::birthplace::Around;
use super::prepare::{self, Prepared, Source};
use super::sync::Channel;
use crate::cgroup;
use crate::plan::{MountFlags, Plan, Propagate, Step, Symlinks, Target, TargetKind, Upper, c_path};

/// The container's tree while it is being put together.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    plan: &'a Plan,
    prepared: &'a Prepared,
    channel: &'a Channel,
    around: Around,
    root: OwnedFd,
    /// A tmpfs below the root's mount point, out of the container's sight, if anything is to lie there: files that are
    /// bound into the tree, and the writable layer of a root that keeps it in memory.
    home: Option<OwnedFd>,
    /// The directory of the last node or symlink: they come in rows.
    parent: Option<(CString, OwnedFd)>,
    /// What has been mounted, and where.
    mounted: Vec<(CString, OwnedFd)>,
    /// The container's procfs and sysfs, by the descriptors with which they were mounted: whatever is mounted over
    /// parts of them later, these show the file systems themselves (CVE-2025-52881).
    proc: Option<OwnedFd>,
    sys: Option<OwnedFd>,
    /// A procfs of the container's PID namespace that is mounted nowhere.
    private_proc: OnceCell<OwnedFd>,
    /// A read-only empty directory, once one has been mounted, to hide others with.
    nothing: OnceCell<OwnedFd>,
    /// A mount of `/dev/null`.
    null: OnceCell<OwnedFd>,
}

impl<'a> Tree<'a> {
    /// Mounts the root on a directory of skiff's own and opens it; a bundle's on itself, where hooks look for it.
    pub(super) fn mount_root(
        plan: &'a Plan,
        prepared: &'a Prepared,
        channel: &'a Channel,
        around: Around,
    ) -> io::Result<Self> {
        let path = match (&plan.root.layers[..], plan.root.upper) {
            _ if around == Around::Nothing => Path::new("/"),
            ([only], Upper::Direct) => only,
            _ => &plan.run_root,
        };
        let staging = prepare::open_path(path)?;
        let home = if needs_home(plan) { Some(mount_home(path, staging.as_fd())?) } else { None };
        let point = home.as_ref().unwrap_or(&staging).as_fd();
        let attached = match &prepared.root {
            Ok(root) if is_taken_here(plan, root)? => mount_root_here(plan, point)?,
            Ok(root) if attach(root.as_fd(), point)? => Some(root.try_clone()?),
            _ => mount_root_here(plan, point)?,
        };
        let root = match attached {
            Some(root) => root,
            None => prepare::open_path(path)?,
        };
        if matches!(plan.root.upper, Upper::None | Upper::Direct) {
            // It may still be one with the host's mount of it, and is about to be mounted on.
            let to = match plan.root.propagation {
                Some(Propagate { to: Propagation::Slave, .. }) => Propagation::Slave,
                _ => Propagation::Private,
            };
            mount::change(root.as_fd(), &to.into(), true)?;
        }
        Ok(Self {
            plan,
            prepared,
            channel,
            around,
            root,
            home,
            parent: None,
            mounted: Vec::new(),
            proc: None,
            sys: None,
            private_proc: OnceCell::new(),
            nothing: OnceCell::new(),
            null: OnceCell::new(),
        })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A procfs of the container's PID namespace: the one mounted for it, else one that is mounted nowhere.
    ///
    /// Errors: `EPERM` in a user namespace whose own view of `/proc` is not complete.
    pub(super) fn proc(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(proc) = &self.proc
            && is_of_own_processes(proc)?
        {
            return Ok(proc.as_fd());
        }
        if let Some(proc) = self.private_proc.get() {
            return Ok(proc.as_fd());
        }
        let attr = Attr::NOSUID.with(Attr::NODEV).with(Attr::NOEXEC);
        let proc = mount::new_filesystem(c"proc", None, &[], attr)?;
        Ok(self.private_proc.get_or_init(|| proc).as_fd())
    }

    /// Carries out step `index`.
    pub(super) fn step(&mut self, index: usize) -> io::Result<()> {
        let step = &self.plan.steps[index];
        if !matches!(step, Step::Node(_) | Step::Fifo { .. } | Step::Symlink { .. }) {
            self.parent = None;
        }
        match step {
            Step::Filesystem { fstype, source, options, flags, target, copy_up } => {
                self.filesystem(fstype, source.as_deref(), options, flags, target, *copy_up)
            }
            Step::Bind { source, target, flags, recursive, .. } => {
                let found = self.prepared.sources[index].as_ref().ok_or(Errno::ENOENT)?;
                self.bind(index, source, found, target, flags, *recursive)
            }
            Step::OwnCgroup { hierarchy, path, target, flags } => {
                let mounted = self.place(target, |point| bind_cgroup(hierarchy, path, point))?;
                self.settle(mounted, target, flags)
            }
            Step::Remount { target, flags, options } => {
                let mounted = self.known(target)?;
                if !options.is_empty() {
                    mount::reconfigure(mounted.as_fd(), options)?;
                }
                apply(mounted.as_fd(), flags)
            }
            Step::Directory(target) => self.open(target).map(drop),
            Step::WorkingDirectory(target) => {
                drop(self.open(target));
                Ok(())
            }
            Step::Volume { target, attr } => {
                let mounted = self.place(target, |point| bind(point, point, false))?;
                self.settle(mounted, target, &(*attr).into())
            }
            Step::Node(node) => self.node(node, self.prepared.sources[index].as_ref()),
            Step::Fifo { target, mode, uid, gid } => self.fifo(&target.path, *mode, (*uid, *gid)),
            Step::Symlink { content, path } => self.symlink(content, path),
            Step::Files(files) => self.files(files),
            Step::ReadOnlyMount(target) => mount::restrict(self.known(target)?.as_fd(), Attr::RDONLY, false),
        }
    }

    fn filesystem(
        &mut self,
        fstype: &CStr,
        source: Option<&CStr>,
        options: &[FsOption],
        flags: &MountFlags,
        target: &Target,
        copy_up: bool,
    ) -> io::Result<()> {
        let place = self.open(target)?;
        let below = if copy_up { Some(place.point.try_clone()?) } else { None };
        let mode = if fstype == c"tmpfs" { mode_of(&place, options)? } else { None };
        let mounted = self.place_in(target, place, |point| {
            mount::mount_new(fstype, source, &[mode.as_slice(), options].concat(), flags.set, point)
        })?;
        if let Some(below) = below {
            copy_up::copy(below.as_fd(), mounted.as_fd())?;
        }
        match (fstype.to_bytes(), target.path.to_bytes()) {
            (b"proc", b"proc") => self.proc = Some(verified(&mounted, PROC_SUPER_MAGIC)?),
            (b"sysfs", b"sys") => self.sys = Some(verified(&mounted, SYSFS_MAGIC)?),
            _ => {}
        }
        // The flags that are set were so from the beginning.
        self.settle(mounted, target, &MountFlags { set: Attr::NONE, clear: Attr::NONE, ..flags.clone() })
    }

    /// Mounts a part of the host: the detached copy that the parent has made of it or, without one, what lies at that path
    /// in this mount namespace.
    fn bind(
        &mut self,
        index: usize,
        path: &Path,
        source: &Source,
        target: &Target,
        flags: &MountFlags,
        recursive: bool,
    ) -> io::Result<()> {
        let target = Target { kind: source.as_target(target.kind), ..target.clone() };
        let is_shared = flags.propagation.iter().any(|change| change.to == Propagation::Shared);
        // The mounts of this namespace keep a user namespace from lifting the flags that the host has given them.
        let keeps_flags = self.in_user_namespace() && !source.is_mapped();
        let own = if keeps_flags { Some(self.own(index, path, source)?) } else { None };
        let mounted = self.place(&target, |point| match (own, source.copy()) {
            (Some(own), _) => bind(own.as_fd(), point, recursive),
            (None, Some(copy)) if attach(copy, point)? => copy.try_clone_to_owned().map(Some),
            // These mounts no longer share anything with the host's, and their owners are the host's.
            _ if source.is_mapped() || is_shared => Err(Errno::ENOSYS.into()),
            _ => bind(source.find(path)?.as_fd(), point, recursive),
        })?;
        if target.path.as_c_str() == c"proc" {
            // Nothing else may be mounted there: what lies there decides what is hidden.
            self.proc = Some(verified(&mounted, PROC_SUPER_MAGIC)?);
        }
        self.settle(mounted, &target, flags)
    }

    /// The source of step `index` in this mount namespace. The way there may be open to the host's root alone.
    fn own(&self, index: usize, path: &Path, source: &Source) -> io::Result<OwnedFd> {
        let index = u32::try_from(index).map_err(|_| Errno::EINVAL)?;
        source.find(path).or_else(|_| source.checked(self.channel.ask_for_source(index)?))
    }

    fn in_user_namespace(&self) -> bool {
        prepare::in_user_namespace(self.plan)
    }

    /// Has something mounted at `target` and opens that.
    fn place(
        &self,
        target: &Target,
        mount: impl FnOnce(BorrowedFd<'_>) -> io::Result<Option<OwnedFd>>,
    ) -> io::Result<OwnedFd> {
        self.place_in(target, self.open(target)?, mount)
    }

    fn place_in(
        &self,
        target: &Target,
        place: Place,
        mount: impl FnOnce(BorrowedFd<'_>) -> io::Result<Option<OwnedFd>>,
    ) -> io::Result<OwnedFd> {
        match mount(place.point.as_fd())? {
            Some(mounted) => Ok(mounted),
            None => target::open_mounted(self.root(), target, place.point.as_fd()),
        }
    }

    /// Opens a mount point; many lie in a file system that was mounted just before.
    fn open(&self, target: &Target) -> io::Result<Place> {
        if target.symlinks == Symlinks::Refuse {
            let (directory, name) = target::split(&target.path)?;
            if let Some((_, directory)) = self.mounted.iter().rfind(|(path, _)| *path == directory) {
                return target::open_in(directory.as_fd(), &name, target.kind);
            }
        }
        target::open(self.root(), target)
    }

    /// Changes flags of what has been mounted at `target`, and remembers it.
    fn settle(&mut self, mounted: OwnedFd, target: &Target, flags: &MountFlags) -> io::Result<()> {
        apply(mounted.as_fd(), flags)?;
        // What lies below is out of sight now.
        let below = [target.path.to_bytes(), b"/"].concat();
        self.mounted.retain(|(path, _)| !path.to_bytes().starts_with(&below));
        self.mounted.push((target.path.clone(), mounted));
        Ok(())
    }

    /// What was last mounted at `target`, or else lies there.
    fn known(&self, target: &Target) -> io::Result<OwnedFd> {
        match self.mounted.iter().rfind(|(path, _)| *path == target.path) {
            Some((_, mounted)) => mounted.try_clone(),
            None => target::open(self.root(), target).map(|place| place.point),
        }
    }

    /// Mounts files with given contents.
    fn files(&self, files: &[(Target, Vec<u8>)]) -> io::Result<()> {
        let Some(home) = &self.home else { return Ok(()) };
        for (index, (target, content)) in files.iter().enumerate() {
            let name = c_string(format!("file{index}").as_bytes())?;
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
            let file = file::open_beneath(home.as_fd(), &name, flags, 0o644, Resolve::NoSymlinks)?;
            let mut file = std::fs::File::from(file);
            file.write_all(content)?;
            bind(file.as_fd(), target::open(self.root(), target)?.point.as_fd(), false)?;
        }
        Ok(())
    }

    /// Makes a terminal in the container's devpts, sends its master to the parent, mounts the other end on
    /// `/dev/console` and returns it.
    pub(super) fn console(&self, size: Option<Size>, channel: &Channel) -> io::Result<OwnedFd> {
        let master = file::open_beneath(
            self.root(),
            c"dev/pts/ptmx",
            OFlag::O_RDWR | OFlag::O_NOCTTY,
            0,
            Resolve::NoSymlinks,
        )?;
        // Where a mount has replaced `/dev`, this may be anything.
        if fstatfs(&master)?.filesystem_type() != DEVPTS_MAGIC {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOTTY));
        }
        let peer = terminal::open_peer(master.as_fd())?;
        if let Some(size) = size {
            terminal::set_size(master.as_fd(), size)?;
        }
        let target =
            Target { path: c"dev/console".into(), kind: TargetKind::File, symlinks: Symlinks::Refuse };
        bind(peer.as_fd(), self.open(&target)?.point.as_fd(), false)?;
        channel.send_console(&master)?;
        Ok(peer)
    }
}

/// A tmpfs whose mode nobody has given has that of the directory which it covers, as with other runtimes.
fn mode_of(place: &Place, options: &[FsOption]) -> io::Result<Option<FsOption>> {
    let is_mode = |option: &FsOption| matches!(option, FsOption::Value(key, _) if key.as_c_str() == c"mode");
    if place.is_new || options.iter().any(is_mode) {
        return Ok(None);
    }
    let mode = nix::sys::stat::fstat(&place.point)?.st_mode & 0o7777;
    Ok(Some(FsOption::Value(c"mode".into(), c_string(format!("{mode:o}").as_bytes())?)))
}

/// Mounts what `source` has open in this mount namespace on `point` too. Returns its root, where the kernel hands that out.
fn bind(source: BorrowedFd<'_>, point: BorrowedFd<'_>, recursive: bool) -> io::Result<Option<OwnedFd>> {
    let modern = mount::clone_tree(source, c"", recursive).and_then(|copy| {
        mount::attach(copy.as_fd(), point)?;
        Ok(copy)
    });
    match modern {
        Err(error) if mount::is_refusal(&error) => {
            mount::bind_legacy(source, point, recursive).map(|()| None)
        }
        other => other.map(Some),
    }
}

/// The same for a path of this mount namespace, with what is mounted below.
fn bind_path(source: &Path, point: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let path = c_path(source).map_err(|_| Errno::EINVAL)?;
    match mount::clone_tree(AT_FDCWD, &path, true) {
        Ok(copy) if attach(copy.as_fd(), point)? => Ok(Some(copy)),
        Err(error) if !mount::is_refusal(&error) => Err(error),
        _ => bind(prepare::open_path(source)?.as_fd(), point, true),
    }
}

/// Attaches a mount, unless the kernel has no call for it or refuses it.
fn attach(mount: BorrowedFd<'_>, point: BorrowedFd<'_>) -> io::Result<bool> {
    match mount::attach(mount, point) {
        Ok(()) => Ok(true),
        Err(error) if mount::is_refusal(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The same for the container's cgroup, or, where none could be made for it, the one that this process is in.
fn bind_cgroup(hierarchy: &Path, path: &Path, point: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match bind_path(&hierarchy.join(path), point) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let table = std::fs::read_to_string("/proc/self/cgroup")?;
            bind_path(&cgroup::directory_of(&table, hierarchy).ok_or(error)?, point)
        }
        other => other,
    }
}

/// Changes flags and propagation of a mount, in as few calls as can be.
fn apply(mounted: BorrowedFd<'_>, flags: &MountFlags) -> io::Result<()> {
    let MountFlags { set, clear, set_below, clear_below, propagation } = flags;
    let mut own = Change { set: *set, clear: *clear, propagation: None };
    let mut below = Change { set: *set_below, clear: *clear_below, propagation: None };
    match propagation[..] {
        [Propagate { to, recursive: true }] => below.propagation = Some(to),
        [Propagate { to, recursive: false }] => own.propagation = Some(to),
        _ => {
            for Propagate { to, recursive } in propagation {
                mount::change(mounted, &(*to).into(), *recursive)?;
            }
        }
    }
    for (change, recursive) in [(below, true), (own, false)] {
        if change != Change::default() {
            mount::change(mounted, &change, recursive)?;
        }
    }
    Ok(())
}

/// A descriptor of what has been mounted, seen to be of the file system that it has to be.
fn verified(mounted: &OwnedFd, magic: FsType) -> io::Result<OwnedFd> {
    if fstatfs(mounted)?.filesystem_type() == magic { mounted.try_clone() } else { Err(Errno::EXDEV.into()) }
}

/// Whether a procfs shows the processes of this PID namespace: then it calls this one by its id here.
fn is_of_own_processes(proc: &OwnedFd) -> io::Result<bool> {
    match nix::fcntl::readlinkat(proc, c"self") {
        Ok(own) => Ok(own.to_str() == Some(&nix::unistd::getpid().to_string())),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| Errno::EINVAL.into())
}

/// Documented nowhere but in the kernel's `include/uapi/linux/magic.h`.
const DEVPTS_MAGIC: FsType = FsType(0x1cd1);
