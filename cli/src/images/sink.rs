//! Where an archive goes: standard output, or a file that is there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use crate::client::{os, refused};
use crate::failure::Failure;

/// A place to write to. Unless it is kept, a file that was made here goes again.
#[derive(Debug)]
pub(super) struct Sink {
    out: Out,
    /// What the file is called until it is whole, and then.
    names: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
enum Out {
    Stdout(io::Stdout),
    File(File),
}

impl Sink {
    /// `path`, or standard output, which must be no terminal: `what` is refused then.
    pub(super) fn open(path: Option<&Path>, what: &str) -> Result<Self, Failure> {
        let Some(path) = path else {
            return match io::stdout().is_terminal() {
                true => Err(refused(Failure::engine(format!(
                    "cowardly refusing to {what} to a terminal. Use the -o flag or redirect"
                )))),
                false => Ok(Self { out: Out::Stdout(io::stdout()), names: None }),
            };
        };
        let failed = |error: io::Error| refused(os(&format!("write {}", path.display()), &error));
        // A device or a pipe is written to as it is.
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            return Ok(Self { out: Out::File(file), names: None });
        }
        let mut name =
            path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?.to_owned();
        name.push(format!(".new.{}", std::process::id()));
        let unfinished = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&unfinished).map_err(failed)?;
        Ok(Self { out: Out::File(file), names: Some((unfinished, path.to_owned())) })
    }

    /// Gives a file its name.
    pub(super) fn keep(mut self) -> Result<(), Failure> {
        self.flush().map_err(|error| refused(os("write the archive", &error)))?;
        let Some((unfinished, path)) = self.names.take() else { return Ok(()) };
        fs::rename(&unfinished, &path).map_err(|error| {
            // It is of no use under the other name.
            drop(fs::remove_file(&unfinished));
            refused(os(&format!("write {}", path.display()), &error))
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.out {
            Out::Stdout(out) => out.write(bytes),
            Out::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.out {
            Out::Stdout(out) => out.flush(),
            Out::File(file) => file.flush(),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some((unfinished, _)) = self.names.take()
            && let Err(error) = fs::remove_file(&unfinished)
        {
            tracing::warn!(%error, "remove {}", unfinished.display());
        }
    }
}
