//! Points where tests make the store die or fail, to see that what is left behind works.
//!
//! Each change of the disk passes one. `SKIFF_STORE_FAULT=N:kill` kills the process at the N-th point that it reaches,
//! `N:fail` makes that one fail with `EIO`. Programs built without debug assertions have no such points.

use std::io;

/// Passes a point. Errors: `EIO`, if a test asks for it.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn point() -> io::Result<()> {
    Ok(())
}

/// Passes a point. Errors: `EIO`, if a test asks for it.
#[cfg(debug_assertions)]
pub(crate) fn point() -> io::Result<()> {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ASKED: LazyLock<Option<(u64, bool)>> = LazyLock::new(|| {
        let text = std::env::var("SKIFF_STORE_FAULT").ok()?;
        let (number, how) = text.split_once(':')?;
        Some((number.parse().ok()?, how == "kill"))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Some((number, kill)) = *ASKED else { return Ok(()) };
    if PASSED.fetch_add(1, Ordering::Relaxed) + 1 != number {
        return Ok(());
    }
    if kill {
        nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL)?;
    }
    Err(nix::errno::Errno::EIO.into())
}
