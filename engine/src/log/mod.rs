//! What containers write, kept in bounded files.
//!
//! A log is a directory of numbered files ([`mod@record`] has their layout). One writer, which takes what a container's
//! pipes hold; any number of readers in any process, which the writer does not know of: they read the files, are told of
//! changes by inotify(7), and a slow one holds up nobody but itself.
//!
//! The newest file grows up to `max-size`, then the next number is begun, and no more than `max-file` are kept. Nothing is
//! held back to make whole lines: a record is what a stream has written at once, at most what its pipe holds.

mod append;
mod directory;
mod journald;
mod read;
mod record;
mod show;
mod source;
pub mod stamp;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub use journald::{JOURNAL, look_for_journal};
pub use read::{Piece, Reader, Start};
pub use record::Stream;
pub(crate) use show::Watch;
pub use show::{Query, show};
pub use writer::{Live, Origin, Streams, Target, Thread, Writer, open_directory};
