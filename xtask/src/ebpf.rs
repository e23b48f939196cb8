//! `cargo xtask ebpf`: builds the eBPF programs and compares them with the objects in the repository.
//!
//! skiff embeds `ebpf/*.bpf.o`, so building it needs no eBPF tools; this verb proves that the objects are what the
//! sources say. The same tools give the same bytes in every folder: paths are replaced, debug sections removed. Which tools
//! those are stands beside the object, since other versions give other bytes.
//!
//! The programs need a compiler with its library's sources: Debian's (`rustc-web`, `rust-web-src`), or a nightly one from
//! rustup with the component `rust-src`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

pub(crate) const ARGUMENTS: &str = "[--bless]";
pub(crate) const HELP: &str =
    "builds the eBPF programs and compares them with the checked-in object; --bless replaces it";

/// The objects in the repository, by the name of their program.
#[rustfmt::skip] // a table
const OBJECTS: &[(&str, &str)] = &[
    ("events", "ebpf/events.bpf.o"),
    ("files", "ebpf/files.bpf.o"),
    ("harden", "ebpf/harden.bpf.o"),
    ("net", "ebpf/net.bpf.o"),
    ("prefetch", "ebpf/prefetch.bpf.o"),
    ("skiff", "ebpf/skiff.bpf.o"),
    ("stacks", "ebpf/stacks.bpf.o"),
    ("trace", "ebpf/trace.bpf.o"),
    ("waits", "ebpf/waits.bpf.o"),
];
const TOOLS: &str = "ebpf/skiff.bpf.tools";
const TARGET: &str = "bpfel-unknown-none";

/// A compiler that can build its own core library.
#[derive(Debug)]
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    sysroot: PathBuf,
    version: String,
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let bless = match arguments {
        [] => false,
        [word] if word == "--bless" => true,
        _ => bail!("ebpf takes {ARGUMENTS}, got {arguments:?}"),
    };
    let root = workspace::root();
    let recorded = fs::read_to_string(root.join(TOOLS)).unwrap_or_default();
    let linker = command::need("bpf-linker")?;
    let strip = command::need("llvm-strip-22")?;
    let toolchain = choose(toolchains(), &recorded)?;
    let tools = format!("{}\n{}\n", toolchain.version, version(&linker)?);
    for &(name, object) in OBJECTS {
        let built = build(name, &toolchain, &linker, &strip)?;
        if bless {
            fs::write(root.join(object), built).with_context(|| format!("write {object}"))?;
            println!("ebpf: {object} replaced");
            continue;
        }
        let checked_in = fs::read(root.join(object)).with_context(|| format!("read {object}"))?;
        compare(object, &built, &checked_in, &tools, &recorded)?;
        println!("ebpf: {object} is what the sources give ({} bytes)", built.len());
    }
    if bless {
        fs::write(root.join(TOOLS), tools).with_context(|| format!("write {TOOLS}"))?;
    }
    Ok(())
}

fn compare(object: &str, built: &[u8], checked_in: &[u8], tools: &str, recorded: &str) -> Result<()> {
    if built == checked_in {
        return Ok(());
    }
    if tools != recorded {
        bail!(
            "{object} can't be compared: it was built by {}, here is {}",
            recorded.trim().replace('\n', ", "),
            tools.trim().replace('\n', ", ")
        );
    }
    bail!("{object} is not what the sources give: run 'cargo xtask ebpf --bless' and commit it")
}

/// Builds the object of the program `name`; its bytes.
fn build(name: &str, toolchain: &Toolchain, linker: &Path, strip: &Path) -> Result<Vec<u8>> {
    let root = workspace::root();
    let target = workspace::scratch("ebpf")?;
    let mut cargo = Command::new(&toolchain.cargo);
    cargo
        .current_dir(root.join("ebpf/progs"))
        .args(["build", "--release", "--locked", "--quiet", "--bin", name])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&toolchain.sysroot))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER");
    command::run(&mut cargo)?;
    let linked = target.join(TARGET).join("release").join(name);
    let object = target.join(format!("{name}.bpf.o"));
    command::run(Command::new(strip).arg("--strip-debug").arg(&linked).arg("-o").arg(&object))?;
    fs::read(&object).with_context(|| format!("read {}", object.display()))
}

/// The compiler's flags, separated as cargo wants them.
fn flags(sysroot: &Path) -> OsString {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = home.or_else(|| Some(env::home_dir()?.join(".cargo"))).unwrap_or_default();
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        remap(workspace::root(), "/skiff"),
        remap(sysroot, "/rust"),
    ];
    // Each registry has a folder of its own, whose name depends on where it is.
    let registries = fs::read_dir(cargo_home.join("registry/src")).into_iter().flatten().flatten();
    flags.extend(registries.map(|registry| remap(&registry.path(), "/crates")));
    flags.join("\x1f").into()
}

/// The toolchain that built the object in the repository, else the first there is.
fn choose(mut found: Vec<Toolchain>, recorded: &str) -> Result<Toolchain> {
    let same = found.iter().position(|toolchain| recorded.lines().next() == Some(&toolchain.version));
    if found.is_empty() {
        bail!("no compiler with its library's sources (rustc-web, rust-web-src): run 'cargo xtask setup'");
    }
    Ok(found.swap_remove(same.unwrap_or(0)))
}

/// The compilers that come with their library's sources: the distribution's, then rustup's nightly.
fn toolchains() -> Vec<Toolchain> {
    let distribution = toolchain("/usr/bin/cargo".into(), "/usr/bin/rustc".into());
    let nightly = || {
        let rustup = command::find("rustup")?;
        let which =
            |tool| command::capture(Command::new(&rustup).args(["which", "--toolchain", "nightly", tool]));
        let (cargo, rustc) = (which("cargo").ok()?, which("rustc").ok()?);
        toolchain(cargo.trim().into(), rustc.trim().into())
    };
    distribution.into_iter().chain(nightly()).collect()
}

fn toolchain(cargo: PathBuf, rustc: PathBuf) -> Option<Toolchain> {
    let sysroot = command::capture(Command::new(&rustc).args(["--print", "sysroot"])).ok()?;
    let sysroot = PathBuf::from(sysroot.trim());
    let sources = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    let version = version(&rustc).ok()?;
    (sources.is_file() && cargo.is_file()).then_some(Toolchain { cargo, rustc, sysroot, version })
}

fn version(tool: &Path) -> Result<String> {
    Ok(command::capture(Command::new(tool).arg("--version"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(version: &str) -> Toolchain {
        let nowhere = PathBuf::new;
        Toolchain { cargo: nowhere(), rustc: nowhere(), sysroot: nowhere(), version: version.to_owned() }
    }

    #[test]
    fn the_recorded_toolchain_is_preferred() {
        let found = || vec![named("rustc 1"), named("rustc 2")];
        assert_eq!(choose(found(), "rustc 2\nbpf-linker 0\n").unwrap().version, "rustc 2");
        assert_eq!(choose(found(), "rustc 3\n").unwrap().version, "rustc 1");
        assert!(choose(Vec::new(), "").unwrap_err().to_string().contains("cargo xtask setup"));
    }

    #[test]
    fn a_difference_is_blamed_on_the_tools_if_they_differ() {
        let differ = |tools| compare("o", b"a", b"b", tools, "rustc 1\n").unwrap_err().to_string();
        assert!(differ("rustc 1\n").contains("--bless"));
        assert!(differ("rustc 2\n").contains("can't be compared"));
        assert!(compare("o", b"a", b"a", "rustc 2\n", "rustc 1\n").is_ok());
    }
}
