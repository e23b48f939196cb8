//! What skiff is built for: the target with musl where its standard library can be had, else the compiler's own, with glibc.
//!
//! A static program of glibc asks the processor some sixty times what it is before `main`, and a virtual machine answers each of these
//! `cpuid` instructions only after a detour through its host: 2 to 5 µs. A program of musl asks nothing. The programs
//! do the same either way.

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::command;

/// The variable by which cargo is told, and by which whoever calls says otherwise.
pub(crate) const VARIABLE: &str = "CARGO_BUILD_TARGET";

/// The target that cargo is to be told; `None` if it is told already, or if there is only the compiler's own.
pub(crate) fn chosen() -> Option<&'static str> {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    let choose = || Some(musl()).filter(|target| env::var_os(VARIABLE).is_none() && is_installed(target));
    CHOSEN.get_or_init(choose).as_deref()
}

/// Has rustup bring the standard library for musl, if that is not there and rustup is.
pub(crate) fn prepare() {
    let target = musl();
    if env::var_os(VARIABLE).is_some() || is_installed(&target) {
        return;
    }
    let added = match command::find("rustup") {
        Some(rustup) => command::run(Command::new(rustup).args(["target", "add", &target])),
        None => Err(anyhow::anyhow!("there is no rustup to bring it")),
    };
    if let Err(error) = added {
        eprintln!(
            "xtask: without the standard library for {target} skiff starts slower in virtual machines: {error:#}"
        );
    }
}

fn musl() -> String {
    format!("{}-unknown-linux-musl", env::consts::ARCH)
}

fn is_installed(target: &str) -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let asked = command::capture(Command::new(rustc).args(["--print", "target-libdir", "--target", target]));
    asked.is_ok_and(|path| Path::new(path.trim_end()).is_dir())
}
