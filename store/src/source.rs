//! Where the files of an image lie: a directory, or the members of a tar archive read in place.
//!
//! Archives are read by pread(2) rather than mapped: a file that shrinks under us is then an error, not a SIGBUS.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;

use crate::blob::{Blob, is_compressed};
use crate::entries::{Input, Kind, Reader};

/// Members that an archive may have. Docker writes three for each layer.
const MEMBERS_MAX: usize = 1 << 16;

/// Longest name of a member that is kept, in bytes: no image names a longer one.
const NAME_MAX: usize = 4095;

/// Most links from name to name in an archive; docker save of old links equal layers.
const LINKS_MAX: usize = 8;

/// Files by name.
#[derive(Debug)]
pub(crate) enum Source {
    /// Below a directory.
    Directory(PathBuf),
    /// Inside an archive.
    Archive(Archive),
}

/// An open archive and where its members are.
#[derive(Debug)]
pub(crate) struct Archive {
    file: Arc<File>,
    members: HashMap<Vec<u8>, Member>,
}

#[derive(Debug)]
enum Member {
    Data {
        offset: u64,
        length: u64,
    },
    /// To another member, by its full name.
    Link(Vec<u8>),
}

impl Source {
    pub(crate) fn directory(path: &Path) -> io::Result<Self> {
        if !path.metadata()?.is_dir() {
            return Err(io::Error::other("not a directory"));
        }
        Ok(Self::Directory(path.to_owned()))
    }

    /// Reads the headers of a tar file. Errors: not a tar file; compressed as a whole.
    pub(crate) fn archive(path: &Path) -> io::Result<Self> {
        let file = open_file(path)?;
        let length = file.metadata()?.len();
        let mut start = [0; 8];
        let count = Blob::new(Arc::clone(&file), 0, length).read(&mut start)?;
        if is_compressed(&start[..count]) {
            return Err(io::Error::other(
                "the archive itself is compressed; decompress it first, or load it",
            ));
        }
        let members = index(&file, length)?;
        Ok(Self::Archive(Archive { file, members }))
    }

    /// Reads the headers of a regular file that is a tar. Errors: it is none.
    pub(crate) fn archive_in(file: File) -> io::Result<Self> {
        let (length, file) = (file.metadata()?.len(), Arc::new(file));
        let members = index(&file, length)?;
        Ok(Self::Archive(Archive { file, members }))
    }

    /// The file `name`. Errors: `NotFound`.
    pub(crate) fn open(&self, name: &str) -> io::Result<Blob> {
        match self {
            Self::Directory(path) => {
                let file = open_file(&path.join(name))?;
                let length = file.metadata()?.len();
                Ok(Blob::new(file, 0, length))
            }
            Self::Archive(archive) => archive.open(name.as_bytes()),
        }
    }

    /// Whether there is a file `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(path) => path.join(name).exists(),
            Self::Archive(archive) => archive.members.contains_key(name.as_bytes()),
        }
    }
}

impl Archive {
    fn open(&self, name: &[u8]) -> io::Result<Blob> {
        let mut name = name;
        for _ in 0..LINKS_MAX {
            match self.members.get(name).ok_or(io::ErrorKind::NotFound)? {
                Member::Link(target) => name = target,
                &Member::Data { offset, length } => {
                    return Ok(Blob::new(Arc::clone(&self.file), offset, length));
                }
            }
        }
        Err(io::Error::other("too many links"))
    }
}

/// A regular file; anything else could block or never end.
fn open_file(path: &Path) -> io::Result<Arc<File>> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(Arc::new(file))
}

fn index(file: &Arc<File>, length: u64) -> io::Result<HashMap<Vec<u8>, Member>> {
    let mut reader = Reader::new(BufReader::with_capacity(4096, Blob::new(Arc::clone(file), 0, length)));
    let mut members = HashMap::new();
    while let Some(entry) = reader.next()? {
        let Some(name) = resolve(b"", &entry.path) else { continue };
        let member = match entry.kind {
            Kind::File if entry.segments.is_none() => {
                let (offset, size) = reader.position();
                if size > length - offset.min(length) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Some(Member::Data { offset, length: size })
            }
            Kind::HardLink(target) => resolve(b"", &target).map(Member::Link),
            Kind::Symlink(target) => {
                let dir = name.iter().rposition(|&b| b == b'/').map_or(&b""[..], |at| &name[..at]);
                resolve(dir, &target).map(Member::Link)
            }
            _ => None,
        };
        let Some(member) = member else { continue };
        members.insert(name, member);
        if members.len() > MEMBERS_MAX {
            return Err(io::Error::other(format!("more than {MEMBERS_MAX} files in the archive")));
        }
    }
    Ok(members)
}

/// `path` as seen from `dir`, without `.` and `..`; none if it leaves the archive or is too long.
fn resolve(dir: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    if dir.len() + path.len() > NAME_MAX {
        return None;
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in dir.split(|&b| b == b'/').chain(path.split(|&b| b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

impl Input for BufReader<Blob> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let buffered = self.buffer().len() as u64;
        let within = count.min(buffered);
        self.consume(usize::try_from(within).unwrap_or(0));
        self.get_mut().advance(count - within)
    }
}
