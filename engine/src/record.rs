//! What is known of a container, and how it is kept.
//!
//! ```text
//! <state root>/containers/<id>/container.json    written by rename: whole or not at all
//!                              container.json.new  in the making
//!                              log/                what it has written
//!                              upper/ work/        the writable layer, the launch's own
//! ```
//!
//! Nothing is synced: after a power cut no container runs, and what is torn is set aside when it is next read.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skiff_runtime::options::unset;
use skiff_runtime::{cgroup, launch};

use crate::Spec;
use crate::figures::Figures;
use crate::health::Health;
use crate::state::State;

/// The record's name in the container's directory.
const FILE: &str = "container.json";

/// What it is called once it was found to be damaged. Its directory is left alone from then on.
const DAMAGED: &str = "container.json.damaged";

/// The format that this program writes; a record with a greater number is set aside.
const VERSION: u32 = 1;

/// Everything that is kept of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Of the format.
    #[serde(skip_serializing_if = "unset")]
    pub version: u32,
    /// 64 lower-case hex digits.
    #[serde(skip_serializing_if = "unset")]
    pub id: String,
    /// Unique among the daemon's containers.
    #[serde(skip_serializing_if = "unset")]
    pub name: String,
    /// What the client wanted; the image is folded into `options`.
    #[serde(skip_serializing_if = "unset")]
    pub spec: Spec,
    /// `sha256:…` of the image's configuration, if it has one.
    #[serde(skip_serializing_if = "unset")]
    pub image_id: Option<String>,
    /// What asks the program to stop.
    #[serde(skip_serializing_if = "unset")]
    pub stop_signal: i32,
    /// When it was made, ns since 1970.
    #[serde(skip_serializing_if = "unset")]
    pub created_ns: u64,
    /// What it is doing.
    #[serde(skip_serializing_if = "unset")]
    pub state: State,
    /// Its first process, while it has one.
    #[serde(skip_serializing_if = "unset")]
    pub process: Option<Process>,
    /// When it was last started, ns since 1970; 0 if never.
    #[serde(skip_serializing_if = "unset")]
    pub started_ns: u64,
    /// When it last ended, ns since 1970, later than `started_ns` then; 0 if never.
    #[serde(skip_serializing_if = "unset")]
    pub finished_ns: u64,
    /// How it ended, as a shell has it: 128 + n for signal n.
    #[serde(skip_serializing_if = "unset")]
    pub exit_code: u8,
    /// Whether the kernel has killed something in it for want of memory.
    #[serde(skip_serializing_if = "unset")]
    pub is_oom_killed: bool,
    /// How often the restart policy has started it again since it was last started by somebody.
    #[serde(skip_serializing_if = "unset")]
    pub restart_count: u32,
    /// Whether somebody has stopped it, so that no policy starts it again.
    #[serde(skip_serializing_if = "unset")]
    pub is_stopped: bool,
    /// Why it could not be started, in one line.
    #[serde(skip_serializing_if = "unset")]
    pub error: String,
    /// What it had used by its last end.
    #[serde(skip_serializing_if = "unset")]
    pub figures: Option<Box<Figures>>,
    /// How it is, if that is checked.
    #[serde(skip_serializing_if = "unset")]
    pub health: Option<Health>,
}

/// A process that is known again after its daemon has been another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id on the host.
    pub pid: i32,
    /// When it started, clock ticks since boot.
    pub start_time: u64,
    /// Which boot that was: `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Where its cgroups are.
    pub cgroups: cgroup::Paths,
}

/// A record that could not be read, set aside so that it is in nobody's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// The container's id: its directory's name.
    pub id: String,
    /// What is wrong, in one line.
    pub reason: String,
}

/// What lies below `<state root>/containers`.
#[derive(Debug, Default)]
pub struct Found {
    /// Whole records.
    pub records: Vec<Record>,
    /// Those that were not; each is now `container.json.damaged`.
    pub damaged: Vec<Damaged>,
    /// Ids of directories without a record.
    pub bare: Vec<String>,
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
enum Flaw {
    #[error("{}", skiff_runtime::cause(.0))]
    Unreadable(io::Error),
    #[error("{0}")]
    Torn(String),
    #[error("format {0}, written by a newer skiff")]
    Newer(u32),
}

/// The directory of all containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    root: PathBuf,
}

impl Records {
    /// Opens `<state root>/containers`, which is made if it is missing.
    pub fn open(state_root: &Path) -> io::Result<Self> {
        launch::make_home(state_root)?;
        Ok(Self { root: state_root.join("containers") })
    }

    /// The directory of container `id`.
    #[must_use]
    pub fn directory(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// The directory of the log of container `id`.
    #[must_use]
    pub fn log_directory(&self, id: &str) -> PathBuf {
        self.directory(id).join("log")
    }

    /// Writes the record; whoever reads it meanwhile finds the former.
    ///
    /// About 30 µs: the file is not synced.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let directory = self.directory(&record.id);
        let fresh = directory.join("container.json.new");
        let bytes = serde_json::to_vec(&Record { version: VERSION, ..record.clone() })?;
        match write_private(&fresh, &bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_private(&directory)?;
                write_private(&fresh, &bytes)?;
            }
            other => other?,
        }
        fs::rename(fresh, directory.join(FILE))
    }

    /// Ids of directories without a record, not even a damaged one.
    pub fn bare(&self) -> io::Result<Vec<String>> {
        let mut bare = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().filter(|name| is_id(name)) else { continue };
            let directory = self.directory(id);
            if ![FILE, DAMAGED].iter().any(|file| directory.join(file).exists()) {
                bare.push(id.to_owned());
            }
        }
        Ok(bare)
    }

    /// Reads every record.
    pub fn read_all(&self) -> io::Result<Found> {
        let mut found = Found::default();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().filter(|name| is_id(name)) else { continue };
            match self.read(id) {
                Ok(Some(record)) => found.records.push(record),
                // What was set aside is for somebody to look at.
                Ok(None) if self.directory(id).join(DAMAGED).exists() => {}
                Ok(None) => found.bare.push(id.to_owned()),
                Err(flaw) => {
                    self.set_aside(id)?;
                    found.damaged.push(Damaged { id: id.to_owned(), reason: flaw.to_string() });
                }
            }
        }
        Ok(found)
    }

    /// Reads every record that is whole, and changes nothing.
    ///
    /// Errors: one cannot be read, or was written by a newer program.
    pub fn look(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().filter(|name| is_id(name)) else { continue };
            match self.read(id) {
                Ok(record) => records.extend(record),
                Err(Flaw::Torn(_)) => {}
                Err(flaw) => return Err(io::Error::other(format!("container {id}: {flaw}"))),
            }
        }
        Ok(records)
    }

    /// Reads the record of container `id`; `None` if there is none.
    ///
    /// Errors: one line.
    pub fn one(&self, id: &str) -> Result<Option<Record>, String> {
        self.read(id).map_err(|flaw| flaw.to_string())
    }

    fn read(&self, id: &str) -> Result<Option<Record>, Flaw> {
        let bytes = match fs::read(self.directory(id).join(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Flaw::Unreadable(error)),
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| Flaw::Torn(error.to_string()))?;
        if record.version > VERSION {
            return Err(Flaw::Newer(record.version));
        }
        if record.id != id {
            return Err(Flaw::Torn("it is of another container".into()));
        }
        Ok(Some(record))
    }

    fn set_aside(&self, id: &str) -> io::Result<()> {
        let directory = self.directory(id);
        fs::rename(directory.join(FILE), directory.join(DAMAGED))
    }
}

/// Whether `text` is a whole container id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes the record in a container's directory, so that what is left of the container is a leftover. It may be gone.
pub fn forget(directory: &Path) -> io::Result<()> {
    match fs::remove_file(directory.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, bytes)
}

/// Makes a directory, with its parents, that only its owner may enter.
fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("skiff-records-{}-{name}", std::process::id()));
            drop(fs::remove_dir_all(&path));
            Self(path)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn record(digit: char) -> Record {
        let id = std::iter::repeat_n(digit, 64).collect();
        Record { version: VERSION, id, name: format!("web{digit}"), ..Record::default() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let root = Root::new("again");
        let records = Records::open(&root.0).expect("open");
        let changed = Record { exit_code: 7, state: State::Exited, ..record('a') };
        for one in [record('a'), record('b'), changed.clone()] {
            records.write(&one).expect("write");
        }
        let mut found = records.read_all().expect("read");
        found.records.sort_by(|one, other| one.id.cmp(&other.id));
        assert_eq!(found.records, [changed, record('b')]);
        assert!(found.damaged.is_empty() && found.bare.is_empty());
        let directory = records.directory(&record('a').id);
        forget(&directory).expect("forget");
        forget(&directory).expect("forget once more");
        assert_eq!(records.read_all().expect("read").bare, [record('a').id]);
    }

    #[test]
    fn a_torn_record_is_set_aside_and_told_of() {
        let root = Root::new("torn");
        let records = Records::open(&root.0).expect("open");
        let torn: [(char, &[u8]); 4] = [
            ('1', b""),
            ('2', br#"{"version":1,"id":"22"#),
            ('3', br#"{"version":1,"id":"other"}"#),
            ('4', br#"{"version":99}"#),
        ];
        records.write(&record('0')).expect("write");
        for (digit, bytes) in torn {
            records.write(&record(digit)).expect("write");
            fs::write(records.directory(&record(digit).id).join(FILE), bytes).expect("spoil");
        }
        let found = records.read_all().expect("read");
        assert_eq!(found.records, [record('0')]);
        assert_eq!(found.damaged.len(), torn.len());
        assert_eq!(records.look().expect("look"), [record('0')]);
        let again = records.read_all().expect("read");
        assert!(again.damaged.is_empty() && again.bare.is_empty());
    }

    #[test]
    fn what_is_no_container_is_passed_over() {
        let root = Root::new("other");
        let records = Records::open(&root.0).expect("open");
        fs::create_dir(root.0.join("containers/lost+found")).expect("mkdir");
        let found = records.read_all().expect("read");
        assert!(found.records.is_empty() && found.damaged.is_empty() && found.bare.is_empty());
    }
}
