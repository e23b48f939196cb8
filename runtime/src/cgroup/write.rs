//! How control files are written.

use std::io::{self, Write as _};
use std::path::Path;

use nix::fcntl::OFlag;

use super::resources::KERNEL_MEMORY;
use super::{Write, at};
use crate::Error;
use crate::error::Context;

/// Writes `writes` to the files of `directory`, in an order that the kernel takes.
///
/// Some limits bound each other: memory and memory plus swap, quota and burst, a quota and that of the level above. Which
/// has to come first depends on what holds now, so one that is refused (`EINVAL`, `EBUSY`) is tried again once others
/// have gone through.
pub(super) fn write_all(directory: &Path, writes: &[Write]) -> Result<(), Error> {
    let mut left: Vec<&Write> = writes.iter().collect();
    loop {
        let before = left.len();
        let mut refusal = None;
        let mut refused = Vec::new();
        for write in left {
            match write.carry_out(directory) {
                Err(Error::Host { what, source }) if depends_on_others(&source) => {
                    refusal.get_or_insert(Error::Host { what, source });
                    refused.push(write);
                }
                other => other?,
            }
        }
        match refusal {
            None => return Ok(()),
            Some(error) if refused.len() == before => return Err(error),
            Some(_) => left = refused,
        }
    }
}

fn depends_on_others(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::ResourceBusy)
}

impl Write {
    fn carry_out(&self, directory: &Path) -> Result<(), Error> {
        for (file, value) in &self.files {
            let path = directory.join(file.as_ref());
            match write_lines(&path, value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => {
                    other.context(|| format!("write {value} to {}", path.display()))?;
                    if file == KERNEL_MEMORY && !is_kept(&path, value) {
                        tracing::warn!("linux.resources.memory.kernel: this kernel has no such limit");
                    }
                    return Ok(());
                }
            }
        }
        if !self.required {
            return Ok(());
        }
        let names: Vec<&str> = self.files.iter().map(|(file, _)| file.as_ref()).collect();
        Err(Error::Option(format!("this kernel has no {}", names.join(" or "))))
    }
}

/// Whether a limit in bytes holds, rounded as the kernel does it.
fn is_kept(path: &Path, value: &str) -> bool {
    let limit = |text: &str| text.trim().parse::<i64>().ok();
    let now = std::fs::read_to_string(path).ok().as_deref().and_then(limit);
    now.zip(limit(value)).is_none_or(|(now, asked)| asked == -1 || now <= asked)
}

/// A keyed file takes one line at a time.
fn write_lines(path: &Path, value: &str) -> io::Result<()> {
    let mut file = at::open(path, OFlag::O_WRONLY)?;
    value.split('\n').try_for_each(|line| file.write_all(line.as_bytes()))
}
