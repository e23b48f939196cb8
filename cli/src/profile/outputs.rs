//! Files that a profile is written to: what goes into each is said by the end of its name.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::part::Section;
use crate::failure::Failure;
use crate::output::Output;
use crate::values::cause;

/// What a file can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// All of the profile.
    Json,
    /// The launch and the processes over time.
    Perfetto,
    /// A flame graph, to be looked at in a browser.
    Flame,
    /// A line per stack.
    Folded,
    /// For pprof and what reads its profiles.
    Pprof,
}

/// By the end of a file's name, and what the file is called in a directory.
const FORMS: [(&str, Form, &str); 6] = [
    (".json", Form::Json, "profile.json"),
    (".perfetto-trace", Form::Perfetto, "profile.perfetto-trace"),
    (".svg", Form::Flame, "stacks.svg"),
    (".folded", Form::Folded, "stacks.folded"),
    (".pb.gz", Form::Pprof, "stacks.pb.gz"),
    (".pprof", Form::Pprof, ""),
];

/// Files, opened before anything is counted: a path that cannot be written to is known then. Those made here are taken back
/// unless they get written.
#[derive(Debug, Default)]
pub(crate) struct Outputs(Vec<(Form, Output)>);

impl Outputs {
    /// Opens files; of a directory, those for all forms of which `in_directory` is true.
    pub(crate) fn open(paths: &[PathBuf], in_directory: &dyn Fn(Form) -> bool) -> Result<Self, Failure> {
        let mut outputs = Vec::new();
        for path in paths {
            if is_directory(path) {
                fs::create_dir_all(path).map_err(|error| {
                    Failure::engine(format!("make {}: {}", path.display(), cause(&error)))
                })?;
                for (_, form, name) in FORMS {
                    if !name.is_empty() && in_directory(form) {
                        outputs.push((form, Output::open(&path.join(name))?));
                    }
                }
            } else {
                outputs.push((form_of(path)?, Output::open(path)?));
            }
        }
        Ok(Self(outputs))
    }

    /// As [`Outputs::open`] of one path; a file whose name says nothing gets all of the profile.
    pub(crate) fn open_one(path: &Path, in_directory: &dyn Fn(Form) -> bool) -> Result<Self, Failure> {
        match form_of(path) {
            Err(_) if !is_directory(path) => Ok(Self(vec![(Form::Json, Output::open(path)?)])),
            _ => Self::open(&[path.to_owned()], in_directory),
        }
    }

    /// The forms that are to be written.
    pub(crate) fn forms(&self) -> Vec<Form> {
        self.0.iter().map(|(form, _)| *form).collect()
    }

    /// Writes each file.
    pub(crate) fn write(self, json: &str, sections: &[Section]) -> Result<(), Failure> {
        for (form, mut output) in self.0 {
            let files = sections.iter().flat_map(|section| &section.files);
            let written = match form {
                Form::Json => Some(json.as_bytes()),
                _ => files.into_iter().find(|(of, _)| *of == form).map(|(_, bytes)| bytes.as_slice()),
            };
            // What no part gives is not made.
            if let Some(bytes) = written {
                output.write_bytes(bytes)?;
                output.keep();
            }
        }
        Ok(())
    }
}

/// Whether files are to be made in it.
fn is_directory(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_bytes().ends_with(b"/")
}

/// What the file at `path` is to hold.
pub(crate) fn form_of(path: &Path) -> Result<Form, Failure> {
    let name = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
    let found = FORMS.iter().find(|(suffix, ..)| name.ends_with(suffix.as_bytes()));
    found.map(|(_, form, _)| *form).ok_or_else(|| {
        let known = FORMS.map(|(suffix, ..)| suffix).join(", ");
        Failure::engine(format!(
            "{}: its name says not what to write: it ends in none of {known}, and it is no directory",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_s_end_says_what_a_file_holds() {
        let check = |path: &str, expected: Option<Form>| {
            assert_eq!(form_of(Path::new(path)).ok(), expected, "{path}");
        };
        check("a.svg", Some(Form::Flame));
        check("/x/a.b.pb.gz", Some(Form::Pprof));
        check("a.folded", Some(Form::Folded));
        check("profile.json", Some(Form::Json));
        check("a.gz", None);
        check("json", None);
        check("x.svg/..", None);
    }
}
