//! What has become of containers: a line for each end of one, which stays when the container goes.
//!
//! ```text
//! <state root>/history      a JSON object and a new line for each end, the newest last
//!              history.1    what it was before it became longer than 4 MiB
//! ```
//!
//! A line is written before the container's cgroup is removed, so that a daemon that is killed loses none: the next one finds the cgroup,
//! or the line. It may then write the same end once more, and the first line counts. Nothing is synced. What a crash has torn is passed
//! over by whoever reads, and ended by whoever writes next.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::figures::Figures;

/// What the lines are called.
pub const SCHEMA: &str = "skiff.history/1";

/// The file's name in the state root.
const FILE: &str = "history";
/// What it is called when it has become too long.
const FORMER: &str = "history.1";
/// So long may it become, bytes.
const LENGTH_MAX: u64 = 4 << 20;
/// No line is longer, bytes, its end included: the last words of its command are left out for that.
const LINE_MAX: usize = 1 << 20;

/// How a container ended, and what it had used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    /// [`SCHEMA`].
    pub schema: String,
    /// 64 lower-case hex digits.
    pub id: String,
    /// The name that it had.
    pub name: String,
    /// The image as it was given.
    pub image: String,
    /// `sha256:…` of the image's configuration, if it has one.
    pub image_id: Option<String>,
    /// Program and arguments; only the first of them if they are most of a MiB.
    pub command: Vec<String>,
    /// When it was made, ns since 1970.
    pub created_ns: u64,
    /// When it was started, ns since 1970.
    pub started_ns: u64,
    /// When it ended, ns since 1970.
    pub finished_ns: u64,
    /// How, as a shell has it: 128 + n for signal n.
    pub exit_code: u8,
    /// Whether the kernel has killed something in it for want of memory.
    pub is_oom_killed: bool,
    /// What it had used.
    pub figures: Figures,
}

/// The file, to be written.
#[derive(Debug)]
pub(crate) struct History {
    root: PathBuf,
    file: Mutex<Option<File>>,
}

impl History {
    /// That below this state root.
    pub(crate) fn of(state_root: &Path) -> Self {
        Self { root: state_root.to_owned(), file: Mutex::default() }
    }

    /// Adds a line; some microseconds.
    pub(crate) fn append(&self, ended: &Ended) -> io::Result<()> {
        let line = line(ended)?;
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = match held.take() {
            Some(file) => file,
            None => open(&self.root.join(FILE))?,
        };
        if file.stream_position()? >= LENGTH_MAX {
            fs::rename(self.root.join(FILE), self.root.join(FORMER))?;
            file = open(&self.root.join(FILE))?;
        }
        file.write_all(&line)?;
        *held = Some(file);
        Ok(())
    }
}

fn line(ended: &Ended) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(ended)?;
    let mut words = ended.command.len();
    while line.len() >= LINE_MAX && words > 0 {
        words /= 2;
        line = serde_json::to_vec(&Ended { command: ended.command[..words].to_vec(), ..ended.clone() })?;
    }
    line.push(b'\n');
    Ok(line)
}

/// Opens it to be added to; a line that was torn is ended.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    if file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// All ends that are known, the newest first, and how many lines were torn.
///
/// Errors: a file cannot be read.
pub fn read(state_root: &Path) -> io::Result<(Vec<Ended>, usize)> {
    let (mut all, mut torn) = (Vec::new(), 0);
    let open = |name: &str| match File::open(state_root.join(name)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    // In this order: if one becomes the other in between, it is read twice, not passed over.
    let file = open(FILE)?;
    let former = open(FORMER)?;
    for file in [former, file].into_iter().flatten() {
        let mut bytes = Vec::new();
        file.take(LENGTH_MAX + LINE_MAX as u64).read_to_end(&mut bytes)?;
        torn += parse(&bytes, &mut all);
    }
    let mut seen = HashSet::new();
    all.retain(|ended| seen.insert((ended.id.clone(), ended.started_ns)));
    all.reverse();
    Ok((all, torn))
}

/// Adds the ends that the lines of `bytes` tell of; how many lines tell of none.
pub fn parse(bytes: &[u8], all: &mut Vec<Ended>) -> usize {
    let mut torn = 0;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Ended>(line) {
            Ok(ended) if ended.schema == SCHEMA => all.push(ended),
            // Of another version, or torn.
            _ => torn += 1,
        }
    }
    torn
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("skiff-history-{}-{name}", std::process::id()));
            drop(fs::remove_dir_all(&path));
            fs::create_dir(&path).expect("mkdir");
            Self(path)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn ended(id: &str, started_ns: u64) -> Ended {
        Ended { schema: SCHEMA.into(), id: id.into(), started_ns, ..Ended::default() }
    }

    fn ids(root: &Root) -> (Vec<String>, usize) {
        let (all, torn) = read(&root.0).expect("read");
        (all.into_iter().map(|ended| format!("{}{}", ended.id, ended.started_ns)).collect(), torn)
    }

    #[test]
    fn the_newest_comes_first_and_an_end_once() {
        let root = Root::new("first");
        assert_eq!(ids(&root), (vec![], 0));
        let history = History::of(&root.0);
        for one in [ended("a", 1), ended("b", 2), ended("a", 3), ended("b", 2)] {
            history.append(&one).expect("append");
        }
        assert_eq!(ids(&root), (vec!["a3".into(), "b2".into(), "a1".into()], 0));
    }

    #[test]
    fn a_torn_line_costs_nobody_else() {
        let root = Root::new("torn");
        let path = root.0.join(FILE);
        History::of(&root.0).append(&ended("a", 1)).expect("append");
        let mut torn = fs::read(&path).expect("read");
        let whole = torn.clone();
        torn.extend(&whole[..whole.len() / 2]);
        fs::write(&path, torn).expect("tear");
        assert_eq!(ids(&root), (vec!["a1".into()], 1));
        History::of(&root.0).append(&ended("b", 2)).expect("append");
        assert_eq!(ids(&root), (vec!["b2".into(), "a1".into()], 1));
        fs::write(&path, b"\xff\0{}\n[]\n{\"schema\":\"skiff.history/9\"}\n").expect("spoil");
        assert_eq!(ids(&root), (vec![], 3));
    }

    #[test]
    fn a_line_has_as_much_of_the_command_as_fits() {
        let root = Root::new("line");
        let mut one = ended("a", 1);
        one.command = (0..40).map(|_| "\u{1}".repeat(8 << 10)).collect();
        one.command[0] = "program".into();
        let history = History::of(&root.0);
        history.append(&one).expect("append");
        history.append(&ended("b", 2)).expect("append");
        assert!(line(&one).expect("a line").len() <= LINE_MAX);
        let (all, torn) = read(&root.0).expect("read");
        assert_eq!((all.len(), torn, all[1].command.len()), (2, 0, 20));
        assert_eq!(all[1].command, one.command[..20]);
    }

    #[test]
    fn it_stays_below_its_bound() {
        let root = Root::new("bound");
        let history = History::of(&root.0);
        let mut one = ended("a", 0);
        one.command = vec!["x".repeat(64 << 10)];
        for nth in 0..200 {
            one.started_ns = nth;
            history.append(&one).expect("append");
        }
        let length = |name: &str| fs::metadata(root.0.join(name)).expect("there").len();
        assert!(length(FILE) + length(FORMER) < 2 * (LENGTH_MAX + (128 << 10)));
        let (all, torn) = read(&root.0).expect("read");
        assert!(all.len() > 60 && torn == 0 && all[0].started_ns == 199);
    }
}
