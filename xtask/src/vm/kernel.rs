//! Debian's kernels, taken from its packages: the image to boot and the modules it needs here.
//!
//! A package is downloaded once with `apt-get download` and only what is used of it is kept, in
//! `target/vm/PACKAGE/`. That folder appears by rename, so it is whole or absent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::{command, workspace};

/// A kernel unpacked from its package.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) release: String,
    /// The bootable image.
    pub(crate) image: PathBuf,
    modules: PathBuf,
    /// The paths of the modules that are part of the image, a line each.
    built_in: String,
}

/// A module's name and content, decompressed.
pub(crate) type Module = (String, Vec<u8>);

/// The newest kernel of a series such as `6.1` that the package lists offer.
pub(crate) fn fetch(series: &str) -> Result<Kernel> {
    let prefix = format!("linux-image-{series}.");
    let names = command::capture(Command::new("apt-cache").args(["pkgnames", &prefix]))?;
    let package = newest(&names, &prefix).with_context(|| {
        format!("no package {prefix}*-amd64 in the package lists: 'apt-get update' on Debian 12, or name another series")
    })?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let place = workspace::scratch("vm")?.join(format!("kernel-{release}"));
    if !place.is_dir() {
        download(package, &place).with_context(|| format!("fetch {package}"))?;
    }
    let modules = place.join("lib/modules").join(&release);
    let list = modules.join("modules.builtin");
    let built_in = fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
    let image = place.join("boot").join(format!("vmlinuz-{release}"));
    Ok(Kernel { image, modules: modules.join("kernel"), built_in, release })
}

impl Kernel {
    /// The modules `names` and what they depend on, in the order of loading, without what is built in.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut loaded = Vec::new();
        for name in names {
            self.collect(name, &mut loaded)?;
        }
        Ok(loaded)
    }

    fn collect(&self, name: &str, loaded: &mut Vec<Module>) -> Result<()> {
        if loaded.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        let file = format!("/{name}.ko");
        if self.built_in.lines().any(|path| path.ends_with(&file)) {
            return Ok(());
        }
        let path = module_path(&self.modules, name)?
            .with_context(|| format!("no module {name} in {}", self.release))?;
        let content = decompressed(&path)?;
        for dependency in dependencies(&content) {
            self.collect(&dependency, loaded)?;
        }
        loaded.push((name.to_owned(), content));
        Ok(())
    }
}

/// The highest version among plain amd64 packages (no real-time, cloud, debug or unsigned ones).
fn newest<'a>(names: &'a str, prefix: &str) -> Option<&'a str> {
    let plain = |name: &&str| {
        let version = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix("-amd64"));
        version.is_some_and(|version| !["rt", "cloud"].iter().any(|flavour| version.ends_with(flavour)))
    };
    names.lines().filter(plain).max_by_key(|name| numbers(name))
}

fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn download(package: &str, place: &Path) -> Result<()> {
    let partial = place.with_file_name(format!("{package}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    // apt's own unprivileged user cannot write here, so it is told to stay root.
    let apt = ["--option", "APT::Sandbox::User=root", "--quiet=2", "download", package];
    command::run(Command::new("apt-get").args(apt).current_dir(&partial))?;
    let deb = find(&partial, &|path| path.extension().is_some_and(|e| e == "deb"))?
        .context("no package downloaded")?;
    let tar = partial.join("data.tar");
    let unpacked = fs::File::create(&tar).with_context(|| format!("create {}", tar.display()))?;
    command::run(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&deb).stdout(unpacked))?;
    let modules = ["crypto", "drivers/block", "drivers/net", "drivers/virtio", "fs", "lib", "net"]
        .map(|part| format!("./lib/modules/*/kernel/{part}"));
    let wanted = ["--wildcards", "./boot/vmlinuz-*", "./lib/modules/*/modules.builtin"]
        .into_iter()
        .chain(modules.iter().map(String::as_str));
    command::run(
        Command::new("tar")
            .arg("--extract")
            .arg("--file")
            .arg(&tar)
            .arg("--directory")
            .arg(&partial)
            .args(wanted),
    )?;
    for file in [deb, tar] {
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    }
    fs::rename(&partial, place)
        .with_context(|| format!("rename {} to {}", partial.display(), place.display()))
}

fn module_path(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    let file = format!("{name}.ko");
    let matches = |path: &Path| {
        let found = path.file_name().and_then(|found| found.to_str());
        found
            .and_then(|found| found.strip_prefix(&file))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    find(dir, &matches)
}

/// The first file below `dir` that `wanted` accepts.
fn find(dir: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, wanted)? {
                return Ok(Some(found));
            }
        } else if wanted(&path) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::read(path).with_context(|| format!("read {}", path.display())),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => bail!("{}: a compression that is not known here", path.display()),
    };
    let output = Command::new(command::need(tool)?).args(["--decompress", "--stdout"]).arg(path).output()?;
    if !output.status.success() {
        return Err(anyhow!("{tool} {} ended with {}", path.display(), output.status));
    }
    Ok(output.stdout)
}

/// The names after `depends=` in the module's own description, a list of NUL-terminated `key=value` strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = module[at + key.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_is_chosen() {
        let names = "linux-image-6.1.0-9-amd64\nlinux-image-6.1.0-56-amd64\nlinux-image-6.1.0-57-rt-amd64\n\
                     linux-image-6.1.0-57-cloud-amd64\nlinux-image-6.1.0-58-amd64-dbg\nlinux-image-6.1.0-58-amd64-unsigned\n";
        assert_eq!(newest(names, "linux-image-6.1."), Some("linux-image-6.1.0-56-amd64"));
        let names = "linux-image-6.12.99+deb12-amd64\nlinux-image-6.12.117+deb12-amd64\n";
        assert_eq!(newest(names, "linux-image-6.12."), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(newest("", "linux-image-6.12."), None);
    }

    #[test]
    fn dependencies_are_read_from_the_description() {
        let check = |module: &[u8], expect: &[&str]| assert_eq!(dependencies(module), expect);
        check(b"\x7fELF\0license=GPL\0depends=exportfs,libcrc32c\0name=x\0", &["exportfs", "libcrc32c"]);
        check(b"\x7fELF\0depends=\0name=overlay\0", &[]);
        check(b"\x7fELF", &[]);
    }
}
