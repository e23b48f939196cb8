//! From an OCI bundle to a plan. OCI runtime specification 1.2, config.md and config-linux.md.
//!
//! [`spec`] holds the documents as they are written, [`Facts`] what must be known of the host and [`Terms`] what the
//! command line adds; everything else here is pure and decides what `launch` carries out. What a bundle asks for and this
//! host, or skiff, cannot do is an error of one line that names the place in the configuration.

mod facts;
mod features;
mod hooks;
pub mod json;
mod mounts;
mod namespaces;
mod process;
mod rdt;
pub mod spec;
mod sysctl;
mod tables;
mod template;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;

pub use facts::{Facts, Terms};
pub use features::{Features, VERSION, features};
pub use hooks::hooks;
pub use mounts::option_names;
pub use namespaces::forbid_groups;
pub use process::process;
use spec::Spec;
pub use template::{Owner, config as template};

use crate::Error;
use crate::cgroup::{self, CgroupsPath, Manager};
use crate::error::Context;
use crate::plan::{Bond, Plan};

/// A configuration and where it was found.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Absolute path of the directory.
    pub path: PathBuf,
    /// Its `config.json`.
    pub spec: Spec,
}

impl Bundle {
    /// Reads the bundle in `directory`.
    ///
    /// Errors: no such directory, no configuration in it, or one that is not of the form that is specified.
    pub fn load(directory: &Path) -> Result<Self, Error> {
        let path = directory.canonicalize().context(|| format!("bundle {}", directory.display()))?;
        let spec = read_file(&path.join("config.json"))?;
        Ok(Self { path, spec })
    }

    /// Absolute path of the root file system, as configured.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path.join(self.spec.root.as_ref().map_or("", |root| &root.path))
    }
}

/// Reads a JSON document from a file.
pub fn read_file<T: for<'a> serde::Deserialize<'a>>(file: &Path) -> Result<T, Error> {
    let text = std::fs::read_to_string(file).context(|| format!("read {}", file.display()))?;
    json::read(&text).map_err(|error| Error::Option(format!("{}: {error}", file.display())))
}

/// Decides everything about the container `id` of `bundle`.
///
/// Errors: what the configuration must not say, and what this host cannot do.
pub fn plan(bundle: &Bundle, id: &str, facts: &Facts, terms: &Terms) -> Result<Plan, Error> {
    let spec = &bundle.spec;
    check_version(&spec.oci_version)?;
    let linux = spec.linux.as_ref().ok_or_else(|| invalid("linux", "missing"))?;
    let spaces = namespaces::Spaces::of(linux, facts)?;
    let process = spec.process.as_ref().ok_or_else(|| invalid("process", "missing"))?;
    let mut process = process::process(process, Some(linux), facts, terms)?;
    if !spaces.may_set_groups(linux, facts) {
        namespaces::forbid_groups(&mut process)?;
    }
    let cgroup = cgroup(id, spec, linux, facts, terms)?;
    let ground = mounts::Ground {
        bundle: &bundle.path,
        user_namespace: facts.in_user_namespace || spaces.is_own(CloneFlags::CLONE_NEWUSER),
        cgroup_namespace: spaces.is_own(CloneFlags::CLONE_NEWCGROUP),
        layout: &facts.cgroups,
        cgroup: &cgroup,
        kcore: facts.kcore,
        selinux: facts.selinux,
        no_pivot: terms.no_pivot,
    };
    Ok(Plan {
        id: id.to_owned(),
        name: None,
        state_root: terms.root.clone(),
        // Where hooks look for the container's files before the pivot.
        run_root: bundle.root(),
        bond: Bond::None,
        namespaces: spaces.new,
        joins: spaces.joins.clone(),
        cgroup_namespace: spaces.cgroup,
        time_namespace: namespaces::time(linux, &spaces)?,
        users: namespaces::users(linux, &spaces, facts)?,
        root: mounts::root(spec, &ground)?,
        steps: mounts::steps(spec, &ground)?,
        hide: mounts::hide(spec)?,
        hostname: name(spec.hostname.as_deref(), "hostname", &spaces)?,
        domainname: name(spec.domainname.as_deref(), "domainname", &spaces)?,
        sysctls: sysctl::values(spec, linux, &spaces)?,
        loopback: spaces.new.contains(CloneFlags::CLONE_NEWNET),
        net_devices: namespaces::net_devices(linux, &spaces, facts)?,
        hooks: hooks(bundle, id)?,
        rdt: rdt::group(linux, id, facts)?,
        process,
        cgroup,
    })
}

fn cgroup(
    id: &str,
    spec: &Spec,
    linux: &spec::Linux,
    facts: &Facts,
    terms: &Terms,
) -> Result<cgroup::Plan, Error> {
    let is_user = terms.rootless.unwrap_or(facts.uid != 0) || facts.in_user_namespace;
    let manager = match (terms.systemd_cgroup, is_user) {
        (false, _) => Manager::Files,
        (true, false) => Manager::Systemd,
        (true, true) => Manager::UserSystemd(&facts.user_manager),
    };
    let path = CgroupsPath::parse(Some(&linux.cgroups_path), id, manager)?;
    let mut plan = cgroup::Plan::of_spec(&path, &facts.cgroups, linux.resources.as_ref(), is_user)?;
    if let Some(order) = &mut plan.order {
        order.properties.extend(cgroup::annotated(&spec.annotations)?);
    }
    Ok(plan)
}

/// Whether `version` is one of 1.x. Semantic Versioning 2.0.0.
fn check_version(version: &str) -> Result<(), Error> {
    if version.is_empty() {
        return Err(invalid("ociVersion", "missing"));
    }
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u64>> = core.split('.').map(number).collect();
    match numbers.as_deref() {
        Some([1, _, _]) => Ok(()),
        Some([_, _, _]) => Err(invalid("ociVersion", format!("{version:?} is not supported: 1.x is"))),
        _ => Err(invalid("ociVersion", format!("{version:?} is not a version"))),
    }
}

fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (digits == "0" || !digits.starts_with('0'))).then(|| digits.parse().ok()).flatten()
}

/// Host or domain name: kept in the UTS namespace, so that must not be the host's.
fn name(name: Option<&str>, place: &str, spaces: &namespaces::Spaces) -> Result<Option<CString>, Error> {
    match name {
        None | Some("") => Ok(None),
        Some(_) if !spaces.is_own(CloneFlags::CLONE_NEWUTS) => {
            Err(invalid(place, "needs a UTS namespace of the container"))
        }
        Some(name) if name.len() > 64 => Err(invalid(place, "longer than 64 bytes")),
        Some(name) => c_text(name, place).map(Some),
    }
}

/// Something that the configuration must not say, or that cannot be done, at `place` in it.
fn invalid(place: &str, what: impl std::fmt::Display) -> Error {
    Error::Option(format!("{place}: {what}"))
}

fn c_text(text: &str, place: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| invalid(place, "contains a NUL byte"))
}

#[cfg(test)]
mod tests;
