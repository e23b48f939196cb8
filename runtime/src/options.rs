//! What a caller wants of a container, in the words of `docker run`, with values already parsed.
//!
//! The CLI fills this from flags and the image's configuration. Nothing here has been checked against the host. It can be
//! written down and sent (serde): what has its default is left out, for most of it has, and each launch writes and reads this.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Everything that can be asked of a container. `Options::default()` is what `docker run` does without flags.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// 64 lower-case hex digits, unique on the host.
    #[serde(skip_serializing_if = "unset")]
    pub id: String,
    /// The name given by `--name`.
    #[serde(skip_serializing_if = "unset")]
    pub name: Option<String>,
    /// Where the files come from.
    #[serde(skip_serializing_if = "unset")]
    pub rootfs: Rootfs,
    /// The same as `rootfs`, to be preferred to its layers where the kernel can mount it.
    #[serde(skip_serializing_if = "unset")]
    pub merged: Option<Merged>,
    /// Program and arguments: entrypoint and command joined. Never empty when a plan is built.
    #[serde(with = "words", skip_serializing_if = "unset")]
    pub argv: Vec<OsString>,
    /// `NAME=value`, later entries win. `PATH`, `HOSTNAME`, `HOME` and `TERM` are added by the plan where absent.
    #[serde(with = "words", skip_serializing_if = "unset")]
    pub env: Vec<OsString>,
    /// Working directory inside the container; created when missing. `/` when empty.
    #[serde(skip_serializing_if = "unset")]
    pub cwd: PathBuf,
    /// `user[:group]`, each a name or a number; empty means root.
    #[serde(skip_serializing_if = "unset")]
    pub user: String,
    /// Extra groups, each a name or a number.
    #[serde(skip_serializing_if = "unset")]
    pub group_add: Vec<String>,
    /// Host name; the first 12 digits of the id when absent.
    #[serde(skip_serializing_if = "unset")]
    pub hostname: Option<String>,
    /// NIS domain name.
    #[serde(skip_serializing_if = "unset")]
    pub domainname: Option<String>,
    /// Allocate a pseudo-terminal and make it the standard streams.
    #[serde(skip_serializing_if = "unset")]
    pub tty: bool,
    /// Pass the caller's standard input on; `/dev/null` otherwise.
    #[serde(skip_serializing_if = "unset")]
    pub interactive: bool,
    /// Bind mounts, tmpfs mounts and anonymous volumes, in the order given.
    #[serde(skip_serializing_if = "unset")]
    pub mounts: Vec<Mount>,
    /// Mount the root file system read-only.
    #[serde(skip_serializing_if = "unset")]
    pub read_only: bool,
    /// What it writes is still of use when it has ended: fsync(2) in it means what it says.
    #[serde(skip_serializing_if = "unset")]
    pub is_kept: bool,
    /// Size of `/dev/shm`.
    pub shm_size_bytes: u64,
    /// Limits.
    #[serde(skip_serializing_if = "unset")]
    pub resources: Resources,
    /// `--ulimit`, overriding those inherited from the caller.
    #[serde(skip_serializing_if = "unset")]
    pub ulimits: Vec<Ulimit>,
    /// `--cap-add`: names with or without `CAP_`, any case, or `ALL`.
    #[serde(skip_serializing_if = "unset")]
    pub cap_add: Vec<String>,
    /// `--cap-drop`, likewise.
    #[serde(skip_serializing_if = "unset")]
    pub cap_drop: Vec<String>,
    /// Which system calls are allowed.
    #[serde(skip_serializing_if = "unset")]
    pub seccomp: Seccomp,
    /// `--security-opt no-new-privileges`.
    #[serde(skip_serializing_if = "unset")]
    pub no_new_privileges: bool,
    /// `--security-opt systempaths=unconfined`: no masked and no read-only paths below `/proc` and `/sys`.
    #[serde(skip_serializing_if = "unset")]
    pub systempaths_unconfined: bool,
    /// All capabilities, all devices, no seccomp filter, nothing masked.
    #[serde(skip_serializing_if = "unset")]
    pub privileged: bool,
    /// `--device`.
    #[serde(skip_serializing_if = "unset")]
    pub devices: Vec<Device>,
    /// `--sysctl`, key with dots.
    #[serde(skip_serializing_if = "unset")]
    pub sysctls: Vec<(String, String)>,
    /// PID namespace.
    #[serde(skip_serializing_if = "unset")]
    pub pid: Namespace,
    /// IPC namespace.
    #[serde(skip_serializing_if = "unset")]
    pub ipc: Namespace,
    /// UTS namespace.
    #[serde(skip_serializing_if = "unset")]
    pub uts: Namespace,
    /// Cgroup namespace.
    #[serde(skip_serializing_if = "unset")]
    pub cgroupns: Namespace,
    /// Network namespace: private means loopback only (`--network none`).
    #[serde(skip_serializing_if = "unset")]
    pub network: Namespace,
    /// `--init`: run a small init as process 1 that forwards signals and reaps.
    #[serde(skip_serializing_if = "unset")]
    pub init: bool,
    /// `--oom-score-adj`, −1000..=1000.
    #[serde(skip_serializing_if = "unset")]
    pub oom_score_adj: Option<i32>,
    /// `--label` and the image's labels.
    #[serde(skip_serializing_if = "unset")]
    pub labels: Vec<(String, String)>,
    /// Whether the run is recorded: the container then joins every cgroup hierarchy that counts something.
    #[serde(skip_serializing_if = "unset")]
    pub account: bool,
}

/// Whether a value is what is left out when it is written: its type's default, which must be the field's, too.
pub fn unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Where the root file system comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// The host's own root, read-only below a private overlay.
    #[default]
    Host,
    /// Directories to stack, top first; never written to.
    Layers(Vec<PathBuf>),
}

/// The layers of an image as one tree of names, whose files' contents lie in the layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// An EROFS image that says of each file where in `data` its content is (`trusted.overlay.redirect`).
    pub tree: PathBuf,
    /// The directory that holds the layers.
    pub data: PathBuf,
}

/// A namespace of the container's own, or the host's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// A new one.
    #[default]
    Private,
    /// The one that skiff itself is in.
    Host,
}

/// Something to mount into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mount {
    /// `-v SRC:DST` and `--mount type=bind`.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// Absolute path in the container.
        target: PathBuf,
        /// Read-only, submounts included.
        read_only: bool,
        /// Bring submounts along (`rbind`).
        recursive: bool,
        /// Propagation between host and container.
        propagation: Propagation,
        /// Make `source` a directory if it is missing (`-v` does, `--mount` does not).
        create_source: bool,
    },
    /// `--tmpfs` and `--mount type=tmpfs`.
    Tmpfs {
        /// Absolute path in the container.
        target: PathBuf,
        /// Comma-separated mount options of `--tmpfs` (`rw,noexec,size=64m,mode=1777`), each already known to be
        /// valid; empty means docker's `nosuid,nodev,noexec`.
        options: Vec<String>,
    },
    /// An anonymous volume (`-v DST`, or VOLUME of the image): an empty directory filled with what the image has
    /// there, gone with the container.
    Volume {
        /// Absolute path in the container.
        target: PathBuf,
        /// Read-only.
        read_only: bool,
    },
}

impl Mount {
    /// Where in the container it is mounted.
    #[must_use]
    pub fn target(&self) -> &Path {
        match self {
            Self::Bind { target, .. } | Self::Tmpfs { target, .. } | Self::Volume { target, .. } => target,
        }
    }
}

/// A path in the container to mount on, without `.`, `..` and repeated slashes.
///
/// Errors: in one phrase, that it is not absolute, or the root itself.
pub fn container_path(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') {
        return Err(format!("the container path '{text}' is not absolute"));
    }
    let mut clean = PathBuf::from("/");
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    if clean == Path::new("/") {
        return Err("the container path is the root itself".into());
    }
    Ok(clean)
}

/// Mount propagation, mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Neither way. Docker's `rprivate`, the default.
    #[default]
    Private,
    /// From the host into the container (`rslave`).
    Slave,
    /// Both ways (`rshared`).
    Shared,
}

/// Limits; absent means unlimited. cgroups(7).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// `-m`, at least 6 MiB.
    #[serde(skip_serializing_if = "unset")]
    pub memory_bytes: Option<u64>,
    /// `--memory-swap`: memory plus swap; −1 for unlimited swap.
    #[serde(skip_serializing_if = "unset")]
    pub memory_swap_bytes: Option<i64>,
    /// `--memory-reservation`.
    #[serde(skip_serializing_if = "unset")]
    pub memory_reservation_bytes: Option<u64>,
    /// `--cpus`, in billionths of a CPU.
    #[serde(skip_serializing_if = "unset")]
    pub nano_cpus: Option<u64>,
    /// `--cpu-shares`, 2..=262144.
    #[serde(skip_serializing_if = "unset")]
    pub cpu_shares: Option<u64>,
    /// `--cpu-period`, µs.
    #[serde(skip_serializing_if = "unset")]
    pub cpu_period_us: Option<u64>,
    /// `--cpu-quota`, µs per period.
    #[serde(skip_serializing_if = "unset")]
    pub cpu_quota_us: Option<i64>,
    /// `--cpuset-cpus`, list format.
    #[serde(skip_serializing_if = "unset")]
    pub cpuset_cpus: Option<String>,
    /// `--cpuset-mems`, list format.
    #[serde(skip_serializing_if = "unset")]
    pub cpuset_mems: Option<String>,
    /// `--pids-limit`; −1 for unlimited.
    #[serde(skip_serializing_if = "unset")]
    pub pids_limit: Option<i64>,
    /// `--blkio-weight`, 10..=1000.
    #[serde(skip_serializing_if = "unset")]
    pub blkio_weight: Option<u16>,
}

/// One resource limit, setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Docker's name: `nofile`, `nproc`, `core`, …
    pub name: String,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

/// Which system calls are allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// Docker's default profile.
    #[default]
    Default,
    /// No filter.
    Unconfined,
    /// The text of a profile in docker's JSON format.
    Profile(String),
}

/// `--device SRC[:DST[:rwm]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path on the host; a directory stands for every device below it.
    pub source: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub access: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            id: String::new(),
            name: None,
            rootfs: Rootfs::Host,
            merged: None,
            argv: Vec::new(),
            env: Vec::new(),
            cwd: PathBuf::new(),
            user: String::new(),
            group_add: Vec::new(),
            hostname: None,
            domainname: None,
            tty: false,
            interactive: false,
            mounts: Vec::new(),
            read_only: false,
            is_kept: false,
            shm_size_bytes: 64 << 20,
            resources: Resources::default(),
            ulimits: Vec::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            seccomp: Seccomp::Default,
            no_new_privileges: false,
            systempaths_unconfined: false,
            privileged: false,
            devices: Vec::new(),
            sysctls: Vec::new(),
            pid: Namespace::Private,
            ipc: Namespace::Private,
            uts: Namespace::Private,
            cgroupns: Namespace::Private,
            network: Namespace::Private,
            init: false,
            oom_score_adj: None,
            labels: Vec::new(),
            account: false,
        }
    }
}

/// Words that need not be UTF-8: text where they are, else a list of bytes.
pub mod words {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Word {
        Text(String),
        Bytes(Vec<u8>),
    }

    /// Writes a list of words.
    pub fn serialize<S: Serializer>(words: &[OsString], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(words.iter().map(|word| match word.to_str() {
            Some(text) => Word::Text(text.to_owned()),
            None => Word::Bytes(word.clone().into_vec()),
        }))
    }

    /// Reads a list of words.
    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<OsString>, D::Error> {
        let words = Vec::<Word>::deserialize(from)?;
        Ok(words
            .into_iter()
            .map(|word| match word {
                Word::Text(text) => text.into(),
                Word::Bytes(bytes) => OsString::from_vec(bytes),
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn options_survive_being_sent() {
        let options = Options {
            argv: vec!["sh".into(), OsString::from_vec(vec![b'a', 0xff])],
            mounts: vec![Mount::Volume { target: "/data".into(), read_only: true }],
            network: Namespace::Host,
            ..Options::default()
        };
        let sent = serde_json::to_string(&options).expect("write");
        assert_eq!(serde_json::from_str::<Options>(&sent).expect("read"), options);
        assert_eq!(serde_json::from_str::<Options>("{}").expect("read"), Options::default());
        let plain = serde_json::to_string(&Options::default()).expect("write");
        assert_eq!(plain, r#"{"shm_size_bytes":67108864}"#);
    }
}
