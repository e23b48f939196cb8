//! Where a bundle wants its cgroup (`linux.cgroupsPath`). Pure.

use std::path::{Component, Path, PathBuf};

use super::systemd::Unit;
use crate::Error;

/// Who makes the cgroups of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager<'a> {
    /// This program, in the files.
    Files,
    /// The host's systemd.
    Systemd,
    /// The systemd of a user, whose own cgroup is this, below the root.
    UserSystemd(&'a Path),
}

/// A place in the hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupsPath {
    /// A directory below the root of each: names only, at least one.
    Directory(PathBuf),
    /// A unit of systemd's.
    Unit {
        /// The slice that it belongs to, as `system.slice`.
        slice: String,
        /// The unit, as `skiff-web.scope`.
        unit: Unit,
        /// The cgroup of the systemd that has it, below the root.
        manager: PathBuf,
    },
}

impl CgroupsPath {
    /// Reads `cgroupsPath` of container `id`: `/a/b`, `a/b` – which is the same, since a relative path begins where the
    /// runtime likes –, or with the systemd driver `slice:prefix:name`.
    ///
    /// `..` goes up, but not beyond the root, as in any root directory.
    ///
    /// Errors: the root itself, which cannot be a container's; a form that systemd does not know.
    pub fn parse(text: Option<&str>, id: &str, manager: Manager<'_>) -> Result<Self, Error> {
        match (text.filter(|text| !text.is_empty()), manager) {
            (None, Manager::Files) => Ok(Self::Directory(id.into())),
            (Some(text), Manager::Files) => directory(text).map(Self::Directory),
            (None, _) => unit("", "skiff", id, manager),
            (Some(text), _) => match *text.split(':').collect::<Vec<_>>() {
                [slice, prefix, name] => unit(slice, prefix, name, manager),
                _ => Err(Error::Option(format!("cgroupsPath {text:?} is not of the form slice:prefix:name"))),
            },
        }
    }

    /// The directory below the root of a hierarchy.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        match self {
            Self::Directory(path) => path.clone(),
            Self::Unit { slice, unit, manager } => manager.join(slice_directory(slice)).join(&unit.name),
        }
    }
}

/// The directory in the hierarchy mounted at `mount` of the process whose `/proc/PID/cgroup` is `table`; `None` if it is
/// outside of this process's cgroup namespace. cgroups(7).
pub(crate) fn directory_of(table: &str, mount: &Path) -> Option<PathBuf> {
    // Controllers that are mounted together give their directory all their names.
    let name = mount.file_name()?.to_str()?;
    let is_here = |controllers: &str| match controllers.strip_prefix("name=").unwrap_or(controllers) {
        "" => ["cgroup", "unified"].contains(&name),
        controllers => controllers.split(',').any(|one| name.split(',').any(|other| other == one)),
    };
    let mut lines = table.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let (_, path) = lines.find(|(controllers, _)| is_here(controllers))?;
    (!path.starts_with("/..")).then(|| mount.join(path.trim_start_matches('/')))
}

fn directory(text: &str) -> Result<PathBuf, Error> {
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if path.as_os_str().is_empty() {
        return Err(Error::Option(format!("cgroupsPath {text:?} is the root of the hierarchy")));
    }
    if text.contains(['\0', '\n']) {
        return Err(Error::Option(format!("cgroupsPath {text:?} has a character that no cgroup can have")));
    }
    Ok(path)
}

fn unit(slice: &str, prefix: &str, name: &str, manager: Manager<'_>) -> Result<CgroupsPath, Error> {
    let (default, above) = match manager {
        Manager::UserSystemd(path) => ("user.slice", path),
        Manager::Files | Manager::Systemd => ("system.slice", Path::new("")),
    };
    let slice = if slice.is_empty() { default } else { slice };
    check_slice(slice)?;
    let unit = match (name.ends_with(".slice"), prefix) {
        (true, _) => name.to_owned(),
        (false, "") => format!("{name}.scope"),
        (false, prefix) => format!("{prefix}-{name}.scope"),
    };
    if name.is_empty() || !is_name(&unit) {
        return Err(Error::Option(format!("{unit:?} is no name that a unit of systemd can have")));
    }
    let unit = Unit { name: unit, user: matches!(manager, Manager::UserSystemd(_)) };
    Ok(CgroupsPath::Unit { slice: slice.to_owned(), unit, manager: above.to_path_buf() })
}

/// Whether a unit's name is as long as it may be, and has no other characters than it may have. systemd.unit(5).
fn is_name(name: &str) -> bool {
    name.len() <= 255 && name.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c))
}

/// The cgroup of the user's systemd, below the root: found by where this process is, or by whose `$XDG_RUNTIME_DIR` is, for
/// a session stands beside that systemd. cgroups(7), user@.service(5).
#[must_use]
pub fn user_manager() -> PathBuf {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let run = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_default();
    manager_of(&text).or_else(|| manager_at(Path::new(&run))).unwrap_or_default()
}

/// That of the user whose directory is `/run/user/UID`.
fn manager_at(run: &Path) -> Option<PathBuf> {
    let uid: u32 = run.strip_prefix("/run/user").ok()?.to_str()?.parse().ok()?;
    Some(format!("user.slice/user-{uid}.slice/user@{uid}.service").into())
}

fn manager_of(cgroups: &str) -> Option<PathBuf> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let names: Vec<&str> = path.split('/').collect();
    let end = names.iter().position(|name| name.starts_with("user@") && name.ends_with(".service"))?;
    Some(names[..=end].iter().collect())
}

/// `-.slice` is the root; the others are named after their place: systemd.slice(5).
fn check_slice(slice: &str) -> Result<(), Error> {
    let stem = slice.strip_suffix(".slice").filter(|stem| !stem.contains('/'));
    let is_good =
        stem.is_some_and(|stem| stem == "-" || stem.split('-').all(|part| !part.is_empty() && part != ".."));
    if is_good && is_name(slice) {
        Ok(())
    } else {
        Err(Error::Option(format!("{slice:?} is no name that a slice of systemd can have")))
    }
}

/// `a-b.slice` lies in `a.slice`: the path is spelt out in the name.
fn slice_directory(slice: &str) -> PathBuf {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    if stem == "-" { PathBuf::new() } else { ends.map(|end| format!("{}.slice", &stem[..end])).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: Option<&str>, systemd: bool, expect: &str) {
        let manager = if systemd { Manager::Systemd } else { Manager::Files };
        let path = CgroupsPath::parse(text, "web", manager);
        let path = path.map_or_else(|error| error.to_string(), |path| path.directory().display().to_string());
        assert_eq!(path, expect, "{text:?}");
    }

    #[test]
    fn a_path_names_a_directory_below_the_root() {
        check(None, false, "web");
        check(Some(""), false, "web");
        check(Some("/docker/web"), false, "docker/web");
        check(Some("docker//./web/"), false, "docker/web");
        check(Some("system.slice:docker:web"), false, "system.slice:docker:web");
    }

    #[test]
    fn a_hostile_path_stays_below_the_root() {
        check(Some("/../../etc"), false, "etc");
        check(Some("../a/../../b"), false, "b");
        check(Some("/"), false, "cgroupsPath \"/\" is the root of the hierarchy");
        check(Some("a/.."), false, "cgroupsPath \"a/..\" is the root of the hierarchy");
        check(Some("a\n0::/b"), false, "cgroupsPath \"a\\n0::/b\" has a character that no cgroup can have");
    }

    #[test]
    fn with_systemd_a_path_names_slice_and_unit() {
        check(None, true, "system.slice/skiff-web.scope");
        check(Some("system.slice:docker:web"), true, "system.slice/docker-web.scope");
        check(Some("::web"), true, "system.slice/web.scope");
        check(Some("a-b-c.slice:x:y"), true, "a.slice/a-b.slice/a-b-c.slice/x-y.scope");
        check(Some("-.slice:x:y"), true, "x-y.scope");
        check(Some("machine.slice:x:y.slice"), true, "machine.slice/y.slice");
    }

    #[test]
    fn a_users_unit_lies_below_the_users_systemd() {
        let own = "0::/user.slice/user-7.slice/user@7.service/app.slice/x.scope\n";
        let manager = manager_of(own).expect("a manager");
        let path = CgroupsPath::parse(None, "web", Manager::UserSystemd(&manager)).expect("a path");
        let expect = "user.slice/user-7.slice/user@7.service/user.slice/skiff-web.scope";
        assert_eq!(path.directory(), Path::new(expect));
        assert_eq!(manager_of("4:memory:/a\n0::/user.slice/user-7.slice/session-1.scope\n"), None);
        assert_eq!(manager_at(Path::new("/run/user/7")).as_deref(), Some(&*manager));
        assert_eq!([manager_at(Path::new("/run/user/7/x")), manager_at(Path::new("/tmp/run"))], [None, None]);
    }

    #[test]
    fn what_systemd_would_not_take_is_refused() {
        let slice = |name: &str| format!("{name:?} is no name that a slice of systemd can have");
        check(Some("/docker/web"), true, "cgroupsPath \"/docker/web\" is not of the form slice:prefix:name");
        check(Some("a:b:c:d"), true, "cgroupsPath \"a:b:c:d\" is not of the form slice:prefix:name");
        check(Some("system:x:y"), true, &slice("system"));
        check(Some("../x.slice:x:y"), true, &slice("../x.slice"));
        check(Some("a--b.slice:x:y"), true, &slice("a--b.slice"));
        check(Some("..-x.slice:x:y"), true, &slice("..-x.slice"));
        check(Some("a\nb.slice:x:y"), true, &slice("a\nb.slice"));
        check(Some("a\0.slice:x:y"), true, &slice("a\0.slice"));
        check(Some("a.slice:x:../y"), true, "\"x-../y.scope\" is no name that a unit of systemd can have");
        check(Some("a.slice:x:"), true, "\"x-.scope\" is no name that a unit of systemd can have");
    }

    #[test]
    fn the_directory_of_a_process_is_found_in_each_hierarchy() {
        let table = "3:cpu,cpuacct:/a\n2:name=systemd:/b\n1:memory:/../out\n0::/c\n";
        for (mount, expect) in [
            ("/sys/fs/cgroup/cpu,cpuacct", Some("/sys/fs/cgroup/cpu,cpuacct/a")),
            ("/sys/fs/cgroup/cpuacct", Some("/sys/fs/cgroup/cpuacct/a")),
            ("/sys/fs/cgroup/systemd", Some("/sys/fs/cgroup/systemd/b")),
            ("/sys/fs/cgroup/unified", Some("/sys/fs/cgroup/unified/c")),
            ("/sys/fs/cgroup", Some("/sys/fs/cgroup/c")),
            ("/sys/fs/cgroup/memory", None),
            ("/sys/fs/cgroup/pids", None),
        ] {
            assert_eq!(directory_of(table, Path::new(mount)), expect.map(PathBuf::from), "{mount}");
        }
    }
}
