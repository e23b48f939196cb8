//! How the limits of a container that runs are changed.

use std::fs;
use std::path::{Path, PathBuf};

use skiff_sys::device_filter;

use super::devices::{legacy_lines, rules};
use super::dir::write_legacy;
use super::resources::{LIMITED, Version, lines, unified, wanted};
use super::systemd::properties;
use super::write::write_all;
use super::{Cgroup, Controller, Write};
use crate::Error;
use crate::error::Context;
use crate::oci::spec::{Memory, Resources};

impl Cgroup {
    /// Changes what `resources` name; what they do not name stays. Device rules, if there are any, replace those before.
    ///
    /// Errors: as for a new container; with `checkBeforeUpdate`, a limit of memory below what is in use.
    pub fn update(&self, resources: &Resources) -> Result<(), Error> {
        let resources = &self.completed(resources);
        self.check_memory(resources)?;
        if let Some(unit) = &self.unit {
            unit.set(&properties(resources)?)?;
        }
        for controller in LIMITED {
            let (version, path) = self.place(controller);
            let writes = lines(resources, controller, version)?;
            match path {
                Some(path) => write_all(&path, &writes)?,
                None if writes.iter().any(|write| write.required) => {
                    let name = controller.name();
                    return Err(Error::Option(format!(
                        "cannot limit {name}: the container is in no cgroup of controller {name}"
                    )));
                }
                None => {}
            }
        }
        self.update_unified(&unified(resources)?)?;
        self.update_devices(resources)
    }

    /// Where `controller` keeps its files for this container.
    fn place(&self, controller: Controller) -> (Version, Option<PathBuf>) {
        match (self.legacy_path(controller), &self.unified) {
            (Some(path), _) => (Version::One, Some(path.to_path_buf())),
            (None, Some(unified)) => {
                let text = fs::read_to_string(unified.path.join("cgroup.controllers")).unwrap_or_default();
                let is_on = text.split_whitespace().any(|name| controller.unified_name() == Some(name));
                (Version::Two, is_on.then(|| unified.path.clone()))
            }
            (None, None) => (Version::One, None),
        }
    }

    fn update_unified(&self, writes: &[Write]) -> Result<(), Error> {
        match &self.unified {
            Some(unified) => write_all(&unified.path, writes),
            None if writes.is_empty() => Ok(()),
            None => {
                Err(Error::Option("unified resources need cgroup v2, which the container is not in".into()))
            }
        }
    }

    fn update_devices(&self, resources: &Resources) -> Result<(), Error> {
        if resources.devices.is_empty() {
            return Ok(());
        }
        let fd = self.unified_fd().ok_or_else(|| {
            Error::Option("devices can be changed only with cgroup v2, which the container is not in".into())
        })?;
        let rules = rules(&resources.devices)?;
        device_filter::replace(fd, Some(&rules)).context(|| "replace the device filter".into())?;
        // Version 1 may have had all of it to say, and must not be stricter than the filter now.
        match self.legacy_path(Controller::Devices) {
            Some(path) => write_legacy(path, &legacy_lines(&rules).unwrap_or(vec![(true, "a".to_owned())])),
            None => Ok(()),
        }
    }

    /// `resources` with what a line needs beside what is to change: in v2, quota and period are one line, and swap is what
    /// memory is taken off.
    fn completed(&self, resources: &Resources) -> Resources {
        let mut resources = resources.clone();
        if let Some(memory) = &mut resources.memory
            && let (Version::Two, Some(path)) = self.place(Controller::Memory)
            && memory.limit.is_none()
            && wanted(memory.swap).is_some()
        {
            memory.limit = now(&path, "memory.max", 0);
        }
        if let Some(cpu) = &mut resources.cpu
            && let (Version::Two, Some(path)) = self.place(Controller::Cpu)
            && cpu.quota.is_none()
            && wanted(cpu.period).is_some()
        {
            cpu.quota = now(&path, "cpu.max", 0);
        }
        resources
    }

    fn check_memory(&self, resources: &Resources) -> Result<(), Error> {
        let Some(Memory { check_before_update: Some(true), limit: Some(limit), .. }) = resources.memory
        else {
            return Ok(());
        };
        let (version, Some(path)) = self.place(Controller::Memory) else { return Ok(()) };
        let file = if version == Version::One { "memory.usage_in_bytes" } else { "memory.current" };
        match now(&path, file, 0) {
            Some(usage) if limit > 0 && limit < usage => {
                Err(Error::Option(format!("a memory limit of {limit} is below the {usage} bytes in use")))
            }
            _ => Ok(()),
        }
    }
}

/// The number at `position` of the words in a file, −1 for `max`.
fn now(directory: &Path, file: &str, position: usize) -> Option<i64> {
    let text = fs::read_to_string(directory.join(file)).ok()?;
    match text.split_whitespace().nth(position)? {
        "max" => Some(-1),
        word => word.parse().ok(),
    }
}
