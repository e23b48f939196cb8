//! `-v`, `--mount` and `--tmpfs`.

use std::path::{Path, PathBuf};

use skiff_runtime::options::{Mount, Propagation, container_path};

use super::{Reason, boolean, cause, sizes};

/// What a tmpfs is mounted with unless its options say otherwise; later entries win.
const TMPFS_DEFAULTS: [&str; 3] = ["nosuid", "nodev", "noexec"];

/// Options of `--tmpfs` that are words.
const TMPFS_WORDS: [&str; 19] = [
    "ro",
    "rw",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
];

/// `-v [SRC:]DST[:OPTIONS]`.
pub(crate) fn volume(text: &str) -> Result<Mount, Reason> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, options) = match *parts.as_slice() {
        [destination] => (None, destination, ""),
        [destination, options] if !options.contains('/') => (None, destination, options),
        [source, destination] => (Some(source), destination, ""),
        [source, destination, options] => (Some(source), destination, options),
        _ => return Err("not of the form [SRC:]DST[:OPTIONS]".into()),
    };
    let flags = VolumeFlags::parse(options)?;
    let target = container_path(destination)?;
    match source {
        None => Ok(Mount::Volume { target, read_only: flags.read_only }),
        Some(source) => Ok(Mount::Bind {
            source: host_path(source)?,
            target,
            read_only: flags.read_only,
            recursive: true,
            propagation: flags.propagation,
            create_source: true,
        }),
    }
}

/// `--mount KEY=VALUE,…`.
pub(crate) fn mount(text: &str) -> Result<Mount, Reason> {
    let fields = Fields::parse(text)?;
    let target = container_path(fields.target.ok_or("a mount needs a target")?)?;
    match fields.kind {
        "bind" => {
            fields.refuse(&["tmpfs-"])?;
            bind(&fields, target)
        }
        "tmpfs" => {
            fields.refuse(&["bind-"])?;
            tmpfs_mount(&fields, target)
        }
        "volume" => {
            fields.refuse(&["bind-", "tmpfs-"])?;
            match fields.source {
                None => Ok(Mount::Volume { target, read_only: fields.read_only }),
                Some(name) => Err(named_volume(name)),
            }
        }
        kind => {
            Err(format!("the type '{kind}' is not supported yet: only bind, tmpfs and anonymous volumes are"))
        }
    }
}

/// `--tmpfs DST[:OPTIONS]`.
pub(crate) fn tmpfs(text: &str) -> Result<Mount, Reason> {
    let (destination, options) = text.split_once(':').unwrap_or((text, ""));
    let mut all: Vec<String> = TMPFS_DEFAULTS.map(str::to_owned).into();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        all.push(tmpfs_option(option)?);
    }
    Ok(Mount::Tmpfs { target: container_path(destination)?, options: all })
}

/// The comma-separated options of `-v`.
#[derive(Default)]
struct VolumeFlags {
    read_only: bool,
    propagation: Propagation,
}

impl VolumeFlags {
    fn parse(text: &str) -> Result<Self, Reason> {
        let mut flags = Self::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => flags.read_only = true,
                "rw" => flags.read_only = false,
                "z" | "Z" if Path::new("/sys/fs/selinux/enforce").exists() => {
                    return Err("SELinux labels are not supported yet".into());
                }
                "z" | "Z" => {}
                "nocopy" => return Err("the option 'nocopy' is not supported yet".into()),
                _ => {
                    flags.propagation =
                        propagation(option).ok_or_else(|| format!("'{option}' is not an option of -v"))?;
                }
            }
        }
        Ok(flags)
    }
}

/// The fields of `--mount`.
struct Fields<'a> {
    kind: &'a str,
    source: Option<&'a str>,
    target: Option<&'a str>,
    read_only: bool,
    /// `bind-…` and `tmpfs-…`, which only one type of mount understands.
    particular: Vec<(&'a str, &'a str)>,
}

impl<'a> Fields<'a> {
    fn parse(text: &'a str) -> Result<Self, Reason> {
        let mut fields =
            Self { kind: "volume", source: None, target: None, read_only: false, particular: Vec::new() };
        for field in text.split(',') {
            let (key, value) = match field.split_once('=') {
                Some(pair) => pair,
                None if matches!(field, "readonly" | "ro" | "bind-nonrecursive") => (field, "true"),
                None => return Err(format!("'{field}' is not of the form KEY=VALUE")),
            };
            match key {
                "type" => fields.kind = value,
                "source" | "src" => fields.source = Some(value),
                "target" | "dst" | "destination" => fields.target = Some(value),
                "readonly" | "ro" => {
                    fields.read_only = boolean(value).map_err(|why| format!("{key}: {why}"))?
                }
                "bind-propagation" | "bind-recursive" | "bind-nonrecursive" | "tmpfs-size" | "tmpfs-mode" => {
                    fields.particular.push((key, value));
                }
                _ if key.starts_with("volume-") || key.starts_with("bind-") || key.starts_with("image-") => {
                    return Err(format!("'{key}' is not supported yet"));
                }
                _ => return Err(format!("no field is called '{key}'")),
            }
        }
        Ok(fields)
    }

    /// Refuses the particular fields of other types of mounts.
    fn refuse(&self, prefixes: &[&str]) -> Result<(), Reason> {
        match self.particular.iter().find(|(key, _)| prefixes.iter().any(|prefix| key.starts_with(prefix))) {
            Some((key, _)) => Err(format!("'{key}' does not go with type={}", self.kind)),
            None => Ok(()),
        }
    }
}

fn bind(fields: &Fields<'_>, target: PathBuf) -> Result<Mount, Reason> {
    let source = fields.source.ok_or("a bind mount needs a source")?;
    if !source.starts_with(['/', '.']) {
        return Err(format!("the source '{source}' is not an absolute path"));
    }
    let mut recursive = true;
    let mut spread = Propagation::default();
    for &(key, value) in &fields.particular {
        match (key, value) {
            ("bind-propagation", _) => {
                spread = propagation(value).ok_or_else(|| format!("'{value}' is not a propagation"))?;
            }
            ("bind-nonrecursive", _) => recursive = !boolean(value).map_err(|why| format!("{key}: {why}"))?,
            (_, "enabled") => recursive = true,
            (_, "disabled") => recursive = false,
            (_, "readonly") if fields.read_only => recursive = true,
            (_, "readonly") => return Err("bind-recursive=readonly needs readonly".into()),
            (_, "writable") => return Err("bind-recursive=writable is not supported yet".into()),
            _ => return Err(format!("'{value}' is not a value of bind-recursive")),
        }
    }
    Ok(Mount::Bind {
        source: host_path(source)?,
        target,
        read_only: fields.read_only,
        recursive,
        propagation: spread,
        create_source: false,
    })
}

fn tmpfs_mount(fields: &Fields<'_>, target: PathBuf) -> Result<Mount, Reason> {
    if fields.source.is_some() {
        return Err("a tmpfs has no source".into());
    }
    let mut options: Vec<String> = TMPFS_DEFAULTS.map(str::to_owned).into();
    if fields.read_only {
        options.push("ro".into());
    }
    for &(key, value) in &fields.particular {
        let bad = |why: Reason| format!("{key}: {why}");
        match key {
            "tmpfs-size" => options.push(format!("size={}", sizes::bytes(value).map_err(bad)?)),
            _ => options.push(tmpfs_option(&format!("mode={value}"))?),
        }
    }
    Ok(Mount::Tmpfs { target, options })
}

/// One option of a tmpfs, tmpfs(5), as the kernel will take it.
fn tmpfs_option(option: &str) -> Result<String, Reason> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let scaled = |text: &str| number(text.strip_suffix(['k', 'm', 'g', 'K', 'M', 'G']).unwrap_or(text));
    let valid = match option.split_once('=') {
        None => TMPFS_WORDS.contains(&option),
        Some(("size", value)) => scaled(value.strip_suffix('%').unwrap_or(value)),
        Some(("nr_blocks" | "nr_inodes", value)) => scaled(value),
        Some(("uid" | "gid", value)) => value.parse::<u32>().is_ok(),
        Some(("mode", value)) => {
            number(value) && u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o7777)
        }
        Some(_) => false,
    };
    if valid { Ok(option.to_owned()) } else { Err(format!("'{option}' is not an option of a tmpfs")) }
}

/// docker's words for a propagation. The non-recursive forms mean the same here: submounts follow their parent.
fn propagation(text: &str) -> Option<Propagation> {
    match text {
        "private" | "rprivate" => Some(Propagation::Private),
        "slave" | "rslave" => Some(Propagation::Slave),
        "shared" | "rshared" => Some(Propagation::Shared),
        _ => None,
    }
}

/// An absolute path on the host; one that starts with a dot counts from the working directory.
fn host_path(text: &str) -> Result<PathBuf, Reason> {
    match text.as_bytes() {
        [] => Err("the source is empty".into()),
        [b'/', ..] => Ok(PathBuf::from(text)),
        [b'.', ..] => std::path::absolute(text).map_err(|error| format!("find {text}: {}", cause(&error))),
        _ => Err(named_volume(text)),
    }
}

fn named_volume(name: &str) -> Reason {
    format!("'{name}' is a volume's name, and named volumes are not supported yet: give an absolute path")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(source: &str, target: &str) -> Mount {
        Mount::Bind {
            source: source.into(),
            target: target.into(),
            read_only: false,
            recursive: true,
            propagation: Propagation::Private,
            create_source: true,
        }
    }

    /// `mount` as it would be with other values of the fields in question.
    fn with(mount: Mount, ro: bool, rec: bool, spread: Propagation, create: bool) -> Mount {
        let Mount::Bind { source, target, .. } = mount else { return mount };
        Mount::Bind {
            source,
            target,
            read_only: ro,
            recursive: rec,
            propagation: spread,
            create_source: create,
        }
    }

    fn tmpfs_at(target: &str, more: &[&str]) -> Mount {
        let options = TMPFS_DEFAULTS.iter().chain(more).map(|&option| option.to_owned()).collect();
        Mount::Tmpfs { target: target.into(), options }
    }

    #[test]
    fn volumes_are_bound_or_anonymous() {
        use Propagation::{Private, Shared, Slave};
        let check = |text: &str, expected: Mount| assert_eq!(volume(text), Ok(expected), "{text}");
        check("/a:/b", bound("/a", "/b"));
        check("/a:/b/../c//d/.", bound("/a", "/c/d"));
        check("/a:/b:rw", bound("/a", "/b"));
        check("/a:/b:ro", with(bound("/a", "/b"), true, true, Private, true));
        check("/a:/b:ro,rslave", with(bound("/a", "/b"), true, true, Slave, true));
        check("/a:/b:shared", with(bound("/a", "/b"), false, true, Shared, true));
        check("/b", Mount::Volume { target: "/b".into(), read_only: false });
        check("/b:ro", Mount::Volume { target: "/b".into(), read_only: true });
        let here = std::env::current_dir().expect("a working directory");
        assert_eq!(volume("./a:/b"), Ok(bound(&here.join("a").to_string_lossy(), "/b")));
    }

    #[test]
    fn bad_volumes_are_explained() {
        let check = |text: &str, part: &str| {
            let reason = volume(text).expect_err(text);
            assert!(reason.contains(part), "{text}: {reason}");
        };
        check("data:/b", "'data' is a volume's name, and named volumes are not supported yet");
        check("/a:b/c", "the container path 'b/c' is not absolute");
        check("b", "the container path 'b' is not absolute");
        check("", "the container path '' is not absolute");
        check("/a:/", "the container path is the root itself");
        check("/a:/b/..", "the container path is the root itself");
        check("/a:/b:rx", "'rx' is not an option of -v");
        check("/a:/b:nocopy", "'nocopy' is not supported yet");
        check(":/b", "the source is empty");
        check("/a:/b:ro:rw", "not of the form");
    }

    #[test]
    fn mounts_have_docker_s_fields() {
        use Propagation::{Private, Slave};
        let check = |text: &str, expected: Mount| assert_eq!(mount(text), Ok(expected), "{text}");
        let plain = || with(bound("/a", "/b"), false, true, Private, false);
        check("type=bind,source=/a,target=/b", plain());
        check("type=bind,src=/a,dst=/b", plain());
        check("destination=/b,type=bind,src=/a,readonly=false", plain());
        check("type=bind,src=/a,dst=/b,bind-recursive=enabled", plain());
        check("type=bind,src=/a,dst=/b,readonly", with(plain(), true, true, Private, false));
        check("type=bind,src=/a,dst=/b,ro=1", with(plain(), true, true, Private, false));
        check("type=bind,src=/a,dst=/b,bind-recursive=disabled", with(plain(), false, false, Private, false));
        check("type=bind,src=/a,dst=/b,bind-nonrecursive", with(plain(), false, false, Private, false));
        check("type=bind,src=/a,dst=/b,bind-propagation=rslave", with(plain(), false, true, Slave, false));
        check("type=tmpfs,dst=/t", tmpfs_at("/t", &[]));
        check("type=tmpfs,dst=/t,ro", tmpfs_at("/t", &["ro"]));
        check(
            "type=tmpfs,dst=/t,tmpfs-size=1.5m,tmpfs-mode=1770",
            tmpfs_at("/t", &["size=1572864", "mode=1770"]),
        );
        check("dst=/v", Mount::Volume { target: "/v".into(), read_only: false });
        check("type=volume,dst=/v,ro", Mount::Volume { target: "/v".into(), read_only: true });
    }

    #[test]
    fn bad_mounts_are_explained() {
        let check = |text: &str, part: &str| {
            let reason = mount(text).expect_err(text);
            assert!(reason.contains(part), "{text}: {reason}");
        };
        check("", "'' is not of the form KEY=VALUE");
        check("type=bind,src=/a", "a mount needs a target");
        check("type=bind,dst=/a", "a bind mount needs a source");
        check("type=bind,src=a,dst=/a", "the source 'a' is not an absolute path");
        check("type=volume,src=data,dst=/a", "named volumes are not supported yet");
        check("type=image,dst=/a", "the type 'image' is not supported yet");
        check("type=bind,src=/a,dst=/a,volume-nocopy=true", "'volume-nocopy' is not supported yet");
        check("type=bind,src=/a,dst=/a,colour=red", "no field is called 'colour'");
        check("type=bind,src=/a,dst=/a,readonly=maybe", "readonly: neither true nor false");
        check("type=bind,src=/a,dst=/a,tmpfs-size=1m", "'tmpfs-size' does not go with type=bind");
        check("type=tmpfs,dst=/a,bind-recursive=enabled", "'bind-recursive' does not go with type=tmpfs");
        check("type=tmpfs,src=/a,dst=/a", "a tmpfs has no source");
        check("type=tmpfs,dst=/a,tmpfs-mode=9", "'mode=9' is not an option of a tmpfs");
        check("type=bind,src=/a,dst=/a,bind-recursive=readonly", "needs readonly");
        check("type=bind,src=/a,dst=/a,bind-recursive=writable", "not supported yet");
        check("type=bind,src=/a,dst=/a,bind-propagation=x", "'x' is not a propagation");
    }

    #[test]
    fn tmpfs_options_are_those_of_the_kernel() {
        let check = |text: &str, expected: Mount| assert_eq!(tmpfs(text), Ok(expected), "{text}");
        check("/t", tmpfs_at("/t", &[]));
        check("/t:rw,exec,size=64m,mode=1777", tmpfs_at("/t", &["rw", "exec", "size=64m", "mode=1777"]));
        check(
            "/t:size=50%,uid=1,gid=2,nr_inodes=10k",
            tmpfs_at("/t", &["size=50%", "uid=1", "gid=2", "nr_inodes=10k"]),
        );
        for bad in [
            "size",
            "size=",
            "size=x",
            "size=1.5g",
            "mode=8",
            "uid=-1",
            "bind",
            "remount",
            "context=x",
            "mpol=bind",
        ] {
            assert_eq!(tmpfs(&format!("/t:{bad}")), Err(format!("'{bad}' is not an option of a tmpfs")));
        }
        assert_eq!(tmpfs("t"), Err("the container path 't' is not absolute".into()));
    }
}
