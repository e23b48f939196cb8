//! What else a profile can have beside the table of system calls: each kind of figures is a [`Part`] with programs of its own, loaded
//! before anything is counted, armed with the container's cgroup, and read at the end.

use std::path::Path;

use serde_json::Value;
use skiff_observe::perfetto::Track;

use super::files::Files;
use super::outputs::Form;
use super::stacks;
use crate::failure::Failure;

/// Where the container is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The id of its cgroup2.
    pub(crate) cgroup: u64,
}

/// A kind of figures, being gathered.
pub(crate) trait Part {
    /// Begins to gather what happens in the container; called once. On the path of a launch: the less, the better.
    fn arm(&mut self, place: Place) -> Result<(), Failure>;

    /// The container runs, its processes in the cgroup at `directory` and below: what works beside it can begin.
    fn follow(&mut self, directory: &Path) -> Result<(), Failure>;

    /// Stops to gather and tells what there is, also in those of the `wanted` forms that it can write. The container may run
    /// or have ended; its cgroup and its root are still there.
    fn end(self: Box<Self>, wanted: &[Form]) -> Result<Section, Failure>;
}

/// What a part has to tell.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Its field of the document, in JSON.
    pub(crate) key: &'static str,
    pub(crate) json: Value,
    /// For people: whole lines under a heading.
    pub(crate) text: String,
    /// Events that are missing from it.
    pub(crate) lost: u64,
    /// Figures that this kernel cannot give, one phrase each.
    pub(crate) missing: Vec<String>,
    /// What it has written in other forms.
    pub(crate) files: Vec<(Form, Vec<u8>)>,
    /// What it adds to a picture of times.
    pub(crate) tracks: Vec<Track>,
}

/// What of it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wanted {
    /// Stacks, at so many samples a second and CPU.
    pub(crate) stacks_hz: Option<u32>,
    /// Opens, pages of files that are used, processes.
    pub(crate) files: bool,
}

impl Wanted {
    /// With what is needed to write `forms`.
    pub(crate) fn for_forms(self, forms: impl Iterator<Item = Form>) -> Self {
        forms.fold(self, |wanted, form| match form {
            Form::Flame | Form::Folded | Form::Pprof => {
                Self { stacks_hz: wanted.stacks_hz.or(Some(stacks::HZ)), ..wanted }
            }
            Form::Perfetto => Self { files: true, ..wanted },
            Form::Json => wanted,
        })
    }

    /// Whether a directory gets a file of the form.
    pub(crate) const fn gives(self, form: Form) -> bool {
        match form {
            Form::Json => true,
            Form::Perfetto => self.files,
            Form::Flame | Form::Folded | Form::Pprof => self.stacks_hz.is_some(),
        }
    }

    /// Loads what is asked for, in the order of the report.
    pub(crate) fn load(self) -> Result<Vec<Box<dyn Part>>, Failure> {
        let mut parts: Vec<Box<dyn Part>> = Vec::new();
        if self.files {
            parts.push(Box::new(Files::load()?));
        }
        if let Some(hz) = self.stacks_hz {
            parts.push(Box::new(stacks::Stacks::load(hz)?));
        }
        Ok(parts)
    }
}
