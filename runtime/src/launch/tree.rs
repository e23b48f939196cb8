//! Carries out the steps of a plan in the container's file tree.
//!
//! Runs in: child, before pivot, with CAP_SYS_ADMIN over its mount namespace. Mount points are opened below the root's
//! descriptor, never by path, and mounted on by descriptor; what is missing is made on the way.

use std::ffi::{CStr, CString, OsStr};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use skiff_sys::device_filter::Kind;
use skiff_sys::file::{self, Resolve};
use skiff_sys::mount::{self, Attr, FsOption, Propagation};
use skiff_sys::terminal::{self, Size};

use super::prepare::{self, Prepared};
use super::sync::Channel;
use super::{note, overlay};
use crate::host::Node;
use crate::plan::{Plan, Root, Step, Symlinks, Target, TargetKind, Upper, c_path, relative};

/// The container's tree while it is being put together.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    plan: &'a Plan,
    prepared: &'a Prepared,
    root: OwnedFd,
    /// A tmpfs below the root's mount point, out of the container's sight: files that are bound into it lie here, and
    /// the writable layer of a root that keeps it in memory.
    home: OwnedFd,
    /// The directory of the last node or symlink: they come in rows.
    parent: Option<(CString, OwnedFd)>,
    /// The container's procfs and sysfs, by the descriptors with which they were mounted: whatever is mounted over
    /// parts of them later, these show the file systems themselves (CVE-2025-52881).
    proc: Option<OwnedFd>,
    sys: Option<OwnedFd>,
    /// A read-only empty directory, once one has been mounted, to hide others with.
    nothing: Option<OwnedFd>,
    /// A mount of `/dev/null`.
    null: Option<OwnedFd>,
}

impl<'a> Tree<'a> {
    /// Mounts the root on a directory of skiff's own and opens it.
    pub(super) fn mount_root(plan: &'a Plan, prepared: &'a Prepared) -> io::Result<Self> {
        let staging = prepare::open_path(&plan.run_root)?;
        let mode = [FsOption::Value(c"mode".into(), c"755".into())];
        mount::mount_new(c"tmpfs", &mode, Attr::NOSUID.with(Attr::NODEV), staging.as_fd())?;
        let home = prepare::open_path(&plan.run_root)?;
        let attached = match &prepared.root {
            Some(root) => match mount::attach(root.as_fd(), home.as_fd()) {
                Err(error) if mount::is_refusal(&error) => false,
                other => other.map(|()| true)?,
            },
            None => false,
        };
        if !attached {
            mount_root_here(plan, home.as_fd())?;
        }
        let root = prepare::open_path(&plan.run_root)?;
        Ok(Self {
            plan,
            prepared,
            root,
            home,
            parent: None,
            proc: None,
            sys: None,
            nothing: None,
            null: None,
        })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The container's procfs, if it has one of its own.
    pub(super) fn proc(&self) -> io::Result<BorrowedFd<'_>> {
        self.proc.as_ref().map(AsFd::as_fd).ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENOENT))
    }

    /// Carries out step `index`.
    pub(super) fn step(&mut self, index: usize) -> io::Result<()> {
        let step = &self.plan.steps[index];
        if !matches!(step, Step::Node(_) | Step::Symlink { .. }) {
            self.parent = None;
        }
        match step {
            Step::Filesystem { fstype, options, flags, target, source: _, copy_up: _ } => {
                self.filesystem(fstype, options, flags.set, target)
            }
            Step::Bind { source, target, flags, recursive, create: _, id_map: _ } => {
                let point = self.open_target(target)?;
                let copy = self.prepared.sources[index].as_ref();
                let propagation = flags.propagation.last().map_or(Propagation::Private, |change| change.to);
                bind(source, copy, point.as_fd(), *recursive, propagation)?;
                if target.path.as_c_str() == c"proc" {
                    // The host's, in a user namespace that shares its PID namespace; nothing else may be mounted there.
                    self.proc = Some(self.open_kernel_files(target, PROC_SUPER_MAGIC)?);
                }
                self.restrict(target, flags.set, false)?;
                self.restrict(target, flags.set_below, true)
            }
            Step::Remount { .. } => Err(Errno::ENOSYS.into()),
            Step::Directory(target) => self.open_target(target).map(drop),
            Step::Volume { target, attr } => {
                let fd = self.open_target(target)?;
                bind_again(fd.as_fd(), fd.as_fd())?;
                let mounted = self.open_target(target)?;
                restrict(mounted.as_fd(), *attr, false)
            }
            Step::Node(node) => self.node(node),
            Step::Fifo { target, mode, uid, gid } => self.fifo(&target.path, *mode, (*uid, *gid)),
            Step::Symlink { content, path } => self.symlink(content, path),
            Step::Files(files) => self.files(files),
            Step::ReadOnlyMount(target) => {
                mount::restrict(self.open_target(target)?.as_fd(), Attr::RDONLY, false)
            }
        }
    }

    fn filesystem(
        &mut self,
        fstype: &CStr,
        options: &[FsOption],
        attr: Attr,
        target: &Target,
    ) -> io::Result<()> {
        let point = self.open_target(target)?;
        mount::mount_new(fstype, options, attr, point.as_fd())?;
        match (fstype.to_bytes(), target.path.to_bytes()) {
            (b"proc", b"proc") => self.proc = Some(self.open_kernel_files(target, PROC_SUPER_MAGIC)?),
            (b"sysfs", b"sys") => self.sys = Some(self.open_kernel_files(target, SYSFS_MAGIC)?),
            _ => {}
        }
        Ok(())
    }

    /// Opens the procfs or sysfs that has just been mounted at `target`.
    fn open_kernel_files(&self, target: &Target, magic: FsType) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let opened = file::open_beneath(self.root.as_fd(), &target.path, flags, 0, Resolve::NoSymlinks)?;
        if fstatfs(&opened)?.filesystem_type() == magic {
            Ok(opened)
        } else {
            Err(io::Error::from_raw_os_error(nix::libc::EXDEV))
        }
    }

    /// Adds flags to what has been mounted at `target`, if there are any.
    fn restrict(&self, target: &Target, attr: Attr, recursive: bool) -> io::Result<()> {
        if attr.is_empty() {
            return Ok(());
        }
        restrict(self.open_target(target)?.as_fd(), attr, recursive)
    }

    /// Opens a mount point below the root and makes it if it is missing.
    fn open_target(&self, target: &Target) -> io::Result<OwnedFd> {
        let resolve = match target.symlinks {
            Symlinks::InRoot => Resolve::InRoot,
            Symlinks::Refuse => Resolve::NoSymlinks,
        };
        let kind = match target.kind {
            TargetKind::Directory => OFlag::O_DIRECTORY,
            TargetKind::File | TargetKind::AsSource => OFlag::empty(),
        };
        let open = || file::open_beneath(self.root(), &target.path, OFlag::O_PATH | kind, 0, resolve);
        let point = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make(target, resolve)?;
                open()
            }
            other => other,
        }?;
        // A symlink of the image may lead into the procfs, which a path by name is refused for when planned.
        if target.symlinks == Symlinks::InRoot && fstatfs(&point)?.filesystem_type() == PROC_SUPER_MAGIC {
            return Err(io::Error::from_raw_os_error(nix::libc::EXDEV));
        }
        Ok(point)
    }

    /// Makes the directories on the way to `target`, and the target itself.
    fn make(&self, target: &Target, resolve: Resolve) -> io::Result<()> {
        let mut links = MAX_LINKS;
        self.make_path(target.path.to_bytes(), target.kind, resolve, &mut links)
    }

    /// The same, by way of at most `links` symlinks in all: what one of them leads to is made as well, for images have such as
    /// `/etc/resolv.conf` → `../run/systemd/resolve/stub-resolv.conf`.
    fn make_path(&self, path: &[u8], kind: TargetKind, resolve: Resolve, links: &mut u8) -> io::Result<()> {
        let mut parent = self.root.try_clone()?;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            let name = c_string(&path[start..end])?;
            let kind = if end == path.len() { kind } else { TargetKind::Directory };
            match nix::fcntl::readlinkat(&parent, name.as_c_str()) {
                Ok(_) if resolve == Resolve::InRoot && *links == 0 => return Err(Errno::ELOOP.into()),
                Ok(content) if resolve == Resolve::InRoot => {
                    *links -= 1;
                    let leads_to = Path::new("/").join(OsStr::from_bytes(&path[..start])).join(content);
                    let leads_to = relative(&leads_to).map_err(|_| Errno::EINVAL)?;
                    self.make_path(leads_to.as_os_str().as_bytes(), kind, resolve, links)?;
                }
                _ => make_entry(parent.as_fd(), &name, kind)?,
            }
            if end < path.len() {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
                parent = file::open_beneath(self.root(), &c_string(&path[..end])?, flags, 0, resolve)?;
            }
        }
        Ok(())
    }

    /// Makes a device node; where that is not allowed (`EPERM`, in a user namespace), binds the host's on a file.
    fn node(&mut self, node: &Node) -> io::Result<()> {
        let path = c_relative(&node.target)?;
        let (parent, name) = self.open_parent(&path)?;
        let kind = if node.kind == Kind::Block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
        let mode = Mode::from_bits_truncate(node.mode);
        let number = makedev(node.major.into(), node.minor.into());
        match mknodat(parent, name.as_c_str(), kind, mode, number) {
            Ok(()) => give(parent, &name, node.uid, node.gid),
            // As other runtimes have it: in a `/dev` that is not new, what is there is meant.
            Err(Errno::EEXIST) => Ok(()),
            Err(Errno::EPERM) => bind_node(node, parent, &name),
            Err(error) => Err(error.into()),
        }
    }

    fn fifo(&mut self, path: &CStr, mode: u32, (uid, gid): (u32, u32)) -> io::Result<()> {
        let (parent, name) = self.open_parent(path)?;
        match mknodat(parent, name.as_c_str(), SFlag::S_IFIFO, Mode::from_bits_truncate(mode), 0) {
            Err(Errno::EEXIST) => Ok(()),
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
        let bytes = path.to_bytes();
        let slash = bytes.iter().rposition(|byte| *byte == b'/');
        let (directory, name) = match slash {
            Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
            None => (&b"."[..], bytes),
        };
        if self.parent.as_ref().is_none_or(|(known, _)| known.to_bytes() != directory) {
            let path = c_string(directory)?;
            let target =
                Target { path: path.clone(), kind: TargetKind::Directory, symlinks: Symlinks::Refuse };
            self.parent = Some((path, self.open_target(&target)?));
        }
        match &self.parent {
            Some((_, parent)) => Ok((parent.as_fd(), c_string(name)?)),
            None => Err(io::Error::from_raw_os_error(nix::libc::ENOENT)),
        }
    }

    /// Mounts files with given contents.
    fn files(&self, files: &[(Target, Vec<u8>)]) -> io::Result<()> {
        for (index, (target, content)) in files.iter().enumerate() {
            let name = c_string(format!("file{index}").as_bytes())?;
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
            let file = file::open_beneath(self.home.as_fd(), &name, flags, 0o644, Resolve::NoSymlinks)?;
            let mut file = std::fs::File::from(file);
            file.write_all(content)?;
            bind_again(file.as_fd(), self.open_target(target)?.as_fd())?;
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
        bind_again(peer.as_fd(), self.open_target(&target)?.as_fd())?;
        channel.send_console(&master)?;
        Ok(peer)
    }

    /// Hides a path below `/proc` or `/sys`: a directory behind an empty one, anything else behind the null device.
    pub(super) fn mask(&mut self, path: &CStr) -> io::Result<()> {
        let Some(point) = self.open_hidden(path)? else { return Ok(()) };
        let mode = nix::sys::stat::fstat(&point)?.st_mode;
        if mode & nix::libc::S_IFMT != nix::libc::S_IFDIR {
            return self.hide_file(point.as_fd(), path);
        }
        match &self.nothing {
            Some(nothing) => bind_again(nothing.as_fd(), point.as_fd()),
            None => {
                let attr = Attr::RDONLY.with(Attr::NOSUID).with(Attr::NODEV).with(Attr::NOEXEC);
                let options = [FsOption::Value(c"nr_inodes".into(), c"1".into())];
                mount::mount_new(c"tmpfs", &options, attr, point.as_fd())?;
                self.nothing = self.open_mounted(path)?;
                Ok(())
            }
        }
    }

    fn hide_file(&mut self, point: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
        if let Some(null) = &self.null {
            return bind_again(null.as_fd(), point);
        }
        match &self.prepared.null_mount {
            Some(null) => match mount::attach(null.as_fd(), point) {
                Err(error) if mount::is_refusal(&error) => self.bind_null(point)?,
                other => other?,
            },
            None => self.bind_null(point)?,
        }
        self.null = self.open_mounted(path)?;
        Ok(())
    }

    /// Binds the host's `/dev/null`, found again in this mount namespace and seen to be the same file.
    fn bind_null(&self, point: BorrowedFd<'_>) -> io::Result<()> {
        let null = prepare::open_path(Path::new("/dev/null"))?;
        if !prepare::is_same_file(Path::new("/dev/null"), self.prepared.null.as_fd())? {
            return Err(io::Error::from_raw_os_error(nix::libc::ESTALE));
        }
        bind_again(null.as_fd(), point)
    }

    /// Makes a path below `/proc` or `/sys` read-only, with what is mounted below it.
    pub(super) fn read_only(&mut self, path: &CStr) -> io::Result<()> {
        let Some(point) = self.open_hidden(path)? else { return Ok(()) };
        let modern = mount::clone_tree(point.as_fd(), c"", true).and_then(|copy| {
            mount::set_attr(copy.as_fd(), Attr::RDONLY, true)?;
            mount::attach(copy.as_fd(), point.as_fd())
        });
        match modern {
            Err(error) if mount::is_refusal(&error) => {}
            other => return other,
        }
        bind_tree(point.as_fd(), point.as_fd())?;
        let Some(mounted) = self.open_mounted(path)? else { return Ok(()) };
        mount::restrict(mounted.as_fd(), Attr::RDONLY, true)
    }

    /// Opens a path below the container's own procfs or sysfs, crossing no mount; `None` if it is not there.
    fn open_hidden(&self, path: &CStr) -> io::Result<Option<OwnedFd>> {
        let (base, below) = self.split(path)?;
        let Some(base) = base else { return Ok(None) };
        match file::open_beneath(base, &below, OFlag::O_PATH, 0, Resolve::NoXdev) {
            Ok(found) => Ok(Some(found)),
            // Not there, or the caller has mounted something of their own on it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.raw_os_error() == Some(nix::libc::EXDEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens what has just been mounted at `path`.
    fn open_mounted(&self, path: &CStr) -> io::Result<Option<OwnedFd>> {
        let (base, below) = self.split(path)?;
        let Some(base) = base else { return Ok(None) };
        file::open_beneath(base, &below, OFlag::O_PATH, 0, Resolve::NoSymlinks).map(Some)
    }

    /// The file system that `path` (`proc/…` or `sys/…`) lies in, if the container has its own, and the rest.
    fn split(&self, path: &CStr) -> io::Result<(Option<BorrowedFd<'_>>, CString)> {
        let bytes = path.to_bytes();
        let slash = bytes.iter().position(|byte| *byte == b'/').unwrap_or(bytes.len());
        let base = match &bytes[..slash] {
            b"proc" => &self.proc,
            _ => &self.sys,
        };
        Ok((base.as_ref().map(AsFd::as_fd), c_string(bytes.get(slash + 1..).unwrap_or_default())?))
    }
}

/// Makes a directory or an empty file if there is nothing of that name.
fn make_entry(parent: BorrowedFd<'_>, name: &CStr, kind: TargetKind) -> io::Result<()> {
    let made = match kind {
        TargetKind::Directory => {
            mkdirat(parent, name, Mode::from_bits_truncate(0o755)).map_err(io::Error::from)
        }
        TargetKind::File | TargetKind::AsSource => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
            file::open_beneath(parent, name, flags, 0o644, Resolve::NoSymlinks).map(drop)
        }
    };
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Gives a node that has just been made to its owner. What root makes is root's.
fn give(parent: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    let (uid, gid) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(gid));
    Ok(nix::unistd::fchownat(parent, name, Some(uid), Some(gid), flags)?)
}

/// Binds the host's node on a file `name` in `parent`.
fn bind_node(node: &Node, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
    file::open_beneath(parent, name, flags, 0o666, Resolve::NoSymlinks)?;
    let point = file::open_beneath(parent, name, OFlag::O_PATH, 0, Resolve::NoSymlinks)?;
    let source = prepare::open_path(&node.source)?;
    let found = nix::sys::stat::fstat(&source)?;
    if found.st_rdev != makedev(node.major.into(), node.minor.into()) {
        return Err(io::Error::from_raw_os_error(nix::libc::ENODEV));
    }
    bind_again(source.as_fd(), point.as_fd())
}

/// Makes the root in this mount namespace, by path, and mounts it on `home`.
fn mount_root_here(plan: &Plan, home: BorrowedFd<'_>) -> io::Result<()> {
    let Root { layers, upper, .. } = &plan.root;
    if layers.is_empty() {
        let mode = [FsOption::Value(c"mode".into(), c"755".into())];
        return mount::mount_new(c"tmpfs", &mode, Attr::NONE, home);
    }
    let opened = prepare::open_layers(&plan.root)?;
    match (upper, &opened[..]) {
        (Upper::None, [only]) => return bind_again(only.as_fd(), home),
        (Upper::Direct, [only]) => return bind_tree(only.as_fd(), home),
        _ => {}
    }
    let writable = match upper {
        Upper::None | Upper::Direct => None,
        Upper::Disk => Some(prepare::open_path(&note::writable(&plan.state_root, &plan.id))?),
        Upper::Memory => {
            overlay::make_writable(home)?;
            Some(home.try_clone_to_owned()?)
        }
    };
    let writable = writable.as_ref().map(AsFd::as_fd);
    let options = overlay::options(*upper, plan.users.is_some());
    // A kernel that does not take layers by descriptor says so in many ways; the older interface tells what is wrong.
    match overlay::mount(&opened, writable, &options).and_then(|root| mount::attach(root.as_fd(), home)) {
        Ok(()) => Ok(()),
        Err(_) => overlay::mount_legacy(&opened, writable, &options, home),
    }
}

/// Mounts `source` on `target`: the detached copy that the parent has made of it or, without one, what lies at that
/// path in this mount namespace.
fn bind(
    source: &Path,
    copy: Option<&OwnedFd>,
    target: BorrowedFd<'_>,
    recursive: bool,
    propagation: Propagation,
) -> io::Result<()> {
    if let Some(copy) = copy {
        match mount::attach(copy.as_fd(), target) {
            Err(error) if mount::is_refusal(&error) => {}
            other => {
                other?;
                return mount::set_propagation(copy.as_fd(), propagation);
            }
        }
    }
    if propagation != Propagation::Private {
        // This namespace's mounts no longer share anything with the host's.
        return Err(io::Error::from_raw_os_error(nix::libc::ENOSYS));
    }
    let source = prepare::open_path(source)?;
    if recursive { bind_tree(source.as_fd(), target) } else { bind_again(source.as_fd(), target) }
}

/// Mounts what `source` has open in this mount namespace on `target` too.
fn bind_again(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    bind_here(source, target, false)
}

/// The same, with the mounts below it.
fn bind_tree(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    bind_here(source, target, true)
}

fn bind_here(source: BorrowedFd<'_>, target: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let modern =
        mount::clone_tree(source, c"", recursive).and_then(|copy| mount::attach(copy.as_fd(), target));
    match modern {
        Err(error) if mount::is_refusal(&error) => mount::bind_legacy(source, target, recursive),
        other => other,
    }
}

fn restrict(mounted: BorrowedFd<'_>, attr: Attr, recursive: bool) -> io::Result<()> {
    if attr.is_empty() { Ok(()) } else { mount::restrict(mounted, attr, recursive) }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(nix::libc::EINVAL))
}

fn c_relative(path: &Path) -> io::Result<CString> {
    c_path(path.strip_prefix("/").unwrap_or(path))
        .map_err(|_| io::Error::from_raw_os_error(nix::libc::EINVAL))
}

/// As many symlinks on one way as the kernel follows. path_resolution(7).
const MAX_LINKS: u8 = 40;

/// Documented nowhere but in the kernel's `include/uapi/linux/magic.h`.
const DEVPTS_MAGIC: nix::libc::c_long = 0x1cd1;
