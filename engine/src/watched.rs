//! Descriptors that the daemon waits for.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the daemon wait for what `owner` owns.
///
/// `owner` must have one descriptor, and keep it open: so it is with all that is given here.
#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for types that give away another descriptor each time"
)]
pub(crate) fn watch<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, interest)
}
