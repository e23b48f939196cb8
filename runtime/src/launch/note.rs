//! The note of a running container, by which the next run finds and clears what a killed one has left.
//!
//! `<run root>/containers/<id>` is a file locked (flock(2)) by the skiff process that runs the container; it holds the
//! container's name. It appears complete and locked, by linkat(2) of an unnamed file, and goes last. So whoever can lock
//! it has found a container whose skiff is dead. `<run root>/names/<name>` is a symlink to the id.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::cgroup::{self, Layout};
use crate::error::Context;
use crate::{Error, Plan};

/// A running container's note. Removed, with the writable layer, when dropped, unless it was told to stay.
#[derive(Debug)]
pub(super) struct Note {
    path: PathBuf,
    stays: bool,
    name: Option<PathBuf>,
    writable: PathBuf,
    /// Held until the end of the process or of this value.
    _lock: Flock<fs::File>,
}

impl Note {
    /// Takes the id and the name.
    ///
    /// Errors: the name is taken by a running container.
    pub(super) fn take(plan: &Plan) -> Result<Self, Error> {
        let containers = plan.run_root.join("containers");
        make_private(&containers)?;
        let path = containers.join(&plan.id);
        let lock = place(&containers, &path, plan.name.as_deref().unwrap_or_default())
            .context(|| format!("make {}", path.display()))?;
        let writable = writable(&plan.state_root, &plan.id);
        let mut note = Self { path, stays: false, name: None, writable, _lock: lock };
        if let Some(name) = &plan.name {
            note.name = Some(take_name(plan, name)?);
        }
        Ok(note)
    }

    /// Leaves the note for the next run, which will try again to remove what it stands for.
    pub(super) const fn stay(&mut self) {
        self.stays = true;
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let name = self.name.as_deref();
        if let Err(error) = forget(&self.path, name, &self.writable) {
            tracing::warn!("{error}");
        }
    }
}

/// Clears what killed skiff processes have left: their processes, cgroups, writable layers, names and notes.
pub(super) fn sweep(run_root: &Path, state_root: &Path, own_id: &str) -> Result<(), Error> {
    let containers = run_root.join("containers");
    let entries = match fs::read_dir(&containers) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.context(|| format!("read {}", containers.display()))?,
    };
    for entry in entries {
        let entry = entry.context(|| format!("read {}", containers.display()))?;
        let id = entry.file_name().to_string_lossy().into_owned();
        if id == own_id {
            continue;
        }
        clear(&entry.path(), &id, run_root, state_root)?;
    }
    Ok(())
}

/// Clears container `id` if its skiff is dead.
fn clear(path: &Path, id: &str, run_root: &Path, state_root: &Path) -> Result<(), Error> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.context(|| format!("open {}", path.display()))?,
    };
    let Ok(mut lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(()) };
    // Two sweepers: the second has locked a note that the first has removed meanwhile.
    if lock.metadata().context(|| format!("stat {}", path.display()))?.nlink() == 0 {
        return Ok(());
    }
    let mut name = String::new();
    lock.read_to_string(&mut name).context(|| format!("read {}", path.display()))?;
    tracing::info!("clearing container {id}, whose skiff was killed");
    cgroup::remove_stale(&Layout::of_host(), &format!("skiff-{id}"))?;
    let name = (!name.is_empty()).then(|| run_root.join("names").join(name));
    let name = name.filter(|link| fs::read_link(link).is_ok_and(|owner| owner == Path::new(id)));
    forget(path, name.as_deref(), &writable(state_root, id))
}

/// Removes the writable layer, then the name, then the note.
fn forget(path: &Path, name: Option<&Path>, writable: &Path) -> Result<(), Error> {
    let missing_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    missing_is_fine(remove_tree(writable)).context(|| format!("remove {}", writable.display()))?;
    if let Some(name) = name {
        missing_is_fine(fs::remove_file(name)).context(|| format!("remove {}", name.display()))?;
    }
    missing_is_fine(fs::remove_file(path)).context(|| format!("remove {}", path.display()))
}

/// Removes a directory and all in it, also what lies in directories that their owner may not enter: overlayfs makes such
/// ones for itself, and a program may. Root is not kept out by them.
///
/// Held while it goes, for what it occupied is given back when the last who has it lets it go: that may wait for the disk (`discard`), and
/// else it would do so with the directory above locked, in which others are made meanwhile.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let _held = hold(path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn hold(path: &Path) -> io::Result<OwnedFd> {
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
    Ok(fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?.into())
}

fn open_up(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// Where the writable layer of container `id` belongs.
pub(super) fn writable(state_root: &Path, id: &str) -> PathBuf {
    state_root.join("containers").join(id)
}

/// Makes the directory `<state root>/containers`, which has [each container's own](writable): they have nothing to do with each
/// other, and most of them are soon gone.
pub fn make_home(state_root: &Path) -> io::Result<()> {
    let home = state_root.join("containers");
    private().recursive(true).create(&home)?;
    let hinted = fs::File::open(&home).and_then(|home| skiff_sys::file::spread_below(home.as_fd()));
    if let Err(error) = hinted {
        // Most file systems know no such hint.
        tracing::debug!("spread {}: {error}", home.display());
    }
    Ok(())
}

/// Makes the directory of one container there; it may be there already.
pub(super) fn make_own(state_root: &Path, directory: &Path) -> io::Result<()> {
    let made = match private().create(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_home(state_root).and_then(|()| private().create(directory))
        }
        other => other,
    };
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Makes the file `path` appear in `directory`, locked and with its content. open(2) `O_TMPFILE`, linkat(2).
fn place(directory: &Path, path: &Path, content: &str) -> io::Result<Flock<fs::File>> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_TMPFILE)
        .open(directory)?;
    let mut lock =
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| io::Error::from(error))?;
    lock.write_all(content.as_bytes())?;
    link(lock.as_fd().try_clone_to_owned()?, path)?;
    Ok(lock)
}

/// Gives an unnamed file a name, by way of `/proc/self/fd`: linking a descriptor itself takes CAP_DAC_READ_SEARCH.
fn link(file: OwnedFd, path: &Path) -> io::Result<()> {
    let from = skiff_sys::file::proc_fd_path(file.as_fd());
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW;
    Ok(nix::unistd::linkat(nix::fcntl::AT_FDCWD, from.as_c_str(), nix::fcntl::AT_FDCWD, path, flags)?)
}

fn take_name(plan: &Plan, name: &str) -> Result<PathBuf, Error> {
    let names = plan.run_root.join("names");
    make_private(&names)?;
    let link = names.join(name);
    loop {
        match std::os::unix::fs::symlink(&plan.id, &link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => {
                return other.map(|()| link.clone()).context(|| format!("make {}", link.display()));
            }
        }
        let owner = match fs::read_link(&link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.context(|| format!("read {}", link.display()))?,
        };
        let id = owner.to_string_lossy();
        let path = plan.run_root.join("containers").join(&owner);
        clear(&path, &id, &plan.run_root, &plan.state_root)?;
        if path.exists() {
            let short: String = id.chars().take(12).collect();
            let message = format!("the container name {name:?} is already in use by container {short}");
            return Err(Error::Option(message));
        }
        // Nobody owns it: a name is removed before its note, so this one was left by a crash in between.
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context(|| format!("remove {}", link.display()));
            }
            _ => {}
        }
    }
}

/// Makes a directory, with its parents, that only its owner may enter.
pub(crate) fn make_private(path: &Path) -> Result<(), Error> {
    private().recursive(true).create(path).context(|| format!("make {}", path.display()))
}

/// Only its owner may enter.
fn private() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    builder
}
