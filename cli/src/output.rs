//! Files that a run leaves on the caller's wish: the container's id and the profile. They are opened before the launch,
//! so that a path that cannot be written to stops it, and a launch that fails takes them back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::values::cause;

/// A file to write; removed when dropped, if it was made here, until [`Output::keep`].
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    file: File,
    made_here: bool,
}

impl Output {
    /// Makes a file that must not exist yet.
    pub(crate) fn make(path: &Path) -> Result<Self, Failure> {
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file, made_here: true }),
            Err(error) => Err(failure("make", path, &error)),
        }
    }

    /// Opens a file to be overwritten, and makes it if it is missing. Its old content stays until the first write.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let made = OpenOptions::new().write(true).create_new(true).open(path);
        let (file, made_here) = match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (OpenOptions::new().write(true).open(path), false)
            }
            other => (other, true),
        };
        match file {
            Ok(file) => Ok(Self { path: path.to_owned(), file, made_here }),
            Err(error) => Err(failure("open", path, &error)),
        }
    }

    /// Makes `content` all that the file holds. Of a device or a pipe, nothing is taken back.
    pub(crate) fn write(&mut self, content: &str) -> Result<(), Failure> {
        self.write_bytes(content.as_bytes())
    }

    /// The same of what need not be text.
    pub(crate) fn write_bytes(&mut self, content: &[u8]) -> Result<(), Failure> {
        let fail = |error: io::Error| failure("write", &self.path, &error);
        if self.file.metadata().map_err(fail)?.is_file() {
            self.file.set_len(0).map_err(fail)?;
        }
        (&self.file).write_all(content).map_err(fail)
    }

    /// Leaves the file where it is.
    pub(crate) fn keep(mut self) {
        self.made_here = false;
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.made_here
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "remove {}", self.path.display());
        }
    }
}

fn failure(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::engine(format!("{verb} {}: {}", path.display(), cause(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path in a directory of the test's own, removed at its end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("skiff-output-{}-{name}", std::process::id()));
            fs::create_dir(&directory).expect("a directory");
            Self(directory.join("file"))
        }

        fn content(&self) -> Option<String> {
            fs::read_to_string(&self.0).ok()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(self.0.parent().expect("a directory"));
        }
    }

    #[test]
    fn a_file_stays_only_if_it_is_kept() {
        let place = Place::new("kept");
        let mut output = Output::make(&place.0).expect("make");
        output.write("id").expect("write");
        drop(output);
        assert_eq!(place.content(), None);
        let mut output = Output::make(&place.0).expect("make");
        output.write("id").expect("write");
        output.keep();
        assert_eq!(place.content().as_deref(), Some("id"));
    }

    #[test]
    fn a_file_that_exists_is_refused_or_overwritten() {
        let place = Place::new("there");
        fs::write(&place.0, "what was there before").expect("write");
        let expected = format!("make {}: file exists", place.0.display());
        assert_eq!(Output::make(&place.0).expect_err("exists").message, expected);
        drop(Output::open(&place.0).expect("open"));
        assert_eq!(place.content().as_deref(), Some("what was there before"));
        let mut output = Output::open(&place.0).expect("open");
        output.write("new").expect("write");
        drop(output);
        assert_eq!(place.content().as_deref(), Some("new"));
    }

    #[test]
    fn a_place_that_cannot_be_written_to_is_named() {
        let failure = Output::open(Path::new("/nowhere/profile.json")).expect_err("no such directory");
        assert_eq!(failure.message, "open /nowhere/profile.json: no such file or directory");
        let mut null = Output::open(Path::new("/dev/null")).expect("open");
        null.write("x").expect("write");
        drop(null);
        assert!(Path::new("/dev/null").exists());
    }
}
