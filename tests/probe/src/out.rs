//! Output in one `write(2)` per line, so that the number of system calls is known.

/// Writes `text` and a newline to standard output.
pub(crate) fn line(text: &str) {
    line_to(1, text);
}

/// Writes `text` and a newline to `fd`; there is nobody to tell if that fails.
pub(crate) fn line_to(fd: i32, text: &str) {
    let bytes = format!("{text}\n");
    // SAFETY: the buffer is alive and as long as said.
    let _written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// `ok`, or the name of the errno of the call that has just returned `result`.
pub(crate) fn verdict(result: i64) -> String {
    if result >= 0 { "ok".into() } else { format!("{:?}", nix::errno::Errno::last()) }
}
