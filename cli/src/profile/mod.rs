//! What a run cost the kernel: from the profiler's record, the launch's stamps and the cgroup's figures to a text for
//! people and a JSON file for programs. docs/profile.md describes both.

mod attach;
mod document;
mod files;
mod live;
mod outputs;
mod part;
mod period;
mod picture;
mod stacks;
mod table;
mod text;
mod uses;

use skiff_observe::trace::plain_json;

pub(crate) use attach::end;
pub(crate) use document::{Document, Prefetch, Run};
pub(crate) use live::{off, run};
pub(crate) use outputs::Outputs;
pub(crate) use part::{Part, Place, Section, Wanted};
pub(crate) use picture::of_run;
pub(crate) use stacks::rate;
pub(crate) use table::{Align, Table};
pub(crate) use text::{duration, plain, render, size};
pub(crate) use uses::{Asked, Uses, Written, written};

/// The document as JSON, with a line feed at its end.
pub(crate) fn json(document: &Document) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(document)?;
    text.push('\n');
    Ok(plain_json(text))
}

#[cfg(test)]
mod tests;
