//! Points where tests make the store die or fail, to see that what is left behind works.
//!
//! Each change of the disk passes one. `SKIFF_STORE_FAULT=N:kill` kills the process at the N-th point that it reaches,
//! `N:fail` makes that one fail with `EIO`. What a check reads passes others, of which `N:read` makes one fail. A line
//! on standard error says that a point was reached and fails. Programs built without
//! debug assertions have no such points.

use std::io;

/// Passes a point. Errors: `EIO`, if a test asks for it.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn point() -> io::Result<()> {
    Ok(())
}

/// Passes a point of reading. Errors: `EIO`, if a test asks for it.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn reading() -> io::Result<()> {
    Ok(())
}

/// Passes a point. Errors: `EIO`, if a test asks for it.
#[cfg(debug_assertions)]
pub(crate) fn point() -> io::Result<()> {
    asked::pass(&["kill", "fail"])
}

/// Passes a point of reading. Errors: `EIO`, if a test asks for it.
#[cfg(debug_assertions)]
pub(crate) fn reading() -> io::Result<()> {
    asked::pass(&["read"])
}

#[cfg(debug_assertions)]
mod asked {
    use std::io;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The number of the point, and what is to happen there.
    static ASKED: LazyLock<Option<(u64, String)>> = LazyLock::new(|| {
        let text = std::env::var("SKIFF_STORE_FAULT").ok()?;
        let (number, how) = text.split_once(':')?;
        Some((number.parse().ok()?, how.to_owned()))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);

    /// Passes a point at which what is one of `kinds` may happen.
    pub(super) fn pass(kinds: &[&str]) -> io::Result<()> {
        let Some((number, how)) = &*ASKED else { return Ok(()) };
        let is_meant = kinds.contains(&how.as_str());
        if !is_meant || PASSED.fetch_add(1, Ordering::Relaxed) + 1 != *number {
            return Ok(());
        }
        if how == "kill" {
            nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL)?;
        }
        eprintln!("point {number} fails");
        Err(nix::errno::Errno::EIO.into())
    }
}
