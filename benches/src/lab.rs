//! The place where the benchmarks work: a root file system, OCI bundles, and a mount namespace of their own.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use skiff_runtime::caps::CapSet;
use skiff_runtime::seccomp::{Filter, Kernel, Profile, compile};

/// Docker's default profile in docker's JSON format.
pub const PROFILE: &str = include_str!("../../runtime/testdata/docker-seccomp.json");

/// What `runc spec` gives a container.
pub const CAPABILITIES: CapSet = CapSet(CapSet::KILL.0 | CapSet::NET_BIND_SERVICE.0 | CapSet::AUDIT_WRITE.0);

const HUGETLB: &str = "/sys/fs/cgroup/hugetlb";

/// A directory for one run of a benchmark; removed with it.
#[derive(Debug)]
pub struct Lab {
    directory: PathBuf,
    programs: PathBuf,
    hugetlb: bool,
}

impl Lab {
    /// Makes the directory with a root file system whose `/bin` has `programs`, built beside this one.
    ///
    /// Leaves the host's mount namespace, so that what is mounted for the benchmark ends with it however it ends.
    pub fn new(programs: &[&str]) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace (this needs root)")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .context("separate the mounts from the host's")?;
        let here = std::env::current_exe().context("find this program")?;
        let lab = Self {
            directory: std::env::temp_dir().join(format!("skiff-bench-{}", std::process::id())),
            programs: here.parent().context("this program lies in a directory")?.to_owned(),
            hugetlb: false,
        };
        for below in ["bin", "proc", "dev", "sys", "etc", "tmp", "run"] {
            fs::create_dir_all(lab.rootfs().join(below)).context("make a root file system")?;
        }
        for name in ["hostname", "hosts", "resolv.conf"] {
            fs::write(lab.rootfs().join("etc").join(name), "").context("make a root file system")?;
        }
        lab.mount_state()?;
        for program in programs {
            fs::copy(lab.program(program), lab.rootfs().join("bin").join(program))
                .with_context(|| format!("copy {program} into the root file system"))?;
        }
        fs::set_permissions(&lab.directory, fs::Permissions::from_mode(0o755))
            .context("open the directory")?;
        Ok(lab)
    }

    /// Launchers note their containers below `/run`, which is a tmpfs on every distribution. Here too, for all of them.
    fn mount_state(&self) -> Result<()> {
        let state = self.state();
        fs::create_dir_all(&state).context("make a directory for state")?;
        mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .context("mount a tmpfs for state")
    }

    /// Where launchers note their containers.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The root file system.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// A path in the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A program that was built beside this one.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Where cgroup v2 is mounted.
    #[must_use]
    pub fn cgroup2(&self) -> &'static str {
        if Path::new("/sys/fs/cgroup/unified").exists() { "/sys/fs/cgroup/unified" } else { "/sys/fs/cgroup" }
    }

    /// Where hierarchies of cgroup v1 are mounted.
    pub fn hierarchies(&self) -> Result<Vec<String>> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let legacy = fields.filter(|fields| fields.get(2) == Some(&"cgroup"));
        Ok(legacy.map(|fields| fields[1].to_owned()).collect())
    }

    /// Mounts the v1 controller hugetlb, for this benchmark alone, where the kernel has it among v1 controllers that are
    /// mounted: some versions of crun do not start without.
    pub fn mount_hugetlb(&mut self) -> Result<()> {
        let controllers = fs::read_to_string("/proc/cgroups").context("read /proc/cgroups")?;
        let known = controllers.lines().any(|line| line.starts_with("hugetlb\t"));
        let mounted = Path::new(HUGETLB).join("tasks").exists();
        if !known || mounted || !Path::new("/sys/fs/cgroup/memory").exists() {
            return Ok(());
        }
        if !Path::new(HUGETLB).exists() {
            fs::create_dir(HUGETLB).with_context(|| format!("make {HUGETLB}"))?;
            self.hugetlb = true;
        }
        mount(Some("cgroup"), HUGETLB, Some("cgroup"), MsFlags::empty(), Some("hugetlb"))
            .with_context(|| format!("mount cgroup (hugetlb) at {HUGETLB}"))
    }

    /// Mounts debugfs and tracefs where they are not, for other tracers than skiff.
    pub fn mount_tracing() -> Result<()> {
        for (kind, path, content) in [
            ("debugfs", "/sys/kernel/debug", "/sys/kernel/debug/bdi"),
            ("tracefs", "/sys/kernel/tracing", "/sys/kernel/tracing/events"),
        ] {
            if !Path::new(content).exists() {
                mount(Some(kind), path, Some(kind), MsFlags::empty(), None::<&str>)
                    .with_context(|| format!("mount {kind} at {path}"))?;
            }
        }
        Ok(())
    }

    /// Writes docker's default filter as the array that the kernel takes; its path.
    pub fn write_filter(&self) -> Result<PathBuf> {
        let Filter { program, .. } = compile(&Profile::docker(), CAPABILITIES, kernel()?)?;
        let mut bytes = Vec::new();
        for instruction in program {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
        }
        let path = self.path("filter");
        fs::write(&path, bytes).context("write the filter")?;
        Ok(path)
    }

    /// Makes an OCI bundle that runs `arguments` in the root file system with runc's default configuration.
    pub fn write_bundle(&self, name: &str, arguments: &[&str], seccomp: bool) -> Result<PathBuf> {
        let bundle = self.path(name);
        fs::create_dir(&bundle).context("make a bundle")?;
        let maker = ["runc", "crun"].iter().find(|tool| {
            let spec = Command::new(tool).arg("spec").current_dir(&bundle).stderr(Stdio::null()).status();
            spec.is_ok_and(|status| status.success())
        });
        if maker.is_none() {
            bail!("neither runc nor crun can write a default configuration");
        }
        let path = bundle.join("config.json");
        let text = fs::read_to_string(&path).context("read the default configuration")?;
        let mut config: Value = serde_json::from_str(&text).context("read the default configuration")?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(arguments);
        config["root"] = json!({"path": self.rootfs(), "readonly": true});
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut()
            && !namespaces.iter().any(|namespace| namespace["type"] == "cgroup")
        {
            namespaces.push(json!({"type": "cgroup"}));
        }
        if seccomp {
            config["linux"]["seccomp"] = oci_seccomp()?;
        }
        fs::write(&path, config.to_string()).context("write the configuration")?;
        Ok(bundle)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The mount goes with the namespace, but its directory would stay, and can only go after it.
        let unmounted =
            if self.hugetlb { nix::mount::umount(HUGETLB).map_err(io::Error::from) } else { Ok(()) };
        let removed = if self.hugetlb { unmounted.and_then(|()| fs::remove_dir(HUGETLB)) } else { Ok(()) };
        let state = nix::mount::umount(&self.state()).map_err(io::Error::from);
        let directory = state.and_then(|()| fs::remove_dir_all(&self.directory));
        for (what, result) in [(Path::new(HUGETLB), removed), (&self.directory, directory)] {
            if let Err(error) = result {
                eprintln!("remove {}: {error}", what.display());
            }
        }
    }
}

/// The running kernel's version.
pub fn kernel() -> Result<Kernel> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    Kernel::parse(&release).with_context(|| format!("{release:?} is no kernel version"))
}

/// Docker's default profile as an engine hands it to a runtime: without what depends on the container.
fn oci_seccomp() -> Result<Value> {
    let mut profile: Value = serde_json::from_str(PROFILE).context("read docker's profile")?;
    let applies = |rule: &Value| {
        let here = &rule["includes"]["arches"];
        // The container holds none of the capabilities that a rule asks for or is withdrawn for.
        rule["includes"]["caps"].is_null()
            && here.as_array().is_none_or(|list| list.contains(&json!("amd64")))
    };
    let rules = profile["syscalls"].as_array_mut().context("the profile has rules")?;
    rules.retain(applies);
    for rule in rules.iter_mut().filter_map(Value::as_object_mut) {
        rule.remove("includes");
        rule.remove("excludes");
    }
    Ok(json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": profile["syscalls"],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oci_form_of_the_profile_makes_the_same_filter() {
        let mut form = oci_seccomp().unwrap();
        assert!(form["syscalls"].as_array().unwrap().len() > 30);
        form["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
        let kernel = Kernel(6, 18);
        let of = |profile: &Profile| compile(profile, CAPABILITIES, kernel).unwrap();
        assert_eq!(of(&Profile::parse(&form.to_string()).unwrap()), of(&Profile::docker()));
    }
}
