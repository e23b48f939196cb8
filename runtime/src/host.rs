//! The facts about the host, and about the files of the container to be, on which a plan depends.
//!
//! Gathered before, so that building the plan itself is pure.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};
use skiff_sys::device_filter::Kind;
use skiff_sys::file::{self, Resolve};
use skiff_sys::terminal::{self, Size};
use skiff_sys::{process, xattr};

use crate::Error;
use crate::caps::CapSet;
use crate::cgroup::Layout;
use crate::error::Context;
use crate::options::{Device, Mount, Namespace, Options, Rootfs};
use crate::plan::c_path;
use crate::seccomp::Kernel;

/// What a plan needs to know about the host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where images and writable layers are kept.
    pub state_root: PathBuf,
    /// Where running containers are noted.
    pub run_root: PathBuf,
    /// Effective user id; anybody but 0 runs containers in a user namespace.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// The capabilities that can be passed on.
    pub caps: CapSet,
    /// The highest capability that the kernel knows.
    pub last_cap: u8,
    /// The kernel's version.
    pub kernel: Kernel,
    /// The host's name.
    pub nodename: String,
    /// How many CPUs are online.
    pub cpus: u64,
    /// The cgroup hierarchies.
    pub cgroups: Layout,
    /// `/etc/passwd` of the container.
    pub passwd: String,
    /// `/etc/group` of the container.
    pub group: String,
    /// `/etc/resolv.conf` of the host.
    pub resolv_conf: String,
    /// `/etc/hosts` of the host, if the container shares its network.
    pub hosts: Option<String>,
    /// Whether the kernel shows its memory as `/proc/kcore`.
    pub kcore: bool,
    /// Whether `/dev/mqueue` is there.
    pub mqueue: bool,
    /// The size of the caller's terminal, if the container gets one of its own.
    pub terminal: Option<Size>,
    /// The sources of `options.mounts`, in that order; `None` where there is none.
    pub sources: Vec<Option<Source>>,
    /// The nodes that `--device` and `--privileged` stand for.
    pub devices: Vec<Node>,
    /// Paths of the container that a plan may want to mount on and that its only layer lacks. Looked for only where
    /// they cannot be made: below a read-only root, and in the host's directories without root.
    pub absent: Vec<PathBuf>,
    /// Whether a layer contains the state root, so that overlayfs refuses to put the writable layer there (`ELOOP`).
    pub layers_hold_state: bool,
    /// The uid and gid ranges that the user may map, where that is not root: from `/etc/subuid` and `/etc/subgid`.
    pub sub_ids: Option<SubIds>,
    /// What lies in the host's `/`, for `host` without root.
    pub root_entries: Vec<RootEntry>,
}

/// An entry of the host's root directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootEntry {
    /// A directory, by its absolute path.
    Directory(PathBuf),
    /// A symlink and what it says.
    Symlink(PathBuf, PathBuf),
}

/// Ranges of subordinate ids. subuid(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubIds {
    /// First user id and how many.
    pub uids: (u32, u32),
    /// First group id and how many.
    pub gids: (u32, u32),
}

/// What is at the source of a bind mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A directory.
    Directory,
    /// Nothing yet: a directory is to be made.
    Missing,
    /// A file, socket, device or the like.
    File,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where the host has it.
    pub source: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Block or character.
    pub kind: Kind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Letters of `--device`.
    pub access: String,
}

impl Host {
    /// Gathers the facts for one container.
    ///
    /// Errors: a bind source or a device that does not exist, an unreadable `/etc/passwd` in a layer.
    pub fn probe(options: &Options, state_root: &Path, run_root: &Path) -> Result<Self, Error> {
        let (bounding, last_cap) = process::bounding_set();
        let permitted = process::capabilities().context(|| "read own capabilities".into())?.permitted;
        let layers = layers(options);
        let (kernel, nodename) = uname()?;
        let uid = nix::unistd::geteuid().as_raw();
        Ok(Self {
            state_root: state_root.to_path_buf(),
            run_root: run_root.to_path_buf(),
            uid,
            gid: nix::unistd::getegid().as_raw(),
            caps: CapSet(bounding & if uid == 0 { permitted } else { u64::MAX }),
            last_cap,
            kernel,
            nodename,
            cpus: cpus(options)?,
            cgroups: Layout::of_host(),
            passwd: read_merged(layers, "etc/passwd")?,
            group: read_merged(layers, "etc/group")?,
            resolv_conf: std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            hosts: match options.network {
                Namespace::Host => std::fs::read_to_string("/etc/hosts").ok(),
                Namespace::Private => None,
            },
            kcore: Path::new("/proc/kcore").exists(),
            mqueue: Path::new("/dev/mqueue").exists(),
            terminal: if options.tty { terminal::size(io::stdin().as_fd()).ok() } else { None },
            sources: options.mounts.iter().map(source).collect::<Result<_, _>>()?,
            devices: devices(options)?,
            absent: absent(options, layers, uid)?,
            layers_hold_state: layers.iter().any(|layer| state_root.starts_with(layer)),
            sub_ids: if uid == 0 { None } else { sub_ids(uid) },
            root_entries: if uid != 0 && options.rootfs == Rootfs::Host {
                root_entries()?
            } else {
                Vec::new()
            },
        })
    }
}

/// How many CPUs are online. sysconf(3); read from a file, so only where a limit is to be compared with it.
fn cpus(options: &Options) -> Result<u64, Error> {
    if options.resources.nano_cpus.is_none() {
        return Ok(0);
    }
    let count = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)
        .context(|| "count the CPUs".into())?;
    Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(1))
}

/// The layers of the container's root, top first; the host's root for `host`.
fn layers(options: &Options) -> &[PathBuf] {
    static HOST: std::sync::LazyLock<[PathBuf; 1]> = std::sync::LazyLock::new(|| [PathBuf::from("/")]);
    match &options.rootfs {
        Rootfs::Host => &*HOST,
        Rootfs::Layers(layers) => layers,
    }
}

/// The kernel's version and the host's name. uname(2).
fn uname() -> Result<(Kernel, String), Error> {
    let name = nix::sys::utsname::uname().context(|| "uname".into())?;
    let release = name.release().to_string_lossy();
    let kernel = Kernel::parse(&release)
        .ok_or_else(|| Error::Option(format!("kernel release {release:?} has no version")))?;
    Ok((kernel, name.nodename().to_string_lossy().into_owned()))
}

/// Largest `/etc/passwd` or `/etc/group` that is read from an image.
const ACCOUNTS_MAX_BYTES: u64 = 16 << 20;

/// Reads the file `path` as the layers stacked show it; empty if there is none.
///
/// Looked up layer by layer, each taken for the root; a symlink is followed within its own layer only. Whiteouts and
/// opaque directories end the search.
fn read_merged(layers: &[PathBuf], path: &str) -> Result<String, Error> {
    let (parent, _) = path.rsplit_once('/').unwrap_or((".", path));
    for layer in layers {
        let what = || format!("read {path} of layer {}", layer.display());
        let directory = file::open(&c_path(layer)?, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).context(what)?;
        // O_NONBLOCK: a fifo of that name must not hold the launch up.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        match file::open_beneath(directory.as_fd(), &c_path(Path::new(path))?, flags, 0, Resolve::InRoot) {
            Ok(found) => return read_accounts(found.into()).context(what),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO)) => return Ok(String::new()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error).context(what),
        }
        if layers.last() != Some(layer) && hides_lower(directory.as_fd(), parent) {
            break;
        }
    }
    Ok(String::new())
}

/// A whiteout is a device, which is no text; so is whatever else is not a regular file.
fn read_accounts(file: std::fs::File) -> io::Result<String> {
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(ACCOUNTS_MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether the layer's directory `path` is opaque or whited out.
fn hides_lower(layer: std::os::fd::BorrowedFd<'_>, path: &str) -> bool {
    let Ok(path) = CString::new(path) else { return false };
    match file::open_beneath(layer, &path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0, Resolve::InRoot) {
        Ok(directory) => [c"trusted.overlay.opaque", c"user.overlay.opaque"]
            .iter()
            .any(|name| xattr::is(directory.as_fd(), name, b"y")),
        Err(error) => error.kind() == io::ErrorKind::NotADirectory,
    }
}

fn source(mount: &Mount) -> Result<Option<Source>, Error> {
    let Mount::Bind { source, create_source, .. } = mount else { return Ok(None) };
    match std::fs::metadata(source) {
        Ok(found) if found.is_dir() => Ok(Some(Source::Directory)),
        Ok(_) => Ok(Some(Source::File)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && *create_source => Ok(Some(Source::Missing)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::Option(format!("bind source path does not exist: {}", source.display())))
        }
        Err(error) => Err(error).context(|| format!("bind source {}", source.display())),
    }
}

fn devices(options: &Options) -> Result<Vec<Node>, Error> {
    let mut nodes = Vec::new();
    if options.privileged {
        // Below these the container has its own file systems.
        let own = ["pts", "shm", "mqueue", "console", "ptmx"];
        let all = Device { source: "/dev".into(), target: "/dev".into(), access: "rwm".into() };
        collect_nodes(&all, &own, &mut nodes)?;
    }
    for device in &options.devices {
        let before = nodes.len();
        collect_nodes(device, &[], &mut nodes)?;
        if nodes.len() == before {
            return Err(Error::Option(format!("no device below {}", device.source.display())));
        }
    }
    Ok(nodes)
}

/// Adds the node `device`, or every node below it if it is a directory; symlinks inside a directory are passed over.
fn collect_nodes(device: &Device, leave_out: &[&str], nodes: &mut Vec<Node>) -> Result<(), Error> {
    let what = || format!("device {}", device.source.display());
    let found = std::fs::metadata(&device.source).context(what)?;
    if found.is_dir() {
        for entry in std::fs::read_dir(&device.source).context(what)? {
            let entry = entry.context(what)?;
            let kind = entry.file_type().context(what)?;
            let skip = leave_out.iter().any(|name| entry.file_name() == **name);
            if !skip && (kind.is_dir() || kind.is_block_device() || kind.is_char_device()) {
                let below = Device {
                    source: entry.path(),
                    target: device.target.join(entry.file_name()),
                    access: device.access.clone(),
                };
                collect_nodes(&below, &[], nodes)?;
            }
        }
        return Ok(());
    }
    let kind = match found.file_type() {
        kind if kind.is_block_device() => Kind::Block,
        kind if kind.is_char_device() => Kind::Char,
        _ => return Err(Error::Option(format!("not a device node: {}", device.source.display()))),
    };
    let number = |number: u64| {
        u32::try_from(number)
            .map_err(|_| Error::Option(format!("device number of {}", device.source.display())))
    };
    nodes.push(Node {
        source: device.source.clone(),
        target: device.target.clone(),
        kind,
        major: number(major(found.rdev()))?,
        minor: number(minor(found.rdev()))?,
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        access: device.access.clone(),
    });
    Ok(())
}

fn absent(options: &Options, layers: &[PathBuf], uid: u32) -> Result<Vec<PathBuf>, Error> {
    let [layer] = layers else { return Ok(Vec::new()) };
    let is_fixed = match options.rootfs {
        Rootfs::Host => uid != 0,
        Rootfs::Layers(_) => options.read_only,
    };
    if !is_fixed {
        return Ok(Vec::new());
    }
    let directory = file::open(&c_path(layer)?, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)
        .context(|| format!("open {}", layer.display()))?;
    let missing = |path: &Path| -> Result<bool, Error> {
        let path = c_path(path.strip_prefix("/").unwrap_or(path))?;
        Ok(!path.is_empty()
            && file::open_beneath(directory.as_fd(), &path, OFlag::O_PATH, 0, Resolve::InRoot).is_err())
    };
    let mut absent = Vec::new();
    for path in crate::plan::targets(options) {
        if missing(&path)? {
            absent.push(path);
        }
    }
    Ok(absent)
}

/// The first range of each file that is the user's. subuid(5).
fn sub_ids(uid: u32) -> Option<SubIds> {
    let name = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok()??.name;
    let range = |file: &str| sub_id_range(&std::fs::read_to_string(file).ok()?, &name, uid);
    let helpers = ["/usr/bin/newuidmap", "/usr/bin/newgidmap"];
    if !helpers.iter().all(|helper| Path::new(helper).exists()) {
        return None;
    }
    Some(SubIds { uids: range("/etc/subuid")?, gids: range("/etc/subgid")? })
}

/// The first range of ids in `text`, of the form of `/etc/subuid`, that belongs to the user `name` or `uid`: the first id
/// and how many. subuid(5).
#[must_use]
pub fn sub_id_range(text: &str, name: &str, uid: u32) -> Option<(u32, u32)> {
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        if owner != name && owner != uid {
            return None;
        }
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (count > 0 && first.checked_add(count).is_some()).then_some((first, count))
    })
}

/// The directories and symlinks of `/` but those that a container has of its own.
fn root_entries() -> Result<Vec<RootEntry>, Error> {
    let what = || "read /".to_owned();
    let mut entries = Vec::new();
    for entry in std::fs::read_dir("/").context(what)? {
        let entry = entry.context(what)?;
        let (path, kind) = (entry.path(), entry.file_type().context(what)?);
        if ["proc", "sys", "dev", "tmp", "run"].iter().any(|own| entry.file_name() == **own) {
            continue;
        }
        if kind.is_symlink() {
            let content = std::fs::read_link(&path).context(what)?;
            entries.push(RootEntry::Symlink(path, content));
        } else if kind.is_dir() {
            entries.push(RootEntry::Directory(path));
        }
    }
    entries.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(entries)
}

impl RootEntry {
    fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Symlink(path, _) => path,
        }
    }
}
