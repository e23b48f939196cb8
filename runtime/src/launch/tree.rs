//! Carries out the steps of a plan in the container's file tree.
//!
//! Runs in: child, before pivot, with CAP_SYS_ADMIN over its mount namespace. Mount points are opened below the root's
//! descriptor, never by path, and mounted on by descriptor; what is missing is made on the way. What has been mounted is
//! known by the descriptor that the kernel gave for it, and found again by its path only where there was none.

mod copy_up;
mod hide;
mod target;

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, fstatat, makedev, mknodat};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use skiff_sys::device_filter::Kind;
use skiff_sys::file::{self, Resolve};
use skiff_sys::mount::{self, Attr, Change, FsOption, Propagation};
use skiff_sys::terminal::{self, Size};

use target::Place;

use super::prepare::{self, Prepared, Source};
use super::sync::Channel;
use super::{note, overlay};
use crate::cgroup;
use crate::host::Node;
use crate::plan::{
    ChangeRoot, MountFlags, Plan, Propagate, Root, Step, Symlinks, Target, TargetKind, Upper, c_path,
};

/// The container's tree while it is being put together.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    plan: &'a Plan,
    prepared: &'a Prepared,
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
    /// Keeps what is mounted in this mount namespace from reaching the host. What the host mounts still arrives if any of
    /// it is to do so in the container, and is to be mounted by path.
    pub(super) fn part_from_host(plan: &Plan) -> io::Result<()> {
        let reaches = |change: &Propagate| matches!(change.to, Propagation::Slave | Propagation::Shared);
        let binds = plan.steps.iter().filter_map(|step| match step {
            Step::Bind { flags, .. } => Some(&flags.propagation),
            _ => None,
        });
        let mut all = binds.flatten().chain(&plan.root.propagation);
        let to = if all.any(reaches) { MsFlags::MS_SLAVE } else { MsFlags::MS_PRIVATE };
        let flags = MsFlags::MS_REC | to;
        Ok(nix::mount::mount(None::<&CStr>, c"/", None::<&CStr>, flags, None::<&CStr>)?)
    }

    /// Mounts the root on a directory of skiff's own and opens it; a bundle's on itself, where hooks look for it.
    pub(super) fn mount_root(plan: &'a Plan, prepared: &'a Prepared) -> io::Result<Self> {
        let path = match (&plan.root.layers[..], plan.root.upper) {
            ([only], Upper::Direct) => only,
            _ => &plan.run_root,
        };
        let staging = prepare::open_path(path)?;
        let home = if needs_home(plan) { Some(mount_home(path, staging.as_fd())?) } else { None };
        let point = home.as_ref().unwrap_or(&staging).as_fd();
        let attached = match &prepared.root {
            Some(root) if is_better_here(plan, root) => mount_root_here(plan, point)?,
            Some(root) if attach(root.as_fd(), point)? => Some(root.try_clone()?),
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
                self.bind(source, found, target, flags, *recursive)
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
        path: &Path,
        source: &Source,
        target: &Target,
        flags: &MountFlags,
        recursive: bool,
    ) -> io::Result<()> {
        let target = Target { kind: source.as_target(target.kind), ..target.clone() };
        let is_shared = flags.propagation.iter().any(|change| change.to == Propagation::Shared);
        // The mounts of this namespace keep a user namespace from lifting the flags that the host has given them.
        let keeps_flags = self.in_user_namespace() && !source.is_mapped() && !is_shared;
        let own = if keeps_flags { source.find(path).ok() } else { None };
        let mounted = self.place(&target, |point| match (own, source.copy()) {
            (Some(own), _) => bind(own.as_fd(), point, recursive),
            (None, Some(copy)) if attach(copy, point)? => copy.try_clone_to_owned().map(Some),
            // These mounts no longer share anything with the host's, which in a user namespace they could not either; and
            // their owners are the host's.
            _ if source.is_mapped() || is_shared && self.plan.users.is_none() => Err(Errno::ENOSYS.into()),
            _ => bind(source.find(path)?.as_fd(), point, recursive),
        })?;
        if target.path.as_c_str() == c"proc" {
            // Nothing else may be mounted there: what lies there decides what is hidden.
            self.proc = Some(verified(&mounted, PROC_SUPER_MAGIC)?);
        }
        self.settle(mounted, &target, flags)
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

    /// Makes a device node. Where that is not allowed, in a user namespace (`EPERM`), binds the host's on a file.
    fn node(&mut self, node: &Node, hosts: Option<&Source>) -> io::Result<()> {
        let path = c_relative(&node.target)?;
        let (parent, name) = self.open_parent(&path)?;
        if hosts.is_some() {
            return bind_node(node, hosts, parent, &name);
        }
        let kind = if node.kind == Kind::Block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
        let mode = Mode::from_bits_truncate(node.mode);
        let number = makedev(node.major.into(), node.minor.into());
        match mknodat(parent, name.as_c_str(), kind, mode, number) {
            Ok(()) => give(parent, &name, node.uid, node.gid),
            Err(Errno::EEXIST) => is_there(parent, &name, kind, number),
            Err(Errno::EPERM) => bind_node(node, None, parent, &name),
            Err(error) => Err(error.into()),
        }
    }

    fn fifo(&mut self, path: &CStr, mode: u32, (uid, gid): (u32, u32)) -> io::Result<()> {
        let (parent, name) = self.open_parent(path)?;
        match mknodat(parent, name.as_c_str(), SFlag::S_IFIFO, Mode::from_bits_truncate(mode), 0) {
            Err(Errno::EEXIST) => is_there(parent, &name, SFlag::S_IFIFO, 0),
            Err(error) => Err(error.into()),
            Ok(()) => give(parent, &name, uid, gid),
        }
    }

    fn symlink(&mut self, content: &CStr, path: &CStr) -> io::Result<()> {
        let (parent, name) = self.open_parent(path)?;
        match nix::unistd::symlinkat(content, parent, name.as_c_str()) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory that `path` lies in, made if it is missing, and the last part of the name.
    fn open_parent(&mut self, path: &CStr) -> io::Result<(BorrowedFd<'_>, CString)> {
        let (directory, name) = target::split(path)?;
        let parent = match self.parent.take() {
            Some((known, parent)) if known == directory => parent,
            _ => {
                let (path, kind) = (directory.clone(), TargetKind::Directory);
                self.known(&Target { path, kind, symlinks: Symlinks::Refuse })?
            }
        };
        Ok((self.parent.insert((directory, parent)).1.as_fd(), name))
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
        if fstatfs(&master)?.filesystem_type().0 != DEVPTS_MAGIC {
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

    /// Makes the root `/` of this process, with the host's tree out of reach, and lets mounts travel as planned.
    pub(super) fn become_root(&self) -> io::Result<()> {
        match self.plan.root.change {
            ChangeRoot::Pivot => pivot(self.root())?,
            ChangeRoot::Move => move_over(self.root())?,
        }
        match self.plan.root.propagation {
            // Not before: what is shared cannot be pivoted to.
            Some(Propagate { to: to @ (Propagation::Shared | Propagation::Unbindable), .. }) => {
                mount::change(self.root(), &to.into(), false)
            }
            _ => Ok(()),
        }
    }
}

/// pivot_root(2): with both arguments `.` the old root ends up on top of the new one, from where it is unmounted, so no
/// directory is needed for it.
fn pivot(root: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::fchdir(root)?;
    nix::unistd::pivot_root(c".", c".")?;
    nix::mount::umount2(c".", nix::mount::MntFlags::MNT_DETACH)?;
    Ok(nix::unistd::chdir(c"/")?)
}

/// Moves `root` over `/`. The host's root stays below it, where no path leads; everything mounted in that is detached, so
/// that whoever gets there finds as little as can be.
fn move_over(root: BorrowedFd<'_>) -> io::Result<()> {
    let old = file::open(c"/", OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    move_mount(root, old.as_fd())?;
    nix::unistd::fchdir(&old)?;
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        let below = point.trim_start_matches('/');
        if !below.is_empty() {
            // Those below one that has gone have gone with it (`ENOENT`, `EINVAL`), and a name may need no unescaping.
            let _gone = nix::mount::umount2(below, nix::mount::MntFlags::MNT_DETACH);
        }
    }
    nix::unistd::fchdir(root)?;
    nix::unistd::chroot(c".")?;
    Ok(nix::unistd::chdir(c"/")?)
}

/// Moves an attached mount. move_mount(2), else mount(2).
fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    if attach(from, to)? {
        return Ok(());
    }
    let path = file::proc_fd_path(from);
    let flags = MsFlags::MS_MOVE;
    Ok(nix::mount::mount(Some(path.as_c_str()), c"/", None::<&CStr>, flags, None::<&CStr>)?)
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

/// Whether anything lies beside the root.
fn needs_home(plan: &Plan) -> bool {
    let is_files = |step: &Step| matches!(step, Step::Files(files) if !files.is_empty());
    plan.root.upper == Upper::Memory || plan.steps.iter().any(is_files)
}

fn mount_home(path: &Path, staging: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mode = [FsOption::Value(c"mode".into(), c"755".into())];
    match mount::mount_new(c"tmpfs", None, &mode, Attr::NOSUID.with(Attr::NODEV), staging)? {
        Some(home) => Ok(home),
        None => prepare::open_path(path),
    }
}

/// Whether a bundle's root is taken from this mount namespace although there is a copy of the host's: for its flags.
fn is_better_here(plan: &Plan, copy: &OwnedFd) -> bool {
    let is_same = |path: &Path| {
        prepare::open_path(path)
            .and_then(|found| prepare::is_same_file(found.as_fd(), copy.as_fd()))
            .unwrap_or(false)
    };
    prepare::in_user_namespace(plan)
        && plan.root.upper == Upper::Direct
        && plan.root.layers.iter().all(|layer| is_same(layer))
}

/// Makes the root in this mount namespace, by path, and mounts it on `point`.
fn mount_root_here(plan: &Plan, point: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let Root { layers, upper, .. } = &plan.root;
    if layers.is_empty() {
        let mode = [FsOption::Value(c"mode".into(), c"755".into())];
        return mount::mount_new(c"tmpfs", None, &mode, Attr::NONE, point);
    }
    let opened = prepare::open_layers(&plan.root)?;
    match (upper, &opened[..]) {
        (Upper::None, [only]) => return bind(only.as_fd(), point, false),
        (Upper::Direct, [only]) => return bind(only.as_fd(), point, true),
        _ => {}
    }
    let writable = match upper {
        Upper::None | Upper::Direct => None,
        Upper::Disk => Some(prepare::open_path(&note::writable(&plan.state_root, &plan.id))?),
        Upper::Memory => {
            overlay::make_writable(point)?;
            Some(point.try_clone_to_owned()?)
        }
    };
    let writable = writable.as_ref().map(AsFd::as_fd);
    let options = overlay::options(*upper, plan.users.is_some());
    // A kernel that does not take layers by descriptor says so in many ways; the older interface tells what is wrong.
    let modern = overlay::mount(&opened, writable, &options).and_then(|root| {
        mount::attach(root.as_fd(), point)?;
        Ok(root)
    });
    match modern {
        Ok(root) => Ok(Some(root)),
        Err(_) => overlay::mount_legacy(&opened, writable, &options, point).map(|()| None),
    }
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

/// Makes sure that what has its name already is the node that is to be there.
fn is_there(parent: BorrowedFd<'_>, name: &CStr, kind: SFlag, number: u64) -> io::Result<()> {
    let found = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let is_same = found.st_mode & SFlag::S_IFMT.bits() == kind.bits() && found.st_rdev == number;
    if is_same { Ok(()) } else { Err(Errno::EEXIST.into()) }
}

/// Gives a node that has just been made to its owner. What root makes is root's.
fn give(parent: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
    let (uid, gid) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(gid));
    Ok(nix::unistd::fchownat(parent, name, Some(uid), Some(gid), flags)?)
}

/// Binds the host's node on a file `name` in `parent`: what the parent has found of it, else what lies at its path.
fn bind_node(node: &Node, found: Option<&Source>, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
    file::open_beneath(parent, name, flags, 0o666, Resolve::NoSymlinks)?;
    let point = file::open_beneath(parent, name, OFlag::O_PATH, 0, Resolve::NoSymlinks)?;
    if let Some(copy) = found.and_then(Source::copy) {
        prepare::check_node(copy, node)?;
        if attach(copy, point.as_fd())? {
            return Ok(());
        }
    }
    let source = prepare::open_path(&node.source)?;
    prepare::check_node(source.as_fd(), node)?;
    bind(source.as_fd(), point.as_fd(), false).map(drop)
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| Errno::EINVAL.into())
}

fn c_relative(path: &Path) -> io::Result<CString> {
    c_path(path.strip_prefix("/").unwrap_or(path)).map_err(|_| Errno::EINVAL.into())
}

/// Documented nowhere but in the kernel's `include/uapi/linux/magic.h`.
const DEVPTS_MAGIC: nix::libc::c_long = 0x1cd1;
