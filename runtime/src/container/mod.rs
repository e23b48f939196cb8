//! Containers that outlive whoever launched them: their directory below the root, and what becomes of them.
//!
//! ```text
//! <root>/<id>/       made by mkdir(2), which claims the id; locked (flock(2)) by whoever changes the container
//!   state.json       a [`Record`] on each line, of which the last whole one holds; the first, there by rename(2), is
//!                    written before there is a cgroup or a process, and later ones are added
//!   config.json      the bundle's configuration as it was then; under this name once the container is made
//!   start.sock       by which a created container is started; gone once it has been
//!   notify/          mounted in the container, for `notify.sock`, by which its program says that it is ready; if somebody
//!                    wants to know
//! ```
//!
//! Where a container is in its life is written nowhere, since that would be wrong as soon as somebody is killed.
//! [`Container::status`] finds it out:
//!
//! | first process | | status |
//! |---|---|---|
//! | not on record | the lock is held | creating |
//! | not on record, or ended, or its id is another's now | | stopped |
//! | alive | its cgroup is frozen | paused |
//! | has not executed the program | there is no `config.json` | creating |
//! | has not executed the program | there is a `start.sock` | created |
//! | has executed it | | running |
//!
//! Only a lock makes one wait: to look at a container, or to send it a signal, takes none.

mod members;
mod record;

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollTimeout, poll};
use skiff_sys::process;

pub use record::{Init, Record};

use crate::Error;
use crate::cgroup::Cgroup;
use crate::error::Context;
use crate::observe;
use crate::oci::spec::Status;

const STATE: &str = "state.json";
const NEW_STATE: &str = "state.json.new";
const CONFIG: &str = "config.json";
const NEW_CONFIG: &str = "config.json.new";
/// Where a created container waits to be started.
pub const GATE: &str = "start.sock";
/// The directory that is mounted in a container whose program can say that it is ready.
pub const NOTIFY: &str = "notify";

/// The name of a process that has not become the container's program yet; exec(2) takes it away.
const OWN_NAME: &[u8] = b"skiff-runtime";

/// A container that is on record.
#[derive(Debug)]
pub struct Container {
    directory: PathBuf,
    record: Record,
}

/// The container's first process, alive when it was looked for.
#[derive(Debug)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Stays its own.
    pub pidfd: OwnedFd,
    is_program: bool,
}

/// The right to change a container, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _held: Flock<fs::File>,
}

/// A container that is being made. Its directory goes again when this is dropped, unless it is [kept](Self::keep).
#[derive(Debug)]
pub struct Claim {
    directory: PathBuf,
    lock: Option<Lock>,
    /// Its record, once there is one.
    state: Option<fs::File>,
}

/// Whether `id` can be a container's: letters, digits and `_+-.`, and not `.` or `..`.
pub fn check_id(id: &str) -> Result<(), Error> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    // It becomes a file name (NAME_MAX), with something added for a cgroup's.
    if id.is_empty() || id.len() > 200 || id == "." || id == ".." || !id.bytes().all(is_good) {
        return Err(Error::Option(format!("invalid container id {id:?}")));
    }
    Ok(())
}

/// In words that containerd and podman look for.
#[must_use]
pub fn does_not_exist(id: &str) -> Error {
    Error::Option(format!("container {id:?} does not exist"))
}

/// In words that engines look for, too.
fn already_exists(id: &str) -> Error {
    Error::Option(format!("container with given ID already exists: {id}"))
}

/// Claims `id` below `root`, which is made if it is missing. Of several who do so at once, one succeeds.
///
/// A directory without a record and without a lock has been left by somebody who was killed; it is taken over.
pub fn claim(root: &Path, id: &str) -> Result<Claim, Error> {
    check_id(id)?;
    let directory = root.join(id);
    loop {
        make(root, &directory)?;
        // Empty, unless it is somebody else's, and then it stays.
        let lock = Lock::try_take(&directory).inspect_err(|_| drop(fs::remove_dir(&directory)))?;
        let is_free = lock.is_some() && !directory.join(STATE).exists();
        match lock {
            Some(lock) if is_free => return Ok(Claim { directory, lock: Some(lock), state: None }),
            // It was somebody's remains, and has just been removed.
            None if !directory.exists() => {}
            _ => return Err(already_exists(id)),
        }
    }
}

/// Makes `directory` in `root`, which is made too if it is missing; it may be there already.
fn make(root: &Path, directory: &Path) -> Result<(), Error> {
    let make = || match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    let made = match make() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
            made.context(|| format!("make {}", root.display()))?;
            make()
        }
        other => other,
    };
    made.context(|| format!("make {}", directory.display()))
}

/// All containers below `root`, sorted by id. Directories without a record, of which nothing is known, are left out.
pub fn all(root: &Path) -> Result<Vec<Container>, Error> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context(|| format!("read {}", root.display()))?,
    };
    let mut containers = Vec::new();
    for entry in entries {
        let name = entry.context(|| format!("read {}", root.display()))?.file_name();
        let Some(id) = name.to_str().filter(|id| check_id(id).is_ok()) else { continue };
        match Container::find(root, id) {
            Ok(found) => containers.extend(found),
            Err(error) => tracing::warn!("{error}"),
        }
    }
    containers.sort_by(|one, other| one.record.id.cmp(&other.record.id));
    Ok(containers)
}

/// Removes what may be left of container `id` when nothing is on record of it.
pub fn remove_remains(root: &Path, id: &str) -> Result<(), Error> {
    check_id(id)?;
    let directory = root.join(id);
    if !directory.is_dir() {
        return Ok(());
    }
    let Some(lock) = Lock::take(&directory)? else { return Ok(()) };
    // One that cannot be read is as good as none.
    if let Ok(Some(_)) = Record::read(&directory.join(STATE)) {
        return Err(Error::Option(format!("container {id} has just been made")));
    }
    remove(&directory, lock)
}

impl Container {
    /// The container `id` below `root`; `None` if nothing is on record of it.
    ///
    /// Errors: an id that is none, a record that cannot be read.
    pub fn find(root: &Path, id: &str) -> Result<Option<Self>, Error> {
        check_id(id)?;
        let directory = root.join(id);
        Ok(Record::read(&directory.join(STATE))?.map(|record| Self { directory, record }))
    }

    /// As [`Container::find`], where it must be there.
    pub fn open(root: &Path, id: &str) -> Result<Self, Error> {
        Self::find(root, id)?.ok_or_else(|| does_not_exist(id))
    }

    /// What is on record.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Its own directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its configuration, as it was when it was made.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join(CONFIG)
    }

    /// Its first process, unless that has ended.
    pub fn process(&self) -> Result<Option<Process>, Error> {
        let Some(Init { pid, start_time }) = self.record.init else { return Ok(None) };
        let gone = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(nix::libc::ESRCH | nix::libc::ENOENT | nix::libc::EINVAL))
        };
        // First the descriptor, then the look: whichever process has the id now, both are of the same one, or the start
        // time differs.
        let pidfd = match process::open_pidfd(pid) {
            Err(error) if gone(&error) => return Ok(None),
            other => other.context(|| format!("open process {pid}"))?,
        };
        let stat = match process::stat(pid) {
            Err(error) if gone(&error) => return Ok(None),
            other => other.context(|| format!("look at process {pid}"))?,
        };
        if stat.start_time != start_time || matches!(stat.state, b'Z' | b'X') {
            return Ok(None);
        }
        Ok(Some(Process { pid, pidfd, is_program: stat.name != OWN_NAME }))
    }

    /// Where it is in its life.
    pub fn status(&self) -> Result<Status, Error> {
        Ok(self.look()?.0)
    }

    /// Where it is in its life, and its first process as long as it has one.
    pub fn look(&self) -> Result<(Status, Option<Process>), Error> {
        let Some(process) = self.process()? else {
            let is_new = self.record.init.is_none() && Lock::is_held(&self.directory)?;
            return Ok((if is_new { Status::Creating } else { Status::Stopped }, None));
        };
        let is_there = |name: &str| self.directory.join(name).exists();
        let status = if self.is_frozen()? {
            Status::Paused
        } else if !process.is_program && !is_there(CONFIG) {
            Status::Creating
        } else if !process.is_program && is_there(GATE) {
            Status::Created
        } else {
            Status::Running
        };
        Ok((status, Some(process)))
    }

    fn is_frozen(&self) -> Result<bool, Error> {
        Cgroup::open(&self.record.cgroups)?.frozen()
    }

    /// Takes the right to change it; waits for whoever has it. `None` if it is gone by then, also if another one has its id.
    ///
    /// Errors: it was not to be had within some seconds.
    pub fn lock(&mut self) -> Result<Option<Lock>, Error> {
        let Some(lock) = Lock::take(&self.directory)? else { return Ok(None) };
        // Whoever had it may have changed what is on record.
        let Some(record) = Record::read(&self.directory.join(STATE))? else { return Ok(None) };
        if record.created != self.record.created {
            return Ok(None);
        }
        self.record = record;
        Ok(Some(lock))
    }

    /// Notes that it was started, so that it cannot be started again.
    pub fn started(&self) -> Result<(), Error> {
        let gate = self.directory.join(GATE);
        fs::remove_file(&gate).context(|| format!("remove {}", gate.display()))
    }

    /// Removes its cgroups, with all processes in them, and then what is on record of it.
    pub fn remove(self, lock: Lock) -> Result<(), Error> {
        let cgroup = Cgroup::open(&self.record.cgroups)?;
        let id = cgroup.id();
        cgroup.remove()?;
        observe::released(id);
        self.forget(lock)
    }

    /// Removes what is on record of it, once there is nothing else.
    pub fn forget(self, lock: Lock) -> Result<(), Error> {
        remove(&self.directory, lock)
    }
}

impl Claim {
    /// The container's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Puts `record` on record, in the place of what was.
    ///
    /// That is added to, not replaced: to replace a file has ext4 allocate its blocks and write them, at once and again when
    /// it is removed.
    pub fn write(&mut self, record: &Record) -> Result<(), Error> {
        let line = record.to_line()?;
        let (new, path) = (self.directory.join(NEW_STATE), self.directory.join(STATE));
        let written = match &mut self.state {
            Some(state) => state.write_all(&line),
            none => write(&new, &line).and_then(|state| {
                *none = Some(state);
                fs::rename(&new, &path)
            }),
        };
        written.context(|| format!("write {}", path.display()))
    }

    /// Keeps a copy of the configuration.
    pub fn write_config(&self, text: &[u8]) -> Result<(), Error> {
        let path = self.directory.join(NEW_CONFIG);
        write(&path, text).map(drop).context(|| format!("write {}", path.display()))
    }

    /// Lets the container be, which is made now.
    pub fn keep(mut self, record: Record) -> Result<Container, Error> {
        let (new, path) = (self.directory.join(NEW_CONFIG), self.directory.join(CONFIG));
        fs::rename(new, &path).context(|| format!("write {}", path.display()))?;
        self.lock = None;
        Ok(Container { directory: std::mem::take(&mut self.directory), record })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        if let Err(error) = remove(&self.directory, lock) {
            tracing::warn!("{error}");
        }
    }
}

/// Makes a file of `text`, open at its end.
fn write(path: &Path, text: &[u8]) -> io::Result<fs::File> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    Ok(file)
}

/// Removes a container's directory; its record last, so that it is known as long as anything is left.
fn remove(directory: &Path, lock: Lock) -> Result<(), Error> {
    for name in [GATE, CONFIG, NEW_CONFIG, NEW_STATE, STATE] {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context(|| format!("remove {}", directory.join(name).display()));
            }
            _ => {}
        }
    }
    let removed = match fs::remove_dir(directory) {
        // Few have one.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            // What is not there is no hindrance, and what stays is one to the next line, which says so.
            let _removed = fs::remove_dir_all(directory.join(NOTIFY));
            fs::remove_dir(directory)
        }
        other => other,
    };
    drop(lock);
    removed.context(|| format!("remove {}", directory.display()))
}

/// How long to wait for whoever else is changing a container. A hook of theirs may take long.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE_MS: u16 = 2;

impl Lock {
    /// Takes the lock of `directory`, which may take a while; `None` if the directory is gone.
    fn take(directory: &Path) -> Result<Option<Self>, Error> {
        let deadline = Instant::now() + PATIENCE;
        while directory.is_dir() {
            if let Some(lock) = Self::try_take(directory)? {
                return Ok(Some(lock));
            }
            if Instant::now() > deadline {
                let message = format!("{} is in use by another command", directory.display());
                return Err(Error::Option(message));
            }
            // flock(2) could wait by itself, but not for so long and no longer.
            poll(&mut [], PollTimeout::from(PAUSE_MS)).context(|| "wait".into())?;
        }
        Ok(None)
    }

    /// Takes the lock of `directory` if it is free; not that of a directory that has been removed meanwhile.
    fn try_take(directory: &Path) -> Result<Option<Self>, Error> {
        let context = || format!("lock {}", directory.display());
        let file = match fs::File::open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.context(context)?,
        };
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::Error::EWOULDBLOCK)) => return Ok(None),
            Err((_, error)) => return Err(error).context(context),
        };
        let is_there = lock.metadata().context(context)?.nlink() > 0;
        Ok(is_there.then_some(Self { _held: lock }))
    }

    fn is_held(directory: &Path) -> Result<bool, Error> {
        let context = || format!("look at the lock of {}", directory.display());
        let file = match fs::File::open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.context(context)?,
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(false),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(true),
            Err((_, error)) => Err(error).context(context),
        }
    }
}

#[cfg(test)]
mod tests;
